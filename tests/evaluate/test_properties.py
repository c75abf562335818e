"""What may not move a figure, and what must: properties of the evaluators on drawn crowds."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tinygan.detections import Detections
from tinygan.evaluate.truth import EvaluationTruth
from tinygan.evaluate.voc import evaluate_voc
from tinygan.evaluate.wider import compare_wider, evaluate_wider

Crowd = tuple[dict[str, Detections], EvaluationTruth]
EXAMPLES = settings(deadline=None, max_examples=30)


@st.composite
def crowds(draw: st.DrawFn) -> Crowd:
    """Up to six images of up to eight faces on a grid; jittered copies and strays with many equal scores."""
    generator = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    levels = draw(st.sampled_from([1, 4, 64]))  # distinct scores
    faces, members, detections = {}, {}, {}
    for number in range(draw(st.integers(1, 6))):
        name, count = f"image{number}", int(generator.integers(0, 9))
        corner = 40.0 * np.stack(np.unravel_index(generator.permutation(16)[:count], (4, 4)), axis=1)
        boxes = np.concatenate([corner, corner + generator.integers(6, 30, (count, 1))], axis=1)
        near = np.repeat(boxes, 2, axis=0) + generator.normal(0, 2, (2 * count, 4))
        strays = generator.uniform(0, 150, (5, 4))
        found = np.concatenate([near, strays])
        scores = generator.integers(0, levels, len(found)) / levels
        faces[name], members[name] = boxes, generator.random(count) < 0.7
        if generator.random() < 0.9:
            detections[name] = Detections(found, scores)
    return detections, EvaluationTruth(faces, {"all": members})


def ap_wider(detections: dict[str, Detections], truth: EvaluationTruth) -> float:
    return evaluate_wider(detections, truth).subsets["all"].ap_exact


def ap_voc(detections: dict[str, Detections], truth: EvaluationTruth) -> float:
    return evaluate_voc(detections, truth).subsets["all"].ap


def same(first: float, second: float) -> bool:
    return first == second or (np.isnan(first) and np.isnan(second))


protocols = pytest.mark.parametrize("ap", [ap_wider, ap_voc])
Ap = Callable[[dict[str, Detections], EvaluationTruth], float]


@protocols
@EXAMPLES
@given(crowd=crowds(), seed=st.integers(0, 1000))
def test_order_of_lines(ap: Ap, crowd: Crowd, seed: int) -> None:
    detections, truth = crowd
    generator = np.random.default_rng(seed)
    shuffled = {name: found[generator.permutation(len(found))] for name, found in detections.items()}
    assert same(ap(detections, truth), ap(shuffled, truth))


@protocols
@EXAMPLES
@given(crowd=crowds(), seed=st.integers(0, 1000))
def test_order_of_images(ap: Ap, crowd: Crowd, seed: int) -> None:
    detections, truth = crowd
    order = np.random.default_rng(seed).permutation(len(truth.names))
    names = [truth.names[k] for k in order]
    members = truth.subsets["all"]
    reordered = EvaluationTruth({n: truth.faces[n] for n in names}, {"all": {n: members[n] for n in names}})
    assert same(ap(detections, truth), ap({n: detections[n] for n in names if n in detections}, reordered))


@protocols
@EXAMPLES
@given(crowd=crowds(), share=st.floats(0, 1))
def test_splitting_a_file(ap: Ap, crowd: Crowd, share: float) -> None:
    """An image's boxes in two parts, joined the other way round."""
    detections, truth = crowd
    joined = {}
    for name, found in detections.items():
        at = round(share * len(found))
        first, second = found[:at], found[at:]
        joined[name] = Detections(
            np.concatenate([second.boxes, first.boxes]), np.concatenate([second.scores, first.scores])
        )
    assert same(ap(detections, truth), ap(joined, truth))


@protocols
@EXAMPLES
@given(crowd=crowds(), scale=st.floats(1e-3, 1e3), shift=st.floats(-1e3, 1e3))
def test_positive_affine_maps_of_the_scores(ap: Ap, crowd: Crowd, scale: float, shift: float) -> None:
    detections, truth = crowd  # scores are at least 1/64 apart, so that no rounding merges two
    mapped = {name: Detections(found.boxes, found.scores * scale + shift) for name, found in detections.items()}
    assert same(ap(detections, truth), ap(mapped, truth))


@protocols
@EXAMPLES
@given(crowd=crowds())
def test_logits_rank_as_probabilities_do(ap: Ap, crowd: Crowd) -> None:
    detections, truth = crowd
    logits = {n: Detections(d.boxes, np.log((d.scores + 0.01) / (1.01 - d.scores))) for n, d in detections.items()}
    assert same(ap(detections, truth), ap(logits, truth))


@protocols
@EXAMPLES
@given(crowd=crowds(), seed=st.integers(0, 1000))
def test_perfect_distinct_detections(ap: Ap, crowd: Crowd, seed: int) -> None:
    _, truth = crowd
    generator = np.random.default_rng(seed)
    perfect = {name: Detections(boxes, generator.normal(0, 5, len(boxes))) for name, boxes in truth.faces.items()}
    value = ap(perfect, truth)
    assert value == pytest.approx(1.0, abs=1e-12) or (np.isnan(value) and not truth_counts(truth))


def truth_counts(truth: EvaluationTruth) -> int:
    return sum(int(member.sum()) for member in truth.subsets["all"].values())


@EXAMPLES
@given(crowd=crowds())
def test_boxes_of_no_size_change_nothing_but_false_positives(crowd: Crowd) -> None:
    detections, truth = crowd
    point = np.array([[900.0, 900, 900, 900], [900, 900, 890, 880]])
    lowest = -1.0
    worse = {
        n: Detections(np.concatenate([d.boxes, point]), np.append(d.scores, [lowest] * 2))
        for n, d in detections.items()
    }
    # Below every hit they cost nothing, but for the order in which the steps of the curve are added up.
    assert ap_wider(worse, truth) == pytest.approx(ap_wider(detections, truth), abs=1e-12, nan_ok=True)
    first = {n: Detections(d.boxes, np.where(np.arange(len(d)) < len(d) - 2, d.scores, 9)) for n, d in worse.items()}
    before, after = ap_wider(detections, truth), ap_wider(first, truth)
    assert after < before or not before > 0  # above every hit, they do


@EXAMPLES
@given(crowd=crowds())
def test_an_absent_image_is_one_without_detections(crowd: Crowd) -> None:
    detections, truth = crowd
    filled = {name: detections.get(name, Detections.empty()) for name in truth.names}
    assert same(ap_wider(detections, truth), ap_wider(filled, truth))


@settings(deadline=None, max_examples=10)
@given(crowd=crowds())
def test_a_baseline_against_itself(crowd: Crowd) -> None:
    result = evaluate_wider(*crowd)
    difference = compare_wider(result, result, resamples=20)["all"]
    zero = (difference.value, difference.low, difference.high) == (0, 0, 0)
    assert zero or not truth_counts(crowd[1])
