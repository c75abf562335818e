import numpy as np
import pytest
import torch

from tinygan.data.batches import BatchConfig, BatchSource, SizeBalancedSampler
from tinygan.data.cutting import CropConfig, DegradationConfig
from tinygan.data.patches import MEDIUM, PAIRED, SMALL, Patches
from tinygan.errors import DataError

CROPS = CropConfig(lr_size=8)
BOX = np.array([[-0.5, -0.4, 0.3, 0.6]])


def stream(size: int, count: int, side: float, faces: float = 0.5) -> Patches:
    rng = np.random.default_rng(size + count)
    labels = (np.arange(count) < faces * count).astype(np.int64)
    return Patches(
        rng.integers(0, 255, (count, size, size, 3), dtype=np.uint8), labels, np.full(count, side), BOX.repeat(count, 0)
    )


def source(seed: int = 0, rank: int = 0, world_size: int = 1, batch_size: int = 16, **config: float) -> BatchSource:
    streams = {PAIRED: stream(32, 20, 40.0), SMALL: stream(8, 10, 10.0), MEDIUM: stream(32, 30, 20.0)}
    return BatchSource(streams, CROPS, BatchConfig(**config), DegradationConfig(), batch_size, seed, rank, world_size)


def test_batch_has_shapes_ranges_and_balanced_labels():
    batch = source().draw(0)
    assert batch.lr.shape == (8, 3, 8, 8) and batch.hr.shape == (8, 3, 32, 32)
    assert batch.small.shape == (2, 3, 8, 8) and batch.medium.shape == (6, 3, 32, 32)  # 10 : 30, as in the data
    for part in (batch.lr, batch.hr, batch.small, batch.medium):
        assert part.dtype == torch.float32 and part.min() >= 0 and part.max() <= 1
    assert batch.labels.tolist() == [1, 0] * 4


def test_batch_is_a_function_of_seed_and_step_which_devices_share_out():
    first, again = source().draw(5), source().draw(5)
    assert all(torch.equal(a, b) for a, b in zip(vars(first).values(), vars(again).values(), strict=True))
    for other in (source().draw(6), source(seed=1).draw(5)):
        assert not torch.equal(first.hr, other.hr)
    shares = [source(rank=rank, world_size=2).draw(5) for rank in (0, 1)]  # 16 each: twice the batch
    whole = source(batch_size=32).draw(5)
    for name, rows in vars(whole).items():
        assert torch.equal(torch.cat([getattr(share, name) for share in shares]), rows)
    assert [len(share.lr) for share in shares] == [8, 8]


def test_targets_are_mirrored_with_their_patches():
    batch = source(brightness=0.0, contrast=0.0).draw(0)
    straight, turned = BOX[0].astype(np.float32).tolist(), np.float32([-0.3, -0.4, 0.5, 0.6]).tolist()
    known = {patch.tobytes(): False for patch in stream(32, 20, 40.0).pixels}
    for picture, target in zip(batch.hr, batch.targets, strict=True):
        pixels = (picture * 255).round().byte().permute(1, 2, 0).numpy()
        mirrored = np.ascontiguousarray(pixels).tobytes() not in known
        assert target.tolist() == (turned if mirrored else straight)
    assert len(batch.small_targets) == len(batch.small) and len(batch.medium_targets) == len(batch.medium)


def test_without_wild_patches_the_batch_is_paired():
    batch = source(wild=0.0).draw(0)
    assert len(batch.lr) == 16 and len(batch.small) == len(batch.medium) == 0


def test_sampler_gives_faces_and_non_faces_the_same_sizes():
    sides = np.concatenate([np.full(900, 10.0), np.full(100, 100.0)])
    labels = np.zeros(1000, dtype=np.int64)
    labels[:50] = 1  # faces: 50 small
    labels[900:990] = 1  # and 90 large
    chosen = SizeBalancedSampler(labels, sides).draw(4000, np.random.default_rng(0))
    large = sides[chosen] == 100
    assert labels[chosen].mean() == pytest.approx(0.5)
    assert large[labels[chosen] == 1].mean() == pytest.approx(0.1, abs=0.03)
    assert large[labels[chosen] == 0].mean() == pytest.approx(0.1, abs=0.03)


def test_sampler_with_one_class_draws_it():
    chosen = SizeBalancedSampler(np.ones(5, dtype=np.int64), np.full(5, 30.0)).draw(8, np.random.default_rng(0))
    assert len(chosen) == 8


def test_nothing_to_learn_super_resolution_from_is_an_error():
    with pytest.raises(DataError, match="no crop is at least hr_size = 32 px"):
        BatchSource({PAIRED: stream(32, 0, 1.0)}, CROPS, BatchConfig(), DegradationConfig(), 4, 0)


def test_shares_are_checked():
    with pytest.raises(ValueError, match=r"wild must lie in \[0, 0.9\]"):
        BatchConfig(wild=0.95)
    with pytest.raises(ValueError, match="grey is a share"):
        BatchConfig(grey=2)
    with pytest.raises(ValueError, match="medium is a share"):
        BatchConfig(medium=1.5)


def test_a_small_batch_keeps_a_pair():
    streams = {PAIRED: stream(32, 20, 40.0), SMALL: stream(8, 10, 10.0), MEDIUM: stream(32, 30, 20.0)}
    batch = BatchSource(streams, CROPS, BatchConfig(wild=0.9), DegradationConfig(), 4, 0).draw(0)
    assert len(batch.lr) == 1 and len(batch.small) + len(batch.medium) == 3


def test_colour_changes_channels_and_grey_makes_them_equal():
    plain = source(brightness=0.0, contrast=0.0).draw(0)
    tinted = source(brightness=0.0, contrast=0.0, colour=0.2).draw(0)
    ratio = (tinted.hr / plain.hr.clamp_min(0.2))[plain.hr.amax(dim=(1, 2, 3)) > 0]
    assert not torch.equal(plain.hr, tinted.hr) and ratio.max() < 1.3
    grey = source(grey=1.0).draw(0)
    for picture in (grey.lr, grey.hr, grey.small, grey.medium):
        assert torch.allclose(picture[:, 0], picture[:, 2], atol=1e-6)


def sized(sides: list[float], sizes: tuple[int, ...], kept_px: int = 64) -> BatchSource:
    pairs = stream(kept_px, len(sides), 0.0)
    pairs = Patches(pairs.pixels, pairs.labels, np.array(sides), pairs.targets)
    return BatchSource({PAIRED: pairs}, CROPS, BatchConfig(lr_sizes=sizes), DegradationConfig(), 16, 0)


def test_sizes_change_from_batch_to_batch_and_pixels_stay_about_equal():
    batches = [sized([70.0] * 8, (4, 8, 8, 16)).draw(step) for step in range(60)]
    counts = {size: [len(b.lr) for b in batches if b.lr.shape[2] == size] for size in (4, 8, 16)}
    assert {size: set(found) for size, found in counts.items()} == {4: {64}, 8: {16}, 16: {4}}
    assert len(counts[8]) > max(len(counts[4]), len(counts[16])) and sum(map(len, counts.values())) == 60
    assert all(b.hr.shape[2] == 4 * b.lr.shape[2] and len(b.labels) == len(b.hr) for b in batches)


def test_crops_too_small_for_a_size_are_left_out():
    source = sized([40.0] * 7 + [70.0], (16,))
    large = source._streams[PAIRED].pixels[7].astype(np.float64).mean()
    pictures = [source.draw(step).hr for step in range(4)]
    kept = BatchSource(source._streams, CROPS, BatchConfig(lr_sizes=(16,), brightness=0, contrast=0),
                       DegradationConfig(), 16, 0).draw(0).hr  # fmt: skip
    assert np.allclose(kept.mean(dim=(1, 2, 3)) * 255, large, atol=0.1) and all(len(one) == 4 for one in pictures)


@pytest.mark.parametrize(
    ("sides", "sizes", "message"),
    [([70.0], (32,), "set crops.paired_size=128"), ([40.0], (16,), "no crop is 64 px wide, so none can be 16 px")],
)
def test_sizes_that_cannot_be_are_refused(sides, sizes, message):
    with pytest.raises(DataError, match=message):
        sized(sides, sizes)
