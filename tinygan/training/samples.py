"""Figures and sample pictures of held-out patches, made while a stage trains."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from scipy.stats import rankdata
from torch import Tensor, nn

from tinygan.data.cutting import make_lr, resize_patches, upscale
from tinygan.data.patches import MEDIUM, PAIRED, SMALL, Patches
from tinygan.data.rois import FACE
from tinygan.detections import ByteArray, FloatArray, IntArray
from tinygan.models.generator import AnyGenerator, Generated
from tinygan.models.perceptual import ImageNetFeatures, feature_distance
from tinygan.models.pixels import to_bytes, to_float
from tinygan.pictures import save_png, sr_sheet
from tinygan.runtime import Runtime
from tinygan.second_stage.judge import Judge
from tinygan.training.recipe import Recipe

PSNR_PATCHES, JUDGED_PATCHES, PICTURED = 512, 2000, 6


class HeldOut:
    """Patches of images kept out of training.

    Args:
        streams: patches by stream: ``paired``, and for stage ``gan`` also ``small`` and ``medium``.
        recipe: the sizes of patches and how low-resolution copies are made.
    """

    def __init__(self, streams: Mapping[str, Patches], recipe: Recipe) -> None:
        self._streams = streams
        self._recipe = recipe
        paired = streams[PAIRED]
        faces = _spread(np.flatnonzero(paired.labels == FACE), PSNR_PATCHES)
        self._hr = resize_patches(np.array(paired.pixels[faces]), recipe.crops.hr_size)
        rng = np.random.default_rng(recipe.seed)
        lr = [make_lr(patch, recipe.degradation, rng) for patch in self._hr]
        size = recipe.crops.lr_size
        self._lr = np.stack(lr) if lr else np.zeros((0, size, size, 3), np.uint8)

    def psnr(self, generator: AnyGenerator, runtime: Runtime) -> dict[str, float]:
        """Mean RGB PSNR of bicubic, G1 and G2 over held-out faces, in dB; empty without held-out faces."""
        if not len(self._hr):
            return {}
        hr = to_float(self._hr)
        generated = generate(generator, self._lr, runtime)
        names = ("psnr_bicubic", "psnr_g1", "psnr_g2")
        pictures = (to_float(_upscale_all(self._lr)), generated.sr.cpu(), generated.refined.cpu())
        return {name: _mean_psnr(picture, hr) for name, picture in zip(names, pictures, strict=True)}

    @torch.no_grad()
    def distances(self, generator: AnyGenerator, features: ImageNetFeatures, runtime: Runtime) -> dict[str, float]:
        """Mean feature distance of bicubic and of the refined picture to the truth; empty without held-out faces."""
        if not len(self._hr):
            return {}
        truth = features(to_float(self._hr).to(runtime.device))
        pictures = {
            "distance_bicubic": to_float(_upscale_all(self._lr)),
            "distance": generate(generator, self._lr, runtime).refined,
        }
        return {
            name: float(feature_distance(features(picture.to(runtime.device)), truth).mean())
            for name, picture in pictures.items()
        }

    def separation(self, judge: Judge) -> dict[str, float]:
        """Area under the ROC curve of the face logit, for each stream."""
        areas = {}
        for stream in (PAIRED, SMALL, MEDIUM):
            patches = self._streams[stream]
            chosen = _spread(np.arange(len(patches)), JUDGED_PATCHES)
            pixels = np.array(patches.pixels[chosen])
            empty = np.zeros((0, *self._lr.shape[1:]), np.uint8)
            logits = [
                judge.judge(*((part, empty) if stream == SMALL else (empty, part)))[0]
                for part in np.array_split(pixels, max(1, len(pixels) // 250))
            ]
            area = roc_area(np.concatenate(logits), patches.labels[chosen])
            if area is not None:
                areas[f"auc_{stream}"] = area
        return areas

    def draw(self, generator: AnyGenerator, runtime: Runtime, path: Path) -> None:
        """Write a sheet LR | bicubic | G1 | G2 | HR: paired faces above, wild crops below."""
        rows = _rows(generator, runtime, self._lr[:: max(1, len(self._lr) // PICTURED)][:PICTURED], self._hr)
        if SMALL in self._streams:
            wild = self._streams[SMALL]
            chosen = _spread(np.flatnonzero(wild.labels == FACE), PICTURED)
            rows += _rows(generator, runtime, np.array(wild.pixels[chosen]), None)
        save_png(sr_sheet(rows), path)


@torch.no_grad()
def generate(generator: nn.Module, lr: ByteArray, runtime: Runtime, batch_size: int = 128) -> Generated:
    """Super-resolve uint8 [N, s, s, 3] in evaluation mode; afterwards the generator is in the mode it was in before."""
    was_training = generator.training
    generator.eval()
    parts = []
    for part in np.array_split(lr, max(1, -(-len(lr) // batch_size))):
        with runtime.autocast():
            parts.append(generator(to_float(part).to(runtime.device)))
    generator.train(was_training)
    return Generated(*(torch.cat([p.float() for p in side]).clamp(0, 1) for side in zip(*parts, strict=True)))


def roc_area(logits: FloatArray, labels: IntArray) -> float | None:
    """Probability that a face has a higher logit than a non-face (ties count half); ``None`` unless there are both."""
    faces = int((labels == FACE).sum())
    others = len(labels) - faces
    if not faces or not others:
        return None
    rank_sum = rankdata(logits)[labels == FACE].sum()
    return float((rank_sum - faces * (faces + 1) / 2) / (faces * others))


def _rows(
    generator: AnyGenerator, runtime: Runtime, lr: ByteArray, hr: ByteArray | None
) -> list[dict[str, ByteArray | None]]:
    if not len(lr):
        return []
    generated = generate(generator, lr, runtime)
    columns = {
        "LR": lr,
        "bicubic": _upscale_all(lr),
        "G1": to_bytes(generated.sr),
        "G2": to_bytes(generated.refined),
    }
    truths = [None] * len(lr) if hr is None else list(hr[:: max(1, len(hr) // PICTURED)][:PICTURED])
    return [{**{name: c[row] for name, c in columns.items()}, "HR": truths[row]} for row in range(len(lr))]


def _upscale_all(lr: ByteArray) -> ByteArray:
    return np.stack([upscale(patch) for patch in lr])


def _mean_psnr(picture: Tensor, hr: Tensor) -> float:
    error = (picture.clamp(0, 1) - hr).square().mean(dim=(1, 2, 3)).clamp_min(1e-10)
    return float((-10 * error.log10()).mean())


def _spread(positions: IntArray, count: int) -> IntArray:
    """At most ``count`` of the positions, evenly spaced."""
    return positions[:: max(1, -(-len(positions) // count))]
