import numpy as np
import pytest

from tinygan.detections import Detections
from tinygan.errors import DataError
from tinygan.formats.folders import read_wider
from tinygan.formats.writing import DetectionWriter, open_output, write_wider

ONE = Detections(np.array([[1.0, 2, 3, 4]]), np.array([0.5]))
TWO = {"event/a.b.jpg": ONE, "c": Detections.empty()}


def test_archive_appears_only_when_it_is_whole(tmp_path):
    writer = DetectionWriter(tmp_path / "out.tar.gz")
    writer.write("a.jpg", ONE)
    assert not (tmp_path / "out.tar.gz").exists() and writer.has("a.jpg") and not writer.has("b.jpg")
    writer.close()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out.tar.gz"]


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
    write_wider(tmp_path / "out", {"a.jpg": ONE, "a.png": ONE, "b.png": ONE})
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == ["a.jpg.txt", "a.png.txt", "b.txt"]
    with pytest.raises(DataError, match=r"out: images 'a\.jpg' and 'a\.jpg\.bmp' would share the file a\.jpg\.txt"):
        write_wider(tmp_path / "out", {"a.jpg": ONE, "a.png": ONE, "a.jpg.bmp": ONE})


def test_archives_are_looked_for_beside_their_name(tmp_path):
    out = tmp_path / "out.tar.gz"
    open_output(out, ("run.json",), "tinygan-test", {"a": 1}, resume=False, overwrite=False)
    with pytest.raises(DataError, match=r"out\.tar\.gz\.partial: holds results already"):
        open_output(out, ("run.json",), "tinygan-test", {"a": 1}, resume=False, overwrite=False)
    out.write_bytes(b"of an earlier run")
    with pytest.raises(DataError, match=r"out\.tar\.gz: exists already"):
        open_output(out, ("run.json",), "tinygan-test", {"a": 1}, resume=False, overwrite=False)
    writer = open_output(out, ("run.json",), "tinygan-test", {"a": 1}, resume=True, overwrite=False)
    writer.write("a.jpg", ONE)
    writer.close()  # a run that was to replace it, and was cut off
    assert list(read_wider(out)) == ["a"] and [path.name for path in tmp_path.iterdir()] == [out.name]
    with pytest.raises(DataError, match=r"out\.tar\.gz: exists already"):
        open_output(out, ("run.json",), "tinygan-test", {"a": 1}, resume=True, overwrite=False)
