"""``tinygan-rescore`` as a user types it: nothing is lost, everything is counted."""

from __future__ import annotations

import json
import shutil
import sys
import tarfile
from collections import Counter
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
from scipy.special import logit

from tinygan.checkpoint import load_checkpoint, save_checkpoint
from tinygan.cli.rescore import main
from tinygan.data.cutting import Source
from tinygan.formats import wider
from tinygan.formats.registry import open_detections
from tinygan.second_stage import judging
from tinygan.second_stage.calibration import Calibration, RankCurve, ScoreMap
from tinygan.second_stage.engine import SETTINGS
from tinygan.second_stage.fusion import Fusion
from tinygan.second_stage.judging import judge_images
from tinygan.second_stage.rescoring import RescoreConfig

ALONE = "--no-opinion"  # so that what becomes of each box can be said
IDENTITY = ["--set", "fusion.judge=0", "--set", "fusion.size=0", ALONE]


@pytest.fixture
def data(tmp_path, make_wider):
    return make_wider(tmp_path / "wider")


def typed(data, checkpoint: Path, out: Path, *more: str) -> list[str]:
    images = data.root / "WIDER_val/images"
    words = ["--proposals", str(data.proposals / "val"), "--images", str(images), "--checkpoint", str(checkpoint)]
    return [*words, "--out", str(out), "--device", "cpu", "--precision", "32", *more]


def test_every_box_comes_back_with_a_new_score(data, checkpoint, tmp_path):
    report = tmp_path / "report.json"
    assert main(typed(data, checkpoint, tmp_path / "out", ALONE, "--report", str(report))) == 0
    before, after = open_detections(data.proposals / "val"), open_detections(tmp_path / "out")
    assert set(before) == set(after)
    changed = 0
    for name in before:
        first, second = before[name], after[name]
        order_a, order_b = np.lexsort(first.boxes.T), np.lexsort(second.boxes.T)
        assert np.abs(first.boxes[order_a] - second.boxes[order_b]).max() < 1e-6
        assert (np.diff(second.scores) <= 0).all()
        changed += (first.scores[order_a] != second.scores[order_b]).sum()
    counts = json.loads(report.read_text())
    assert changed == counts["proposals"] == counts["rescored"] == counts["written"] == 60
    assert counts["images"] == 4 and counts["missing"] == counts["unreadable"] == counts["merged"] == 0
    assert counts["seconds"] > 0 and counts["rois_per_second"] > 0


def test_weight_zero_gives_back_every_box_and_rank(data, checkpoint, tmp_path):
    assert main(typed(data, checkpoint, tmp_path / "out", *IDENTITY)) == 0
    before, after = open_detections(data.proposals / "val"), open_detections(tmp_path / "out")
    for name in before:
        assert np.abs(before[name].boxes - after[name].boxes).max() < 1e-6  # the same boxes in the same order
    exact = ["--set", "fusion.detector=1", "--set", "fusion.bias=0", "--overwrite"]
    assert main(typed(data, checkpoint, tmp_path / "out", *IDENTITY, *exact)) == 0
    assert all(np.array_equal(before[name].scores, open_detections(tmp_path / "out")[name].scores) for name in before)


def test_missing_truncated_and_unproposed_images_are_counted_and_kept(data, checkpoint, tmp_path, capsys):
    images, proposals = data.root / "WIDER_val/images/0--Parade", data.proposals / "val/0--Parade"
    (images / "val_0.jpg").unlink()
    (images / "val_1.jpg").write_bytes((images / "val_1.jpg").read_bytes()[:700])
    (proposals / "val_2.txt").unlink()
    (proposals / "val_3.txt").write_text("val_3\n0\n")
    report = tmp_path / "report.json"
    assert main(typed(data, checkpoint, tmp_path / "out", "--report", str(report))) == 1
    counts = json.loads(report.read_text())
    assert (counts["missing"], counts["unreadable"], counts["without_proposals"], counts["images"]) == (1, 1, 1, 3)
    assert counts["proposals"] == counts["passed_through"] == counts["written"] == 30 and counts["rescored"] == 0
    for name in ("val_0", "val_1"):
        assert (tmp_path / f"out/0--Parade/{name}.txt").read_text() == (proposals / f"{name}.txt").read_text()
    assert len(open_detections(tmp_path / "out")["0--Parade/val_3"]) == 0
    error = capsys.readouterr().err
    assert "3 images were not rescored: 1 missing, 1 unreadable, 1 without proposals" in error
    assert "val_1.jpg: expected a readable image" in error


def test_boxes_beyond_max_rois_are_imputed_and_keep_their_place(data, checkpoint, tmp_path):
    report = tmp_path / "report.json"
    assert main(typed(data, checkpoint, tmp_path / "out", "--max-rois", "10", "--report", str(report))) == 0
    counts = json.loads(report.read_text())
    assert (counts["rescored"], counts["passed_through"], counts["written"]) == (40, 20, 60)


def test_proposals_below_the_least_score_are_counted_and_keep_their_place(data, checkpoint, tmp_path):
    before = open_detections(data.proposals / "val")
    least = float(np.median(np.concatenate([found.scores for found in before.values()])))
    report = tmp_path / "report.json"
    words = typed(data, checkpoint, tmp_path / "out", "--min-score", str(least), "--report", str(report))
    assert main(words) == 0
    judged = sum(int((found.scores >= least).sum()) for found in before.values())
    counts = json.loads(report.read_text())
    assert (counts["rescored"], counts["passed_through"], counts["written"]) == (judged, 60 - judged, 60)
    (tmp_path / "out/0--Parade/val_2.txt").unlink()  # as if killed before this image
    assert main([*words, "--resume"]) == 0
    again = json.loads(report.read_text())
    assert (again["rescored"], again["passed_through"]) == (judged, 60 - judged)


def test_archive_in_and_out_agrees_with_folders(data, checkpoint, tmp_path):
    archive = tmp_path / "proposals.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(data.proposals / "val", "detector/val")
    data_in = data._replace(proposals=tmp_path)
    words = typed(data_in, checkpoint, tmp_path / "out.tar.gz")
    words[words.index("--proposals") + 1] = str(archive)
    assert main(words) == 0 and main(typed(data, checkpoint, tmp_path / "out")) == 0
    packed, plain = open_detections(tmp_path / "out.tar.gz"), open_detections(tmp_path / "out")
    assert {name: packed.text(name) for name in packed} == {name: plain.text(name) for name in plain}
    assert not (tmp_path / "out.tar.gz.partial").exists()


def test_the_view_is_found_once_and_a_resumed_run_keeps_it(data, checkpoint, tmp_path, monkeypatch, capsys):
    fused = load_checkpoint(checkpoint, ("fused",))
    curve = RankCurve(knots=(-3.0, 0.0, 3.0), values=(-5.0, 0.0, 5.0))
    fusion = Fusion(detector=0.8, judge=0.6, fitted=True, curve=curve)
    mapped = tmp_path / "mapped.safetensors"
    save_checkpoint(mapped, replace(fused, fusion=fusion.to_facts()))
    monkeypatch.setattr("tinygan.second_stage.calibration.MIN_PROPOSALS", 20)
    out = tmp_path / "out"
    assert main(typed(data, mapped, out)) == 0
    assert "calibration: found from 60 proposals" in capsys.readouterr().out
    first = {name: out_file.scores for name, out_file in open_detections(out).items()}
    (out / "0--Parade/val_2.txt").unlink()
    monkeypatch.setattr(
        "tinygan.second_stage.engine.calibrate_detector",
        lambda *columns: pytest.fail("it was found already"),
    )
    assert main(typed(data, mapped, out, "--resume")) == 0
    assert all(np.allclose(first[name], open_detections(out)[name].scores) for name in first)
    assert main(typed(data, mapped, out, "--set", "calibration=none", "--resume")) == 2
    assert "written with other settings" in capsys.readouterr().err
    assert main(typed(data, mapped, out, "--set", "calibration=none", "--overwrite")) == 0
    assert "calibration: none" in capsys.readouterr().out and not (out / "calibration.json").exists()
    unmapped = open_detections(out)
    assert not all(np.allclose(first[name], unmapped[name].scores) for name in first)


def test_of_further_images_proposals_worth_a_look_alone_are_judged_for_a_calibration(
    data, checkpoint, tmp_path, monkeypatch, capsys
):
    fused = load_checkpoint(checkpoint, ("fused",))
    curve = RankCurve(knots=(-3.0, 0.0, 3.0), values=(-5.0, 0.0, 5.0))
    fusion = Fusion(detector=0.8, judge=0.6, fitted=True, curve=curve)
    mapped, out, report = tmp_path / "mapped.safetensors", tmp_path / "out", tmp_path / "report.json"
    save_checkpoint(mapped, replace(fused, fusion=fusion.to_facts()))
    monkeypatch.setattr("tinygan.second_stage.calibration.MIN_PROPOSALS", 10)
    monkeypatch.setattr("tinygan.second_stage.engine.ROUGHLY_IMAGES", 2)
    asked = []
    judged = judge_images

    def noted(request):
        if request.known is None:
            asked.append(request)
        return request

    monkeypatch.setattr(
        "tinygan.second_stage.engine.judge_chunks",
        lambda judge, requests, **how: judged(judge, (noted(request) for request in requests), **how),
    )
    words = typed(
        data, mapped, out, "--report", str(report), "--set", "calibration_proposals=60", "--set", "least_log_odds=0"
    )
    assert main(words) == 0
    counts = [min(one.count, len(one.proposals)) for one in asked]
    assert len(asked) == 4 and counts[:2] == [len(one.proposals) for one in asked[:2]]  # two of four, all proposals
    assert 0 < sum(counts[2:]) < sum(len(one.proposals) for one in asked[2:])
    assert f"calibration: found from {sum(counts)} proposals" in capsys.readouterr().out
    files, first = {file: file.read_text() for file in out.rglob("*.txt")}, json.loads(report.read_text())
    for name in ("val_0", "val_1"):
        (out / f"0--Parade/{name}.txt").unlink()
        asked.clear()
        assert main([*words, "--resume"]) == 0
        assert {file: file.read_text() for file in out.rglob("*.txt")} == files
        again = json.loads(report.read_text())
        assert [again[key] for key in ("rescored", "merged")] == [first[key] for key in ("rescored", "merged")]


def test_few_proposals_take_the_usual_view(data, checkpoint, tmp_path, capsys):
    fused = load_checkpoint(checkpoint, ("fused",))
    curve = RankCurve(knots=(-3.0, 0.0, 3.0), values=(-5.0, 0.0, 5.0))
    usual = Calibration(score_map=ScoreMap(knots=(-20.0, 20.0), values=(-40.0, 40.0)))
    fusion = Fusion(judge=0.0, fitted=True, curve=curve, usual_calibration=usual)
    mapped = tmp_path / "mapped.safetensors"
    save_checkpoint(mapped, replace(fused, fusion=fusion.to_facts()))
    assert main(typed(data, mapped, tmp_path / "out", ALONE)) == 0
    assert "calibration: usual" in capsys.readouterr().out
    before, after = open_detections(data.proposals / "val"), open_detections(tmp_path / "out")
    assert all(np.allclose(logit(after[name].scores), 2 * logit(before[name].scores), atol=1e-3) for name in before)


def test_unjudged_boxes_keep_the_mapped_score(data, checkpoint, tmp_path):
    fused = load_checkpoint(checkpoint, ("fused",))
    curve = RankCurve(knots=(-3.0, 0.0, 3.0), values=(-5.0, 0.0, 5.0))
    usual = Calibration(expected=(0.5, 0.25, 0.0, 0.0, 0.0, 0.0))
    fusion = Fusion(judge=0.7, fitted=True, curve=curve, usual_calibration=usual)
    viewed = tmp_path / "viewed.safetensors"
    save_checkpoint(viewed, replace(fused, fusion=fusion.to_facts()))
    assert main(typed(data, viewed, tmp_path / "out", ALONE, "--max-rois", "10")) == 0
    before, after = open_detections(data.proposals / "val"), open_detections(tmp_path / "out")
    for name in before:
        first = {tuple(box): score for box, score in zip(before[name].boxes.round(4), before[name].scores, strict=True)}
        same = [np.isclose(first[tuple(box)], score) for box, score in
                zip(after[name].boxes.round(4), after[name].scores, strict=True)]  # fmt: skip
        assert sum(same) == len(before[name]) - 10  # those beyond --max-rois, and no other


def test_subset_restricts_what_is_written(data, checkpoint, tmp_path):
    names = tmp_path / "names.txt"
    names.write_text("0--Parade/val_1.jpg\n0--Parade/val_3.jpg\n")
    assert main(typed(data, checkpoint, tmp_path / "out", "--subset", str(names))) == 0
    assert sorted(open_detections(tmp_path / "out")) == ["0--Parade/val_1", "0--Parade/val_3"]


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_a_backend_gives_the_same_scores_and_is_not_mixed_in(data, checkpoint, tmp_path, capsys, backend):
    pytest.importorskip(backend)
    plain, out = tmp_path / "plain", tmp_path / "out"
    assert main(typed(data, checkpoint, plain)) == main(typed(data, checkpoint, out, "--backend", backend)) == 0
    first, second = open_detections(plain), open_detections(out)
    for name in first:
        assert second[name].scores == pytest.approx(first[name].scores, abs=1e-3)
    assert json.loads((out / "rescore.json").read_text())["backend"] == backend
    assert main(typed(data, checkpoint, out, "--resume")) == 2
    assert f"backend was {backend}, is now torch" in capsys.readouterr().err


def test_a_missing_backend_is_one_line(data, checkpoint, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "openvino", None)
    assert main(typed(data, checkpoint, tmp_path / "out", "--backend", "openvino")) == 2
    error = capsys.readouterr().err
    assert "needs the package openvino: pip install 'tinygan[openvino]'" in error and error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_another_precision_is_not_mixed_in(data, checkpoint, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(typed(data, checkpoint, out)) == 0
    assert main([*typed(data, checkpoint, out, "--resume"), "--precision", "bf16"]) == 2
    assert "other settings (precision was 32, is now bf16); repeat those, or" in capsys.readouterr().err
    settings = json.loads((out / "rescore.json").read_text())
    assert settings.pop("precision") == "32"
    (out / "rescore.json").write_text(json.dumps(settings))
    assert main(typed(data, checkpoint, out, "--resume")) == 2
    assert "an older version, which did not note its precision; replace it with --overwrite" in capsys.readouterr().err
    assert main(typed(data, checkpoint, out, "--overwrite")) == 0


def test_cut_off_run_is_continued(data, checkpoint, tmp_path):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert main(typed(data, checkpoint, whole)) == 0 and main(typed(data, checkpoint, cut)) == 0
    (cut / "0--Parade/val_2.txt").unlink()  # as if killed before this image
    kept = (cut / "0--Parade/val_1.txt").stat().st_mtime_ns
    report = tmp_path / "report.json"
    assert main(typed(data, checkpoint, cut, "--resume", "--report", str(report))) == 0
    counts = json.loads(report.read_text())
    assert counts["resumed"] == 3 and counts["written"] == 60
    assert (cut / "0--Parade/val_1.txt").stat().st_mtime_ns == kept
    first, second = open_detections(whole), open_detections(cut)
    assert set(first) == set(second)
    assert all(np.allclose(first[name].scores, second[name].scores) for name in first)


def test_results_are_not_overwritten_or_mixed(data, checkpoint, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(typed(data, checkpoint, out)) == 0
    assert main(typed(data, checkpoint, out)) == 2
    assert "continue with --resume or replace them with --overwrite" in capsys.readouterr().err
    assert main(typed(data, checkpoint, out, "--fusion", "replace", "--resume")) == 2
    assert "was written with other settings" in capsys.readouterr().err
    assert main(typed(data, checkpoint, data.proposals / "val", "--overwrite")) == 2
    assert "was not written by tinygan-rescore" in capsys.readouterr().err
    assert main(typed(data, checkpoint, out, "--fusion", "product", "--overwrite")) == 0


def test_malformed_line_and_scores_outside_0_1_stop_before_writing(data, checkpoint, tmp_path, capsys):
    file = data.proposals / "val/0--Parade/val_2.txt"
    good = file.read_text()
    file.write_text(good.replace("\n15\n", "\n15\n1 2 3\n"))
    assert main(typed(data, checkpoint, tmp_path / "out")) == 2
    assert "val_2.txt:3: expected 'x y w h score'" in capsys.readouterr().err
    file.write_text("val_2\n1\n1 2 3 4 7.5\n")
    assert main(typed(data, checkpoint, tmp_path / "out2")) == 2
    assert "val_2.txt: detector scores must lie in [0, 1]" in capsys.readouterr().err
    assert main(typed(data, checkpoint, tmp_path / "out2", "--fusion", "replace", "--max-rois", "1")) == 0
    file.write_text("val_2\n2\n1 2 3 4 7.5\n1 2 3 4 6.5\n")
    assert main(typed(data, checkpoint, tmp_path / "out3", "--fusion", "replace", "--max-rois", "1")) == 2
    assert "val_2.txt: detector scores must lie in [0, 1]" in capsys.readouterr().err
    assert not (tmp_path / "out").exists() and not (tmp_path / "out3").exists()


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--proposals", "nowhere", "nowhere: no such file or folder"),
        ("--images", "nowhere", "nowhere: no such folder of images"),
        ("--checkpoint", "nowhere", "no such file, folder or shipped checkpoint"),
        ("--subset", "nowhere", "nowhere: expected a list of image names"),
        ("--report", "nowhere/report.json", "no such folder to write the report into"),
        ("--set", "max_roi=3", "unknown key 'max_roi'; did you mean 'max_rois'?"),
    ],
)
def test_mistakes_are_one_line_and_exit_2(option, value, message, data, checkpoint, tmp_path, capsys):
    assert main([*typed(data, checkpoint, tmp_path / "out"), option, value]) == 2
    error = capsys.readouterr().err.strip()
    assert message in error and len(error.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_unfitted_fusion_is_used_with_a_warning(data, checkpoint, tmp_path, caplog):
    fused = load_checkpoint(checkpoint, ("fused",))
    plain = tmp_path / "gan.safetensors"
    save_checkpoint(plain, replace(fused, kind="gan", fusion=None))
    assert main(typed(data, plain, tmp_path / "out")) == 0
    assert "fusion was not fitted" in caplog.text


def test_boxes_move_merge_and_add_up(data, finding_checkpoint, tmp_path):
    report, out = tmp_path / "report.json", tmp_path / "out"
    file = data.proposals / "val/0--Parade/val_0.txt"
    lines = file.read_text().splitlines()
    twice = [lines[0], str(len(lines) - 1), *lines[2:], lines[2].rsplit(" ", 1)[0] + " 0.01"]  # a box that comes twice
    file.write_text("\n".join(twice) + "\n")
    assert main(typed(data, finding_checkpoint, out, "--report", str(report))) == 0
    counts = json.loads(report.read_text())
    assert counts["proposals"] == 61 == counts["written"] + counts["merged"] and counts["merged"] >= 1
    before, after = open_detections(data.proposals / "val"), open_detections(out)
    moved = np.concatenate([after[name].boxes for name in after])
    stood = np.concatenate([before[name].boxes for name in before])
    assert np.abs(moved[:, None] - stood[None]).max(axis=2).min(axis=1).max() > 1
    (out / "0--Parade/val_1.txt").unlink()  # as if killed before this image
    assert main(typed(data, finding_checkpoint, out, "--report", str(report), "--resume")) == 0
    again = json.loads(report.read_text())
    assert {key: again[key] for key in ("proposals", "written", "merged")} == {
        key: counts[key] for key in ("proposals", "written", "merged")
    }


def test_where_no_logit_is_enough_nothing_is_looked_at_again(data, finding_checkpoint, tmp_path):
    for name, setting in (("never", "again_from=9"), ("once", "fusion.looks=1"), ("twice", "again_from=-99")):
        assert main(typed(data, finding_checkpoint, tmp_path / name, "--set", setting)) == 0
    never, once, twice = (open_detections(tmp_path / name) for name in ("never", "once", "twice"))
    for name, found in once.items():
        assert np.array_equal(found.scores, never[name].scores)
        assert len(found) != len(twice[name]) or not np.allclose(found.scores, twice[name].scores)


def test_quick_is_fewer_looks_unless_told_otherwise(data, finding_checkpoint, tmp_path, capsys):
    words = typed(data, finding_checkpoint, tmp_path / "out", "--quick", "--show-config")
    file = tmp_path / "mine.yaml"
    file.write_text("least_log_odds: -3\n")
    for more, least, again_from in (
        ([], -4.0, -1.5),
        (["--set", "again_from=-1"], -4.0, -1.0),
        (["--config", str(file)], -3.0, -1.5),
    ):
        assert main([*words, *more]) == 0
        shown = capsys.readouterr().out
        assert f"least_log_odds: {least}\n" in shown and f"again_from: {again_from}\n" in shown


def test_a_run_is_not_continued_with_more_looks(data, finding_checkpoint, tmp_path, capsys):
    words = typed(data, finding_checkpoint, tmp_path / "out")
    assert main([*words, "--set", "again_from=9"]) == 0
    assert main([*words, "--resume"]) == 2
    assert "again_from" in capsys.readouterr().err


def test_all_but_how_it_is_computed_is_recorded():
    names = {field.name for field in fields(RescoreConfig)}
    assert set(SETTINGS) == names - {"batch_size", "workers"}


def test_a_file_is_parsed_once_and_an_image_decoded_once_though_the_judge_looks_twice(
    data, finding_checkpoint, tmp_path, monkeypatch
):
    parsed: Counter[str] = Counter()
    decoded: Counter[str] = Counter()

    def counted(function, counter):
        def call(first, *more, **named):
            counter[str(more[0] if more else first)] += 1
            return function(first, *more, **named)

        return call

    monkeypatch.setattr(wider, "parse_detections", counted(wider.parse_detections, parsed))
    monkeypatch.setattr(judging, "read_image", counted(judging.read_image, decoded))
    sources, make = [], Source.__init__
    monkeypatch.setattr(Source, "__init__", lambda self, image: sources.append(image) or make(self, image))
    words = typed(data, finding_checkpoint, tmp_path / "out", "--batch-size", "4")  # one group is not all images
    assert main(words) == 0
    assert len(parsed) == len(decoded) == len(sources) == 4
    assert set(parsed.values()) == set(decoded.values()) == {1}


def test_no_boxes_leaves_every_box_where_it_was(data, finding_checkpoint, tmp_path):
    assert main(typed(data, finding_checkpoint, tmp_path / "out", "--no-boxes")) == 0
    before, after = open_detections(data.proposals / "val"), open_detections(tmp_path / "out")
    for name in before:
        order_a, order_b = np.lexsort(before[name].boxes.T), np.lexsort(after[name].boxes.T)
        assert np.abs(before[name].boxes[order_a] - after[name].boxes[order_b]).max() < 1e-6
    assert main(typed(data, finding_checkpoint, tmp_path / "out", "--resume")) == 2  # other settings


def test_a_run_that_goes_on_gives_the_same_bits_wherever_it_was_cut_off(
    data, finding_checkpoint, tmp_path, monkeypatch
):
    """What an image is judged together with does not depend on which images are done."""
    monkeypatch.setattr("tinygan.second_stage.engine.CHUNK", 30)  # two images
    assert main(typed(data, finding_checkpoint, tmp_path / "whole")) == 0
    files = sorted((tmp_path / "whole/0--Parade").iterdir())
    for gone in ([0], [1], [3], [0, 3], [1, 2]):
        out = tmp_path / f"cut{gone}"
        shutil.copytree(tmp_path / "whole", out)
        for at in gone:
            (out / "0--Parade" / files[at].name).unlink()
        assert main(typed(data, finding_checkpoint, out, "--resume")) == 0
        assert [file.read_bytes() for file in files] == [(out / "0--Parade" / file.name).read_bytes() for file in files]


def test_what_is_judged_together_depends_on_the_plan_alone(data, finding_checkpoint, tmp_path, monkeypatch):
    """The last bits of an answer depend on what else is in its batch, wherever a run was cut off."""
    monkeypatch.setattr("tinygan.second_stage.engine.CHUNK", 30)  # two images; a group would hold all four
    together: list[list[str]] = []
    judge_group = judging._judge_group

    def noted(judge, group, *more):
        if group:
            together.append([member.name[-5:-4] for member in group])
        return judge_group(judge, group, *more)

    monkeypatch.setattr(judging, "_judge_group", noted)
    assert main(typed(data, finding_checkpoint, tmp_path / "whole")) == 0
    looks = load_checkpoint(finding_checkpoint, ("fused",)).fusion["looks"]
    assert sorted(together) == sorted([["0", "1"], ["2", "3"]] * looks)
    for gone, again in (("0", [["0", "1"]]), ("3", [["2", "3"]]), ("12", [["0", "1"], ["2", "3"]])):
        out = tmp_path / f"cut{gone}"
        shutil.copytree(tmp_path / "whole", out)
        for number in gone:
            (out / f"0--Parade/val_{number}.txt").unlink()
        together.clear()
        assert main(typed(data, finding_checkpoint, out, "--resume")) == 0
        assert sorted(together) == sorted(again * looks)


def test_a_search_adds_faces_and_all_is_counted(data, checkpoint, tmp_path, capsys):
    proposals = data.proposals / "val/0--Parade"
    (proposals / "val_2.txt").unlink()  # of an image without proposals there is something to find, too
    (proposals / "val_3.txt").write_text("val_3\n0\n")
    out, report = tmp_path / "out", tmp_path / "report.json"
    words = typed(data, checkpoint, out, "--search", "--report", str(report))
    assert main(words) == 0
    counts = json.loads(report.read_text())
    assert (counts["images"], counts["without_proposals"], counts["proposals"], counts["rescored"]) == (4, 0, 30, 30)
    assert counts["added"] > 0 and counts["proposals"] + counts["added"] == counts["written"] + counts["merged"]
    assert f"{counts['added']} added, {counts['written']} written" in capsys.readouterr().out
    files = {file: file.read_text() for file in out.rglob("*.txt")}
    written = open_detections(out)
    assert len(written["0--Parade/val_2"]) > 0 and counts["written"] == sum(map(len, written.values()))
    for name in ("val_0", "val_2"):
        (out / f"0--Parade/{name}.txt").unlink()  # as if killed before this image
        assert main([*words, "--resume"]) == 0
        assert {file: file.read_text() for file in out.rglob("*.txt")} == files
        again = json.loads(report.read_text())
        assert again["resumed"] == 3 and all(again[key] == counts[key] for key in ("added", "merged", "written"))
    assert main([*typed(data, checkpoint, out), "--resume"]) == 2
    assert "was written with other settings" in capsys.readouterr().err


def test_a_search_keeps_the_boxes_of_pictures_that_cannot_be_read(data, checkpoint, tmp_path, capsys):
    images, proposals = data.root / "WIDER_val/images/0--Parade", data.proposals / "val/0--Parade"
    (images / "val_0.jpg").unlink()
    for name in ("val_1", "val_2"):
        (images / f"{name}.jpg").write_bytes((images / f"{name}.jpg").read_bytes()[:700])
    (proposals / "val_2.txt").unlink()
    report = tmp_path / "report.json"
    assert main(typed(data, checkpoint, tmp_path / "out", "--search", "--report", str(report))) == 1
    counts = json.loads(report.read_text())
    assert (counts["missing"], counts["unreadable"], counts["passed_through"]) == (1, 2, 30)
    for name in ("val_0", "val_1"):
        assert (tmp_path / f"out/0--Parade/{name}.txt").read_text() == (proposals / f"{name}.txt").read_text()
    assert not (tmp_path / "out/0--Parade/val_2.txt").exists()
    error = capsys.readouterr().err
    assert "val_2.jpg: expected a readable image" in error and error.count("; nothing written") == 1
    assert error.count("; proposals kept") == 1


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--no-boxes"], "--search: draws boxes between those of both detectors; leave out --no-boxes"),
        (["--fusion", "product"], "--search: adds log-odds, which fusion by product does not give"),
        (["--engine", "ray"], "--search: searches on this machine alone; leave out --engine ray"),
        (["--overlap", "0.3"], "--overlap 0.3 is for --slice"),
    ],
)
def test_what_a_search_does_not_go_with_is_one_line(more, message, data, checkpoint, tmp_path, capsys):
    assert main(typed(data, checkpoint, tmp_path / "out", "--search", *more)) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1 and not (tmp_path / "out").exists()


def test_what_a_search_sees_is_for_a_search_and_not_mixed_in(data, checkpoint, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(typed(data, checkpoint, out, "--slice", "64")) == 2
    assert "--slice: says what a search sees; give --search, too" in capsys.readouterr().err and not out.exists()
    assert main(typed(data, checkpoint, out, "--search")) == 0
    assert main(typed(data, checkpoint, out, "--search", "--scale", "2", "--resume")) == 2
    assert "other settings (search.scales was [1.0], is now [2.0])" in capsys.readouterr().err
    before = {file: file.read_text() for file in out.rglob("*.txt")}
    assert main(typed(data, checkpoint, out, "--search", "--scale", "2", "--overwrite")) == 0
    assert any(file.read_text() != text for file, text in before.items())


def test_names_that_a_search_cannot_tell_apart_cost_nothing_that_is_there(data, checkpoint, tmp_path, capsys):
    out, images = tmp_path / "out", data.root / "WIDER_val/images/0--Parade"
    assert main(typed(data, checkpoint, out)) == 0
    files = {file: file.read_bytes() for file in out.rglob("*.txt")}
    for twin in ("val_0.png", "val_0.jpg.png"):
        shutil.copy(images / "val_0.jpg", images / twin)
    (data.proposals / "val/0--Parade/val_0.txt").rename(data.proposals / "val/0--Parade/val_0.jpg.txt")
    capsys.readouterr()
    assert main(typed(data, checkpoint, out, "--search", "--overwrite")) == 2
    assert "would share the file" in capsys.readouterr().err
    assert {file: file.read_bytes() for file in out.rglob("*.txt")} == files


def test_images_without_proposals_do_not_thin_the_sample_of_a_calibration(data, checkpoint, tmp_path, monkeypatch):
    images, report = data.root / "WIDER_val/images/0--Parade", tmp_path / "report.json"
    for number in range(30):
        shutil.copy(images / "val_0.jpg", images / f"empty_{number}.jpg")
    fused = load_checkpoint(checkpoint, ("fused",))
    curve = RankCurve(knots=(-3.0, 0.0, 3.0), values=(-5.0, 0.0, 5.0))
    mapped = tmp_path / "mapped.safetensors"
    save_checkpoint(mapped, replace(fused, fusion=Fusion(judge=0.6, fitted=True, curve=curve).to_facts()))
    monkeypatch.setattr("tinygan.second_stage.calibration.MIN_PROPOSALS", 10)
    monkeypatch.setattr("tinygan.second_stage.engine.ROUGHLY_IMAGES", 4)
    words = typed(data, mapped, tmp_path / "out", "--search", "--report", str(report))
    assert main([*words, "--set", "calibration_proposals=60"]) == 0
    counts = json.loads(report.read_text())
    assert counts["images"] == 34 and counts["calibration"] == "found from 60 proposals"


def test_an_archive_of_a_search_that_was_cut_off_is_continued(data, checkpoint, tmp_path):
    whole, cut = tmp_path / "whole.tar.gz", tmp_path / "cut.tar.gz"
    (data.proposals / "val/0--Parade/val_2.txt").unlink()
    assert main(typed(data, checkpoint, whole, "--search")) == 0
    folder = tmp_path / "cut.tar.gz.partial"
    assert main(typed(data, checkpoint, folder, "--search")) == 0  # what a run leaves that is killed at its end
    (folder / "0--Parade/val_3.txt").unlink()
    assert main(typed(data, checkpoint, cut, "--search", "--resume")) == 0
    first, second = open_detections(whole), open_detections(cut)
    assert {name: first.text(name) for name in first} == {name: second.text(name) for name in second}
