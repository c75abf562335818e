"""RefineFace's losses by hand."""

import math

import pytest
import torch

from proposals.anchors import encode_boxes, move_anchors
from proposals.losses import focal_loss, weighted_sum
from proposals.matching import BACKGROUND, FACE, IGNORED, Faces, Targets, match_moved
from proposals.output import First, Output
from proposals.refine_losses import RefineFaceLosses, margins_of, refine_losses, with_margins
from proposals.refineface import RefineFaceConfig, dropped
from proposals.train.refineface import FirstMatching, RefineFaceRecipe

VARIANCES = (0.1, 0.2)
ONE_CELL = [(1, 1)] * 6
PLAIN = RefineFaceLosses(sml_alpha=0)


def network(**settings):
    """Six levels of one cell with one anchor each: the anchor of level k is row k - 2."""
    return RefineFaceConfig(backbone="mobilenet025", channels=8, anchor_scales=(2.0,), **settings)


def terms(labels, logits, first_logits, config, losses=PLAIN, first_labels=None):
    """The terms of six anchors with these labels and logits."""
    zeros = torch.zeros(1, 6, 4)

    def targets(values):
        return Targets(torch.tensor([values]), zeros, torch.full((1, 6, 10), torch.nan))

    first = First(torch.tensor([first_logits]), zeros, None)
    output = Output(torch.tensor([logits]), zeros, None, ONE_CELL, first)
    anchors = torch.full((6, 4), 8.0)
    return refine_losses(output, targets(first_labels or labels), targets(labels), anchors, config, losses)


def test_anchors_are_moved_and_regressed_from_where_they_are():
    anchor = torch.tensor([[64.0, 64, 40, 50]])
    offsets = torch.tensor([[5.0, -2, math.log(2) / 0.2, 0]])
    moved = move_anchors(offsets, anchor, VARIANCES)
    assert moved.tolist() == [pytest.approx([84, 54, 80, 50], abs=1e-4)]
    again = move_anchors(torch.tensor([[1.0, 1, 0, 0]]), moved, VARIANCES)
    assert again.tolist() == [pytest.approx([92, 59, 80, 50], abs=1e-4)]


def test_a_face_that_only_the_moved_anchor_matches():
    anchor, offsets = torch.tensor([[64.0, 64, 40, 50]]), torch.tensor([[[5.0, -2, math.log(2) / 0.2, 0]]])
    face = Faces(torch.tensor([[44.0, 34, 124, 84]]), torch.tensor([False]), torch.full((1, 10), torch.nan))
    recipe = RefineFaceRecipe()
    still = match_moved(torch.zeros_like(offsets), [face], anchor, VARIANCES, FirstMatching())
    first = match_moved(torch.zeros_like(offsets), [face], anchor, VARIANCES, recipe.matching)
    second = match_moved(offsets, [face], anchor, VARIANCES, recipe.matching)
    assert [one.labels.item() for one in (still, first, second)] == [IGNORED, IGNORED, FACE]
    assert second.boxes[0, 0].tolist() == pytest.approx([0, 1, 0, 0], abs=1e-4), "from the moved anchor"


def test_the_box_losses_by_hand():
    zeros, labels = torch.zeros(1, 6, 4), torch.full((1, 6), BACKGROUND)
    points = torch.full((1, 6, 10), torch.nan)
    first_labels, second_labels = labels.clone(), labels.clone()
    first_labels[0, 3], second_labels[0, 4] = FACE, FACE  # levels 5 and 6
    first_labels[0, 0] = FACE  # level 2: not among str_levels
    said, found = zeros.clone(), zeros.clone()
    said[0, 3] = torch.tensor([0.5, 2, 0, 0])  # 0.125 + 1.5
    said[0, 0] = 100.0
    found[0, 4] = torch.tensor([1.5, 0, 0, 0])  # 1.0
    output = Output(torch.zeros(1, 6), found, None, ONE_CELL, First(torch.zeros(1, 6), said, None))
    config = network(stc_levels=())
    first, second = (Targets(one, zeros, points) for one in (first_labels, second_labels))
    found = refine_losses(output, first, second, torch.ones(6, 4), config, PLAIN)
    assert found["box_first"].item() == pytest.approx(1.625) and found["box"].item() == pytest.approx(1.0)
    assert "classification_first" not in found
    total = weighted_sum({name: found[name] for name in ("box", "box_first", "classification")}, PLAIN)
    assert (total - found["classification"]).item() == pytest.approx(2.625)


def test_what_the_first_step_drops():
    gone = dropped(torch.tensor([-5, -4.6, -4.5, 0]), network())
    assert gone.tolist() == [True, True, False, False]
    assert math.log(0.01 / 0.99) == pytest.approx(-4.59512, abs=1e-5)


def test_dropped_background_has_no_loss():
    labels = [FACE, BACKGROUND, BACKGROUND, IGNORED, IGNORED, IGNORED]
    here = terms(labels, [0.0] * 6, [0.0, 0, -5, 0, 0, 0], network())
    assert here["classification"].item() == pytest.approx(0.1732868, abs=1e-6)
    elsewhere = terms(labels, [0.0] * 6, [0.0, 0, -5, 0, 0, 0], network(stc_levels=(2, 3)))
    assert elsewhere["classification"].item() == pytest.approx(0.3032519, abs=1e-6)


def test_the_first_step_learns_its_own_levels_alone():
    labels = [FACE, BACKGROUND, IGNORED, FACE, BACKGROUND, BACKGROUND]
    found = terms(labels, [0.0] * 6, [0.0] * 6, network(stc_levels=(2, 3)))
    assert found["classification_first"].item() == pytest.approx(0.1732868, abs=1e-6)


@pytest.mark.parametrize(("keep", "expected"), [(True, 0.0433217), (False, 0.0)])
def test_dropped_faces_are_kept_unless_as_printed(keep, expected):
    labels, losses = [FACE, *[IGNORED] * 5], RefineFaceLosses(sml_alpha=0, stc_keep_faces=keep)
    found = terms(labels, [0.0] * 6, [-5.0, 0, 0, 0, 0, 0], network(), losses)
    assert found["classification"].item() == pytest.approx(expected, abs=1e-6)


def test_margins_by_hand():
    anchors = torch.tensor([[0, 0, 8.0, 8.0], [0, 0, 32.0, 128.0]])
    margins = margins_of(anchors, 15.0)
    assert margins.tolist() == pytest.approx([1.875, 0.234375])
    assert torch.sigmoid(-margins[0]).item() == pytest.approx(0.1329642, abs=1e-6)
    for samples, background in (("all", 0.0018918), ("faces", 0.1299651)):
        config = RefineFaceLosses(sml_samples=samples)
        for label, expected in ((FACE, 0.3791973), (BACKGROUND, background)):
            labels = torch.tensor([[label]])
            logits = with_margins(torch.zeros(1, 1), labels, margins[:1], config)
            assert focal_loss(logits, labels, 0.25, 2.0).item() == pytest.approx(expected, abs=1e-6)


def test_both_steps_have_the_margin():
    labels = [FACE, *[IGNORED] * 5]
    found = terms(labels, [0.0] * 6, [0.0] * 6, network(), RefineFaceLosses())
    assert found["classification"].item() == pytest.approx(0.3791973, abs=1e-6)
    assert found["classification_first"].item() == pytest.approx(0.3791973, abs=1e-6)


def test_no_margin_no_change():
    logits, labels = torch.randn(2, 5), torch.randint(-1, 2, (2, 5))
    margins = margins_of(torch.rand(5, 4) + 1, 0.0)
    assert torch.equal(with_margins(logits, labels, margins, RefineFaceLosses()), logits)


def test_an_encoded_face_is_found_again():
    anchors = torch.tensor([[64.0, 64, 40, 50]])
    face = torch.tensor([[44.0, 34, 124, 84]])
    moved = move_anchors(encode_boxes(face, anchors, VARIANCES), anchors, VARIANCES)
    assert moved.tolist() == [pytest.approx([84, 59, 80, 50], abs=1e-3)]
    assert encode_boxes(face, moved, VARIANCES).tolist() == [pytest.approx([0, 0, 0, 0], abs=1e-4)]


@pytest.mark.parametrize("settings", [{"sml_alpha": -1.0}, {"fsm_weight": math.inf}])
def test_settings_that_make_no_sense_are_refused(settings):
    with pytest.raises(ValueError, match="sml_alpha and fsm_weight"):
        RefineFaceLosses(**settings)
