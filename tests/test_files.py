"""What lies in an output folder is continued, replaced or refused."""

import os

import pytest

from tinygan.errors import DataError
from tinygan.files import write_atomically
from tinygan.formats.writing import open_output

KEPT = ("run.json", "found.json")


def opened(out, settings, resume=False, overwrite=False):
    return open_output(out, KEPT, "tinygan-test", settings, resume=resume, overwrite=overwrite)


def test_a_run_is_continued_with_its_own_settings_alone(tmp_path):
    out = tmp_path / "out"
    opened(out, {"a": 1}).write_text("event/face", "kept\n")
    opened(out, {"a": 1}, resume=True)
    assert (out / "event" / "face.txt").read_text() == "kept\n"
    with pytest.raises(DataError, match="holds results already; continue with --resume"):
        opened(out, {"a": 1})
    with pytest.raises(DataError, match="written with other settings"):
        opened(out, {"a": 2}, resume=True)


def test_overwriting_removes_what_a_run_wrote_and_keeps_the_rest(tmp_path):
    out = tmp_path / "out"
    opened(out, {}).write_text("event/face", "old\n")
    (out / "found.json").write_text("{}")
    (out / "report.json").write_text("{}")
    (out / "notes.txt").write_text("mine")
    (out / "empty").mkdir()
    (out / "event" / ".face.txt.x1_y.tmp").touch()  # killed while writing
    opened(out, {}, overwrite=True)
    left = ["empty", "notes.txt", "report.json", "run.json", "written.list"]
    assert sorted(path.name for path in out.rglob("*")) == left


def test_overwriting_knows_the_detections_of_continued_and_cut_off_runs(tmp_path):
    out = tmp_path / "out"
    opened(out, {}).write_text("event/a", "1\n")
    with (out / "written.list").open("ab") as names:
        names.write(b"event/b.t")  # killed here, before b was written
    opened(out, {}, resume=True).write_text("event/c\udcff", "3\n")
    opened(out, {}, resume=True).write_text("event/a", "4\n")
    (out / "event" / "b.t").touch()
    opened(out, {}, overwrite=True)
    assert [path.name for path in (out / "event").iterdir()] == ["b.t"]


def test_a_folder_of_an_earlier_version_has_no_list(tmp_path):
    out = tmp_path / "out"
    opened(out, {}).write_text("event/a", "1\n")
    (out / "written.list").unlink()
    opened(out, {}, resume=True).write_text("event/b", "2\n")
    opened(out, {}, overwrite=True)
    assert not list(out.rglob("*.txt"))


def test_a_damaged_record_of_settings_is_named_and_may_be_overwritten(tmp_path):
    out = tmp_path / "out"
    opened(out, {})
    (out / "run.json").write_bytes(b'{"a": \xff')
    with pytest.raises(DataError, match=r"run\.json:1: expected the settings of a run; replace it with --overwrite"):
        opened(out, {}, resume=True)
    opened(out, {}, overwrite=True)
    opened(out, {}, resume=True)


def test_other_peoples_folders_and_files_are_left_alone(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(DataError, match="was not written by tinygan-test"):
        opened(tmp_path, {}, overwrite=True)
    with pytest.raises(DataError, match="expected a folder or a name ending in .tar.gz"):
        opened(tmp_path / "notes.txt", {}, overwrite=True)
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_failed_write_leaves_the_old_file_and_no_rubbish(tmp_path, monkeypatch):
    file = tmp_path / "a.txt"
    write_atomically(file, b"old")

    def full(*_):
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="disk full"):
        write_atomically(file, b"new")
    assert file.read_bytes() == b"old" and [p.name for p in tmp_path.iterdir()] == ["a.txt"]
