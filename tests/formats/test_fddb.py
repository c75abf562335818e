from __future__ import annotations

import math
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tinygan.detections import Detections
from tinygan.errors import DataError
from tinygan.formats.fddb import (
    ELLIPSE,
    NO_FOLD,
    FddbTruth,
    bounding_boxes,
    fold_of,
    format_ellipses,
    format_fddb,
    format_roc,
    load_fddb,
    load_folds,
    parse_ellipses,
    parse_fddb,
    parse_roc,
)

TRUTH = "2002/a/img_1\n2\n30 20 1.5 100 80  1\n3.5 2 -0.5 10 8 1\n2002/a/img_2\n1\n9 7 0 50 60 1\n"
RECTANGLES = "2002/a/img_1\n2\n1 2 3 4 0.5\n-1.5 0 10 20 1e-3\n2002/a/img_2\n0\n"


def test_ellipses_of_every_image() -> None:
    found = parse_ellipses(TRUTH.splitlines(), "x")
    assert list(found) == ["2002/a/img_1", "2002/a/img_2"]
    assert found["2002/a/img_1"].tolist() == [[30, 20, 1.5, 100, 80], [3.5, 2, -0.5, 10, 8]]
    assert found["2002/a/img_2"].tolist() == [[9, 7, 0, 50, 60]]


def test_rectangles_become_corners() -> None:
    found = parse_fddb(RECTANGLES.splitlines(), "x")
    assert found["2002/a/img_1"].boxes.tolist() == [[1, 2, 4, 6], [-1.5, 0, 8.5, 20]]
    assert found["2002/a/img_1"].scores.tolist() == [0.5, 0.001] and ELLIPSE not in found["2002/a/img_1"].fields
    assert found["2002/a/img_2"].boxes.shape == (0, 4)


def test_six_columns_are_ellipses_with_their_bounding_rectangle() -> None:
    found = parse_fddb(["a", "2", "30 20 0 100 80 0.9", f"30 20 {math.pi / 2} 100 80 -2"], "x")["a"]
    assert found.fields[ELLIPSE][0].tolist() == [30, 20, 0, 100, 80] and found.scores.tolist() == [0.9, -2]
    assert found.boxes == pytest.approx(np.array([[70, 60, 130, 100], [80, 50, 120, 110]]))


def test_bounding_rectangle_of_a_slanted_ellipse() -> None:
    upright = np.array([[60, 40, math.pi / 2, 100, 120]])
    assert bounding_boxes(upright) == pytest.approx(np.array([[60, 60, 140, 180]]))
    # At 45 degrees both half sides are sqrt((a^2 + b^2) / 2) = sqrt((49 + 1) / 2) = 5.
    assert bounding_boxes(np.array([[7, 1, math.pi / 4, 10, 20]])) == pytest.approx(np.array([[5, 15, 15, 25]]))
    assert bounding_boxes(np.zeros((0, 5))).shape == (0, 4)


@pytest.mark.parametrize("text", ["a\r\n1\r\n1 2 3 4 0.5 \r\n", "\n\na\n1\n1 2 3 4 0.5", "a\n1\n 1  2 3\t4 0.5\n\n\n"])
def test_variants_that_tools_write(text: str) -> None:
    assert parse_fddb(text.split("\n"), "x")["a"].boxes.tolist() == [[1, 2, 4, 6]]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a", "d.txt:2: expected the number of rows of 'a', got 'end of file'"),
        ("a\nb\n", "d.txt:2: expected the number of rows of 'a', got 'b'"),
        ("a\n-1\n", "d.txt:2: expected the number of rows of 'a', got '-1'"),
        ("a\n2\n1 2 3 4 5", "d.txt:2: the count says 2 rows, but the file ends after 1"),
        ("a\n0\n\na\n0\n", "d.txt:4: image 'a' is listed a second time"),
        ("a\n1\n1 2 3 4\n", "d.txt:3: expected 'x y w h score', five finite numbers or 'major minor"),
        ("a\n2\n1 2 3 4 5\n1 2 x 4 5\n", "d.txt:4: expected 'x y w h score', five finite numbers; got '1 2 x 4 5'"),
        ("a\n2\n1 2 3 4 5\n1 2 3 4 5 6\n", "d.txt:4: expected 'x y w h score', five finite numbers"),
        ("a\n1\n1 2 3 4 5 nan\n", "d.txt:3: expected 'major minor theta cx cy score', six finite"),
        ("a\n1\n1e308 2 1e308 4 5\n", "d.txt:3: expected 'x y w h score'"),
        ("a\n2\n1 1 0 4 5 6\n1 -1 0 4 5 6\n", "d.txt:4: expected an ellipse with radii of 0 to 100,000 px"),
        ("a\n1\n1e6 1 0 4 5 6\n", "d.txt:3: expected an ellipse with radii of 0 to 100,000 px; got '1e6 1 0 4 5 6'"),
        ("a\n2\n1 2 3 4 5\nb\n0\n", "d.txt:4: expected 'x y w h score'"),
    ],
)
def test_bad_detections_name_the_line(text: str, message: str) -> None:
    with pytest.raises(DataError, match=re.escape(message)):
        parse_fddb(text.split("\n"), "d.txt")


def test_bad_ground_truth_names_the_line() -> None:
    with pytest.raises(DataError, match=re.escape("t.txt:3: expected 'major minor theta cx cy 1', six finite numbers")):
        parse_ellipses(["a", "1", "1 2 3 4 5"], "t.txt")


@given(st.text(alphabet="ab12 .\n-e", max_size=60))
def test_any_text_parses_or_names_the_line(text: str) -> None:
    for parse in (parse_ellipses, parse_fddb, parse_roc):
        try:
            parse(text.split("\n"), "fuzzed.txt")
        except DataError as error:
            assert re.match(r"fuzzed\.txt:\d+: ", str(error))


FINITE = st.floats(-1e4, 1e4)
SIDE = st.floats(0, 1e4)


@settings(max_examples=50)
@given(st.lists(st.tuples(FINITE, FINITE, SIDE, SIDE, st.floats(-5, 5)), max_size=6))
def test_rectangles_round_trip(rows: list[tuple[float, ...]]) -> None:
    values = np.array(rows, dtype=float).reshape(-1, 5)
    boxes = np.concatenate([values[:, :2], values[:, :2] + values[:, 2:4]], axis=1)
    written = {"a/b": Detections(boxes, values[:, 4]).sorted(), "none": Detections.empty()}
    back = parse_fddb(format_fddb(written).split("\n"), "x")
    assert list(back) == ["a/b", "none"] and len(back["none"]) == 0
    assert np.array_equal(back["a/b"].scores, written["a/b"].scores)
    assert np.abs(back["a/b"].boxes - written["a/b"].boxes).max(initial=0) < 1e-6


@settings(max_examples=50)
@given(st.lists(st.tuples(SIDE, SIDE, st.floats(-4, 4), FINITE, FINITE), max_size=6))
def test_ellipses_round_trip(rows: list[tuple[float, ...]]) -> None:
    ellipses = np.array(rows, dtype=float).reshape(-1, 5)
    back = parse_ellipses(format_ellipses({"a": ellipses}).split("\n"), "x")
    assert np.array_equal(back["a"], ellipses)
    found = Detections(bounding_boxes(ellipses), np.arange(len(rows))[::-1], {ELLIPSE: ellipses})
    detections = parse_fddb(format_fddb({"a": found}).split("\n"), "x")["a"]
    assert np.array_equal(detections.fields.get(ELLIPSE, np.zeros((0, 5))), ellipses)


def test_written_text_is_by_falling_score() -> None:
    found = Detections(np.array([[0.0, 0, 1, 2], [5.5, 5, 8, 9]]), np.array([0.25, 0.5]))
    assert format_fddb({"a": found}) == "a\n2\n5.5 5 2.5 4 0.5\n0 0 1 2 0.25\n"
    assert format_fddb({}) == "" == format_ellipses({})


def test_folds_from_a_folder(tmp_path: Path) -> None:
    for fold, name in ((1, "a"), (10, "b")):
        (tmp_path / f"FDDB-fold-{fold:02}-ellipseList.txt").write_text(TRUTH.replace("/a/", f"/{name}/"))
        (tmp_path / f"FDDB-fold-{fold:02}.txt").write_text(f"2002/{name}/img_1\n2002/{name}/img_2\n")
    truth = load_folds(tmp_path)
    assert truth.folds == {"2002/a/img_1": 1, "2002/a/img_2": 1, "2002/b/img_1": 10, "2002/b/img_2": 10}
    assert truth.names == list(truth.folds) and len(truth.ellipses["2002/b/img_1"]) == 2
    one = load_folds(tmp_path / "FDDB-fold-10-ellipseList.txt")
    assert set(one.folds.values()) == {10} and len(one.names) == 2


def test_faces_as_boxes_keep_their_ellipses() -> None:
    truth = FddbTruth({"a": np.array([[30.0, 20, 0, 100, 80]])}, {"a": 1})
    faces = truth.faces["a"]
    assert faces.boxes.tolist() == [[70, 60, 130, 100]] and faces.invalid.tolist() == [False]
    assert faces.fields[ELLIPSE].tolist() == [[30, 20, 0, 100, 80]]


def test_truth_checks_itself() -> None:
    with pytest.raises(ValueError, match="same images"):
        FddbTruth({"a": np.zeros((0, 5))}, {})
    with pytest.raises(ValueError, match=r"shape \[M, 5\], got \[1, 6\]"):
        FddbTruth({"a": np.zeros((1, 6))}, {"a": 1})


def test_folders_without_the_files_say_so(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="expected FDDB's FDDB-fold-XX-ellipseList.txt in this folder, found none"):
        load_folds(tmp_path)
    with pytest.raises(DataError, match=r"found no \.txt"):
        load_fddb(tmp_path)
    with pytest.raises(DataError, match=r"none\.txt: expected FDDB's ground truth"):
        load_folds(tmp_path / "none.txt")
    with pytest.raises(DataError, match=r"none\.txt: expected detections in FDDB's format"):
        load_fddb(tmp_path / "none.txt")


def test_one_image_in_two_files_is_refused(tmp_path: Path) -> None:
    for name in ("fold-01.txt", "fold-02.txt"):
        (tmp_path / name).write_text("a\n0\n")
        (tmp_path / f"{name[:-4]}-ellipseList.txt").write_text("a\n0\n")
    with pytest.raises(DataError, match="image 'a' is listed in another file too"):
        load_folds(tmp_path)
    with pytest.raises(DataError, match="image 'a' is listed in another file too"):
        load_fddb(tmp_path)


def test_detections_from_files_and_folders(tmp_path: Path) -> None:
    (tmp_path / "fold-01-out.txt").write_text(RECTANGLES)
    (tmp_path / "fold-02-out.txt").write_text("b\n1\n1 2 3 4 0.5\n")
    (tmp_path / "MyDiscROC.txt").write_text("0.5 3 0.9\n")
    (tmp_path / "notes.txt").write_text("these are no detections\n")
    assert list(load_fddb(tmp_path)) == ["2002/a/img_1", "2002/a/img_2", "b"]
    assert list(load_fddb(tmp_path / "fold-02-out.txt")) == ["b"]
    plain = tmp_path / "plain"
    plain.mkdir()
    (plain / "results.txt").write_text(RECTANGLES)
    assert list(load_fddb(plain)) == ["2002/a/img_1", "2002/a/img_2"]


@pytest.mark.parametrize(
    ("name", "fold"),
    [("FDDB-fold-07-ellipseList.txt", 7), ("fold-10-out.txt", 10), ("Fold3.txt", 3), ("ellipseList.txt", NO_FOLD)],
)
def test_fold_of_a_file(name: str, fold: int) -> None:
    assert fold_of(name) == fold


def test_roc_files_read_and_write() -> None:
    discrete = parse_roc(["0.896345 249 0.505806", "0 0 1.79769e+308", ""], "x")
    assert discrete.tpr.tolist() == [0.896345, 0] and discrete.false_positives.tolist() == [249, 0]
    assert discrete.thresholds.tolist() == [0.505806, 1.79769e308]
    assert np.isnan(parse_roc(["0.6 249", "0 0"], "x").thresholds).all()
    for lines in (["0.896345 249 0.505806", "0.5 3 0.7"], ["0.6 249", "0 0"]):
        assert format_roc(parse_roc(lines, "x")) == "\n".join(lines) + "\n"
    for text, line in (("", 1), ("0.5", 1), ("0.5 1\n0.5 x", 2), ("0.5 1 2 3", 1), ("0.5 inf", 1)):
        with pytest.raises(DataError, match=rf"r\.txt:{line}: expected"):
            parse_roc(text.split("\n"), "r.txt")


def test_the_real_folds(shared_data: Path) -> None:
    truth = load_folds(shared_data / "fddb" / "FDDB-folds")
    assert len(truth.names) == 2845 and sum(map(len, truth.ellipses.values())) == 5171
    assert sorted(set(truth.folds.values())) == list(range(1, 11))
    found = load_fddb(shared_data / "fddb" / "mtcnn")
    assert sum(map(len, found.values())) == 4884 and list(found) == truth.names
