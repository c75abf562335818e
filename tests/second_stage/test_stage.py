"""The second stage from Python says what the command says."""

import itertools
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.special import logit

import tinygan
from tinygan.checkpoint import load_checkpoint, save_checkpoint
from tinygan.cli.rescore import main
from tinygan.detections import Detections
from tinygan.errors import CheckpointError, ConfigError, DataError
from tinygan.formats.registry import open_detections
from tinygan.second_stage.calibration import RankCurve
from tinygan.second_stage.fusion import Fusion
from tinygan.second_stage.judging import judge_images

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def stage(checkpoint):
    return tinygan.SecondStage(checkpoint, device="cpu")


def test_one_image_as_array_picture_and_file(stage, tiny_wider):
    path = tiny_wider.root / "WIDER_val/images/0--Parade/val_0.jpg"
    proposals = open_detections(tiny_wider.proposals / "val")["0--Parade/val_0"]
    as_file = stage.rescore(path, proposals)
    with Image.open(path) as picture:
        for image in (picture, np.asarray(picture), str(path)):
            again = stage.rescore(image, proposals.boxes, proposals.scores)
            assert np.array_equal(again.boxes, as_file.boxes) and np.allclose(again.scores, as_file.scores)
    assert (np.diff(as_file.scores) <= 0).all() and len(as_file) == len(proposals)
    assert set(as_file.fields) >= {"proposal_score", "face_logit"}


def test_agrees_with_the_command(stage, checkpoint, tiny_wider, tmp_path):
    images = tiny_wider.root / "WIDER_val/images"
    words = ["--proposals", str(tiny_wider.proposals / "val"), "--images", str(images), "--checkpoint", str(checkpoint)]
    assert main([*words, "--out", str(tmp_path / "out"), "--device", "cpu"]) == 0
    written, proposals = open_detections(tmp_path / "out"), open_detections(tiny_wider.proposals / "val")
    many = stage.rescore_many([images / f"{name}.jpg" for name in proposals], list(proposals.values()))
    for name, found in zip(proposals, many, strict=True):
        assert np.allclose(np.sort(found.scores), np.sort(written[name].scores), atol=1e-3)


def test_quick_agrees_with_the_quick_command(finding_checkpoint, tiny_wider, tmp_path, monkeypatch):
    images, proposals = tiny_wider.root / "WIDER_val/images", open_detections(tiny_wider.proposals / "val")
    usual = tinygan.SecondStage(finding_checkpoint)
    logits = np.concatenate([usual.rescore(images / f"{n}.jpg", p).fields["face_logit"] for n, p in proposals.items()])
    for module in ("stage", "rescoring"):  # these networks learnt nothing
        quick = {"least_log_odds": -9.0, "again_from": float(np.median(logits)), "second_opinion": False}
        monkeypatch.setattr(f"tinygan.second_stage.{module}.QUICK", quick)
    words = ["--proposals", str(tiny_wider.proposals / "val"), "--images", str(images), "--quick"]
    assert main([*words, "--checkpoint", str(finding_checkpoint), "--out", str(tmp_path / "out")]) == 0
    written, quick = open_detections(tmp_path / "out"), tinygan.SecondStage(finding_checkpoint, quick=True)
    moved = 0
    for name, given in proposals.items():
        one, other = (stage.rescore(images / f"{name}.jpg", given) for stage in (quick, usual))
        assert np.allclose(np.sort(one.boxes, 0), np.sort(written[name].boxes, 0), atol=0.01)
        moved += len(one) != len(other) or not np.allclose(np.sort(one.boxes, 0), np.sort(other.boxes, 0), atol=0.5)
    assert moved


def test_quick_looks_at_fewer_proposals_of_a_detector_that_it_knows(checkpoint, tiny_wider, monkeypatch):
    proposals = open_detections(tiny_wider.proposals / "val")["0--Parade/val_0"]
    path = tiny_wider.root / "WIDER_val/images/0--Parade/val_0.jpg"
    middle = float(np.median(logit(proposals.scores)))
    monkeypatch.setattr("tinygan.second_stage.stage.QUICK", {"least_log_odds": middle, "again_from": 0.0})
    judged = []
    monkeypatch.setattr(
        "tinygan.second_stage.stage.judge_images",
        lambda *given, **named: (judged.append(len(one.face_logits)) or one for one in judge_images(*given, **named)),
    )
    for quick in (False, True):
        tinygan.SecondStage(checkpoint, fusion=Fusion(fitted=True), quick=quick).rescore(path, proposals)
    assert judged[0] == len(proposals) > judged[1] > 0


def test_many_are_drawn_lazily_and_failures_come_after_what_was_done(stage, tiny_wider, tmp_path):
    path = tiny_wider.root / "WIDER_val/images/0--Parade/val_0.jpg"
    proposals = open_detections(tiny_wider.proposals / "val")["0--Parade/val_0"]
    expected, drawn = stage.rescore(path, proposals), []

    def images(count):
        for number in range(count):
            drawn.append(number)
            yield path

    many = stage.rescore_many(images(1000), itertools.repeat(proposals))
    assert not drawn
    for _ in range(3):
        assert np.allclose(next(many).scores, expected.scores, atol=1e-4)
    assert len(drawn) < 100
    many.close()
    last = stage.rescore_many([path] * 9 + [tmp_path / "absent.jpg", path], iter([proposals] * 11))
    assert len([next(last) for _ in range(9)]) == 9
    with pytest.raises(DataError, match="no such image"):
        next(last)
    with pytest.raises(DataError, match="got 9 images and 10 of them"):
        list(stage.rescore_many((path for _ in range(9)), (proposals for _ in range(12))))


def test_several_threads_share_one_stage(stage, tiny_wider):
    names = open_detections(tiny_wider.proposals / "val")
    pairs = [(tiny_wider.root / f"WIDER_val/images/{name}.jpg", found) for name, found in names.items()] * 3
    expected = [stage.rescore(*pair).scores for pair in pairs]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda pair: stage.rescore(*pair).scores, pairs))
        many = list(pool.map(lambda pair: list(stage.rescore_many([pair[0]] * 2, [pair[1]] * 2))[1].scores, pairs))
    assert all(np.allclose(a, b) for a, b in zip(expected, together, strict=True))
    assert all(np.allclose(a, b) for a, b in zip(expected, many, strict=True))


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_a_backend_says_the_same(stage, checkpoint, tiny_wider, backend):
    pytest.importorskip(backend)
    path = tiny_wider.root / "WIDER_val/images/0--Parade/val_0.jpg"
    proposals = open_detections(tiny_wider.proposals / "val")["0--Parade/val_0"]
    found = tinygan.SecondStage(checkpoint, backend=backend).rescore(path, proposals)
    expected = stage.rescore(path, proposals)
    assert np.allclose(found.boxes, expected.boxes, atol=0.01)  # those of a second opinion differ in the last bits
    assert found.scores == pytest.approx(expected.scores, abs=1e-3)


def test_an_unknown_backend_is_refused(checkpoint):
    with pytest.raises(ConfigError, match="backend tensorrt: expected torch, onnxruntime, openvino"):
        tinygan.SecondStage(checkpoint, backend="tensorrt")


def test_learns_how_to_read_a_detector(checkpoint, tiny_wider, tmp_path, monkeypatch):
    fused = load_checkpoint(checkpoint, ("fused",))
    curve = RankCurve(knots=(-3.0, 0.0, 3.0), values=(-5.0, 0.0, 5.0))
    fusion = Fusion(judge=0.6, fitted=True, curve=curve).to_facts()
    save_checkpoint(tmp_path / "mapped.safetensors", replace(fused, fusion=fusion))
    stage = tinygan.SecondStage(tmp_path / "mapped.safetensors", device="cpu")
    proposals = open_detections(tiny_wider.proposals / "val")
    images = [tiny_wider.root / f"WIDER_val/images/{name}.jpg" for name in proposals]
    before = stage.rescore(images[0], proposals["0--Parade/val_0"])
    assert not stage.learn(images, proposals.values())  # 60 proposals are too few
    assert np.array_equal(stage.rescore(images[0], proposals["0--Parade/val_0"]).scores, before.scores)
    monkeypatch.setattr("tinygan.second_stage.calibration.MIN_PROPOSALS", 20)
    assert stage.learn(images, proposals.values())
    assert not np.allclose(stage.rescore(images[0], proposals["0--Parade/val_0"]).scores, before.scores)


def test_building_and_rescoring_leave_the_threads_alone(two_threads, checkpoint):
    stage = tinygan.SecondStage(checkpoint, device="cpu")
    stage.rescore(np.zeros((40, 60, 3), np.uint8), [[4, 4, 12, 14]], [0.5])
    assert torch.get_num_threads() == two_threads


WORKER = """
import multiprocessing, os, sys
import numpy as np
import torch
import tinygan

def answer(stage):
    image = np.random.default_rng(0).integers(0, 256, (90, 120, 3), dtype=np.uint8)
    return stage.rescore(image, [[10, 10, 22, 24], [40, 20, 80, 70]], [0.5, 0.6]).scores.tolist()

def send(pipe):
    layer = torch.nn.Conv2d(32, 32, 3)  # the host's own network
    scores, threads = answer(stage), torch.get_num_threads()
    sides = ((1, 16), (0, 64), (1, 96))  # a crop that goes through the generator, a network built only now
    stage._judge.judge(*(np.zeros((count, side, side, 3), np.uint8) for count, side in sides))
    pipe.send((scores, threads, layer(torch.ones(8, 32, 64, 64)).shape[0] if computes else 8))

def ask():
    ours, theirs = fork.Pipe(duplex=False)
    worker = fork.Process(target=send, args=(theirs,), daemon=True)
    worker.start()
    assert ours.poll(60), "a forked worker hangs"
    scores, threads, count = ours.recv()
    worker.join(10)
    assert threads == 2 and count == 8 and worker.exitcode == 0, (threads, count, worker.exitcode)
    return scores

fork = multiprocessing.get_context("fork")
before = tinygan.SecondStage, len(os.listdir("/proc/self/task"))
stage = tinygan.SecondStage("lite", device="cpu")
assert len(os.listdir("/proc/self/task")) == before[1], "the constructor started threads"
assert torch.get_num_threads() == 2
assert not {"lightning_fabric", "scipy.optimize"} & sys.modules.keys()
computes = True
first = ask()  # nothing was computed before: the worker may do what it likes
computes = False  # torch itself cannot in a process forked from one whose threads have begun to compute
here = answer(stage)
assert np.allclose(ask(), first) and np.allclose(here, first)
"""


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="counts threads as Linux does")
def test_workers_forked_before_and_after_rescoring_rescore():
    environment = {**os.environ, "OMP_NUM_THREADS": "2"}
    subprocess.run([sys.executable, "-W", "ignore", "-c", WORKER], check=True, env=environment, cwd=ROOT, timeout=180)


def test_no_boxes_give_no_boxes(stage):
    assert len(stage.rescore(np.zeros((20, 30, 3), np.uint8), [], [])) == 0
    assert list(stage.rescore_many([], [])) == []


def test_mistakes_are_named(stage, tmp_path):
    picture, boxes = np.zeros((20, 30, 3), np.uint8), np.array([[1.0, 1, 9, 9]])
    with pytest.raises(
        DataError, match=r"\[H, W, 3\] or \[H, W, 4\], got float64 \[3, 20, 30\]; move the channels last"
    ):
        stage.rescore(np.zeros((3, 20, 30)), boxes, [0.5])
    with pytest.raises(DataError, match="boxes need scores"):
        stage.rescore(picture, boxes)
    with pytest.raises(DataError, match="expected boxes"):
        stage.rescore(picture, boxes, [0.5, 0.6])
    with pytest.raises(DataError, match=r"must lie in \[0, 1\]"):
        stage.rescore(picture, boxes, [7.0])
    with pytest.raises(DataError, match="bring their own scores"):
        stage.rescore(picture, Detections(boxes, np.array([0.5])), [0.5])
    with pytest.raises(DataError, match="no such image"):
        stage.rescore(tmp_path / "absent.jpg", boxes, [0.5])
    with pytest.raises(DataError, match="got 1 images and 0 of them"):
        stage.rescore_many([picture], [])
    with pytest.raises(CheckpointError, match="no such file, folder or shipped checkpoint"):
        tinygan.SecondStage("nowhere")
