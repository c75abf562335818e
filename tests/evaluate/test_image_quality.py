import sys
from urllib.error import URLError

import numpy as np
import pytest

from tinygan.errors import DataError, MissingDependency
from tinygan.evaluate import image_quality
from tinygan.evaluate.image_quality import lpips, psnr, ssim

GREY = np.full((16, 16, 3), 0.5, np.float32)
NOISE = np.random.default_rng(0).uniform(0, 1, (16, 16, 3)).astype(np.float32)


def test_constant_offset_of_a_tenth_is_20_db():
    assert psnr(GREY, GREY + np.float32(0.1)) == pytest.approx(20.0, abs=1e-4)


def test_equal_pictures():
    assert psnr(NOISE, NOISE) == float("inf") and ssim(NOISE, NOISE) == pytest.approx(1.0)


def test_ssim_of_flat_pictures_by_hand():
    # Without variance SSIM is (2 a b + C1) / (a^2 + b^2 + C1), C1 = 0.01^2.
    expected = (2 * 0.5 * 0.6 + 1e-4) / (0.25 + 0.36 + 1e-4)
    assert ssim(GREY, GREY + np.float32(0.1)) == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("metric", [psnr, ssim, lpips])
def test_bad_shapes(metric):
    with pytest.raises(DataError, match=r"expected two pictures \[H, W, 3\] of one shape"):
        metric(GREY, GREY[:8])
    with pytest.raises(DataError, match="expected two pictures"):
        metric(GREY[..., 0], GREY[..., 0])
    with pytest.raises(DataError, match="at least 7x7"):
        ssim(GREY[:4], GREY[:4])


def test_lpips_without_package_or_network_says_what_to_do(monkeypatch):
    image_quality._lpips_network.cache_clear()
    monkeypatch.setitem(sys.modules, "lpips", None)
    with pytest.raises(MissingDependency, match="pip install"):
        lpips(GREY, NOISE)

    class Offline:
        @staticmethod
        def LPIPS(**_):  # noqa: N802
            raise URLError("no network")

    monkeypatch.setitem(sys.modules, "lpips", Offline)
    with pytest.raises(MissingDependency, match="could not be downloaded"):
        lpips(GREY, NOISE)


def test_lpips_of_a_network_that_is_there(monkeypatch):
    image_quality._lpips_network.cache_clear()

    class Package:
        class LPIPS:
            def __init__(self, **_):
                pass

            def eval(self):
                return lambda a, b: (a - b).abs().mean()

    monkeypatch.setitem(sys.modules, "lpips", Package)
    assert lpips(GREY, GREY) == 0 and lpips(GREY, GREY + np.float32(0.25)) == pytest.approx(0.5)
    image_quality._lpips_network.cache_clear()
