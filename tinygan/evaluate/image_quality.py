"""How close a super-resolved picture is to the true one: PSNR and SSIM (scikit-image), LPIPS (optional)."""

from __future__ import annotations

import warnings
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from tinygan.errors import DataError, MissingDependency

FloatImage = npt.NDArray[np.float32]


def psnr(truth: FloatImage, picture: FloatImage) -> float:
    """Peak signal-to-noise ratio over all RGB values, in dB: -10 log10(mean squared error).

    Args:
        truth: the true picture, float [H, W, 3], RGB in [0, 1].
        picture: the picture to compare with it, of the same shape.

    Returns:
        dB; infinite for equal pictures.

    Raises:
        DataError: if the shapes differ or are not [H, W, 3].
    """
    _check(truth, picture)
    if np.array_equal(truth, picture):
        return float("inf")
    return float(_metrics().peak_signal_noise_ratio(truth, picture, data_range=1.0))


def ssim(truth: FloatImage, picture: FloatImage) -> float:
    """Structural similarity, averaged over windows of 7x7 px and over RGB (Wang et al. 2004).

    Args:
        truth: the true picture, float [H, W, 3], RGB in [0, 1], at least 7 px high and wide.
        picture: the picture to compare with it, of the same shape.

    Returns:
        At most 1, which equal pictures reach.

    Raises:
        DataError: if the shapes differ, are not [H, W, 3], or are below 7 px.
    """
    _check(truth, picture)
    if min(truth.shape[:2]) < 7:
        raise DataError(f"SSIM needs pictures of at least 7x7 px, got {list(truth.shape)}")
    return float(_metrics().structural_similarity(truth, picture, data_range=1.0, channel_axis=2))


def lpips(truth: FloatImage, picture: FloatImage) -> float:
    """Learned perceptual distance, AlexNet backbone (Zhang et al. 2018); smaller is closer.

    Args:
        truth: the true picture, float [H, W, 3], RGB in [0, 1].
        picture: the picture to compare with it, of the same shape.

    Raises:
        DataError: if the shapes differ or are not [H, W, 3].
        MissingDependency: without the ``lpips`` package, or where its backbone cannot be downloaded.
    """
    _check(truth, picture)
    import torch

    tensors = [torch.from_numpy(p.astype(np.float32)).permute(2, 0, 1)[None] * 2 - 1 for p in (truth, picture)]
    with torch.no_grad():
        return float(_lpips_network()(*tensors))


def _metrics() -> Any:
    from skimage import metrics

    return metrics


@lru_cache(maxsize=1)
def _lpips_network() -> Any:
    try:
        from lpips import LPIPS
    except ImportError as error:
        raise MissingDependency("LPIPS needs the package lpips: pip install 'tinygan[lpips]'") from error
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it calls torchvision in a way that torchvision now discourages
            return LPIPS(net="alex", verbose=False).eval()
    except OSError as error:  # URLError is one
        raise MissingDependency(
            f"LPIPS's AlexNet weights could not be downloaded ({error}); connect to the network once, or put "
            "torchvision's alexnet file into $TORCH_HOME/hub/checkpoints"
        ) from error


def _check(truth: FloatImage, picture: FloatImage) -> None:
    if truth.shape != picture.shape or truth.ndim != 3 or truth.shape[2] != 3:
        raise DataError(
            f"expected two pictures [H, W, 3] of one shape, got {list(truth.shape)} and {list(picture.shape)}"
        )
