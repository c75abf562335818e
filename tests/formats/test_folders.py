import io
import os
import tarfile
import zipfile

import numpy as np
import pytest

from tinygan.detections import Detections
from tinygan.errors import DataError
from tinygan.files import write_atomically
from tinygan.formats.folders import DetectionWriter, ParsedDetections, read_wider, write_wider
from tinygan.formats.registry import open_detections

ONE = Detections(np.array([[1.0, 2, 3, 4]]), np.array([0.5]))


def test_folder_and_archive_hold_the_same(tmp_path):
    for name in ("out", "out.tar.gz", "out.zip"):
        writer = DetectionWriter(tmp_path / name)
        writer.write("event/a.b.jpg", ONE)
        writer.write("event/empty.jpg", Detections.empty())
        writer.close()
    for name in ("out", "out.tar.gz", "out.zip"):
        files = open_detections(tmp_path / name)
        assert sorted(files) == ["event/a.b", "event/empty"]
        assert files["event/a.b"].boxes.tolist() == [[1, 2, 3, 4]] and len(files["event/empty"]) == 0


def test_archive_appears_only_when_it_is_whole(tmp_path):
    writer = DetectionWriter(tmp_path / "out.tar.gz")
    writer.write("a.jpg", ONE)
    assert not (tmp_path / "out.tar.gz").exists() and writer.has("a.jpg") and not writer.has("b.jpg")
    writer.close()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out.tar.gz"]


def test_absent_empty_and_broken_sources(tmp_path):
    with pytest.raises(DataError, match="nothing: no such file or folder"):
        open_detections(tmp_path / "nothing")
    with pytest.raises(DataError, match=r"expected one \.txt an image"):
        open_detections(tmp_path)
    (tmp_path / "x.zip").write_bytes(b"PK")
    with pytest.raises(DataError, match=r"x\.zip: expected a readable \.zip"):
        open_detections(tmp_path / "x.zip")
    (tmp_path / "broken.tar.gz").write_bytes(b"nonsense")
    with pytest.raises(DataError, match=r"broken\.tar\.gz: expected a readable \.tar\.gz"):
        open_detections(tmp_path / "broken.tar.gz")


def test_truncated_archive_is_an_error(tmp_path):
    rng = np.random.default_rng(0)
    (tmp_path / "a.txt").write_text(" ".join(map(str, rng.random(5000))))
    with tarfile.open(tmp_path / "whole.tar.gz", "w:gz") as tar:
        tar.add(tmp_path / "a.txt", "a.txt")
    whole = (tmp_path / "whole.tar.gz").read_bytes()
    (tmp_path / "cut.tar.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"cut\.tar\.gz: expected a readable"):
        open_detections(tmp_path / "cut.tar.gz")


def test_bad_file_is_named_with_its_place(tmp_path):
    (tmp_path / "event").mkdir()
    (tmp_path / "event/a.txt").write_text("a\n1\n1 2 3\n")
    (tmp_path / "event/b.txt").write_bytes(b"\xff\xfe\x00")
    files = open_detections(tmp_path)
    with pytest.raises(DataError, match=r"event/a\.txt:3: expected 'x y w h score'"):
        files["event/a"]
    with pytest.raises(DataError, match=r"event/b\.txt: expected text"):
        files["event/b"]


def test_failed_write_leaves_the_old_file_and_no_rubbish(tmp_path, monkeypatch):
    file = tmp_path / "a.txt"
    write_atomically(file, b"old")

    def full(*_):
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="disk full"):
        write_atomically(file, b"new")
    assert file.read_bytes() == b"old" and [p.name for p in tmp_path.iterdir()] == ["a.txt"]


TWO = {"event/a.b.jpg": ONE, "c": Detections.empty()}


@pytest.mark.parametrize("name", ["out", "out.tar.gz", "out.tgz", "out.tar", "out.zip"])
def test_written_at_once_and_replaced(tmp_path, name):
    for _ in range(2):
        write_wider(tmp_path / name, TWO)
        files = read_wider(tmp_path / name)
        assert {key: len(files[key]) for key in files} == {"event/a.b": 1, "c": 0}
        assert files.text("event/a.b") == "event/a.b\n1\n1 2 2 2 0.5\n"
        assert [p.name for p in tmp_path.iterdir()] == [name]
    write_wider(tmp_path / name, {"c": ONE})
    assert list(read_wider(tmp_path / name)) == ["c"]


@pytest.mark.parametrize("name", ["out", "out.tar.gz", "out.zip"])
def test_a_failed_write_leaves_what_was_there(tmp_path, name):
    write_wider(tmp_path / name, TWO)
    huge = Detections(np.array([[-1.7e308, 0, 1.7e308, 0]]), np.array([1.0]))
    with pytest.raises(DataError, match=f"{name}: a box of image 'z' is too large"):
        write_wider(tmp_path / name, {"event/new": ONE, "z": huge})
    assert sorted(read_wider(tmp_path / name)) == ["c", "event/a.b"] and [p.name for p in tmp_path.iterdir()] == [name]


def test_a_folder_with_other_things_is_not_replaced(tmp_path):
    write_wider(tmp_path / "out", TWO)
    (tmp_path / "out/event/photo.jpg").write_bytes(b"mine")
    with pytest.raises(DataError, match=r"out: holds photo\.jpg, which is no \.txt"):
        write_wider(tmp_path / "out", TWO)
    assert (tmp_path / "out/event/photo.jpg").read_bytes() == b"mine"
    (tmp_path / "file").write_text("mine")
    with pytest.raises(DataError, match="file: is a file, and a folder is to be written"):
        write_wider(tmp_path / "file", TWO)


@pytest.mark.parametrize("name", ["../a", "/a", "e/../../a", "", " ", "a\nb", "a\0b"])
def test_names_that_make_no_file(tmp_path, name):
    with pytest.raises(DataError, match="out: cannot name a file after image"):
        write_wider(tmp_path / "out", {name: ONE})
    with pytest.raises(DataError, match="cannot name a file after image"):
        DetectionWriter(tmp_path / "other").write(name, ONE)
    assert [p.name for p in tmp_path.rglob("*")] == ["other"]


def test_two_images_of_one_file(tmp_path):
    with pytest.raises(DataError, match=r"images 'a\.jpg' and 'a\.png' would share the file a\.txt"):
        write_wider(tmp_path / "out", {"a.jpg": ONE, "a.png": ONE})


def test_what_macos_adds_to_archives_is_no_detection(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("e/a.txt", "a\n0\n")
        archive.writestr("__MACOSX/e/._a.txt", b"\0\5\x16")
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for name in ("./e/a.txt", "./e/._a.txt"):
            archive.addfile(tarfile.TarInfo(name), io.BytesIO())
    assert list(read_wider(tmp_path / "a.zip")) == list(read_wider(tmp_path / "a.tar")) == ["e/a"]


def test_a_zip_member_without_a_name_is_passed_over(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("?", b"")
        archive.writestr("a.txt", "a\n0\n")
    content = (tmp_path / "a.zip").read_bytes().replace(b"?", b"\0")  # zipfile cuts names off at a NUL
    (tmp_path / "a.zip").write_bytes(content)
    assert list(read_wider(tmp_path / "a.zip")) == ["a"]


def test_boxes_beyond_float64_name_their_line(tmp_path):
    (tmp_path / "a.txt").write_text("a\n2\n1 2 3 4 5\n1e308 0 1e308 1 0.5\n")
    with pytest.raises(DataError, match=r"a\.txt:4: boxes must be finite"):
        open_detections(tmp_path)["a"]


def test_parsed_detections_have_text_and_place(tmp_path):
    files = ParsedDetections({"e/a.jpg": ONE}, tmp_path / "d.csv")
    assert files.text("e/a.jpg") == "e/a\n1\n1 2 2 2 0.5\n" and files.describe("e/a.jpg").endswith(
        "d.csv, image 'e/a.jpg'"
    )
    assert files["e/a.jpg"] is ONE and list(files) == ["e/a.jpg"] and len(files) == 1
