"""The recipe of the shipped checkpoint, end to end and small; and how its tables are made."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
import yaml

from experiments.lite import looks as looks_table
from experiments.lite import opinion, yunet
from experiments.lite.looks import by_rule
from experiments.lite.report import compare, truth_of
from experiments.lite.run import halved, main
from tinygan.checkpoint import load_checkpoint
from tinygan.detections import Detections, GroundTruth
from tinygan.evaluate.truth import truth_of_faces
from tinygan.formats.registry import open_detections
from tinygan.formats.wider import load_split
from tinygan.runtime import Runtime, RuntimeOptions
from tinygan.second_stage.judge import Judge
from tinygan.second_stage.judging import Request, judge_images


def test_compare_by_hand_and_pooled():
    face, other = [0.0, 0, 20, 20], [50.0, 50, 70, 70]
    faces = {f"a/{n}.jpg": GroundTruth(np.array([face]), np.zeros(1, bool)) for n in range(4)}
    truth = truth_of_faces(faces)
    wrong, right = np.array([0.2, 0.9]), np.array([0.9, 0.2])
    before, after = (
        {f"a/{n}": Detections(np.array([face, other]), scores) for n in range(4)} for scores in (wrong, right)
    )
    table = compare({"good": (before, after), "same": (before, before)}, truth, list(faces))
    assert table["good"]["all"]["before"] == pytest.approx(0.5) and table["good"]["all"]["after"] == 1
    assert table["good"]["all"]["points"] == pytest.approx(50)
    assert table["same"]["all"] == {"before": 0.5, "after": 0.5, "points": 0.0, "low": 0.0, "high": 0.0}
    assert table["pooled"]["all"]["points"] == pytest.approx(25)
    assert table["pooled"]["all"]["low"] == pytest.approx(25)  # every image tells the same


def test_yunet_gets_the_image_as_opencv_wants_it_and_gives_corners(monkeypatch):
    class Fake:
        def setInputSize(self, size):  # noqa: N802  # OpenCV's name
            self.size = size

        def detect(self, image):
            self.image = image
            rows = [[2, 3, 10, 20, *[0] * 10, 1.5], [5, 5, 0.5, 9, *[0] * 10, 0.3]]
            return 1, np.array(rows, np.float32) if image.any() else None

    fake = Fake()
    monkeypatch.setattr(yunet, "_detector", lambda: fake)
    red = np.zeros((4, 6, 3), np.uint8)
    red[..., 0] = 9
    boxes, scores = yunet.find_faces(red)
    assert fake.size == (6, 4) and fake.image[0, 0].tolist() == [0, 0, 9]
    assert boxes.tolist() == [[2, 3, 12, 23]] and scores.tolist() == [1]
    assert [part.shape for part in yunet.find_faces(0 * red)] == [(0, 4), (0,)]


def test_half_precision_spares_statistics_too_large_for_it():
    tensors = {"conv.weight": torch.ones(2, 3, 1, 1), "bn.running_var": torch.tensor([75_000.0, 1e-9])}
    small = halved(tensors)
    assert small["conv.weight"].dtype == torch.float16
    assert torch.equal(small["bn.running_var"], tensors["bn.running_var"])


def test_without_official_files_all_valid_faces_count(tiny_wider):
    split = load_split(tiny_wider.root, "val")
    assert list(truth_of(tiny_wider.root, split, list(split.faces)).subsets) == ["all"]


def test_one_command_runs_the_recipe_and_can_be_repeated(tiny_wider, tiny_options, tmp_path, capsys):
    tree: dict = {}
    for option in tiny_options:
        key, _, value = option.partition("=")
        section, _, name = key.partition(".")
        tree.setdefault(section, {})[name] = yaml.safe_load(value)
    tree["judge_training"]["backbone_weights"] = "none"  # ImageNet's come in a package
    config = tmp_path / "tiny.yaml"
    config.write_text(yaml.safe_dump(tree))
    second = tmp_path / "second"
    second.symlink_to(tiny_wider.proposals)
    words = ["--data", str(tiny_wider.root), "--proposals", str(tiny_wider.proposals), str(second)]
    words += ["--also", str(tiny_wider.proposals), "--config", str(config), "--out", str(tmp_path / "out")]
    assert main(words) == 0
    results = json.loads((tmp_path / "out/results.json").read_text())
    assert set(results["widths"]) == {"narrowest", "narrow", "standard", "as shipped, full length"}
    assert results["val"]["second"]["all"].keys() >= {"before", "after", "points", "low", "high"}
    assert {"val_iou_0.7", "val_without_boxes", "val_unseen_iou_0.7", "val_also", "val_binned_points"} <= set(results)
    assert len(results["left_out"]) == 3 and results["left_out"].popitem()[1]["all"]["looks_per_proposal"] >= 1
    assert load_checkpoint(tmp_path / "out/lite.safetensors", ("fused",)).recipe["crops"]["route_px"] == 0
    assert load_checkpoint(tmp_path / "out/lite.safetensors", ("fused",)).recipe["discriminator"]["box"]
    assert results["val_unseen"].keys() == results["val_also"].keys() and results["giga_flops"]["total"] > 0
    assert (tmp_path / "out/look/hardest.png").is_file() and (tmp_path / "out/sr_quality/sheet.png").is_file()
    capsys.readouterr()
    assert main([*words, "--steps", "mse", "gan", "judge", "fusion"]) == 0
    assert capsys.readouterr().out.count("finished already") == 4
    figures = tmp_path / "opinion.json"
    given = ["--run", str(tmp_path / "out/fused"), "--data", str(tiny_wider.root), "--json", str(figures)]
    assert opinion.main([*given, "--images", "2", "--set", "closer=1.5"]) == 0
    assert "mean all" in capsys.readouterr().out
    report = json.loads(figures.read_text())
    assert set(report) == {opinion.ALONE, *opinion.RULES} and len(report[opinion.SHIPS]) == 3


def test_an_opinion_counts_as_a_rule_trusts_it():
    box = np.array([[0.0, 0, 10, 10]])
    alone = found = Detections(box, np.array([0.5]))
    assert opinion.confirmed(alone, None, opinion.Rule()) is alone
    trusted = opinion.confirmed(alone, found, opinion.Rule(less_sure=0.3, trust=1.0))
    assert trusted.scores == pytest.approx(1 / (1 + np.exp(-0.7)))
    far = Detections(np.array([[0.0, 0, 15, 15]]), np.array([0.9]))  # an IoU of .44
    assert (
        opinion.confirmed(alone, far, opinion.Rule(overlap=0.5)).scores
        < 0.5
        < opinion.confirmed(alone, far, opinion.Rule()).scores
    )


def test_looks_put_together_are_those_of_the_judge(finding_checkpoint, tiny_wider):
    weights = load_checkpoint(finding_checkpoint, ("fused",))
    judge = Judge.from_weights(weights, Runtime(RuntimeOptions(device="cpu", precision="32", threads=1)))
    images, found = tiny_wider.root / "WIDER_val/images", open_detections(tiny_wider.proposals / "val")
    requests = [Request(name, images / f"{name}.jpg", one.sorted()) for name, one in found.items()]
    looks = [list(judge_images(judge, requests, 64, looks=count)) for count in (1, 2, 3)]
    middle = float(np.median(looks[1][0].face_logits))
    expected = judge_images(judge, [replace(one, count=9) for one in requests], 64, looks=3, again_from=middle)
    further = 0
    for all_looks, right in zip(zip(*looks, strict=True), expected, strict=True):
        taken, counts = by_rule(all_looks, 9, middle)
        assert taken.face_logits == pytest.approx(right.face_logits, abs=1e-4)
        assert taken.boxes == pytest.approx(right.boxes, abs=1e-3)
        assert counts[0] == 9 > counts[1] >= counts[2]
        further += counts[1]
    assert further


def test_a_line_per_rule_and_a_column_per_detector(tiny_wider, tmp_path, capsys):
    words = ["--data", str(tiny_wider.root), "--proposals", str(tiny_wider.proposals / "train")]
    assert looks_table.main([*words, "--precision", "32", "--out", str(tmp_path / "out")]) == 0
    table = (tmp_path / "out/looks.md").read_text()
    assert table in capsys.readouterr().out and table.count("\n| -") == len(looks_table.RULES)
    report = json.loads((tmp_path / "out/looks.json").read_text())
    assert [found["train"]["looks"][0] for found in report.values()] == sorted(
        (found["train"]["looks"][0] for found in report.values()), reverse=True
    )
