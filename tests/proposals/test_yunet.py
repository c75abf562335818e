"""YuNet: decoding by hand, public weights, and parity with onnxruntime."""

import warnings
from copy import deepcopy

import numpy as np
import pytest
import torch
from skimage import data
from torch import nn

from proposals.yunet import (
    YuNetConfig,
    YuNetNetwork,
    YuNetOutput,
    build_yunet,
    cells,
    onnx_tensors,
    place_boxes,
    place_landmarks,
)
from tinygan.boxes import iou
from tinygan.errors import CheckpointError
from tinygan.formats.images import read_image
from tinygan.formats.registry import open_detections
from tinygan.formats.wider import load_split
from tinygan.models.folding import fold_batch_norm
from tinygan.proposers import choose_proposer

STRIDES = (8, 16, 32)
PUBLIC = ["yunet_n_dynamic.onnx", "yunet_n_640_640.onnx"]


def test_cells_level_by_level_row_by_row():
    found = cells([(2, 3), (1, 1)], (8, 16))
    wanted = [[0, 0, 8], [8, 0, 8], [16, 0, 8], [0, 8, 8], [8, 8, 8], [16, 8, 8], [0, 0, 16]]
    assert found.tolist() == wanted


def test_boxes_and_points_by_hand():
    # The cell at (16, 8) of stride 8: the centre half a cell to the right, twice as wide and as high as a cell.
    where = torch.tensor([[16.0, 8, 8]])
    answer = torch.tensor([[0.5, 0.0, np.log(2), np.log(2)]])
    assert place_boxes(answer, where)[0].tolist() == pytest.approx([12, 0, 28, 16])
    points = place_landmarks(torch.tensor([[0.0, 0, 1, 0, 0, 1, -1, -1, 0.25, 0.5]]), where)
    assert points[0].tolist() == [16, 8, 24, 8, 16, 16, 8, 0, 18, 12]
    assert place_boxes(torch.full((1, 4), 1e9), where).isfinite().all()


@pytest.mark.parametrize(("share", "score"), [(0.5, 0.6), (1, 0.9), (0, 0.4), (0.3, 0.9**0.3 * 0.4**0.7)])
def test_the_score_is_a_weighted_geometric_mean_of_both(share, score):
    faces, objects = torch.logit(torch.tensor([[0.9, 0.5]])), torch.logit(torch.tensor([[0.4, 0.5]]))
    output = YuNetOutput(faces, objects, torch.zeros(1, 2, 4), torch.zeros(1, 2, 10), [])
    network = YuNetNetwork(YuNetConfig(class_share=share))
    assert network.scores(output)[0].tolist() == pytest.approx([score, 0.5])


def test_a_class_share_that_is_none_is_refused():
    with pytest.raises(ValueError, match=r"class_share lies in \[0, 1\], got 1.5"):
        YuNetConfig(class_share=1.5)


@pytest.mark.parametrize(("fine", "count", "sizes"), [(False, 126, 3), (True, 510, 4)])
def test_any_size_is_padded_to_whole_cells(fine, count, sizes):
    network = YuNetNetwork(YuNetConfig(fine=fine)).eval()
    output = network(torch.zeros(2, 3, 33, 90, dtype=torch.uint8))  # padded to 64 x 96
    assert output.class_logits.shape == (2, count) and len(output.sizes) == sizes
    assert len(cells(output.sizes, network.config.strides)) == count


@pytest.mark.parametrize("fine", [False, True])
def test_a_deployed_network_answers_as_before(fine):
    torch.manual_seed(0)
    network = YuNetNetwork(YuNetConfig(fine=fine)).eval()
    picture = torch.randint(0, 256, (1, 3, 64, 96), dtype=torch.uint8)
    with torch.inference_mode():
        before = network(picture)
        network.deploy()
        after = network(picture)
    for old, new in zip(before[:4], after[:4], strict=True):
        assert torch.allclose(old, new, atol=1e-4)


def test_as_many_parameters_as_the_public_one():
    assert sum(parameter.numel() for parameter in YuNetNetwork(YuNetConfig()).parameters()) == 73_840


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """An ONNX file of a YuNet with random weights, its batch normalisation folded by the exporter, and the network."""
    pytest.importorskip("onnx", reason="writes an ONNX file; pip install onnx")

    class Plain(nn.Module):
        def __init__(self, network):
            super().__init__()
            self.backbone, self.neck, self.bbox_head = network.backbone, network.neck, network.bbox_head
            self.backbone.model0.conv1.weight.data /= 255  # the public ones see colours in [0, 255]

        def forward(self, pictures):
            return tuple(self.bbox_head(self.neck(self.backbone(pictures))))

    torch.manual_seed(0)
    network = YuNetNetwork(YuNetConfig(norm=True))
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -1, 1)
            nn.init.uniform_(module.running_var, 0.5, 2)
            nn.init.uniform_(module.weight, 1, 2)
    file = tmp_path_factory.mktemp("onnx") / "net.onnx"
    example = torch.rand(1, 3, 64, 96)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # this exporter is the one whose files are like the public ones
        torch.onnx.export(Plain(deepcopy(network.eval())), (example,), str(file), dynamo=False, opset_version=11)
    return file, network


def test_weights_of_an_onnx_file_are_those_of_the_folded_network(exported):
    file, network = exported
    assert "backbone.model0.conv2.conv2.weight" not in file.read_bytes().decode("latin1"), "folded: the name is lost"
    loaded = YuNetNetwork(YuNetConfig())
    loaded.load_weights(file)
    folded = fold_batch_norm(deepcopy(network))
    pictures = torch.randint(0, 256, (1, 3, 64, 96), dtype=torch.uint8)
    for ours, theirs in zip(loaded.eval()(pictures)[:4], folded(pictures)[:4], strict=True):
        assert torch.allclose(ours, theirs, atol=1e-4) and theirs.std() > 1e-3


def answers_of_onnxruntime(file, pictures):
    """The file's twelve outputs joined as ours are: class and object probabilities, boxes, landmarks."""
    onnxruntime = pytest.importorskip("onnxruntime", reason="compares with onnxruntime; pip install onnxruntime")
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    made = session.run(None, {session.get_inputs()[0].name: pictures.flip(1).float().numpy()})
    by_name = dict(zip(names, made, strict=True))
    kinds = ("cls", "obj", "bbox", "kps")
    return [torch.from_numpy(np.concatenate([by_name[f"{kind}_{s}"] for s in STRIDES], axis=1)) for kind in kinds]


@pytest.mark.parametrize("name", PUBLIC)
def test_public_weights_answer_as_in_onnxruntime(shared_data, name):
    file = shared_data / "weights" / name
    network = YuNetNetwork(YuNetConfig()).eval()
    network.load_weights(file)
    generator = torch.Generator().manual_seed(0)
    pictures = torch.randint(0, 256, (1, 3, 640, 640), dtype=torch.uint8, generator=generator)
    faces, objects, boxes, points = answers_of_onnxruntime(file, pictures)
    with torch.inference_mode():
        output = network(pictures)
    assert torch.allclose(torch.sigmoid(output.class_logits), faces[..., 0], atol=1e-4)
    assert torch.allclose(torch.sigmoid(output.object_logits), objects[..., 0], atol=1e-4)
    assert torch.allclose(output.boxes, boxes, atol=1e-4) and torch.allclose(output.landmarks, points, atol=1e-4)


def test_every_layer_of_the_public_weights_is_read(shared_data):
    tensors = onnx_tensors(shared_data / "weights" / PUBLIC[0])
    assert tensors.keys() == YuNetNetwork(YuNetConfig()).state_dict().keys()


def test_the_first_layer_learns_no_faster_than_the_others(shared_data):
    """With colours in [0, 255] it learnt thousands of times as fast, which destroyed the public weights."""
    network = YuNetNetwork(YuNetConfig())
    network.load_weights(shared_data / "weights" / PUBLIC[0])
    pictures = torch.randint(0, 256, (1, 3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    sum(answer.square().mean() for answer in network(pictures)[:4]).backward()
    weights = {name: one for name, one in network.named_parameters() if name.endswith("weight")}
    speed = {name: float(one.grad.norm() / one.detach().norm()) for name, one in weights.items()}
    assert speed["backbone.model0.conv1.weight"] < 10 * np.median(list(speed.values()))


def test_boxes_are_those_that_opencv_found(shared_data, runtime, monkeypatch):
    """The file of proposals was written by OpenCV's FaceDetectorYN, whose NMS sees whole pixels; a few boxes differ.

    It fills pictures up to multiples of 32; with 64 px some boxes at the black border get other scores.
    """
    monkeypatch.setattr(YuNetNetwork, "side_step", 32)
    split = load_split(shared_data / "widerface", "val")
    theirs = open_detections(shared_data / "proposals/zoo/yunet_n.tar.gz")
    detector = build_yunet(
        YuNetConfig(class_share=0.5, nms_iou=0.45, overview_px=0, zoom=(), mirror_unsure=0, doubt=0),
        shared_data / "weights" / PUBLIC[0],
        runtime,
    )
    overlaps, pairs = [], []
    for name in list(split.faces)[::13][:20]:
        image = torch.from_numpy(np.array(read_image(split.images / name))).permute(2, 0, 1)
        (found,) = detector.propose([image])
        key = next(key for key in theirs if key.removesuffix(".jpg").endswith(name.removesuffix(".jpg")))
        best = theirs[key].sorted()[:20]
        matched = iou(best.boxes, found.boxes)
        overlaps += list(matched.max(axis=1))
        pairs += list(zip(best.scores, found.scores[matched.argmax(axis=1)], strict=True))
    assert len(overlaps) == 400 and np.mean(overlaps) > 0.97
    assert np.corrcoef(np.array(pairs).T)[0, 1] > 0.999


def test_the_fine_level_starts_as_a_copy_of_the_next(exported):
    network = YuNetNetwork(YuNetConfig(fine=True))
    network.load_weights(exported[0])
    state = network.state_dict()
    for name in ("multi_level_cls", "multi_level_bbox", "multi_level_obj", "multi_level_kps"):
        assert torch.equal(state[f"bbox_head.{name}.3.conv1.weight"], state[f"bbox_head.{name}.0.conv1.weight"])
    assert torch.equal(state["neck.fine.conv2.bias"], state["neck.lateral_convs.0.conv2.bias"])


def test_folded_weights_get_their_normalisation_back_and_answer_as_before(exported):
    plain, normed = (YuNetNetwork(YuNetConfig(fine=True, norm=norm)) for norm in (False, True))
    pictures = torch.randint(0, 256, (4, 3, 64, 96), dtype=torch.uint8)
    for network in (plain, normed):
        network.load_weights(exported[0])
        network.before_training(pictures)
    norm = normed.backbone.model3.conv1.bn
    assert norm.running_var.min() > 0 and norm.weight.std() > 0.01
    before = [answer.detach() for answer in plain.eval()(pictures)[:4]]
    for mode in (normed.eval(), normed.train()):  # the running statistics are the pictures' own
        for ours, theirs in zip(mode(pictures)[:4], before, strict=True):
            assert torch.allclose(ours, theirs, atol=1e-3 * float(theirs.abs().max()))


def test_weights_that_do_not_fit_say_what_to_set(exported, shared_data, tmp_path):
    file = tmp_path / "trained.pth"
    torch.save(exported[1].state_dict(), file)
    with pytest.raises(
        CheckpointError, match=r"not the weights of YuNet: .*these have batch normalisation: set norm=t"
    ):
        YuNetNetwork(YuNetConfig()).load_weights(file)
    with pytest.raises(CheckpointError, match="expected layers backbone, neck and bbox_head"):
        YuNetNetwork(YuNetConfig()).load_weights(shared_data / "weights/retinaface_mobilenet025.pth")


def test_without_weights_those_that_ship_find_the_astronaut(runtime):
    picture = torch.from_numpy(data.astronaut()).permute(2, 0, 1)
    (found,) = choose_proposer("yunet").build(runtime).propose([picture])
    assert found.scores[0] > 0.9 and iou(found.boxes[:1], np.array([[179.0, 55, 270, 178]]))[0, 0] > 0.6


def test_a_face_larger_than_a_picture_of_tiny_size_is_no_error(runtime, exported):
    detector = build_yunet(YuNetConfig(score_threshold=0.0), exported[0], runtime)
    for height, width in ((1, 1), (5, 300)):
        (found,) = detector.propose([torch.full((3, height, width), 128, dtype=torch.uint8)])
        assert np.isfinite(found.boxes).all()
