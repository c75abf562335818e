"""``tinygan-propose`` as a user types it."""

from pathlib import Path

import pytest

from proposals.cli.propose import main
from tinygan.checkpoint import packaged_weights
from tinygan.formats.registry import open_detections
from tinygan.formats.wider import load_split
from tinygan.proposers import DEFAULT


def typed(tiny_wider, out: Path, *more: str) -> list[str]:
    return ["--images", str(tiny_wider.root / "WIDER_val/images"), "--out", str(out), "--device", "cpu", *more]


@pytest.mark.parametrize("suffix", ["", ".tar.gz"])
def test_real_weights_write_a_file_an_image(shared_data, tiny_wider, tmp_path, suffix, capsys):
    out = tmp_path / f"found{suffix}"
    weights = str(shared_data / "weights/retinaface_mobilenet025.pth")
    assert main(typed(tiny_wider, out, "--weights", weights)) == 0
    assert "4 images" in capsys.readouterr().out
    assert len(open_detections(out)) == len(load_split(tiny_wider.root, "val").faces) == 4
    assert main(typed(tiny_wider, out, "--weights", weights)) == 2
    assert "--overwrite" in capsys.readouterr().err


def test_without_weights_those_that_ship_are_used(tiny_wider, tmp_path):
    out, same = tmp_path / "found", tmp_path / "same"
    assert main(typed(tiny_wider, out, "--threads", "1")) == 0
    shipped = str(packaged_weights(DEFAULT))
    assert main(typed(tiny_wider, same, "--threads", "1", "--weights", shipped)) == 0
    other = str(packaged_weights("retinaface_mobilenet025"))  # its proposer is told by the file
    assert main(typed(tiny_wider, tmp_path / "other", "--threads", "1", "--weights", other)) == 0
    first, second = open_detections(out), open_detections(same)
    assert sum(len(found) for found in first.values()) > 0
    assert all(first[name].scores.tolist() == second[name].scores.tolist() for name in first)


def test_scales_and_tiles_are_settings_of_the_first_stage(tiny_wider, tmp_path, capsys):
    assert main(typed(tiny_wider, tmp_path / "out", "--scale", "1,2", "--slice", "64", "--overlap", "0.3")) == 0
    words = ["--scale", "2", "--slice", "320", "--set", "slice_px=96", "--show-config"]
    assert main(typed(tiny_wider, tmp_path / "other", *words)) == 0
    shown = capsys.readouterr().out
    assert (
        "slice_px: 96" in shown
        and "slice_overlap: 0.2" in shown
        and "2.0" in shown.split("scales:")[1].split("over")[0]
    )
    assert sum(len(found) for found in open_detections(tmp_path / "out").values()) > 0


def test_another_precision_is_not_mixed_in(tiny_wider, tmp_path, capsys):
    assert main(typed(tiny_wider, tmp_path / "out", "--precision", "32")) == 0
    assert main(typed(tiny_wider, tmp_path / "out", "--resume", "--precision", "bf16")) == 2
    assert "precision was 32, is now bf16" in capsys.readouterr().err
    assert main(typed(tiny_wider, tmp_path / "out", "--resume", "--precision", "32")) == 0


def test_a_backend_is_recorded_and_not_mixed_in(tiny_wider, tmp_path, capsys):
    pytest.importorskip("onnxruntime")
    plain, out = tmp_path / "plain", tmp_path / "out"
    assert (
        main(typed(tiny_wider, plain, "--precision", "32"))
        == main(typed(tiny_wider, out, "--backend", "onnxruntime"))
        == 0
    )
    first, second = open_detections(plain), open_detections(out)
    for name in first:
        assert second[name].boxes == pytest.approx(first[name].boxes, abs=0.01)
    assert main(typed(tiny_wider, out, "--resume", "--precision", "32")) == 2
    assert "backend was onnxruntime, is now torch" in capsys.readouterr().err


def test_a_judge_is_no_first_stage(tiny_wider, tmp_path, capsys):
    assert main(typed(tiny_wider, tmp_path / "out", "--weights", str(packaged_weights("lite")))) == 2
    assert "kind 'fused', expected proposer" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--weights", "nowhere.pth"), "nowhere.pth"),
        (("--proposer", "retinafce"), "did you mean 'retinaface'"),
        (("--overlap", "0.3"), "--overlap 0.3 is for --slice"),
        (("--slice", "640", "--overlap", "0"), "slice_overlap lies above 0"),
        (("--slice", "10"), "slice_px must be 0 (no tiles) or at least 64, got 10"),
        (("--proposer", "callable", "--scale", "2"), "function is package.module:name (set function=...), got ''"),
    ],
)
def test_mistakes_are_one_line_and_exit_2(tiny_wider, tmp_path, words, message, capsys):
    assert main(typed(tiny_wider, tmp_path / "out", *words)) == 2
    error = capsys.readouterr().err.strip()
    assert message in error and len(error.splitlines()) == 1 and not (tmp_path / "out").exists()


@pytest.mark.parametrize("factors", ["1,0", "-2", "nan", "two", ""])
def test_scales_are_factors_above_0(tiny_wider, tmp_path, factors, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(typed(tiny_wider, tmp_path / "out", f"--scale={factors}"))
    assert f"expected factors above 0, such as 2 or 1,2, got {factors}" in capsys.readouterr().err
