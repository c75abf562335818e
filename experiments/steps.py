"""What experiments share: steps that are commands as users type them; the length and last figures of trainings."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

from tinygan.cli.common import SOME_SKIPPED
from tinygan.training.run import FINISHED_FILE, METRICS_FILE

Command = Callable[[Sequence[str]], int]


def do(command: Command, name: str, *arguments: object) -> None:
    """Run a command as a user would and show what was typed.

    Args:
        command: the command's function.
        name: the command's name.
        arguments: its arguments; anything that is written as it is to be typed.

    Raises:
        SystemExit: if it failed; skipped inputs are no failure.
    """
    words = [str(argument) for argument in arguments]
    print(f"\n$ {name} {' '.join(words)}", flush=True)
    code = command(words)
    if code > SOME_SKIPPED:
        raise SystemExit(code)


def training_figures(run: Path) -> dict[str, float] | None:
    """Length of a finished run and its last figures on the hold-out: PSNR in dB, area under the ROC curve."""
    if not (run / FINISHED_FILE).is_file():
        return None
    rows = [json.loads(line) for line in (run / METRICS_FILE).read_text().splitlines()]
    figures = {name: round(value, 4) for name, value in rows[-1].items() if name.startswith(("psnr", "auc", "ap_"))}
    return {"steps": rows[-1]["step"] + 1, "minutes": round(rows[-1]["seconds"] / 60, 1), **figures}
