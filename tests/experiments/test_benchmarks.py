from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from experiments.benchmarks import gpu
from experiments.benchmarks.networks import fastest, gflop
from experiments.benchmarks.run import BOXES, FACES, IMAGES, draw_crowd, measure
from experiments.benchmarks.second_stage import GROWTH, Point, draw, format_fit, judged, plot, run_point
from tinygan.evaluate.truth import load_evaluation_truth
from tinygan.evaluate.wider import evaluate_wider
from tinygan.formats.registry import open_detections
from tinygan.models.graphs import Graph, Port


def test_the_drawn_crowd_is_read_alike_from_both_files(tmp_path: Path) -> None:
    truth_file, *files = draw_crowd(tmp_path, images=3)
    truth = load_evaluation_truth(truth_file)
    results = []
    for file in files:
        detections = {name.removesuffix(".jpg"): found for name, found in open_detections(file).items()}
        results.append(evaluate_wider({f"{name}.jpg": found for name, found in detections.items()}, truth))
    first, second = results
    assert first.boxes == second.boxes == 3 * BOXES
    assert first.subsets["all"].faces == 3 * FACES
    assert first.subsets["all"].ap_exact > 0.5
    assert first.subsets["all"].ap_exact == pytest.approx(second.subsets["all"].ap_exact)
    assert IMAGES * BOXES > 1_000_000


def test_a_command_is_measured() -> None:
    timing = measure("start-up", ["--help"], repeats=1)
    assert timing.seconds > 0 and timing.cpu_seconds > 0 and timing.peak_mb > 5
    with pytest.raises(RuntimeError, match="failed with 2"):
        measure("misuse", ["nothing"], repeats=1)


def test_networks_run_in_turn_and_the_first_call_does_not_count() -> None:
    calls: list[str] = []

    def slow() -> None:
        calls.append("slow")
        sum(range(20_000 if len(calls) > 2 else 20_000_000))

    seconds = fastest({"slow": slow, "quick": lambda: calls.append("quick")}, repeats=2)
    assert calls == ["slow", "quick"] * 3
    assert 0 <= seconds["quick"] < seconds["slow"] < 0.05, "the first call took longer"


def test_pictures_and_boxes_are_drawn_as_asked(tmp_path: Path) -> None:
    images, proposals = draw(tmp_path / "drawn", images=3, boxes=40, megapixels=0.3)
    files = sorted(images.iterdir())
    assert [file.name for file in files] == ["0.jpg", "1.jpg", "2.jpg"] and files[2].is_symlink()
    with Image.open(files[2]) as picture:
        assert picture.width * picture.height == pytest.approx(0.3e6, rel=0.01)
    found = open_detections(proposals)
    assert [len(one) for one in found.values()] == [40] * 3
    assert all((one.boxes[:, 2:] > one.boxes[:, :2]).all() for one in found.values())


def test_a_run_is_measured_and_its_growth_fitted(tmp_path: Path, checkpoint: Path) -> None:
    point = run_point(tmp_path / "one", "boxes", 700, ["--checkpoint", str(checkpoint)])
    assert (point.images, point.boxes, point.megapixels) == (2, 700, 1.0) and judged(point) == 1200
    assert point.cpu_seconds > 0.5 and point.peak_mb > 100
    line = [Point("images", count, 5, 1.0, 3 + 0.5 * count, 700) for count in (10, 20, 40)]
    assert format_fit(line) == "images: 3.0 s + 0.500 s each, R² 1.000"
    plot([replace(one, grows=grows) for grows in GROWTH for one in line], tmp_path / "plot.png")
    assert (tmp_path / "plot.png").stat().st_size > 1000


def test_arithmetic_of_a_graph_is_counted_per_example() -> None:
    port = Port("pictures", ("batch", 3, 8, 8), "any")
    graph = Graph("one", torch.nn.Conv2d(3, 4, 3, padding=1), (port,), ())
    assert gflop(graph) == pytest.approx(2 * 3 * 9 * 4 * 64 / 1e9)


def test_the_script_for_a_gpu_runs_on_a_cpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "WAYS", {name: way for name, way in gpu.WAYS.items() if not way.compiled})
    words = ["--out", str(tmp_path), "--device", "cpu", "--batch-size", "2", "--seconds", "0.01"]
    assert gpu.main(words) == 0
    rows = json.loads((tmp_path / "gpu.json").read_text())["rows"]
    assert [row["look"] for row in rows] == ["judge"] * 4 + ["second_judge"] * 4
    assert rows[0]["error"] == 0 and 0 <= rows[1]["error"] < 1e-3 < rows[2]["error"] < 1, "bf16 is less exact"
    assert all(row["rois_per_s"] > 0 and row["peak"] > 0 for row in rows)
    assert gpu.main([*words, "--minutes", "-1"]) == 0, "out of time: no row"
