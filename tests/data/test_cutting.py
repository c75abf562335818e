import numpy as np
import pytest
from PIL import Image

from tinygan.boxes import square_crops
from tinygan.data import cutting
from tinygan.data.cutting import (
    CropConfig,
    DegradationConfig,
    cut_patch,
    cut_regions,
    cut_stack,
    make_lr,
    resize_patches,
    upscale,
)


def gradient(width: int = 40, height: int = 30) -> Image.Image:
    columns = np.broadcast_to(np.arange(width, dtype=np.uint8) * 4, (height, width))
    rows = np.broadcast_to(np.arange(height, dtype=np.uint8)[:, None] * 4, (height, width))
    return Image.fromarray(np.stack([columns, rows, np.zeros_like(rows)], axis=2))


def test_inside_crop_at_native_size_returns_the_pixels():
    patch = cut_patch(gradient(), np.array([4.0, 6.0, 20.0, 22.0]), 16)
    assert np.array_equal(patch, np.asarray(gradient())[6:22, 4:20])


def test_subpixel_offset_shifts_the_patch_by_a_fraction():
    patch = cut_patch(gradient(), np.array([4.5, 6.0, 20.5, 22.0]), 16).astype(float)
    assert patch[8, 8, 0] == pytest.approx((4 + 8 + 0.5) * 4, abs=1)


@pytest.mark.parametrize("size_px", [8, 40])
def test_beyond_the_border_the_image_is_reflected(size_px):
    patch = cut_patch(gradient(), np.array([-8.0, 0.0, 8.0, 16.0]), size_px)
    assert np.abs(patch[:, : size_px // 2].astype(int) - patch[:, size_px // 2 :][:, ::-1]).max() <= 2


def test_large_crop_over_the_border_agrees_with_padding_first():
    image = gradient(200, 150).resize((200, 150))
    square = np.array([-50.0, -40.0, 150.0, 160.0])
    padded = Image.fromarray(np.pad(np.asarray(image), ((40, 10), (50, 0), (0, 0)), mode="symmetric"))
    expected = np.asarray(padded.resize((16, 16), Image.Resampling.BICUBIC, box=(0, 0, 200, 200)))
    inner = np.abs(cut_patch(image, square, 16).astype(int) - expected.astype(int))[5:14, 5:]
    assert np.median(inner) <= 12


def textured(width: int, height: int) -> Image.Image:
    coarse = np.random.default_rng(0).integers(0, 256, (height // 8, width // 8, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


@pytest.mark.parametrize(("side", "most", "mean"), [(39.9, 0, 0.0), (63.4, 0, 0.0), (66.0, 8, 1.0), (131.5, 20, 4.0)])
def test_a_part_of_a_halved_copy_is_that_of_the_image_but_for_rounding(side, most, mean):
    image, square = textured(397, 301), np.array([7.3, 4.6, 7.3 + side, 4.6 + side])
    expected = np.asarray(image.resize((32, 32), Image.Resampling.BICUBIC, box=tuple(square)))
    error = np.abs(cut_patch(image, square, 32).astype(int) - expected.astype(int))
    assert error.max() <= most and error.mean() <= mean


def test_beyond_the_border_patches_are_those_of_a_padded_image():
    image, square = textured(96, 80), np.array([-20.5, 15.25, 50.0, 85.75])  # less than twice as large as the patch
    padded = Image.fromarray(np.pad(np.asarray(image), ((0, 6), (21, 0), (0, 0)), mode="symmetric").copy())
    part = padded.crop((0, 15, 71, 86))
    expected = part.resize((36, 36), Image.Resampling.BICUBIC, box=(0.5, 0.25, 71.0, 70.75))
    assert np.array_equal(cut_patch(image, square, 36), np.asarray(expected))
    tiny = np.asarray(image)[:3, :2]
    rows, columns = (
        [order[place % len(order)] for place in range(-10, 12)] for order in ((0, 1, 2, 2, 1, 0), (0, 1, 1, 0))
    )
    many = cut_patch(Image.fromarray(tiny), np.array([-10.0, -10.0, 12.0, 12.0]), 22)
    assert np.array_equal(many, tiny[rows][:, columns])


def test_a_stack_is_its_patches():
    image = textured(160, 120)
    squares = np.array([[-9.0, -9, 30, 30], [0.5, 1.5, 110.5, 111.5], [-100, -100, 200, 200], [40, 40, 52, 52]])
    stack = cut_stack(image, squares, 16)
    assert all(np.array_equal(patch, cut_patch(image, one, 16)) for patch, one in zip(stack, squares, strict=True))


def test_crop_far_larger_than_the_image_does_not_ask_for_more_memory():
    patch = cut_patch(gradient(), np.array([-1e5, -1e5, 1e5, 1e5]), 16)
    assert patch.shape == (16, 16, 3)


def some_boxes() -> np.ndarray:
    """Of 4 to 150 px, some of them partly beyond the picture."""
    rng = np.random.default_rng(1)
    corners, sides = rng.uniform(-10, 150, (60, 2)), np.geomspace(4, 150, 60)[:, None]
    return np.concatenate([corners, corners + sides * rng.uniform(0.7, 1, (60, 2))], axis=1)


@pytest.mark.parametrize("crops", [CropConfig(route_px=0), CropConfig(lr_size=12, context=1.0, wide_context=0.8)])
def test_regions_are_cut_at_whole_pixels_near_their_boxes(crops, monkeypatch):
    image, boxes = textured(160, 120), some_boxes()
    seen = []
    cut_whole = cutting._cut_whole
    monkeypatch.setattr(cutting, "_cut_whole", lambda *given: (seen.append(given[1:]), cut_whole(*given))[1])
    cut = cut_regions(image, boxes, crops, wide=True)
    small, large, around = (squares for squares, _ in seen)
    squares = np.zeros((len(boxes), 4))
    squares[cut.is_small], squares[~cut.is_small] = small, large
    around = around[np.argsort(np.concatenate([np.flatnonzero(cut.is_small), np.flatnonzero(~cut.is_small)]))]
    asked = crops.squares(boxes, image.width, image.height)
    assert np.array_equal(np.rint(squares), squares) and np.array_equal(np.rint(around), around)
    assert np.array_equal(squares[:, 2] - squares[:, 0], squares[:, 3] - squares[:, 1])
    assert np.allclose(squares[:, :2] + squares[:, 2:], around[:, :2] + around[:, 2:])  # their centres
    size = np.where(cut.is_small, crops.lr_size, crops.hr_size)
    asked_around = crops.wide_squares(boxes, image.width, image.height)
    pixel = np.maximum((asked[:, 2] - asked[:, 0]) / size, (asked_around[:, 2] - asked_around[:, 0]) / crops.wide_size)
    assert (np.abs(squares - asked) <= np.maximum(1, pixel)[:, None]).all()  # of the halved copy that is cut
    assert (np.abs(around - asked_around) <= 2 * np.maximum(1, pixel)[:, None]).all()
    assert np.allclose(square_crops(cut.anchors, crops.context), squares)
    for patches, boxes_of, size_px in ((cut.large, large, crops.hr_size), (cut.small, small, crops.lr_size)):
        for patch, square in zip(patches, boxes_of, strict=True):
            edge = 1 + int(2 * size_px / (square[2] - square[0]))  # pixels beyond a crop's edge are not looked at
            inside = slice(edge, -edge)
            expected = cut_patch(image, square, size_px)[inside, inside]
            assert (np.abs(patch[inside, inside].astype(int) - expected) <= 2).all()


def test_without_fast_instructions_patches_are_the_same(monkeypatch):
    image, boxes = textured(160, 120), some_boxes()
    fast = cut_regions(image, boxes, CropConfig(), wide=True)
    monkeypatch.setattr(cutting, "FAST_RESIZING", not cutting.FAST_RESIZING)
    slow = cut_regions(image, boxes, CropConfig(), wide=True)
    for one, other in ((fast.small, slow.small), (fast.large, slow.large), (fast.wide, slow.wide)):
        difference = np.abs(one.astype(int) - other)
        assert len(one) and difference.max() <= 2 and difference.mean() <= 0.2


@pytest.mark.parametrize("box", [[-1e5, -1e5, 1e5, 1e5], [500, 500, 510, 510], [3, 3, 3, 3], [-1e9, 5, 1e9, 6]])
def test_wild_boxes_give_regions(box):
    cut = cut_regions(gradient(), np.array([box], float), CropConfig(route_px=0), wide=True)
    assert cut.large.shape == (1, 64, 64, 3) and cut.wide.shape == (1, 96, 96, 3) and np.isfinite(cut.anchors).all()


def test_squares_have_context_and_survive_wild_boxes():
    config = CropConfig(lr_size=16, context=2.0)
    boxes = np.array([[10.0, 10.0, 20.0, 30.0], [-1e9, -1e9, 1e9, 1e9], [50.0, 50.0, 40.0, 40.0], [500, 500, 510, 510]])
    squares = config.squares(boxes, 100, 80)
    assert squares[0].tolist() == [-5.0, 0.0, 35.0, 40.0]
    sides = squares[:, 2] - squares[:, 0]
    assert np.allclose(sides, squares[:, 3] - squares[:, 1])
    assert sides[1] == 200 and sides[2] == 20 and sides[3] == 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"lr_size": 2}, "lr_size must be at least 4"),
        ({"context": 0.1}, "context must lie in"),
        ({"route_px": -1.0}, "route_px"),
    ],
)
def test_bad_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        CropConfig(**settings)


def test_gate_is_one_and_a_half_lr_sizes_unless_given():
    sides = np.array([23.0, 24.0, 25.0, 40.0, 41.0])
    assert CropConfig(lr_size=16).through_generator(sides).tolist() == [True, True, False, False, False]
    assert CropConfig(lr_size=16, route_px=40).through_generator(sides).tolist() == [True] * 4 + [False]


def test_clean_lr_is_a_bicubic_copy_and_upscale_keeps_a_constant():
    flat = np.full((32, 32, 3), 77, np.uint8)
    lr = make_lr(flat, DegradationConfig(), np.random.default_rng(0))
    assert lr.shape == (8, 8, 3) and (lr == 77).all()
    assert (upscale(lr) == 77).all() and upscale(lr).shape == (32, 32, 3)


def test_wild_degradation_differs_and_depends_on_the_seed_alone():
    hr = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    config = DegradationConfig(kind="wild")
    first, again, other = (
        np.stack([make_lr(hr, config, rng) for _ in range(8)]) for rng in map(np.random.default_rng, (1, 1, 2))
    )
    assert np.array_equal(first, again) and not np.array_equal(first, other)
    assert not np.array_equal(first[0], make_lr(hr, DegradationConfig(), np.random.default_rng(0)))


def test_second_order_degradation_is_stronger_and_a_share_stays_clean():
    rows, columns = np.mgrid[:64, :64]
    hr = (np.stack([rows, columns, rows + columns], axis=2) * 2 % 256).astype(np.uint8)
    clean = make_lr(hr, DegradationConfig(), np.random.default_rng(0)).astype(float)

    def copies(seed: int, **keys: float) -> np.ndarray:
        rng = np.random.default_rng(seed)
        return np.stack([make_lr(hr, DegradationConfig(kind="second_order", **keys), rng) for _ in range(40)])

    made = copies(0)
    assert made.shape == (40, 16, 16, 3) and made.dtype == np.uint8
    assert np.array_equal(made, copies(0)) and not np.array_equal(made, copies(1))
    wild = [make_lr(hr, DegradationConfig(kind="wild"), rng) for rng in map(np.random.default_rng, range(40))]
    error, error_wild = (np.abs(np.asarray(some) - clean).mean() for some in (made, wild))
    assert 1.3 * error_wild < error < 40
    is_clean = (copies(0, clean=0.5) == clean).all(axis=(1, 2, 3))
    assert 10 < is_clean.sum() < 30 and (copies(0, clean=1.0) == clean).all()
    with pytest.raises(ValueError, match="clean is a share"):
        DegradationConfig(clean=1.5)


def test_patches_are_resized_one_by_one():
    patches = np.random.default_rng(0).integers(0, 255, (2, 16, 16, 3), dtype=np.uint8)
    assert resize_patches(patches, 16) is patches
    small = resize_patches(patches, 8)
    assert small.shape == (2, 8, 8, 3)
    assert np.array_equal(small[1], np.asarray(Image.fromarray(patches[1]).resize((8, 8), Image.Resampling.BICUBIC)))
    assert resize_patches(patches[:0], 8).shape == (0, 8, 8, 3)


def test_parts_of_a_large_image_are_those_of_its_copy(monkeypatch):
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (120, 160, 3), dtype=np.uint8))
    boxes = np.array(
        [[5, 5, 15, 17], [-30, -20, 12, 9], [140, 100, 200, 140], [0, 0, 160, 120], [-300, -9, -200, 60]], float
    )
    crops = CropConfig(lr_size=4, route_px=30.0, wide_size=32, wide_context=4.0)
    monkeypatch.setattr(cutting, "PART_PIXELS", 1_000_000)  # or parts alone would be copied
    copied = cut_regions(image, boxes, crops, wide=True)
    monkeypatch.setattr(cutting, "COPIED_PIXELS", 3000)  # the image and one halved copy are larger
    parts = cut_regions(image, boxes, crops, wide=True)
    for name in ("small", "large", "wide"):
        assert np.array_equal(getattr(copied, name), getattr(parts, name)) and getattr(parts, name).any()


@pytest.mark.parametrize(("part_pixels", "copied"), [(0, set()), (1_000_000, {0, 1})])
def test_regions_do_not_depend_on_what_is_copied_or_was_cut_before(monkeypatch, part_pixels, copied):
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (120, 160, 3), dtype=np.uint8))
    boxes = np.array([[5, 5, 15, 17], [-30, -20, 12, 9], [40, 20, 90, 95], [0, 0, 160, 120]], float)
    crops = CropConfig(lr_size=16, route_px=0, wide_size=96, wide_context=4.0)
    expected = cut_regions(image, boxes, crops, wide=True)
    monkeypatch.setattr(cutting, "PART_PIXELS", part_pixels)
    monkeypatch.setattr(cutting, "PART_SHARE", 0.0)
    source = cutting.Source(image)
    for _ in range(2):
        again = cut_regions(source, boxes, crops, wide=True)
        for name in ("large", "wide"):
            assert np.array_equal(getattr(expected, name), getattr(again, name)) and getattr(again, name).any()
        assert copied <= set(source._pixels) and (copied or not source._pixels)


def test_an_image_is_copied_once_that_takes_less_than_its_parts():
    image = Image.fromarray(np.zeros((300, 400, 3), np.uint8))  # as much as 20 parts of 50 x 50 pixels
    crops = CropConfig(lr_size=16, route_px=0)
    few, many = cutting.Source(image), cutting.Source(image)
    corner = np.arange(30.0)[:, None] * 4
    boxes = np.concatenate([corner, corner, corner + 25, corner + 25], axis=1)
    cut_regions(few, boxes[:5], crops, wide=False)
    cut_regions(many, boxes, crops, wide=False)
    assert not few._pixels and set(many._pixels) == {0}
    for start in (5, 10, 15, 20):  # further looks
        cut_regions(few, boxes[start : start + 5], crops, wide=False)
    assert set(few._pixels) == {0}
