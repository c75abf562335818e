import math

import pytest
import torch

from proposals.losses import (
    DetectionLossConfig,
    detection_losses,
    focal_loss,
    hard_negative_loss,
    offset_loss,
    weighted_sum,
)
from proposals.matching import BACKGROUND, FACE, IGNORED, MINED, Targets
from proposals.output import Output

LOG2 = math.log(2)


def test_hard_negatives_by_hand():
    # One face at logit 0 (log 2), backgrounds at 0, 2 and -9; with one negative a face the worst is log(1 + e^2).
    logits = torch.tensor([[0.0, 0.0, 2.0, -9.0, 50.0]])
    labels = torch.tensor([[FACE, BACKGROUND, BACKGROUND, BACKGROUND, IGNORED]])
    assert hard_negative_loss(logits, labels, 1).item() == pytest.approx(LOG2 + math.log1p(math.exp(2)))
    assert hard_negative_loss(logits, labels, 2).item() == pytest.approx(2 * LOG2 + math.log1p(math.exp(2)))


def test_pictures_are_mined_one_by_one():
    # Without a face a picture still gives its worst background; the sum is over one face.
    logits = torch.tensor([[0.0, 9.0], [3.0, -3.0]])
    labels = torch.tensor([[FACE, IGNORED], [BACKGROUND, BACKGROUND]])
    assert hard_negative_loss(logits, labels, 1).item() == pytest.approx(LOG2 + math.log1p(math.exp(3)))


def test_focal_by_hand():
    # Lin et al. 2017, Eq. 5: a face at p = 1/2 gives 0.25 * (1/2)^2 * log 2, background 0.75 * (1/2)^2 * log 2
    logits, labels = torch.zeros(1, 3), torch.tensor([[FACE, BACKGROUND, IGNORED]])
    assert focal_loss(logits, labels, 0.25, 2.0).item() == pytest.approx(0.25 * LOG2)


def test_focal_weights_by_hand():
    # A face, and a background anchor that counts twice: 0.0433217 + 2 * 0.1299651
    logits, labels = torch.zeros(1, 3), torch.tensor([[FACE, BACKGROUND, IGNORED]])
    weights = torch.tensor([[1.0, 2.0, 9.0]])
    assert focal_loss(logits, labels, 0.25, 2.0, weights).item() == pytest.approx(0.3032519, abs=1e-6)


def test_mined_background_counts_twice():
    # The same of a face at p = 1/2, a hard negative, and an anchor that is ignored.
    output = Output(torch.zeros(1, 3), torch.zeros(1, 3, 4), None, [])
    targets = Targets(torch.tensor([[FACE, MINED, IGNORED]]), torch.zeros(1, 3, 4), torch.full((1, 3, 10), torch.nan))
    focal = DetectionLossConfig(classification="focal")
    assert detection_losses(output, targets, focal)["classification"].item() == pytest.approx(0.3032519, abs=1e-6)


def test_mined_background_is_always_among_the_negatives():
    # By loss alone it would be the last: log(1 + e^-9). It takes the place of one that is chosen by its loss.
    logits = torch.tensor([[0.0, 0.0, 2.0, -9.0]])
    labels = torch.tensor([[FACE, BACKGROUND, BACKGROUND, MINED]])
    mined, worst = math.log1p(math.exp(-9)), math.log1p(math.exp(2))
    assert hard_negative_loss(logits, labels, 1).item() == pytest.approx(LOG2 + mined)
    assert hard_negative_loss(logits, labels, 2).item() == pytest.approx(LOG2 + mined + worst)


def test_smooth_l1_by_hand():
    # 0.5 * 0.5^2 + (2 - 0.5) of the one anchor chosen
    found, wanted = torch.tensor([[[0.5, 2.0], [7.0, 7.0]]]), torch.zeros(1, 2, 2)
    assert offset_loss(found, wanted, torch.tensor([[True, False]])).item() == pytest.approx(1.625)


def batch(labels, landmarks):
    torch.manual_seed(0)
    count = len(labels)
    output = Output(
        torch.randn(1, count, requires_grad=True),
        torch.randn(1, count, 4, requires_grad=True),
        torch.randn(1, count, 10, requires_grad=True),
        [],
    )
    return output, Targets(torch.tensor([labels]), torch.zeros(1, count, 4), landmarks)


def test_anchors_without_known_landmarks_teach_none():
    known = torch.zeros(1, 2, 10)
    known[0, 1] = torch.nan
    output, targets = batch([FACE, FACE], known)
    detection_losses(output, targets, DetectionLossConfig())["landmarks"].backward()
    gradient = output.landmarks.grad
    assert gradient is not None and (gradient[0, 0] != 0).all() and (gradient[0, 1] == 0).all()


def test_a_network_without_landmarks_has_no_such_term():
    output, targets = batch([FACE, BACKGROUND], torch.full((1, 2, 10), torch.nan))
    with_none, without = (detection_losses(one, targets, DetectionLossConfig()) for one in (
        output, output._replace(landmarks=None)))  # fmt: skip
    assert set(without) == {"classification", "box"}
    assert weighted_sum(without, DetectionLossConfig()) == weighted_sum(with_none, DetectionLossConfig())


@pytest.mark.parametrize("kind", ["hard_negatives", "focal"])
@pytest.mark.parametrize("labels", [[BACKGROUND] * 3, [IGNORED] * 3])
def test_a_picture_without_faces_has_finite_losses_and_gradients(kind, labels):
    output, targets = batch(labels, torch.full((1, 3, 10), torch.nan))
    terms = detection_losses(output, targets, DetectionLossConfig(classification=kind))
    assert terms["box"] == 0 and terms["landmarks"] == 0
    weighted_sum(terms, DetectionLossConfig()).backward()
    assert all(part.grad is not None and part.grad.isfinite().all() for part in output[:3])
    assert (terms["classification"] > 0) == (labels[0] == BACKGROUND)


def test_weights_are_those_of_the_paper():
    terms = {"classification": torch.tensor(1.0), "box": torch.tensor(1.0), "landmarks": torch.tensor(1.0)}
    assert weighted_sum(terms, DetectionLossConfig()).item() == pytest.approx(1.35)


def test_gradients_are_those_of_the_values():
    labels = torch.tensor([[FACE, BACKGROUND, BACKGROUND, IGNORED, MINED]])
    logits = torch.tensor([[0.3, 1.0, -2.0, 0.5, -0.7]], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: hard_negative_loss(x, labels, 1), logits)
    assert torch.autograd.gradcheck(lambda x: focal_loss(x, labels, 0.25, 2.0), logits)


@pytest.mark.parametrize("settings", [{"negatives_per_face": 0}, {"box_weight": -1.0}, {"focal_alpha": 2.0}])
def test_settings_that_make_no_sense_are_refused(settings):
    with pytest.raises(ValueError):
        DetectionLossConfig(**settings)
