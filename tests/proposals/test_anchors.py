import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from proposals.anchors import decode_boxes, decode_landmarks, pyramid_anchors

SIDES = ((10, 20), (32, 64), (128, 256))


def test_positions_of_a_40_by_20_image():
    # ceil(20/8) x ceil(40/8) = 3 x 5 cells, then 2 x 3 and 1 x 2; two anchors each
    anchors = pyramid_anchors([(3, 5), (2, 3), (1, 2)], (8, 16, 32), SIDES)
    assert anchors.shape == (2 * (15 + 6 + 2), 4)
    assert anchors[:4].tolist() == [[4, 4, 10, 10], [4, 4, 20, 20], [12, 4, 10, 10], [12, 4, 20, 20]]
    assert anchors[10].tolist() == [4, 12, 10, 10]  # second row
    assert anchors[29].tolist() == [36, 20, 20, 20]  # last cell at stride 8
    assert anchors[30:32].tolist() == [[8, 8, 32, 32], [8, 8, 64, 64]]
    assert anchors[41].tolist() == [40, 24, 64, 64]
    assert anchors[42:].tolist() == [[16, 16, 128, 128], [16, 16, 256, 256], [48, 16, 128, 128], [48, 16, 256, 256]]


def test_sides_may_be_width_and_height():
    anchors = pyramid_anchors([(1, 1)], (8,), [((10.0, 12.5), (20.0, 25.0))])
    assert anchors.tolist() == [[4, 4, 10, 12.5], [4, 4, 20, 25]]


def test_no_offset_is_the_anchor():
    anchors = torch.tensor([[12.0, 4.0, 10.0, 20.0]])
    assert decode_boxes(torch.zeros(1, 4), anchors, (0.1, 0.2)).tolist() == [[7, -6, 17, 14]]
    assert decode_landmarks(torch.zeros(1, 10), anchors, (0.1, 0.2)).tolist() == [[12, 4] * 5]


def test_offsets_by_hand():
    anchors = torch.tensor([[50.0, 40.0, 20.0, 10.0]])
    doubled = float(torch.tensor(2.0).log() / 0.2)
    # centre 50 + 5 * 0.1 * 20 = 60, 40 - 2 * 0.1 * 10 = 38; width doubled to 40, height kept
    box = decode_boxes(torch.tensor([[5.0, -2.0, doubled, 0.0]]), anchors, (0.1, 0.2))
    assert torch.allclose(box, torch.tensor([[40.0, 33.0, 80.0, 43.0]]))
    points = decode_landmarks(torch.tensor([[1.0, 2.0, -1.0, 0.0]]), anchors, (0.1, 0.2))
    assert torch.allclose(points, torch.tensor([[52.0, 42.0, 48.0, 40.0]]))


def test_wild_offsets_stay_finite_and_none_are_fine():
    anchors = torch.tensor([[0.0, 0.0, 256.0, 256.0]])
    box = decode_boxes(torch.full((1, 4), 1e4), anchors, (0.1, 0.2))
    assert torch.isfinite(box).all()
    assert decode_boxes(torch.zeros(0, 4), torch.zeros(0, 4), (0.1, 0.2)).shape == (0, 4)
    assert decode_landmarks(torch.zeros(0, 10), torch.zeros(0, 4), (0.1, 0.2)).shape == (0, 10)


@settings(max_examples=40, deadline=None)
@given(
    centre=st.tuples(st.floats(0, 1000), st.floats(0, 1000)),
    size=st.tuples(st.floats(2, 500), st.floats(2, 500)),
    side=st.sampled_from([10.0, 20.0, 64.0, 256.0]),
)
def test_decoding_undoes_the_definition(centre, size, side):
    anchor = torch.tensor([[500.0, 500.0, side, side]], dtype=torch.float64)
    shift = [(at - 500.0) / side / 0.1 for at in centre]
    growth = [float(torch.tensor(length / side).log()) / 0.2 for length in size]
    box = decode_boxes(torch.tensor([[*shift, *growth]], dtype=torch.float64), anchor, (0.1, 0.2))
    low = [c - s / 2 for c, s in zip(centre, size, strict=True)]
    high = [c + s / 2 for c, s in zip(centre, size, strict=True)]
    assert box[0].tolist() == pytest.approx([*low, *high], abs=1e-2, rel=1e-3)
