import json
from dataclasses import replace

import numpy as np
import pytest
import safetensors
import torch
from safetensors.torch import save_file

import tinygan
from tinygan.checkpoint import (
    Checkpoint,
    chosen_weights,
    load_checkpoint,
    load_state,
    name_hash,
    packaged_weights,
    save_checkpoint,
    save_state,
)
from tinygan.errors import CheckpointError

GAN = Checkpoint("gan", {"crops": {"lr_size": 8}}, {"generator.a": torch.arange(3.0)}, frozenset("yx"))


def test_round_trip_from_file_and_folder(tmp_path):
    save_checkpoint(tmp_path / "model.safetensors", GAN)
    for path in (tmp_path, tmp_path / "model.safetensors"):
        back = load_checkpoint(path, ("gan", "fused"))
        assert replace(back, tensors={}) == replace(GAN, tensors={})
        assert torch.equal(back.part("generator")["a"], torch.arange(3.0)) and back.part("discriminator") == {}


def test_header_is_that_of_format_1(tmp_path):
    def header(checkpoint):
        save_checkpoint(tmp_path / "model.safetensors", checkpoint)
        with safetensors.safe_open(tmp_path / "model.safetensors", framework="pt") as file:
            return file.metadata()["tinygan"]

    start = '{"format": 1, "kind": "gan", "config": {"crops": {"lr_size": 8}}, "facts": {"trained_on": ["x", "y"]'
    assert header(GAN) == start + "}}"
    assert header(replace(GAN, fusion={"judge": 0.5})) == start + ', "fusion": {"judge": 0.5}}}'
    of_all = header(replace(GAN, kind="proposer", proposer="retinaface", fusion={}))
    assert list(json.loads(of_all)["facts"]) == ["trained_on", "proposer", "fusion"]


def test_a_file_of_an_earlier_version_needs_no_facts(tmp_path):
    header = {"format": 1, "kind": "fused", "config": {"fusion": {"looks": 1}}, "facts": {}}
    save_file({"generator.a": torch.zeros(1)}, tmp_path / "old.safetensors", {"tinygan": json.dumps(header)})
    old = load_checkpoint(tmp_path / "old.safetensors", ("fused",))
    assert old.recipe == {"fusion_search": {"looks": 1}} and old.trained_on == frozenset()
    assert old.proposer is None and old.fusion is None


def test_it_knows_the_images_it_was_trained_on_by_their_names():
    trained = replace(GAN, trained_on=frozenset([name_hash("0--Parade/a.jpg")]))
    assert trained.was_trained_on("0--Parade/a.jpg") and not trained.was_trained_on("0--Parade/b.jpg")


def test_other_kind_says_which_and_what_to_do(tmp_path):
    save_checkpoint(tmp_path / "model.safetensors", GAN)
    with pytest.raises(CheckpointError, match="kind 'gan', expected generator; fit stage fusion"):
        load_checkpoint(tmp_path, ("generator",))


def test_absent_foreign_and_damaged_files(tmp_path):
    with pytest.raises(CheckpointError, match="no such file"):
        load_checkpoint(tmp_path / "nothing", ("gan",))
    with pytest.raises(CheckpointError, match="no model.safetensors in this folder"):
        load_checkpoint(tmp_path, ("gan",))
    foreign = tmp_path / "foreign.safetensors"
    save_file({"a": torch.zeros(1)}, foreign)
    with pytest.raises(CheckpointError, match="not one of tinygan's"):
        load_checkpoint(foreign, ("gan",))
    damaged = tmp_path / "damaged.safetensors"
    damaged.write_bytes(b"nonsense")
    with pytest.raises(CheckpointError, match="damaged.safetensors: expected a safetensors file"):
        load_checkpoint(damaged, ("gan",))
    with pytest.raises(CheckpointError, match="no such file, folder or shipped checkpoint"):
        packaged_weights("huge")


def test_a_folder_may_be_called_like_a_checkpoint_that_ships(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lite").mkdir()
    (tmp_path / "lite/photo.jpg").touch()
    assert chosen_weights("lite") == packaged_weights("lite")
    assert tinygan.SuperResolver("lite").stages(np.zeros((8, 8, 3), np.uint8)).keys() == {"G1", "G2"}
    with pytest.raises(CheckpointError, match=r"lite: no model\.safetensors in this folder"):
        chosen_weights("./lite/../lite")  # a path, not a name
    with pytest.raises(CheckpointError, match=r"no model\.safetensors in this folder"):
        chosen_weights(tmp_path)
    with pytest.raises(CheckpointError, match="no such file, folder or shipped checkpoint"):
        chosen_weights("huge")
    save_checkpoint(tmp_path / "lite/model.safetensors", GAN)
    assert chosen_weights("lite").resolve() == tmp_path / "lite"


def test_state_round_trip_and_damage(tmp_path):
    save_state(tmp_path / "last.ckpt", {"step": 3, "stage": {"w": torch.ones(2)}})
    assert load_state(tmp_path / "last.ckpt")["step"] == 3
    (tmp_path / "last.ckpt").write_bytes(b"half")
    with pytest.raises(CheckpointError, match="last.ckpt: damaged training state"):
        load_state(tmp_path / "last.ckpt")
