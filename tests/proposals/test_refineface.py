"""RefineFace's network: its switches, its first step, and what is left of it at inference."""

import pytest
import torch

from proposals.detector import PyramidDetector
from proposals.refineface import RefineFaceConfig, RefineFaceNetwork
from proposals.retinanet import RetinaNetConfig, RetinaNetNetwork
from tinygan.errors import CheckpointError

OFF = {"str_levels": (), "stc_levels": (), "rfe": False, "fsm": False}
SMALL = {"backbone": "mobilenet025", "channels": 8}


def build(**settings):
    torch.manual_seed(0)
    return RefineFaceNetwork(RefineFaceConfig(**{**SMALL, **settings})).eval()


def test_all_off_is_retinanet():
    refine = build(**OFF)
    torch.manual_seed(0)
    plain = RetinaNetNetwork(RetinaNetConfig(**SMALL)).eval()
    ours, theirs = refine.state_dict(), plain.state_dict()
    assert list(ours) == list(theirs) and all(torch.equal(ours[name], theirs[name]) for name in theirs)
    pictures = torch.randint(0, 256, (2, 3, 70, 96), dtype=torch.uint8)
    one, other = refine(pictures), plain(pictures)
    assert one.first is None and torch.equal(one.face_logits, other.face_logits) and torch.equal(one.boxes, other.boxes)


@pytest.mark.parametrize(
    ("settings", "layers"),
    [
        ({"stc_levels": (2, 3, 4)}, {"first.c2", "first.c3", "first.c4"}),
        ({"str_levels": (5, 6, 7)}, {"c6", "c7", "first.c5", "first.c6", "first.c7"}),
        ({"str_levels": (6,)}, {"c6", "first.c6"}),
        ({"fsm": True}, {"supervision"}),
        ({"rfe": True}, set()),
    ],
)
def test_each_switch_adds_its_own_layers(settings, layers):
    plain = {name.rsplit(".", 1)[0] for name in build(**OFF).state_dict()}
    added = {name.rsplit(".", 1)[0] for name in build(**{**OFF, **settings}).state_dict()} - plain
    assert {one if one.startswith("first") else one.split(".")[0] for one in added} - {"faces", "boxes"} == layers
    assert any("branches" in one for one in added) == ("rfe" in settings)


def test_rfe_replaces_the_middle_two_convolutions():
    with_rfe, without = build(**{**OFF, "rfe": True}), build(**OFF)
    kinds = [type(layer).__name__ for layer in with_rfe.faces]
    assert kinds == ["Conv2d", "ReLU", "ReceptiveField", "Conv2d", "ReLU", "Conv2d"]
    assert [type(layer).__name__ for layer in without.faces].count("Conv2d") == 5
    only = build(**{**OFF, "rfe": True, "subnet_depth": 2})
    assert [type(layer).__name__ for layer in only.boxes] == ["ReceptiveField", "Conv2d"]


def test_the_first_step_says_nothing_of_other_levels():
    network = build(rfe=False)
    output = network(torch.randint(0, 256, (1, 3, 128, 128), dtype=torch.uint8))
    levels = network.config.levels_of_anchors(output.sizes)
    assert output.first.face_logits.shape == output.face_logits.shape and output.first.boxes.shape == output.boxes.shape
    told = {int(level) for level in levels.unique() if output.first.face_logits[0, levels == level].any()}
    moved = {int(level) for level in levels.unique() if output.first.boxes[0, levels == level].any()}
    assert told == {2, 3, 4} and moved == {5, 6, 7}


def test_counts_of_the_first_step_at_640_px():
    config = RefineFaceConfig()
    sizes = [(-(-640 // stride),) * 2 for stride in config.level_strides]
    levels = config.levels_of_anchors(sizes)
    assert sum((levels == at).sum().item() for at in config.stc_levels) == 67_200
    assert sum((levels == at).sum().item() for at in config.str_levels) == 1_050


def test_what_the_first_step_drops_is_not_found():
    network = build()
    output = network(torch.randint(0, 256, (1, 3, 64, 64), dtype=torch.uint8))
    wanted = torch.zeros_like(output.face_logits)
    first = output.first._replace(face_logits=wanted.clone())
    first.face_logits[0, :2] = torch.tensor([-5.0, -4.5])
    scores = network.scores(output._replace(face_logits=wanted, first=first))
    assert scores[0, :3].tolist() == [0, 0.5, 0.5]


def test_boxes_start_from_the_moved_anchors():
    network = build(stc_levels=())
    output = network(torch.zeros(1, 3, 64, 64, dtype=torch.uint8))
    place = torch.tensor([output.boxes.shape[1] - 1])
    offsets, zeros = torch.zeros_like(output.boxes), torch.zeros_like(output.boxes)
    offsets[0, -1] = torch.tensor([5.0, 0, 0, 0])  # half a width to the right
    first = output.first._replace(boxes=offsets)
    before, _ = network.decode(output._replace(boxes=zeros, first=first._replace(boxes=zeros)), place)
    after, _ = network.decode(output._replace(boxes=zeros, first=first), place)
    width = (before[0, 0, 2] - before[0, 0, 0]).item()
    assert (after - before)[0, 0].tolist() == pytest.approx([0.5 * width, 0, 0.5 * width, 0], rel=1e-4, abs=1e-3)


def test_supervision_is_not_saved_and_not_deployed(runtime, tmp_path):
    network = build()
    kept, all_of_it = network.kept_tensors(), network.state_dict()
    assert all_of_it.keys() - kept.keys() == {name for name in all_of_it if name.startswith("supervision.")} != set()
    detector = PyramidDetector(network, network.config, runtime)
    names = detector.graphs()[0].network.state_dict()
    assert not any("supervision" in name for name in names) and network.supervision is not None
    assert network.eval()(torch.zeros(1, 3, 64, 64)).levels is None
    torch.save(kept, tmp_path / "kept.pth")
    other = build()
    start = other.supervision.state_dict()["layers.0.weight"].clone()
    other.load_weights(tmp_path / "kept.pth")
    assert torch.equal(other.supervision.state_dict()["layers.0.weight"], start), "it starts anew"
    torch.save(all_of_it, tmp_path / "all.pth")
    with pytest.raises(CheckpointError, match="not the weights of RefineFace.*with the same levels and switches"):
        build(rfe=False).load_weights(tmp_path / "kept.pth")


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"str_levels": (1,)}, "levels 2 to 7"),
        ({"stc_levels": (2, 2)}, "each once"),
        ({"theta": 1.0}, "theta"),
        ({"subnet_depth": 1}, "rfe replaces two convolutions"),
        ({"channels": 6}, "rfe replaces two convolutions"),
        ({"fsm_roi": 0}, "fsm_roi"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings, words):
    with pytest.raises(ValueError, match=words):
        RefineFaceConfig(**settings)
