"""OpenCV's YuNet as a proposer gives what OpenCV gives."""

import sys

import numpy as np
import pytest
import torch
from PIL import Image
from skimage import data

from proposals.adapters.opencv import OpenCvConfig, build_opencv
from tinygan.errors import CheckpointError, MissingDependency

ASTRONAUT = data.astronaut()


def test_boxes_landmarks_and_scores_are_opencvs(shared_data, runtime):
    cv2 = pytest.importorskip("cv2")
    weights = shared_data / "weights/yunet_n_640_640.onnx"
    detector = cv2.FaceDetectorYN.create(str(weights), "", (512, 512), 0.02, 0.4, 5000)
    _, faces = detector.detect(np.ascontiguousarray(ASTRONAUT[:, :, ::-1]))
    image = torch.from_numpy(ASTRONAUT).permute(2, 0, 1)
    (found,) = build_opencv(OpenCvConfig(), weights, runtime).propose([image])
    (best,) = faces[faces[:, 14] > 0.5]
    assert found.boxes[0] == pytest.approx([best[0], best[1], best[0] + best[2], best[1] + best[3]], abs=1e-3)
    assert found.scores[0] == pytest.approx(best[14], abs=1e-6)
    assert found.fields["landmarks"][0] == pytest.approx(best[4:14], abs=1e-3)
    small = torch.from_numpy(np.array(Image.fromarray(ASTRONAUT).resize((300, 200)))).permute(2, 0, 1)
    sliced = build_opencv(OpenCvConfig(slice_px=256), weights, runtime).propose([small])[0]
    assert (sliced.scores > 0.5).sum() == 1, "a picture of another size, in tiles"


def test_what_is_missing_is_said(tmp_path, runtime, monkeypatch):
    with pytest.raises(ValueError, match="score_threshold lies in"):
        OpenCvConfig(score_threshold=-1)
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(
        MissingDependency, match=r"'yunet-opencv' needs the package cv2: pip install 'tinygan\[opencv\]'"
    ):
        build_opencv(OpenCvConfig(), None, runtime)
    monkeypatch.undo()
    pytest.importorskip("cv2")
    with pytest.raises(CheckpointError, match="no such file; expected a YuNet in an ONNX file"):
        build_opencv(OpenCvConfig(), tmp_path / "none.onnx", runtime)
    (tmp_path / "text.onnx").write_text("no graph")
    with pytest.raises(CheckpointError, match="expected a YuNet in an ONNX file:") as caught:
        build_opencv(OpenCvConfig(), tmp_path / "text.onnx", runtime)
    assert "\n" not in str(caught.value)
