import pickle
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from tinygan.boxes import interpolate
from tinygan.checkpoint import load_checkpoint
from tinygan.data.cutting import CropConfig, cut_regions
from tinygan.detections import Detections
from tinygan.errors import CheckpointError
from tinygan.formats.images import read_image
from tinygan.models.discriminator import Discriminator, DiscriminatorConfig
from tinygan.models.folding import fold_batch_norm
from tinygan.models.generator import Generator, GeneratorConfig
from tinygan.runtime import Runtime, RuntimeOptions
from tinygan.second_stage.judge import Judge, filled_up
from tinygan.second_stage.judging import (
    LOOK_LOGIT,
    LOOK_RESIZE,
    THIRD_LOOK_PX,
    Request,
    closed,
    judge_chunks,
    judge_images,
)
from tinygan.training.fusion import with_second

CROPS = CropConfig(lr_size=8)
RUNTIME = RuntimeOptions(device="cpu", precision="32")


def asked(name, image, boxes):
    return Request(name, image, Detections(boxes, np.linspace(0.9, 0.1, len(boxes))))


@pytest.fixture
def judge():
    torch.manual_seed(0)
    generator = Generator(
        GeneratorConfig(width=4, up_width=4, residual_blocks=1, refine_width=4, refine_up_width=4, refine_blocks=1)
    )
    config = DiscriminatorConfig(backbone="vgg_lite", weights="none", lite_widths=(4, 4, 4, 4, 4), fc_std=1.0)
    return Judge(generator, Discriminator(config, CROPS.hr_size), CROPS, Runtime(RUNTIME))


@pytest.fixture
def requests(tmp_path):
    rng = np.random.default_rng(0)
    made = []
    for number in range(5):
        path = tmp_path / f"{number}.png"
        Image.fromarray(rng.integers(0, 255, (80, 100, 3), dtype=np.uint8)).save(path)
        corner = rng.uniform(0, 50, (number * 4, 2))
        boxes = np.concatenate([corner, corner + rng.uniform(3, 25, (number * 4, 1))], axis=1)
        made.append(asked(str(number), path, boxes))
    return made


def test_batch_norm_folding_changes_nothing():
    torch.manual_seed(0)
    network = Generator(
        GeneratorConfig(width=4, up_width=4, residual_blocks=1, refine_width=4, refine_up_width=4, refine_blocks=1)
    )
    network.train()(torch.rand(16, 3, 8, 8))  # gives BN other statistics than (0, 1)
    lr = torch.rand(2, 3, 8, 8)
    with torch.no_grad():
        before = network.eval()(lr).refined
        after = fold_batch_norm(network)(lr).refined
    assert not any(isinstance(m, torch.nn.BatchNorm2d) for m in network.modules())
    assert torch.allclose(before, after, atol=1e-5)


def test_the_generator_is_made_ready_once_and_when_it_is_used(judge, monkeypatch):
    made = []

    def slowly(graph, runtime):
        made.append((graph.name, torch.is_inference_mode_enabled()))
        time.sleep(0.05)  # so that all threads are waiting
        return graph.network

    monkeypatch.setattr("tinygan.second_stage.judge.deploy", slowly)
    small, large = np.zeros((2, 8, 8, 3), np.uint8), np.zeros((3, 32, 32, 3), np.uint8)
    judge.judge(small[:0], large)
    assert made == []
    copy = pickle.loads(pickle.dumps(judge))
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda _: judge.judge(small, large)[0], range(4)))
    assert made == [("generator", False)] and all(np.array_equal(answer, answers[0]) for answer in answers)
    assert copy.judge(small, large)[0] == pytest.approx(answers[0], abs=1e-5)


def test_answers_come_in_order_and_do_not_depend_on_batching(judge, requests):
    one = list(judge_images(judge, requests, batch_size=3))
    many = list(judge_images(judge, requests, batch_size=1000, workers=1))
    assert [a.name for a in one] == ["0", "1", "2", "3", "4"] and [len(a.face_logits) for a in one] == [0, 4, 8, 12, 16]
    for a, b in zip(one, many, strict=True):
        assert a.face_logits == pytest.approx(b.face_logits, abs=1e-5)


def test_each_box_gets_its_own_logit(judge, requests):
    request = requests[4]
    together = next(iter(judge_images(judge, [request], 64))).face_logits
    assert len(np.unique(together.round(6))) > 8
    for row in (0, 7, 15):
        alone = next(iter(judge_images(judge, [asked("x", request.image, request.proposals.boxes[row : row + 1])], 64)))
        assert alone.face_logits[0] == pytest.approx(together[row], abs=1e-5)


def test_unreadable_image_is_an_answer_not_a_crash(judge, requests):
    requests[2].image.write_bytes(requests[2].image.read_bytes()[:200])
    answers = list(judge_images(judge, requests, 8))
    assert [a.error is not None for a in answers] == [False, False, True, False, False]
    assert "2.png: expected a readable image" in answers[2].error and len(answers[2].face_logits) == 0
    assert len(answers[4].face_logits) == 16


@pytest.mark.parametrize("route_px", [0.0, 12.0])
def test_networks_see_few_sizes_of_batch_and_none_above_the_one_wanted(judge, requests, monkeypatch, route_px):
    judge.crops = replace(judge.crops, route_px=route_px)
    kept, seen = judge._look, []

    def look(*pictures):
        seen.append(len(pictures[0]))
        return kept(*pictures)

    monkeypatch.setattr(judge, "_look", look)
    for count in range(1, 17):
        few = [replace(request, count=count) for request in requests]
        assert sum(len(one.face_logits) for one in judge_images(judge, few, batch_size=16)) == sum(
            min(count, len(one.proposals)) for one in requests
        )
    assert {4, 16} <= set(seen) <= {*range(1, 9), 10, 12, 14, 16}


def test_a_batch_is_filled_up_by_a_fifth_at_most_to_one_of_twenty_sizes():
    filled = {count: filled_up(count) for count in range(1, 201)}
    assert all(0 <= full - count <= full / 5 for count, full in filled.items())
    assert len({full for full in filled.values() if full <= 64}) == 20


def test_chunks_judged_side_by_side_are_those_of_one_after_the_other(finding_checkpoint, requests):
    weights, threads = load_checkpoint(finding_checkpoint, ("fused",)), torch.get_num_threads()
    chunks = [replace(request, closes=at in (1, 2)) for at, request in enumerate(requests)]
    assert [len(chunk) for chunk in closed(chunks)] == [2, 1, 2] and list(closed([])) == []
    try:
        once, together = (
            list(
                judge_chunks(Judge.from_weights(weights, Runtime(replace(RUNTIME, threads=count))), chunks, 8, looks=3)
            )
            for count in (1, 2)
        )
    finally:
        torch.set_num_threads(threads)
    for one, other in zip(once, together, strict=True):
        assert one.name == other.name and one.face_logits == pytest.approx(other.face_logits, abs=1e-5)
        assert one.boxes == pytest.approx(other.boxes, abs=1e-4)


def test_no_requests(judge):
    assert list(judge_images(judge, [], 8)) == []
    face_logits, boxes = judge.judge(np.zeros((0, 8, 8, 3), np.uint8), np.zeros((0, 32, 32, 3), np.uint8))
    assert face_logits.shape == (0,) and boxes.shape == (0, 4)


def mirrored(boxes):
    return np.column_stack([100 - boxes[:, 2], boxes[:, 1], 100 - boxes[:, 0], boxes[:, 3]])


def in_mirror(request, boxes):
    picture = request.image.with_name(f"mirrored {request.image.name}")
    with Image.open(request.image) as image:
        ImageOps.mirror(image).save(picture)
    # What lies in the middle of two pixels goes to the right, so in a mirror to the left.
    return asked(request.name, picture, mirrored(boxes) - [1e-6, 0, 1e-6, 0])


def looked_at_next(request, answer):
    """Where the face was found, half of the way to its size."""
    every = np.ones(len(answer.boxes))
    return interpolate(request.proposals.boxes, answer.boxes, every, LOOK_RESIZE * every)


def test_a_second_look_is_taken_where_the_first_found_the_face_at_a_mirror_image(finding_checkpoint, requests):
    judge = Judge.from_weights(load_checkpoint(finding_checkpoint, ("fused",)), Runtime(RUNTIME))
    assert judge.finds_boxes and judge.sees_wide
    first = list(judge_images(judge, requests, batch_size=7))
    for request, answer in zip(requests[1:], first[1:], strict=True):
        seen = cut_regions(read_image(request.image), request.proposals.boxes, judge.crops, wide=True).anchors
        side = (seen[:, 2] - seen[:, 0])[:, None]
        assert answer.boxes == pytest.approx(seen + side * [0, 0.5, 0, 0.5], abs=1e-3)
    second = list(judge_images(judge, requests, batch_size=1000, workers=1, looks=2))
    there = [in_mirror(r, looked_at_next(r, a)) for r, a in zip(requests, first, strict=True)]
    for looked, there_too, at_first in zip(second, judge_images(judge, there, 5), first, strict=True):
        assert looked.face_logits == pytest.approx((there_too.face_logits + at_first.face_logits) / 2, abs=1e-4)
        assert looked.boxes == pytest.approx(mirrored(there_too.boxes), abs=1e-3)
    assert np.abs(second[4].face_logits - first[4].face_logits).max() > 1e-3


def test_the_second_look_may_be_another_judge_s(finding_checkpoint, requests):
    weights = load_checkpoint(finding_checkpoint, ("fused",))
    stranger = {name: -tensor if "fc_clc" in name else tensor for name, tensor in weights.tensors.items()}
    other = replace(weights, tensors=stranger)
    both = with_second(weights, other, finding_checkpoint)
    one, two, first = (
        next(judge_images(Judge.from_weights(each, Runtime(RUNTIME)), requests[4:], 64, looks=looks)).face_logits
        for each, looks in ((weights, 2), (both, 2), (weights, 1))
    )
    assert one - first / 2 == pytest.approx(
        first / 2 - two, abs=1e-4
    )  # all logits of the other judge are the negatives
    assert np.abs(two - one).max() > 1e-2
    assert both.trained_on == weights.trained_on | other.trained_on
    again = with_second(other, both, finding_checkpoint)  # of two judges the one that looks second
    assert all(torch.equal(again.part("second")[name], tensor) for name, tensor in both.part("second").items())
    assert again.recipe["second"] == both.recipe["second"]


@pytest.mark.parametrize(
    ("section", "change"), [("crops", {"context": 3.0}), ("discriminator", {"surroundings": "none"})]
)
def test_a_second_judge_that_sees_other_pictures_is_refused(finding_checkpoint, section, change):
    weights = load_checkpoint(finding_checkpoint, ("fused",))
    other = replace(weights, recipe={**weights.recipe, section: {**weights.recipe[section], **change}})
    with pytest.raises(CheckpointError, match=f"{section}.{next(iter(change))}"):
        with_second(weights, other, finding_checkpoint)


def test_a_second_look_is_taken_only_at_what_may_be_a_face(finding_checkpoint, requests):
    judge = Judge.from_weights(load_checkpoint(finding_checkpoint, ("fused",)), Runtime(RUNTIME))
    once, twice = (next(judge_images(judge, requests[4:], 64, looks=looks)) for looks in (1, 2))
    middle = float(np.median(once.face_logits))
    found = next(judge_images(judge, requests[4:], 64, looks=2, again_from=middle))
    again = once.face_logits >= middle
    assert 0 < again.sum() < len(again)
    assert found.face_logits == pytest.approx(np.where(again, twice.face_logits, once.face_logits), abs=1e-4)
    assert found.boxes == pytest.approx(np.where(again[:, None], twice.boxes, once.boxes), abs=1e-3)


@pytest.mark.parametrize("in_memory", [False, True])
def test_a_third_look_is_taken_at_tiny_boxes_alone(finding_checkpoint, requests, in_memory):
    judge = Judge.from_weights(load_checkpoint(finding_checkpoint, ("fused",)), Runtime(RUNTIME))
    asked = [replace(one, image=read_image(one.image)) for one in requests] if in_memory else requests
    twice, thrice = (list(judge_images(judge, asked, 64, looks=looks)) for looks in (2, 3))
    there = [in_mirror(r, looked_at_next(r, t)) for r, t in zip(requests, twice, strict=True)]
    third = list(judge_images(judge, there, 64))
    seen = set()
    for two, three, one in zip(twice, thrice, third, strict=True):
        sides = (two.proposals.boxes[:, 2:] - two.proposals.boxes[:, :2]).max(axis=1)
        again = (two.face_logits >= LOOK_LOGIT) & (sides < THIRD_LOOK_PX)
        seen |= set(again.tolist())
        logits = np.where(again, two.face_logits + (one.face_logits - two.face_logits) / 3, two.face_logits)
        assert three.face_logits == pytest.approx(logits, abs=1e-4)
        boxes = np.where(again[:, None], mirrored(one.boxes), two.boxes)
        assert three.boxes == pytest.approx(boxes, abs=1e-3)
    assert seen == {True, False}


def test_a_second_look_at_an_unreadable_image_keeps_its_error(finding_checkpoint, requests):
    judge = Judge.from_weights(load_checkpoint(finding_checkpoint, ("fused",)), Runtime(RUNTIME))
    requests[2].image.write_bytes(requests[2].image.read_bytes()[:200])
    answers = list(judge_images(judge, requests, 8, looks=2))
    assert [a.error is not None for a in answers] == [False, False, True, False, False]


def test_large_files_are_decoded_again_for_the_second_look(finding_checkpoint, requests, monkeypatch):
    judge = Judge.from_weights(load_checkpoint(finding_checkpoint, ("fused",)), Runtime(RUNTIME))
    expected = list(judge_images(judge, requests, 64, looks=2))
    decoded: list[object] = []
    monkeypatch.setattr(
        "tinygan.second_stage.judging.read_image", lambda file: decoded.append(file) or read_image(file)
    )
    monkeypatch.setattr("tinygan.second_stage.judging.KEPT_PIXELS", 100)
    again = list(judge_images(judge, requests, 64, looks=2))
    for one, other in zip(again, expected, strict=True):
        assert one.error is None and one.face_logits == pytest.approx(other.face_logits, abs=1e-4)
    assert decoded.count(requests[4].image) == 2
    decoded.clear()
    in_memory = [replace(one, image=read_image(one.image)) for one in requests]
    for one, other in zip(judge_images(judge, in_memory, 64, looks=2), expected, strict=True):
        assert one.face_logits == pytest.approx(other.face_logits, abs=1e-4)
    assert not decoded


def test_a_file_that_is_gone_before_its_second_look_is_an_answer(finding_checkpoint, requests, monkeypatch):
    judge = Judge.from_weights(load_checkpoint(finding_checkpoint, ("fused",)), Runtime(RUNTIME))
    monkeypatch.setattr("tinygan.second_stage.judging.KEPT_PIXELS", 100)
    gone = requests[4].image

    def read_once(file):
        picture = read_image(file)
        if file == gone:
            gone.unlink()
        return picture

    monkeypatch.setattr("tinygan.second_stage.judging.read_image", read_once)
    answers = list(judge_images(judge, requests, 64, looks=2))
    assert [one.error is not None for one in answers] == [False, False, False, False, True]
    assert "no such image" in answers[4].error and len(answers[4].face_logits) == 0


def test_surroundings_of_both_routes_reach_their_own_boxes(finding_checkpoint, requests):
    judge = Judge.from_weights(load_checkpoint(finding_checkpoint, ("fused",)), Runtime(RUNTIME))
    together = list(judge_images(judge, requests, batch_size=1000))[4].face_logits
    request = requests[4]
    for row in range(0, 16, 3):
        alone = next(judge_images(judge, [asked("x", request.image, request.proposals.boxes[row : row + 1])], 64))
        assert alone.face_logits[0] == pytest.approx(together[row], abs=1e-4)


def test_a_judge_without_third_head_finds_no_boxes_and_looks_once(judge, requests):
    answers = list(judge_images(judge, requests, 64, looks=2))
    assert np.isnan(answers[4].boxes).all() and answers[4].boxes.shape == (16, 4)


def test_wild_logits_are_limited(judge, requests, monkeypatch):
    monkeypatch.setattr("tinygan.second_stage.judging.LOGIT_LIMIT", 1e9)
    free = next(judge_images(judge, requests[4:], 64)).face_logits
    limit = float(np.abs(free).mean())
    monkeypatch.setattr("tinygan.second_stage.judging.LOGIT_LIMIT", limit)
    held = next(judge_images(judge, requests[4:], 64)).face_logits
    assert np.abs(free).max() > limit and np.array_equal(held, np.clip(free, -limit, limit))
