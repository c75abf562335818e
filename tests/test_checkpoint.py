import pytest
import torch
from safetensors.torch import save_file

from tinygan.checkpoint import Checkpoint, load_checkpoint, load_state, packaged_weights, save_checkpoint, save_state
from tinygan.errors import CheckpointError

WEIGHTS = Checkpoint("gan", {"crops": {"lr_size": 8}}, {"generator.a": torch.arange(3.0)}, {"trained_on": ["x"]})


def test_round_trip_from_file_and_folder(tmp_path):
    save_checkpoint(tmp_path / "model.safetensors", WEIGHTS)
    for path in (tmp_path, tmp_path / "model.safetensors"):
        back = load_checkpoint(path, ("gan", "fused"))
        assert (back.kind, back.config, back.facts) == ("gan", {"crops": {"lr_size": 8}}, {"trained_on": ["x"]})
        assert torch.equal(back.part("generator")["a"], torch.arange(3.0)) and back.part("discriminator") == {}


def test_other_kind_says_which_and_what_to_do(tmp_path):
    save_checkpoint(tmp_path / "model.safetensors", WEIGHTS)
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


def test_state_round_trip_and_damage(tmp_path):
    save_state(tmp_path / "last.ckpt", {"step": 3, "stage": {"w": torch.ones(2)}})
    assert load_state(tmp_path / "last.ckpt")["step"] == 3
    (tmp_path / "last.ckpt").write_bytes(b"half")
    with pytest.raises(CheckpointError, match="last.ckpt: damaged training state"):
        load_state(tmp_path / "last.ckpt")
