import json

import pytest
import torch

from tinygan.errors import CheckpointError, DataError, TinyGanError
from tinygan.runtime import Runtime, RuntimeOptions
from tinygan.training.loop import LoopConfig, Prefetcher, run_loop
from tinygan.training.run import RunFolder

CONFIG = LoopConfig(epochs=2, patches_per_epoch=8, batch_size=2, log_every=1, save_every=3, learning_rate=1.0)


class Counter:
    """Sums what it is given; fails at a step if asked to."""

    def __init__(self, fail_at: int | None = None, nan_at: int | None = None) -> None:
        self.total, self.steps, self.rates = torch.zeros(()), 0, []
        self.fail_at, self.nan_at = fail_at, nan_at

    def step(self, batch):
        if self.steps == self.fail_at:
            raise KeyboardInterrupt
        self.total = self.total * 1.1 + batch
        self.steps += 1
        return {"loss": self.total if self.steps != self.nan_at else torch.tensor(float("nan"))}

    def set_learning_rate(self, rate):
        self.rates.append(rate)

    def state_dict(self):
        return {"total": self.total, "steps": self.steps}

    def load_state_dict(self, state):
        self.total, self.steps = state["total"], state["steps"]

    def evaluate(self):
        return {"held_out": float(self.total)}

    def draw_samples(self, path):
        path.touch()


def run(folder, stage):
    run_loop(stage, lambda step: torch.tensor(float(step)), CONFIG, folder, Runtime(RuntimeOptions(device="cpu")))


def test_runs_all_steps_and_leaves_a_run_folder(tmp_path):
    stage = Counter()
    run(RunFolder(tmp_path / "run", "a: 1\n"), stage)
    assert stage.steps == CONFIG.steps == 8
    rows = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == list(range(8)) and "held_out" in rows[3] and "held_out" not in rows[2]
    names = {path.name for path in (tmp_path / "run").rglob("*")}
    assert {"config.yaml", "metrics.jsonl", "curves.png", "last.ckpt", "epoch_001.png", "epoch_002.png"} <= names


def test_interrupted_and_resumed_equals_uninterrupted(tmp_path):
    whole = Counter()
    run(RunFolder(tmp_path / "whole", ""), whole)
    with pytest.raises(KeyboardInterrupt):
        run(RunFolder(tmp_path / "cut", ""), Counter(fail_at=5))
    resumed = Counter()
    run(RunFolder(tmp_path / "cut", "", resume=True), resumed)
    assert torch.equal(resumed.total, whole.total)

    def losses(name):
        return [(r["step"], r["loss"]) for r in RunFolder(tmp_path / name, "", resume=True).metrics()]

    assert losses("cut") == losses("whole")


def test_half_written_metrics_line_is_dropped(tmp_path):
    folder = RunFolder(tmp_path / "run", "")
    folder.append_metrics({"step": 0, "loss": 1.0})
    with (tmp_path / "run/metrics.jsonl").open("a") as file:
        file.write('{"step": 1, "lo')
    assert folder.metrics() == [{"step": 0, "loss": 1.0}]
    folder.keep_metrics_before(5)
    assert (tmp_path / "run/metrics.jsonl").read_text() == '{"step": 0, "loss": 1.0}\n'


def test_nan_stops_before_it_is_saved(tmp_path):
    with pytest.raises(TinyGanError, match="loss 'loss' is nan at step 6: the training diverged"):
        run(RunFolder(tmp_path / "run", ""), Counter(nan_at=7))
    assert torch.load(tmp_path / "run/last.ckpt")["step"] == 6


def test_run_folder_refuses_to_mix_runs(tmp_path):
    RunFolder(tmp_path / "run", "width: 0\n")  # failed before its first step: nothing to lose
    folder = RunFolder(tmp_path / "run", "width: 1\n")
    folder.append_metrics({"step": 0})
    with pytest.raises(DataError, match="holds a run already; continue it with --resume"):
        RunFolder(tmp_path / "run", "width: 1\n")
    with pytest.raises(CheckpointError, match="other settings .first difference: 'width: 2'"):
        RunFolder(tmp_path / "run", "width: 2\n", resume=True)
    RunFolder(tmp_path / "run", "width: 2\n", overwrite=True)
    assert folder.metrics() == []
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="expected a folder"):
        RunFolder(tmp_path / "file", "")


def test_learning_rates_by_hand():
    step = LoopConfig(epochs=6, patches_per_epoch=10, batch_size=1, learning_rate=1e-4)
    assert [step.rate_at(s) for s in (0, 29, 30, 59)] == pytest.approx([1e-4, 1e-4, 1e-5, 1e-5])  # the paper's
    cosine = LoopConfig(
        epochs=1, patches_per_epoch=100, batch_size=1, learning_rate=1.0, decay="cosine", warmup_steps=10
    )
    assert cosine.rate_at(0) == pytest.approx(0.1) and cosine.rate_at(50) == pytest.approx(0.5)
    milestones = LoopConfig(
        epochs=130, patches_per_epoch=40, batch_size=2, learning_rate=1e-2, milestones=(100, 120), warmup_steps=100,
        warmup_from=3.125e-4,
    )  # fmt: skip
    rates = [milestones.rate_at(int(20 * epoch)) for epoch in (0, 2.5, 5, 100, 120)]
    assert rates == pytest.approx([3.125e-4, 5.15625e-3, 1e-2, 1e-3, 1e-4])
    with pytest.raises(ValueError, match="milestones are epochs from 1 on, for decay: step"):
        LoopConfig(decay="cosine", milestones=(3,))
    with pytest.raises(ValueError, match=r"warmup_from lies in \[0, learning_rate\]"):
        LoopConfig(warmup_from=1.0)
    with pytest.raises(ValueError, match="epochs must be at least 1"):
        LoopConfig(epochs=0)


def test_prefetcher_keeps_order_and_passes_errors_on():
    with Prefetcher(lambda step: step * 10, 3, 9) as batches:
        assert list(batches) == [(step, step * 10) for step in range(3, 9)]

    def broken(step):
        raise ValueError("no such patch")

    with pytest.raises(ValueError, match="no such patch"), Prefetcher(broken, 0, 2) as batches:
        list(batches)
