"""What RetinaFace does with an image's size."""

import numpy as np
import pytest
import torch
from PIL import Image
from skimage import data

from proposals.retinaface import RetinaFaceConfig, build_retinaface
from tinygan.boxes import iou
from tinygan.checkpoint import packaged_weights

WEIGHTS = packaged_weights("retinaface_mobilenet025")
FACE = np.array([[179.0, 55, 270, 178]])  # scikit-image's astronaut, 512 px


def test_only_much_longer_images_get_an_overview():
    config = RetinaFaceConfig(overview_px=1000)
    assert config.overview_of(1999) is None and config.overview_of(2000) == 0.5
    assert RetinaFaceConfig().overview_of(9999) is None


def test_an_overview_finds_a_face_larger_than_the_anchors(runtime):
    large = Image.fromarray(data.astronaut()).resize((4096, 4096), Image.Resampling.BICUBIC)
    image = torch.from_numpy(np.array(large)).permute(2, 0, 1)

    def sure(**settings):
        (found,) = build_retinaface(RetinaFaceConfig(**settings), WEIGHTS, runtime).propose([image])
        return found[found.scores > 0.5]

    plain, overview = sure(), sure(overview_px=640)
    assert not (iou(plain.boxes, 8 * FACE) > 0.5).any()
    assert iou(overview.boxes[:1], 8 * FACE)[0, 0] > 0.6


def test_a_negative_overview_is_refused():
    with pytest.raises(ValueError, match="overview_px"):
        RetinaFaceConfig(overview_px=-1)
