"""``tinygan-propose`` as a user types it."""

from pathlib import Path

import pytest

from proposals.cli.propose import main
from tinygan.checkpoint import packaged_weights
from tinygan.formats.registry import open_detections
from tinygan.formats.wider import load_split


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
    shipped = str(packaged_weights("retinaface_mobilenet025"))
    assert main(typed(tiny_wider, same, "--threads", "1", "--weights", shipped)) == 0
    first, second = open_detections(out), open_detections(same)
    assert sum(len(found) for found in first.values()) > 0
    assert all(first[name].scores.tolist() == second[name].scores.tolist() for name in first)


def test_another_precision_is_not_mixed_in(tiny_wider, tmp_path, capsys):
    assert main(typed(tiny_wider, tmp_path / "out")) == 0  # auto: a first stage runs in single precision
    assert main(typed(tiny_wider, tmp_path / "out", "--resume", "--precision", "bf16")) == 2
    assert "precision was 32, is now bf16" in capsys.readouterr().err
    assert main(typed(tiny_wider, tmp_path / "out", "--resume", "--precision", "32")) == 0


def test_a_backend_is_recorded_and_not_mixed_in(tiny_wider, tmp_path, capsys):
    pytest.importorskip("onnxruntime")
    plain, out = tmp_path / "plain", tmp_path / "out"
    assert main(typed(tiny_wider, plain)) == main(typed(tiny_wider, out, "--backend", "onnxruntime")) == 0
    first, second = open_detections(plain), open_detections(out)
    for name in first:
        assert second[name].boxes == pytest.approx(first[name].boxes, abs=0.01)
    assert main(typed(tiny_wider, out, "--resume")) == 2
    assert "backend was onnxruntime, is now torch" in capsys.readouterr().err


def test_a_judge_is_no_first_stage(tiny_wider, tmp_path, capsys):
    assert main(typed(tiny_wider, tmp_path / "out", "--weights", str(packaged_weights("lite")))) == 2
    assert "kind 'fused', expected proposer" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--weights", "nowhere.pth"), "nowhere.pth"),
        (("--proposer", "retinafce"), "did you mean 'retinaface'"),
    ],
)
def test_mistakes_are_one_line_and_exit_2(tiny_wider, tmp_path, words, message, capsys):
    assert main(typed(tiny_wider, tmp_path / "out", *words)) == 2
    error = capsys.readouterr().err.strip()
    assert message in error and len(error.splitlines()) == 1 and not (tmp_path / "out").exists()
