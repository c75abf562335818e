import json

import numpy as np
import pytest

from tinygan.detections import Detections
from tinygan.errors import DataError
from tinygan.formats.coco import (
    format_results,
    load_annotations,
    load_results,
    parse_annotations,
    parse_results,
    save_results,
)
from tinygan.formats.coco_json import parse_names


def entry(**changes):
    return {"image_id": "e/a.jpg", "category_id": 1, "bbox": [1, 2, 3, 4.5], "score": 0.5, **changes}


def dump(*entries):
    return json.dumps(entries, indent=1)


def test_results_with_names_as_ids():
    found = parse_results(dump(entry(), entry(image_id="b", score=1), entry(bbox=[0, 0, 0, 0])), "r.json")
    assert list(found) == ["e/a.jpg", "b"]
    assert found["e/a.jpg"].boxes.tolist() == [[1, 2, 4, 6.5], [0, 0, 0, 0]]
    assert found["e/a.jpg"].scores.tolist() == [0.5, 0.5]
    assert len(parse_results("[]", "r.json")) == 0


def test_results_with_numbers_as_ids():
    text = dump(entry(image_id=7), entry(image_id=9, score=0.25), entry(image_id="7"))
    assert list(parse_results(text, "r.json", {7: "e/g.jpg", 9: "e/i.jpg"})) == ["e/g.jpg", "e/i.jpg"]
    with pytest.raises(DataError, match=r"r\.json:2: got image_id 7, which is no name; give the names with --names"):
        parse_results(text, "r.json")
    with pytest.raises(DataError, match=r"r\.json:13: got image_id 9, which the names lack"):
        parse_results(text, "r.json", {7: "e/g.jpg"})


@pytest.mark.parametrize(
    "changes",
    [
        {"bbox": [1, 2, 3]}, {"bbox": [1, 2, 3, "four"]}, {"bbox": None}, {"bbox": 5}, {"bbox": [[1, 2, 3, 4]]},
        {"bbox": [1, 2, float("nan"), 4]}, {"bbox": [1e308, 0, 1e308, 0]}, {"bbox": [10**400, 0, 1, 1]},
        {"score": "high"}, {"score": None}, {"score": float("inf")}, {"score": [1]}, {"score": True},
        {"category_id": [1]}, {"category_id": 2}, {"image_id": None}, {"image_id": True}, {"image_id": ""},
    ],
)  # fmt: skip
def test_a_bad_entry_names_its_line(changes):
    text = "[\n" + ",\n".join(json.dumps(e) for e in (entry(), entry(), entry(**changes), entry())) + "\n]"
    with pytest.raises(DataError, match=r"^r\.json:4: "):
        parse_results(text, "r.json")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "r.json:1: expected JSON"),
        ('[\n{"image_id"', "r.json:2: expected JSON"),
        ("{}", "r.json:1: expected COCO results, a list"),
        ("[1]", "r.json:1: entry 1: expected"),
        ("[" * 100_000, "r.json:1: expected JSON"),
        ('[{"image_id": 1' + "0" * 5000 + "}]", "r.json:1: expected JSON"),
        (json.dumps([{"bbox": [1, 2, 3, 4], "score": 1}]), "r.json:1: entry 1: expected"),
    ],
)
def test_what_is_no_list_of_results(text, message):
    with pytest.raises(DataError) as caught:
        parse_results(text, "r.json")
    assert str(caught.value).startswith(message)


def test_written_results_are_json_by_falling_score():
    boxes = np.array([[0.1, 0.2, 0.3, 0.4], [1, 2, 3, 4]])
    found = {'a "b"/é': Detections(boxes, np.array([0.1, 2 / 3])), "none": Detections.empty()}
    content = json.loads(format_results(found))
    assert content == [
        {"image_id": 'a "b"/é', "category_id": 1, "bbox": [1, 2, 2, 2], "score": 2 / 3},
        {"image_id": 'a "b"/é', "category_id": 1, "bbox": [0.1, 0.2, 0.3 - 0.1, 0.2], "score": 0.1},
    ]
    assert json.loads(format_results({})) == []


def test_ids_come_from_and_go_to_the_names_file(tmp_path):
    names = tmp_path / "names.json"
    names.write_text(
        json.dumps({"images": [{"id": 3, "file_name": "val/e/a.jpg"}, {"id": 4, "file_name": "val/e/b.jpg"}]})
    )
    found = {"e/a": Detections(np.array([[1.0, 2, 3, 4]]), np.array([0.5]))}
    save_results(tmp_path / "r.json", found, names)
    assert json.loads((tmp_path / "r.json").read_text())[0]["image_id"] == 3
    assert list(load_results(tmp_path / "r.json", names)) == ["val/e/a.jpg"]
    with pytest.raises(DataError, match=r"names\.json: 'images' lacks 1 of 1 images, such as 'e/c'"):
        save_results(tmp_path / "s.json", {"e/c": found["e/a"]}, names)
    huge = Detections(np.array([[-1.7e308, 0, 1.7e308, 0]]), np.array([1.0]))
    with pytest.raises(DataError, match=r"s\.json: a box of image 'a' is too large"):
        save_results(tmp_path / "s.json", {"a": huge})
    assert not (tmp_path / "s.json").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"annotations": []}, "n.json: expected JSON with the list 'images'"),
        ({"images": [{"id": 1}]}, r"n.json: images\[0\]: expected \{'id', 'file_name'\}"),
        ({"images": [{"id": 1, "file_name": "a"}, {"id": 1, "file_name": "b"}]}, "id 1 is listed a second time"),
        ({"images": [{"id": 1, "file_name": "a"}, {"id": 2, "file_name": "a"}]}, "file_name 'a' stands at two ids"),
    ],
)
def test_bad_names(content, message):
    with pytest.raises(DataError, match=message):
        parse_names(json.dumps(content), "n.json")
    assert parse_names(json.dumps([{"id": "x", "file_name": "a"}]), "n.json") == {"x": "a"}


def annotated(*annotations, **more):
    images = [{"id": 1, "file_name": "a.jpg"}, {"id": 2, "file_name": "b.jpg"}]
    return json.dumps({"images": images, "annotations": annotations, **more})


def test_annotations(tmp_path):
    rows = ({"image_id": 2, "bbox": [1, 2, 3, 4], "iscrowd": 0}, {"image_id": 2, "bbox": [5, 6, 1, 1], "iscrowd": 1})
    (tmp_path / "a.json").write_text(annotated(*rows, {"image_id": 2, "bbox": [0, 0, 1, 1], "ignore": 1}))
    faces = load_annotations(tmp_path / "a.json")
    assert list(faces) == ["a.jpg", "b.jpg"] and len(faces["a.jpg"]) == 0
    assert faces["b.jpg"].boxes.tolist() == [[1, 2, 4, 6], [5, 6, 6, 7], [0, 0, 1, 1]]
    assert faces["b.jpg"].invalid.tolist() == [False, True, True]


def test_annotations_of_several_categories_are_the_faces():
    rows = [{"image_id": 1, "bbox": [c, 0, 1, 1], "category_id": c} for c in (5, 6)]
    categories = [{"id": 5, "name": "Face"}, {"id": 6, "name": "car"}]
    faces = parse_annotations(annotated(*rows, categories=categories), "a.json")
    assert faces["a.jpg"].boxes.tolist() == [[5, 0, 6, 1]]
    categories[0]["name"] = "bus"
    with pytest.raises(DataError, match="expected faces alone, got categories bus, car"):
        parse_annotations(annotated(*rows, categories=categories), "a.json")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (annotated({"image_id": 1, "bbox": [1, 2, 3]}), r"a.json: annotations\[0\]: expected"),
        (annotated({"image_id": 3, "bbox": [1, 2, 3, 4]}), "a.json: got image_id 3, which the names lack"),
        (annotated({"image_id": "c", "bbox": [1, 2, 3, 4]}), "a.json: 'images' lacks the image_id 'c'"),
        (json.dumps([{"id": 1, "file_name": "a"}]), "expected COCO annotations, an object"),
        ('{"images": [\n}', "a.json:2: expected JSON"),
    ],
)
def test_bad_annotations(text, message):
    with pytest.raises(DataError, match=message):
        parse_annotations(text, "a.json")
