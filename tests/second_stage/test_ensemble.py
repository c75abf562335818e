"""Two detectors of one picture: each face once, in the middle, as sure as both together."""

from __future__ import annotations

import threading
import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.special import expit, logit

import tinygan
from tinygan.detections import Detections
from tinygan.errors import DataError
from tinygan.second_stage.ensemble import LEAST_SCORE, join_detections, search_images
from tinygan.second_stage.judging import Judged

FACE, SHIFTED, ELSEWHERE = [10, 10, 30, 30], [12, 12, 32, 32], [100, 100, 120, 130]


def found(*rows, **columns):
    return Detections(np.array([row[:4] for row in rows]), np.array([row[4] for row in rows]), columns)


def test_a_face_of_both_lies_in_the_middle_and_its_log_odds_lean_to_the_surer():
    joined = join_detections(found([*FACE, 0.6]), found([*SHIFTED, 0.9]))
    assert joined.boxes.tolist() == [[11, 11, 31, 31]] and joined.fields["found_by"].tolist() == ["both"]
    assert joined.scores == pytest.approx(expit(0.8 * logit(0.9) + 0.2 * logit(0.6)))
    hardly = join_detections(found([*FACE, 0.6]), found([*SHIFTED, 1e-5]))
    assert hardly.scores == pytest.approx(expit(0.8 * logit(0.6) - 0.8))  # no less sure than one that found nothing


def test_a_face_of_one_alone_stays_where_it_is_and_is_less_sure():
    joined = join_detections(found([*FACE, 0.7]), found([*ELSEWHERE, 0.8], [200, 200, 210, 210, 0.001]))
    assert joined.boxes.tolist() == [ELSEWHERE, FACE, [200, 200, 210, 210]]
    assert joined.fields["found_by"].tolist() == ["second", "first", "second"]
    assert logit(joined.scores) == pytest.approx(0.8 * logit([0.8, 0.7, 0.001]) - 0.8)


def test_each_box_has_one_partner_and_the_surest_choose_first():
    first = found([*FACE, 0.5], [13, 13, 33, 33, 0.9])
    joined = join_detections(first, found([*SHIFTED, 0.8]))
    assert joined.fields["found_by"].tolist() == ["both", "first"]
    assert joined.boxes.tolist() == [[12.5, 12.5, 32.5, 32.5], FACE]
    again = join_detections(found([*SHIFTED, 0.8]), first)  # what repeats a face of the first is not added
    assert again.boxes.tolist() == [[12.5, 12.5, 32.5, 32.5]] and again.fields["found_by"].tolist() == ["both"]


def test_columns_are_those_of_the_first():
    first = found([*FACE, 0.9], face_logit=np.array([2.5]), name=np.array(["mine"]), landmarks=np.ones((1, 5, 2)))
    second = found(
        [*ELSEWHERE, 0.5], face_logit=np.array([1.5]), landmarks=np.ones((1, 10)), outcome=np.array(["kept"])
    )
    joined = join_detections(first, second)
    assert set(joined.fields) == {"face_logit", "name", "landmarks", "found_by"}
    assert joined.fields["face_logit"].tolist() == [2.5, 1.5] and joined.fields["name"].tolist() == ["mine", ""]
    assert np.isnan(joined.fields["landmarks"]).all(axis=(1, 2)).tolist() == [False, True]


def test_columns_of_other_kinds_are_not_mixed():
    kinds = {"object": np.array([None]), "count": np.array([7]), "when": np.array(["2026-01-01"], "M8[D]")}
    first, second = found([*FACE, 0.9], **kinds), found([*ELSEWHERE, 0.5], count=np.array(["seven"]))
    columns = join_detections(first, second).fields
    assert columns["object"].tolist() == [None, None] and columns["count"].tolist() == [7, 0]
    assert np.isnat(columns["when"]).tolist() == [False, True]


def test_where_the_first_found_nothing_the_columns_are_those_of_the_second():
    ours = found([*FACE, 0.9], landmarks=np.ones((1, 10)))
    joined = join_detections(Detections.empty(), ours)
    assert joined.fields["landmarks"].shape == (1, 10) and joined.fields["found_by"].tolist() == ["second"]


def test_nothing_on_one_side_or_both():
    some = found([*FACE, 0.9], [*ELSEWHERE, 0.2])
    assert join_detections(some, Detections.empty()).fields["found_by"].tolist() == ["first", "first"]
    assert join_detections(Detections.empty(), some).fields["found_by"].tolist() == ["second", "second"]
    assert len(join_detections(Detections.empty(), Detections.empty())) == 0


def test_order_within_one_detector_stays_and_no_box_of_the_first_is_lost():
    rng = np.random.default_rng(0)
    corners = rng.uniform(0, 400, (60, 2))
    boxes = np.concatenate([corners, corners + rng.uniform(8, 40, (60, 2))], axis=1)
    first, second = Detections(boxes[:30], rng.uniform(1e-5, 1, 30)), Detections(boxes[20:] + 1, rng.uniform(0, 1, 40))
    joined = join_detections(first.with_fields(row=np.arange(30)), second)
    assert (np.diff(joined.scores) <= 0).all()
    mine = joined.fields["found_by"] != "second"
    assert sorted(joined.fields["row"][mine]) == list(range(30))
    alone = joined[joined.fields["found_by"] == "first"]
    assert (np.diff(first.scores[alone.fields["row"]]) <= 0).all()


def test_scores_that_are_no_probabilities_are_refused():
    with pytest.raises(DataError, match=r"must lie in \[0, 1\]"):
        join_detections(found([*FACE, 3.0]), found([*FACE, 0.5]))
    assert tinygan.join_detections is join_detections


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


def test_memory_does_not_grow_with_the_product_of_both_numbers_of_boxes():
    rng = np.random.default_rng(0)
    corners = rng.uniform(0, 4000, (30_000, 2))
    many = Detections(np.concatenate([corners, corners + 20], axis=1), rng.uniform(0.01, 0.5, len(corners)))
    tracemalloc.start()
    joined = join_detections(many, many[::40])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (joined.fields["found_by"] == "both").sum() == 750 and len(joined) == 30_000
    assert peak < 90_000_000  # a matrix of all pairs alone has 180 million bytes
