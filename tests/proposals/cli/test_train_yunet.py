"""``tinygan-train-proposer`` with YuNet, on drawn data."""

import json

import pytest
import torch

from proposals.cli.propose import main as propose
from proposals.cli.train import main
from proposals.train import run as training
from proposals.train.pictures import PictureSource, photographs
from proposals.train.stage import DetectorStage
from proposals.train.yunet import YuNetRecipe
from tinygan.checkpoint import load_checkpoint, packaged_weights
from tinygan.config import load_config
from tinygan.formats.registry import open_detections
from tinygan.formats.wider import load_split
from tinygan.runtime import Runtime, RuntimeOptions, seed_everything

TINY = [
    "pictures.size=64", "loop.epochs=2", "loop.patches_per_epoch=12", "loop.batch_size=4", "loop.log_every=1",
    "loop.save_every=2", "optimiser.average=0.5", "holdout=0.4", "evaluate_images=2",
]  # fmt: skip


def typed(root, out, *more, settings=()):
    words = [word for setting in [*TINY, *settings] for word in ("--set", setting)]
    return ["--data", str(root), "--out", str(out), "--device", "cpu", "--threads", "1", *words, *more]


def metrics(run):
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in row.items() if name != "seconds"} for row in rows]


@pytest.fixture(scope="module")
def trained(tiny_wider, tmp_path_factory):
    out = tmp_path_factory.mktemp("yunet") / "run"
    words = typed(tiny_wider.root, out, "--config", "proposers/yunet", settings=("network.norm=true",))
    assert main(words) == 0
    return out


def test_the_preset_chooses_the_detector_and_its_losses(trained):
    rows = metrics(trained)
    assert len(rows) == 6 and {"classification", "objectness", "box", "landmarks"} <= rows[0].keys()
    saved = load_checkpoint(trained, ("proposer",))
    assert saved.proposer == saved.recipe["proposer"] == "yunet" and saved.recipe["network"]["norm"]


def test_what_was_trained_proposes(trained, tiny_wider, tmp_path):
    words = ["--images", str(tiny_wider.root / "WIDER_val/images"), "--out", str(tmp_path / "out")]
    more = ["--proposer", "yunet", "--weights", str(trained), "--set", "keep=7", "--set", "score_threshold=0"]
    assert propose([*words, *more]) == 0
    assert max(len(found) for found in open_detections(tmp_path / "out").values()) == 7


def test_resumed_equals_uninterrupted(trained, tiny_wider, tmp_path, monkeypatch):
    class Cut(Exception):
        pass

    real, steps = training.DetectorStage.step, []

    def step(self, batch):
        if len(steps) == 4:
            raise Cut
        steps.append(1)
        return real(self, batch)

    out = tmp_path / "run"
    words = typed(tiny_wider.root, out, "--config", "proposers/yunet", settings=("network.norm=true",))
    monkeypatch.setattr(training.DetectorStage, "step", step)
    with pytest.raises(Cut):
        main(words)
    monkeypatch.setattr(training.DetectorStage, "step", real)
    assert main([*words, "--resume"]) == 0
    assert metrics(out) == metrics(trained)
    ours, theirs = (load_checkpoint(run, ("proposer",)).tensors for run in (out, trained))
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_init_chooses_the_detector_and_a_finer_level_may_be_added(trained, tiny_wider, tmp_path):
    settings = ("network.fine=true", "loop.epochs=1", "loop.patches_per_epoch=4")
    assert main(typed(tiny_wider.root, tmp_path / "run", "--init", str(trained), settings=settings)) == 0
    saved = load_checkpoint(tmp_path / "run", ("proposer",))
    assert saved.proposer == "yunet" and saved.recipe["network"]["norm"] and saved.recipe["network"]["fine"]


def test_public_weights_are_where_training_starts(shared_data, tiny_wider, tmp_path):
    settings = ("loop.epochs=1", "loop.patches_per_epoch=4", "loop.learning_rate=1e-9", "optimiser.average=0")
    weights = shared_data / "weights/yunet_n_dynamic.onnx"
    assert main(typed(tiny_wider.root, tmp_path / "run", "--init", str(weights), settings=settings)) == 0
    assert metrics(tmp_path / "run")[0]["classification"] < 1  # it knows faces already


def test_four_pictures_are_learnt_by_heart(make_wider, tmp_path):
    data = make_wider(tmp_path / "wider", train=4, val=1)
    split = load_split(data.root, "train")
    plain = ("mirror=0", "colour=0", "grey=0", "size=320", "smallest_scale=1", "largest_scale=1")
    settings = [*(f"pictures.{one}" for one in plain), "network.norm=true", "optimiser.kind=adamw"]
    recipe = load_config(YuNetRecipe, None, settings)
    seed_everything(0)
    runtime = Runtime(RuntimeOptions(device="cpu", precision="32"))
    stage = DetectorStage(recipe.build(), recipe, runtime, split.images, split.faces)
    source = PictureSource(photographs(split.images, split.faces, list(split.faces), None), recipe, 4)
    steps = 80
    for step in range(steps):
        stage.set_learning_rate(1e-2 * min(1, (step + 1) / 10) * (1 - step / steps))
        stage.step(source.draw(step))
    assert stage.evaluate()["ap_0px"] >= 0.95


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ("--proposer", "callable"),
            "proposer 'callable': cannot be trained; tinygan-train-proposer trains mb_fcn",
        ),
        (
            ("--proposer", "retinaface", "--config", "proposers/yunet"),
            "settings of proposer 'yunet', not of 'retinaface'",
        ),
        (("--proposer", "yunet", "--init", "RETINAFACE"), "weights of proposer 'retinaface', not of 'yunet'"),
        (("--init", "nowhere.onnx"), "nowhere.onnx: no such file"),
        (("--teacher", "nowhere"), "nowhere: no such file"),
        (
            ("--proposer", "yunet", "--set", "optimiser.backbone_weights=imagenet"),
            "for backbones resnet18 to resnet152",
        ),
        (("--proposer", "yunet", "--set", "teacher.face_score=0.1"), "ignored_score <= face_score"),
    ],
)
def test_mistakes_are_one_line_and_exit_2(tiny_wider, tmp_path, words, message, capsys):
    words = [str(packaged_weights("retinaface_mobilenet025")) if word == "RETINAFACE" else word for word in words]
    assert main(typed(tiny_wider.root, tmp_path / "run", *words)) == 2
    error = capsys.readouterr().err.strip()
    assert message in error.splitlines()[-1] and "Traceback" not in error


def test_what_teachers_found_is_learnt(tiny_wider, tmp_path):
    settings = ("teacher.face_score=0.5", "loop.epochs=1", "loop.patches_per_epoch=4")
    words = ("--proposer", "yunet", "--teacher", str(tiny_wider.proposals / "train"), str(tiny_wider.proposals))
    assert main(typed(tiny_wider.root, tmp_path / "run", *words, settings=settings)) == 0
    assert (tmp_path / "run/config.yaml").read_text().count("# teacher: ") == 2
