"""The stages as objects: two patches overfit, switches do what they say, the same seed gives the same numbers."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tinygan.checkpoint import Checkpoint
from tinygan.config import load_config, to_tree
from tinygan.data.batches import Batch
from tinygan.data.cutting import DegradationConfig, make_lr
from tinygan.data.patches import PAIRED, Patches
from tinygan.errors import ConfigError
from tinygan.models.pixels import to_float
from tinygan.runtime import Runtime, RuntimeOptions, seed_everything
from tinygan.training.gan import Gan
from tinygan.training.mse_init import MseInit
from tinygan.training.recipe import Recipe, check_trainable
from tinygan.training.samples import HeldOut, roc_area

# A proposal (0, 0, 10, 10) and its face (1, 1, 11, 11): corners from the proposal's centre in its sides.
TARGETS = np.array([[-0.4, -0.4, 0.6, 0.6], [np.nan] * 4])


@pytest.fixture
def runtime():
    return Runtime(RuntimeOptions(device="cpu", precision="32"))


def two_patches() -> Patches:
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[:32, :32] / 32
    face = np.stack([rows, columns, 1 - rows], axis=2) * 200 + 20
    other = np.where((rows * 8).astype(int) % 2 == 0, 220, 30)[..., None] * np.ones(3)
    pixels = np.stack([face, other]) + rng.normal(0, 3, (2, 32, 32, 3))
    return Patches(pixels.clip(0, 255).astype(np.uint8), np.array([1, 0]), np.array([40.0, 40.0]), TARGETS)


def batch_of(patches: Patches) -> Batch:
    hr = np.asarray(patches.pixels)
    lr = np.stack([make_lr(patch, DegradationConfig(), np.random.default_rng(0)) for patch in hr])
    labels = torch.from_numpy(patches.labels.astype(np.float32))
    small, medium = to_float(lr), to_float(hr)
    targets = torch.from_numpy(patches.targets.astype(np.float32))
    return Batch(to_float(lr), to_float(hr), labels, small, labels, medium, labels, targets, targets, targets)


def stage(kind: str, runtime: Runtime, settings: list[str]) -> MseInit | Gan:
    recipe = load_config(Recipe, None, settings)
    seed_everything(0)
    held_out = HeldOut({PAIRED: two_patches()}, recipe)
    mse = MseInit(recipe, runtime, held_out)
    if kind == "mse-init":
        return mse
    tensors = {f"generator.{name}": value for name, value in mse.generator.state_dict().items()}
    return Gan(recipe, runtime, held_out, Checkpoint("generator", to_tree(recipe), tensors))


def train(one: MseInit | Gan, steps: int, rate: float) -> list[dict[str, float]]:
    one.set_learning_rate(rate)
    batch = batch_of(two_patches())
    return [{name: float(value.detach()) for name, value in one.step(batch).items()} for _ in range(steps)]


def test_mse_init_overfits_two_patches(runtime, tiny_options):
    rows = train(stage("mse-init", runtime, tiny_options), 80, 1e-2)
    assert rows[-1]["pixel_g2"] < 0.4 * rows[0]["pixel_g2"]


def test_gan_overfits_two_patches(runtime, tiny_options):
    one = stage("gan", runtime, [*tiny_options, "losses.wild_alpha=0.5"])
    rows = train(one, 60, 5e-3)
    assert rows[-1]["accuracy_face_hr"] == rows[-1]["accuracy_face_generated"] == rows[-1]["accuracy_face_wild"] == 1
    assert rows[-1]["d_classification_hr"] < 0.3 < rows[0]["d_classification_hr"]
    assert all(np.isfinite(list(row.values())).all() for row in rows) and "adversarial_wild" in rows[0]


def test_same_seed_gives_the_same_numbers(runtime, tiny_options):
    first, again = (train(stage("gan", runtime, tiny_options), 4, 1e-3) for _ in range(2))
    assert first == again


@pytest.mark.parametrize(
    ("switch", "gone"),
    [
        ("losses.pixel=false", {"pixel_g1", "pixel_g2"}),
        ("losses.adversarial=false", {"adversarial", "d_adversarial"}),
        ("losses.classification=false", {"classification"}),
        ("generator.refinement=false", {"pixel_g2"}),
    ],
)
def test_rows_of_table_2_switch_off_their_term_alone(runtime, tiny_options, switch, gone):
    full = set(train(stage("gan", runtime, tiny_options), 1, 1e-3)[0])
    without = set(train(stage("gan", runtime, [*tiny_options, switch]), 1, 1e-3)[0])
    assert full - without == gone


def test_boxes_teach_both_networks_with_gamma_alone(runtime, tiny_options):
    boxed = [*tiny_options, "discriminator.box=true", "losses.gamma=0.1"]
    one = stage("gan", runtime, boxed)
    before = {name: value.clone() for name, value in one.discriminator.state_dict().items() if "fc_box" in name}
    rows = train(one, 60, 5e-3)
    assert {name for name in rows[0] if "box" in name} == {"d_box_hr", "d_box_generated", "d_box_wild", "box"}
    losses = [row["d_box_hr"] for row in rows]  # two networks that learn so fast may lose it again for some steps
    assert losses[0] == pytest.approx(0.01, rel=0.3) and np.median(losses) < 0.3 * losses[0]
    assert any(not torch.equal(before[name], one.discriminator.state_dict()[name]) for name in before)

    plain, zero = (stage("gan", runtime, [*tiny_options, *more]) for more in ([], ["losses.gamma=0.0"]))
    assert train(plain, 2, 1e-3) == train(zero, 2, 1e-3)
    resting = stage("gan", runtime, [*tiny_options, "discriminator.box=true"])
    assert not any("box" in name for row in train(resting, 2, 1e-2) for name in row)
    assert all(torch.equal(before[name], resting.discriminator.state_dict()[name]) for name in before)


def test_gamma_moves_the_generator(runtime, tiny_options):
    ended = []
    for gamma in (0.01, 10.0):
        one = stage("gan", runtime, [*tiny_options, "discriminator.box=true", f"losses.gamma={gamma}"])
        assert one.discriminator.fc_box is not None
        torch.nn.init.normal_(one.discriminator.fc_box.weight, 0.0, 1.0, generator=torch.Generator().manual_seed(0))
        train(one, 1, 1e-2)
        ended.append(torch.cat([value.flatten() for value in one.generator.state_dict().values()]))
    assert not torch.equal(*ended)


def test_gamma_without_a_head_is_refused(tiny_options):
    with pytest.raises(ConfigError, match=r"set discriminator\.box=true"):
        check_trainable(load_config(Recipe, None, [*tiny_options, "losses.gamma=1"]))


def test_discriminator_is_not_moved_by_the_generator_step(runtime, tiny_options):
    one = stage("gan", runtime, tiny_options)
    batch = batch_of(two_patches())
    generated = one.generator(torch.cat([batch.lr, batch.small]))
    assert one.generator_optimiser is not None
    before = {name: value.clone() for name, value in one.discriminator.state_dict().items()}
    one.set_learning_rate(1e-2)
    one._update_generator(batch, generated, one.generator_optimiser)
    assert all(torch.equal(before[name], value) for name, value in one.discriminator.state_dict().items())


def test_generator_waits_for_its_turn(runtime, tiny_options):
    one = stage("gan", runtime, [*tiny_options, "adversarial_game.discriminator_steps=3"])
    before = {name: value.clone() for name, value in one.generator.state_dict().items()}
    rows = train(one, 3, 1e-2)
    assert ["pixel_g1" in row for row in rows] == [True, False, False]
    after_one = {name: value.clone() for name, value in one.generator.state_dict().items()}
    assert any(not torch.equal(before[name], value) for name, value in after_one.items())
    other = stage("gan", runtime, [*tiny_options, "adversarial_game.discriminator_steps=3"])
    other.load_state_dict(one.state_dict())
    assert "pixel_g1" in train(other, 1, 1e-2)[0]
    one = stage("gan", runtime, [*tiny_options, "adversarial_game.discriminator_steps=3"])
    one.steps_done, untouched = 1, {name: value.clone() for name, value in one.generator.state_dict().items()}
    train(one, 2, 1e-2)
    assert all(torch.equal(untouched[name], value) for name, value in one.generator.state_dict().items())


def test_a_bilinear_generator_needs_no_optimiser(runtime, tiny_options):
    settings = [*tiny_options, "generator.form=bilinear", "adversarial_game.ema_decay=0.9"]

    def start() -> Gan:
        recipe = load_config(Recipe, None, settings)
        seed_everything(0)
        return Gan(recipe, runtime, HeldOut({PAIRED: two_patches()}, recipe), Checkpoint("generator", {}, {}))

    one, other = start(), start()
    rows = train(one, 4, 1e-2)
    assert not {"pixel_g1", "adversarial", "classification"} & set(rows[0])
    assert rows[-1]["d_classification_generated"] < rows[0]["d_classification_generated"]
    other.load_state_dict(one.state_dict())
    assert train(one, 1, 1e-2) == train(other, 1, 1e-2)
    with pytest.raises(ConfigError, match=r"generator\.form: bilinear has no weights that stage mse-init could train"):
        stage("mse-init", runtime, settings)


def test_gan_goes_on_from_gan_with_its_discriminator(runtime, tiny_options):
    one = stage("gan", runtime, tiny_options)
    train(one, 2, 1e-2)
    tensors = {f"generator.{name}": value for name, value in one.generator.state_dict().items()}
    tensors |= {f"discriminator.{name}": value for name, value in one.discriminator.state_dict().items()}
    again = Gan(one.recipe, runtime, one.held_out, Checkpoint("gan", to_tree(one.recipe), tensors))
    pairs = zip(one.discriminator.parameters(), again.discriminator.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def test_average_follows_the_weights(runtime, tiny_options):
    one = stage("gan", runtime, [*tiny_options, "adversarial_game.ema_decay=0.9"])
    train(one, 5, 1e-2)
    live, average = one.generator, one.final_networks()[0]
    assert average is not live
    pairs = list(zip(live.parameters(), average.parameters(), strict=True))
    assert any(not torch.equal(a, b) for a, b in pairs)
    other = stage("gan", runtime, [*tiny_options, "adversarial_game.ema_decay=0.9"])
    other.load_state_dict(one.state_dict())
    assert all(
        torch.equal(a, b) for a, b in zip(average.parameters(), other.final_networks()[0].parameters(), strict=True)
    )


def test_all_losses_off_is_refused(tiny_options):
    settings = [f"losses.{name}=false" for name in ("pixel", "adversarial", "classification")]
    with pytest.raises(ConfigError, match="all off"):
        check_trainable(load_config(Recipe, None, [*tiny_options, *settings]))


def test_roc_area_by_hand():
    assert roc_area(np.array([0.1, 0.9, 0.5]), np.array([0, 1, 1])) == 1.0
    assert roc_area(np.array([0.5, 0.5]), np.array([0, 1])) == 0.5
    assert roc_area(np.array([0.5]), np.array([1])) is None
