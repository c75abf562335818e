"""Converts uint8 pixels to float tensors and back."""

from __future__ import annotations

import torch
from torch import Tensor

from tinygan.detections import ByteArray

WHITE = 255.0  # the largest byte


def to_bytes(pictures: Tensor) -> ByteArray:
    """Float [B, 3, S, S] in [0, 1] to uint8 [B, S, S, 3]."""
    scaled = pictures.detach().float().clamp(0, 1).mul(255).round().byte()
    array: ByteArray = scaled.permute(0, 2, 3, 1).cpu().numpy()
    return array


def to_float(pixels: ByteArray) -> Tensor:
    """uint8 [B, S, S, 3] to float32 [B, 3, S, S] in [0, 1], stored channels-last."""
    return scale_bytes(torch.from_numpy(pixels).permute(0, 3, 1, 2))


def scale_bytes(pixels: Tensor, white: float = 1.0) -> Tensor:
    """uint8 to float32 in [0, ``white``], of the same shape and memory layout."""
    floats = pixels.float()
    return floats if white == WHITE else floats.div_(WHITE / white)
