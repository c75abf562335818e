"""``--table`` of tinygan-rescore and tinygan-detect finds what their usual inputs give."""

import json
from dataclasses import replace

import numpy as np
import pytest

from tests.conftest import make_table
from tinygan.checkpoint import load_checkpoint, save_checkpoint
from tinygan.cli.detect import main as detect
from tinygan.cli.rescore import main as rescore
from tinygan.detections import Detections
from tinygan.formats.registry import open_detections
from tinygan.second_stage.fusion import Fusion, RankCurve
from tinygan.second_stage.judging import judge_images
from tinygan.second_stage.opinion import SecondOpinion

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")
CPU = ["--device", "cpu", "--precision", "32", "--threads", "1"]


@pytest.fixture
def mapped(checkpoint, tmp_path):
    """A checkpoint whose fusion has a detector's calibration found."""
    curve = RankCurve(knots=(-3.0, 0.0, 3.0), values=(-5.0, 0.0, 5.0))
    fusion = Fusion(detector=0.8, judge=0.6, fitted=True, curve=curve)
    path = tmp_path / "mapped.safetensors"
    save_checkpoint(path, replace(load_checkpoint(checkpoint, ("fused",)), fusion=fusion.to_facts()))
    return path


def words(*given: object) -> list[str]:
    return [*map(str, given), *CPU]


def found_in(out) -> dict[str, Detections]:
    rows = [row for part in sorted(out.glob("part-*.parquet")) for row in pq.read_table(part).to_pylist()]
    assert len(rows) == len({row["name"] for row in rows}), "each once"
    assert not any(row["error"] for row in rows)
    return {
        row["name"].removesuffix(".jpg"): Detections(np.reshape(row["boxes"], (-1, 4)), np.array(row["scores"]))
        for row in rows
    }


@pytest.mark.parametrize("row_group", [4, 3, 1])
def test_rescoring_a_table_is_rescoring_its_files(tiny_wider, finding_checkpoint, tmp_path, row_group, capsys):
    table = make_table(tiny_wider, tmp_path / "in.parquet", row_group)
    images = tiny_wider.root / "WIDER_val/images"
    usual = ["--proposals", tiny_wider.proposals / "val", "--images", images, "--out", tmp_path / "usual"]
    config = ("--checkpoint", finding_checkpoint, "--set", "again_from=0")  # a second look at some proposals
    assert rescore(words(*usual, *config)) == 0
    given = words("--table", table, "--out", tmp_path / "out", *config)
    assert rescore(given) == 0
    assert "4 images, " in capsys.readouterr().out
    expected, found = open_detections(tmp_path / "usual"), found_in(tmp_path / "out")
    assert set(expected) == set(found)
    for name in expected:
        assert np.allclose(found[name].boxes, expected[name].boxes, atol=1e-4)
        assert np.allclose(found[name].scores, expected[name].scores, atol=1e-5)
    if row_group == 4:  # judged together, as the files are
        assert all(np.array_equal(found[name].scores, expected[name].scores) for name in expected)
    parts = {part: part.read_bytes() for part in (tmp_path / "out").glob("part-*")}
    next(iter(parts)).unlink()
    assert rescore([*given, "--resume"]) == 0
    assert {part: part.read_bytes() for part in parts} == parts


def test_the_calibration_of_the_whole_table_is_found_once(tiny_wider, mapped, tmp_path, monkeypatch):
    monkeypatch.setattr("tinygan.second_stage.calibration.MIN_PROPOSALS", 20)
    images = tiny_wider.root / "WIDER_val/images"
    usual = ["--proposals", tiny_wider.proposals / "val", "--images", images, "--out", tmp_path / "usual"]
    assert rescore(words(*usual, "--checkpoint", mapped)) == 0
    table = make_table(tiny_wider, tmp_path / "in.parquet", 1)
    given = words("--table", table, "--out", tmp_path / "out", "--checkpoint", mapped)
    assert rescore(given) == 0
    expected, found = open_detections(tmp_path / "usual"), found_in(tmp_path / "out")
    assert all(np.allclose(found[name].scores, expected[name].scores, atol=1e-5) for name in expected)
    saved = json.loads((tmp_path / "usual/calibration.json").read_text())["calibration"]
    assert saved is not None
    monkeypatch.setattr(
        "tinygan.second_stage.tables.calibrate_detector", lambda *_: pytest.fail("it was found already")
    )
    part = tmp_path / "out/part-000002.parquet"
    before = part.read_bytes()
    part.unlink()
    assert rescore([*given, "--resume"]) == 0 and part.read_bytes() == before


def test_of_further_pictures_boxes_worth_a_look_alone_are_judged_for_the_calibration(
    tiny_wider, mapped, tmp_path, monkeypatch
):
    monkeypatch.setattr("tinygan.second_stage.calibration.MIN_PROPOSALS", 10)
    for module in ("engine", "tables"):
        monkeypatch.setattr(f"tinygan.second_stage.{module}.ROUGHLY_IMAGES", 2)
    few = ["--checkpoint", mapped, "--set", "calibration_proposals=60", "--set", "least_log_odds=0"]
    images = tiny_wider.root / "WIDER_val/images"
    usual = ["--proposals", tiny_wider.proposals / "val", "--images", images, "--out", tmp_path / "usual"]
    assert rescore(words(*usual, *few)) == 0
    table = make_table(tiny_wider, tmp_path / "in.parquet", 1)
    assert rescore(words("--table", table, "--out", tmp_path / "out", *few)) == 0
    of_files, of_table = (json.loads((tmp_path / out / "calibration.json").read_text()) for out in ("usual", "out"))
    assert of_files["rough"] != of_files["calibration"]
    assert of_table["score_map"]["values"] == pytest.approx(of_files["calibration"]["score_map"]["values"])
    assert of_table["expected"] == pytest.approx(of_files["calibration"]["expected"], abs=1e-3)


def test_a_second_opinion_is_asked_of_a_table_as_of_files(tiny_wider, mapped, tmp_path, monkeypatch):
    monkeypatch.setattr("tinygan.second_stage.calibration.MIN_PROPOSALS", 10)
    for module in ("engine", "tables"):
        monkeypatch.setattr(f"tinygan.second_stage.{module}.ROUGHLY_IMAGES", 2)
    asked: list[tuple[str, int]] = []
    ask = SecondOpinion.__call__

    def noted(opinion, judged, image):
        asked.append((judged.name.removesuffix(".jpg"), len(judged.face_logits)))
        return ask(opinion, judged, image)

    monkeypatch.setattr(SecondOpinion, "__call__", noted)
    few = ["--checkpoint", mapped, "--set", "calibration_proposals=60", "--set", "least_log_odds=0"]
    images = tiny_wider.root / "WIDER_val/images"
    usual = words("--proposals", tiny_wider.proposals / "val", "--images", images, "--out", tmp_path / "usual", *few)
    assert rescore(usual) == 0
    of_files = asked.copy()
    asked.clear()
    table = make_table(tiny_wider, tmp_path / "in.parquet", 1)
    assert rescore(words("--table", table, "--out", tmp_path / "out", *few)) == 0
    assert sorted(asked) == sorted(of_files) and len(of_files) == 3  # of one image no proposal counts
    expected, found = open_detections(tmp_path / "usual"), found_in(tmp_path / "out")
    assert all(np.allclose(found[name].scores, expected[name].scores, atol=1e-4) for name in expected)
    proposals = open_detections(tiny_wider.proposals / "val")
    assert all(0 < count < len(proposals[name]) for name, count in of_files)  # the others are not worth a look
    first = next((tmp_path / "usual").rglob("val_0.txt"))
    before = first.read_text()
    first.unlink()
    asked.clear()
    assert rescore([*usual, "--resume"]) == 0 and first.read_text() == before
    assert dict(asked).items() <= dict(of_files).items()


def test_few_pictures_are_judged_together_where_no_box_counts(tiny_wider, checkpoint, tmp_path, monkeypatch):
    closes = []

    def noted(judge, requests, **how):
        return judge_images(judge, (closes.append(one.closes) or one for one in requests), **how)

    monkeypatch.setattr("tinygan.second_stage.engine.CHUNK_IMAGES", 2)
    for module, name in (("engine", "judge_chunks"), ("tables", "judge_images")):
        monkeypatch.setattr(f"tinygan.second_stage.{module}.{name}", noted)
    images = tiny_wider.root / "WIDER_val/images"
    usual = ["--proposals", tiny_wider.proposals / "val", "--images", images, "--out", tmp_path / "usual"]
    assert rescore(words(*usual, "--checkpoint", checkpoint, "--min-score", "1")) == 0
    table = make_table(tiny_wider, tmp_path / "in.parquet", 4)
    given = words("--table", table, "--out", tmp_path / "out", "--checkpoint", checkpoint, "--min-score", "1")
    assert rescore(given) == 0 and closes == [False, True] * 4


def test_a_row_whose_second_opinion_fails_is_scored_by_the_judge_alone(
    tiny_wider, checkpoint, tmp_path, monkeypatch, capsys
):
    table = make_table(tiny_wider, tmp_path / "in.parquet", 4)
    given = words("--table", table, "--checkpoint", checkpoint)
    assert rescore([*given, "--no-opinion", "--out", str(tmp_path / "alone")]) == 0
    monkeypatch.setattr(SecondOpinion, "__call__", lambda *_: 1 / 0)
    capsys.readouterr()
    assert rescore([*given, "--out", str(tmp_path / "out")]) == 1
    assert "4 images were skipped, or got no second opinion" in capsys.readouterr().err
    (rows,) = (pq.read_table(part).to_pylist() for part in (tmp_path / "out").glob("part-*.parquet"))
    alone = found_in(tmp_path / "alone")
    for row in rows:
        assert row["error"].startswith(row["name"]) and "no second opinion, scored by the judge alone" in row["error"]
        assert row["scores"] == pytest.approx(alone[row["name"].removesuffix(".jpg")].scores)


def test_overwritten_results_have_a_calibration_of_their_own(tiny_wider, mapped, tmp_path, monkeypatch):
    monkeypatch.setattr("tinygan.second_stage.calibration.MIN_PROPOSALS", 20)
    table = make_table(tiny_wider, tmp_path / "in.parquet", 1)
    given = words("--table", table, "--out", tmp_path / "out", "--checkpoint", mapped)
    assert rescore(given) == 0
    file = tmp_path / "out/calibration.json"
    found = file.read_bytes()
    file.write_text("null")  # what another checkpoint's, or another detector's, might be
    assert rescore([*given, "--overwrite"]) == 0 and file.read_bytes() == found


def test_scores_of_another_scale_stop_before_any_part_is_written(tiny_wider, mapped, tmp_path, capsys):
    rows = pq.read_table(make_table(tiny_wider, tmp_path / "in.parquet", 2)).to_pylist()
    percents = [{**row, "scores": [100 * score for score in row["scores"]]} for row in rows]
    pq.write_table(pa.Table.from_pylist(percents), tmp_path / "in.parquet")
    assert rescore(words("--table", tmp_path / "in.parquet", "--out", tmp_path / "out", "--checkpoint", mapped)) == 2
    said = capsys.readouterr().err
    assert (
        "none of 4 pictures, spread evenly, could be judged: 0--Parade/val_0.jpg: detector scores must lie in" in said
    )
    assert not list((tmp_path / "out").glob("part-*"))


def test_a_damaged_picture_costs_that_picture_alone(tiny_wider, checkpoint, tmp_path, capsys):
    rows = pq.read_table(make_table(tiny_wider, tmp_path / "in.parquet", 2)).to_pylist()
    rows[1]["bytes"], rows[2]["boxes"] = b"no picture", [[1.0, 2.0, 3.0]]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "in.parquet")
    assert (
        rescore(words("--table", tmp_path / "in.parquet", "--out", tmp_path / "out", "--checkpoint", checkpoint)) == 1
    )
    said = capsys.readouterr().err
    assert "2 images were skipped" in said and "val_2.jpg: expected boxes x1, y1, x2, y2" in said
    written = pq.read_table(tmp_path / "out/part-000000.parquet").to_pylist()
    assert [bool(row["error"]) for row in written] == [False, True, True, False]
    assert written[1]["boxes"] and sorted(map(tuple, written[1]["boxes"])) == sorted(map(tuple, rows[1]["boxes"]))
    assert detect(words("--table", tmp_path / "in.parquet", "--out", tmp_path / "found")) == 1
    assert "2 images were skipped" in capsys.readouterr().err


def test_detecting_in_a_table_is_detecting_in_its_files(tiny_wider, tmp_path):
    images = tiny_wider.root / "WIDER_val/images"
    assert detect(words(images, "--out", tmp_path / "usual", "--no-pictures", "--min-score", "0.01")) == 0
    table = make_table(tiny_wider, tmp_path / "in.parquet", 3)
    assert detect(words("--table", table, "--out", tmp_path / "out", "--min-score", "0.01")) == 0
    found = found_in(tmp_path / "out")
    for image in json.loads((tmp_path / "usual/detections.json").read_text())["images"]:
        one = found.pop(image["name"].removesuffix(".jpg"))
        assert one.boxes.tolist() == [face["box"] for face in image["faces"]]
        assert one.scores.tolist() == [face["score"] for face in image["faces"]]
    assert not found


@pytest.mark.parametrize(
    ("command", "given", "message"),
    [
        (rescore, ["--table", "t", "--out", "o", "--images", "d"], "--images DIR: does not go with --table"),
        (rescore, ["--table", "t", "--out", "o", "--subset", "d"], "--subset: does not go with --table"),
        (rescore, ["--out", "o", "--images", "d"], "expected --proposals P and --images DIR, or --table ADDRESS"),
        (rescore, ["--proposals", "p", "--images", "d", "--out", "s3://b/o"], "an address is for --table"),
        (detect, ["--out", "o"], "expected INPUT, or --table ADDRESS"),
        (detect, ["a.jpg", "--table", "t", "--out", "o"], "INPUT: does not go with --table"),
        (detect, ["--table", "t", "--out", "t/o"], "--out t/o: is, or lies in, the folder --table"),
        (detect, ["--table", "s3://b/t/", "--out", "s3://b/t"], "lies in, the folder --table"),
        (detect, ["--table", "none.parquet", "--out", "o"], "none.parquet: no such Parquet file"),
    ],
)
def test_what_does_not_go_together_is_one_line(command, given, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert command(given) == 2
    said = capsys.readouterr().err
    assert message in said and said.count("\n") == 1 and not (tmp_path / "o").exists()
