"""Preset ``paper`` is the paper's method: every key that makes it so, and every stage runs with it."""

import math

import numpy as np
import pytest

from tinygan.cli.rescore import main as rescore
from tinygan.cli.train import main
from tinygan.config import load_config
from tinygan.data.patches import SMALL, stream_of
from tinygan.formats.registry import open_detections
from tinygan.training.recipe import Recipe

AS_PRINTED = {
    "crops.context": 1.0,  # section 4.5: context is future work
    "crops.route_px": math.inf,  # sections 3 and 4.2: all regions of interest are fed to G
    "rois.jitters_per_face": 0,  # section 4.2: cropped with the baseline detector
    "rois.backgrounds_per_image": 0,
    "rois.holdout": 0.0,  # the whole training set
    "rois.unlabelled_score": None,
    "degradation.kind": "bicubic",  # section 4.2
    "batches.wild": 0.0,  # Eq. 4 to 9: pairs alone, classified as generated and as real pictures
    "batches.mirror": 0.0,  # no augmentation is mentioned
    "batches.brightness": 0.0,
    "batches.contrast": 0.0,
    "batches.colour": 0.0,
    "batches.grey": 0.0,
    "generator.residual_blocks": 1,  # Table 1 and its caption
    "generator.refine_blocks": 1,
    "generator.block_layers": 8,
    "generator.refinement": True,
    "generator.form": "learned",
    "generator.skip": "none",
    "discriminator.backbone": "vgg19",  # Table 1
    "discriminator.weights": "imagenet",  # section 4.2
    "discriminator.fc_std": 0.1,
    "discriminator.box": False,
    "discriminator.surroundings": "none",
    "losses.alpha": 0.001,  # section 4.2
    "losses.beta": 0.01,
    "losses.gamma": 0.0,
    "losses.adversarial_form": "saturating",  # Eq. 5 and 8
    "losses.pixel": True,
    "losses.adversarial": True,
    "losses.classification": True,
    "gan.epochs": 6,  # section 4.2
    "gan.learning_rate": 1e-4,
    "gan.decay": "step",
    "gan.milestones": (),
    "gan.warmup_steps": 0,
    "adversarial_game.discriminator_steps": 1,  # section 4.2: k = 1
    "adversarial_game.discriminator_rate": 1.0,
    "adversarial_game.ema_decay": 0.0,
}
SMALL_SIZE = [
    "crops.lr_size=8",
    "generator.width=4",
    "generator.up_width=4",
    "generator.refine_width=4",
    "generator.refine_up_width=4",
    "discriminator.weights=none",  # ImageNet's are not at hand in tests
    *(f"{stage}.{key}" for stage in ("mse_init", "gan", "judge") for key in ("patches_per_epoch=4", "batch_size=4")),
    *(f"{stage}.epochs=1" for stage in ("mse_init", "gan", "judge")),
    "fusion_search.sweeps=1",
]


@pytest.mark.parametrize(("key", "value"), AS_PRINTED.items())
def test_every_key_that_makes_it_the_papers(key, value):
    section, name = key.split(".")
    found = getattr(getattr(load_config(Recipe, "paper"), section), name)
    assert found == value and type(found) is type(value)


def test_schedule_is_three_epochs_at_each_rate():
    schedule = load_config(Recipe, "paper").gan
    rates = [schedule.rate_at(epoch * schedule.steps_per_epoch) for epoch in range(6)]
    assert rates == pytest.approx([1e-4] * 3 + [1e-5] * 3)


def test_every_crop_goes_through_the_generator():
    crops = load_config(Recipe, "paper").crops
    assert crops.through_generator(np.array([1.0, 24.0, 1e6])).all()
    assert stream_of(crops.hr_size - 1, crops) == SMALL


def test_paper_wild_keeps_what_paper_was():
    wild = load_config(Recipe, "paper_wild")
    assert wild == load_config(Recipe, None)  # the defaults in the code
    assert wild.batches.wild == 0.5 and wild.losses.adversarial_form == "nonsaturating"


def train(stage, data, out, *more, init=None, holdout=None):
    """One step of a stage with ``--config paper`` at small size."""
    settings = [*SMALL_SIZE, *([] if holdout is None else [f"rois.holdout={holdout}"])]
    words = ["--stage", stage, "--config", "paper", "--data", data.root, "--proposals", data.proposals, "--out", out]
    words += [word for setting in settings for word in ("--set", setting)]
    words += ["--device", "cpu", "--precision", "32", "--threads", "1", *more]
    return main([str(word) for word in (*words, *(["--init", init] if init else []))])


def test_one_step_of_the_papers_stages_as_printed(tiny_wider, tmp_path, capsys):
    assert train("mse-init", tiny_wider, tmp_path / "mse") == 0
    assert train("gan", tiny_wider, tmp_path / "gan", init=tmp_path / "mse") == 0
    assert (tmp_path / "gan" / "holdout.txt").read_text() == ""
    metrics = (tmp_path / "gan" / "metrics.jsonl").read_text()
    assert '"adversarial": -' in metrics and "wild" not in metrics  # log(1 - D) is negative; no wild patches
    capsys.readouterr()
    assert train("fusion", tiny_wider, tmp_path / "fused", init=tmp_path / "gan") == 2
    assert "train stage gan with rois.holdout above 0" in capsys.readouterr().err
    words = ["--proposals", tiny_wider.proposals / "val", "--images", tiny_wider.root / "WIDER_val/images"]
    words += ["--checkpoint", tmp_path / "gan", "--fusion", "replace", "--set", "least_log_odds=null"]
    assert rescore([str(word) for word in (*words, "--out", tmp_path / "rescored", "--threads", "1")]) == 0
    before, after = open_detections(tiny_wider.proposals / "val"), open_detections(tmp_path / "rescored")
    assert all(len(before[name]) == len(after[name]) for name in before)


def test_one_step_of_every_stage_with_images_kept_out(tiny_wider, tmp_path):
    stages = {"mse-init": None, "gan": "mse-init", "judge": "gan", "fusion": "gan"}
    for stage, init in stages.items():
        start = None if init is None else tmp_path / init
        smaller = ("--set", "discriminator.backbone=vgg_lite")
        assert train(stage, tiny_wider, tmp_path / stage, *smaller, init=start, holdout=0.4) == 0


def test_without_proposals_there_is_nothing_to_cut(tiny_wider, tmp_path, capsys):
    words = ["--stage", "mse-init", "--config", "paper", "--data", str(tiny_wider.root), "--out", str(tmp_path / "run")]
    assert main(words) == 2
    assert "all regions are a first stage's, as in the paper; give --proposals P" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
