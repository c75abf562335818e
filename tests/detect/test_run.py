"""What fails midway leaves nothing behind, and nothing else fails with it."""

import json
from pathlib import Path
from threading import Lock
from time import sleep

import numpy as np
import pytest
from PIL import Image

from tinygan.detect.results import open_results
from tinygan.detect.run import DetectConfig, detect_all
from tinygan.detect.sources import Source
from tinygan.detect.video import Frame
from tinygan.detections import Detections
from tinygan.errors import DataError

CLIP = Source("clip.mp4", Path("clip.mp4"))


class OneFace:
    """A detector that sees the same face everywhere."""

    side_by_side = 1

    def detect(self, image, min_score):
        box = np.array([[2.0, 2, 9, 9]])
        fields = {"proposal_score": [0.9], "face_logit": [1.0], "proposal_box": box, "outcome": ["kept"]}
        return Detections(box, np.array([0.9]), fields)

    def enlarge(self, image, faces, most):
        return []


@pytest.mark.parametrize("pictures", [True, False])
def test_a_video_that_breaks_off_is_dropped_whole(tmp_path, monkeypatch, pictures):
    pytest.importorskip("av")

    def break_off(path, damage):
        for number in range(3):
            yield Frame(number, number / 10, Image.new("RGB", (32, 32)))
        raise DataError(f"{path}: expected a readable video")

    monkeypatch.setattr("tinygan.detect.run.read_frames", break_off)
    photo = Source("photo.png", tmp_path / "photo.png")
    Image.new("RGB", (32, 32)).save(photo.path)
    out = tmp_path / "out"
    with open_results(out, {}, resume=False, overwrite=False) as results:
        skipped = detect_all(OneFace(), [CLIP, photo], results, DetectConfig(pictures=pictures))
        assert results.write_tables({}).faces == 1
    assert skipped == ["clip.mp4: expected a readable video"]
    assert [image["name"] for image in json.loads((out / "detections.json").read_text())["images"]] == ["photo.png"]
    assert sorted(file.suffix for file in out.iterdir()) == [".csv", ".json", ".jsonl", *[".png"] * pictures]


class Watched(OneFace):
    """As :class:`OneFace`; it notes how many are at work at the same time, and fails on a picture of 31 px."""

    def __init__(self, side_by_side):
        self.side_by_side, self.working, self.most, self.lock = side_by_side, 0, 0, Lock()

    def detect(self, image, min_score):
        with self.lock:
            self.working += 1
            self.most = max(self.most, self.working)
        sleep(0.05)
        with self.lock:
            self.working -= 1
        if image.width == 31:
            raise RuntimeError("out of order")
        return super().detect(image, min_score)


@pytest.mark.parametrize(("side_by_side", "large_pixels", "most"), [(1, 5000, 1), (3, 5000, 3), (3, 500, 1)])
def test_pictures_that_are_not_large_are_searched_side_by_side(tmp_path, monkeypatch, side_by_side, large_pixels, most):
    monkeypatch.setattr("tinygan.formats.sizes.LARGE_PIXELS", large_pixels)
    sources = [Source(f"{at}.png", tmp_path / f"{at}.png") for at in range(7)]
    for at, source in enumerate(sources):
        Image.new("RGB", (31 if at == 3 else 32, 32)).save(source.path)
    sources[5].path.write_bytes(b"no picture")
    detector = Watched(side_by_side)
    with open_results(tmp_path / "out", {}, resume=False, overwrite=False) as results:
        skipped = detect_all(detector, sources, results, DetectConfig())
        done = list(results.done)
    assert done == ["0.png", "1.png", "2.png", "4.png", "6.png"] and detector.most == most
    assert len(skipped) == 2 and "3.png: failed: RuntimeError: out of order" in skipped[0] and "5.png" in skipped[1]
