"""Patches in, judgements out: the generator and the discriminator in use."""

from __future__ import annotations

import os
from threading import Lock

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tinygan.boxes import mirror_boxes
from tinygan.checkpoint import Checkpoint
from tinygan.config import build_config
from tinygan.data.cutting import CropConfig
from tinygan.detections import ByteArray, FloatArray
from tinygan.errors import CheckpointError
from tinygan.models.backends import Run, deploy
from tinygan.models.build import load_discriminator, load_generator, load_second
from tinygan.models.discriminator import Discriminator
from tinygan.models.pixels import scale_bytes
from tinygan.runtime import Runtime, one_thread
from tinygan.second_stage.graphs import generator_graph, judge_graph

BATCH_STEP = 8  # large batches are filled up to a multiple of it
_building = Lock()  # of all judges, as one that holds a lock could not be pickled for another process


def _unlock() -> None:
    """In a forked process: the thread that held the lock is not there to release it."""
    global _building
    _building = Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_unlock)


def filled_up(count: int) -> int:
    """How many pictures a batch of so many is filled up to.

    CPU backends prepare a network anew for every size of batch that they meet, which takes as long as judging a dozen
    pictures and keeps tens of megabytes, so they shall meet few. But what fills a batch up takes its time as well, so
    it is a fifth of the batch at most.
    """
    step = min(BATCH_STEP, max(1, (1 << (count - 1).bit_length()) // 8))  # an eighth of the next power of two
    return -(-count // step) * step


class Judge:
    """Super-resolves small crops and judges all of them.

    The generator is made ready when it is first used: backends other than PyTorch compile it for a second, and where no
    crop is super-resolved (``crops.route_px`` 0) it only draws pictures for people.

    Args:
        generator: G1 and G2.
        discriminator: D.
        crops: patch sizes and routing these networks were trained with.
        runtime: device and precision.
        second: another D, which takes the second look. Two networks err in the same places less often than one does
            twice.
    """

    def __init__(
        self,
        generator: nn.Module,
        discriminator: Discriminator,
        crops: CropConfig,
        runtime: Runtime,
        second: Discriminator | None = None,
    ) -> None:
        self.crops, self._runtime = crops, runtime
        self.sees_wide = discriminator.surroundings is not None
        self.finds_boxes = discriminator.fc_box is not None
        self._generator = generator
        self._deployed_generator: Run | None = None
        self._look = deploy(judge_graph(discriminator, crops), runtime)
        self._look_again = self._look if second is None else deploy(judge_graph(second, crops, "second_judge"), runtime)

    @classmethod
    @one_thread()  # threads of torch started here would keep a process forked later from computing
    def from_weights(cls, weights: Checkpoint, runtime: Runtime, generator: nn.Module | None = None) -> Judge:
        """Build the networks that a checkpoint of kind ``gan`` or ``fused`` describes.

        Args:
            weights: the checkpoint.
            runtime: device and precision.
            generator: makes the pictures instead of the checkpoint's own.

        Raises:
            CheckpointError: if config and tensors do not fit, or exported networks are of other weights.
        """
        if runtime.exported is not None and runtime.exported.weights != weights.digest():
            raise CheckpointError(
                f"{runtime.exported.folder}: was exported from other weights than the checkpoint's; export this "
                "checkpoint, or name the one that it was made from"
            )
        crops = build_config(CropConfig, weights.recipe["crops"])
        generator = load_generator(weights) if generator is None else generator
        discriminator = load_discriminator(weights, crops.hr_size, crops.wide_size)
        second = load_second(weights, crops.hr_size, crops.wide_size)
        return cls(generator, discriminator, crops, runtime, second)

    @property
    def side_by_side(self) -> int:
        """See :attr:`tinygan.runtime.Runtime.side_by_side`."""
        return self._runtime.side_by_side

    @torch.inference_mode()
    def judge(
        self, small: ByteArray, large: ByteArray, wide: ByteArray | None = None, again: bool = False
    ) -> tuple[FloatArray, FloatArray]:
        """Judge crops of both routes.

        Args:
            small: uint8 [N, s, s, 3], for the generator.
            large: uint8 [M, S, S, 3], for the discriminator.
            wide: uint8 [N + M, W, W, 3], the surroundings of ``small``, then those of ``large``; only if the judge
                ``sees_wide``.
            again: whether this is the second look, which sees mirror images.

        Returns:
            Face logits, float64 [N + M], and where the faces lie, float64 [N + M, 4], as of
            :func:`tinygan.boxes.encode_boxes` (NaN from a network without that head); of ``small``, then of ``large``.
        """
        count = len(small) + len(large)
        if not count:
            return np.zeros(0), np.zeros((0, 4))
        extra = filled_up(count) - count
        with self._runtime.autocast():
            if len(small):
                enlarged = self._enlarge()(self._load(small, 0 if len(large) else extra))[1].float()  # [N, 3, S, S]
                pictures = enlarged.flip(3) if again else enlarged
                if len(large):
                    pictures = torch.cat([pictures, scale_bytes(self._load(large, extra, again))])
            else:
                pictures = self._load(large, extra, again)  # [M, 3, S, S]
            seen = [pictures]
            if wide is not None and self.sees_wide:
                seen.append(self._load(wide, extra, again))
            face_logit, *found = (self._look_again if again else self._look)(*seen)
        face_logits: FloatArray = face_logit[:count].double().cpu().numpy()
        boxes: FloatArray = found[0][:count].double().cpu().numpy() if found else np.full((count, 4), np.nan)
        return face_logits, mirror_boxes(boxes) if again else boxes

    def _enlarge(self) -> Run:
        """The generator, made ready by the first call, as if outside of any context and on one thread."""
        if self._deployed_generator is None:
            with _building, torch.inference_mode(False), one_thread():
                if self._deployed_generator is None:
                    self._deployed_generator = deploy(generator_graph(self._generator, self.crops), self._runtime)
        return self._deployed_generator

    def _load(self, pixels: ByteArray, extra: int, mirrored: bool = False) -> Tensor:
        """uint8 [N, S, S, 3] to uint8 [N + extra, 3, S, S] on the device, stored channels-last; what is extra is black.

        Bytes are mirrored and filled up, not floats: each fresh copy of a batch costs as much as a layer of a network.
        """
        ready = torch.from_numpy(pixels).permute(0, 3, 1, 2)
        ready = ready.flip(3) if mirrored else ready
        ready = F.pad(ready, (0, 0, 0, 0, 0, 0, 0, extra)) if extra else ready
        return ready.to(self._runtime.device)
