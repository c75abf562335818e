"""What fails midway leaves nothing behind, and nothing else fails with it."""

import json
from pathlib import Path

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
