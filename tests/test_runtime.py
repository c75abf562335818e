import pytest
import torch

from tinygan.errors import ConfigError
from tinygan.runtime import Runtime, RuntimeOptions, bf16_is_faster, restore_rng_state, rng_state, seed_everything


@pytest.mark.parametrize("device", ["tpu", "cuda:x", "cpu0"])
def test_unknown_device_is_an_error(device):
    with pytest.raises(ConfigError, match="expected auto, cpu, cuda or cuda:N"):
        Runtime(RuntimeOptions(device=device))


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_cuda_without_cuda_says_use_cpu():
    with pytest.raises(ConfigError, match="use --device cpu"):
        Runtime(RuntimeOptions(device="cuda"))


def test_precision_decides_the_type_of_convolutions():
    conv, image = torch.nn.Conv2d(3, 4, 3), torch.rand(1, 3, 8, 8)
    for precision, dtype in (("bf16", torch.bfloat16), ("32", torch.float32)):
        runtime = Runtime(RuntimeOptions(device="cpu", precision=precision))
        with runtime.autocast():
            assert conv(image).dtype == dtype
    assert runtime.is_main and runtime.world_size == 1


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU needs no measurement")
@pytest.mark.parametrize(
    ("knows", "faster", "precision"), [(True, True, "bf16"), (True, False, "32"), (False, True, "32")]
)
def test_auto_takes_bf16_only_where_it_is_known_and_faster(monkeypatch, tmp_path, knows, faster, precision):
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("flags: avx2 avx512_bf16" if knows else "flags: avx2")
    monkeypatch.setattr("tinygan.runtime.CPUINFO", cpuinfo)
    monkeypatch.setattr("tinygan.runtime.bf16_is_faster", lambda: faster)
    assert Runtime(RuntimeOptions()).precision == precision


def test_which_precision_is_faster_is_measured_once_and_leaves_the_random_state_alone():
    bf16_is_faster.cache_clear()
    before = torch.get_rng_state()
    assert bf16_is_faster() in (True, False) and bf16_is_faster.cache_info().misses == 1
    assert torch.equal(torch.get_rng_state(), before)


def test_random_state_can_be_put_back():
    seed_everything(3)
    state = rng_state()
    first = torch.rand(4)
    restore_rng_state(state)
    assert torch.equal(torch.rand(4), first)
