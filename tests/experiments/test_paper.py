"""The paper's chain, end to end and small: drawn pictures, a first stage of its own, one command."""

import json
import math
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from experiments.paper import clock, pack, travel
from experiments.paper.run import SHARES, fit_steps, main
from experiments.paper.table import format_table
from tinygan.checkpoint import load_checkpoint
from tinygan.config import load_config, to_tree
from tinygan.data.cutting import cut_regions
from tinygan.errors import DataError
from tinygan.formats.images import read_image
from tinygan.formats.registry import open_detections
from tinygan.formats.wider import load_split
from tinygan.training.loop import LoopConfig
from tinygan.training.recipe import Recipe

TINY = [
    "crops.lr_size=4",  # drawn faces have up to 40 px: their crops are pairs of 16 and 4 px
    "generator.width=4",
    "generator.up_width=4",
    "generator.refine_width=4",
    "generator.refine_up_width=4",
    "discriminator={backbone: vgg_lite, weights: none, lite_widths: [4, 4, 8, 8, 8], lite_depths: [1, 1, 1, 1, 1]}",
    "rois.holdout=0.4",
    "mse_init={epochs: 2, batch_size: 4}",
    "gan={epochs: 2, batch_size: 4}",
    "fusion_search.sweeps=1",
]
TINY_FIRST = ["pictures.size=64", "loop={epochs: 1, batch_size: 1}", "holdout=0.4", "evaluate_images=1"]


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(clock, "SECONDS", 0.1)
    monkeypatch.setattr(clock, "NOISE", 8)
    monkeypatch.setattr(clock, "JUDGED", 8)


def words(root, out, *more):
    typed = [
        "--data",
        root,
        "--out",
        out,
        "--minutes",
        "0.04",
        "--config",
        "paper",
        "--device",
        "cpu",
        "--threads",
        "1",
    ]
    typed += [word for setting in TINY for word in ("--set", setting)]
    return [str(word) for word in (*typed, *more)]


def first(*settings):
    typed = ["--proposer", "proposers/mb_fcn_mobilenet025"]
    return typed + [word for setting in (*TINY_FIRST, *settings) for word in ("--proposer-set", setting)]


def test_one_command_runs_the_chain_and_can_be_repeated(quick, tiny_wider, tmp_path, capsys):
    out = tmp_path / "out"
    typed = words(tiny_wider.root, out, "--rows", "ours", "w/o refinement", "--max-rois", "600", *first())
    assert main(typed) == 0
    printed = capsys.readouterr().out
    for command in ("tinygan-train-proposer", "tinygan-propose", "tinygan-train --stage gan", "tinygan-rescore"):
        assert f"$ {command}" in printed
    results = json.loads((out / "results.json").read_text())
    assert set(results["table"]) == {"ours", "w/o refinement"} and set(results["table"]["ours"]) == {"logit", "replace"}
    row = results["table"]["ours"]["logit"]["all"]
    assert row.keys() == {"before", "after", "points", "low", "high"} and row["low"] <= row["points"] <= row["high"]
    assert results["plan"]["gan"]["steps"] >= 2 and {"first_stage", "mse_ours", "gan_ours"} <= set(results["training"])
    table = (out / "table.md").read_text()
    assert "MB-FCN alone (baseline)" in table and "w/o refinement, face probability alone" in table
    weights = load_checkpoint(out / "gan_ours", ("gan",))
    assert (
        weights.recipe["losses"]["adversarial_form"] == "saturating" and weights.recipe["crops"]["route_px"] == math.inf
    )
    assert not load_checkpoint(out / "gan_wo_refinement", ("gan",)).recipe["generator"]["refinement"]

    made = {path: path.stat().st_mtime_ns for path in out.rglob("*.safetensors")}
    assert main(typed) == 0
    assert "finished already" in capsys.readouterr().out
    assert all(path.stat().st_mtime_ns == before for path, before in made.items())
    with pytest.raises(DataError, match=r"plan\.json: was made with .*choose another --out"):
        main([*typed, "--minutes", "7"])


def test_a_packed_file_trains_and_evaluates_without_pictures(quick, tiny_wider, tmp_path):
    file, out = tmp_path / "patches.npz", tmp_path / "out"
    settings = [word for setting in TINY for word in ("--set", setting)]
    boxes = [str(tiny_wider.proposals / part) for part in ("train", "val")]
    typed = ["--data", str(tiny_wider.root), "--proposals", *boxes, "--out", str(file), *settings]
    assert pack.main(typed) == 0
    whole = pack.read_pack(file)
    assert len(whole.val.crops) == 4 and all(len(c) == 15 for c in whole.val.crops.values())  # all proposals
    name = "0--Parade/val_0.jpg"
    split = load_split(tiny_wider.root, "val")
    best = open_detections(tiny_wider.proposals / "val")[name.removesuffix(".jpg")].sorted()
    cut = cut_regions(read_image(split.images / name), best.boxes, whole.recipe.crops, wide=False).small
    assert np.array_equal(whole.val.crops[name], cut)  # lossless
    assert np.array_equal(whole.truth.faces[name], split.faces[name].boxes)
    pairs = whole.prepared.training["paired"]
    assert 0 < pairs.labels.sum() < len(pairs) and pairs.labels[0] == 1 and pairs.pixels.shape[1:] == (16, 16, 3)

    limit = int(0.45 * file.stat().st_size)
    assert pack.main([*typed, "--megabytes", str(limit / 1e6)]) == 0
    assert file.stat().st_size <= limit and len(pack.read_pack(file).val.crops[name]) < 15
    with pytest.raises(DataError, match="raise --megabytes"):
        pack.main([*typed, "--megabytes", "0.001"])

    script = Path(__file__).parents[2] / "experiments/paper/gpu.sh"
    words = [str(script), str(file), str(out), "0.02", "--device", "cpu", "--threads", "1", "--peak-tflops", "1"]
    done = subprocess.run(words, env={**os.environ, "PYTHON": sys.executable}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    results = json.loads((out / "results.json").read_text())
    assert "MB-FCN alone (baseline)" in done.stdout and set(results["table"]["ours"]) == {"logit", "replace"}
    assert 0 < results["speed"]["mfu"] < 1 and results["proposals_per_image"] < 15


def test_what_is_made_after_an_epoch_is_no_part_of_a_step():
    rows = [{"step": step, "seconds": seconds} for step, seconds in ((0, 1), (3, 7), (4, 107), (7, 113))]
    assert travel.seconds_per_step(rows, steps_per_epoch=4) == 2  # 6 seconds for 3 steps, twice
    assert travel.seconds_per_step(rows[:1], steps_per_epoch=1) == 1


def test_a_file_that_is_no_pack(tmp_path):
    (tmp_path / "no.npz").write_bytes(b"nothing")
    with pytest.raises(DataError, match=r"no\.npz: expected a file that experiments\.paper\.pack wrote"):
        pack.read_pack(tmp_path / "no.npz")


def test_a_given_first_stage_must_not_have_seen_the_holdout(quick, tiny_wider, tmp_path):
    from proposals.cli.train import main as train_proposer

    run = tmp_path / "first"
    typed = ["--config", "proposers/mb_fcn_mobilenet025", "--data", str(tiny_wider.root), "--out", str(run)]
    settings = [*TINY_FIRST, "loop.patches_per_epoch=1", "holdout=0"]
    typed += [word for setting in settings for word in ("--set", setting)]
    assert train_proposer([*typed, "--device", "cpu", "--threads", "1"]) == 0
    with pytest.raises(DataError, match="was trained on 6 of the images kept out"):
        main(words(tiny_wider.root, tmp_path / "out", "--proposer-run", run))


def test_steps_fill_the_time():
    found = fit_steps("gan", LoopConfig(epochs=6, batch_size=32), 0.5, 601.0)
    assert found["steps"] == 1200 and found["settings"] == ["gan.patches_per_epoch=6400", "gan.batch_size=32"]
    assert fit_steps("gan", LoopConfig(epochs=6), 9.0, 1.0)["steps"] == 6  # never less than a step per epoch
    assert sum(SHARES.values()) == pytest.approx(1)


def test_small_differs_from_the_paper_in_size_alone():
    small = load_config(Recipe, Path("experiments/paper/small.yaml"))
    paper = load_config(Recipe, "paper")
    sizes = ("width", "up_width", "refine_width", "refine_up_width")
    generator = replace(small.generator, **{name: getattr(paper.generator, name) for name in sizes})
    same = replace(
        small,
        generator=generator,
        discriminator=paper.discriminator,
        mse_init=paper.mse_init,
        gan=replace(small.gan, batch_size=paper.gan.batch_size),
    )
    assert to_tree(same) == to_tree(paper)
    assert small.discriminator.weights == "imagenet"


def test_table_by_hand():
    figures = {"before": 0.5, "after": 0.512, "points": 1.2, "low": -0.3, "high": 2.5}
    subsets = dict.fromkeys(("easy", "medium", "hard"), figures)
    lines = format_table({"ours": {"logit": subsets}}).splitlines()
    assert lines[0] == "| row | easy | medium | hard |"
    assert lines[2] == "| MB-FCN alone (baseline) | 0.500 | 0.500 | 0.500 |"
    assert lines[3].startswith("| ours, fitted fusion | 0.512 (+1.20 [-0.30, +2.50]) |")
    assert lines[4] == "| printed: Baseline | 0.932 | 0.922 | 0.858 |"
    assert lines[5:] == ["| printed: ours | 0.944 | 0.933 | 0.873 |"]
