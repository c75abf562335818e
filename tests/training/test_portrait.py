"""Stage ``portrait``: each share pulls on its own, two patches overfit, the same seed gives the same numbers."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.training.test_stages import batch_of, two_patches
from tinygan import SuperResolver
from tinygan.checkpoint import Checkpoint, load_checkpoint
from tinygan.cli.train import main
from tinygan.config import load_config, to_tree
from tinygan.data.patches import PAIRED
from tinygan.errors import ConfigError
from tinygan.models.build import build_generator
from tinygan.models.efficientnet import EfficientNetLite0
from tinygan.models.generator import ShuffleGenerator
from tinygan.models.perceptual import ImageNetFeatures, PerceptualDiscriminator, feature_distance
from tinygan.runtime import Runtime, RuntimeOptions, seed_everything
from tinygan.training import portrait
from tinygan.training.portrait import Portrait
from tinygan.training.recipe import PortraitTraining, Recipe
from tinygan.training.samples import HeldOut

TINY = [
    "crops.lr_size=8", "generator.form=shuffle", "generator.width=8", "generator.up_width=8",
    "generator.residual_blocks=1", "portrait_training.discriminator_start=2", "losses.pixel_form=log",
]  # fmt: skip


@pytest.fixture
def runtime():
    return Runtime(RuntimeOptions(device="cpu", precision="32"))


def stage(runtime: Runtime, *settings: str) -> Portrait:
    recipe = load_config(Recipe, None, [*TINY, *settings])
    seed_everything(0)
    tensors = build_generator(recipe.generator).state_dict()
    init = Checkpoint("generator", to_tree(recipe), {f"generator.{name}": value for name, value in tensors.items()})
    features = ImageNetFeatures(EfficientNetLite0().eval())
    return Portrait(recipe, runtime, HeldOut({PAIRED: two_patches()}, recipe), init, features)


def train(one: Portrait, steps: int, rate: float) -> list[dict[str, float]]:
    one.set_learning_rate(rate)
    batch = batch_of(two_patches())
    return [{name: float(value.detach()) for name, value in one.step(batch).items()} for _ in range(steps)]


def test_the_discriminator_has_a_start_and_the_frozen_features_stay(runtime):
    one = stage(runtime)
    before = {name: value.clone() for name, value in one.generator.state_dict().items()}
    frozen = {name: value.clone() for name, value in one.features.state_dict().items()}
    rows = train(one, 2, 1e-3)
    assert set(rows[1]) == {"d_adversarial", "accuracy_real"}
    assert all(torch.equal(value, before[name]) for name, value in one.generator.state_dict().items())
    rows += train(one, 2, 1e-3)
    assert set(rows[3]) == {"d_adversarial", "accuracy_real", "pixel", "features", "adversarial"}
    assert not torch.equal(before["last.weight"], one.generator.state_dict()["last.weight"])
    assert all(torch.equal(value, frozen[name]) for name, value in one.features.state_dict().items())


@pytest.mark.parametrize(("share", "falling"), [("pixel", "pixel"), ("features", "features")])
def test_one_share_alone_overfits_two_patches(runtime, share, falling):
    shares = {name: float(name == share) for name in ("pixel", "features", "adversarial")}
    one = stage(runtime, *(f"portrait_training.{name}={value}" for name, value in shares.items()))
    rows = train(one, 60, 5e-3)
    first, last = rows[2][falling], rows[-1][falling]
    assert last < first - 0.7 if falling == "pixel" else last < 0.8 * first
    assert set(one.evaluate()) == {"psnr_bicubic", "psnr_g1", "psnr_g2", "distance_bicubic", "distance"}


def test_the_discriminator_learns_to_tell_generated_pictures(runtime):  # random features hardly help it
    rows = train(stage(runtime, "portrait_training.discriminator_start=1000"), 60, 1e-3)
    assert rows[-1]["accuracy_real"] > 0.55 and rows[-1]["d_adversarial"] < 0.95 * rows[0]["d_adversarial"]


def test_same_seed_gives_the_same_numbers_and_a_state_goes_on(runtime):
    whole = train(stage(runtime), 6, 1e-3)
    first, second = stage(runtime), stage(runtime)
    begun = train(first, 3, 1e-3)
    second.load_state_dict(first.state_dict())
    assert begun + train(second, 3, 1e-3) == whole


def test_the_average_is_what_is_saved(runtime):
    one = stage(runtime, "portrait_training.ema_decay=0.5")
    train(one, 4, 1e-2)
    live, saved = (network.state_dict()["last.weight"] for network in (one.generator, one.final_generator()))
    assert not torch.equal(live, saved) and isinstance(one.final_generator(), ShuffleGenerator)
    plain = stage(runtime, "portrait_training.ema_decay=0")
    assert plain.final_generator() is plain.generator


def test_the_stage_as_typed_follows_mse_init(tiny_wider, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(portrait, "load_efficientnet_lite0", lambda: EfficientNetLite0().eval())
    schedules = [f"{name}.{key}" for name in ("mse_init", "portrait")
                 for key in ("epochs=1", "patches_per_epoch=16", "batch_size=4")]  # fmt: skip
    more = ["batches.lr_sizes=[6,8,12]", "crops.paired_size=48", "rois.backgrounds_per_image=0", "rois.holdout=0.4"]
    more += ["degradation.kind=second_order", "batches.wild=0"]
    words = ["--data", str(tiny_wider.root), "--device", "cpu", "--threads", "1"]
    words += [word for setting in [*TINY, *schedules, *more] for word in ("--set", setting)]
    runs = {stage: str(tmp_path / stage) for stage in ("mse-init", "portrait")}
    assert main(["--stage", "mse-init", "--out", runs["mse-init"], *words]) == 0
    typed = ["--stage", "portrait", "--out", runs["portrait"], *words, "--set", "portrait_training.further_blocks=1"]
    typed += ["--set", "portrait_training.further_up_blocks=1"]
    assert main([*typed, "--init", runs["mse-init"]]) == 0
    capsys.readouterr()
    weights = load_checkpoint(Path(runs["portrait"]), ("generator",))
    before = load_checkpoint(Path(runs["mse-init"]), ("generator",))
    assert weights.trained_on == before.trained_on and weights.recipe["generator"]["residual_blocks"] == 2
    assert weights.recipe["generator"]["up_blocks"] == 1
    assert not torch.equal(weights.tensors["generator.last.weight"], before.tensors["generator.last.weight"])
    row = json.loads((tmp_path / "portrait/metrics.jsonl").read_text().splitlines()[-1])
    assert 5 < row["psnr_g1"] < 60 and row["distance"] > 0 and (tmp_path / "portrait/samples/epoch_001.png").is_file()
    assert SuperResolver(runs["portrait"], device="cpu").upscale(np.zeros((5, 7, 3), np.uint8)).size == (28, 20)
    assert main(typed) == 2
    assert "--stage portrait needs --init RUN" in capsys.readouterr().err


def test_what_cannot_be_trained_is_refused(runtime):
    with pytest.raises(ConfigError, match="form: bilinear has no weights that stage portrait"):
        stage(runtime, "generator.form=bilinear")
    with pytest.raises(ValueError, match="must not be negative"):
        PortraitTraining(pixel=-1)
    with pytest.raises(ValueError, match="not all 0"):
        PortraitTraining(pixel=0, features=0, adversarial=0)


def test_distance_is_zero_for_equal_pictures_and_by_hand_for_one_place():
    a, b = torch.tensor([[[[3.0]], [[0.0]]]]), torch.tensor([[[[0.0]], [[5.0]]]])
    assert float(feature_distance([a], [b])) == pytest.approx(2.0)  # |(1, 0) - (0, 1)|^2, whatever the lengths
    assert float(feature_distance([a, a], [b, 2 * a])) == pytest.approx(1.0)
    features = ImageNetFeatures(EfficientNetLite0().eval())
    found = features(torch.rand(2, 3, 48, 48))
    assert [layer.shape[2] for layer in found] == [24, 12, 6, 3]
    assert feature_distance(found, found).tolist() == [0, 0]
    maps = PerceptualDiscriminator(8)(torch.rand(2, 3, 48, 48), found)
    assert [tuple(logits.shape) for logits in maps] == [(2, 1, side, side) for side in (12, 12, 6, 3)]
    assert all(torch.isfinite(logits).all() for logits in maps)


@pytest.mark.parametrize(
    ("key", "part", "reach_px"), [("further_blocks", "body", 12), ("further_up_blocks", "between", 10)]
)
def test_further_blocks_change_nothing_at_first_and_learn(runtime, key, part, reach_px):
    plain, deep = (stage(runtime, f"portrait_training.{key}={count}") for count in (0, 2))
    lr = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        for one in (plain, deep):  # what starts as bicubic upscaling would hide a change
            one.generator.last.weight.fill_(0.1)
        assert torch.equal(plain.generator(lr).sr, deep.generator(lr).sr)
    assert deep.generator.reach_px == reach_px
    blocks = getattr(deep.generator, part)[-2:]
    assert len(blocks) == 2 and all(block.second.weight.abs().sum() == 0 for block in blocks)
    train(deep, 4, 1e-3)
    assert all(block.second.weight.abs().sum() > 0 for block in blocks)
    again = build_generator(deep.recipe.generator)
    again.load_state_dict(deep.generator.state_dict())  # the recipe that is saved says how many there are
    with pytest.raises(ConfigError, match=f"{key}: expected 0 for generator.form learned, got 1"):
        stage(runtime, "generator.form=learned", f"portrait_training.{key}=1")
    with pytest.raises(ValueError, match=f"{key} must not be negative"):
        PortraitTraining(**{key: -1})
