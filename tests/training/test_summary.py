"""What a finished stage says of itself."""

import json

import pytest

from tinygan.training.run import RunFolder
from tinygan.training.summary import summarise


@pytest.fixture
def run(tmp_path):
    return RunFolder(tmp_path / "run", "seed: 0\n")


def test_figures_are_told_with_their_meaning_and_pictures_named(run):
    run.append_metrics({"step": 0, "seconds": 1.0, "pixel": 0.5})
    figures = {"psnr_bicubic": 26.128, "psnr_g1": 27.0, "psnr_g2": 25.5, "auc_small": 0.9314, "auc_paired": 0.5}
    run.append_metrics({"step": 1199, "seconds": 99.0, "pixel": 0.1, **figures})
    for epoch in (1, 2):
        run.sample(epoch).write_bytes(b"png")
    run.file("curves.png").write_bytes(b"png")
    assert summarise(run) == [
        "  1,200 steps",
        "  PSNR of held-out faces in dB, higher is closer to the truth: bicubic 26.13, g1 27.00, g2 25.50",
        "  held-out faces told from other boxes, 0.5 is guessing and 1 perfect: small 0.931, paired 0.500",
        "  G2 is 0.63 dB worse than bicubic interpolation",
        f"  look at {run.sample(2)}: what it makes of pictures that it has not seen",
        f"  and at {run.file('curves.png')}: how the losses went",
    ]


def test_where_nothing_was_measured_that_is_said(run):
    run.append_metrics({"step": 9, "seconds": 1.0, "pixel": 0.5})
    assert summarise(run) == ["  10 steps", "  no figures: nothing was kept out of training to measure on"]


def test_gains_of_fusion_are_told_with_their_bias(run):
    gains = {"mine": {"8 px": [0.7, 0.75], "32 px": [0.9, 0.9]}}
    run.file("fusion.json").write_text(json.dumps({"exact_ap_where_fitted": gains}))
    first, last = summarise(run)
    assert first == "  mine: exact AP 8 px 0.700 -> 0.750, 32 px 0.900 -> 0.900"
    assert "measured where fusion was fitted, so expect less" in last
