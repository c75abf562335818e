"""Annotations as annotation tools export them: categories, numbers as strings, no boxes, stale names."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tinygan.cli.evaluate import main as evaluate
from tinygan.detections import Detections
from tinygan.errors import DataError
from tinygan.formats.truths import load_faces
from tinygan.formats.writing import write_wider


def coco_of(tmp_path: Path, annotations: list[object], categories: list[object]) -> Path:
    images = [{"id": 0, "file_name": "a.jpg"}, {"id": 1, "file_name": "b.jpg"}]
    path = tmp_path / "_annotations.coco.json"
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
    return path


def test_roboflow_names_the_project_as_a_category_above(tmp_path):
    categories = [
        {"id": 0, "name": "face", "supercategory": "none"},
        {"id": 1, "name": "face", "supercategory": "face"},
    ]
    rows = [{"id": 0, "image_id": 0, "category_id": 1, "bbox": [1, 2, 3, 4], "area": 12, "segmentation": []}]
    faces = load_faces(coco_of(tmp_path, rows, categories))
    assert faces["a.jpg"].boxes.tolist() == [[1, 2, 4, 6]] and len(faces["b.jpg"]) == 0
    categories = [{"id": 0, "name": "heads", "supercategory": "none"},
                  {"id": 1, "name": "head", "supercategory": "heads"}]  # fmt: skip
    assert len(load_faces(coco_of(tmp_path, rows, categories))["a.jpg"]) == 1


def test_numbers_as_strings_and_annotations_without_a_box(tmp_path, caplog):
    rows: list[object] = [
        {"image_id": "1", "category_id": "1", "bbox": ["1", "2", "3.5", "4"], "iscrowd": "0"},
        {"image_id": 1, "category_id": 1, "segmentation": [[1, 1, 2, 2, 3, 3]]},
        {"image_id": 1, "category_id": 1, "bbox": []},
        {"image_id": 1, "category_id": 1, "bbox": None},
    ]
    faces = load_faces(coco_of(tmp_path, rows, [{"id": 1, "name": "face"}, {"id": 2, "name": "car"}]))
    assert faces["b.jpg"].boxes.tolist() == [[1, 2, 4.5, 6]] and not faces["b.jpg"].invalid.any()
    assert "3 annotations without a box are left out" in caplog.text


def test_categories_of_annotations_are_chosen_by_name(tmp_path):
    categories = [{"id": 1, "name": "with_mask"}, {"id": 2, "name": "without_mask"}, {"id": 3, "name": "hat"}]
    rows: list[object] = [{"image_id": 0, "category_id": c, "bbox": [c, 0, 1, 1]} for c in (1, 2, 3)]
    path = coco_of(tmp_path, rows, list(categories))
    with pytest.raises(DataError, match="got categories hat, with_mask, without_mask; name those of faces with"):
        load_faces(path)
    assert load_faces(path, categories=["with_mask"])["a.jpg"].boxes[:, 0].tolist() == [1]
    assert load_faces(path, categories=["With_Mask", "without_mask"])["a.jpg"].boxes[:, 0].tolist() == [1, 2]
    with pytest.raises(DataError, match="no category face among hat, with_mask, without_mask"):
        load_faces(path, categories=["face"])


VOC = "<annotation><folder>x</folder><filename>{}</filename><size><width>9</width></size>{}</annotation>"
OBJECT = "<object><name>{}</name><bndbox><xmin>{}</xmin><ymin>{}</ymin><xmax>{}</xmax><ymax>{}</ymax></bndbox></object>"


def test_voc_of_other_classes_swapped_corners_and_stale_names(tmp_path):
    (tmp_path / "p1.xml").write_text(VOC.format("IMG_0001.jpg", OBJECT.format("Human face", 11, 40, 21, 30)))
    (tmp_path / "p2.xml").write_text(VOC.format("IMG_0001.jpg", OBJECT.format("Tree", 1, 1, 2, 2)))
    (tmp_path / "p3.xml").write_text(VOC.format("D:\\in\\p3.png", ""))
    with pytest.raises(DataError, match="expected objects of class face, got only Human face, Tree; name those of"):
        load_faces(tmp_path)
    faces = load_faces(tmp_path, categories=["human face"])
    assert {name: one.boxes.tolist() for name, one in faces.items()} == {
        "p1": [[10, 29, 21, 40]], "p2": [], "p3.png": [],
    }  # fmt: skip


def test_category_of_the_command_line(tmp_path, capsys):
    found = {
        name: Detections(np.array([[10.0, 20, 40, 60], [1, 2, 9, 9]]), np.array([0.9, 0.8])) for name in ("a", "b")
    }
    write_wider(tmp_path / "official", found)
    (tmp_path / "xml").mkdir()
    for name, one in found.items():
        objects = "".join(OBJECT.format("head", *(box + np.array([1, 1, 0, 0]))) for box in one.boxes)
        (tmp_path / "xml" / f"{name}.xml").write_text(VOC.format("x.jpg", objects))
    for protocol in ("voc", "wider"):
        words = [protocol, "--detections", tmp_path / "official", "--ground-truth", tmp_path / "xml"]
        report = ["--json", tmp_path / "r.json"]
        assert evaluate([str(word) for word in [*words, "--category", "head", *report]]) == 0
        subset = json.loads((tmp_path / "r.json").read_text())["detections"]["subsets"]["all"]
        assert subset["faces"] == 4 and subset["ap" if protocol == "voc" else "ap_exact"] == pytest.approx(1)
        assert evaluate([str(word) for word in words]) == 2
        assert "got only head; name those of faces with --category" in capsys.readouterr().err


def test_yolo_annotations_of_several_classes(tmp_path):
    images = tmp_path / "images"
    images.mkdir()
    for name in ("a.png", "nobody.png"):
        Image.new("RGB", (320, 240)).save(images / name)
    (tmp_path / "a.txt").write_text("0 0.5 0.5 0.5 0.5\n2 0.5 0.5 0.25 0.5\n")
    with pytest.raises(DataError, match="got categories 0, 2; name those of faces with --category"):
        load_faces(tmp_path, images)
    assert load_faces(tmp_path, images, ["2"])["a.png"].boxes.tolist() == [[120, 60, 200, 180]]
    (tmp_path / "classes.txt").write_text("person\nhat\nface\n")
    assert load_faces(tmp_path, images)["a.png"].boxes.tolist() == [[120, 60, 200, 180]]
    assert len(load_faces(tmp_path, images)["nobody.png"]) == 0
