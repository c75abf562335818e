"""The checkpoint that ships: it is there, fits its limits, and rescores without any training."""

import numpy as np
import pytest

import tinygan
from experiments.lite.flops import giga_flops
from tinygan.checkpoint import load_checkpoint, packaged_weights, save_checkpoint
from tinygan.cli.rescore import main
from tinygan.formats.registry import open_detections
from tinygan.second_stage.fusion import stored_fusion


def test_lite_fits_its_limits_and_knows_its_fusion():
    file = packaged_weights("lite")
    assert file.stat().st_size <= 12_000_000
    assert giga_flops(file)["total"] <= 1.5
    weights = load_checkpoint(file, ("fused",))
    fusion = stored_fusion(weights)
    assert fusion is not None and fusion.fitted and fusion.judge > 0 and fusion.curve is not None
    assert len(weights.trained_on) > 100  # so that fusion refuses the images it was trained on
    assert (file.parent / "README.md").is_file()  # the model card


def test_rescore_needs_no_checkpoint_of_ones_own(tiny_wider, tmp_path, capsys):
    images, proposals = tiny_wider.root / "WIDER_val/images", tiny_wider.proposals / "val"
    assert main(["--proposals", str(proposals), "--images", str(images), "--out", str(tmp_path / "out")]) == 0
    assert "60 rescored" in capsys.readouterr().out
    before, after = open_detections(proposals), open_detections(tmp_path / "out")
    assert any(not np.array_equal(np.sort(before[name].scores), np.sort(after[name].scores)) for name in before)


@pytest.mark.parametrize("name", ["lite.safetensors", "huge"])
def test_an_unknown_name_lists_what_ships(name, tmp_path, capsys):
    words = ["--proposals", str(tmp_path), "--images", str(tmp_path), "--out", str(tmp_path / "out")]
    assert main([*words, "--checkpoint", name]) == 2
    assert "this tinygan ships lite" in capsys.readouterr().err


def test_the_first_stage_fits_its_limits_and_brings_its_fusion():
    file = packaged_weights("retinaface_mobilenet025")
    assert file.stat().st_size <= 3_000_000
    weights = load_checkpoint(file, ("proposer",))
    fusion = stored_fusion(weights)
    assert fusion is not None and fusion.fitted and fusion.judge > 0 and weights.proposer == "retinaface"
    # It learned from images that lite learned from too, so the others are honest for both.
    assert weights.trained_on <= load_checkpoint(packaged_weights("lite"), ("fused",)).trained_on


def test_the_generator_for_pictures_fits_its_limits():
    file = packaged_weights("portrait", ("generator",))
    assert file.stat().st_size <= 4_000_000
    assert len(load_checkpoint(file, ("generator",)).trained_on) > 100  # so that it is measured on other images
    small = np.full((20, 24, 3), 99, np.uint8)
    large = np.asarray(tinygan.SuperResolver(device="cpu").upscale(small))
    assert large.shape == (80, 96, 3) and np.abs(large[20:-20, 20:-20].astype(int) - 99).max() < 12


def test_saved_anew_a_checkpoint_has_the_same_bytes(tmp_path):
    file = packaged_weights("retinaface_mobilenet025")
    save_checkpoint(tmp_path / "again.safetensors", load_checkpoint(file, ("proposer",)))
    assert (tmp_path / "again.safetensors").read_bytes() == file.read_bytes()
