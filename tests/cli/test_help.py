"""What ``--help`` says is true: each example runs as printed, presets are those that fit, keys are explained."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from dataclasses import fields
from importlib import import_module
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path

import pytest
import yaml
from PIL import Image
from skimage import data as pictures

from proposals.train.recipe import find_recipe
from tinygan.cli.evaluate import main as evaluate
from tinygan.config import attribute_docs, load_config, peek, presets_for
from tinygan.formats.wider import load_ground_truth
from tinygan.proposers import find_proposer, proposer_names

TRAIN_PROPOSER = [
    "pictures.size=64", "pictures.smallest_scale=0.3", "loop.epochs=1", "loop.patches_per_epoch=8", "loop.batch_size=4",
    "holdout=0.4", "evaluate_images=1",
]  # fmt: skip
WITH_CONFIG = ["tinygan-detect", "tinygan-rescore", "tinygan-propose", "tinygan-train", "tinygan-train-proposer"]
WITH_CONFIG += ["tinygan-export"]
WITH_PRESETS = {
    "tinygan-train": ("tinygan.training.recipe:Recipe", "tinygan.cli.train:PRESETS"),
    "tinygan-train-proposer": ("proposals.train.recipe:ProposerRecipe", "proposals.cli.train:PRESETS"),
}


def load(target: str) -> object:
    module, _, name = target.partition(":")
    return getattr(import_module(module), name)


@pytest.fixture
def help_of(run, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    def read(*words: str) -> str:
        with pytest.raises(SystemExit) as stopped:
            run([*words, "--help"])
        assert stopped.value.code == 0
        return capsys.readouterr().out

    return read


def example_of(text: str) -> list[list[str]]:
    """The command lines that a ``--help`` ends with."""
    return [shlex.split(line) for line in text.split("\nexample:\n")[1].splitlines()]


@pytest.fixture
def place(tiny_wider, tmp_path, monkeypatch) -> Path:
    """The current folder, where the examples' ROOT, DIR, EVAL and so on lie; each test adds what is its own."""
    monkeypatch.chdir(tmp_path)
    Path("ROOT").symlink_to(tiny_wider.root)
    Path("DIR").symlink_to(tiny_wider.root / "WIDER_val/images")
    Path("EVAL").symlink_to(tiny_wider.root / "wider_face_split/wider_face_val_bbx_gt.txt")
    return tmp_path


def add_proposals(tiny_wider) -> None:
    Path("P").symlink_to(tiny_wider.proposals)
    Path("rescored").symlink_to(tiny_wider.proposals / "val")


def add_photographs(tiny_wider) -> None:
    Path("holiday").mkdir()
    for name in ("photo.jpg", "holiday/other.jpg"):
        Image.fromarray(pictures.astronaut()).resize((64, 64)).save(name)


def add_faces(tiny_wider) -> None:
    Path("faces").mkdir()
    for name in ("FACE.png", "faces/other.png"):
        Image.fromarray(pictures.astronaut()).resize((20, 24)).save(name)


def add_large_faces(tiny_wider) -> None:
    add_faces(tiny_wider)
    Image.fromarray(pictures.astronaut()[30:180, 150:300]).save("faces/large.png")
    Path("D").symlink_to(tiny_wider.proposals / "val")


def add_truths(tiny_wider) -> None:
    """Faces of the drawn pictures as Pascal VOC and COCO, and FDDB's ellipses in them."""
    Path("D").symlink_to(tiny_wider.proposals / "val")
    annotations, folds = [], []
    faces = load_ground_truth(Path("EVAL"))
    for number, (name, truth) in enumerate(faces.items()):
        objects = ""
        for x1, y1, x2, y2 in truth.boxes.tolist():
            corners = f"<xmin>{x1 + 1}</xmin><ymin>{y1 + 1}</ymin><xmax>{x2}</xmax><ymax>{y2}</ymax>"
            objects += f"<object><name>face</name><bndbox>{corners}</bndbox></object>"
            box = [x1, y1, x2 - x1, y2 - y1]
            face = {"id": len(annotations) + 1, "image_id": number, "category_id": 1, "bbox": box, "iscrowd": 0}
            annotations.append({**face, "area": box[2] * box[3]})
            folds.append(f"{name.removesuffix('.jpg')}\n1\n{box[3] / 2} {box[2] / 2} 1.57 {x1 + 9} {y1 + 9} 1")
        file = Path("XML") / Path(name).with_suffix(".xml")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"<annotation><filename>{Path(name).name}</filename>{objects}</annotation>")
    images = [{"id": number, "file_name": name} for number, name in enumerate(faces)]
    content = {"images": images, "categories": [{"id": 1, "name": "face"}], "annotations": annotations}
    Path("annotations.json").write_text(json.dumps(content))
    Path("FDDB-folds").mkdir()
    Path("FDDB-folds/FDDB-fold-01-ellipseList.txt").write_text("\n".join(folds[::5]) + "\n")


def nothing(tiny_wider) -> None:
    """The example needs no more."""


NEEDS = {
    "tinygan-detect": add_photographs,
    "tinygan-upscale": add_faces,
    "tinygan-compare": add_large_faces,
    "tinygan-rescore": lambda tiny_wider: Path("P").symlink_to(tiny_wider.proposals / "val"),
    "tinygan-evaluate": add_proposals,
    "tinygan-evaluate wider": add_proposals,
    "tinygan-evaluate fddb": add_truths,
    "tinygan-evaluate voc": add_truths,
    "tinygan-evaluate coco": add_truths,
    "tinygan-report": add_proposals,
    "tinygan-convert": add_proposals,
    "tinygan-export": lambda tiny_wider: Path("P").symlink_to(tiny_wider.proposals / "val"),
    "tinygan-propose": nothing,
    "tinygan-train": add_proposals,
    "tinygan-train-proposer": nothing,
    "tinygan-anchors": nothing,
}


def test_every_command_is_among_these(scripts):
    serves = {"tinygan-app"}  # until it is stopped: tests/cli/test_app.py
    assert {command.split()[0] for command in NEEDS} == scripts.keys() - {"tinygan"} - serves


@pytest.mark.parametrize("command", NEEDS)
def test_the_example_runs_as_printed(command, run, help_of, place, tiny_wider, tiny_set):
    """To be quick it runs on small data, and small networks are trained for a few steps."""
    text = help_of(*command.split())
    NEEDS[command](tiny_wider)
    lines = example_of(text)
    assert lines
    for line in lines:
        assert line[: len(command.split())] == command.split()
        if "--int8" in line and (find_spec("openvino") is None or find_spec("nncf") is None):
            continue
        quick = ["--device", "cpu", "--precision", "32", "--threads", "1"] if "--threads" in text else []
        if "--config" in line:
            small = {"tinygan-train": tiny_set}.get(command)
            quick += small or [word for setting in TRAIN_PROPOSER for word in ("--set", setting)]
        assert run([*line, *quick]) == 0, " ".join(line)
        out = [word for option, word in pairwise(line) if option == "--out"]
        assert all(Path(file).exists() for file in out) and (out or "evaluate" in command or "anchors" in command)


def test_protocols_are_those_with_examples(help_of):
    named = help_of("tinygan-evaluate")
    for command in NEEDS:
        assert "evaluate" not in command or command.split()[-1] in named
    with pytest.raises(SystemExit):
        evaluate(["nothing"])


@pytest.mark.parametrize("command", WITH_CONFIG)
def test_show_config_reads_back_and_needs_no_other_option(command, run, tmp_path, capsys):
    assert run([command, "--show-config"]) == 0
    first = capsys.readouterr().out
    file = tmp_path / "own.yaml"
    file.write_text(first)
    assert run([command, "--show-config", "--config", str(file)]) == 0
    assert yaml.safe_load(capsys.readouterr().out) == yaml.safe_load(first)
    lines = first.splitlines()
    keys = [at for at, line in enumerate(lines) if not line.lstrip().startswith("#")]
    undocumented = [lines[at] for at in keys if at == 0 or not lines[at - 1].lstrip().startswith("# ")]
    assert len(keys) >= 9 and undocumented == []


@pytest.mark.parametrize("name", proposer_names())
def test_every_key_of_a_first_stage_is_explained(name):
    config = find_proposer(name).config
    docs = attribute_docs(config)
    assert [field.name for field in fields(config)] == list(docs) and all(docs.values())


def test_show_config_applies_config_and_set(run, capsys):
    assert run(["tinygan-train", "--show-config", "--config", "lite", "--set", "generator.width=40"]) == 0
    shown = capsys.readouterr().out
    assert "\n  # number of filters of G1's convolutions. Not stated in the paper.\n  width: 40\n  # number" in shown
    assert "backbone: vgg_lite" in shown
    assert run(["tinygan-train", "--show-config", "--set", "generator.widht=40"]) == 2
    assert "did you mean 'generator.width'" in capsys.readouterr().err
    assert run(["tinygan-rescore", "--show-config", "--no-boxes", "--max-rois", "7"]) == 0
    shown = capsys.readouterr().out
    assert "move_boxes: false" in shown and "max_rois: 7" in shown and "fitted: true" in shown


@pytest.mark.parametrize("command", WITH_PRESETS)
def test_presets_named_are_those_that_fit(command, help_of):
    schema, named = map(load, WITH_PRESETS[command])
    assert list(named) == list(presets_for(schema))
    assert f"a preset ({', '.join(named)})" in " ".join(help_of(command).replace("-\n", "-").split())
    for preset in named:
        load_config(find_recipe(peek(preset, "proposer")) if command == "tinygan-train-proposer" else schema, preset)


@pytest.mark.parametrize("command", WITH_CONFIG)
@pytest.mark.parametrize("preset", ["lite", "proposers/retinaface_resnet50"])
def test_presets_of_other_commands_are_refused(command, preset, run, capsys):
    if (command, preset) in (("tinygan-train", "lite"), ("tinygan-train-proposer", "proposers/retinaface_resnet50")):
        return
    assert run([command, "--show-config", "--config", preset]) == 2
    error = capsys.readouterr().err
    fitting = ", ".join(load(WITH_PRESETS[command][1])) if command in WITH_PRESETS else None
    have = "there are no presets of these settings" if fitting is None else f"presets that fit are {fitting}"
    assert f"--config {preset}: this preset is of another command; {have}; --show-config prints" in error
    assert error.count("\n") == 1


def test_checkpoint_of_a_first_stage_names_what_fits(run, place, tiny_wider, capsys):
    add_proposals(tiny_wider)
    words = ["tinygan-rescore", "--proposals", "P", "--images", "DIR", "--out", "out"]
    assert run([*words, "--checkpoint", "huge"]) == 2
    assert "(this tinygan ships lite);" in capsys.readouterr().err
    assert run([*words, "--checkpoint", "retinaface_mobilenet025"]) == 2
    assert "these are weights of a first stage, for tinygan-propose --weights" in capsys.readouterr().err
