"""A narrower CenterFace: which channels are cut, and what the rest answers."""

import pytest
import torch

from experiments.first_stage import slim
from experiments.first_stage.slim import choose_columns, choose_widths, cut
from proposals.centerface import CenterFaceNetwork
from tests.experiments.conftest import NARROW, WIDE


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
