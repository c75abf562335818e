import os
import tarfile

import numpy as np
import pytest

from tinygan.detections import Detections
from tinygan.errors import DataError
from tinygan.formats.files import DetectionWriter, open_detections, write_atomically

ONE = Detections(np.array([[1.0, 2, 3, 4]]), np.array([0.5]))


def test_folder_and_archive_hold_the_same(tmp_path):
    for name in ("out", "out.tar.gz"):
        writer = DetectionWriter(tmp_path / name)
        writer.write("event/a.b.jpg", ONE)
        writer.write("event/empty.jpg", Detections.empty())
        writer.close()
    for name in ("out", "out.tar.gz"):
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
    with pytest.raises(DataError, match=r"neither a folder nor a \.tar\.gz"):
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
