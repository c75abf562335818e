import csv
import logging
import sys

import numpy as np
import pytest

from tinygan.detections import Detections
from tinygan.errors import DataError, MissingDependency
from tinygan.formats.tabular import format_csv, load_csv, load_parquet, parse_csv, save_csv, save_parquet

HEAD = "image,x1,y1,x2,y2,score\n"


def read(text: str):
    return parse_csv(text.splitlines(keepends=True), "d.csv")


def test_corners_grouped_by_image_in_file_order():
    found = read(HEAD + "b,1,2,3,4,0.5\na,0,0,1e1,-1,2\nb,5,6,7,8,0.75\n")
    assert list(found) == ["b", "a"]
    assert found["b"].boxes.tolist() == [[1, 2, 3, 4], [5, 6, 7, 8]] and found["b"].scores.tolist() == [0.5, 0.75]
    assert found["a"].boxes.tolist() == [[0, 0, 10, -1]] and dict(found["a"].fields) == {}


def test_sizes_any_order_and_further_columns(caplog):
    text = (
        'score, W,image,x,H,y,face_logit,label,\r\n0.5,3,"a, ""b"".jpg",1,4,2,-1.5,face,7\r\n0.6,3,c,1,4,2,,face,8\r\n'
    )
    with caplog.at_level(logging.WARNING):
        found = read(text)
    assert found['a, "b".jpg'].boxes.tolist() == [[1, 2, 4, 6]]
    assert found['a, "b".jpg'].fields["face_logit"].tolist() == [-1.5] and np.isnan(found["c"].fields["face_logit"][0])
    assert list(found["c"].fields) == ["face_logit"]
    assert "column 'label' is left out" in caplog.text


def test_blank_lines_byte_order_mark_and_empty_images(tmp_path):
    (tmp_path / "d.csv").write_bytes(b"\xef\xbb\xbf" + (HEAD + "\ne,,,,,\n\na,1,2,3,4,0.5\na,,,,,\n").encode())
    found = load_csv(tmp_path / "d.csv")
    assert {name: len(item) for name, item in found.items()} == {"a": 1, "e": 0}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "d.csv:1: expected a header 'image,x1,y1,x2,y2,score' or 'image,x,y,w,h,score'; got ''"),
        ("image,x1,y1,x2,y2\n", "d.csv:1: expected a header"),
        ("image|x1|y1|x2|y2|score\n", "d.csv:1: expected a header"),
        ("image,x1,y1,x2,y2,score,Score\n", "d.csv:1: column 'score' stands twice"),
        (HEAD + "a,1,2,3,4,0.5\n\nb,1,2,3,4\n", "d.csv:4: expected 6 cells as in the header, got 5"),
        (
            HEAD + "a,1,2,3,4,0.5\nb,1,2,x,4,5\n",
            "d.csv:3: expected finite numbers in x1,y1,x2,y2,score; got '1,2,x,4,5'",
        ),
        (HEAD + "a,1,2,3,4,nan\n", "d.csv:2: expected finite numbers"),
        (HEAD + "a,1,2,3,1e999,1\n", "d.csv:2: expected finite numbers"),
        (HEAD + "a,1,2,,4,1\n", "d.csv:2: expected finite numbers"),
        (HEAD + ",1,2,3,4,1\n", "d.csv:2: expected the name of an image, got ''"),
        (HEAD + ",,,,,\n", "d.csv:2: expected the name of an image, got ''"),
        (HEAD + '"a\nb",1,2,3,4,1\n"c\n",1,2,3,4,x\n', "d.csv:5: expected finite numbers"),
        (HEAD + '"a,1,2,3,4,1\n', "d.csv:2: expected a line of CSV: unexpected end of data"),
        ("image,x,y,w,h,score\na,1e308,0,1e308,1,1\n", "d.csv:2: expected finite numbers in x,y,w,h,score"),
    ],
)
def test_bad_tables_name_the_line(text, message):
    with pytest.raises(DataError) as caught:
        read(text)
    assert message in str(caught.value)


def test_a_bad_line_far_down_is_named(monkeypatch):
    monkeypatch.setattr("tinygan.formats.tabular._CHUNK", 10)
    with pytest.raises(DataError, match=r"d\.csv:38: expected finite numbers"):
        read(HEAD + "a,1,2,3,4,1\n" * 36 + "a,1,2,3,4,inf\n" + "a,1,2,3,4,1\n" * 9)
    assert len(read(HEAD + "a,1,2,3,4,1\n" * 37)["a"]) == 37


def test_bytes_that_are_no_text_name_the_line(tmp_path):
    (tmp_path / "d.csv").write_bytes(HEAD.encode() + b"a,1,2,3,4,1\nb\xff,1,2,3,4,1\n")
    with pytest.raises(DataError, match=r"d\.csv:3: expected UTF-8 text, got byte 0xff"):
        load_csv(tmp_path / "d.csv")
    with pytest.raises(DataError, match=r"none\.csv: expected a CSV table of detections: No such file"):
        load_csv(tmp_path / "none.csv")


def one(**fields) -> Detections:
    return Detections(np.array([[1.0, 2, 3.5, 4], [0.1, 0.2, 0.3, 0.4]]), np.array([0.1, 0.9]), fields)


def test_written_text_is_plain_csv_by_falling_score():
    text = format_csv({"e/a.jpg": one(face_logit=np.array([1, -2])), 'q"': one(), "none": Detections.empty()})
    assert list(csv.reader(text.splitlines())) == [
        ["image", "x1", "y1", "x2", "y2", "score", "face_logit"],
        ["e/a.jpg", "0.1", "0.2", "0.3", "0.4", "0.9", "-2"],
        ["e/a.jpg", "1", "2", "3.5", "4", "0.1", "1"],
        ['q"', "0.1", "0.2", "0.3", "0.4", "0.9", "nan"],
        ['q"', "1", "2", "3.5", "4", "0.1", "nan"],
        ["none", "", "", "", "", "", ""],
    ]


@pytest.fixture(params=["csv", "parquet"])
def table(request):
    if request.param == "parquet":
        pytest.importorskip("pyarrow")
    return (save_csv, load_csv) if request.param == "csv" else (save_parquet, load_parquet)


def test_round_trip_with_columns_of_every_shape(table, tmp_path):
    save, load = table
    landmarks = np.arange(20.0).reshape(2, 5, 2) / 7
    item = one(landmarks=landmarks, flag=np.array([True, False]), rank=np.array([3, 1]), gap=np.array([np.nan, 1e-300]))
    save(tmp_path / "d", {"a": item, "b": Detections.empty(), "c": one(rank=np.array([5, 6]))})
    found = load(tmp_path / "d")
    assert sorted(found) == ["a", "b", "c"] and len(found["b"]) == 0
    assert np.array_equal(found["a"].boxes, item.sorted().boxes)
    assert np.array_equal(found["a"].scores, item.sorted().scores)
    assert np.array_equal(found["a"].fields["landmarks"], landmarks[::-1])
    assert found["a"].fields["flag"].tolist() == [0, 1] and found["c"].fields["rank"].tolist() == [6, 5]
    assert found["a"].fields["gap"][0] == 1e-300 and np.isnan(found["a"].fields["gap"][1])


def test_columns_that_make_up_no_whole_field_stay(table, tmp_path):
    save, load = table
    columns = {"p[0]": np.ones(2), "p[2]": np.ones(2), "q[0]": np.ones(2), "q": np.ones(2), "r[0]": np.ones(2)}
    columns |= {"r[0][0]": np.ones(2)}
    save(tmp_path / "d", {"a": one(**columns)})
    assert sorted(load(tmp_path / "d")["a"].fields) == sorted(columns)


def test_what_no_table_can_hold(table, tmp_path):
    save, _ = table
    for bad, message in (
        ({"a": one(score=np.zeros(2))}, "field 'score' cannot be a column"),
        ({"a": one(label=np.array(["x", "y"]))}, "field 'label' of image 'a' cannot be written"),
        (
            {"a": one(p=np.zeros(2)), "b": one(p=np.zeros((2, 3)))},
            r"field 'p' of image 'a' .* expected numbers of shape \[N, 3\], got float64 \[2\]",
        ),
        ({"": one()}, "an image without a name"),
    ):
        with pytest.raises(DataError, match=message):
            save(tmp_path / "d", bad)
    assert not list(tmp_path.iterdir())


def test_a_name_that_is_not_utf8_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"d\.csv: cannot be written as UTF-8, as a name is not"):
        save_csv(tmp_path / "d.csv", {"a\udcff": one()})


def test_parquet_of_others(tmp_path, caplog):
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    columns = {"x": pa.array([1, 5], pa.int32()), "y": pa.array([2.0, 6], pa.float32()), "w": [3, 1], "h": [4, 1]}
    image = pa.array(["a", "b"]).dictionary_encode()
    more = {"score": pa.array([0.5, 1], pa.float32()), "label": ["u", "v"], "__index_level_0__": [0, 1]}
    pq.write_table(pa.table({"image": image, **columns, **more}), tmp_path / "d.parquet")
    found = load_parquet(tmp_path / "d.parquet")
    assert found["a"].boxes.tolist() == [[1, 2, 4, 6]] and dict(found["b"].fields) == {}
    assert "column 'label' is left out" in caplog.text


def test_bad_parquet(tmp_path):
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    file = tmp_path / "d.parquet"
    save_parquet(file, {"a": one()})
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"d\.parquet: expected a readable Parquet table"):
        load_parquet(file)
    numbers = {name: [1.0, 2.0] for name in ("x1", "y1", "x2", "y2")}
    for columns, message in (
        ({"image": ["a", "b"], **numbers}, "expected a header"),
        ({"image": ["a", "b"], **numbers, "score": [1.0, float("nan")]}, "row 2: expected an image's name and finite"),
        ({"image": ["a", None], **numbers, "score": [1.0, 2.0]}, "row 2: expected an image's name"),
        ({"image": [1, 2], **numbers, "score": [1.0, 2.0]}, "row 1: expected an image's name"),
        ({"image": ["a", "b"], **numbers, "score": ["x", "y"]}, "expected numbers, got string"),
    ):
        pq.write_table(pa.table(columns), file)
        with pytest.raises(DataError, match=message):
            load_parquet(file)


def test_parquet_without_pyarrow(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    for call in (lambda: load_parquet(tmp_path / "d.parquet"), lambda: save_parquet(tmp_path / "d.parquet", {})):
        with pytest.raises(MissingDependency, match=r"pip install 'tinygan\[parquet\]'"):
            call()
