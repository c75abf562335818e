"""What a finished stage says: its figures on the hold-out, what they mean, and which picture to open."""

from __future__ import annotations

import json
from collections.abc import Mapping

from tinygan.training.run import CURVES_FILE, FUSION_FILE, SAMPLE_FILES, SAMPLES_FOLDER, RunFolder

# By how the figures' names begin: what they are, and how many decimals are told.
_FIGURES = {
    "psnr_": ("PSNR of held-out faces in dB, higher is closer to the truth", 2),
    "distance": ("distance of held-out faces' features from the truth, lower is closer", 3),
    "auc_": ("held-out faces told from other boxes, 0.5 is guessing and 1 perfect", 3),
    "iou_": ("overlap of held-out faces with their boxes, before and after moving", 3),
    "ap_": ("exact AP on the hold-out, faces of at least", 3),
}


def summarise(folder: RunFolder) -> list[str]:
    """Lines on a finished run, of the files in its folder: nothing is measured anew."""
    rows = folder.metrics()
    lines = [] if not rows else [f"{rows[-1]['step'] + 1:,.0f} steps", *_figures(rows[-1])]
    lines += _fused(folder)
    return [f"  {line}" for line in [*lines, *_pictures(folder)]]


def _figures(last: Mapping[str, float]) -> list[str]:
    lines = []
    for start, (meaning, decimals) in _FIGURES.items():
        named = {name.removeprefix(start).strip("_") or "ours": last[name] for name in last if name.startswith(start)}
        if named:
            told = ", ".join(f"{name} {value:.{decimals}f}" for name, value in named.items())
            lines.append(f"{meaning}: {told}")
    if {"psnr_bicubic", "psnr_g2"} <= last.keys():
        gain = last["psnr_g2"] - last["psnr_bicubic"]
        lines.append(f"G2 is {abs(gain):.2f} dB {'better' if gain > 0 else 'worse'} than bicubic interpolation")
    return lines or ["no figures: nothing was kept out of training to measure on"]


def _fused(folder: RunFolder) -> list[str]:
    """Gains of stage ``fusion``, which flatter: they are measured where it was fitted."""
    file = folder.file(FUSION_FILE)
    if not file.is_file():
        return []
    lines = []
    for detector, gains in json.loads(file.read_text())["exact_ap_where_fitted"].items():
        told = ", ".join(f"{name} {before:.3f} -> {after:.3f}" for name, (before, after) in gains.items())
        lines.append(f"{detector}: exact AP {told}")
    return [*lines, "measured where fusion was fitted, so expect less: tinygan-rescore, then tinygan-report"]


def _pictures(folder: RunFolder) -> list[str]:
    samples = sorted((folder.path / SAMPLES_FOLDER).glob(SAMPLE_FILES))
    lines = [f"look at {samples[-1]}: what it makes of pictures that it has not seen"] if samples else []
    curves = folder.file(CURVES_FILE)
    return [*lines, *([f"and at {curves}: how the losses went"] if curves.is_file() else [])]
