"""Any detector in views: faces are found once, where they are, and in bounded memory."""

import numpy as np
import pytest
import torch

from proposals.adapters.viewed import AdapterConfig, Viewed
from tinygan.detections import Detections


class Bright:
    """Boxes everything bright, at whatever size it is shown; notes the sizes."""

    def __init__(self):
        self.seen = []

    def propose(self, images):
        found = []
        for image in images:
            self.seen.append(tuple(image.shape[1:]))
            rows, columns = (image[0] > 128).nonzero().T
            box = [[columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]] if len(rows) else np.zeros((0, 4))
            boxes = np.array(box, dtype=float)
            fields = {"landmarks": np.tile(boxes[:, :2], 5), "number": np.full(len(boxes), 7)}
            found.append(Detections(boxes, np.ones(len(boxes)), fields))
        return found


def picture(height, width, left, top):
    image = torch.zeros(3, height, width, dtype=torch.uint8)
    image[:, top : top + 20, left : left + 30] = 255
    return image


@pytest.mark.parametrize(
    "settings", [{}, {"scales": (2.0,)}, {"scales": (1.0, 2.0)}, {"slice_px": 640}, {"slice_px": 300, "scales": (2.0,)}]
)
def test_a_face_is_found_once_with_its_landmarks(settings):
    (found,) = Viewed(Bright(), AdapterConfig(**settings)).propose([picture(900, 1000, 600, 400)])
    assert len(found) == 1
    assert np.abs(found.boxes[0] - [600, 400, 630, 420]).max() <= 2
    assert np.abs(found.fields["landmarks"][0] - np.tile([600, 400], 5)).max() <= 2
    assert found.fields["number"].tolist() == [7]


def test_alone_it_is_left_as_it_is():
    first, image = Bright(), picture(50, 60, 3, 4)
    (found,), (alone,) = Viewed(first, AdapterConfig()).propose([image]), first.propose([image])
    assert np.array_equal(found.boxes, alone.boxes) and first.seen == [(50, 60)] * 2


def test_nothing_larger_than_max_side_px_is_shown():
    first = Bright()
    (found,) = Viewed(first, AdapterConfig(max_side_px=500)).propose([picture(900, 1000, 600, 400)])
    assert first.seen == [(450, 500)] and np.abs(found.boxes[0] - [600, 400, 630, 420]).max() <= 2
    Viewed(first, AdapterConfig(max_side_px=0)).propose([picture(10, 9000, 600, 0)])
    assert first.seen[-1] == (10, 9000)


def test_views_in_which_nothing_is_found():
    (found,) = Viewed(Bright(), AdapterConfig(slice_px=64)).propose([torch.zeros(3, 200, 200, dtype=torch.uint8)])
    assert len(found) == 0
