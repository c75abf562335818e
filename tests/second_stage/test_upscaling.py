"""Pictures of any size, 4 times as large: in tiles without seams, by the rules of the one reader."""

import io

import numpy as np
import pytest
import torch
from PIL import Image
from skimage import data

import tinygan
from tinygan.checkpoint import Checkpoint, save_checkpoint
from tinygan.config import load_config, to_tree
from tinygan.errors import CheckpointError, DataError
from tinygan.models.build import build_generator
from tinygan.models.generator import BilinearGenerator, Generator, GeneratorConfig, ShuffleGenerator
from tinygan.second_stage import upscaling
from tinygan.training.recipe import Recipe

CHECKPOINTS = {
    "learned": {"width": 8, "up_width": 8, "residual_blocks": 2, "refine_width": 8, "refine_up_width": 8,
                "refine_blocks": 2, "skip": "bicubic"},
    "shuffle": {"width": 8, "up_width": 8, "residual_blocks": 2, "up_blocks": 3},
    "bilinear": {},
}  # fmt: skip


def generator(form: str) -> Generator | ShuffleGenerator | BilinearGenerator:
    torch.manual_seed(0)
    network = build_generator(GeneratorConfig(form=form, **CHECKPOINTS[form])).eval()
    for weights in network.parameters():
        torch.nn.init.normal_(weights, 0.0, 0.1)
    return network


@pytest.fixture
def checkpoint(tmp_path):
    def save(form: str):
        tensors = {f"generator.{name}": value for name, value in generator(form).state_dict().items()}
        settings = [f"generator.{key}={value}" for key, value in {"form": form, **CHECKPOINTS[form]}.items()]
        file = tmp_path / f"{form}.safetensors"
        save_checkpoint(file, Checkpoint("generator", to_tree(load_config(Recipe, None, settings)), tensors))
        return file

    return save


@pytest.mark.parametrize("form", CHECKPOINTS)
def test_no_output_pixel_looks_further_than_the_reach(form):
    """And the reach is not stated far too large, as margins cost time."""
    network, middle = generator(form), 40
    lr = torch.rand(1, 3, 80, 80, requires_grad=True)
    place = slice(4 * middle, 4 * middle + 4)
    network(lr).refined[:, :, place, place].square().sum().backward()
    rows = lr.grad.abs().sum(dim=(0, 1, 3)).nonzero().flatten()
    furthest = max(middle - int(rows.min()), int(rows.max()) - middle)
    assert furthest <= network.reach_px <= furthest + 3


@pytest.mark.parametrize("form", CHECKPOINTS)
def test_tiles_are_the_whole(form, checkpoint, monkeypatch):
    resolver = tinygan.SuperResolver(checkpoint(form), device="cpu")
    pixels = data.astronaut()[40:117, 180:271]
    whole, tiled = {}, {}
    for found, tile_px in ((whole, 1000), (tiled, 24)):
        monkeypatch.setattr(upscaling, "TILE_PX", tile_px)
        monkeypatch.setattr(upscaling, "to_bytes", lambda inner: inner.permute(0, 2, 3, 1).numpy())  # before rounding
        monkeypatch.setattr(upscaling.np, "uint8", np.float32)
        found[4], found[2] = (resolver._upscale(pixels, scale, -1) for scale in (4, 2))
    assert whole[4].shape == (308, 364, 3) and whole[2].shape == (154, 182, 3)
    assert all(np.abs(whole[scale] - tiled[scale]).max() < 1e-5 for scale in (4, 2))
    assert whole[4].std() > 0.05 and np.allclose(whole[4].reshape(154, 2, 182, 2, 3).mean((1, 3)), whole[2], atol=1e-5)


def test_the_checkpoint_that_ships_upscales_whatever_holds_a_picture(tmp_path):
    resolver = tinygan.SuperResolver(device="cpu")
    face = Image.fromarray(data.astronaut()[60:160, 180:270]).resize((18, 20), Image.Resampling.BICUBIC)
    face.save(tmp_path / "face.png")
    large = resolver.upscale(face)
    assert large.mode == "RGB" and large.size == (72, 80)
    mean = np.asarray(large, np.float64).mean((0, 1)) - np.asarray(face, np.float64).mean((0, 1))
    assert np.abs(mean).max() < 4
    for picture in (np.asarray(face), tmp_path / "face.png", (tmp_path / "face.png").read_bytes()):
        assert resolver.upscale(picture).tobytes() == large.tobytes()
    assert resolver.upscale(face.convert("RGBA")).tobytes() == large.tobytes()
    assert resolver.upscale(face.convert("L"), 2).size == (36, 40)
    assert resolver.upscale(np.zeros((1, 1, 3), np.uint8)).size == (4, 4)


def test_both_parts_of_a_generator_can_be_seen(checkpoint):
    pixels = data.astronaut()[60:76, 180:200]
    both = tinygan.SuperResolver(checkpoint("learned"), device="cpu").stages(pixels)
    assert list(both) == ["G1", "G2"] and both["G1"].shape == both["G2"].shape == (64, 80, 3)
    assert not np.array_equal(both["G1"], both["G2"])
    alone = tinygan.SuperResolver(checkpoint("shuffle"), device="cpu").stages(pixels)
    assert list(alone) == [""] and alone[""].shape == (64, 80, 3)


def test_exif_orientation_is_applied(tmp_path):
    exif = Image.Exif()
    exif[274] = 6
    buffer = io.BytesIO()
    Image.fromarray(data.astronaut()[:20, :30]).save(buffer, "JPEG", exif=exif)
    resolver = tinygan.SuperResolver(device="cpu")
    assert resolver.upscale(buffer.getvalue()).size == (80, 120)
    assert resolver.upscale(buffer.getvalue(), orientation="stored").size == (120, 80)


def test_what_cannot_be_done_is_said(tmp_path):
    resolver = tinygan.SuperResolver(device="cpu")
    with pytest.raises(DataError, match="scale is 4 or 2, got 3"):
        resolver.upscale(np.zeros((8, 8, 3), np.uint8), 3)
    with pytest.raises(DataError, match="expected 500 at most: cut out the faces, or use scale 2"):
        resolver.upscale(Image.new("L", (6000, 6000)))
    with pytest.raises(DataError, match="no such image"):
        resolver.upscale(tmp_path / "absent.png")
    with pytest.raises(CheckpointError, match="this tinygan ships lite"):
        tinygan.SuperResolver("huge")
