"""Columns of first stages, tiny: they start from one set of weights, and tables say what is noise."""

import json

import pytest
import torch

from experiments.columns import Column, tabulate
from experiments.refineface_ablation import cost, figures
from experiments.refineface_ablation.columns import COLUMNS, CONTROL, FULL, OFF
from experiments.refineface_ablation.run import main as ablate
from experiments.refineface_ablation.run import with_new_layers
from experiments.retinaface_finetuning.run import main as tune
from proposals.train.refineface import RefineFaceRecipe
from tinygan.checkpoint import load_checkpoint, packaged_weights
from tinygan.config import load_config
from tinygan.errors import CheckpointError

TINY = [
    "network.channels=4", "network.fsm_regions=4", "pictures.size=64", "loop.batch_size=2", "loop.log_every=1",
    "holdout=0.4", "evaluate_images=1", "network.prior=0.4",
]  # fmt: skip
STARTS = ("control", "STR___STC___RFE___SML___FSM")


def typed(root, out, settings):
    words = ["--data", str(root), "--out", str(out), "--steps", "2", "--images", "2", "--threads", "1"]
    return [*words, *(word for one in settings for word in ("--set", one))]


def rows_of(out):
    return {(one["column"], one["seed"]): one for one in json.loads((out / "results.json").read_text())}


def test_every_column_of_the_ablation_is_a_recipe():
    names = [column.name for column in COLUMNS]
    assert len(set(names)) == len(names) and names[0] == CONTROL and FULL in names
    for column in COLUMNS:
        recipe = load_config(RefineFaceRecipe, "proposers/refineface_mobilenet025", column.settings)
        off = (recipe.network.str_levels, recipe.network.stc_levels, recipe.network.rfe, recipe.network.fsm)
        assert (off == ((), (), False, False) and recipe.losses.sml_alpha == 0) == (column.name == CONTROL)
        assert column.settings[: len(OFF)] == OFF


def test_columns_start_from_one_baseline_and_a_repeated_command_goes_on(tiny_wider, tmp_path, capsys):
    words = [*typed(tiny_wider.root, tmp_path, TINY), "--baseline-steps", "2", "--seeds", "0"]
    assert ablate([*words, "--columns", CONTROL]) == 0
    capsys.readouterr()
    assert ablate([*words, "--columns", CONTROL, FULL]) == 0
    told = capsys.readouterr().out
    assert "/baseline_rfe" in told and "/control_0" not in told and "/baseline " not in told
    rows = rows_of(tmp_path)
    assert rows.keys() == {(CONTROL, 0), (FULL, 0)}
    assert all(row["steps"] == 2 and row["images"] == 2 for row in rows.values())
    table = (tmp_path / "table.md").read_text()
    assert "## Table 1: modules" in table and f"| {FULL} |" in table and "one seed alone" in table
    plain, whole = (torch.load(tmp_path / "starts" / f"{name}_0.pth", weights_only=True) for name in STARTS)
    assert not any(name.startswith(("supervision", "first", "c6", "c7")) for name in plain)
    assert {"c6.weight", "c7.weight", "first.c2.weight", "first.c7.weight"} <= whole.keys()
    for start, baseline in ((plain, "baseline"), (whole, "baseline_rfe")):
        trained = load_checkpoint(tmp_path / baseline, ("proposer",)).part("proposer")
        assert all(torch.equal(start[name], one) for name, one in trained.items())
    with pytest.raises(CheckpointError, match="another network than the columns'"):
        with_new_layers(
            load_config(RefineFaceRecipe, "proposers/refineface_mobilenet025").build(), tmp_path / "baseline"
        )


def test_fine_tuning_has_columns_that_differ_in_use_alone(tiny_wider, tmp_path):
    init = packaged_weights("retinaface_mobilenet025")
    words = [*typed(tiny_wider.root, tmp_path, [one for one in TINY if "network" not in one]), "--init", str(init)]
    names = ["control", "six k-means anchors", "200 boxes kept"]
    assert tune([*words, "--seeds", "0", "--columns", *names]) == 0
    rows = rows_of(tmp_path)
    assert {name for name, _ in rows} == set(names) and rows["control", 0]["ap_50"] is not None
    assert (tmp_path / "200_boxes_kept_0/model.safetensors").read_bytes() == (
        tmp_path / "control_0/model.safetensors"
    ).read_bytes()
    assert (tmp_path / "six_k_means_anchors_0/model.safetensors").is_file()


def test_less_than_the_spread_of_the_control_is_noise():
    def row(column, seed, ap):
        wrong = {"false_positives_50": 10, "false_positives_80": None}
        return {"column": column, "seed": seed, "ap_50": ap, "ap_70": ap / 2, "recall": 0.9, **wrong}

    columns = [Column(name, (), ("A",)) for name in ("control", "better", "same")]
    rows = [row("control", 0, 0.5), row("control", 1, 0.52), row("better", 0, 0.56), row("same", 0, 0.52)]
    text = tabulate(rows, columns, "control")
    assert "| control | 0.510 |  | 0.255 | 10 / – | 0.900 | 2 |" in text
    assert "| better | 0.560 | +5.00 |" in text and "| same | 0.520 | +1.00 (noise) |" in text
    assert "2.00 points: less is noise" in text


def test_figures_of_ones_own_detections(tmp_path, capsys):
    truth, found = tmp_path / "gt_bbx_gt.txt", tmp_path / "found"
    (found / "e").mkdir(parents=True)
    truth.write_text("e/a.jpg\n2\n10 10 20 20 0 0 0 0 0 0\n100 10 60 60 0 0 0 0 0 0\n")
    boxes = [(10, 10, 20, 20, 0.9), (100, 10, 60, 60, 0.5), (12, 20, 20, 20, 0.8), (200, 200, 9, 9, 0.7)]
    (found / "e/a.txt").write_text("\n".join(["e/a", "4", *(" ".join(map(str, box)) for box in boxes)]) + "\n")
    words = ["--detections", str(found), "--ground-truth", str(truth), "--out", str(tmp_path / "out")]
    assert figures.main(words) == 0
    parts = json.loads((tmp_path / "out/figures.json").read_text())["found"]
    assert parts["errors_at_recall"] == {
        "50": {"localisation": 0, "classification": 0},
        "80": {"localisation": 1, "classification": 1},
    }
    assert [(one["from_px"], one["logit"]) for one in parts["logit_by_size"]] == [(16, 2.197), (32, 0.0)]
    assert (tmp_path / "out/figures.png").stat().st_size > 1000


def test_the_table_of_costs_is_the_specifications(capsys):
    wanted = ["RefineFace, mobilenet025, 32 channels", "MB-FCN, mobilenet025, 32 and 64 channels"]
    assert cost.main(["--networks", *wanted, "--height", "640", "--time", "--repeats", "1", "--threads", "1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(" | ")[1:3] for line in lines[2:]] == [["0.68", "6.2"], ["0.39", "1.6"]]
    assert lines[0].count("|") == lines[2].count("|") == 6, lines


@pytest.mark.parametrize("name", ["RefineFace, resnet18", "RetinaNet, resnet18, 64 channels"])
def test_parameters_of_larger_networks(name):
    millions = {"RefineFace, resnet18": 19.92, "RetinaNet, resnet18, 64 channels": 11.8}
    assert cost.millions(cost.build(cost.NETWORKS[name])) == pytest.approx(millions[name], abs=0.05)
