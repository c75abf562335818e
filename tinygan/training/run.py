"""What training stages share: batch size, averaged weights, what a checkpoint remembers, the end of a run."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from tinygan.checkpoint import name_hash
from tinygan.errors import CheckpointError, DataError
from tinygan.files import write_atomically

HOLDOUT_FILE = "holdout.txt"


def moving_average(network: nn.Module, decay: float) -> AveragedModel | None:
    """The exponential average of a network's weights and BN statistics; ``None`` if ``decay`` is 0."""
    if not decay:
        return None
    average = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]
    return AveragedModel(network, multi_avg_fn=average, use_buffers=True)


class Prepared(Protocol):
    """What a stage trained on."""

    @property
    def training_names(self) -> list[str]:
        """Images trained on."""

    @property
    def holdout_names(self) -> list[str]:
        """Images kept out."""

    @property
    def unreadable(self) -> list[str]:
        """A line for every image that could not be read."""


def trained_facts(prepared: Prepared) -> dict[str, Any]:
    """What a checkpoint remembers of its training images, so that fusion can refuse them."""
    return {"trained_on": sorted(name_hash(name) for name in prepared.training_names)}


def finish(folder: RunFolder, prepared: Prepared) -> None:
    """List the hold-out, mark the run finished, and remove its patches."""
    write_atomically(folder.file(HOLDOUT_FILE), "".join(f"{name}\n" for name in prepared.holdout_names).encode())
    summary = {"training_images": len(prepared.training_names), "unreadable": prepared.unreadable}
    write_atomically(folder.file(FINISHED_FILE), json.dumps(summary, indent=1).encode())
    shutil.rmtree(folder.file("patches"), ignore_errors=True)


CONFIG_FILE, METRICS_FILE, STATE_FILE, CURVES_FILE = "config.yaml", "metrics.jsonl", "last.ckpt", "curves.png"


FINISHED_FILE = "finished.json"


class RunFolder:
    """The folder of one training run.

    Args:
        path: where it lies.
        config_yaml: the resolved config.
        resume: continue what lies there.
        overwrite: start again; files of an earlier run there are removed.

    Raises:
        DataError: if there is a run already and neither option is given.
        CheckpointError: if it is to be resumed under another config.
    """

    def __init__(self, path: Path, config_yaml: str, resume: bool = False, overwrite: bool = False) -> None:
        self.path = path
        if path.exists() and not path.is_dir():
            raise DataError(f"{path}: expected a folder for the run, but this is a file")
        config = path / CONFIG_FILE
        started = any((path / name).exists() for name in (METRICS_FILE, STATE_FILE, FINISHED_FILE))
        if overwrite:
            self._clear()
        elif started and not resume:
            raise DataError(f"{path}: holds a run already; continue it with --resume or start again with --overwrite")
        elif started and config.exists():
            _check_same(config, config_yaml)
        (path / "samples").mkdir(parents=True, exist_ok=True)
        write_atomically(config, config_yaml.encode())

    def file(self, name: str) -> Path:
        """A file of the run."""
        return self.path / name

    @property
    def finished(self) -> bool:
        """Whether the stage ran to its end."""
        return self.file(FINISHED_FILE).is_file()

    def metrics(self) -> list[dict[str, float]]:
        """All whole rows of ``metrics.jsonl``."""
        file = self.file(METRICS_FILE)
        rows = []
        for line in file.read_text().splitlines() if file.is_file() else []:
            try:
                rows.append(json.loads(line))
            except ValueError:
                break  # a line that a kill cut short
        return rows

    def keep_metrics_before(self, step: int) -> None:
        """Drop rows of steps that a resumed run will do again."""
        rows = [row for row in self.metrics() if row["step"] < step]
        write_atomically(self.file(METRICS_FILE), "".join(json.dumps(row) + "\n" for row in rows).encode())

    def append_metrics(self, row: Mapping[str, float]) -> None:
        """Append a row to ``metrics.jsonl``."""
        with self.file(METRICS_FILE).open("a") as file:
            file.write(json.dumps(row) + "\n")

    def _clear(self) -> None:
        """Remove what a run writes, and nothing else."""
        names = (CONFIG_FILE, METRICS_FILE, STATE_FILE, CURVES_FILE, FINISHED_FILE, "model.safetensors")
        for file in [*(self.path / name for name in names), *(self.path / "samples").glob("*.png")]:
            file.unlink(missing_ok=True)


def _check_same(config: Path, config_yaml: str) -> None:
    before, now = config.read_text().splitlines(), config_yaml.splitlines()
    if before == now:
        return
    differing = next((new for old, new in zip(before, now, strict=False) if old != new), "its length")
    if differing.startswith("# precision:") and not any(line.startswith("# precision:") for line in before):
        raise CheckpointError(
            f"{config}: the run was started by an older version, which did not note its precision; start again with "
            "--overwrite"
        )
    raise CheckpointError(
        f"{config}: the run was started with other settings (first difference: '{differing.strip()}'); "
        "resume with the same ones, or start again with --overwrite"
    )
