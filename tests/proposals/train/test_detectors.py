"""What every detector with anchors does in training: it learns pictures by heart, and resumes where it was cut off."""

import json
from copy import deepcopy

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from proposals.cli.train import main
from proposals.train import run as training
from proposals.train.pictures import PictureSource, photographs
from proposals.train.recipe import find_recipe
from proposals.train.stage import DetectorStage
from tinygan.checkpoint import load_checkpoint
from tinygan.config import load_config
from tinygan.detections import GroundTruth
from tinygan.models.folding import fold_batch_norm
from tinygan.runtime import seed_everything

SIDE = 160
HEIGHTS = (12, 18, 26, 38, 55)  # px
DETECTORS = {
    "retinaface": [],
    "retinaface cascade": ["network.cascade=true", "matching.positive_iou=0.7", "matching.negative_iou=0.3"],
    "retinanet": [
        "network.backbone=mobilenet025",
        "network.channels=32",
        "network.subnet_depth=2",
        "matching.rescue_iou=0.2",
    ],
    "refineface": [
        "network.backbone=mobilenet025",
        "network.channels=32",
        "network.fsm_regions=32",
        "matching.rescue_iou=0.2",
        "first_matching.rescue_iou=0.2",
    ],
    "mb_fcn": ["network.backbone=mobilenet025", "network.skip_channels=32", "network.channels=64"],
}
STEPS = {"refineface": 60}  # of learning by heart; the others take 100, which are faster


@pytest.fixture(scope="session")
def four(tmp_path_factory):
    """Four drawn pictures of 160 px with faces of 10 to 60 px: their folder and ``{name: faces}``."""
    folder, rng, truths = tmp_path_factory.mktemp("four"), np.random.default_rng(3), {}
    for number in range(4):
        image = Image.fromarray(rng.integers(60, 120, (8, 8, 3), dtype=np.uint8)).resize((SIDE, SIDE))
        draw, boxes = ImageDraw.Draw(image), []
        for at, height in enumerate(HEIGHTS):
            tall = height * rng.uniform(0.9, 1.1)
            wide = 0.8 * tall
            x, y = (4 + 30 * at + rng.uniform(0, 8), 4) if at < 4 else (rng.uniform(5, 100), rng.uniform(70, 95))
            y += rng.uniform(0, 14)
            draw.ellipse((x, y, x + wide, y + tall), fill=(224, 180, 150))
            for eye in (0.3, 0.7):
                draw.ellipse((x + wide * eye - 1, y + 0.4 * tall - 1, x + wide * eye + 1, y + 0.4 * tall + 1), fill=0)
            boxes.append((x, y, x + wide, y + tall))
        image.save(folder / f"{number}.png")
        truths[f"{number}.png"] = GroundTruth(np.array(boxes), np.zeros(len(boxes), bool))
    return folder, truths


@pytest.mark.parametrize("name", DETECTORS)
def test_four_pictures_are_learnt_by_heart(name, four, runtime):
    folder, truths = four
    plain = ("mirror=0", "colour=0", "grey=0", f"size={SIDE}", "smallest_scale=1", "largest_scale=1")
    settings = [*(f"pictures.{one}" for one in plain), "optimiser.kind=adamw", "optimiser.weight_decay=1e-4"]
    recipe = load_config(find_recipe(name.split()[0]), None, [*settings, *DETECTORS[name]])
    seed_everything(0)
    stage = DetectorStage(recipe.build(), recipe, runtime, folder, truths)
    source = PictureSource(photographs(folder, truths, list(truths), None), recipe, 4)
    batch, steps = source.draw(0), STEPS.get(name, 100)
    for step in range(steps):
        stage.set_learning_rate(3e-3 * min(1, (step + 1) / 10) * (1 - step / steps))
        stage.step(batch)
    assert stage.evaluate()["ap_0px"] >= 0.95
    network = deepcopy(stage.result).eval()
    before = network(batch.pictures)
    assert any(isinstance(module, torch.nn.BatchNorm2d) for module in network.modules())
    after = fold_batch_norm(network)(batch.pictures)
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in network.modules())
    assert torch.allclose(before.face_logits, after.face_logits, atol=1e-3)
    assert torch.allclose(before.boxes, after.boxes, atol=1e-3)


@pytest.mark.parametrize("name", DETECTORS)
def test_resumed_equals_uninterrupted(name, tiny_wider, tmp_path, monkeypatch):
    class Cut(Exception):
        pass

    settings = [
        "pictures.size=64", "loop.epochs=2", "loop.patches_per_epoch=8", "loop.batch_size=4", "loop.log_every=1",
        "loop.save_every=1", "optimiser.average=0.5", "holdout=0.4", "evaluate_images=1", *DETECTORS[name],
    ]  # fmt: skip

    def run(out, *more):
        words = [word for setting in settings for word in ("--set", setting)]
        given = ["--proposer", name.split()[0], "--data", str(tiny_wider.root), "--device", "cpu", "--threads", "1"]
        return main([*given, "--out", str(tmp_path / out), *words, *more])

    def rows(out):
        found = [json.loads(line) for line in (tmp_path / out / "metrics.jsonl").read_text().splitlines()]
        return [{key: value for key, value in row.items() if key != "seconds"} for row in found]

    assert run("whole") == 0
    real, done = DetectorStage.step, []

    def step(self, batch):
        if len(done) == 3:
            raise Cut
        done.append(1)
        return real(self, batch)

    monkeypatch.setattr(training.DetectorStage, "step", step)
    with pytest.raises(Cut):
        run("cut")
    monkeypatch.setattr(training.DetectorStage, "step", real)
    assert run("cut", "--resume") == 0
    assert rows("cut") == rows("whole") and len(rows("cut")) == 4
    ours, theirs = (load_checkpoint(tmp_path / one, ("proposer",)) for one in ("cut", "whole"))
    assert ours.proposer == name.split()[0] and all(
        torch.equal(ours.tensors[key], one) for key, one in theirs.tensors.items()
    )
