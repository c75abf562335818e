import math

import pytest
import torch

from tinygan.losses import (
    LossConfig,
    adversarial_loss,
    box_loss,
    box_offset_loss,
    classification_loss,
    log_pixel_loss,
    pixel_loss,
    real_generated_loss,
)

LOGITS = torch.tensor([0.0, 2.0], dtype=torch.float64)
SIGMOID_2 = 1 / (1 + math.exp(-2))


def test_log_pixel_loss_is_the_mean_psnr_but_for_a_factor():
    pictures, hr = torch.zeros(2, 3, 2, 2), torch.cat([torch.full((1, 3, 2, 2), 0.1), torch.full((1, 3, 2, 2), 1.0)])
    found = float(log_pixel_loss(pictures, hr)) * -10 / math.log(10)  # 20 dB and 0 dB
    assert found == pytest.approx(10.0, abs=1e-3)
    assert math.isfinite(float(log_pixel_loss(hr, hr)))


def test_pixel_loss_is_the_mean_squared_error():
    assert float(pixel_loss(torch.zeros(2, 3, 2, 2), torch.full((2, 3, 2, 2), 0.5))) == pytest.approx(0.25)


def test_adversarial_losses_by_hand():
    saturating = (math.log(0.5) + math.log(1 - SIGMOID_2)) / 2  # Eq. 5
    nonsaturating = -(math.log(0.5) + math.log(SIGMOID_2)) / 2
    assert float(adversarial_loss(LOGITS, "saturating")) == pytest.approx(saturating, rel=1e-5)
    assert float(adversarial_loss(LOGITS, "nonsaturating")) == pytest.approx(nonsaturating, rel=1e-5)


def test_real_generated_loss_by_hand():
    real, fake = torch.tensor([2.0]), torch.tensor([0.0])
    expected = -(math.log(SIGMOID_2) + math.log(0.5))  # Eq. 9
    assert float(real_generated_loss(real, fake)) == pytest.approx(expected, rel=1e-5)


def test_classification_loss_by_hand():
    expected = -(math.log(0.5) + math.log(1 - SIGMOID_2)) / 2
    assert float(classification_loss(LOGITS.float(), torch.tensor([1.0, 0.0]))) == pytest.approx(expected, rel=1e-5)


def test_box_offsets_by_hand():
    # Proposal (0, 0, 10, 10), face (1, 1, 11, 11): offsets (0.1, 0.1, 0, 0), 0.5 * 0.1^2 twice; a non-face adds none.
    boxes = torch.tensor([[-0.5, -0.5, 0.5, 0.5]] * 3, requires_grad=True)
    faces = torch.tensor([[-0.4, -0.4, 0.6, 0.6], [0.0, 0.0, 0.5, 0.5], [math.nan] * 4])
    loss = box_offset_loss(boxes, faces, torch.tensor([1.0, 0.0, 1.0]))
    assert loss.item() == pytest.approx(0.01, rel=1e-5)
    loss.backward()
    assert (boxes.grad[0] != 0).any() and (boxes.grad[1:] == 0).all()
    # A face twice as wide and half as high: log 2 and -log 2, both below 1.
    wide = torch.tensor([[-1.0, -0.25, 1.0, 0.25]])
    assert box_offset_loss(boxes[:1], wide, torch.ones(1)).item() == pytest.approx(math.log(2) ** 2, rel=1e-5)
    none = box_offset_loss(boxes, faces, torch.zeros(3))
    assert none.item() == 0 and none.requires_grad


def test_extreme_logits_stay_finite():
    huge = torch.tensor([1e4, -1e4])
    for value in (
        adversarial_loss(huge, "saturating"),
        adversarial_loss(huge, "nonsaturating"),
        real_generated_loss(huge, huge),
        classification_loss(huge, torch.tensor([0.0, 1.0])),
    ):
        assert torch.isfinite(value)


def test_both_adversarial_forms_push_the_logit_up():
    for form in ("saturating", "nonsaturating"):
        logit = torch.zeros(1, requires_grad=True)
        adversarial_loss(logit, form).backward()
        assert float(logit.grad) < 0


def test_empty_batch_costs_nothing_and_keeps_the_graph():
    logits = torch.zeros(0, requires_grad=True)
    loss = classification_loss(logits, torch.zeros(0))
    loss.backward()
    assert float(loss.detach()) == 0


def doubles(*shape):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


BOXES = torch.tensor([[0.0, 0, 2, 2], [5, 5, 8, 9]], dtype=torch.float64)  # one beside its target, one apart from it
TARGETS = torch.tensor([[0.5, 0.3, 2.2, 1.8], [0, 0, 1, 1]], dtype=torch.float64)
LOSSES = {
    "log_pixel": (log_pixel_loss, (doubles(2, 3, 2, 2), doubles(2, 3, 2, 2) / 2)),
    "pixel": (pixel_loss, (doubles(2, 3, 2, 2), doubles(2, 3, 2, 2) / 2)),
    "saturating": (lambda logit: adversarial_loss(logit, "saturating"), (doubles(3),)),
    "nonsaturating": (lambda logit: adversarial_loss(logit, "nonsaturating"), (doubles(3),)),
    "real or generated": (real_generated_loss, (doubles(3), doubles(4))),
    "classification": (lambda logit: classification_loss(logit, torch.tensor([1.0, 0.0, 1.0])), (doubles(3),)),
    "box": (lambda boxes: box_loss(boxes, TARGETS), (BOXES,)),
}


@pytest.mark.parametrize("name", LOSSES)
def test_gradients_agree_with_differences(name):
    loss, inputs = LOSSES[name]
    assert torch.autograd.gradcheck(loss, [values.clone().requires_grad_() for values in inputs])


@pytest.mark.parametrize("name", LOSSES)
def test_precision_is_that_of_the_inputs_but_float32_at_least(name):
    loss, inputs = LOSSES[name]
    assert loss(*inputs).dtype == torch.float64
    coarse = [values.bfloat16() for values in inputs]
    exact = loss(*(values.float() for values in coarse))
    assert exact.dtype == torch.float32
    assert torch.equal(loss(*coarse), exact)  # what autocast leaves in bfloat16 is computed in float32


def test_negative_weights_are_refused():
    with pytest.raises(ValueError, match="must not be negative"):
        LossConfig(alpha=-1)


def test_box_loss_by_hand():
    target = torch.tensor([[0.0, 0, 1, 1]])
    assert float(box_loss(target, target)) == pytest.approx(0, abs=1e-6)
    assert float(box_loss(torch.tensor([[0.5, 0, 1.5, 1]]), target)) == pytest.approx(1 - 1 / 3, abs=1e-5)
    apart = torch.tensor([[2.0, 0, 3, 1]])  # IoU 0; a third of the hull is empty
    assert float(box_loss(apart, target)) == pytest.approx(1 + 1 / 3, abs=1e-5)
    none = torch.zeros(0, 4, requires_grad=True)
    box_loss(none, none.detach()).backward()  # an empty batch costs nothing and stays on the graph
    assert float(box_loss(none.detach(), none.detach())) == 0
