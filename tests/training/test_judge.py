"""Stage ``judge``: regions are what the discriminator will see, and it learns what and where."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from proposals.retinaface import RetinaFaceConfig, RetinaFaceNetwork
from tinygan.checkpoint import Checkpoint, save_checkpoint
from tinygan.config import load_config, to_tree
from tinygan.data.batches import BatchConfig
from tinygan.data.cutting import CropConfig, Cut
from tinygan.data.regions import Regions, RegionSource
from tinygan.data.rois import FACE, Rois
from tinygan.errors import CheckpointError, ConfigError, DataError
from tinygan.formats.wider import load_split
from tinygan.models.discriminator import Discriminator
from tinygan.models.efficientnet import EfficientNetLite0
from tinygan.models.generator import Generator, GeneratorConfig
from tinygan.models.surroundings import Surroundings
from tinygan.runtime import Runtime, RuntimeOptions, seed_everything
from tinygan.training.judge import JudgeStage, _public_tower, _starting_discriminator, _teacher
from tinygan.training.prepare import GROUP, TrainingInput, _super_resolved, prepare_regions
from tinygan.training.recipe import JudgeTraining, Recipe


@pytest.fixture
def runtime():
    return Runtime(RuntimeOptions(device="cpu", precision="32"))


def bright_squares(count: int, size: int = 32) -> Regions:
    """Faces are bright squares somewhere around the middle; half of the regions hold none."""
    rng = np.random.default_rng(0)
    hr = rng.integers(0, 60, (count, size, size, 3), dtype=np.uint8)
    labels, targets = (np.arange(count) + 1) % 2, np.full((count, 4), np.nan)
    for row in np.flatnonzero(labels):
        x, y = rng.integers(4, 14, 2)
        hr[row, y : y + 14, x : x + 14] = 230
        targets[row] = np.array([x, y, x + 14, y + 14]) / (size / 2) - 1
    boxes = np.tile([-0.5, -0.5, 0.5, 0.5], (count, 1))
    wide = rng.integers(0, 255, (count, 32, 32, 3), dtype=np.uint8)
    return Regions(hr, wide, labels, np.full(count, 30.0), boxes, targets)


def stage(runtime: Runtime, settings: list[str], held_out: Regions) -> JudgeStage:
    recipe = load_config(Recipe, None, settings)
    seed_everything(0)
    trained = Discriminator(recipe.discriminator, recipe.crops.hr_size)
    start = as_checkpoint(recipe, trained)
    recipe = replace(recipe, discriminator=recipe.judge_training.form(recipe.discriminator))
    return JudgeStage(recipe, runtime, held_out, _starting_discriminator(start, recipe, None))


def as_checkpoint(recipe: Recipe, discriminator: Discriminator) -> Checkpoint:
    tensors = {f"discriminator.{name}": value for name, value in discriminator.state_dict().items()}
    return Checkpoint("gan", to_tree(recipe), tensors)


def test_it_learns_what_and_where(runtime, tiny_options):
    regions = bright_squares(40)
    one = stage(runtime, tiny_options, regions)
    source = RegionSource(regions, BatchConfig(), 16, seed=0)
    one.set_learning_rate(3e-3)
    rows = [{name: float(value.detach()) for name, value in one.step(source.draw(step)).items()} for step in range(200)]
    assert np.mean([row["classification"] for row in rows[-10:]]) < 0.2 < rows[0]["classification"]
    assert np.mean([row["box"] for row in rows[-10:]]) < 0.8 * rows[0]["box"]
    figures = one.evaluate()
    assert figures["iou_after"] > figures["iou_before"] + 0.05 and figures["auc_medium"] > 0.9


def test_a_narrow_student_learns_from_its_teacher_what_labels_do_not_say(runtime, tiny_options):
    """The labels are wrong, and the teacher alone is believed."""
    regions = bright_squares(40)
    teaching = stage(runtime, tiny_options, regions)
    source = RegionSource(regions, BatchConfig(), 16, seed=0)
    teaching.set_learning_rate(3e-3)
    for step in range(150):
        teaching.step(source.draw(step))
    teacher = teaching.final_network()
    weights = {name: value.clone() for name, value in teacher.state_dict().items()}
    recipe = teaching.recipe
    narrow = replace(recipe.discriminator, lite_widths=tuple(max(2, n - 1) for n in recipe.discriminator.lite_widths))
    start = as_checkpoint(recipe, teacher)
    recipe = replace(recipe, discriminator=narrow, judge_training=replace(recipe.judge_training, taught=1.0))
    wrong = replace(regions, labels=1 - regions.labels, targets=np.full_like(regions.targets, np.nan))
    student = JudgeStage(recipe, runtime, regions, _starting_discriminator(start, recipe, None), teacher)
    student.set_learning_rate(3e-3)
    source = RegionSource(wrong, BatchConfig(), 16, seed=1)
    for step in range(100):
        terms = student.step(source.draw(step))
    said, labelled = (float(terms[name].detach()) for name in ("imitation", "classification"))
    assert said < labelled
    assert student.evaluate()["auc_medium"] > 0.9
    assert all(torch.equal(value, weights[name]) for name, value in teacher.state_dict().items())


def test_a_box_that_moves_onto_a_face_is_a_face(runtime, tiny_options):
    regions = bright_squares(8)
    loose = replace(regions, labels=np.zeros(8, np.int64), boxes=regions.boxes + np.array([0.45, 0, 0.45, 0]))
    one = stage(runtime, [*tiny_options, "judge_training.surroundings=none"], loose)
    terms = one.step(RegionSource(loose, BatchConfig(), 8, seed=0).draw(0))  # the head begins at the centred square
    assert 0 < float(terms["share_of_faces"]) <= 0.5


def test_mirrored_regions_have_mirrored_boxes():
    regions = bright_squares(6)
    batch = RegionSource(regions, BatchConfig(brightness=0, contrast=0), 64, seed=1).draw(0)
    for picture, target in zip(batch.hr, batch.targets, strict=True):
        if target.isnan().any():
            continue
        bright = (picture.mean(dim=0) > 0.7).nonzero().flip(1).float()
        low, high = bright.min(dim=0).values, bright.max(dim=0).values + 1
        assert torch.allclose((target + 1) * 16, torch.cat([low, high]), atol=1e-4)
    again = RegionSource(regions, BatchConfig(brightness=0, contrast=0), 64, seed=1).draw(0)
    assert torch.equal(batch.hr, again.hr) and torch.equal(batch.labels, again.labels)


def test_no_region_is_an_error():
    with pytest.raises(DataError, match="no region of interest"):
        RegionSource(bright_squares(0), BatchConfig(), 8, seed=0)


def test_regions_are_cut_once_and_know_their_faces(runtime, tiny_options, tiny_wider, tmp_path, monkeypatch):
    recipe = load_config(Recipe, None, tiny_options)
    seed_everything(0)
    data, generator = TrainingInput(tiny_wider.root, (tiny_wider.proposals,)), Generator(recipe.generator)
    made = prepare_regions(data, recipe, generator, tmp_path, runtime)
    split = load_split(tiny_wider.root, "train")
    faces = np.concatenate([split.faces[name].boxes for name in made.holdout_names])
    regions = made.holdout
    assert set(regions.labels.tolist()) == {0, FACE} and not set(made.training_names) & set(made.holdout_names)
    near = np.isfinite(regions.targets[:, 0])
    assert near[regions.labels == FACE].all()
    units = regions.sides_px[near] / recipe.crops.context
    widths = (regions.targets[near, 2] - regions.targets[near, 0]) * units
    true_widths = faces[:, 2] - faces[:, 0]
    assert np.abs(widths[:, None] - true_widths[None]).min(axis=1).max() < 1e-6
    monkeypatch.setattr("tinygan.training.prepare.cut_regions", lambda *_, **__: pytest.fail("cut again"))
    again = prepare_regions(data, recipe, generator, tmp_path, runtime)
    assert np.array_equal(again.training.hr, made.training.hr)


def test_second_tower_starts_from_a_public_detector(tiny_options, tmp_path):
    detector, file = RetinaFaceNetwork(RetinaFaceConfig()), tmp_path / "detector.pth"
    torch.save(detector.state_dict(), file)
    tower = _public_tower(file, load_config(Recipe, None, tiny_options))
    names = set(tower)
    assert names == set(Surroundings().state_dict()) and len(names) > 200
    assert all(torch.equal(tower[name], detector.state_dict()[name]) for name in names)
    with pytest.raises(ConfigError, match=r"judge_training\.surroundings=mobilenet025"):
        _public_tower(file, load_config(Recipe, None, [*tiny_options, "judge_training.surroundings=none"]))
    torch.save({"weight": torch.zeros(3)}, file)
    with pytest.raises(CheckpointError, match="not the weights of RetinaFace"):
        _public_tower(file, load_config(Recipe, None, tiny_options))


def test_a_teacher_sees_what_its_student_sees(tiny_options, tmp_path):
    recipe = load_config(Recipe, None, tiny_options)
    crops = replace(recipe.crops, wide_context=recipe.crops.wide_context + 1)
    save_checkpoint(
        tmp_path / "t.safetensors",
        as_checkpoint(replace(recipe, crops=crops), Discriminator(recipe.discriminator, crops.hr_size)),
    )
    with pytest.raises(CheckpointError, match=r"t\.safetensors: was trained with crops\.wide_context = "):
        _teacher(tmp_path / "t.safetensors", recipe)


def test_a_narrowed_judge_takes_the_public_tower_too(tiny_options):
    recipe = load_config(Recipe, None, tiny_options)
    form = recipe.judge_training.form(recipe.discriminator)
    wide = Discriminator(form, recipe.crops.hr_size, recipe.crops.wide_size)
    start = as_checkpoint(replace(recipe, discriminator=form), wide)
    narrow = replace(recipe, discriminator=replace(form, lite_widths=tuple(max(2, n - 1) for n in form.lite_widths)))
    public = {name: torch.ones_like(value) for name, value in Surroundings().state_dict().items()}
    own, given = (_starting_discriminator(start, narrow, tower).surroundings for tower in (None, public))
    assert all(map(torch.equal, own.parameters(), wide.surroundings.parameters()))
    assert all(bool((value == 1).all()) for value in given.state_dict().values())


def test_settings_are_checked(runtime, tiny_options):
    for bad in ({"box_iou": 0.0}, {"shift": -1.0}, {"ema_decay": 1.0}, {"taught": 1.1}):
        with pytest.raises(ValueError, match=next(iter(bad))):
            JudgeTraining(**bad)
    with pytest.raises(CheckpointError, match="differs in widths alone"):
        stage(runtime, [*tiny_options, "judge_training.widths=[2,4,8,8,8]"], bright_squares(4))


def test_crops_are_written_in_groups_whether_any_is_super_resolved_or_not(runtime):
    crops, pulled = CropConfig(route_px=0, lr_size=4, wide_size=32), []

    def cuts():
        for number in range(4):
            pulled.append(number)
            large, wide = (np.zeros((GROUP, size, size, 3), np.uint8) for size in (crops.hr_size, crops.wide_size))
            boxes = np.tile([0.0, 0.0, 8.0, 8.0], (GROUP, 1))
            cut = Cut(np.zeros((0, 4, 4, 3), np.uint8), large, wide, np.zeros(GROUP, np.bool_), boxes)
            yield Rois(boxes, np.zeros(GROUP, np.int64), np.zeros(GROUP), boxes), cut

    first = next(_super_resolved(cuts(), Generator(GeneratorConfig()), crops, runtime))
    assert len(first["hr"]) == GROUP and pulled == [0]


def test_another_backbone_starts_from_imagenet_and_keeps_the_tower(runtime, tiny_options, monkeypatch):
    public = EfficientNetLite0()
    with torch.no_grad():
        for value in public.parameters():
            value.uniform_(-0.1, 0.1)
    monkeypatch.setattr("tinygan.models.build._efficientnet_lite0", public.stages.state_dict)
    recipe = load_config(Recipe, None, [*tiny_options, "judge_training.backbone=efficientnet_lite0"])
    crops, form = recipe.crops, recipe.judge_training.form(recipe.discriminator)
    before = Discriminator(
        replace(form, backbone="vgg_lite", weights="none", box=False), crops.hr_size, crops.wide_size
    )
    start = as_checkpoint(replace(recipe, discriminator=before.config), before)
    started = _starting_discriminator(start, replace(recipe, discriminator=form), None)
    assert all(map(torch.equal, started.features.stages.parameters(), public.stages.parameters()))
    assert all(map(torch.equal, started.surroundings.parameters(), before.surroundings.parameters()))
    again = as_checkpoint(replace(recipe, discriminator=form), started)
    grown = _starting_discriminator(again, replace(recipe, discriminator=form), None)
    assert all(map(torch.equal, grown.parameters(), started.parameters()))
    stage = JudgeStage(replace(recipe, discriminator=form), runtime, bright_squares(8), grown)
    stage.set_learning_rate(1.0)
    counted = sum(len(group["params"]) for group in stage.optimiser.param_groups)
    assert counted == len(list(grown.parameters())) and stage.optimiser.param_groups[0]["lr"] == 1.0
