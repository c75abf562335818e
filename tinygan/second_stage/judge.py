"""Patches in, judgements out: the generator and the discriminator in use."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from tinygan.checkpoint import Weights
from tinygan.config import build_config
from tinygan.data.cutting import CropConfig
from tinygan.detections import ByteArray, FloatArray
from tinygan.models.build import load_generator, load_part
from tinygan.models.discriminator import Discriminator, DiscriminatorConfig
from tinygan.models.folding import fold_batch_norm
from tinygan.models.pixels import to_bytes, to_float
from tinygan.runtime import Runtime, one_thread


class Verdicts(NamedTuple):
    """Judgements of N patches.

    Attributes:
        face: float64 [N], logit of face or not.
        real: float64 [N], logit of real or generated.
        boxes: float64 [N, 4], where the face lies, as of :func:`tinygan.boxes.encode_boxes`; NaN from networks without
            that head.
    """

    face: FloatArray
    real: FloatArray
    boxes: FloatArray

    @classmethod
    def empty(cls, count: int) -> Verdicts:
        """To be filled."""
        return cls(np.zeros(count), np.zeros(count), np.full((count, 4), np.nan))


class Judge:
    """Super-resolves small crops and judges all of them.

    Args:
        generator: G1 and G2.
        discriminator: D.
        crops: patch sizes and routing these networks were trained with.
        runtime: device and precision.
    """

    def __init__(self, generator: nn.Module, discriminator: Discriminator, crops: CropConfig, runtime: Runtime) -> None:
        self.crops, self._runtime = crops, runtime
        self.sees_wide = discriminator.surroundings is not None
        self.finds_boxes = discriminator.fc_box is not None
        self._generator = fold_batch_norm(generator)
        self._discriminator = fold_batch_norm(discriminator)
        for network in (self._generator, self._discriminator):
            runtime.place(network)

    @classmethod
    @one_thread()  # threads of torch started here would keep a process forked later from computing
    def from_weights(cls, weights: Weights, runtime: Runtime, generator: nn.Module | None = None) -> Judge:
        """Build the networks that a checkpoint of kind ``gan`` or ``fused`` describes.

        Args:
            weights: the checkpoint.
            runtime: device and precision.
            generator: makes the pictures instead of the checkpoint's own.

        Raises:
            CheckpointError: if config and tensors do not fit.
        """
        crops = build_config(CropConfig, weights.config["crops"])
        generator = load_generator(weights) if generator is None else generator
        settings = build_config(DiscriminatorConfig, weights.config["discriminator"])
        discriminator = Discriminator(replace(settings, weights="none"), crops.hr_size, crops.wide_size)
        load_part(discriminator, weights, "discriminator")
        return cls(generator, discriminator, crops, runtime)

    @torch.inference_mode()
    def judge(self, small: ByteArray, large: ByteArray, wide: ByteArray | None = None) -> tuple[Verdicts, Verdicts]:
        """Judge crops of both routes.

        Args:
            small: uint8 [N, s, s, 3], for the generator.
            large: uint8 [M, S, S, 3], for the discriminator.
            wide: uint8 [N + M, W, W, 3], the surroundings of ``small``, then those of ``large``; only if the judge
                ``sees_wide``.

        Returns:
            Verdicts on ``small`` and on ``large``.
        """
        with self._runtime.autocast():
            pictures = [] if not len(large) else [self._load(large)]
            if len(small):
                pictures.insert(0, self._generator(self._load(small)).refined.float())
            if not pictures:
                return Verdicts.empty(0), Verdicts.empty(0)
            around = None if wide is None or not self.sees_wide else self._load(wide)
            verdict = self._discriminator(torch.cat(pictures), around)
        found = Verdicts.empty(len(small) + len(large))
        found.face[:] = verdict.face_logit.float().cpu().numpy()
        found.real[:] = verdict.real_logit.float().cpu().numpy()
        if verdict.box is not None:
            found.boxes[:] = verdict.box.float().cpu().numpy()
        cut = len(small)
        return Verdicts(*(part[:cut] for part in found)), Verdicts(*(part[cut:] for part in found))

    @torch.inference_mode()
    def super_resolve(self, small: ByteArray) -> tuple[ByteArray, ByteArray]:
        """What G1 and G2 make of small crops.

        Args:
            small: uint8 [N, s, s, 3].

        Returns:
            Two arrays uint8 [N, S, S, 3].
        """
        with self._runtime.autocast():
            generated = self._generator(self._load(small))
            return to_bytes(generated.sr), to_bytes(generated.refined)

    def _load(self, pixels: ByteArray) -> Tensor:
        return to_float(pixels).to(self._runtime.device)
