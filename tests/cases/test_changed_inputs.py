"""Same inputs, same result; changed inputs, said so."""

import json
import os
import shutil

import numpy as np
import pytest

from tinygan.cli.train import main as train
from tinygan.detections import Detections
from tinygan.formats.registry import open_detections
from tinygan.formats.wider import format_detections


@pytest.fixture
def proposals(images, box, tmp_path):
    folder = tmp_path / "p"
    folder.mkdir()
    for name in "abc":
        (folder / f"{name}.txt").write_text(format_detections(name, Detections(box, np.array([0.5]))))
    return folder


@pytest.fixture
def rescore(images, proposals, tmp_path, run):
    def call(*more):
        words = ("--proposals", proposals, "--images", images, "--out", tmp_path / "r", "--no-boxes")
        return run("rescore", *words, "--report", tmp_path / "report.json", *more)

    return call


def counts(tmp_path):
    return json.loads((tmp_path / "report.json").read_text())


def contents(folder):
    return {file.name: file.read_bytes() for file in folder.glob("*.txt")}


def test_unchanged_inputs_are_not_done_again(rescore, proposals, tmp_path):
    assert rescore() == 0
    before, first = contents(tmp_path / "r"), counts(tmp_path)
    for name in "abc":  # touched, but the same
        os.utime(proposals / f"{name}.txt", (1, 1))
    assert rescore("--resume") == 0
    assert contents(tmp_path / "r") == before and counts(tmp_path)["resumed"] == 3
    assert all(counts(tmp_path)[key] == first[key] for key in ("proposals", "rescored", "written", "merged"))


@pytest.mark.parametrize("kind", ["proposals", "picture"])
def test_rescoring_says_which_inputs_changed(rescore, images, proposals, box, tmp_path, face, capsys, kind):
    assert rescore() == 0
    before = contents(tmp_path / "r")
    if kind == "proposals":
        (proposals / "b.txt").write_text(format_detections("b", Detections(box + 1, np.array([0.5]))))
    else:
        face.rotate(180).save(images / "b.png")
    assert rescore("--resume") == 2
    error = capsys.readouterr().err
    assert f"r: changed since the run that is to be continued: b.png ({kind}); put back" in error
    assert contents(tmp_path / "r") == before
    assert rescore("--overwrite") == 0 and contents(tmp_path / "r") != before


def test_inputs_that_were_not_done_yet_may_change(rescore, images, proposals, box, tmp_path, face):
    face.save(images / "d.png")
    assert rescore() == 1  # no proposals for d
    (proposals / "d.txt").write_text(format_detections("d", Detections(box, np.array([0.5]))))
    assert rescore("--resume") == 0
    assert counts(tmp_path)["resumed"] == 3 and counts(tmp_path)["rescored"] == 4
    assert len(open_detections(tmp_path / "r")) == 4


def test_a_picture_that_could_not_be_read_is_tried_again(rescore, images, tmp_path, face, capsys):
    whole = (images / "b.png").read_bytes()
    (images / "b.png").write_bytes(whole[:200])
    for more in ((), ("--resume",)):  # it is listed each time, and never counted as rescored
        assert rescore(*more) == 1
        assert (counts(tmp_path)["unreadable"], counts(tmp_path)["rescored"]) == (1, 2)
    (images / "b.png").write_bytes(whole)
    assert rescore("--resume") == 0
    assert (counts(tmp_path)["unreadable"], counts(tmp_path)["rescored"], counts(tmp_path)["resumed"]) == (0, 3, 2)
    scores = {name: found.scores.tolist() for name, found in open_detections(tmp_path / "r").items()}
    assert scores["b"] == pytest.approx(scores["a"], abs=1e-4) and abs(scores["b"][0] - 0.5) > 0.1


def test_a_picture_that_was_missing_is_rescored_when_it_is_there(rescore, images, tmp_path):
    (images / "b.png").rename(tmp_path / "b.png")
    assert rescore() == 1 and counts(tmp_path)["missing"] == 1
    (tmp_path / "b.png").rename(images / "b.png")
    assert rescore("--resume") == 0 and counts(tmp_path)["rescored"] == 3


def test_proposing_and_detecting_say_which_pictures_changed(images, face, tmp_path, run, capsys):
    assert run("propose", "--images", images, "--out", tmp_path / "q") == 0
    assert run("detect", images, "--out", tmp_path / "d", "--no-pictures") == 0
    face.rotate(180).save(images / "c.png")
    capsys.readouterr()
    assert run("propose", "--images", images, "--out", tmp_path / "q", "--resume") == 2
    assert "changed since the run that is to be continued: c.png (picture)" in capsys.readouterr().err
    assert run("detect", images, "--out", tmp_path / "d", "--no-pictures", "--resume") == 2
    assert "changed since the run that is to be continued: c.png;" in capsys.readouterr().err


@pytest.mark.parametrize(("option", "value"), [("--precision", "bf16"), ("--orientation", "stored")])
def test_other_settings_are_not_mixed_in(rescore, images, tmp_path, run, capsys, option, value):
    single = ("--precision", "32")  # on some machines bf16 is what they choose by themselves
    assert rescore(*single) == 0
    assert run("propose", "--images", images, "--out", tmp_path / "q", *single) == 0
    assert run("detect", images, "--out", tmp_path / "d", "--no-pictures", *single) == 0
    assert rescore("--resume", option, value) == 2
    assert run("propose", "--images", images, "--out", tmp_path / "q", "--resume", option, value) == 2
    assert run("detect", images, "--out", tmp_path / "d", "--no-pictures", "--resume", option, value) == 2
    assert capsys.readouterr().err.count(f"is now {value}") == 3


def test_what_is_gone_since_is_said(rescore, images, proposals, tmp_path, face, run, capsys):
    """Else its old detections would stay among the new ones."""
    assert rescore() == 0
    (proposals / "c.txt").rename(tmp_path / "c.txt")
    assert rescore("--resume") == 2
    assert "c.txt of it would stay, and no image is written there now; put back" in capsys.readouterr().err
    (tmp_path / "c.txt").rename(proposals / "c.txt")
    (tmp_path / "some").write_text("b.png\n")
    assert rescore("--resume", "--subset", tmp_path / "some") == 2
    assert "a.txt and 1 more of it would stay" in capsys.readouterr().err
    assert rescore("--resume") == 0 and counts(tmp_path)["resumed"] == 3
    out = ("--out", tmp_path / "q")
    assert run("propose", "--images", images, *out, "--subset", tmp_path / "some") == 0
    assert run("propose", "--images", images, *out, "--resume") == 0, "more images may come"
    face.save(images / "a.JPG", "jpeg")  # now a.txt is of neither
    assert run("propose", "--images", images, *out, "--resume") == 2
    assert "a.txt of it would stay" in capsys.readouterr().err
    assert run("propose", "--images", images, *out, "--overwrite") == 0
    assert sorted(open_detections(tmp_path / "q")) == ["a.JPG", "a.png", "b", "c"]


def test_detecting_says_which_inputs_are_gone(images, tmp_path, run, capsys):
    words = (images, "--out", tmp_path / "d", "--no-pictures")
    assert run("detect", *words) == 0
    (images / "b.png").unlink()
    assert run("detect", *words, "--resume") == 2
    assert "changed since the run that is to be continued: b.png; put back" in capsys.readouterr().err
    assert run("detect", *words, "--overwrite") == 0
    tables = json.loads((tmp_path / "d/detections.json").read_text())
    assert [image["name"] for image in tables["images"]] == ["a.png", "c.png"]


def test_training_says_that_proposals_changed(tiny_wider, tiny_set, checkpoint, tmp_path, capsys):
    shutil.copytree(tiny_wider.proposals, tmp_path / "p")
    words = ["--stage", "fusion", "--data", tiny_wider.root, "--init", checkpoint, "--proposals", tmp_path / "p"]
    words += ["--out", tmp_path / "f", "--device", "cpu", "--threads", "1", *tiny_set]

    def again() -> int:
        (tmp_path / "f/finished.json").unlink(missing_ok=True)
        return train([str(word) for word in (*words, "--resume")])

    assert train([str(word) for word in words]) == 0
    config = tmp_path / "f/config.yaml"
    before = config.read_text()
    assert again() == 0
    file = next((tmp_path / "p/train").rglob("*.txt"))
    file.write_text(file.read_text().replace("0.", "0.1", 1))
    capsys.readouterr()
    assert again() == 2
    assert "first difference: '# content of proposals: " in capsys.readouterr().err
    config.write_text("".join(line for line in before.splitlines(True) if "content of proposals" not in line))
    assert again() == 0, "an earlier version did not note it"
