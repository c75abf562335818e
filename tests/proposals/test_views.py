"""Views of a picture, and that each face is found once, whatever its size and place."""

import json
import math
import subprocess
import sys
from itertools import pairwise

import numpy as np
import pytest
import torch
from PIL import Image
from skimage import data

from proposals.retinaface import RetinaFaceConfig, build_retinaface
from proposals.views import View, sliced_views, whole_views
from proposals.yunet import YuNetConfig, build_yunet
from tinygan.boxes import iou
from tinygan.checkpoint import packaged_weights

FACE = np.array([179.0, 55, 270, 178])  # in scikit-image's astronaut, 512 px
SIZES = [(641, 640), (1024, 700), (3000, 100), (5000, 4000)]


@pytest.fixture(scope="module", params=["retinaface", "yunet"])
def build(request, runtime):
    """Builds a detector with public weights from its settings."""
    if request.param == "retinaface":
        weights = packaged_weights("retinaface_mobilenet025")
        return lambda **settings: build_retinaface(RetinaFaceConfig(**settings), weights, runtime)
    weights = request.getfixturevalue("shared_data") / "weights/yunet_n_dynamic.onnx"
    return lambda **settings: build_yunet(YuNetConfig(**settings), weights, runtime)


def astronaut(side: int) -> Image.Image:
    return Image.fromarray(data.astronaut()).resize((side, side), Image.Resampling.BICUBIC)


def on_canvas(width: int, height: int, *portraits: tuple[int, int, int]) -> tuple[torch.Tensor, np.ndarray]:
    """Portraits ``(side, left, top)`` on grey, and the boxes of their faces."""
    canvas = Image.new("RGB", (width, height), (110, 110, 110))
    boxes = []
    for side, left, top in portraits:
        canvas.paste(astronaut(side), (left, top))
        boxes.append(FACE * side / 512 + np.array([left, top, left, top]))
    return torch.from_numpy(np.array(canvas)).permute(2, 0, 1), np.array(boxes)


def times_found(detector, image: torch.Tensor, faces: np.ndarray) -> list[int]:
    """How many boxes with some certainty each face has: boxes that overlap it, or whose centre lies in it."""
    (found,) = detector.propose([image])
    sure = found.boxes[found.scores > 0.4]
    centres = (sure[:, None, :2] + sure[:, None, 2:]) / 2
    within = ((centres > faces[:, :2]) & (centres < faces[:, 2:])).all(axis=2)
    assert (iou(sure, faces).max(axis=0) > 0.45).all(), "the face as a whole"
    return (within | (iou(sure, faces) > 0.1)).sum(axis=0).tolist()


def test_whole_views_leave_large_faces_to_the_smaller_one():
    large, small = whole_views(900, 600, [2.0, 0.5])
    assert (large.scale, large.largest_px, small.scale, small.largest_px) == (2.0, 96.0, 0.5, math.inf)
    assert whole_views(900, 600, [1.0, 1.0])[0].largest_px == math.inf  # there is no smaller one


@pytest.mark.parametrize(("width", "height"), SIZES)
def test_tiles_cover_the_picture_and_overlap(width, height):
    views = sliced_views(width, height, [1.0], 640, 0.2)
    first = [view for view in views if view.scale == 1.0]
    seen = np.zeros((height, width), dtype=bool)
    for view in first:
        assert 0 <= view.left < view.right <= width and 0 <= view.top < view.bottom <= height
        assert view.right - view.left <= 641 and view.bottom - view.top <= 641
        seen[view.top : view.bottom, view.left : view.right] = True
    assert seen.all()
    lefts = sorted({view.left for view in first})
    assert all(left + 640 - following >= 127 for left, following in pairwise(lefts))
    assert views[-1] == View(0, 0, width, height, 640 / max(width, height))


@pytest.mark.parametrize(("width", "height"), SIZES)
@pytest.mark.parametrize("scales", [(1.0,), (1.0, 2.0)])
def test_every_box_counts_in_some_view_that_shows_it_whole_and_large(width, height, scales):
    views = sliced_views(width, height, scales, 640, 0.2)
    rng = np.random.default_rng(0)
    for side in (5, 40, 95, 130, 400, 1100):
        corners = rng.uniform(0, 1, (200, 2)) * np.maximum(0, np.array([width, height]) - side)
        boxes = torch.from_numpy(np.concatenate([corners, np.minimum(corners + side, [width, height])], axis=1))
        best = torch.zeros(len(boxes), dtype=torch.float64)
        for view in views:
            kept = view.keeps(boxes, width, height)
            inside = (boxes >= torch.tensor([view.left, view.top] * 2)).all(1)
            inside &= (boxes <= torch.tensor([view.right, view.bottom] * 2)).all(1)
            assert (inside | ~kept).all(), "a box that counts is not cut"
            best = torch.where(kept, best.clamp(min=view.scale), best)
        assert (best * side >= min(side, 47)).all(), "and is no smaller than 48 px, or as it is"


def test_a_picture_of_one_tile_is_seen_once():
    assert sliced_views(640, 300, [1.0], 640, 0.2) == [View(0, 0, 640, 300, 1.0)]
    assert YuNetConfig(slice_px=640, overview_px=0).views(640, 300) == whole_views(640, 300, [1.0])


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"slice_px": 10}, "slice_px must be 0"), ({"slice_px": -640}, "slice_px"), ({"slice_overlap": 0}, "above 0")],
)
def test_tiles_that_cannot_be_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        RetinaFaceConfig(**settings)


def test_scale_finds_the_astronaut_at_64_px(build):
    image, faces = on_canvas(64, 64, (64, 0, 0))  # a face of 11 x 15 px
    assert times_found(build(scales=(2.0,)), image, faces) == [1]
    assert times_found(build(scales=(1.0, 2.0)), image, faces) == [1]


def test_faces_on_borders_of_tiles_are_found_once(build):
    # Tiles of 320 px start at 0, 240 and 480. The first two faces lie on their borders, the third on a corner; the last
    # one is larger than the overlap.
    portraits = [(128, 265, 20), (128, 20, 230), (128, 500, 260), (420, 120, 360)]
    image, faces = on_canvas(800, 800, *portraits)
    assert times_found(build(slice_px=320), image, faces) == [1, 1, 1, 1]
    assert times_found(build(slice_px=320, scales=(1.0, 2.0)), image, faces) == [1, 1, 1, 1]


def test_a_face_of_1300_px_is_found_once(build):
    image, faces = on_canvas(5500, 5500, (5400, 0, 50))
    assert (faces[0, 3] - faces[0, 1]) > 1290
    assert times_found(build(slice_px=640), image, faces) == [1]


PANORAMA = """
import sys
from pathlib import Path

import numpy as np
from PIL import Image
from skimage import data

folder = Path(sys.argv[1])
sky = np.linspace(90, 200, 7_100, dtype=np.uint8)[:, None, None]
picture = Image.fromarray(np.broadcast_to(sky, (7_100, 14_200, 3)).copy())
for side, left, top in [(128, 30, 40), (128, 13_000, 6_900), (64, 7_000, 3_500), (3000, 9_000, 1_000)]:
    picture.paste(Image.fromarray(data.astronaut()).resize((side, side)), (left, top))
(folder / "images").mkdir()
picture.save(folder / "images/panorama.jpg", quality=90)
# ---
import resource
import sys
from pathlib import Path

import numpy as np

from proposals.cli.propose import main
from tinygan.formats.registry import open_detections

folder = Path(sys.argv[1])
assert main(["--images", str(folder / "images"), "--out", str(folder / "found"), *sys.argv[2:]]) == 0
print("MB:", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
found = open_detections(folder / "found")["panorama"]
centres = (found.boxes[:, :2] + found.boxes[:, 2:]) / 2
for side, left, top in [(128, 30, 40), (128, 13_000, 6_900), (64, 7_000, 3_500), (3000, 9_000, 1_000)]:
    x1, y1, x2, y2 = np.array([179.0, 55, 270, 178]) * side / 512 + np.array([left, top] * 2)
    near = np.abs(centres - [(x1 + x2) / 2, (y1 + y2) / 2]).max(axis=1) < (y2 - y1) / 3
    print(f"{side} {left}:", int((near & (found.scores > 0.4)).sum()))
"""


@pytest.mark.slow
@pytest.mark.parametrize("more", [(), ("--scale", "1,2")])
def test_a_panorama_of_100_megapixels_takes_less_than_3_gb(tmp_path, more):
    draw, search = PANORAMA.split("# ---\n")
    for script in (draw, search):  # in turn, so that drawing counts for nothing
        words = [sys.executable, "-c", script, str(tmp_path), "--slice", "640", "--threads", "1", *more]
        done = subprocess.run(words, capture_output=True, text=True, check=True)
    megabytes, *faces = done.stdout.splitlines()[-5:]
    assert int(megabytes.removeprefix("MB: ")) < 3000
    assert faces == ["128 30: 1", "128 13000: 1", "64 7000: 1", "3000 9000: 1"]


DETECT = """
import resource
import sys
from pathlib import Path

from PIL import Image

from tinygan.cli.detect import main

Image.MAX_IMAGE_PIXELS = None
folder = Path(sys.argv[1])
assert main([str(folder / "images/panorama.jpg"), "--out", str(folder / "drawn"), *sys.argv[2:]]) == 0
print("MB:", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
with Image.open(folder / "drawn/panorama.png") as drawn:
    print("drawn:", drawn.size[0])
"""


@pytest.mark.slow
def test_a_panorama_is_proposed_rescored_and_drawn_in_less_than_3_gb(tmp_path):
    for script in (PANORAMA.split("# ---\n")[0], DETECT):
        words = [sys.executable, "-c", script, str(tmp_path), "--slice", "640", "--threads", "1"]
        done = subprocess.run(words, capture_output=True, text=True, check=True)
    megabytes, drawn = done.stdout.splitlines()[-2:]
    assert int(megabytes.removeprefix("MB: ")) < 3000
    assert drawn == "drawn: 4096", "a picture for people is not larger"
    faces = json.loads((tmp_path / "drawn/detections.json").read_text())["images"][0]["faces"]
    assert len(faces) >= 4
