"""``tinygan-train`` as a user types it: a whole run of four stages, a kill in each, and planted mistakes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tinygan import SecondStage
from tinygan.checkpoint import load_checkpoint, save_checkpoint
from tinygan.cli.train import main

STAGES = ("mse-init", "gan", "judge", "fusion")
BEFORE = {"gan": "mse-init", "judge": "gan", "fusion": "judge"}


def words(stage: str, data, runs: Path, settings: list[str], out: str | None = None) -> list[str]:
    typed = ["--stage", stage, "--data", str(data.root), "--out", str(runs / (out or stage))]
    typed += ["--device", "cpu", "--precision", "32", "--threads", "1"]
    if stage == "mse-init":
        return typed + settings
    typed += ["--proposals", str(data.proposals), "--init", str(runs / BEFORE[stage])]
    return typed + ([] if stage == "fusion" else settings)


@pytest.fixture(scope="module")
def runs(tiny_wider, tiny_set, tmp_path_factory):
    """All four stages, run once to their end."""
    folder = tmp_path_factory.mktemp("runs")
    for stage in STAGES:
        assert main(words(stage, tiny_wider, folder, tiny_set)) == 0
    return folder


def same_weights(first: Path, second: Path) -> bool:
    kinds = ("generator", "gan", "fused")
    a, b = load_checkpoint(first, kinds), load_checkpoint(second, kinds)
    same_facts = replace(a, tensors={}) == replace(b, tensors={})
    return same_facts and all(torch.equal(a.tensors[name], b.tensors[name]) for name in a.tensors)


def test_run_folders_are_complete(runs):
    for stage, kind in zip(STAGES, ("generator", "gan", "gan", "fused"), strict=True):
        assert load_checkpoint(runs / stage, (kind,)).kind == kind
        assert (runs / stage / "config.yaml").is_file()
    names = {path.name for path in (runs / "gan").rglob("*")}
    assert {"metrics.jsonl", "curves.png", "last.ckpt", "holdout.txt", "epoch_002.png", "finished.json"} <= names
    assert not (runs / "gan" / "patches").exists()
    rows = [json.loads(line) for line in (runs / "gan/metrics.jsonl").read_text().splitlines()]
    assert {"psnr_g2", "auc_paired"} <= set(rows[-1]) and len(rows) == 8


def test_judge_grows_and_keeps_the_generator(runs):
    gan, judge = load_checkpoint(runs / "gan", ("gan",)), load_checkpoint(runs / "judge", ("gan",))
    assert all(torch.equal(tensor, judge.part("generator")[name]) for name, tensor in gan.part("generator").items())
    assert judge.recipe["discriminator"]["box"] and "discriminator.fc_box.weight" in judge.tensors
    assert list(judge.recipe["discriminator"]["lite_widths"]) == [4, 6, 8, 8, 12]
    rows = [json.loads(line) for line in (runs / "judge/metrics.jsonl").read_text().splitlines()]
    assert {"iou_before", "iou_after", "auc_medium"} <= set(rows[-1]) and not (runs / "judge/patches").exists()


def test_holdout_is_kept_out_and_used_for_fusion(runs, tiny_wider):
    holdout = (runs / "gan/holdout.txt").read_text().split()
    fitted = json.loads((runs / "fusion/fusion.json").read_text())
    assert 0 < len(holdout) < 12 and fitted["images"] == len(holdout) and fitted["fusion"]["fitted"]
    (gains,) = fitted["exact_ap_where_fitted"].values()
    assert gains["0 px, IoU 0.5"][1] >= gains["0 px, IoU 0.5"][0] > 0


def test_two_judges_are_put_together(runs, tiny_wider, tiny_set, capsys):
    assert main([*words("fusion", tiny_wider, runs, tiny_set, "both"), "--second", str(runs / "judge")]) == 0
    both, judge = load_checkpoint(runs / "both", ("fused",)), load_checkpoint(runs / "judge", ("gan",))
    assert both.recipe["second"] == judge.recipe["discriminator"]
    assert all(torch.equal(tensor, both.part("second")[n]) for n, tensor in judge.part("discriminator").items())
    assert SecondStage(runs / "both").rescore(
        np.zeros((40, 40, 3), np.uint8), [[5, 5, 20, 20]], [0.5]
    ).scores.shape == (1,)
    again = [*words("fusion", tiny_wider, runs, tiny_set, "again"), "--init", str(runs / "both")]
    assert main(again) == 0  # refitted, with the same two judges
    assert load_checkpoint(runs / "again", ("fused",)).part("second").keys() == both.part("second").keys()
    more = [*words("judge", tiny_wider, runs, tiny_set, "more"), "--init", str(runs / "both")]
    assert main(more) == 0
    assert load_checkpoint(runs / "more", ("gan",)).recipe["second"] is None
    capsys.readouterr()
    assert main([*words("judge", tiny_wider, runs, tiny_set, "no"), "--second", str(runs / "judge")]) == 2
    assert "--second is for --stage fusion" in capsys.readouterr().err


def test_finished_stage_is_left_alone(runs, tiny_wider, tiny_set, capsys):
    before = (runs / "gan/model.safetensors").stat().st_mtime_ns
    assert main([*words("gan", tiny_wider, runs, tiny_set), "--resume"]) == 0
    assert "finished already" in capsys.readouterr().out
    assert (runs / "gan/model.safetensors").stat().st_mtime_ns == before


@pytest.mark.parametrize("stage", STAGES)
def test_kill_and_resume_ends_with_the_same_weights(stage, runs, tiny_wider, tiny_set):
    out = f"{stage}-killed"
    command = [sys.executable, "-c", "from tinygan.cli.train import main; raise SystemExit(main())"]
    command += words(stage, tiny_wider, runs, tiny_set, out)
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_for(runs / out / ("config.yaml" if stage == "fusion" else "last.ckpt"), process)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not (runs / out / "finished.json").exists()
    assert main([*words(stage, tiny_wider, runs, tiny_set, out), "--resume"]) == 0
    assert same_weights(runs / stage, runs / out)


def wait_for(file: Path, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 600  # seconds: a crowded machine is slow, not wrong
    while not file.exists():
        assert process.poll() is None and time.monotonic() < deadline, f"{file} never came"
        time.sleep(0.005)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--data", "nowhere"], "nowhere: no such file or folder"),
        (["--set", "generator.widht=3"], "unknown key 'generator.widht'; did you mean 'generator.width'?"),
        (["--set", "gan.epochs=few"], "'gan.epochs' is of type int, got 'few'"),
        (["--config", "light"], "no such file or preset; presets that fit are lite, paper, paper_wild"),
        (["--device", "tpu"], "expected auto, cpu, cuda or cuda:N"),
        (["--init", "RUNS/fusion"], "kind 'fused', expected generator"),
        (["--set", "generator.width=7"], "was trained with generator.width = 6, but the config says 7"),
        (["--extra-images", "RUNS"], "--extra-images is for --stage mse-init"),
        (["--surroundings", "RUNS/gan/model.safetensors"], "--surroundings is for --stage judge"),
        (["--set", "losses={pixel: false, adversarial: false, classification: false}"], "all off"),
    ],
)
def test_mistakes_are_one_line_and_exit_2(change, message, runs, tiny_wider, tiny_set, capsys):
    typed = words("gan", tiny_wider, runs, tiny_set, "mistake")
    assert main([*typed, "--overwrite"] + [word.replace("RUNS", str(runs)) for word in change]) == 2
    error = capsys.readouterr().err.strip()
    assert message in error.splitlines()[-1] and error.startswith("tinygan-train: error:")


def test_stage_needs_what_it_needs(tiny_wider, tmp_path, capsys):
    start = ["--data", str(tiny_wider.root), "--out", str(tmp_path / "run")]
    assert main(["--stage", "gan", *start]) == 2
    assert "--stage gan needs --init RUN" in capsys.readouterr().err
    assert main(["--stage", "gan", *start, "--init", str(tmp_path)]) == 2
    assert "needs --proposals" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_existing_run_is_not_overwritten_by_accident(runs, tiny_wider, tiny_set, capsys):
    assert main(words("mse-init", tiny_wider, runs, tiny_set)) == 2
    assert "holds a run already" in capsys.readouterr().err


def test_run_is_not_resumed_on_other_data(runs, tiny_set, tmp_path, capsys, make_wider):
    other = make_wider(tmp_path / "other")
    assert main([*words("mse-init", other, runs, tiny_set), "--resume"]) == 2
    assert f"other settings (first difference: '# data: {other.root}'" in capsys.readouterr().err


def test_another_precision_is_not_mixed_in(runs, tiny_wider, tiny_set, capsys):
    typed = [*words("mse-init", tiny_wider, runs, tiny_set), "--resume"]
    assert main([*typed, "--precision", "bf16"]) == 2
    assert "other settings (first difference: '# precision: bf16')" in capsys.readouterr().err
    config = runs / "mse-init/config.yaml"
    noted = config.read_text()
    config.write_text(noted.replace("# precision: 32\n", ""))
    assert main(typed) == 2
    assert "older version, which did not note its precision; start again with --overwrite" in capsys.readouterr().err
    config.write_text(noted)


def test_a_checkpoint_of_before_a_key_was_added_still_fits_its_config(runs, tiny_wider, tmp_path, capsys):
    before = load_checkpoint(runs / "gan", ("gan",))
    crops = {key: value for key, value in before.recipe["crops"].items() if key != "paired_size"}
    save_checkpoint(tmp_path / "old.safetensors", replace(before, recipe={**before.recipe, "crops": crops}))
    typed = ["--stage", "fusion", "--init", str(tmp_path / "old.safetensors"), "--show-config"]
    assert main([*typed, "--config", str(runs / "gan/config.yaml")]) == 0
    capsys.readouterr()
    assert main([*typed, "--config", str(runs / "gan/config.yaml"), "--set", "crops.context=3"]) == 2
    assert "section crops differs from what" in capsys.readouterr().err


def test_resume_and_overwrite_exclude_each_other(runs, tiny_wider, tiny_set, capsys):
    with pytest.raises(SystemExit, match="2"):
        main([*words("gan", tiny_wider, runs, tiny_set), "--resume", "--overwrite"])
    assert "not allowed with argument" in capsys.readouterr().err


def test_fusion_refuses_images_that_were_trained_on(runs, tiny_wider, tiny_set, tmp_path, capsys):
    holdout = set((runs / "gan/holdout.txt").read_text().split())
    seen = next(f"0--Parade/train_{n}.jpg" for n in range(12) if f"0--Parade/train_{n}.jpg" not in holdout)
    listed = tmp_path / "list.txt"
    listed.write_text(f"{seen}\n")
    typed = [*words("fusion", tiny_wider, runs, tiny_set, "refused"), "--overwrite", "--subset", str(listed)]
    assert main(typed) == 2
    assert f"was trained on 1 of these images, such as '{seen}'" in capsys.readouterr().err


def test_truncated_training_image_is_skipped_listed_and_exit_1(tiny_set, tmp_path, capsys, make_wider):
    data = make_wider(tmp_path / "wider")
    image = data.root / "WIDER_train/images/0--Parade/train_3.jpg"
    image.write_bytes(image.read_bytes()[:900])
    assert main(words("mse-init", data, tmp_path, [*tiny_set, "--set", "mse_init.epochs=1"])) == 1
    assert "train_3.jpg: expected a readable image" in capsys.readouterr().err


def test_malformed_proposals_name_file_and_line(runs, tiny_set, tmp_path, capsys, make_wider):
    data = make_wider(tmp_path / "wider")
    file = data.proposals / "train/0--Parade/train_1.txt"
    file.write_text(file.read_text().replace("\n", "\nx y w h s\n", 2))
    assert main([*words("gan", data, runs, tiny_set, "malformed"), "--overwrite"]) == 2
    assert "train_1.txt:2: expected" in capsys.readouterr().err


@pytest.mark.slow
def test_two_processes_train_together(runs, tiny_wider, tiny_set):
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--master-port=29611"]
    script = runs / "train.py"
    script.write_text("from tinygan.cli.train import main\nraise SystemExit(main())\n")
    for stage in STAGES[:2]:
        typed = words(stage, tiny_wider, runs, tiny_set, f"{stage}-two")
        subprocess.run([*torchrun, str(script), *typed], check=True, timeout=300)
    rows = [json.loads(line) for line in (runs / "gan-two/metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == list(range(8))
    assert (
        load_checkpoint(runs / "gan-two", ("gan",)).tensors.keys()
        == load_checkpoint(runs / "gan", ("gan",)).tensors.keys()
    )
