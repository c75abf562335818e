import json
import os

import numpy as np
import pytest

from tinygan.cli.convert import main
from tinygan.detections import Detections
from tinygan.formats.registry import open_detections
from tinygan.formats.writing import write_wider

CSV = "image,x1,y1,x2,y2,score,face_logit\ne/a.jpg,1,2,3,4,0.5,-1\ne/a.jpg,0,0,9,9,0.75,2\ne/b.jpg,,,,,,\n"


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "d.csv").write_text(CSV)
    return tmp_path


def run(*words):
    return main([str(word) for word in words])


def fails(capsys, *words):
    assert run(*words) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("tinygan-convert: error: ") and err.count("\n") == 1
    return err


def test_to_every_format_with_one_line_of_counts(folder, capsys):
    for name, out, note in (
        ("wider", "wider", "; columns left out: face_logit"),
        ("wider", "d.zip", "; columns left out: face_logit"),
        ("fddb", "d.txt", "; columns left out: face_logit"),
        ("csv", "e.csv", ""),
        ("coco", "d.json", "; images without boxes left out: 1; columns left out: face_logit"),
    ):
        assert run(folder / "d.csv", "--to", name, "--out", folder / out) == 0
        assert capsys.readouterr() == (f"{folder / out}: csv to {name}, 2 images, 2 boxes{note}\n", "")
        files = open_detections(folder / out)
        image = next(iter(files))
        assert files[image].boxes.tolist() == [[0, 0, 9, 9], [1, 2, 3, 4]]
        assert files[image].scores.tolist() == [0.75, 0.5]
    assert sorted(p.name for p in folder.iterdir()) == ["d.csv", "d.json", "d.txt", "d.zip", "e.csv", "wider"]


def test_names_file_on_both_sides(folder, capsys):
    names = folder / "names.json"
    names.write_text(json.dumps({"images": [{"id": 5, "file_name": "e/a.jpg"}, {"id": 6, "file_name": "e/b.jpg"}]}))
    assert run(folder / "d.csv", "--to", "coco", "--out", folder / "d.json", "--names", names) == 0
    assert {entry["image_id"] for entry in json.loads((folder / "d.json").read_text())} == {5}
    capsys.readouterr()
    error = fails(capsys, folder / "d.json", "--to", "csv", "--out", folder / "f.csv")
    assert "d.json:2: got image_id 5, which is no name; give the names with --names" in error
    assert run(folder / "d.json", "--to", "csv", "--out", folder / "f.csv", "--names", names) == 0
    assert list(open_detections(folder / "f.csv")) == ["e/a.jpg"]
    capsys.readouterr()
    assert "--names is for coco" in fails(
        capsys, folder / "d.csv", "--to", "fddb", "--out", folder / "d.txt", "--names", names
    )


def test_an_existing_output_is_refused_or_replaced(folder, capsys):
    for name, out in (("coco", "d.json"), ("wider", "out"), ("csv", "d.csv")):
        options = (folder / "d.csv", "--to", name, "--out", folder / out)
        if name != "csv":
            assert run(*options) == 0
            capsys.readouterr()
        before = sorted(folder.rglob("*"))
        assert "exists already; replace it with --overwrite" in fails(capsys, *options)
        assert run(*options, "--overwrite") == 0
        capsys.readouterr()
        assert sorted(folder.rglob("*")) == before
    (folder / "link").symlink_to(folder / "nowhere")
    assert "exists already" in fails(capsys, folder / "d.csv", "--to", "wider", "--out", folder / "link")


def test_a_folder_is_never_replaced_by_a_file_nor_with_its_source(folder, capsys):
    (folder / "out").mkdir()
    (folder / "out/d.txt").write_text("e/a\n1\n1 2 3 4 0.5\n")
    error = fails(capsys, folder / "d.csv", "--to", "csv", "--out", folder / "out", "--overwrite")
    assert "is a folder, and a file is to be written" in error
    error = fails(capsys, folder / "out/d.txt", "--to", "wider", "--out", folder / "out", "--overwrite")
    assert "and would be replaced" in error and (folder / "out/d.txt").is_file()


def test_a_folder_can_be_converted_in_place(folder):
    write_wider(folder / "out", {"a": Detections(np.array([[1.0, 2, 3, 4], [0, 0, 1, 1]]), np.array([0.1, 0.2]))})
    assert run(folder / "out", "--to", "wider", "--out", folder / "out", "--overwrite") == 0
    assert (folder / "out/a.txt").read_text() == "a\n2\n0 0 1 1 0.2\n1 2 2 2 0.1\n"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["none.csv", "--to", "coco", "--out", "o.json"], "none.csv: no such file or folder"),
        (["d.csv", "--to", "cocoa", "--out", "o.json"], "unknown format 'cocoa'"),
        (["d.csv", "--to", "coco", "--out", "o.json", "--from", "cvs"], "did you mean 'csv'?"),
        (["d.csv", "--to", "coco", "--out", "o.csv"], "o.csv: is named like csv, but --to is coco"),
        (["d.csv", "--to", "coco", "--out", "none/o.json"], "no such folder as"),
        (["d.csv", "--to", "csv", "--out", "o.csv", "--from", "coco"], "d.csv:1: expected JSON"),
        (["bad.csv", "--to", "wider", "--out", "o"], "bad.csv:3: expected finite numbers"),
        (["bad", "--to", "wider", "--out", "o"], "bad/b.txt:2: the count says 2 boxes, but 1 lines follow"),
        (["outside.csv", "--to", "wider", "--out", "o"], "cannot name a file after image '../../x'"),
    ],
)
def test_mistakes_are_one_line_and_leave_nothing(words, message, folder, capsys, monkeypatch):
    monkeypatch.chdir(folder)
    (folder / "bad").mkdir()
    (folder / "bad/a.txt").write_text("a\n1\n1 2 3 4 5\n")
    (folder / "bad/b.txt").write_text("b\n2\n1 2 3 4 5\n")
    (folder / "bad.csv").write_text(CSV.replace("0,0", "0,x"))
    (folder / "outside.csv").write_text(CSV.replace("e/b.jpg", "../../x"))
    before = sorted(folder.parent.rglob("*"))
    assert message in fails(capsys, *words)
    assert sorted(folder.parent.rglob("*")) == before


@pytest.mark.parametrize(("name", "out"), [("csv", "o.csv"), ("coco", "o.json"), ("wider", "o"), ("wider", "o.tar.gz")])
def test_a_full_disk_leaves_nothing(name, out, folder, capsys, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    monkeypatch.setattr("tinygan.formats.writing._swap", full)
    assert "No space left" in fails(capsys, folder / "d.csv", "--to", name, "--out", folder / out)
    assert [p.name for p in folder.iterdir()] == ["d.csv"]


def test_misuse(folder, capsys):
    with pytest.raises(SystemExit) as stopped:
        run(folder / "d.csv", "--out", folder / "o.csv")
    assert stopped.value.code == 2 and capsys.readouterr().err.count("\n") == 1
