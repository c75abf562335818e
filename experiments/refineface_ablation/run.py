"""RefineFace's Tables 1, 2, 4, 6, 7 and 8 in small: what each module is worth, with a control and what is noise.

    python -m experiments.refineface_ablation.run --data ROOT --init-body W --out runs/refineface_ablation

A column cannot start from nothing in minutes, so all start from one baseline, RetinaNet's form of RefineFace, and train
on for the same number of steps with their modules switched on; the control with none. Columns with RFE, which replaces
layers, start from a baseline of their own that has it. Finished trainings are not repeated, a cut-off one goes on, and
``table.md`` is rewritten after each column. Figures are those on images kept out of WIDER_train; WIDER_val is not read.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from experiments.columns import TABLE, Bench, Column, tabulate
from experiments.refineface_ablation.columns import COLUMNS, CONTROL, OFF, RFE, SEVERAL_SEEDS
from proposals.refineface import RefineFaceNetwork
from proposals.train.refineface import RefineFaceRecipe
from tinygan.checkpoint import load_checkpoint
from tinygan.config import load_config
from tinygan.errors import CheckpointError
from tinygan.files import write_atomically
from tinygan.runtime import seed_everything

CONFIG = "proposers/refineface_mobilenet025"
ADDED = ("first.", "c6.", "c7.")  # the layers that a baseline lacks
RATE = 5e-4  # of the columns; the baseline has its preset's


def main(argv: Sequence[str] | None = None) -> int:
    """Train, measure and tabulate every column that is not done yet."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    add = parser.add_argument
    add("--data", type=Path, required=True, help="WIDER FACE root")
    add("--out", type=Path, default=Path("runs/refineface_ablation"))
    add("--config", default=CONFIG, help=f"preset or YAML of the common recipe (default: {CONFIG})")
    add("--set", dest="settings", action="append", default=[], metavar="K=V", help="override one key of it")
    add("--init-body", type=Path, help="weights from which the baselines' backbone starts")
    add("--baseline-steps", type=int, default=6000, help="length of each baseline's training")
    add("--steps", type=int, default=400, help="length of each column's training")
    add("--columns", nargs="+", choices=[one.name for one in COLUMNS], default=[one.name for one in COLUMNS])
    add("--seeds", type=int, nargs="+", default=[0, 1, 2], help="of control and full column; the others have the first")
    add("--images", type=int, default=100, help="images kept out that are searched; 0: all 15 %%")
    add("--threads", type=int)
    arguments = parser.parse_args(argv)
    ablation = Ablation(arguments)
    for at, seed in enumerate(arguments.seeds):
        for column in COLUMNS:
            if column.name in arguments.columns and (at == 0 or column.name in SEVERAL_SEEDS):
                ablation.do(column, seed)
    return 0


class Ablation:
    """The baselines and the columns.

    Args:
        arguments: the parsed arguments of the command.
    """

    def __init__(self, arguments: argparse.Namespace) -> None:
        self._arguments, self.out = arguments, arguments.out
        common = ["--config", arguments.config, *(w for one in arguments.settings for w in ("--set", one))]
        self._recipe = load_config(RefineFaceRecipe, arguments.config, arguments.settings)
        self.bench = Bench(arguments.data, self.out, self._recipe.holdout, arguments.images, common, arguments.threads)

    def do(self, column: Column, seed: int) -> None:
        """Train and measure a column with a seed, and write the tables."""
        settings = [*column.settings, *self._length(self._arguments.steps), f"loop.learning_rate={RATE}"]
        longer = replace(column, settings=tuple(settings))
        self.bench.do(longer, seed, self.start_of(column, seed))
        write_atomically(self.out / TABLE, tabulate(self.bench.results(), COLUMNS, CONTROL).encode())

    def start_of(self, column: Column, seed: int) -> Path:
        """The weights that a column starts from: the baseline's, and new layers drawn by the seed."""
        with_rfe = RFE in column.settings
        name = "baseline_rfe" if with_rfe else "baseline"
        settings = [*OFF, *([RFE] if with_rfe else []), *self._length(self._arguments.baseline_steps)]
        body = self._arguments.init_body
        self.bench.train(self.out / name, settings, [] if body is None else ["--init-body", body])
        file: Path = self.out / "starts" / f"{column.folder}_{seed}.pth"
        if not file.is_file():
            recipe = load_config(
                RefineFaceRecipe, self._arguments.config, [*self._arguments.settings, *column.settings]
            )
            seed_everything(seed)
            file.parent.mkdir(parents=True, exist_ok=True)
            torch.save(with_new_layers(recipe.build(), self.out / name), file)
        return file

    def _length(self, steps: int) -> list[str]:
        """A training of one epoch of so many steps."""
        loop = self._recipe.loop
        warm = min(loop.warmup_steps, steps // 8)
        return ["loop.epochs=1", f"loop.patches_per_epoch={steps * loop.batch_size}", f"loop.warmup_steps={warm}"]


def with_new_layers(network: RefineFaceNetwork, baseline: Path) -> dict[str, torch.Tensor]:
    """The baseline's weights, and the network's own for layers that the baseline lacks.

    Raises:
        CheckpointError: if they differ in anything else.
    """
    known, own = load_checkpoint(baseline, ("proposer",)).part("proposer"), network.kept_tensors()
    lacking = [name for name in own if name not in known and not name.startswith(ADDED)]
    if lacking or set(known) - set(own):
        odd = [*lacking, *(set(known) - set(own))]
        raise CheckpointError(f"{baseline}: another network than the columns', such as in layer {odd[0]}")
    return {**own, **known}


if __name__ == "__main__":
    raise SystemExit(main())
