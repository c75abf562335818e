"""facenet-pytorch's MTCNN as a proposer, with its own weights."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from skimage import data

from proposals.adapters.mtcnn import MtcnnConfig, build_mtcnn
from tinygan.errors import CheckpointError, MissingDependency


@pytest.mark.integration
def test_it_finds_what_it_finds_alone(runtime):
    package = pytest.importorskip("facenet_pytorch")
    astronaut = data.astronaut()
    boxes, scores, points = package.MTCNN(keep_all=True, min_face_size=40, device="cpu").detect(astronaut, True)
    image = torch.from_numpy(astronaut).permute(2, 0, 1)
    (found,) = build_mtcnn(MtcnnConfig(min_face_px=40), None, runtime).propose([image])
    assert len(found) == len(boxes) and found.scores.max() == pytest.approx(scores.max())
    best = scores.argmax()
    assert np.abs(found.boxes[0] - boxes[best]).max() < 1e-3
    assert np.abs(found.fields["landmarks"][0] - points[best].reshape(-1)).max() < 1e-3


def test_what_is_missing_is_said(runtime, monkeypatch):
    with pytest.raises(CheckpointError, match="takes no weights; facenet-pytorch brings them"):
        build_mtcnn(MtcnnConfig(), Path("weights.pth"), runtime)
    monkeypatch.setitem(sys.modules, "facenet_pytorch", None)
    with pytest.raises(MissingDependency, match=r"facenet-pytorch and requests .*: pip install requests, then"):
        build_mtcnn(MtcnnConfig(), None, runtime)
    with pytest.raises(ValueError, match="thresholds are three numbers"):
        MtcnnConfig(thresholds=(0.5,))
