"""Two detectors of one picture: each face once, in the middle, as sure as both together."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from scipy.special import expit, logit

import tinygan
from tinygan.detections import Detections
from tinygan.errors import DataError
from tinygan.joining import confirm_detections, join_detections

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
    assert logit(joined.scores[:2]) == pytest.approx(0.8 * logit([0.8, 0.7]) - 0.8)
    assert joined.scores[2] == pytest.approx(0.001)  # as little as it was: nothing found is no reason to believe more


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


def test_what_another_detector_confirms_keeps_order_columns_and_number():
    first = found([*ELSEWHERE, 0.6], [*FACE, 0.5], name=np.array(["a", "b"]))
    far = [15, 15, 35, 35]  # overlaps with the face by an IoU of 0.39
    near = [14, 14, 34, 34]  # by one of 0.47, too little to be added to
    confirmed = confirm_detections(first, found([*near, 0.9], [200, 200, 210, 210, 0.9]))
    assert confirmed.boxes.tolist() == [ELSEWHERE, [12, 12, 32, 32]] and set(confirmed.fields) == {"name"}
    assert logit(confirmed.scores) == pytest.approx([0.8 * logit(0.6) - 0.8, 0.8 * logit(0.9)])
    assert sorted(join_detections(first, found([*near, 0.9])).fields["found_by"]) == ["first", "first", "second"]
    still = confirm_detections(first, found([*near, 0.9]), move_boxes=False)
    assert still.boxes.tolist() == first.boxes.tolist() and still.scores.tolist() == confirmed.scores.tolist()
    assert logit(confirm_detections(first, found([*far, 0.9])).scores[1]) == pytest.approx(-0.8)
    assert len(confirm_detections(Detections.empty(), first)) == 0
    assert logit(confirm_detections(first, Detections.empty()).scores) == pytest.approx([0.8 * logit(0.6) - 0.8, -0.8])


def test_what_the_other_detector_did_not_find_is_not_believed_more():
    scores = [0.9, 0.02, 0.001, 1e-9, 0.0]
    first = found(*([20.0 * at, 0, 20.0 * at + 10, 10, score] for at, score in enumerate(scores)))
    for second in (
        found([200, 200, 210, 210, 0.9]),
        found(*([20.0 * at, 0, 20.0 * at + 10, 10, 0.0] for at in range(5))),
    ):
        after = confirm_detections(first, second).scores
        assert (after <= scores).all() and after[0] < scores[0] and after[2:].tolist() == scores[2:]
