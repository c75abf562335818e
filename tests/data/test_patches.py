from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from tinygan.data.cutting import CropConfig
from tinygan.data.patches import MEDIUM, PAIRED, SMALL, PatchSource, build_patches, stream_of
from tinygan.data.rois import Rois

CROPS = CropConfig(lr_size=8, context=2.0)


@pytest.fixture
def sources(tmp_path):
    rng = np.random.default_rng(0)
    paths = []
    for number in range(3):
        path = tmp_path / f"{number}.png"
        Image.fromarray(rng.integers(0, 255, (100, 120, 3), dtype=np.uint8)).save(path)
        paths.append(path)
    boxes = np.array([[10.0, 10, 14, 15], [40, 40, 50, 52], [30, 30, 60, 70]])  # crops of 10, 24 and 80 px
    return [PatchSource(path, Rois(boxes, np.array([1, 0, 1]), np.ones(3), boxes)) for path in paths]


def test_streams_are_divided_by_crop_side():
    assert [stream_of(side, CROPS) for side in (5, 12, 12.1, 31.9, 32, 500)] == [
        SMALL,
        SMALL,
        MEDIUM,
        MEDIUM,
        PAIRED,
        PAIRED,
    ]


def test_without_routing_large_crops_still_make_pairs():
    crops = replace(CROPS, route_px=1e9)
    assert [stream_of(side, crops) for side in (5, 31.9, 32, 500)] == [SMALL, SMALL, PAIRED, PAIRED]


def test_patches_have_their_stream_size_and_label(sources, tmp_path):
    streams, unreadable = build_patches(sources, CROPS, tmp_path / "cut", "one")
    assert {name: p.pixels.shape for name, p in streams.items()} == {
        PAIRED: (3, 32, 32, 3),
        SMALL: (3, 8, 8, 3),
        MEDIUM: (3, 32, 32, 3),
    }
    assert streams[MEDIUM].labels.tolist() == [0, 0, 0] and streams[SMALL].sides_px.tolist() == [10, 10, 10]
    assert unreadable == []


def test_targets_are_relative_to_the_proposal(sources, tmp_path):
    boxes = np.array([[10.0, 10, 20, 20], [-10.0, 0, 10, 20]])  # the second is cut to 10 x 20 px at the border
    faces = np.array([[11.0, 11, 21, 21], [np.nan] * 4])
    rois = Rois(boxes, np.array([1, 0]), np.ones(2), faces)
    pictures = [PatchSource(sources[0].path, rois), PatchSource(sources[0].path, None)]
    streams, _ = build_patches(pictures, CROPS, tmp_path / "cut", "one")
    assert streams[MEDIUM].targets[0] == pytest.approx([-0.4, -0.4, 0.6, 0.6])
    assert all(np.isnan(streams[PAIRED].targets).all(axis=1)) and len(streams[PAIRED]) == 2


def test_second_build_reuses_and_another_fingerprint_cuts_again(sources, tmp_path):
    build_patches(sources, CROPS, tmp_path / "cut", "one")
    reused, _ = build_patches([], CROPS, tmp_path / "cut", "one")
    assert len(reused[PAIRED]) == 3
    again, _ = build_patches(sources[:1], CROPS, tmp_path / "cut", "two")
    assert len(again[PAIRED]) == 1


def test_cut_off_build_is_done_again(sources, tmp_path):
    folder = tmp_path / "cut"
    folder.mkdir()
    (folder / "paired.u8").write_bytes(b"half")  # no index: the run was killed here
    streams, _ = build_patches(sources, CROPS, folder, "one")
    assert len(streams[PAIRED]) == 3


def test_unreadable_and_truncated_images_are_listed_and_skipped(sources, tmp_path):
    whole = sources[1].path.read_bytes()
    sources[1].path.write_bytes(whole[: len(whole) // 2])
    sources[2].path.unlink()
    streams, unreadable = build_patches(sources, CROPS, tmp_path / "cut", "one")
    assert len(streams[PAIRED]) == 1
    assert "1.png: expected a readable image" in unreadable[0] and "2.png: no such image" in unreadable[1]


def test_extra_image_is_its_centre_square(tmp_path):
    path = tmp_path / "person.png"
    pixels = np.zeros((100, 100, 3), np.uint8)
    pixels[25:75, 25:75] = 200
    Image.fromarray(pixels).save(path)
    streams, _ = build_patches([PatchSource(path, None, 0.5)], CROPS, tmp_path / "cut", "one", streams=(PAIRED,))
    assert streams[PAIRED].labels.tolist() == [1] and streams[PAIRED].pixels[0, 1:-1, 1:-1].min() > 190


def test_pairs_may_be_kept_larger_than_they_are_judged(sources, tmp_path):
    larger = replace(CROPS, paired_size=48)
    streams, _ = build_patches(sources, larger, tmp_path / "cut", "one")
    assert len(streams[PAIRED]) == 3 and streams[PAIRED].pixels.shape[1:] == (48, 48, 3)
    assert streams[MEDIUM].pixels.shape[1:] == (32, 32, 3)
    with pytest.raises(ValueError, match="paired_size must be at least hr_size = 32 px, got 16"):
        replace(CROPS, paired_size=16)
