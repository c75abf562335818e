"""What holds for every format of detections: round trips, order of lines, and damaged files."""

from __future__ import annotations

import importlib.util
import json
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tinygan.detections import Detections
from tinygan.errors import TinyGanError
from tinygan.formats.dialect import AS_WRITTEN
from tinygan.formats.names import stem
from tinygan.formats.registry import FORMATS, open_detections
from tinygan.formats.writing import write_wider

HAS_PYARROW = importlib.util.find_spec("pyarrow") is not None
FILES = {"wider": "d", "zip": "d.zip", "tar": "d.tar.gz", "fddb": "d.txt", "coco": "d.json", "csv": "d.csv"}
FILES |= {"parquet": "d.parquet"} if HAS_PYARROW else {}
TEXTS = ("fddb", "coco", "csv", "wider")
relaxed = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

PARTS = st.text("ab .,\"'é日-1", min_size=1, max_size=6)
NAMES = st.lists(PARTS, min_size=1, max_size=3).map("/".join)
NAMES = NAMES.filter(lambda name: name == stem(name).strip() and not {".", ".."} & {*name.split("/")})
COORDINATES = st.floats(-1e6, 1e6)
SCORES = st.floats(-1e99, 1e99)
ROWS = st.lists(st.tuples(*[COORDINATES] * 4, SCORES), max_size=5)


def detections_of(rows) -> Detections:
    values = np.array(rows, dtype=np.float64).reshape(-1, 5)
    return Detections(values[:, :4], values[:, 4])


def format_of(kind: str):
    return FORMATS["wider" if kind in ("zip", "tar") else kind]


def assert_same(found: Mapping[str, Detections], expected: Mapping[str, Detections], has_empty: bool) -> None:
    expected = {name: item.sorted() for name, item in expected.items() if has_empty or len(item)}
    assert set(found) == set(expected)
    for name, item in expected.items():
        back = found[name].sorted()
        assert np.array_equal(back.scores, item.scores)
        assert back.boxes.shape == item.boxes.shape and np.abs(back.boxes - item.boxes).max(initial=0) < 1e-6


@settings(relaxed, max_examples=5)
@given(st.dictionaries(NAMES, ROWS, min_size=1, max_size=3).filter(lambda images: any(images.values())))
def test_conversions_round_trip_between_every_pair(images):
    written = {name: detections_of(rows) for name, rows in images.items()}
    with tempfile.TemporaryDirectory() as folder:
        for first, first_name in FILES.items():
            source = Path(folder, first_name)
            format_of(first).write(source, written, AS_WRITTEN)
            between = open_detections(source)
            assert_same(between, written, format_of(first).keeps_empty)
            for second, second_name in FILES.items():
                target = Path(folder, f"2{second_name}")
                format_of(second).write(target, between, AS_WRITTEN)
                has_empty = format_of(first).keeps_empty and format_of(second).keeps_empty
                assert_same(open_detections(target), written, has_empty)


@settings(relaxed, max_examples=30)
@given(ROWS.filter(bool), st.sampled_from([kind for kind in ("csv", "parquet") if kind in FILES]))
def test_tables_keep_every_bit(rows, kind):
    written = detections_of(rows).sorted()
    with tempfile.TemporaryDirectory() as folder:
        FORMATS[kind].write(Path(folder, "d"), {"a": written}, AS_WRITTEN)
        back = open_detections(Path(folder, "d"))["a"]
    assert np.array_equal(back.boxes, written.boxes) and np.array_equal(back.scores, written.scores)


def rows_of(found: Mapping[str, Detections]) -> dict[str, list[tuple[float, ...]]]:
    return {name: sorted(map(tuple, np.column_stack([d.boxes, d.scores]).tolist())) for name, d in found.items()}


TIED = st.tuples(*[st.integers(-3, 3)] * 4, st.sampled_from([0.25, 0.5]))  # equal scores and equal lines happen


@settings(relaxed, max_examples=25)
@given(st.lists(st.tuples(st.sampled_from("abc"), TIED), min_size=1, max_size=8), st.randoms(use_true_random=False))
def test_order_of_lines_does_not_matter(rows, random):
    shuffled = random.sample(rows, len(rows))
    for kind in ("csv", "coco", "fddb", "wider"):
        with tempfile.TemporaryDirectory() as folder:
            read = []
            for number, lines in enumerate((rows, shuffled)):
                path = Path(folder, f"{number}")
                write_lines(kind, path, lines)
                read.append(rows_of(open_detections(path, kind)))
        assert read[0] == read[1]
        assert sum(map(len, read[0].values())) == len(rows)


def write_lines(kind: str, path: Path, rows) -> None:
    """The rows in this order, by hand."""
    blocks: dict[str, list[str]] = {}
    for name, values in rows:
        blocks.setdefault(name, []).append(" ".join(map(str, values)))
    if kind == "wider":
        path.mkdir()
        for name, lines in blocks.items():
            path.joinpath(f"{name}.txt").write_text("\n".join([name, str(len(lines)), *lines]) + "\n")
    elif kind == "fddb":
        path.write_text("".join("\n".join([name, str(len(lines)), *lines]) + "\n" for name, lines in blocks.items()))
    elif kind == "csv":
        lines = [",".join(map(str, (name, *values))) for name, values in rows]
        path.write_text("\n".join(["image,x,y,w,h,score", *lines]) + "\n")
    else:
        entries = [{"image_id": n, "category_id": 1, "bbox": v[:4], "score": v[4]} for n, v in rows]
        path.write_text(json.dumps(entries))


def valid_content(kind: str, folder: Path) -> bytes:
    item = Detections(np.array([[1.5, 2, 3, 4], [-5, 0, 60, 7.25]]), np.array([0.9, 0.1]))
    path = folder / f"valid-{FILES[kind]}"
    if kind == "wider":
        write_wider(path, {"e/a": item})
        return (path / "e/a.txt").read_bytes()
    format_of(kind).write(path, {"e/a": item, "b": item}, AS_WRITTEN)
    return path.read_bytes()


@pytest.fixture(scope="module")
def valid(tmp_path_factory) -> dict[str, bytes]:
    return {kind: valid_content(kind, tmp_path_factory.mktemp(kind)) for kind in FILES}


GARBAGE = [b"nan", b"inf", b"-inf", b"1e999", b"1e308", b"-1", b"-7", b"999999999", b"9" * 30, b"9" * 5000, b"", b"x"]
GARBAGE += [b"\xff", b"\0", b"null", b"true", b"[]", b"{}", b'"', b"1_0", "\u0661".encode(), b",", b"\n", b"\r", b"1 2"]
TOKEN = re.compile(rb"[-\w.]+")


@st.composite
def damaged(draw, content: bytes) -> bytes:
    """Content cut off, with a token replaced, with bytes flipped, or bytes that have nothing to do with it."""
    how = draw(st.sampled_from(["cut", "token", "token", "token", "bytes", "noise", "lines"]))
    if how == "cut":
        return content[: draw(st.integers(0, len(content)))]
    if how == "noise":
        return draw(st.binary(max_size=200))
    if how == "lines":
        lines = content.split(b"\n")
        return b"\n".join(draw(st.lists(st.sampled_from(lines), max_size=8)))
    for _ in range(draw(st.integers(1, 3))):
        if how == "token":
            tokens = list(TOKEN.finditer(content))
            token = draw(st.sampled_from(tokens)) if tokens else None
            start, end = token.span() if token else (0, 0)
            content = content[:start] + draw(st.sampled_from(GARBAGE)) + content[end:]
        else:
            at = draw(st.integers(0, max(0, len(content) - 1)))
            content = content[:at] + draw(st.binary(min_size=1, max_size=4)) + content[at + 1 :]
    return content


@pytest.mark.parametrize("kind", FILES)
@settings(relaxed, max_examples=40)
@given(data=st.data())
def test_a_damaged_file_parses_or_gives_one_error_that_names_its_place(kind, valid, data):
    content = data.draw(damaged(valid[kind]))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, FILES[kind])
        if kind == "wider":
            path.mkdir()
        path.joinpath("a.txt" if kind == "wider" else "").write_bytes(content)
        try:
            files = open_detections(path, "wider" if kind in ("zip", "tar") else kind)
            found = {name: files[name] for name in files}
        except TinyGanError as error:
            message = str(error)
            assert str(path) in message
            if kind in TEXTS and "found none" not in message:
                assert re.search(r"\.\w+:\d+: |on line \d+|not UTF-8 text", message), message
        else:
            assert found and all(np.isfinite(item.boxes).all() for item in found.values())
