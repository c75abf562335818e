"""A search beside the proposals of another detector."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tinygan.detections import Detections
from tinygan.second_stage.ensemble import LEAST_SCORE, search_images
from tinygan.second_stage.judging import Judged


def found(*rows, **columns):
    return Detections(np.array([row[:4] for row in rows]), np.array([row[4] for row in rows]), columns)


class Searcher:
    """Finds a box as wide as the picture; where ``side_by_side`` is 2, two pictures have to be searched at once."""

    def __init__(self, side_by_side=1):
        self.side_by_side, self.sizes = side_by_side, []
        self.both = threading.Barrier(side_by_side, timeout=20)

    def detect(self, image, min_score):
        assert min_score == LEAST_SCORE
        self.sizes.append(image.size)
        if image.width == 13:
            raise RuntimeError("no luck")
        self.both.wait()
        return found([0, 0, image.width, 5, 0.5])


def unjudged(names) -> list[Judged]:
    return [Judged(name, Detections.empty(), np.zeros(0), np.zeros((0, 4))) for name in names]


@pytest.fixture
def images(tmp_path) -> dict[str, Path]:
    for width in (10, 11, 12, 13, 14):
        Image.new("RGB", (width, 20)).save(tmp_path / f"{width}.png")
    (tmp_path / "12.png").write_bytes((tmp_path / "12.png").read_bytes()[:50])
    return {path.stem: path for path in sorted(tmp_path.glob("*.png"))}


@pytest.mark.parametrize("side_by_side", [1, 2])
def test_a_search_keeps_the_order_and_a_picture_that_fails_costs_itself_alone(images, side_by_side):
    judged = unjudged(images)
    judged[1] = replace(judged[1], error="gone")
    pairs = list(search_images(Searcher(side_by_side), judged, images))
    assert [one.name for one, _ in pairs] == list(images)
    assert [box.tolist() for _, some in pairs for box in some.boxes] == [[0, 0, 10, 5], [0, 0, 14, 5]]
    errors = {one.name: one.error for one, _ in pairs if one.error is not None}
    assert errors["11"] == "gone" and "12.png: expected a readable image" in errors["12"] and "no luck" in errors["13"]
    assert len(errors) == 3


def test_a_large_picture_is_searched_alone(tmp_path):
    for name in "ab":
        Image.new("L", (2500, 2000)).save(tmp_path / f"{name}.png")
    images = {name: tmp_path / f"{name}.png" for name in "ab"}
    searcher = Searcher(2)
    searcher.both = threading.Barrier(1)  # nobody else has to come
    assert [len(some) for _, some in search_images(searcher, unjudged(images), images)] == [1, 1]
    threads = {threading.get_ident()}
    searcher.detect = lambda image, min_score: threads.add(threading.get_ident()) or Detections.empty()
    list(search_images(searcher, unjudged(images), images))
    assert len(threads) == 1


def test_a_search_sees_pictures_as_the_boxes_do(tmp_path):
    exif = Image.Exif()
    exif[274] = 6  # turned by a quarter
    Image.new("RGB", (40, 20)).save(tmp_path / "a.jpg", exif=exif)
    searcher = Searcher()
    for orientation in ("upright", "stored"):
        list(search_images(searcher, unjudged("a"), {"a": tmp_path / "a.jpg"}, orientation))
    assert searcher.sizes == [(20, 40), (40, 20)]
