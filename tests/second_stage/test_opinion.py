"""A second opinion: who is asked about what, and what its word does to the boxes of a detector."""

from __future__ import annotations

import json
import pickle
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from scipy.special import expit

import tinygan
from tinygan.checkpoint import load_checkpoint, save_checkpoint
from tinygan.cli.rescore import main
from tinygan.detections import Detections
from tinygan.errors import ConfigError, DataError
from tinygan.formats.images import ImageFile
from tinygan.formats.registry import open_detections
from tinygan.runtime import RuntimeOptions
from tinygan.second_stage.fusion import Fusion
from tinygan.second_stage.judge import Judge
from tinygan.second_stage.judging import Judged, Request, judge_images
from tinygan.second_stage.opinion import TRUST, SecondOpinion, opinion_settings
from tinygan.second_stage.rescoring import QUICK, RescoreConfig, rescore_judged

SURE, DOUBTED, ELSEWHERE = [10.0, 10, 40, 40], [60.0, 10, 72, 22], [200.0, 10, 212, 22]
PROPOSALS = Detections(np.array([SURE, DOUBTED]), np.array([0.99, 0.4]))
CONFIG = RescoreConfig(fusion=Fusion(judge=0.0, fitted=True))  # the scores stay what they are


class Adviser:
    """Notes the pictures and boxes that it is asked about, and finds one box, which columns come with."""

    def __init__(self, *found, most_px=10_000_000):
        self.asked, self.found, self.most_px = [], found, most_px

    def is_worth_a_look(self, found, width_px, height_px):
        return width_px * height_px <= self.most_px

    def look_again(self, image, found):
        self.asked.append((tuple(image.shape), found.scores.round(3).tolist()))
        rows = np.array(self.found).reshape(-1, 5)
        return Detections(rows[:, :4], rows[:, 4], {"landmarks": np.zeros((len(rows), 10))})


def judged(name="a", proposals=PROPOSALS, **more) -> Judged:
    return Judged(name, proposals, np.zeros(len(proposals)), proposals.boxes, **more)


def test_it_is_asked_about_boxes_that_are_not_sure():
    picture = Image.new("RGB", (300, 50))
    adviser = Adviser([*DOUBTED, 0.9])
    found = SecondOpinion(adviser, CONFIG)(judged(), picture)
    assert adviser.asked == [((3, 50, 300), [0.4])] and found is not None and not found.fields
    nothing = SecondOpinion(Adviser(), CONFIG)(judged(), picture)
    assert nothing is not None and len(nothing) == 0
    sure = judged(proposals=PROPOSALS[:1])
    assert SecondOpinion(adviser, CONFIG)(sure, picture) is None and len(adviser.asked) == 1


def test_a_picture_that_is_not_worth_a_look_is_not_decoded(tmp_path, monkeypatch):
    exif = Image.Exif()
    exif[274] = 6  # turned by a quarter
    Image.new("RGB", (300, 50)).save(tmp_path / "a.jpg", exif=exif)
    content = (tmp_path / "a.jpg").read_bytes()
    (tmp_path / "cut.jpg").write_bytes(content[:-200])
    ask = SecondOpinion(Adviser(most_px=299 * 50), CONFIG)
    for source in (tmp_path / "a.jpg", ImageFile(str(tmp_path / "cut.jpg")), ImageFile(content)):
        assert ask(judged(), source) is None
    adviser = Adviser()
    for source in (ImageFile(content), ImageFile(tmp_path / "a.jpg"), ImageFile((tmp_path / "a.jpg").as_uri())):
        assert SecondOpinion(adviser, CONFIG)(judged(), source) is not None
    assert [size for size, _ in adviser.asked] == [(3, 300, 50)] * 3
    with pytest.raises(DataError, match=r"cut.jpg: expected a readable image"):
        SecondOpinion(adviser, CONFIG)(judged(), tmp_path / "cut.jpg")


def test_its_word_counts_a_little_more_than_where_it_is_asked_about_other_boxes():
    found = SecondOpinion(Adviser([*DOUBTED, 0.5]), CONFIG)(judged(), Image.new("RGB", (300, 50)))
    assert found is not None and found.scores == pytest.approx(expit(TRUST)) and TRUST > 0


def test_what_it_finds_raises_a_box_where_it_lies_and_adds_none():
    found = Detections(np.array([np.add(DOUBTED, 2), ELSEWHERE]), np.array([0.9, 0.9]))
    (after,) = rescore_judged([judged(opinion=found)], CONFIG)
    assert after.boxes.tolist() == [SURE, np.add(DOUBTED, 1).tolist()]
    sure, doubted = np.log(99.0), 0.8 * np.log(9.0) + 0.2 * np.log(2 / 3)
    assert after.scores == pytest.approx(expit([0.8 * sure - 0.8, doubted]))
    assert after.fields["proposal_score"].tolist() == [0.99, 0.4] and "landmarks" not in after.fields
    (still,) = rescore_judged([judged(opinion=found)], replace(CONFIG, move_boxes=False))
    assert still.boxes.tolist() == PROPOSALS.boxes.tolist() and np.array_equal(still.scores, after.scores)
    (less,) = rescore_judged([judged(opinion=Detections.empty())], CONFIG)  # asked, it saw nothing
    assert (less.scores < PROPOSALS.scores).all()


@pytest.mark.parametrize(
    "changed",
    [{"second_opinion": False}, {"method": "product"}, {"calibration": "none"}, {"fusion": Fusion()}, QUICK],
)
def test_scores_that_are_no_log_odds_get_none(changed):
    config = replace(CONFIG, **changed)
    assert SecondOpinion.open(config, RuntimeOptions(device="cpu")) is None
    assert opinion_settings(config, RuntimeOptions(device="cpu")) is None and CONFIG.asks


def test_large_pictures_are_searched_one_at_a_time():
    inside, most = [], []

    class Slow(Adviser):
        def look_again(self, image, found):
            inside.append(1)
            most.append(len(inside))
            threading.Event().wait(0.05)
            inside.pop()
            return Detections.empty()

    ask, large = SecondOpinion(Slow(), CONFIG), Image.new("RGB", (2500, 2000))
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(lambda _: ask(judged(), large), range(3)))
    assert most == [1, 1, 1]


def test_of_many_images_each_is_asked_about_as_its_boxes_lie(checkpoint, tmp_path):
    stage = tinygan.SecondStage(checkpoint, device="cpu", second_opinion=False)
    judge: Judge = stage._judge
    exif = Image.Exif()
    exif[274] = 6  # turned by a quarter
    Image.new("RGB", (90, 60)).save(tmp_path / "a.jpg", exif=exif)
    broken = tmp_path / "b.jpg"
    broken.write_bytes((tmp_path / "a.jpg").read_bytes()[:200])
    adviser, counts = Adviser([*DOUBTED, 0.9]), {}

    def fails(judged, image):
        if judged.name == "fails":
            raise RuntimeError("no luck")
        counts[judged.name] = len(judged.face_logits)
        return SecondOpinion(adviser, CONFIG)(judged, image)

    requests = [
        Request("upright", ImageFile(tmp_path / "a.jpg"), PROPOSALS, opinion_on=2),
        Request("stored", ImageFile(tmp_path / "a.jpg", "stored"), PROPOSALS, opinion_on=2),
        Request("empty", tmp_path / "a.jpg", Detections.empty(), opinion_on=0),
        Request("not yet", tmp_path / "a.jpg", PROPOSALS),
        Request("broken", broken, PROPOSALS, opinion_on=2),
        Request("fails", tmp_path / "a.jpg", PROPOSALS, opinion_on=2),
        Request("memory", Image.new("RGB", (70, 80)), PROPOSALS, opinion_on=1),
        Request("known", tmp_path / "a.jpg", PROPOSALS, opinion_on=2, known=judged("known")),
    ]
    answers = {one.name: one for one in judge_images(judge, requests, 8, opinion=fails)}
    sizes = [(3, 90, 60), (3, 60, 90), (3, 80, 70), (3, 90, 60)]
    assert [size for size, _ in adviser.asked] == sizes
    assert {name for name, one in answers.items() if one.opinion is not None} == {
        "upright",
        "stored",
        "memory",
        "known",
    }
    assert "no luck" in answers["fails"].opinion_error and len(answers["fails"].face_logits) == 2
    assert {name for name, one in answers.items() if one.error} == {"broken"}
    assert counts == {"upright": 2, "stored": 2, "memory": 1, "known": 2}
    assert len(answers["memory"].face_logits) == 2 and not answers["known"].face_logits.any()


def test_the_command_asks_unless_told_not_to(tiny_wider, checkpoint, tmp_path, capsys):
    images = tiny_wider.root / "WIDER_val/images"
    words = ["--proposals", tiny_wider.proposals / "val", "--images", images, "--checkpoint", checkpoint]

    def rescored(name, *more):
        typed = [*words, "--out", tmp_path / name, "--device", "cpu", "--precision", "32", *more]
        assert main([str(word) for word in typed]) == 0
        return open_detections(tmp_path / name), json.loads((tmp_path / name / "rescore.json").read_text())

    (asked, settings), (alone, fewer) = rescored("asked"), rescored("alone", "--no-opinion")
    assert any(not np.array_equal(asked[name].scores, alone[name].scores) for name in asked)
    assert {name: len(found) for name, found in asked.items()} == {name: len(found) for name, found in alone.items()}
    assert "'opinion'" in str(settings) and "'opinion'" not in str(fewer)
    for stage, there in ((tinygan.SecondStage(checkpoint, device="cpu"), asked), (alone_stage(checkpoint), alone)):
        for name, found in open_detections(tiny_wider.proposals / "val").items():
            again = stage.rescore(images / f"{name}.jpg", found)
            assert np.allclose(np.sort(again.scores), np.sort(there[name].scores), atol=1e-3)
    cut = tmp_path / "asked"
    files = {file: file.read_text() for file in cut.rglob("*.txt")}
    first = next(iter(files))
    first.unlink()  # as if killed before this image
    rescored("asked", "--resume")
    assert {file: file.read_text() for file in cut.rglob("*.txt")} == files
    capsys.readouterr()
    resumed = [*words, "--out", tmp_path / "asked", "--device", "cpu", "--precision", "32", "--no-opinion", "--resume"]
    assert main([str(word) for word in resumed]) == 2
    assert "was written with other settings" in capsys.readouterr().err


def test_without_an_opinion_that_was_wanted_the_judge_decides_until_the_next_run(
    tiny_wider, checkpoint, tmp_path, capsys, monkeypatch
):
    images = tiny_wider.root / "WIDER_val/images"
    words = ["--proposals", tiny_wider.proposals / "val", "--images", images, "--checkpoint", checkpoint]
    words = [str(word) for word in (*words, "--device", "cpu", "--precision", "32")]
    assert main([*words, "--out", str(tmp_path / "alone"), "--no-opinion"]) == 0
    assert main([*words, "--out", str(tmp_path / "asked")]) == 0
    ask = SecondOpinion.__call__

    def fails(opinion, judged, image):
        if "val_1" in judged.name:
            raise MemoryError("no luck")
        return ask(opinion, judged, image)

    monkeypatch.setattr(SecondOpinion, "__call__", fails)
    report = tmp_path / "report.json"
    given = [*words, "--out", str(tmp_path / "out"), "--report", str(report)]
    capsys.readouterr()
    assert main(given) == 1
    said = capsys.readouterr().err
    assert "1 images were rescored without a second opinion" in said and "not rescored" not in said
    (line,) = json.loads(report.read_text())["by_judge_alone_images"]
    assert "val_1" in line and "no luck; no second opinion, scored by the judge alone" in line
    found, asked, alone = (open_detections(tmp_path / name) for name in ("out", "asked", "alone"))
    for name, one in found.items():
        assert np.array_equal(one.scores, (alone if name.endswith("val_1") else asked)[name].scores)
    stage = tinygan.SecondStage(checkpoint, device="cpu")
    monkeypatch.setattr(SecondOpinion, "__call__", lambda *_: 1 / 0)
    with pytest.raises(DataError, match=r"image 0: .*division by zero; second_opinion=False has the judge decide"):
        stage.rescore(Image.new("RGB", (300, 50)), PROPOSALS)
    again = []

    def noted(opinion, judged, image):
        again.append(judged.name)
        return ask(opinion, judged, image)

    monkeypatch.setattr(SecondOpinion, "__call__", noted)
    assert main([*given, "--resume"]) == 0 and [name.partition("_")[2] for name in again] == ["1.jpg"]
    found = open_detections(tmp_path / "out")
    assert all(np.array_equal(one.scores, asked[name].scores) for name, one in found.items())


def test_a_picture_of_which_the_content_alone_is_known_is_named(checkpoint, tmp_path):
    Image.new("RGB", (300, 50)).save(tmp_path / "a.jpg")
    cut = (tmp_path / "a.jpg").read_bytes()[:-200]
    stage = alone_stage(checkpoint)
    requests = [Request("1", ImageFile(cut), PROPOSALS), Request("2", ImageFile(tmp_path / "b.jpg"), PROPOSALS)]
    first, second = (one.error for one in judge_images(stage._judge, requests, 8))
    assert first.startswith("1: the image in memory: ") and second.startswith(str(tmp_path / "b.jpg"))
    with pytest.raises(DataError, match="^image 1: the image in memory: "):
        list(stage.rescore_many([tmp_path / "a.jpg", cut], [PROPOSALS, PROPOSALS]))


def test_other_weights_of_its_word_are_other_settings(monkeypatch):
    options = RuntimeOptions(device="cpu")
    before = opinion_settings(CONFIG, options)
    monkeypatch.setattr("tinygan.second_stage.opinion.TRUST", 0.0)
    assert opinion_settings(CONFIG, options) != before


def test_python_says_why_there_can_be_none(checkpoint, tmp_path):
    unfitted = tmp_path / "unfitted.safetensors"
    save_checkpoint(unfitted, replace(load_checkpoint(checkpoint, ("fused",)), kind="gan", fusion=None))
    assert tinygan.SecondStage(unfitted, device="cpu")._opinion is None
    with pytest.raises(ConfigError, match="second_opinion=True needs .* once it is fitted"):
        tinygan.SecondStage(unfitted, device="cpu", second_opinion=True)


def alone_stage(checkpoint):
    return tinygan.SecondStage(checkpoint, device="cpu", second_opinion=False)


def test_a_stage_that_asks_can_be_pickled(checkpoint):
    again = pickle.loads(pickle.dumps(tinygan.SecondStage(checkpoint, device="cpu")))
    assert again._opinion is not None
