import numpy as np
import pytest

from tinygan.detections import Detections
from tinygan.formats.spool import Spool


def test_detections_come_back_bit_for_bit_in_any_order():
    rng = np.random.default_rng(0)
    spool, kept = Spool(), {}
    for number in range(5):
        corner = rng.uniform(0, 50, (number, 2))
        kept[str(number)] = Detections(np.concatenate([corner, corner + 0.1], axis=1), rng.uniform(0, 1, number))
        spool.add(str(number), kept[str(number)])
    for name in ("3", "0", "4", "1", "2", "4"):
        assert np.array_equal(spool[name].boxes, kept[name].boxes)
        assert np.array_equal(spool[name].scores, kept[name].scores)
    assert list(spool) == list("01234") and len(spool) == 5
    with pytest.raises(KeyError):
        spool["5"]


def test_fields_stay():
    spool = Spool()
    spool.add("a", Detections(np.array([[0.0, 0, 1, 1]]), np.array([0.5]), {"blur": np.array([2.0])}))
    assert spool["a"].fields["blur"].tolist() == [2.0]
