"""What RetinaFace does with an image's size; its levels, aspects and cascade by hand."""

import math

import numpy as np
import pytest
import torch
from PIL import Image
from skimage import data
from torchvision.ops import box_convert, box_iou

from proposals.anchors import move_anchors
from proposals.losses import DetectionLossConfig, cascade_losses, weighted_sum
from proposals.matching import FACE as MATCHED
from proposals.matching import IGNORED, Faces, MatchingConfig, Targets, match_anchors, match_moved
from proposals.output import First, Output
from proposals.retinaface import RetinaFaceConfig, RetinaFaceNetwork, build_retinaface
from proposals.train.recipe import PictureBatch, PictureConfig, ProposerRecipe, SecondMatching
from tinygan.boxes import iou
from tinygan.checkpoint import packaged_weights
from tinygan.config import load_config
from tinygan.errors import CheckpointError

WEIGHTS = packaged_weights("retinaface_mobilenet025")
FACE = np.array([[179.0, 55, 270, 178]])  # scikit-image's astronaut, 512 px


def test_only_much_longer_images_get_overviews():
    config = RetinaFaceConfig(overview_px=1000)
    assert config.overviews_of(1499) == [] and config.overviews_of(2000) == [0.5]
    assert config.overviews_of(5000) == [0.5, 0.2]
    assert RetinaFaceConfig().overviews_of(9999) == []


def test_an_overview_finds_a_face_larger_than_the_anchors(runtime):
    large = Image.fromarray(data.astronaut()).resize((4096, 4096), Image.Resampling.BICUBIC)
    image = torch.from_numpy(np.array(large)).permute(2, 0, 1)

    def sure(**settings):
        (found,) = build_retinaface(RetinaFaceConfig(**settings), WEIGHTS, runtime).propose([image])
        return found[found.scores > 0.5]

    plain, overview = sure(), sure(overview_px=640)
    assert not (iou(plain.boxes, 8 * FACE) > 0.5).any()
    assert iou(overview.boxes[:1], 8 * FACE)[0, 0] > 0.6


SIDES = tuple(tuple(round(16 * 2 ** (level + third / 3), 2) for third in range(3)) for level in range(5))


def test_five_levels_by_hand():
    config = RetinaFaceConfig(levels=(2, 3, 4, 5, 6), anchors=SIDES)
    anchors = config.anchors_of_picture(640)
    assert len(anchors) == 102_300
    assert (160 * 160 * 3) / len(anchors) == pytest.approx(0.7507, abs=5e-5)
    assert anchors[0].tolist() == [2, 2, 16, 16] and anchors[3, :2].tolist() == [6, 2]
    assert anchors[-1, 2].item() == pytest.approx(406.37)
    output = RetinaFaceNetwork(config).eval()(torch.zeros(1, 3, 64, 70, dtype=torch.uint8))
    assert output.sizes == [(16, 18), (8, 9), (4, 5), (2, 3), (1, 2)]
    assert output.face_logits.shape[1] == len(config.anchor_boxes(output.sizes))
    preset = load_config(ProposerRecipe, "proposers/retinaface_paper").network
    assert preset.anchors == SIDES and preset.levels == config.levels


def test_aspects_by_hand():
    config = RetinaFaceConfig(anchors=((16,), (32,), (64,)), aspects=(1.0, 2.0, 0.5))
    assert config.level_sides[0][0] == (16, 16)
    assert config.level_sides[0][1] == pytest.approx((11.3137, 22.6274), abs=1e-4)
    assert config.level_sides[0][2] == pytest.approx((22.6274, 11.3137), abs=1e-4)
    assert config.anchors_per_cell == 3
    output = RetinaFaceNetwork(config).eval()(torch.zeros(1, 3, 32, 32, dtype=torch.uint8))
    assert output.boxes.shape == (1, 3 * (16 + 4 + 1), 4)


def test_anchors_may_be_width_and_height():
    config = load_config(RetinaFaceConfig, None, ["anchors=[[[8, 10], 12], [[20, 25], 30], [[50, 60], 70]]"])
    assert config.anchors[0] == ((8, 10), 12)
    assert config.anchor_boxes([(1, 1), (1, 1), (1, 1)])[:2].tolist() == [[4, 4, 8, 10], [4, 4, 12, 12]]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"levels": (3, 5)}, "levels are neighbours from 2 to 6"),
        ({"levels": (2, 3, 4)}, "levels are neighbours from 2 to 6"),
        ({"levels": (2, 3, 4, 5, 6)}, "anchors are 5 lists"),
        ({"anchors": (((8, 10, 12),), (16,), (32,))}, "anchors are 3 lists"),
        ({"aspects": (0.0,)}, "aspects are numbers above 0"),
        ({"aspects": (2.0,), "anchors": (((8, 10),), (16,), (32,))}, "for anchors that are sides of squares"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        RetinaFaceConfig(**settings)


ANCHOR = torch.tensor([[64.0, 64, 40, 50]])
OFFSETS = torch.tensor([[5.0, -2, math.log(2) / 0.2, 0]])  # of the first step
FACE_84 = Faces(torch.tensor([[44.0, 34, 124, 84]]), torch.tensor([False]), torch.full((1, 10), torch.nan))


def test_two_steps_by_hand():
    first = move_anchors(OFFSETS, ANCHOR, (0.1, 0.2))
    assert first.tolist()[0] == pytest.approx([84, 54, 80, 50], abs=1e-4)
    second = move_anchors(torch.tensor([[1.0, 1, 0, 0]]), first, (0.1, 0.2))
    assert second.tolist()[0] == pytest.approx([92, 59, 80, 50], abs=1e-4)


def test_a_moved_anchor_matches_a_face_that_it_did_not_match_before():
    overlaps = [box_iou(box_convert(one, "cxcywh", "xyxy"), FACE_84.boxes).item()
                for one in (ANCHOR, move_anchors(OFFSETS, ANCHOR, (0.1, 0.2)))]  # fmt: skip
    assert overlaps == pytest.approx([0.42857, 0.81818], abs=1e-5)
    for thresholds in ({"positive_iou": 0.7, "negative_iou": 0.3}, {"positive_iou": 0.5, "negative_iou": 0.4}):
        config = MatchingConfig(**thresholds, rescue_iou=1.0)
        assert match_anchors(FACE_84, ANCHOR, (0.1, 0.2), config).labels.tolist() == [IGNORED]
    moved = match_moved(OFFSETS[None], [FACE_84], ANCHOR, (0.1, 0.2), SecondMatching(rescue_iou=1.0))
    assert moved.labels.tolist() == [[MATCHED]]
    assert moved.boxes[0, 0].tolist() == pytest.approx([0, 1, 0, 0], abs=1e-4)  # 5 px down: a tenth of the side


def test_losses_of_both_steps_add_up():
    # Smooth-L1 of (0.5, 2, 0, 0) is 1.625 in the first step and of (1.5, 0, 0, 0) is 1 in the second.
    wanted = Targets(torch.tensor([[MATCHED]]), torch.zeros(1, 1, 4), torch.full((1, 1, 10), torch.nan))
    said = First(torch.zeros(1, 1), torch.tensor([[[0.5, 2.0, 0, 0]]]), torch.zeros(1, 1, 10))
    output = Output(torch.zeros(1, 1), torch.tensor([[[1.5, 0.0, 0, 0]]]), torch.zeros(1, 1, 10), [(1, 1)], said)
    config = DetectionLossConfig(box_weight=1.0)
    terms = cascade_losses(output, wanted, wanted, config)
    assert terms["box_first"].item() == pytest.approx(1.625) and terms["box"].item() == pytest.approx(1.0)
    assert weighted_sum(terms, config).item() == pytest.approx(2.625 + 2 * math.log(2))


def test_a_cascade_decodes_from_moved_anchors():
    network = RetinaFaceNetwork(RetinaFaceConfig(cascade=True, anchors=((40.0,), (64.0,), (128.0,))))
    said = First(torch.zeros(1, 1), torch.tensor([[[1.0, 0, 0, 0]]]), torch.zeros(1, 1, 10))
    output = Output(
        torch.zeros(1, 1), torch.tensor([[[0.0, 1, 0, 0]]]), torch.zeros(1, 1, 10), [(1, 1)] + 2 * [(0, 0)], said
    )
    boxes, points = network.decode(output, torch.tensor([0]))
    assert boxes.tolist() == [[[-12, -12, 28, 28]]]  # the anchor's centre (4, 4) moves 4 px right, then 4 px down
    assert points is not None and points[0, 0].tolist() == [8, 4] * 5


def test_the_first_step_gets_no_gradient_from_the_second():
    torch.manual_seed(0)
    recipe = ProposerRecipe(network=RetinaFaceConfig(cascade=True), pictures=PictureConfig(size=64))
    network = recipe.build().train()
    output = network(torch.rand(2, 3, 64, 64) * 255)
    targets = [recipe.matcher(64)(FACE_84) for _ in range(2)]
    batch = PictureBatch(
        torch.zeros(2, 3, 64, 64), [FACE_84] * 2, Targets(*map(torch.stack, zip(*targets, strict=True)))
    )
    terms = recipe.terms(network, output, batch)
    assert set(terms) == {f"{n}{s}" for n in ("classification", "box", "landmarks") for s in ("", "_first")}
    (terms["box"] + terms["classification"]).backward()
    assert all(
        one.grad is None or not one.grad.any() for one in (*network.BboxHead.parameters(), *network.ssh1.parameters())
    )
    assert any(one.grad is not None and one.grad.any() for one in network.second.parameters())


def test_weights_of_one_step_do_not_fit_a_cascade():
    with pytest.raises(CheckpointError, match="missing"):
        RetinaFaceNetwork(RetinaFaceConfig(cascade=True)).load_weights(WEIGHTS)


def test_a_negative_overview_is_refused():
    with pytest.raises(ValueError, match="overview_px"):
        RetinaFaceConfig(overview_px=-1)
