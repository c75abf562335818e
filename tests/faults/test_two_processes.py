"""Two processes under ``torchrun`` learn what one learns, and either goes on where the other was cut off."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.faults.kills import descendants
from tinygan.checkpoint import load_checkpoint
from tinygan.data.batches import Batch, share_of

ROOT = Path(__file__).resolve().parents[2]
SETTINGS = [
    "crops.lr_size=8", "generator.form=shuffle", "generator.width=8", "generator.up_width=8",
    "generator.residual_blocks=1", "mse_init.epochs=2", "mse_init.patches_per_epoch=32", "mse_init.batch_size=8",
    "mse_init.learning_rate=1e-3", "mse_init.save_every=2", "rois.holdout=0.4",
]  # fmt: skip


def command(processes: int, port: int, data, out: Path, *more: str) -> list[str]:
    words = ["--stage", "mse-init", "--data", str(data.root), "--out", str(out), "--device", "cpu", "--threads", "1"]
    words += [word for setting in SETTINGS for word in ("--set", setting)] + [*more, "--precision", "32"]
    script = out.parent / "train.py"
    script.write_text("from tinygan.cli.train import main\nraise SystemExit(main())\n")
    torchrun = ["-m", "torch.distributed.run", f"--nproc-per-node={processes}", f"--master-port={port}"]
    return [sys.executable, *(torchrun if processes > 1 else []), str(script), *words]


def run(*given) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run(command(*given), check=True, timeout=900, env=environment, capture_output=True)


def distance(first: Path, second: Path) -> tuple[float, float]:
    """The largest difference of a weight, and the largest weight."""
    a, b = (load_checkpoint(path, ("generator",)).tensors for path in (first, second))
    return max(float((a[name] - b[name]).abs().max()) for name in a), max(
        float(value.abs().max()) for value in a.values()
    )


def test_shares_of_a_batch_are_the_batch():
    batch = Batch(**{field.name: torch.arange(7 * 2).reshape(7, 2) for field in fields(Batch)})
    shares = [share_of(batch, rank, 3) for rank in range(3)]
    assert [len(share.lr) for share in shares] == [2, 2, 3]
    for field in fields(Batch):
        assert torch.equal(torch.cat([getattr(share, field.name) for share in shares]), getattr(batch, field.name))


@pytest.mark.slow
def test_two_processes_equal_one_and_either_continues_the_other(tiny_wider, tmp_path):
    """The generator has no batch normalisation, whose statistics each process would take of its own share."""
    run(1, 0, tiny_wider, tmp_path / "one")
    run(2, 29621, tiny_wider, tmp_path / "two")
    for first, then in ((2, 1), (1, 2)):
        out = tmp_path / f"{first}-{then}"
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        process = subprocess.Popen(command(first, 29622, tiny_wider, out), env=environment,
                                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # fmt: skip
        while not (out / "last.ckpt").exists():
            assert process.poll() is None
            time.sleep(0.005)
        for one in [process.pid, *descendants(process.pid)]:  # workers outlive torchrun, and hold the folder
            os.kill(one, signal.SIGKILL)
        process.wait()
        run(then, 29623, tiny_wider, out, "--resume")
    for name in ("two", "2-1", "1-2"):
        difference, largest = distance(tmp_path / "one", tmp_path / name)
        print(f"{name}: weights differ by {difference:.2e} of {largest:.3f} at most")
        assert difference < 1e-5 and np.isfinite(largest), name
