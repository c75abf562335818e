import numpy as np
import pytest

from proposals.train.mining import MiningConfig, hard_negatives
from tinygan.boxes import iou
from tinygan.detections import Detections

# A face, and boxes that overlap it by IoU 0, 0.1, 0 and 0.45.
FACE = np.array([[0.0, 0, 100, 100]])
BOXES = np.array([[500.0, 0, 600, 100], [0, 0, 10, 100], [500, 500, 600, 600], [0, 0, 45, 100]])
FOUND = Detections(BOXES, np.array([0.95, 0.6, 0.4, 0.7]))


def test_hard_negatives_by_hand():
    assert iou(BOXES, FACE)[:, 0] == pytest.approx([0, 0.1, 0, 0.45])
    mined = hard_negatives(FOUND, FACE, MiningConfig())
    assert mined.boxes.tolist() == [BOXES[1].tolist()] and mined.scores.tolist() == [0.6]


def test_an_image_without_faces_gives_all_between_the_scores():
    assert hard_negatives(FOUND, np.zeros((0, 4)), MiningConfig()).scores.tolist() == [0.7, 0.6]
    assert hard_negatives(FOUND, np.zeros((0, 4)), MiningConfig(per_image=1)).scores.tolist() == [0.7]
    assert len(hard_negatives(Detections.empty(), FACE, MiningConfig())) == 0


@pytest.mark.parametrize("settings", [{"min_score": 0.95}, {"max_iou": 0.0}, {"per_image": 0}])
def test_settings_that_make_no_sense_are_refused(settings):
    with pytest.raises(ValueError):
        MiningConfig(**settings)
