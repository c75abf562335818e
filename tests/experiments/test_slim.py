"""A narrower CenterFace: which channels are cut, what it learns, and that a training goes on where it was cut off."""

import numpy as np
import pytest
import torch

from experiments.first_stage import slim
from experiments.first_stage.slim import Crops, Sample, Schedule, Teacher, choose_columns, choose_widths, cut, train
from proposals.centerface import CenterFaceNetwork
from tinygan.detections import GroundTruth
from tinygan.errors import ConfigError
from tinygan.models.centerface import WIDTHS

WIDE = tuple(width // 2 for width in WIDTHS)
NARROW = tuple(width // 3 for width in WIDTHS)


@pytest.fixture
def whole():
    """A network whose answer depends on every block."""
    torch.manual_seed(0)
    network = CenterFaceNetwork(WIDE).eval()
    with torch.no_grad():
        for tensor in network.parameters():
            if tensor.ndim > 1:
                torch.nn.init.kaiming_normal_(tensor)
            else:
                tensor.fill_(1)  # few channels are dead
        for block in slim.blocks_of(network):
            block.body[-1].weight.mul_(0.3)
        network.heads.weight.mul_(0.01)
    return network


@pytest.fixture
def crops():
    rng = np.random.default_rng(0)
    pictures = [torch.from_numpy(rng.integers(0, 256, (3, 90, 120), np.uint8)) for _ in range(2)]
    truth = GroundTruth(np.array([[20.0, 30, 40, 54], [80, 40, 84, 44]]), np.array([False, False]))
    return Crops(pictures, [truth, truth], side=64)


def test_the_columns_that_others_replace_are_left_out():
    generator = torch.Generator().manual_seed(0)
    base = torch.randn(500, 3, dtype=torch.float64, generator=generator)
    noise = 1e-3 * torch.randn(500, 2, dtype=torch.float64, generator=generator)
    twins = base[:, :2] + noise
    rows = torch.cat([base, twins, torch.ones(500, 1, dtype=torch.float64)], dim=1)
    answers = rows @ torch.tensor([[1.0, 0], [0, 2], [3, 1], [1, 1], [0, 1], [5, 6]], dtype=torch.float64)
    left, weights, lost = choose_columns(rows, answers, 3)
    assert 2 in left.tolist() and len({int(at) % 3 for at in left}) == 3  # 0 or 3, 1 or 4, and 2
    seen = rows[:, [*left.tolist(), 5]] @ weights
    assert (seen - answers).abs().max() < 0.02
    assert len(lost) == 3 and lost[0] == 0 and lost[2] < 1 < 100 < choose_columns(rows, answers, 2)[2][-1]


def test_weights_of_what_is_left_are_those_of_least_squares():
    generator = torch.Generator().manual_seed(1)
    rows = torch.cat([torch.randn(300, 6, generator=generator), torch.ones(300, 1)], dim=1).double()
    answers = torch.randn(300, 2, generator=generator).double()
    left, weights, lost = choose_columns(rows, answers, 4)
    best = torch.linalg.lstsq(rows[:, [*left.tolist(), 6]], answers).solution
    assert torch.allclose(weights, best, atol=1e-3)
    every = torch.linalg.lstsq(rows, answers).solution
    more = (rows[:, [*left.tolist(), 6]] @ best - answers).square().sum() - (rows @ every - answers).square().sum()
    assert lost[-1] == pytest.approx(more.item(), rel=0.01)


def noise(count):
    generator = torch.Generator().manual_seed(3)
    return torch.randint(0, 256, (count, 3, 64, 64), dtype=torch.uint8, generator=generator)


def test_where_idle_channels_are_cut_the_answer_stays(whole):
    pictures = noise(60)
    with torch.no_grad():
        for block in slim.blocks_of(whole)[1:]:
            last = block.body[2]
            last.weight[:, : last.in_channels - last.in_channels * 2 // 3] = 0  # of the first ones
    same = cut(whole, NARROW, pictures)
    with torch.inference_mode():
        wanted, got = whole(pictures).log_sides, same(pictures).log_sides
    assert (got - wanted).abs().mean() < 0.05 * wanted.std(dim=1).mean()


def test_later_blocks_make_good_what_earlier_ones_lost(whole):
    pictures = noise(60)
    narrow = cut(whole, NARROW, pictures)
    alone = CenterFaceNetwork(NARROW).eval()  # each block as if those before it were whole
    alone.load_state_dict(narrow.state_dict())
    with torch.inference_mode():
        features = whole.trunk.stem(pictures.float() / 255)
        for old, new in zip(slim.blocks_of(whole), slim.blocks_of(alone), strict=True):
            target = old(features)
            if len(old.body) > 2:
                seen = slim._inside(old, features, target, 64)
                left, weights, _ = choose_columns(seen.rows, seen.answers, new.body[2].in_channels)
                for conv, source in ((new.body[0][0], old.body[0][0]), (new.body[1][0], old.body[1][0])):
                    conv.weight.copy_(source.weight[left])
                    conv.bias.copy_(source.bias[left])
                new.body[2].weight.copy_(weights[:-1].T[:, :, None, None])
                new.body[2].bias.copy_(weights[-1])
            features = target
        fine, nearer, farther = (network.trunk(pictures.float() / 255)[0] for network in (whole, narrow, alone))
    assert (nearer - fine).square().mean() < 0.9 * (farther - fine).square().mean()


@pytest.fixture
def lost(monkeypatch):
    """Sets what each block loses per channel, by its number in ``WIDTHS``."""

    def say(per_channel):
        blocks = iter(per_channel)

        def choose(rows, answers, count):
            loss = next(blocks)
            return None, None, [loss * cut for cut in range(rows.shape[1])]

        monkeypatch.setattr(slim, "choose_columns", choose)

    return say


def test_the_block_that_loses_least_for_its_time_is_cut(whole, lost):
    lost([1.0] * 3 + [1e-9] + [1.0] * 12)
    widths = choose_widths(whole, 0.995, noise(2))
    assert widths == (*WIDE[:3], widths[3], *WIDE[4:]) and 64 <= widths[3] < 96 and widths[3] % 8 == 0
    lost([1.0] * 16)
    assert choose_widths(whole, 1.0, noise(2)) == WIDE
    lost([1.0] * 16)
    with pytest.raises(ValueError, match="share 0.5: too little is left"):
        choose_widths(whole, 0.5, noise(2))


def test_a_loss_is_a_share_of_what_a_block_says(whole, lost):
    with torch.no_grad():
        slim.blocks_of(whole)[16].body[2].weight.mul_(1e4)  # the last one
    lost([1.0] * 16)
    widths = choose_widths(whole, 0.995, noise(2))
    assert widths[:15] == WIDE[:15] and widths[15] < WIDE[15]
    with torch.no_grad():
        slim.blocks_of(whole)[16].body[2].weight.mul_(1e-8)
    lost([1.0] * 16)
    assert choose_widths(whole, 0.995, noise(2))[15] == WIDE[15]


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
    assert torch.allclose(straight.heat, slim._turned(mirrored.heat), atol=1e-5)
    assert torch.allclose(straight.sides, slim._turned(mirrored.sides), atol=1e-5)


def test_a_training_goes_on_where_it_was_cut_off(whole, crops, tmp_path, monkeypatch):
    monkeypatch.setattr(slim, "SAVE_EVERY", 4)
    monkeypatch.setattr(slim, "NOTE_EVERY", 1)
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
