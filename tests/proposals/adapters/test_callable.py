"""Somebody's function as a proposer: what it does wrong is said in one line."""

import numpy as np
import pytest
import torch

from proposals.adapters.callable import CallableProposer
from tinygan.errors import DataError

IMAGE = torch.zeros(3, 20, 30, dtype=torch.uint8)


def test_a_function_that_fails_is_named():
    def fails(image):
        raise ModuleNotFoundError("No module named 'cv2'")

    with pytest.raises(DataError, match=r"mine:find failed: ModuleNotFoundError: No module named 'cv2'; .* --debug"):
        CallableProposer(fails, name="mine:find").propose([IMAGE])


@pytest.mark.parametrize(
    "answer", [7, (None, [0.5]), np.zeros((3, 4)), (np.zeros((2, 4)), np.zeros(3)), ([[0, 0, 1, np.nan]], [1])]
)
def test_answers_that_are_no_boxes_and_scores(answer):
    with pytest.raises(DataError, match=r"mine:find: expected boxes \[N, 4\] and scores \[N\]"):
        CallableProposer(lambda image: answer, name="mine:find").propose([IMAGE])
