"""The recipe of the shipped first stage, from the data to its figures.

    python -m experiments.first_stage.run --data ROOT --teacher W --out runs/first_stage

Finished steps are not repeated and a training that was cut off is resumed, so the command can be started again. Steps,
with their times on one core:

- ``landmarks``: the teacher's, for faces that have none, 3 minutes;
- ``frozen`` and ``scratch``: two trainings, 10 minutes and an hour;
- ``holdout``: figures of both on images that neither saw;
- ``ship``: ``frozen`` with a second-stage fusion of its own, as ``retinaface_mobilenet025.safetensors``, 9 minutes;
- ``report`` and ``second_stage``: figures on WIDER_val, which no other step reads, of the first stages alone, and of
  the shipped one, with its overview, before and after the second stage (13 minutes).
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from experiments.first_stage.teach import write_landmarks
from experiments.lite.report import compare, format_table, truth_of
from proposals.cli import propose as propose_command
from proposals.cli import train as train_command
from tinygan.checkpoint import WEIGHTS_FILE, load_checkpoint, packaged_weights, save_checkpoint
from tinygan.cli.common import SOME_SKIPPED
from tinygan.config import load_config
from tinygan.detections import Detections
from tinygan.errors import TinyGanError
from tinygan.evaluate.truth import truth_by_height
from tinygan.evaluate.wider import evaluate_wider
from tinygan.files import write_atomically
from tinygan.formats.registry import open_detections
from tinygan.formats.wider import Split, WiderSplit, load_split
from tinygan.runtime import Runtime, RuntimeOptions
from tinygan.second_stage.fusion import stored_fusion
from tinygan.second_stage.judge import Judge
from tinygan.second_stage.stage import SecondStage
from tinygan.training.fusion import count_proposals, holdout_names
from tinygan.training.fusion_fit import fit_fusion
from tinygan.training.holdout import judge_proposals
from tinygan.training.prepare import match_proposals
from tinygan.training.recipe import Recipe
from tinygan.training.run import FINISHED_FILE, METRICS_FILE

STEPS = ("landmarks", "frozen", "scratch", "holdout", "ship", "report", "second_stage")
PRESET = {
    "frozen": "proposers/retinaface_mobilenet025_finetune",
    "scratch": "proposers/retinaface_mobilenet025",
}
SHIPPED_RUN, NAME = "frozen", "retinaface_mobilenet025"
SHIPPED = "shipped"  # that run with an overview
OVERVIEW_PX = 640  # photographs of today are longer, and their faces larger than the anchors
HEIGHTS_PX = (0.0, 24.0, 48.0)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the steps that were chosen."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data", type=Path, required=True, help="WIDER FACE root, official .mat files in eval/")
    parser.add_argument("--teacher", type=Path, required=True, help="public weights of a RetinaFace-MobileNet0.25")
    parser.add_argument("--out", type=Path, default=Path("runs/first_stage"))
    parser.add_argument("--steps", nargs="+", choices=STEPS, default=list(STEPS))
    parser.add_argument("--threads", type=int)
    arguments = parser.parse_args(argv)
    recipe = FirstStage(arguments.data, arguments.teacher, arguments.out, arguments.threads)
    for step in STEPS:
        if step in arguments.steps:
            recipe.do(step)
    return 0


class FirstStage:
    """The steps and what they share.

    Args:
        data: a WIDER FACE root.
        teacher: file of the teacher's public weights.
        out: folder of all runs.
        threads: number of CPU threads; ``None`` leaves it to torch and the commands.
    """

    def __init__(self, data: Path, teacher: Path, out: Path, threads: int | None) -> None:
        self.data, self.teacher, self.out, self.threads = data, teacher, out, threads
        self.labels = out / "label.txt"
        self.results_file = out / "results.json"

    def do(self, step: str) -> None:
        """Run one step."""
        if step == "landmarks":
            self.teach()
        elif step in PRESET:
            self.train(step)
        else:
            steps = {"holdout": self.measure_holdout, "ship": self.ship, "report": self.report}
            {**steps, "second_stage": self.report_second_stage}[step]()

    def teach(self) -> None:
        """Write the five landmarks of the training faces, as the teacher predicts them."""
        if not self.labels.is_file():
            count = write_landmarks(self.data, self.teacher, self.labels, self._runtime())
            print(f"{self.labels}: landmarks of {count} faces", flush=True)

    def train(self, name: str) -> None:
        """Run one of the trainings, with the command that a user would type."""
        words = ["--data", str(self.data), "--config", PRESET[name], "--out", str(self.out / name), "--resume"]
        if name != "scratch":
            words += ["--init", str(self.teacher), "--landmarks", str(self.labels)]
        self._run("tinygan-train-proposer", train_command.main, words)

    def measure_holdout(self) -> None:
        """Measure exact AP of the teacher and of all finished trainings on the hold-out, to choose by."""
        split = load_split(self.data, "train")
        names = self._holdout(split)
        truth = truth_by_height({name: split.faces[name] for name in names}, HEIGHTS_PX)
        found: dict[str, Any] = {}
        for name in ("teacher", *PRESET, SHIPPED):
            if name in PRESET and not (self.out / name / FINISHED_FILE).is_file():
                continue
            proposals = self._propose(name, "train")
            result = evaluate_wider({image: proposals[image] for image in names if image in proposals}, truth)
            found[name] = {subset.partition(": ")[2]: round(one.ap_exact, 4) for subset, one in result.subsets.items()}
            print(name, found[name], flush=True)
        self._note("holdout", {"images": len(names), "exact_ap_by_height": found})

    def ship(self) -> None:
        """Save the chosen training with a second-stage fusion, fitted on hold-out images that neither stage saw."""
        split = load_split(self.data, "train")
        names = self._holdout(split)
        self._propose(SHIPPED, "train")
        lite = load_checkpoint(packaged_weights("lite"), ("fused",))
        recipe = load_config(Recipe, None, base=lite.recipe)
        judge = Judge.from_weights(lite, Runtime(RuntimeOptions(threads=self.threads)))
        unreadable: list[str] = []
        judged = judge_proposals(
            judge, self._proposals(SHIPPED, "train"), split, names, 128, 600, unreadable, recipe.fusion_search.looks
        )
        fusion = fit_fusion([judged], split.faces, recipe.rois, recipe.fusion_search)
        trained = load_checkpoint(self.out / SHIPPED_RUN, ("proposer",))
        file = self.out / f"{NAME}.safetensors"
        network = {**trained.recipe["network"], "overview_px": OVERVIEW_PX}
        recipe_shipped = {**trained.recipe, "network": network}
        save_checkpoint(file, replace(trained, recipe=recipe_shipped, fusion=fusion.to_facts()))
        self._note("fusion", {"images": len(judged), "proposals": count_proposals(judged), **fusion.to_facts()})
        print(f"{file}: {file.stat().st_size / 1e6:.2f} MB; copy it to {packaged_weights(NAME)}", flush=True)

    def report(self) -> None:
        """Measure the teacher and all trainings on WIDER_val, without the second stage."""
        split = load_split(self.data, "val")
        names = list(split.faces)
        truth = truth_of(self.data, split, names)
        finished = [SHIPPED, *(name for name in PRESET if (self.out / name / FINISHED_FILE).is_file())]
        teacher = self._propose("teacher", "val")
        table = compare({name: (teacher, self._propose(name, "val")) for name in finished}, truth, names)
        print(format_table(table))
        self._note("val_against_teacher", table)

    def report_second_stage(self) -> None:
        """Measure the shipped first stage on WIDER_val, before and after the second stage."""
        split = load_split(self.data, "val")
        names = list(split.faces)
        before = self._propose(SHIPPED, "val")
        started = time.monotonic()
        after = self._rescore(before, split.images)
        seconds = time.monotonic() - started
        table = compare({"second stage": (before, after)}, truth_of(self.data, split, names), names)
        print(format_table(table))
        proposing = json.loads(self._report_file(f"{SHIPPED}_val").read_text())
        timing = {"first": proposing["ms_per_image"], "second": round(1000 * seconds / len(after), 1)}
        self._note("val_second_stage", {**table["second stage"], "ms_per_image": timing})

    def _weights(self, name: str) -> Path:
        return {"teacher": self.teacher, SHIPPED: self.out / SHIPPED_RUN}.get(name, self.out / name)

    def _proposals(self, name: str, part: str) -> Path:
        return self.out / "proposals" / f"{name}_{part}.tar.gz"

    def _report_file(self, part: str) -> Path:
        return self.out / "proposals" / f"{part}.json"

    def _propose(self, name: str, part: Split) -> Mapping[str, Detections]:
        """The boxes of a first stage; of the training images only those of the hold-out are searched."""
        out = self._proposals(name, part)
        if not out.is_file():
            out.parent.mkdir(parents=True, exist_ok=True)
            images = self.data / f"WIDER_{part}" / "images"
            words = ["--weights", str(self._weights(name)), "--images", str(images), "--out", str(out), "--resume"]
            words += ["--report", str(self._report_file(f"{name}_{part}"))]
            if name == SHIPPED:
                words += ["--set", f"overview_px={OVERVIEW_PX}"]
            if part == "train":
                split = load_split(self.data, "train")
                subset = self.out / "holdout.txt"
                write_atomically(subset, "".join(f"{one}\n" for one in self._holdout(split)).encode())
                words += ["--subset", str(subset)]
            self._run("tinygan-propose", propose_command.main, words)
        return match_proposals(open_detections(out), load_split(self.data, part))

    def _rescore(self, found: Mapping[str, Detections], images: Path) -> dict[str, Detections]:
        """Boxes after ``lite`` with the fusion fitted for them, image by image as ``tinygan-detect`` does."""
        fusion = stored_fusion(load_checkpoint(self.out / f"{NAME}.safetensors", ("proposer",)))
        stage = SecondStage("lite", fusion=fusion, runtime=Runtime(RuntimeOptions(threads=self.threads)))
        progress = tqdm(found.items(), desc="second stage", unit="image", disable=None)
        return {name: stage.rescore(images / name, one) for name, one in progress}

    def _holdout(self, split: WiderSplit) -> list[str]:
        """Images on which neither ``lite`` nor any training here was trained."""
        lite = packaged_weights("lite")
        names = holdout_names(split, load_checkpoint(lite, ("fused",)), None, lite)
        for name in PRESET:
            if (self.out / name / WEIGHTS_FILE).is_file():
                seen = holdout_names(split, load_checkpoint(self.out / name, ("proposer",)), None, self.out / name)
                if set(names) != set(seen):
                    raise TinyGanError(f"{self.out / name}: was trained on images of lite's hold-out")
        return names

    def _runtime(self) -> Runtime:
        return Runtime(RuntimeOptions(precision="32", threads=self.threads))

    def _run(self, command: str, body: Any, words: Sequence[str]) -> None:
        words = [*words, *(["--threads", str(self.threads)] if self.threads else [])]
        print("$", command, *words, flush=True)
        if body(words) > SOME_SKIPPED:
            raise SystemExit(f"{command} failed")

    def _note(self, key: str, value: object) -> None:
        """Write one entry of ``results.json``, and the steps and curves of all trainings."""
        results: dict[str, Any] = json.loads(self.results_file.read_text()) if self.results_file.is_file() else {}
        results[key] = value
        results["trainings"] = {
            name: self._length(name) for name in PRESET if (self.out / name / FINISHED_FILE).is_file()
        }
        write_atomically(self.results_file, json.dumps(results, indent=1).encode())

    def _length(self, name: str) -> dict[str, Any]:
        """Steps and hold-out curve of a training."""
        rows = [json.loads(line) for line in (self.out / name / METRICS_FILE).read_text().splitlines()]
        curve = [{k: v for k, v in row.items() if k in ("step", "seconds") or k.startswith("ap_")} for row in rows]
        return {"steps": rows[-1]["step"] + 1, "curve": [row for row in curve if len(row) > 2]}


if __name__ == "__main__":
    raise SystemExit(main())
