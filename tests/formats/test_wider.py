import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinygan.detections import Detections, GroundTruth
from tinygan.errors import DataError
from tinygan.formats.wider import (
    format_detections,
    format_ground_truth,
    load_split,
    load_subset,
    parse_detections,
    parse_ground_truth,
)

ROW = "10 20 30 40 2 1 0 1 2 1"


def test_detections_become_corners():
    found = parse_detections("a b\n2\n1 2 3 4 0.5\n-1.5 0 10 20 1e-3\n", "x")
    assert found.boxes.tolist() == [[1, 2, 4, 6], [-1.5, 0, 8.5, 20]] and found.scores.tolist() == [0.5, 0.001]


@pytest.mark.parametrize("text", ["a\n0\n", "a\n0", "a\r\n1\r\n1 2 3 4 0.5\r\n", "a\n1\n1 2 3 4 0.5\n\n\n"])
def test_variants_that_tools_write(text):
    assert len(parse_detections(text, "x")) == text.count("0.5")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "p.txt:2: expected the number of boxes after the image name, got 'end of file'"),
        ("a\nmany\n1 2 3 4 5\n", "p.txt:2: expected the number of boxes after the image name, got 'many'"),
        ("a\n2\n1 2 3 4 0.5\n", "p.txt:2: the count says 2 boxes, but 1 lines follow"),
        ("a\n1\n1 2 3 4\n", "p.txt:3: expected 'x y w h score', five finite numbers; got '1 2 3 4'"),
        ("a\n2\n1 2 3 4 5\n1 2 x 4 5\n", "p.txt:4: expected 'x y w h score'"),
        ("a\n1\n1 2 3 4 nan\n", "p.txt:3: expected 'x y w h score'"),
        ("a\n2\n1 2 3 4\n5 6 7 8 9 10\n", "p.txt:3: expected"),
        ("a\n2\n1 2 3 4 5 6 7 8 9 10\n", "p.txt:3: expected"),
    ],
)
def test_bad_detections_name_the_line(text, message):
    with pytest.raises(DataError, match=message.replace("(", r"\(")):
        parse_detections(text, "p.txt")


FINITE = st.floats(-1e4, 1e4)


@given(st.lists(st.tuples(FINITE, FINITE, st.floats(0, 1e4), st.floats(0, 1e4), st.floats(0, 1)), max_size=8))
def test_detections_round_trip(rows):
    values = np.array(rows, dtype=float).reshape(-1, 5)
    boxes = np.concatenate([values[:, :2], values[:, :2] + values[:, 2:4]], axis=1)
    written = Detections(boxes, values[:, 4]).sorted()
    back = parse_detections(format_detections("event/image", written), "x")
    assert np.array_equal(back.scores, written.scores)
    assert np.abs(back.boxes - written.boxes).max(initial=0) < 1e-6


@given(st.text(max_size=80))
def test_any_text_parses_or_names_the_file(text):
    for parse in (parse_detections, parse_ground_truth):
        try:
            parse(text, "fuzzed.txt")
        except DataError as error:
            assert str(error).startswith("fuzzed.txt:")


def test_ground_truth_rows_and_attributes():
    faces = parse_ground_truth(f"e/a.jpg\n2\n{ROW} \n1 1 0 5 0 0 0 0 0 0 \ne/b.jpg\n1\n1 2 3 4 0 0 0 0 0 0\n", "x")
    assert list(faces) == ["e/a.jpg", "e/b.jpg"]
    assert faces["e/a.jpg"].boxes.tolist() == [[10, 20, 40, 60], [1, 1, 1, 6]]
    assert faces["e/a.jpg"].invalid.tolist() == [True, False]
    assert {name: column[0] for name, column in faces["e/a.jpg"].fields.items()} == {
        "blur": 2, "expression": 1, "illumination": 0, "occlusion": 2, "pose": 1,
    }  # fmt: skip


@pytest.mark.parametrize("count", ["0", "1"])
def test_image_without_faces_has_an_all_zero_row(count):
    faces = parse_ground_truth(f"e/a.jpg\n{count}\n{'0 ' * 10}\ne/b.jpg\n1\n{ROW}\n", "x")
    assert len(faces["e/a.jpg"]) == 0 and len(faces["e/b.jpg"]) == 1
    assert len(parse_ground_truth(f"e/a.jpg\n0\ne/b.jpg\n1\n{ROW}\n", "x")["e/a.jpg"]) == 0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("e/a.jpg\n", "gt.txt:2: expected the number of faces of 'e/a.jpg', got 'end of file'"),
        ("e/a.jpg\nsome\n", "gt.txt:2: expected the number of faces"),
        (f"e/a.jpg\n2\n{ROW}\n", "gt.txt:2: the count says 2 faces, but the file ends after 1"),
        (f"e/a.jpg\n2\n{ROW}\n1 2 3\n", "gt.txt:4: expected 'x y w h blur"),
        (f"e/a.jpg\n1\n{ROW}\ne/a.jpg\n1\n{ROW}\n", "gt.txt:4: image 'e/a.jpg' is listed a second time"),
    ],
)
def test_bad_ground_truth_names_the_line(text, message):
    with pytest.raises(DataError, match=message):
        parse_ground_truth(text, "gt.txt")


def test_ground_truth_round_trip():
    faces = {
        "e/a b.jpg": GroundTruth([[1, 2, 3.5, 5]], [True], {"blur": np.array([2])}),
        "e/c.jpg": GroundTruth.empty(),
    }
    back = parse_ground_truth(format_ground_truth(faces), "x")
    assert list(back) == list(faces) and back["e/a b.jpg"].boxes.tolist() == [[1, 2, 3.5, 5]]
    assert back["e/a b.jpg"].invalid.tolist() == [True] and back["e/a b.jpg"].fields["blur"].tolist() == [2]
    assert len(back["e/c.jpg"]) == 0


def test_subset_from_names_or_ground_truth(tmp_path):
    names, truth = tmp_path / "names.txt", tmp_path / "x_bbx_gt.txt"
    names.write_text("e/a.jpg\n\ne/b.jpg\n")
    truth.write_text(f"e/a.jpg\n1\n{ROW}\n")
    assert load_subset(names) == ["e/a.jpg", "e/b.jpg"] and load_subset(truth) == ["e/a.jpg"]
    names.write_text("\n")
    with pytest.raises(DataError, match="the file is empty"):
        load_subset(names)


def test_root_without_the_layout(tmp_path):
    with pytest.raises(DataError, match=r"--data is a WIDER FACE root with WIDER_train/images/ in it"):
        load_split(tmp_path, "train")
    (tmp_path / "WIDER_train/images").mkdir(parents=True)
    with pytest.raises(DataError, match=r"wider_face_train_bbx_gt\.txt: expected a WIDER ground truth"):
        load_split(tmp_path, "train")


def test_real_counts(shared_data):
    train, val = (load_split(shared_data / "widerface", split).faces for split in ("train", "val"))
    assert (len(train), sum(map(len, train.values()))) == (1627, 25616)
    assert (len(val), sum(map(len, val.values()))) == (259, 2406)


def test_a_box_beyond_all_numbers_names_its_line():
    with pytest.raises(DataError, match=r"gt\.txt:3: x \+ w or y \+ h is too large"):
        parse_ground_truth("a.jpg\n1\n1e308 0 1e308 5 0 0 0 0 0 0\n", "gt.txt")
