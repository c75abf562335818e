"""The curves of a training for TensorBoard, where it is installed: a folder in the run folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tinygan.training.run import BOARD_FOLDER


class Board:
    """Writes what the loop logs for TensorBoard; does nothing where it is not installed.

    Args:
        run: the run folder.
        first: number of the first step; what an earlier run logged from there on is hidden.
        is_main: whether this process writes the run's files.
    """

    def __init__(self, run: Path, first: int, is_main: bool = True) -> None:
        self._writer: Any = None
        if not is_main:
            return
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            return
        self._writer = SummaryWriter(str(run / BOARD_FOLDER), purge_step=first)

    def __enter__(self) -> Board:
        return self

    def __exit__(self, *_: object) -> None:
        if self._writer is not None:
            self._writer.close()

    def add(self, row: Mapping[str, float]) -> None:
        """Log a row of ``metrics.jsonl``."""
        if self._writer is not None:
            for name in row.keys() - {"step", "seconds"}:
                self._writer.add_scalar(name, row[name], int(row["step"]))
