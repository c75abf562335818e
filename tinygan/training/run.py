"""What all training stages share: the run folder and its files, averaged weights, the record of training images."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from tinygan.checkpoint import WEIGHTS_FILE, name_hash
from tinygan.errors import CheckpointError, DataError
from tinygan.files import append_line, remove_half_written, remove_written, write_atomically

CONFIG_FILE = "config.yaml"  # the resolved recipe, with the inputs of the run as comments
CONTENT = "# content of"  # in it, before an input's name and hash
METRICS_FILE = "metrics.jsonl"  # a line of figures every few steps
CURVES_FILE = "curves.png"  # the same, drawn
STATE_FILE = "last.ckpt"  # to resume from
FINISHED_FILE = "finished.json"  # exists only if the stage is finished
HOLDOUT_FILE = "holdout.txt"  # names of the images kept out of training
NEGATIVES_FILE = "negatives.csv"  # first stages: the hard negatives that were searched for before training
FUSION_FILE = "fusion.json"  # stage fusion: what was fitted, and its gains on the hold-out
FILES = (
    CONFIG_FILE, METRICS_FILE, CURVES_FILE, STATE_FILE, FINISHED_FILE, HOLDOUT_FILE, NEGATIVES_FILE, FUSION_FILE,
    WEIGHTS_FILE,
)  # fmt: skip
SAMPLES_FOLDER, SAMPLE_FILES = "samples", "epoch_[0-9]*.png"  # one picture per epoch
BOARD_FOLDER, BOARD_FILES = "tensorboard", "events.out.tfevents.*"  # where TensorBoard is installed
JUDGED_FOLDER, JUDGED_FILES = "judged", "detector_[0-9]*.npz"  # stage fusion: judged proposals of the hold-out
PATCHES_FOLDER = "patches"  # scratch, removed when the stage is finished


def moving_average(network: nn.Module, decay: float) -> AveragedModel | None:
    """The exponential average of a network's weights and BN statistics; ``None`` without any, or if ``decay`` is 0."""
    if not decay or not network.state_dict():
        return None
    average = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]
    return AveragedModel(network, multi_avg_fn=average, use_buffers=True)


def read_metrics(file: Path) -> list[dict[str, float]]:
    """All whole rows of a run's ``metrics.jsonl``; none if there is no such file."""
    rows = []
    for line in file.read_text().splitlines() if file.is_file() else []:
        try:
            rows.append(json.loads(line))
        except ValueError:
            break  # a line that a kill cut short
    return rows


class Prepared(Protocol):
    """The images that a stage trained on, kept out, or could not read."""

    @property
    def training_names(self) -> list[str]:
        """Names of the images trained on."""

    @property
    def holdout_names(self) -> list[str]:
        """Names of the images kept out of training."""

    @property
    def unreadable(self) -> list[str]:
        """One line per image that could not be read."""


def trained_on(prepared: Prepared) -> frozenset[str]:
    """Hashes of the training images' names, kept in the checkpoint so that stage ``fusion`` can refuse these images."""
    return frozenset(name_hash(name) for name in prepared.training_names)


def finish(folder: RunFolder, prepared: Prepared) -> None:
    """Write the list of hold-out images, mark the run as finished, and remove its patches."""
    write_atomically(folder.file(HOLDOUT_FILE), "".join(f"{name}\n" for name in prepared.holdout_names).encode())
    summary = {"training_images": len(prepared.training_names), "unreadable": prepared.unreadable}
    write_atomically(folder.file(FINISHED_FILE), json.dumps(summary, indent=1).encode())
    shutil.rmtree(folder.patches, ignore_errors=True)


class RunFolder:
    """The folder of one training run.

    Args:
        path: the folder, which may not exist yet.
        config_yaml: the resolved config as YAML text.
        resume: whether to continue the run that is already in the folder.
        overwrite: whether to start again; everything that an earlier run wrote is then removed, and nothing else.

    Raises:
        DataError: if there is a run already and neither option is given.
        CheckpointError: if it is to be resumed under another config.
    """

    def __init__(self, path: Path, config_yaml: str, resume: bool = False, overwrite: bool = False) -> None:
        self.path = path
        if path.exists() and not path.is_dir():
            raise DataError(f"{path}: expected a folder for the run, but this is a file")
        config = path / CONFIG_FILE
        started = any((path / name).exists() for name in (METRICS_FILE, STATE_FILE, FINISHED_FILE, JUDGED_FOLDER))
        if overwrite and (started or config.exists()):  # else no run was ever here, and a holdout.txt is somebody's
            self._clear()
        elif started and not resume:
            raise DataError(f"{path}: holds a run already; continue it with --resume or start again with --overwrite")
        elif started and config.exists():
            _check_same(config, config_yaml)
        (path / SAMPLES_FOLDER).mkdir(parents=True, exist_ok=True)
        write_atomically(config, config_yaml.encode())

    def file(self, name: str) -> Path:
        """A file of the run."""
        return self.path / name

    @property
    def patches(self) -> Path:
        """The folder in which patches are kept while the stage trains."""
        return self.path / PATCHES_FOLDER

    def sample(self, epoch: int) -> Path:
        """The picture drawn after an epoch, counted from 1."""
        return self.path / SAMPLES_FOLDER / f"epoch_{epoch:03d}.png"

    def judged(self, detector: int) -> Path:
        """Judged hold-out proposals of a detector, counted from 0."""
        (self.path / JUDGED_FOLDER).mkdir(exist_ok=True)
        return self.path / JUDGED_FOLDER / f"detector_{detector:02d}.npz"

    @property
    def finished(self) -> bool:
        """Whether the stage ran to its end."""
        return self.file(FINISHED_FILE).is_file()

    def metrics(self) -> list[dict[str, float]]:
        """All whole rows of ``metrics.jsonl``."""
        return read_metrics(self.file(METRICS_FILE))

    def keep_metrics_before(self, step: int) -> None:
        """Remove the rows of steps that a resumed run repeats."""
        rows = [row for row in self.metrics() if row["step"] < step]
        write_atomically(self.file(METRICS_FILE), "".join(json.dumps(row) + "\n" for row in rows).encode())

    def append_metrics(self, row: Mapping[str, float]) -> None:
        """Append a row to ``metrics.jsonl``."""
        append_line(self.file(METRICS_FILE), json.dumps(row).encode())

    def remove_half_written(self) -> None:
        """Remove half-written copies that a run which was killed left; for a process that writes here alone."""
        remove_half_written(self.path / name for name in FILES)
        for folder, files in ((SAMPLES_FOLDER, SAMPLE_FILES), (JUDGED_FOLDER, JUDGED_FILES)):
            for temporary in (self.path / folder).glob(f".{files}.*.tmp"):
                temporary.unlink()

    def _clear(self) -> None:
        drawn, judged = self.path / SAMPLES_FOLDER, self.path / JUDGED_FOLDER
        written = [*drawn.glob(SAMPLE_FILES), *judged.glob(JUDGED_FILES)]
        written += (self.path / BOARD_FOLDER).glob(BOARD_FILES)
        remove_written([*(self.path / name for name in FILES), *written], self.path)
        shutil.rmtree(self.patches, ignore_errors=True)


def _check_same(config: Path, config_yaml: str) -> None:
    before, now = config.read_text().splitlines(), config_yaml.splitlines()
    noted = {line.partition(":")[0] for line in before}  # earlier versions noted the content of few inputs
    now = [line for line in now if not line.startswith(CONTENT) or line.partition(":")[0] in noted]
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
