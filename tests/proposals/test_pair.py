"""YuNet, and CenterFace where YuNet is in doubt: when it is asked, of what, and how both are joined."""

import numpy as np
import pytest
import torch
from skimage import data

from proposals.centerface import CenterFaceNetwork
from proposals.detector import PyramidDetector
from proposals.pair import FIRST, SECOND, PairConfig, PairedDetector, build_pair
from proposals.yunet import YuNetConfig, YuNetNetwork
from tinygan.checkpoint import Checkpoint, load_checkpoint, packaged_weights, save_checkpoint
from tinygan.detections import Detections
from tinygan.errors import CheckpointError
from tinygan.models.centerface import WIDTHS
from tinygan.models.graphs import Exportable
from tinygan.proposers import choose_proposer

PICTURE = torch.zeros(3, 300, 400, dtype=torch.uint8)
SURE, UNSURE = (10, 10, 60, 70, 0.9), (100, 10, 160, 70, 0.4)


def found(*rows):
    rows = np.array(rows, dtype=float).reshape(-1, 5)
    return Detections(rows[:, :4], rows[:, 4], {"landmarks": np.tile(rows[:, :2], 5)})


class First:
    side_by_side = 3

    def __init__(self, *rows):
        self.rows = rows

    def propose(self, images):
        return [found(*self.rows) for _ in images]


class Second:
    """Notes the views that it is asked of, and finds some boxes."""

    def __init__(self, *rows):
        self.views, self.rows = [], rows

    def search(self, image, views):
        self.views += views
        return found(*self.rows)


def pair(first, second, **settings):
    return PairedDetector(First(*first), second, PairConfig(**settings))


def test_a_sure_picture_is_left_to_the_first():
    second = Second()
    (answer,) = pair([SURE, UNSURE], second).propose([PICTURE])
    assert second.views == [] and answer.scores.tolist() == [0.9, 0.4]
    assert pair([], second).propose([PICTURE])[0].fields["landmarks"].shape == (0, 10)
    many = [(100 + at, 10, 160 + at, 70, 0.4) for at in range(5)]
    for settings in ({"unsure": 0}, {"unsure": 6}, {"slice_px": 200}):
        (answer,) = pair(many, second, **settings).propose([PICTURE])
        assert second.views == [] and len(answer) == 5


def test_an_unsure_one_is_searched_by_both_and_joined():
    second = Second((104, 10, 164, 70, 0.5), (300, 100, 350, 160, 0.6))
    rows = [SURE, UNSURE, (200, 10, 260, 70, 0.3), (10, 200, 70, 260, 0.2)]
    (answer,) = pair(rows, second, second_trust=0.0).propose([PICTURE])
    (view,) = second.views
    assert (view.left, view.top, view.right, view.bottom, view.scale) == (0, 0, 400, 300, 1)
    assert len(answer) == 5 and set(answer.fields) == {"landmarks"} and (np.diff(answer.scores) <= 0).all()
    both, alone = (answer[np.abs(answer.boxes[:, 0] - left) < 1] for left in (102, 300))
    assert both.boxes[0].tolist() == [102, 10, 162, 70] and 0.4 < both.scores[0] < 0.5
    assert alone.boxes[0].tolist() == [300, 100, 350, 160] and 0.35 < alone.scores[0] < 0.4
    (trusted,) = pair(rows, Second(*second.rows), second_trust=2.0).propose([PICTURE])
    assert trusted[np.abs(trusted.boxes[:, 0] - 300) < 1].scores[0] > alone.scores[0] + 0.2


def crowd(count=6, score=0.8):
    return [(100 + 20 * at, 50, 110 + 20 * at, 62, score) for at in range(count)]


def test_what_is_tiny_is_searched_more_closely():
    second = Second((180, 80, 190, 90, 0.9))
    (answer,) = pair(crowd(), second).propose([PICTURE])
    whole, part = second.views
    assert whole.scale == 1 and (part.left, part.top, part.right, part.bottom) == (36, 0, 274, 126)
    assert part.scale == 2 and part.largest_px == 48 and part.margin_px == 16
    assert len(answer) == 7 and 180 in answer.boxes[:, 0]
    smaller = Second()
    pair(crowd(), smaller, whole=0.75).propose([PICTURE])
    whole, part = smaller.views
    assert (whole.scale, part.scale, part.largest_px) == (0.75, 2, 64)  # which are as large in the whole as before
    for rows, settings in ((crowd(1, score=0.09), {}), (crowd(), {"closer_below_px": 12.0}), (crowd(), {"unsure": 0})):
        second = Second()
        pair(rows, second, **settings).propose([PICTURE])
        assert second.views == []
    pair(crowd(1, score=0.1), second).propose([PICTURE])
    assert len(second.views) == 2  # one is enough


def test_it_looks_again_at_what_another_detector_found():
    second = Second((104, 10, 164, 70, 0.5))
    both = pair([], second)
    assert both.is_worth_a_look(found(SURE, *crowd(1)), 400, 300) and not both.is_worth_a_look(found(SURE), 400, 300)
    seen = both.look_again(PICTURE, found(SURE, *crowd(1)))
    assert [view.scale for view in second.views] == [1, 2]
    assert seen.boxes.tolist() == [[104, 10, 164, 70]] and seen.scores == pytest.approx(1 / (1 + np.exp(-1)))
    for left in (-200, 464, 2000):  # of another detector, beyond the picture: no part of it can be searched
        assert not both.is_worth_a_look(found((left, 100, left + 10, 110, 0.5)), 400, 300)
    with pytest.raises(ValueError, match="expected a uint8 RGB image"):
        both.look_again(PICTURE.float(), found(SURE))


def test_it_does_not_look_where_it_would_see_tiny_boxes_smaller():
    everywhere = [(5, 5, 15, 17, 0.5), (380, 280, 390, 292, 0.5)]
    for second_px, looks in ((119_000, False), (121_000, True)):  # of 120,000
        assert pair([], Second(), second_px=second_px).is_worth_a_look(found(*everywhere), 400, 300) == looks
    unsure = [(10 + 100 * at, 10, 90 + 100 * at, 90, 0.4) for at in range(3)]  # none is tiny
    for second_px, looks in ((29_000, False), (31_000, True)):  # they may be seen at half their size
        assert pair([], Second(), second_px=second_px).is_worth_a_look(found(*unsure), 400, 300) == looks
    long = [(10, 10, 20, 20, 0.5), (7000, 300, 7010, 310, 0.5)]  # seen at .57 of its size
    assert not pair([], Second()).is_worth_a_look(found(*long), 7168, 400)
    assert pair([], Second()).is_worth_a_look(found(*long[:1]), 7168, 400)  # and its part at more than its own


def test_scores_below_the_threshold_and_sides_above_the_limit_are_none():
    (answer,) = pair(crowd(score=0.5), Second(), score_threshold=0.4).propose([PICTURE])
    assert len(answer) == 0  # of one network alone they lose
    second = Second()
    pair(crowd(), second, max_side_px=300).propose([PICTURE])
    assert [view.scale for view in second.views] == [0.75, pytest.approx(300 / 238)]


def test_what_the_second_sees_is_bounded():
    second, large = Second(), torch.zeros(3, 10, 4000, dtype=torch.uint8)
    pair(crowd(), second, second_px=10_000).propose([large])
    whole, part = second.views
    assert whole.scale == pytest.approx(0.5) and part.scale == pytest.approx(1.0)
    second = Second()
    pair(crowd(), second, second_px=238 * 126, closer=4.0).propose([PICTURE])
    assert [view.scale for view in second.views] == [pytest.approx((238 * 126 / 120_000) ** 0.5), pytest.approx(1.0)]
    second = Second()
    pair(crowd(), second, closer=1.0).propose([PICTURE])
    assert len(second.views) == 1  # nothing would be larger
    pair(crowd(), second, second_px=10_000, whole=0.75).propose([large])
    assert second.views[1].scale == pytest.approx(0.5)  # it is small enough already


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"unsure": -1}, "unsure must be finite and not negative"),
        ({"second_px": 0}, "second_px finite and above 0"),
        ({"second_px": float("nan")}, "second_px finite and above 0"),
        ({"closer_below_px": float("inf")}, "closer_below_px must be finite"),
        ({"closer": 0.0}, "closer must be above 0"),
        ({"whole": 0.0}, r"whole must lie in \(0, 1\]"),
        ({"whole": 1.1}, r"whole must lie in \(0, 1\]"),
        ({"second_doubt": -0.1}, "second_doubt not below"),
        ({"second_trust": float("nan")}, "second_trust must be finite"),
    ],
)
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        PairConfig(**settings)


def saved(path, *prefixes, widths=WIDTHS):
    networks = {FIRST: YuNetNetwork(YuNetConfig()), SECOND: CenterFaceNetwork(widths)}
    tensors = {f"proposer.{p}{n}": value for p in prefixes for n, value in networks[p].state_dict().items()}
    save_checkpoint(path, Checkpoint("proposer", {"network": {}}, tensors, proposer="pair"))
    return path


def test_weights_of_one_network_alone_are_refused(tmp_path, runtime):
    build_pair(PairConfig(), saved(tmp_path / "both.safetensors", FIRST, SECOND), runtime)
    with pytest.raises(CheckpointError, match=r"one\.safetensors: expected weights of both.*none of CenterFace"):
        build_pair(PairConfig(), saved(tmp_path / "one.safetensors", FIRST), runtime)
    with pytest.raises(CheckpointError, match="weights of proposer 'yunet', not of 'pair'"):
        choose_proposer("pair", packaged_weights("yunet"))


@pytest.mark.parametrize("widths", [WIDTHS, tuple(width // 3 for width in WIDTHS)])
def test_the_second_network_has_the_form_of_its_weights(widths, tmp_path, runtime):
    path = saved(tmp_path / "both.safetensors", FIRST, SECOND, widths=widths)
    _, second = (graph.network for graph in build_pair(PairConfig(), path, runtime).graphs())
    wanted = sum(tensor.numel() for tensor in CenterFaceNetwork(widths).parameters())
    assert sum(tensor.numel() for tensor in second.parameters()) == wanted


def test_the_pair_that_ships_is_the_yunet_that_ships_and_finds_a_face_once(runtime):
    pair, alone = (
        load_checkpoint(packaged_weights(name), ("proposer",)).part("proposer") for name in ("pair", "yunet")
    )
    first = {name.removeprefix(FIRST): value for name, value in pair.items() if name.startswith(FIRST)}
    assert first.keys() == alone.keys() and all(torch.equal(first[name], alone[name]) for name in alone)
    picture = torch.from_numpy(data.astronaut()).permute(2, 0, 1)
    detector = choose_proposer("pair", overrides=["unsure=1"]).build(runtime)
    assert isinstance(detector, Exportable) and [graph.name for graph in detector.graphs()] == ["yunet", "centerface"]
    asked = []
    search = PyramidDetector.search
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("proposals.detector.UNSURE", (0.0, 1.1))
        patch.setattr(PyramidDetector, "search", lambda *given: asked.append(given) or search(*given))
        (answer,) = detector.propose([picture])
    assert len(asked) == 1 and (answer.scores > 0.5).sum() == 1
