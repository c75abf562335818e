"""What every installed proposer promises (see ``tinygan.proposers.Proposer``), with random weights."""

import sys
import types

import numpy as np
import pytest
import torch
from torch import nn

from tinygan.config import load_config
from tinygan.models.graphs import Graph, Port, to_onnx
from tinygan.proposers import build_proposer, find_proposer, proposer_names

# Random weights score everything near 0.5, and boxes reach beyond the image: nothing is dropped unseen.
OVERRIDES = {
    "callable": ["function=tests_contract_function:detect"],
    "yunet": ["score_threshold=0"],  # but YuNet's, which start near 0.02
    "onnx": ["decode=rows", "columns=5", "multiple=8", "nms_iou=0.9"],
    "yunet-opencv": ["score_threshold=0"],
    "mtcnn": ["thresholds=[0.1, 0.1, 0.1]"],
    "torchvision": ["model=fasterrcnn_mobilenet_v3_large_320_fpn", "score_threshold=0"],
}
NEEDS = {"yunet-opencv": "cv2", "mtcnn": "facenet_pytorch"}
MORE = [
    ("retinaface", ("backbone=resnet50",)),
    ("retinaface", ("cascade=true",)),
    ("yunet", ("fine=true", "norm=true")),
    ("refineface", ("backbone=mobilenet025", "str_levels=[2]", "stc_levels=[7]", "prior=0.5")),
]
BUILDS = [(name, ()) for name in proposer_names()] + MORE
FACES = 40  # of the function


def detect(image):
    """A detector with boxes beyond every border, some wholly outside, in no order; none in tiny pictures."""
    height, width = image.shape[:2]
    if min(height, width) < 8:
        return np.zeros((0, 4)), np.zeros(0)
    rng = np.random.default_rng(int(image.sum()))
    corner = rng.uniform(-0.2, 1.1, (FACES, 2)) * (width, height)
    return np.concatenate([corner, corner + rng.uniform(1, 30, (FACES, 2))], axis=1), rng.uniform(0, 1, FACES)


class Rows(nn.Module):
    """A row per square of 8 px: the centre, width and height of a box, and a score."""

    def __init__(self):
        super().__init__()
        self.said = nn.Conv2d(3, 5, 8, stride=8)

    def forward(self, pictures):
        said = self.said(pictures / 255).flatten(2).transpose(1, 2).sigmoid()
        return (torch.cat([said[..., :2] * 30, said[..., 2:4] * 60 + 1, said[..., 4:]], dim=-1),)


@pytest.fixture(scope="module")
def weights_of(request, tmp_path_factory):
    """The weights file of those that cannot be built without one."""

    def find(name):
        if name == "yunet-opencv":
            return request.getfixturevalue("shared_data") / "weights/yunet_n_dynamic.onnx"
        if name != "onnx":
            return None
        path = tmp_path_factory.mktemp("contract") / "rows.onnx"
        taken = Port("pictures", ("batch", 3, "height", "width"), "")
        path.write_bytes(to_onnx(Graph("rows", Rows(), (taken,), (Port("rows", ("batch", "places", 5), ""),))))
        return path

    return find


@pytest.fixture(scope="module", params=BUILDS, ids=lambda build: "-".join([build[0], *build[1]]))
def proposer(request, runtime, weights_of):
    name, more = request.param
    if name in NEEDS:
        pytest.importorskip(NEEDS[name])
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "tests_contract_function", types.SimpleNamespace(detect=detect))
        config = load_config(find_proposer(name).config, None, [*OVERRIDES.get(name, []), *more])
        torch.manual_seed(0)
        yield build_proposer(name, config, weights_of(name), runtime)


def check(found, image):
    """Rows that fit together, inside the image, by falling score."""
    height, width = image.shape[1:]
    assert found.boxes.dtype == found.scores.dtype == np.float64
    assert (found.boxes[:, :2] >= 0).all()
    assert (found.boxes[:, 2:] <= (width, height)).all()
    assert (found.boxes[:, 2:] > found.boxes[:, :2]).all()
    assert (np.diff(found.scores) <= 0).all()
    assert all(len(column) == len(found) for column in found.fields.values())


def same(first, second):
    columns = first.fields.keys() == second.fields.keys()
    rows = np.array_equal(first.boxes, second.boxes) and np.array_equal(first.scores, second.scores)
    return columns and rows and all(np.array_equal(first.fields[n], second.fields[n]) for n in first.fields)


def test_no_image_no_answer(proposer):
    assert proposer.propose([]) == []


@pytest.mark.parametrize(("height", "width"), [(1, 1), (3, 1500), (900, 2), (33, 65), (64, 64)])
def test_any_size(proposer, noise, height, width):
    image = noise(height, width)
    (found,) = proposer.propose([image])
    check(found, image)


def test_boxes_are_found_inside_the_image(proposer, noise):
    image = noise(96, 160)
    (found,) = proposer.propose([image])
    check(found, image)
    assert len(found) > 5  # or the checks above check nothing
    assert (found.boxes[:, :2] == 0).any() or (found.boxes[:, 2:] == (160, 96)).any()  # some were cut


def test_grey_image_and_one_colour(proposer, noise):
    grey = noise(70, 90)[:1].expand(3, -1, -1)  # three equal channels, one memory
    flat = torch.zeros(3, 40, 50, dtype=torch.uint8)
    for image, found in zip([grey, flat], proposer.propose([grey, flat]), strict=True):
        check(found, image)


def test_batch_equals_single_in_any_order(proposer, noise):
    images = [noise(64, 96, seed=1), noise(50, 40, seed=2), noise(64, 96, seed=3)]
    together, singly = proposer.propose(images), [proposer.propose([image])[0] for image in images]
    backwards = proposer.propose(images[::-1])[::-1]
    assert len(together) == 3
    assert all(same(a, b) and same(a, c) for a, b, c in zip(together, singly, backwards, strict=True))
    assert not same(together[0], together[2])


def test_same_image_same_boxes_and_image_untouched(proposer, noise):
    image = noise(80, 80)
    before = image.clone()
    first, second = proposer.propose([image]), proposer.propose([image.permute(1, 2, 0).contiguous().permute(2, 0, 1)])
    assert same(first[0], second[0]), "the layout in memory does not matter"
    assert torch.equal(image, before)


@pytest.mark.parametrize(
    "image",
    [
        torch.zeros(3, 8, 8),
        torch.zeros(1, 8, 8, dtype=torch.uint8),
        torch.zeros(8, 8, 3, dtype=torch.uint8),
        torch.zeros(1, 3, 8, 8, dtype=torch.uint8),
        torch.zeros(3, 0, 8, dtype=torch.uint8),
    ],
    ids=["float", "one channel", "channels last", "batch", "no pixel"],
)
def test_other_tensors_are_refused(proposer, image):
    with pytest.raises(ValueError, match=r"expected a uint8 RGB image \[3, H, W\], got"):
        proposer.propose([image])
