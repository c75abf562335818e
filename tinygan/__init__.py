"""tinygan: a second stage for face detectors that finds the faces they miss.

Names are resolved on first use, so ``import tinygan`` stays fast and free of torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOME = {
    "Detections": "tinygan.detections",
    "FaceDetector": "tinygan.detect.detector",
    "GroundTruth": "tinygan.detections",
    "SecondStage": "tinygan.second_stage.stage",
    "SuperResolver": "tinygan.second_stage.upscaling",
    "TinyGanError": "tinygan.errors",
    "join_detections": "tinygan.joining",
}

__all__ = [
    "Detections",
    "FaceDetector",
    "GroundTruth",
    "SecondStage",
    "SuperResolver",
    "TinyGanError",
    "__version__",
    "join_detections",
]

if TYPE_CHECKING:
    from tinygan.detect.detector import FaceDetector
    from tinygan.detections import Detections, GroundTruth
    from tinygan.errors import TinyGanError
    from tinygan.joining import join_detections
    from tinygan.second_stage.stage import SecondStage
    from tinygan.second_stage.upscaling import SuperResolver


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module 'tinygan' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
