from __future__ import annotations

from pathlib import Path

import pytest

from experiments.benchmarks.networks import fastest
from experiments.benchmarks.run import BOXES, FACES, IMAGES, draw_crowd, measure
from tinygan.evaluate.truth import load_evaluation_truth
from tinygan.evaluate.wider import evaluate_wider
from tinygan.formats.registry import open_detections


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
