"""Layers computed strip by strip: the same answers, on a CPU in less time where pictures are large.

Maps of strips have room in a processor's cache. Those of large pictures have not, and if they take more than 32 MB that
is memory that the system hands out anew for each layer, page by page, which takes longer than the convolution itself.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

MOST_VALUES = 2_000_000  # of a map, 8 MB in single precision; CenterFace takes 5 to 10 % longer with 5 million
MOST_KEPT = 8_000_000  # of a map whose memory is used again


def in_strips(
    layers: Callable[[Tensor], Tensor],
    features: Tensor,
    stride: int,
    reach: int,
    widest: float,
    as_large: bool = False,
) -> Tensor:
    """Run layers that see only what is near, strip by strip if their maps are large.

    Strips overlap by what the layers see beyond a strip, so the answers are those of the whole. Several pictures, and
    any while gradients are recorded, while layers are traced or on another device than a CPU, are not cut.

    Args:
        layers: [B, C, H, W] to [B, C', H / stride, W / stride].
        features: [B, C, H, W], of any type, H a multiple of ``stride``.
        stride: pixels of ``features`` per pixel of the answer.
        reach: how many pixels of ``features`` they see beyond a pixel of their answer, or more.
        widest: number of values of their largest map per pixel of ``features``.
        as_large: whether the answer is as large as any map. Then only maps whose memory would not be used again are
            large: joining strips takes as long as is won else.
    """
    tracing = torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
    if tracing or torch.is_grad_enabled() or features.device.type != "cpu" or len(features) != 1:
        return layers(features)
    height, width = features.shape[2:]
    margin = -(-reach // stride) * stride
    strips = math.ceil(height * width * widest / (MOST_KEPT if as_large else MOST_VALUES))
    rows = max(2 * margin, -(-height // strips // stride) * stride)
    seen = rows + (margin if height <= 2 * rows else 2 * margin)  # all are as tall: layers are prepared for each height
    if seen >= height:
        return layers(features)
    whole: Tensor | None = None  # filled strip by strip: joined in the end, strips would take its memory twice
    for top in range(0, height, rows):
        first = min(max(0, top - margin), height - seen)
        made = layers(features[:, :, first : first + seen])
        own = made[:, :, (top - first) // stride :][:, :, : rows // stride]
        if whole is None:
            size = (1, own.shape[1], height // stride, own.shape[3])
            whole = torch.empty(size, dtype=own.dtype, memory_format=torch.channels_last)
        whole[:, :, top // stride :][:, :, : own.shape[2]] = own
    assert whole is not None
    return whole
