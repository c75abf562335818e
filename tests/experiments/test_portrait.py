"""The recipe of ``portrait``: its stages as a user would type them, then half precision; a stage that fails ends it."""

from itertools import pairwise
from pathlib import Path

import pytest
import torch

from experiments.portrait import run
from tinygan.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from tinygan.config import load_config
from tinygan.training.recipe import Recipe


@pytest.fixture
def typed(monkeypatch):
    """What the stages were called with; stage ``portrait`` fails if the list is given a code."""
    calls: list[list[str]] = []

    def train(words: list[str]) -> int:
        calls.append(words)
        out = Path(words[words.index("--out") + 1])
        if "1e9" in " ".join(words) and "portrait" in words[1]:
            return 2
        out.mkdir(parents=True)
        tensors = {"generator.first.weight": torch.full((2, 3, 1, 1), 0.1), "generator.first.bias": torch.ones(2)}
        save_checkpoint(out / "model.safetensors", Checkpoint("generator", {}, tensors, frozenset({"a"})))
        (out / "finished.json").write_text("{}")
        return 0

    monkeypatch.setattr(run, "train", train)
    return calls


def test_all_stages_then_half_precision(typed, tmp_path, capsys):
    words = ["--data", "ROOT", "--extra-images", "LFW", "--out", str(tmp_path)]
    assert run.main(words) == 0
    assert [call[1] for call in typed] == ["mse-init", *["portrait"] * 4] and "--init" not in typed[0]
    before = [str(tmp_path / name) for name in ("mse", "portrait", "deeper", "finer")]
    assert [call[call.index("--init") + 1] for call in typed[1:]] == before
    assert all("--resume" in call for call in typed)
    deeper = ["portrait_training.further_blocks=12" in call for call in typed]
    assert deeper == [False, False, True, False, False] and "portrait.epochs=3" in typed[2]
    recipes = [load_config(Recipe, "portrait", [word for word in call if "=" in word]) for call in typed]
    for before, after in pairwise(recipes):  # each starts from what the one before made
        training = before.portrait_training
        assert after.generator.residual_blocks == before.generator.residual_blocks + training.further_blocks
        assert after.generator.up_blocks == before.generator.up_blocks + training.further_up_blocks
    assert (recipes[-1].generator.residual_blocks, recipes[-1].generator.up_blocks) == (24, 4)
    weights = load_checkpoint(tmp_path / "portrait.safetensors", ("generator",))
    assert weights.tensors["generator.first.weight"].dtype == torch.float16 and weights.trained_on == {"a"}
    assert weights.tensors["generator.first.bias"].dtype == torch.float32
    assert "portrait.safetensors: 0.0 MB" in capsys.readouterr().out


def test_a_stage_that_fails_ends_it(typed, tmp_path):
    assert run.main(["--data", "ROOT", "--out", str(tmp_path), "--set", "portrait.learning_rate=1e9"]) == 2
    assert len(typed) == 2 and not (tmp_path / "portrait.safetensors").exists()
