"""The paper's chain with its own first stage, in one command: Bai et al. 2018, Figure 2 and Table 2.

    python -m experiments.paper.run --data ROOT --out RUN --minutes N [--config paper] [--proposer-run RUN]

MB-FCN proposes boxes in the training and validation images; faces and hard non-faces are cropped from these proposals;
stages ``mse-init`` and ``gan`` are trained on the crops; ``fusion`` is fitted on the images kept out; WIDER_val is
rescored and evaluated once. ``--rows`` adds Table 2's other rows, each with a generator and discriminator of its own.

Every step is the command a user would type. Finished steps are reused and a cut-off one goes on, so the command can be
repeated until it is through. ``--minutes`` is divided among the trainings and the judging of regions by
:data:`SHARES`: before anything is trained, the time of a step is measured, and ``plan.json`` notes how many steps fit.
Proposing and cutting come on top, 5 to 10 minutes per 1,000 images on a CPU core.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from experiments.lite.flops import giga_flops
from experiments.lite.report import compare, truth_of
from experiments.paper import clock
from experiments.paper.table import write_table
from experiments.steps import do, training_figures
from proposals.cli import propose as propose_command
from proposals.cli import train as train_proposer_command
from proposals.train.recipe import DetectorRecipe, find_recipe
from tinygan.checkpoint import load_checkpoint
from tinygan.cli import rescore as rescore_command
from tinygan.cli import train as train_command
from tinygan.config import load_config, peek
from tinygan.data.rois import split_holdout
from tinygan.errors import DataError
from tinygan.files import write_atomically
from tinygan.formats.registry import open_detections
from tinygan.formats.wider import load_split
from tinygan.runtime import Runtime, RuntimeOptions
from tinygan.training.loop import LoopConfig
from tinygan.training.recipe import Recipe

COMMANDS: Mapping[str, Callable[[Sequence[str]], int]] = {
    "tinygan-train-proposer": train_proposer_command.main,
    "tinygan-propose": propose_command.main,
    "tinygan-train": train_command.main,
    "tinygan-rescore": rescore_command.main,
}
SHARES = {"first_stage": 0.35, "mse": 0.15, "gan": 0.3, "judging": 0.2}  # of the minutes; the first may be given
CUTTING = 0.75  # how fast regions are judged with cutting, as a share of how fast without
MOST_ROIS = 600  # per image (section 4.2)
HOLDOUT = "rois.holdout=0.15"  # Differs from the paper: fusion, which it does not state, is fitted on images kept out
OURS = "ours"
ROWS: Mapping[str, tuple[str, ...]] = {  # the rows of Table 2
    OURS: (),
    "w/o refinement": ("generator.refinement=false",),
    "w/o adv": ("losses.adversarial=false",),
    "w/o clc": ("losses.classification=false",),
}
SCORES = ("logit", "replace")  # how WIDER_val is rescored: fitted, and by the face probability alone


def main(argv: Sequence[str] | None = None) -> int:
    """Run the steps in order."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    add = parser.add_argument
    add("--data", type=Path, required=True, help="WIDER FACE root, official .mat files in eval/")
    add("--out", type=Path, required=True, help="folder of all runs")
    add("--minutes", type=float, required=True, help="for training and judging; divided by the time of a step")
    add("--config", default="paper", help="preset or YAML of the second stage (default: paper)")
    add("--set", dest="settings", action="append", default=[], metavar="K=V", help="override one key of it")
    add("--proposer-run", type=Path, help="a trained first stage, which is then not trained")
    add("--proposer", default="proposers/mb_fcn_resnet50", help="preset of the first stage that is trained")
    add("--proposer-set", action="append", default=[], metavar="K=V", help="override one key of that")
    add("--init-body", type=Path, help="weights from which the first stage's backbone starts")
    add("--rows", nargs="+", choices=list(ROWS), default=[OURS], help=f"rows of Table 2 (default: {OURS})")
    add("--max-rois", type=int, help="regions judged per image (default: what fits, 600 at most)")
    add("--device", default="auto")
    add("--precision", default="auto", choices=["auto", "bf16", "32"])
    add("--threads", type=int)
    arguments = parser.parse_args(argv)
    chain = Chain(arguments)
    chain.find_proposals()
    for row in arguments.rows:
        chain.train(row)
        chain.rescore(row)
    chain.report()
    return 0


@dataclass
class Chain:
    """The steps and what they share.

    Args:
        arguments: the parsed arguments of the command.
    """

    arguments: argparse.Namespace

    @property
    def out(self) -> Path:
        """Folder of all runs."""
        folder: Path = self.arguments.out
        return folder

    @property
    def first_stage(self) -> Path:
        """Run folder of the first stage."""
        given: Path | None = self.arguments.proposer_run
        return self.out / "first_stage" if given is None else given

    @cached_property
    def runtime(self) -> Runtime:
        """Device and precision of the second stage."""
        return Runtime(self._options)

    @property
    def _options(self) -> RuntimeOptions:
        given = self.arguments
        return RuntimeOptions(device=given.device, precision=given.precision, threads=given.threads)

    @cached_property
    def recipe(self) -> Recipe:
        """The second stage's recipe as it is given, without the lengths of trainings."""
        return load_config(Recipe, self.arguments.config, self.arguments.settings)

    @cached_property
    def holdout(self) -> list[str]:
        """Images of WIDER_train on which neither stage is trained."""
        recipe = load_config(Recipe, self.arguments.config, [HOLDOUT, *self.arguments.settings])
        return split_holdout(load_split(self.arguments.data, "train").faces, recipe.rois.holdout)[1]

    def find_proposals(self) -> None:
        """Train the first stage, unless one is given, and propose boxes in the images of both splits."""
        given = self.arguments
        if given.proposer_run is None:
            body = [] if given.init_body is None else ["--init-body", given.init_body]
            settings = [*given.proposer_set, *self.plan("first_stage")]
            self._do("tinygan-train-proposer", "--config", given.proposer, *_set(settings), *body, "--data", given.data,
                     "--out", self.first_stage, "--resume")  # fmt: skip
        weights = load_checkpoint(self.first_stage, ("proposer",))
        if seen := [name for name in self.holdout if weights.was_trained_on(name)]:
            raise DataError(
                f"{self.first_stage}: was trained on {len(seen)} of the images kept out, such as '{seen[0]}'; fusion "
                "would trust its scores too much; train it with holdout=0.15"
            )
        for part in ("train", "val"):
            out = self.proposals(part)
            if not out.is_file():
                out.parent.mkdir(parents=True, exist_ok=True)
                self._do("tinygan-propose", "--weights", self.first_stage,
                         "--images", given.data / f"WIDER_{part}" / "images", "--out", out, "--resume",
                         "--report", f"{out}.json")  # fmt: skip

    def proposals(self, part: str) -> Path:
        """The first stage's boxes in one split."""
        return self.out / "proposals" / f"{part}.tar.gz"

    def train(self, row: str) -> None:
        """Train the second stage of a row of Table 2, and fit its fusion."""
        own, mse = ROWS[row], self.mse_init(row)
        of_generator = [setting for setting in own if setting.startswith("generator.")]
        self._train("mse-init", mse, [*of_generator, *self.plan("mse")])
        self._train("gan", self.run("gan", row), [*own, *self.plan("gan")], mse)
        self._do("tinygan-train", "--stage", "fusion", "--data", self.arguments.data, "--proposals",
                 self.proposals("train"), "--init", self.run("gan", row), "--max-rois", self.max_rois,
                 "--out", self.run("fused", row), "--resume")  # fmt: skip

    def mse_init(self, row: str) -> Path:
        """Run folder of stage ``mse-init``, one for all rows with this generator."""
        return self.run("mse", row if any(one.startswith("generator.") for one in ROWS[row]) else OURS)

    def run(self, stage: str, row: str) -> Path:
        """Run folder of a stage."""
        return self.out / f"{stage}_{row.replace('/', '').replace(' ', '_')}"

    def rescore(self, row: str) -> None:
        """Rescore WIDER_val, the best of each image's boxes."""
        data = self.arguments.data
        for score in SCORES:
            out = self.rescored(row, score)
            out.parent.mkdir(parents=True, exist_ok=True)
            if not out.is_file():
                self._do("tinygan-rescore", "--proposals", self.proposals("val"), "--images",
                         data / "WIDER_val" / "images", "--checkpoint", self.run("fused", row), "--fusion", score,
                         "--max-rois", self.max_rois, "--set", "least_log_odds=null", "--no-opinion", "--out", out,
                         "--report", f"{out}.json", "--resume")  # fmt: skip

    def rescored(self, row: str, score: str) -> Path:
        """WIDER_val after the second stage."""
        return self.out / "rescored" / f"{self.run(score, row).name}.tar.gz"

    def report(self) -> None:
        """Write ``results.json`` and ``table.md``; the only step that reads the faces of WIDER_val."""
        root, split = self.arguments.data, load_split(self.arguments.data, "val")
        names = list(split.faces)
        before = open_detections(self.proposals("val"))
        pairs = {
            (row, score): (before, open_detections(self.rescored(row, score)))
            for row in self.arguments.rows
            for score in SCORES
        }
        found = compare(pairs, truth_of(root, split, names), names)  # type: ignore[arg-type]
        runs = [run for row in self.arguments.rows for run in (self.mse_init(row), self.run("gan", row))]
        trained = {run.name: figures for run in (self.first_stage, *runs) if (figures := training_figures(run))}
        results = {
            "images": len(names),
            "regions_per_image": self.max_rois,
            "proposing": json.loads(Path(f"{self.proposals('val')}.json").read_text()),
            "plan": self._plan(),
            "training": trained,
            "giga_flops": giga_flops(self.run("fused", OURS)) if OURS in self.arguments.rows else None,
            "table": {row: {score: found[row, score] for score in SCORES} for row in self.arguments.rows},  # type: ignore[index]
        }
        write_atomically(self.out / "results.json", json.dumps(results, indent=1).encode())
        print(f"\n{write_table(self.out / 'table.md', results['table'])}", flush=True)

    @property
    def max_rois(self) -> int:
        """How many regions of an image are judged: as many as fit into the share of the time, for all rows."""
        if self.arguments.max_rois is not None:
            return int(self.arguments.max_rois)
        plan = self._plan()
        if "judging" not in plan:
            images = len(self.holdout) + len(SCORES) * len(load_split(self.arguments.data, "val").faces)
            speed = CUTTING * clock.regions_per_second(self.recipe, self.runtime)
            fit = self._seconds("judging") * speed / (images * len(self.arguments.rows))
            self._note("judging", {"regions_per_second": speed, "max_rois": max(1, min(MOST_ROIS, int(fit)))})
        return int(self._plan()["judging"]["max_rois"])

    def plan(self, part: str) -> list[str]:
        """Settings that give a training as many steps as fit into its share of the time; measured once."""
        if part not in self._plan():
            if part == "first_stage":
                recipe = self._proposer_recipe()
                runtime = Runtime(self._options.exact())
                seconds = clock.seconds_of_first_stage(self.arguments.data, recipe, runtime)
                self._note(part, fit_steps("loop", recipe.loop, seconds, self._seconds(part)))
            elif part == "mse":
                trainings = len({self.mse_init(row) for row in self.arguments.rows})
                seconds = clock.seconds_of_mse_init(self.recipe, self.runtime)
                share = self._seconds(part) / trainings
                self._note(part, fit_steps("mse_init", self.recipe.mse_init, seconds, share))
            else:
                seconds = clock.seconds_of_gan(self.recipe, self.runtime)
                share = self._seconds(part) / len(self.arguments.rows)
                self._note(part, fit_steps("gan", self.recipe.gan, seconds, share))
        return list(self._plan()[part]["settings"])

    def _proposer_recipe(self) -> DetectorRecipe:
        given = self.arguments
        name = str(peek(given.proposer, "proposer"))
        return load_config(find_recipe(name), given.proposer, given.proposer_set)

    def _seconds(self, part: str) -> float:
        """A part's share of the time."""
        shares = {name: share for name, share in SHARES.items() if name != "first_stage" or not self._is_given}
        return 60 * float(self.arguments.minutes) * shares[part] / sum(shares.values())

    @property
    def _is_given(self) -> bool:
        return self.arguments.proposer_run is not None

    def _plan(self) -> dict[str, Any]:
        file = self.out / "plan.json"
        given = {
            "minutes": self.arguments.minutes,
            "config": self.arguments.config,
            "settings": self.arguments.settings,
            "rows": self.arguments.rows,
            "first_stage": str(self.first_stage) if self._is_given else self.arguments.proposer,
        }
        plan: dict[str, Any] = json.loads(file.read_text()) if file.is_file() else {"given": given}
        if plan["given"] != given:
            raise DataError(f"{file}: was made with {plan['given']}, not with {given}; choose another --out")
        return plan

    def _note(self, part: str, found: Mapping[str, Any]) -> None:
        self.out.mkdir(parents=True, exist_ok=True)
        write_atomically(self.out / "plan.json", json.dumps({**self._plan(), part: found}, indent=1).encode())
        print(f"plan: {part}: {found}", flush=True)

    def _train(self, stage: str, run: Path, settings: Sequence[str], init: Path | None = None) -> None:
        given = self.arguments
        start = [] if init is None else ["--init", init]
        self._do("tinygan-train", "--stage", stage, "--config", given.config,
                 *_set([HOLDOUT, *given.settings, *settings]), "--data", given.data,
                 "--proposals", self.proposals("train"), *start, "--out", run, "--resume")  # fmt: skip

    def _do(self, name: str, *words: object) -> None:
        given = self.arguments
        options = ["--device", given.device, "--precision", given.precision]
        options += [] if given.threads is None else ["--threads", given.threads]
        do(COMMANDS[name], name, *words, *options)


def fit_steps(section: str, loop: LoopConfig, seconds_per_step: float, seconds: float) -> dict[str, Any]:
    """The settings of a schedule that fits into some time: as many epochs, of as many steps as there is time for.

    Args:
        section: name of the schedule in the recipe.
        loop: the schedule.
        seconds_per_step: measured time of a step.
        seconds: the time there is.
    """
    per_epoch = max(1, int(seconds / seconds_per_step / loop.epochs))
    settings = [f"{section}.patches_per_epoch={per_epoch * loop.batch_size}", f"{section}.batch_size={loop.batch_size}"]
    return {"seconds_per_step": round(seconds_per_step, 4), "steps": per_epoch * loop.epochs, "settings": settings}


def _set(settings: Sequence[str]) -> list[str]:
    return [word for setting in settings for word in ("--set", setting)]


if __name__ == "__main__":
    raise SystemExit(main())
