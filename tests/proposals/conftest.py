import pytest
import torch

from tinygan.runtime import Runtime, RuntimeOptions


@pytest.fixture(scope="session")
def runtime():
    return Runtime(RuntimeOptions(device="cpu", precision="32", threads=1))


@pytest.fixture(scope="session")
def noise():
    """Draws a noisy image of some size; noise excites random weights everywhere."""

    def draw(height, width, seed=0):
        generator = torch.Generator().manual_seed(seed)
        return torch.randint(0, 256, (3, height, width), dtype=torch.uint8, generator=generator)

    return draw
