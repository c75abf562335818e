"""What each part of the second stage is worth: Table 2 of Bai et al. 2018, and does super-resolution help the judge?

    python -m experiments.ablation.run --data ROOT --proposals P --surroundings W --out runs/ablation

Takes 3 to 8 minutes per row and seed on one core. All rows start from the same generator and are trained for the same
number of steps, first all rows with the first seed, then with the next. Finished rows are not repeated, so a command
that was cut off can be started again; ``table.md`` is rewritten after each row. Fusion is fitted on the hold-out of
WIDER_train; the figures are those on WIDER_val, and nothing is chosen by them.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from experiments.ablation.question import face_logit_columns, write_table
from experiments.ablation.rows import ROWS, Row
from experiments.lite.flops import discriminator_flops, generator_flops
from experiments.lite.report import compare, truth_of
from tinygan.checkpoint import WEIGHTS_FILE, Checkpoint, load_checkpoint
from tinygan.config import load_config, to_tree, to_yaml
from tinygan.data.patches import Patches
from tinygan.files import write_atomically
from tinygan.formats.wider import load_split
from tinygan.runtime import Runtime, RuntimeOptions
from tinygan.second_stage.judge import Judge
from tinygan.training.fusion import holdout_names
from tinygan.training.fusion_fit import Truths, calibration_of, fit_fusion, rescored
from tinygan.training.gan import fit_gan
from tinygan.training.holdout import ByImage, judge_proposals
from tinygan.training.judge import train_judge
from tinygan.training.mse_init import train_mse_init
from tinygan.training.prepare import Prepared, TrainingInput, prepare_patches
from tinygan.training.recipe import Recipe
from tinygan.training.run import RunFolder

CONFIG = Path(__file__).parent / "ablation.yaml"
Load = Callable[[Sequence[str]], Recipe]


def main(argv: Sequence[str] | None = None) -> int:
    """Train, measure and tabulate every row that is not done yet."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data", type=Path, required=True, help="WIDER FACE root, official .mat files in eval/")
    parser.add_argument("--proposals", type=Path, required=True, help="one detector's proposals on both splits")
    parser.add_argument("--out", type=Path, default=Path("runs/ablation"))
    parser.add_argument("--config", default=str(CONFIG))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--rows", nargs="+", choices=[row.name for row in ROWS], default=[row.name for row in ROWS])
    parser.add_argument("--surroundings", type=Path, help="RetinaFace-MobileNet0.25 (.pth) for the last row")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--max-rois", type=int, default=100, help="proposals judged of an image")
    arguments = parser.parse_args(argv)
    ablation = Ablation(arguments)
    for seed in arguments.seeds:
        for row in ROWS:
            if row.name in arguments.rows:
                ablation.do(row, seed)
    return 0


def judged_by(row: Row, recipe: Recipe) -> Recipe:
    """The recipe with the discriminator that judges in the end."""
    grown = recipe.judge_training.form(recipe.discriminator)
    return replace(recipe, discriminator=grown) if row.box else recipe


class Ablation:
    """Trains and measures the rows, which share patches, generators after ``mse-init``, and data.

    Args:
        arguments: the parsed arguments of the command.
    """

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.out: Path = arguments.out
        self.data = TrainingInput(arguments.data, (arguments.proposals,))
        self.config, self.max_rois = arguments.config, arguments.max_rois
        self.runtime = Runtime(RuntimeOptions(threads=arguments.threads))
        self.surroundings: Path | None = arguments.surroundings
        self.results_file = self.out / "results.json"
        self._patches: dict[str, Prepared[Mapping[str, Patches]]] = {}

    def do(self, row: Row, seed: int) -> None:
        """Train and measure one row with one seed, unless that has been done."""
        if any((done["row"], done["seed"]) == (row.name, seed) for done in self._results()):
            return
        if row.surroundings and self.surroundings is None:
            print(f"seed {seed}, {row.name}: left out, as it needs --surroundings", flush=True)
            return
        started = time.monotonic()
        recipe, run = row.recipe(self.load, seed), self._run(row, seed)
        if not (run / WEIGHTS_FILE).is_file():
            self._train(row, recipe, seed, run)
        trained = time.monotonic() - started
        found = self._measure(row, run, seed)
        results = [  # read again: another command may have finished other rows in the meantime
            *(done for done in self._results() if (done["row"], done["seed"]) != (row.name, seed)),
            {
                "row": row.name,
                "seed": seed,
                "giga_flops": round(generator_flops(recipe) + discriminator_flops(judged_by(row, recipe)), 4),
                "steps": recipe.gan.steps,
                "seconds_training": round(trained, 1),
                "seconds_measuring": round(time.monotonic() - started - trained, 1),
                **found,
            },
        ]
        write_atomically(self.results_file, json.dumps(results, indent=1).encode())
        write_table(self.out, results)
        gains = {subset: round(figures["points"], 2) for subset, figures in found["val"].items()}
        print(f"seed {seed}, {row.name}: {gains}, {time.monotonic() - started:.0f} s", flush=True)

    def load(self, settings: Sequence[str]) -> Recipe:
        """The common recipe with overrides."""
        return load_config(Recipe, self.config, list(settings))

    def _results(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        if self.results_file.is_file():
            found = json.loads(self.results_file.read_text())
        return found

    def _run(self, row: Row, seed: int) -> Path:
        return self.out / f"{row.name.replace(' ', '_').replace(',', '')}_{seed}"

    def _train(self, row: Row, recipe: Recipe, seed: int, run: Path) -> None:
        folder = RunFolder(run, to_yaml(recipe), resume=True)
        if row.box:
            full = next(one for one in ROWS if not one.settings and not one.box)
            self.do(full, seed)
            tower = self.surroundings if row.surroundings else None
            train_judge(self.data, self._run(full, seed), recipe, folder, self.runtime, tower)
        else:
            fit_gan(self._patches_of(recipe), self._start(recipe), recipe, folder, self.runtime)

    def _patches_of(self, recipe: Recipe) -> Prepared[Mapping[str, Patches]]:
        """Cut once for all seeds; with and without routing."""
        name = "routed" if recipe.crops.route_px is None else "squeezed"
        if name not in self._patches:
            common = replace(recipe, seed=0)
            self._patches[name] = prepare_patches(self.data, common, self.out / "patches" / name, self.runtime)
        return self._patches[name]

    def _start(self, recipe: Recipe) -> Checkpoint:
        """The generator after ``mse-init``, one for all rows and seeds with a generator of this form."""
        if recipe.generator.form == "bilinear":
            return Checkpoint("generator", to_tree(recipe), {})
        run = self.out / ("mse" if recipe.generator.refinement else "mse_without_refinement")
        if not (run / WEIGHTS_FILE).is_file():
            common = replace(self.load([]), generator=recipe.generator)
            train_mse_init(
                TrainingInput(self.data.root), common, RunFolder(run, to_yaml(common), resume=True), self.runtime
            )
        return load_checkpoint(run, ("generator",))

    def _measure(self, row: Row, run: Path, seed: int) -> dict[str, Any]:
        """Fusion fitted on the hold-out, and what it gains on WIDER_val; judgements are kept for the question."""
        weights = load_checkpoint(run, ("gan",))
        judge, recipe = Judge.from_weights(weights, self.runtime), row.recipe(self.load, seed)
        looks = 2 if row.box else 1
        (run / "judged").mkdir(exist_ok=True)
        judged: dict[str, ByImage] = {}
        faces: dict[str, Truths] = {}
        for part in ("train", "val"):
            split = load_split(self.data.root, part)
            faces[part] = split.faces
            names = holdout_names(split, weights, None, run) if part == "train" else list(split.faces)
            judged[part] = judge_proposals(
                judge, self.data.proposals[0], split, names, 128, self.max_rois, [], looks=looks
            )
            np.savez(run / "judged" / f"{part}.npz", **face_logit_columns(judged[part], split.faces))  # type: ignore[arg-type]
        fusion = fit_fusion([judged["train"]], faces["train"], recipe.rois, replace(recipe.fusion_search, looks=looks))
        after = rescored(judged["val"], fusion, calibration_of(judged["val"], fusion))
        before = {name: one.proposals for name, one in judged["val"].items()}
        split = load_split(self.data.root, "val")
        names = list(split.faces)
        table = compare({"detector": (before, after)}, truth_of(self.data.root, split, names), names)
        return {"val": table["detector"], "fusion": fusion.to_facts()}


if __name__ == "__main__":
    raise SystemExit(main())
