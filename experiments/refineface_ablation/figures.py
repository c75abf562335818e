"""RefineFace's Figures 1 and 5 from one's own detections (Zhang et al. 2019).

    python -m experiments.refineface_ablation.figures --detections P [P2 …] --ground-truth EVAL --out runs/figures

Figure 1: how many false positives overlap a face a little (localisation: best IoU in [0.1, 0.5)), and all others
(classification); the bounds are not stated in the paper. Figure 5: the mean logit of the boxes that find a face, by the
size of the face.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np

from tinygan.detections import Detections, FloatArray
from tinygan.evaluate.claims import score_claims
from tinygan.evaluate.curves import false_positives_at
from tinygan.evaluate.truth import EvaluationTruth, load_evaluation_truth
from tinygan.evaluate.wider import claim_wider_faces
from tinygan.files import write_atomically
from tinygan.formats.names import match_names
from tinygan.formats.registry import open_detections

HIT, NEAR = 0.5, 0.1  # IoU
RECALLS = (0.5, 0.8)
SIZES_PX = (0, 8, 16, 32, 64, 128, np.inf)


def main(argv: Sequence[str] | None = None) -> int:
    """Write ``figures.json`` and ``figures.png``."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    add = parser.add_argument
    add("--detections", type=Path, nargs="+", required=True, metavar="P", help="what detectors found, in any format")
    add("--ground-truth", type=Path, required=True, help="*_bbx_gt.txt, or the folder with the official .mat files")
    add("--out", type=Path, default=Path("runs/figures"))
    arguments = parser.parse_args(argv)
    truth = load_evaluation_truth(arguments.ground_truth)
    found = {}
    for path in arguments.detections:
        detections = open_detections(path)
        names = match_names(detections, truth.names, str(path))
        found[path.name] = describe({name: detections[file] for name, file in names.items()}, truth)
        print(path.name, json.dumps(found[path.name]), flush=True)
    arguments.out.mkdir(parents=True, exist_ok=True)
    write_atomically(arguments.out / "figures.json", json.dumps(found, indent=1).encode())
    write_atomically(arguments.out / "figures.png", draw(found))
    return 0


def describe(detections: Mapping[str, Detections], truth: EvaluationTruth) -> dict[str, object]:
    """Kinds of false positives at some recalls, and logits by size, against the last subset of the truth.

    Args:
        detections: ``{image name: detections}`` with face probabilities as scores.
        truth: the faces and the subsets; the last one is counted, ``hard`` of the official three.
    """
    names = [name for name in truth.names if name in detections]
    members = list(truth.subsets.values())[-1]
    claims = claim_wider_faces(detections, truth, names)
    outcomes = score_claims(claims, [members[name] for name in names], HIT)
    wrong = outcomes.counted & ~outcomes.hits
    errors: dict[str, dict[str, int] | None] = {}
    for recall, count in zip(RECALLS, false_positives_at(outcomes, RECALLS), strict=True):
        if count is None:
            errors[f"{100 * recall:g}"] = None
            continue
        rows = np.flatnonzero(wrong)[:count]
        near = (claims.overlaps[rows] >= NEAR) & (claims.overlaps[rows] < HIT)
        errors[f"{100 * recall:g}"] = {"localisation": int(near.sum()), "classification": int((~near).sum())}
    boxes = np.concatenate([np.zeros((0, 4)), *(truth.faces[name] for name in names)])
    sides = np.sqrt(np.maximum(boxes[:, 2:] - boxes[:, :2], 0).prod(axis=1))[claims.faces[outcomes.hits]]
    return {"errors_at_recall": errors, "logit_by_size": logits_by_size(claims.scores[outcomes.hits], sides)}


def logits_by_size(scores: FloatArray, sides: FloatArray) -> list[dict[str, float]]:
    """Mean logit of boxes with these scores [N], by the size [N] in pixels of the faces they find."""
    chances = np.clip(scores, 1e-6, 1 - 1e-6)
    logits = np.log(chances / (1 - chances))
    rows = []
    for low, high in pairwise(SIZES_PX):
        inside = (sides >= low) & (sides < high)
        if inside.any():
            rows.append({"from_px": low, "faces": int(inside.sum()), "logit": round(float(logits[inside].mean()), 3)})
    return rows


def draw(found: Mapping[str, Mapping[str, object]]) -> bytes:
    """Both figures side by side, as a PNG."""
    import io

    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    for number, (name, parts) in enumerate(found.items()):
        colour = f"C{number}"
        rows = parts["logit_by_size"]
        assert isinstance(rows, list)
        sizes, logits = ([row[key] for row in rows] for key in ("from_px", "logit"))
        right.plot(np.maximum(sizes, 4), logits, marker="os^Dv"[number % 5], color=colour, label=name)
        errors = parts["errors_at_recall"]
        assert isinstance(errors, dict)
        known = {f"{name}\nat {recall} %": kinds for recall, kinds in errors.items() if kinds}
        near, others = ([kinds[kind] for kinds in known.values()] for kind in ("localisation", "classification"))
        left.barh(list(known), near, color=colour)
        bars = left.barh(list(known), others, left=near, hatch="//", fill=False)
        left.bar_label(bars, [f" {sum(kinds.values()):,}" for kinds in known.values()])
    left.invert_yaxis()
    left.margins(x=0.2)
    left.set(title="false positives at a recall\nlocalisation (full), classification (hatched)", xlabel="boxes")
    right.set(title="logit of boxes that find a face", xlabel="size of the face from, px", xscale="log")
    right.legend()
    content = io.BytesIO()
    figure.savefig(content, format="png")
    return content.getvalue()


if __name__ == "__main__":
    raise SystemExit(main())
