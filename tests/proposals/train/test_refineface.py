"""RefineFace's recipe: which targets each step has, and where the supervision's gradient goes."""

import pytest
import torch

from proposals.matching import Faces
from proposals.train.recipe import PictureBatch
from proposals.train.refineface import RefineFaceRecipe
from proposals.train.retinanet import RetinaNetRecipe
from tinygan.config import load_config

SMALL = ("network.backbone=mobilenet025", "network.channels=8", "network.fsm_regions=16")
OFF = ("network.str_levels=[]", "network.stc_levels=[]", "network.rfe=false", "network.fsm=false", "losses.sml_alpha=0")


def recipe_of(*settings):
    return load_config(RefineFaceRecipe, None, [*SMALL, *settings])


def a_batch():
    face = Faces(torch.tensor([[8.0, 8, 40, 48], [50, 20, 60, 32]]), torch.tensor([False] * 2), torch.zeros(2, 10))
    pictures = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return PictureBatch(pictures, [face, face], None)


def terms_of(recipe):
    torch.manual_seed(0)
    network, batch = recipe.build().train(), a_batch()
    match = recipe.matcher(64)
    if match is not None:
        columns = zip(*map(match, batch.faces), strict=True)
        batch = batch._replace(targets=type(match(batch.faces[0]))(*(torch.stack(column) for column in columns)))
    return network, recipe.terms(network, network(batch.pictures), batch)


@pytest.mark.parametrize(
    ("settings", "names"),
    [
        ((), {"classification", "box", "classification_first", "box_first", "supervision"}),
        (OFF, {"classification", "box"}),
        ((*OFF, "network.str_levels=[7]"), {"classification", "box", "box_first"}),
        ((*OFF, "network.stc_levels=[2]"), {"classification", "box", "classification_first"}),
        ((*OFF, "network.fsm=true"), {"classification", "box", "supervision"}),
    ],
)
def test_each_module_has_its_terms(settings, names):
    recipe = recipe_of(*settings)
    _, terms = terms_of(recipe)
    assert terms.keys() == names
    total = sum(terms.values())
    assert recipe.weighted_sum(terms).item() == pytest.approx(total.item(), rel=1e-5)


def test_the_weight_of_the_supervision_counts():
    recipe = recipe_of("losses.fsm_weight=0.25")
    _, terms = terms_of(recipe)
    others = sum(one for name, one in terms.items() if name != "supervision")
    assert recipe.weighted_sum(terms).item() == pytest.approx((others + 0.25 * terms["supervision"]).item(), rel=1e-5)


def test_the_supervision_teaches_the_pyramid_and_the_backbone_alone():
    network, terms = terms_of(recipe_of())
    terms["supervision"].backward()
    learnt = {name.split(".")[0] for name, one in network.named_parameters() if one.grad is not None and one.grad.any()}
    assert learnt == {"body", "fpn", "supervision"}
    assert network.body.stage1[3][3].weight.grad.any(), "it reaches C2"


@pytest.mark.parametrize("size", [18, 50, 101, 152])
def test_presets_are_the_papers(size):
    recipe = load_config(RefineFaceRecipe, f"proposers/refineface_resnet{size}")
    network, first, second = recipe.network, recipe.first_matching, recipe.matching
    assert (network.backbone, network.str_levels, network.stc_levels) == (f"resnet{size}", (5, 6, 7), (2, 3, 4))
    assert (first.negative_iou, first.positive_iou, second.negative_iou, second.positive_iou) == (0.3, 0.7, 0.4, 0.5)
    assert (recipe.region_matching.negative_iou, recipe.region_matching.positive_iou) == (0.4, 0.7)
    assert (network.theta, network.fsm_regions, recipe.losses.sml_alpha, recipe.pictures.size) == (0.99, 512, 15, 1024)
    baseline = load_config(RetinaNetRecipe, "proposers/retinanet_resnet50")
    assert (recipe.loop, recipe.optimiser, recipe.pictures) == (baseline.loop, baseline.optimiser, baseline.pictures)


def test_all_off_has_retinanets_targets():
    recipe = recipe_of(*OFF)
    assert recipe.matcher(64) is not None and recipe_of().matcher(64) is None
