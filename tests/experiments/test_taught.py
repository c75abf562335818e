"""What a narrower network learns, and that a training goes on where it was cut off."""

import numpy as np
import pytest
import torch

from experiments.first_stage import taught
from experiments.first_stage.slim import cut
from experiments.first_stage.taught import Crops, Sample, Schedule, Teacher, train
from tests.experiments.conftest import NARROW
from tinygan.detections import GroundTruth
from tinygan.errors import ConfigError


@pytest.fixture
def crops():
    rng = np.random.default_rng(0)
    pictures = [torch.from_numpy(rng.integers(0, 256, (3, 90, 120), np.uint8)) for _ in range(2)]
    truth = GroundTruth(np.array([[20.0, 30, 40, 54], [80, 40, 84, 44]]), np.array([False, False]))
    return Crops(pictures, [truth, truth], side=64)


def test_a_crop_shows_what_its_boxes_say(crops):
    crops.pictures[0][:], crops.pictures[1][:] = 0, 0
    for picture in crops.pictures:
        picture[:, 30:54, 20:40] = 255
    for seed in range(20):
        sample = crops.draw(np.random.default_rng(seed))
        assert sample.pixels.shape == (3, 64, 64) and sample.pixels.dtype == torch.uint8
        left, top, right, bottom = sample.boxes[0].tolist()
        inside = sample.pixels[0, max(0, round(top) + 2) : max(0, round(bottom) - 2)]
        inside = inside[:, max(0, round(left) + 2) : max(0, round(right) - 2)]
        assert (inside > 200).all()
        seen = (sample.pixels > 128).sum().item() / 3
        shown = max(0, min(64, right) - max(0, left)) * max(0, min(64, bottom) - max(0, top))
        assert seen == pytest.approx(shown, abs=2 * (right - left + bottom - top) + 4)


def test_labels_are_half_of_what_is_learnt(whole):
    boxes = torch.tensor([[20.0, 20, 32, 36], [44, 8, 60, 24]])
    sample = Sample(torch.zeros(3, 64, 64, dtype=torch.uint8), boxes, torch.tensor([True, False]))
    teacher = Teacher(whole, 0.5)
    bare = teacher.say(sample.pixels[None], [sample._replace(boxes=boxes[:0], valid=torch.zeros(0, dtype=torch.bool))])
    told = teacher.say(sample.pixels[None], [sample])
    at = 28 // 4 * 16 + 26 // 4
    assert told.heat[0, at] == pytest.approx(0.5 + bare.heat[0, at].item(), abs=1e-4)  # 1 and the teacher's, halved
    assert told.sides[0, at].exp().tolist() == pytest.approx([4, 3]) and told.weights[0, at] == 1
    assert told.offsets[0, at].tolist() == pytest.approx([28 / 4 - 7.5, 26 / 4 - 6.5])
    unlabelled = 16 // 4 * 16 + 52 // 4  # invalid: the teacher's word alone
    assert told.heat[0, unlabelled] == pytest.approx(2 * bare.heat[0, unlabelled].item(), abs=1e-4)
    assert told.heat[0, 0] == pytest.approx(bare.heat[0, 0].item(), abs=1e-4)


def test_the_teacher_says_the_same_of_a_mirror_image(whole):
    pixels = torch.randint(0, 256, (1, 3, 64, 64), dtype=torch.uint8)
    nobody = Sample(pixels[0], torch.zeros(0, 4), torch.zeros(0, dtype=torch.bool))
    teacher = Teacher(whole, 0.5)
    straight, mirrored = teacher.say(pixels, [nobody]), teacher.say(pixels.flip(3), [nobody])
    assert torch.allclose(straight.heat, taught._turned(mirrored.heat), atol=1e-5)
    assert torch.allclose(straight.sides, taught._turned(mirrored.sides), atol=1e-5)


def test_a_training_goes_on_where_it_was_cut_off(whole, crops, tmp_path, monkeypatch):
    monkeypatch.setattr(taught, "SAVE_EVERY", 4)
    monkeypatch.setattr(taught, "NOTE_EVERY", 1)
    pictures = torch.stack([crops.draw(np.random.default_rng(seed)).pixels for seed in range(4)])
    schedule = Schedule(steps=8, batch=2, rate=1e-3, labels=0.5)
    once = train(cut(whole, NARROW, pictures), whole, crops, schedule, tmp_path / "once.pt")

    def batches(self, size, first, steps, every=Crops.batches):
        for step, batch in enumerate(every(self, size, first, steps), start=first):
            if step == 6:
                raise KeyboardInterrupt
            yield batch

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Crops, "batches", batches)
        train(cut(whole, NARROW, pictures), whole, crops, schedule, tmp_path / "twice.pt")
    twice = train(cut(whole, NARROW, pictures), whole, crops, schedule, tmp_path / "twice.pt")
    assert all(map(torch.equal, once.parameters(), twice.parameters()))
    assert not all(map(torch.equal, once.parameters(), cut(whole, NARROW, pictures).parameters()))
    with pytest.raises(ConfigError, match=r"once\.pt: is of a training with other settings"):
        train(cut(whole, NARROW, pictures), whole, crops, Schedule(steps=6), tmp_path / "once.pt")
