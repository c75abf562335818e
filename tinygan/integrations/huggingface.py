"""Hugging Face transformers: rescores what an image processor's ``post_process_object_detection`` gives.

Not the pipeline ``object-detection``: that rounds boxes to whole pixels, which costs points of AP on faces of 8 px.
"""

from __future__ import annotations

from typing import Any

import torch

from tinygan.formats.images import Picture
from tinygan.integrations.rows import rescore_rows
from tinygan.second_stage.stage import SecondStage


def rescore_huggingface(image: Picture, result: dict[str, Any], stage: SecondStage) -> dict[str, Any]:
    """Rescore the boxes of one picture.

    Args:
        image: as for :meth:`SecondStage.rescore`, the one whose size went into ``target_sizes``.
        result: a picture's ``scores``, ``labels`` and ``boxes``, tensors, of ``post_process_object_detection``.
        stage: the second stage.

    Returns:
        The same, new.

    Raises:
        DataError: if boxes are unfit, such as relative ones (no ``target_sizes``); see :meth:`SecondStage.rescore`.
    """
    found, rows = rescore_rows(stage, image, result["boxes"], result["scores"], "the processor's result")
    return {
        **result,
        "boxes": torch.from_numpy(found.boxes).to(result["boxes"]),
        "scores": torch.from_numpy(found.scores).to(result["scores"]),
        "labels": result["labels"][torch.from_numpy(rows).to(result["labels"].device)],
    }
