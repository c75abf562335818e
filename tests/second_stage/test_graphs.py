"""What is exported answers as what the second stage runs."""

import numpy as np
import pytest
import torch

from tinygan.checkpoint import load_checkpoint, packaged_weights
from tinygan.models.graphs import to_onnx
from tinygan.runtime import Runtime, RuntimeOptions
from tinygan.second_stage.graphs import second_stage_graphs
from tinygan.second_stage.judge import Judge

LITE = packaged_weights("lite")
OTHERS = ["onnxruntime", "openvino"]


def judge_of(path, backend):
    options = RuntimeOptions(device="cpu", precision="32", threads=1, backend=backend)
    return Judge.from_weights(load_checkpoint(path, ("fused",)), Runtime(options))


def patches(count, size, seed):
    """Smooth pictures with some contrast, as photographs have."""
    coarse = torch.rand(count, 3, 6, 6, generator=torch.Generator().manual_seed(seed))
    smooth = torch.nn.functional.interpolate(coarse, size=(size, size), mode="bicubic", antialias=True).clamp(0, 1)
    return (smooth * 255).byte().permute(0, 2, 3, 1).contiguous().numpy()


@pytest.mark.parametrize("backend", OTHERS)
def test_lite_judges_alike_by_every_backend(backend):
    pytest.importorskip(backend)
    small, large, wide = patches(2, 16, 0), patches(5, 64, 1), patches(7, 96, 2)
    plain, other = judge_of(LITE, "torch"), judge_of(LITE, backend)
    (logits, boxes), (other_logits, other_boxes) = (judge.judge(small, large, wide) for judge in (plain, other))
    assert np.ptp(logits) > 0.5, "or equal answers would say little"
    assert other_logits == pytest.approx(logits, abs=1e-3) and other_boxes == pytest.approx(boxes, abs=1e-3)
    one = other.judge(small[:0], large[2:3], wide[4:5])[0]
    assert one == pytest.approx(logits[4:5], abs=1e-3), "in a batch of any size"


@pytest.mark.parametrize("backend", OTHERS)
def test_a_judge_without_surroundings_and_third_head_judges_alike(backend, checkpoint):
    pytest.importorskip(backend)
    small, large = patches(3, 8, 0), patches(2, 32, 1)
    (logits, boxes), (other_logits, other_boxes) = (
        judge_of(checkpoint, one).judge(small, large) for one in ("torch", backend)
    )
    assert other_logits == pytest.approx(logits, abs=1e-3)
    assert np.isnan(boxes).all() and np.isnan(other_boxes).all() and other_boxes.shape == (5, 4)


def test_the_exported_judge_is_the_one_that_is_used():
    onnxruntime = pytest.importorskip("onnxruntime")
    graphs = second_stage_graphs(load_checkpoint(LITE, ("fused",)))
    assert [graph.name for graph in graphs] == ["judge", "discriminator", "generator", "second_judge"]
    judge, discriminator = graphs[:2]
    large, wide = patches(3, 64, 1), patches(3, 96, 2)
    logits, boxes = judge_of(LITE, "torch").judge(patches(0, 16, 0), large, wide)
    inputs = {
        name: pixels.transpose(0, 3, 1, 2).astype(np.float32) / 255
        for name, pixels in (("crops", large), ("surroundings", wide))
    }
    session = onnxruntime.InferenceSession(to_onnx(judge), providers=["CPUExecutionProvider"])
    face_logit, box = session.run(["face_logit", "box"], inputs)
    assert face_logit == pytest.approx(logits, abs=1e-3) and box == pytest.approx(boxes, abs=1e-3)
    session = onnxruntime.InferenceSession(to_onnx(discriminator), providers=["CPUExecutionProvider"])
    real_logit, face_logit = session.run(["real_logit", "face_logit"], inputs)
    assert face_logit == pytest.approx(logits, abs=1e-3) and not np.allclose(real_logit, face_logit)
    again, box = judge_of(LITE, "torch").judge(patches(0, 16, 0), large, wide, again=True)  # sees mirror images
    session = onnxruntime.InferenceSession(to_onnx(graphs[3]), providers=["CPUExecutionProvider"])
    face_logit, found = session.run(["face_logit", "box"], {name: each[..., ::-1] for name, each in inputs.items()})
    assert face_logit == pytest.approx(again, abs=1e-3) and found[:, 1] == pytest.approx(box[:, 1], abs=1e-3)
    assert found[:, 0] == pytest.approx(-box[:, 2], abs=1e-3)
    assert "2 x the longer side of the proposal" in judge.facts()["input crops"]
