"""Train and evaluate from a packed file, on a machine without the pictures; the figures are those of one GPU's minutes.

    python -m experiments.paper.travel --pack patches.npz --out RUN --minutes 8 [--peak-tflops 990]

Stages ``mse-init`` and ``gan`` as :mod:`experiments.paper.run` trains them, fusion on the packed hold-out, and Table 2
on the packed proposals of WIDER_val. ``gpu.sh`` installs first. A command that was cut off can be repeated.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from experiments.lite.report import compare
from experiments.paper import clock
from experiments.paper.pack import Pack, Proposed, read_pack
from experiments.paper.run import OURS, SCORES, fit_steps
from experiments.paper.table import write_table
from tinygan.checkpoint import WEIGHTS_FILE, load_checkpoint
from tinygan.config import load_config, to_tree, to_yaml
from tinygan.detections import Detections
from tinygan.files import write_atomically
from tinygan.runtime import Runtime, RuntimeOptions
from tinygan.second_stage.judge import Judge
from tinygan.second_stage.judging import LOGIT_LIMIT, Judged
from tinygan.second_stage.rescoring import RescoreConfig, rescore_judged
from tinygan.training.fusion_fit import calibration_of, fit_fusion
from tinygan.training.gan import fit_gan
from tinygan.training.mse_init import fit_mse_init
from tinygan.training.recipe import Recipe
from tinygan.training.run import METRICS_FILE, RunFolder

SHARES = {"mse_init": 0.3, "gan": 0.6}  # of the minutes; the rest is for judging
BATCH = 512  # crops per forward pass of the judge


def main(argv: Sequence[str] | None = None) -> int:
    """Train, judge, tabulate."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    add = parser.add_argument
    add("--pack", type=Path, required=True, metavar="FILE.npz", help="what experiments.paper.pack wrote")
    add("--out", type=Path, required=True, help="folder of both runs and the table")
    add("--minutes", type=float, required=True)
    add("--set", dest="settings", action="append", default=[], metavar="K=V", help="override a key of the recipe")
    add("--peak-tflops", type=float, help="what the device could do at best, for the model FLOP utilisation (MFU)")
    add("--device", default="auto")
    add("--precision", default="auto", choices=["auto", "bf16", "32"])
    add("--threads", type=int)
    given = parser.parse_args(argv)
    runtime = Runtime(RuntimeOptions(device=given.device, precision=given.precision, threads=given.threads))
    pack = read_pack(given.pack)
    recipe = load_config(Recipe, None, given.settings, base=to_tree(pack.recipe))
    recipe = in_minutes(recipe, given.minutes, given.out / "plan.json", runtime)
    train(pack, recipe, given.out, runtime)
    table = measure(pack, recipe, given.out, runtime)
    results = {
        "device": str(runtime),
        "minutes": given.minutes,
        "plan": json.loads((given.out / "plan.json").read_text()),
        "speed": speed(recipe, given.out, runtime, given.peak_tflops),
        "psnr": {name: value for name, value in _rows(given.out / "gan")[-1].items() if name.startswith("psnr")},
        "proposals_per_image": max(len(one) for one in pack.val.proposals.values()),
        "table": {OURS: table},
    }
    write_atomically(given.out / "results.json", json.dumps(results, indent=1).encode())
    print(f"{json.dumps(results['speed'])}\n\n{write_table(given.out / 'table.md', results['table'])}")
    return 0


def in_minutes(recipe: Recipe, minutes: float, plan: Path, runtime: Runtime) -> Recipe:
    """The recipe with as many steps as fit; what was measured once is noted and used again."""
    if not plan.is_file():
        measured = {"mse_init": clock.seconds_of_mse_init, "gan": clock.seconds_of_gan}
        found = {
            section: fit_steps(section, getattr(recipe, section), seconds(recipe, runtime), 60 * minutes * share)
            for (section, share), seconds in zip(SHARES.items(), measured.values(), strict=True)
        }
        plan.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(plan, json.dumps(found, indent=1).encode())
    parts = json.loads(plan.read_text()).values()
    return load_config(Recipe, None, [one for part in parts for one in part["settings"]], base=to_tree(recipe))


def train(pack: Pack, recipe: Recipe, out: Path, runtime: Runtime) -> None:
    """Both stages, each unless it is finished."""
    mse, gan = out / "mse", out / "gan"
    if not (mse / WEIGHTS_FILE).is_file():
        fit_mse_init(pack.prepared, recipe, RunFolder(mse, to_yaml(recipe), resume=True), runtime)
    if not (gan / WEIGHTS_FILE).is_file():
        start = load_checkpoint(mse, ("generator",))
        fit_gan(pack.prepared, start, recipe, RunFolder(gan, to_yaml(recipe), resume=True), runtime)


def measure(pack: Pack, recipe: Recipe, out: Path, runtime: Runtime) -> dict[str, Any]:
    """Exact AP on WIDER_val before and after, by each way to score."""
    judge = Judge.from_weights(load_checkpoint(out / "gan", ("gan",)), runtime)
    holdout, val = judge_packed(judge, pack.holdout), judge_packed(judge, pack.val)
    fusion = fit_fusion([holdout], pack.holdout_faces, recipe.rois, replace(recipe.fusion_search, looks=1))
    before = {name: one.proposals for name, one in val.items()}
    pairs: dict[str, tuple[dict[str, Detections], dict[str, Detections]]] = {}
    for score in SCORES:
        config = RescoreConfig(method=score, fusion=fusion)  # type: ignore[arg-type]
        after = rescore_judged(list(val.values()), config, calibration_of(val, fusion))
        pairs[score] = before, dict(zip(val, after, strict=True))
    found = compare(pairs, pack.truth, pack.truth.names)
    return {score: found[score] for score in SCORES}


def judge_packed(judge: Judge, proposed: Proposed) -> dict[str, Judged]:
    """What the judge says of packed proposals; the crops of many images go through it together."""
    names = list(proposed.crops)
    crops = np.concatenate([proposed.crops[name] for name in names])
    none = np.zeros((0, judge.crops.hr_size, judge.crops.hr_size, 3), np.uint8)
    parts = np.array_split(crops, max(1, -(-len(crops) // BATCH)))
    logits = np.concatenate([judge.judge(part, none)[0] for part in parts]).clip(-LOGIT_LIMIT, LOGIT_LIMIT)
    ends = np.cumsum([len(proposed.crops[name]) for name in names])[:-1]
    return {
        name: Judged(name, proposed.proposals[name], found, np.full((len(found), 4), np.nan))
        for name, found in zip(names, np.split(logits, ends), strict=True)
    }


def speed(recipe: Recipe, out: Path, runtime: Runtime, peak_tflops: float | None) -> dict[str, float]:
    """Steps of stage ``gan`` as they ran: seconds, operations, and the share of what the device could do (MFU)."""
    seconds = seconds_per_step(_rows(out / "gan"), recipe.gan.steps_per_epoch)
    tera = clock.flops_of_gan(recipe, runtime) / 1e12
    found = {
        "seconds_per_step": seconds,
        "patches_per_second": recipe.gan.batch_size / seconds,
        "tera_flops_per_second": tera / seconds,
    }
    return found if peak_tflops is None else {**found, "mfu": tera / seconds / peak_tflops}


def seconds_per_step(rows: Sequence[Mapping[str, float]], steps_per_epoch: int) -> float:
    """Mean time of a step without the figures and pictures that are made after each epoch.

    Args:
        rows: of ``metrics.jsonl``, one at least.
        steps_per_epoch: number of steps after which these are made.
    """
    pairs = [(old, new) for old, new in pairwise(rows) if (old["step"] + 1) % steps_per_epoch]
    steps = sum(new["step"] - old["step"] for old, new in pairs)
    if not steps:
        return rows[-1]["seconds"] / (rows[-1]["step"] + 1)
    return sum(new["seconds"] - old["seconds"] for old, new in pairs) / steps


def _rows(run: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run / METRICS_FILE).read_text().splitlines()]


if __name__ == "__main__":
    raise SystemExit(main())
