from threading import Barrier, current_thread

import pytest
import torch

from tinygan.cli.common import make_parser
from tinygan.cli.options import add_runtime_options, runtime_options
from tinygan.errors import ConfigError
from tinygan.proposers import choose_proposer
from tinygan.runtime import (
    Runtime,
    RuntimeOptions,
    command_threads,
    on_own_threads,
    one_thread,
    restore_rng_state,
    rng_state,
    seed_everything,
)

CPU = torch.device("cpu")


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


@pytest.mark.parametrize(
    ("vendor", "flags", "precision"),
    [
        ("GenuineIntel", "avx2 avx512_bf16 amx_tile amx_bf16", "bf16"),
        ("GenuineIntel", "avx2 avx512_bf16", "32"),
        ("GenuineIntel", "avx2 amx_tile", "32"),
        ("AuthenticAMD", "avx2 avx512_bf16", "bf16"),
        ("AuthenticAMD", "avx2 avx512f", "32"),
        (None, None, "32"),
    ],
)
def test_auto_is_bf16_where_the_cpu_multiplies_it_faster(monkeypatch, tmp_path, vendor, flags, precision):
    if flags is not None:
        (tmp_path / "cpuinfo").write_text(f"processor\t: 0\nvendor_id\t: {vendor}\nflags\t\t: fpu {flags} sse\n")
    monkeypatch.setattr("tinygan.runtime.CPUINFO", tmp_path / "cpuinfo")
    assert Runtime(RuntimeOptions(device="cpu")).precision == precision
    assert Runtime(RuntimeOptions(device="cpu").exact()).precision == "32"
    assert [choose_proposer(name).runtime(RuntimeOptions()).precision for name in ("yunet", "retinaface")] == [
        precision,
        "32",
    ]
    assert Runtime(RuntimeOptions(device="cpu", precision="bf16").exact()).precision == "bf16"


def test_only_a_runtime_that_is_told_so_sets_the_threads(two_threads):
    assert str(Runtime(RuntimeOptions(device="cpu", precision="32"))) == "cpu, 2 threads, precision 32"
    assert torch.get_num_threads() == two_threads
    assert str(Runtime(RuntimeOptions(device="cpu", precision="bf16", threads=1))) == "cpu, 1 thread, precision bf16"
    assert torch.get_num_threads() == 1


def test_one_thread_is_for_a_while(two_threads):
    with pytest.raises(KeyError), one_thread():
        assert torch.get_num_threads() == 1
        raise KeyError
    assert torch.get_num_threads() == two_threads


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """Eight cores; control groups as ``files`` says, by their path below /sys/fs/cgroup."""

    def make(omp: str | None, own: str = "", files: dict[str, str] | None = None) -> None:
        monkeypatch.setattr("tinygan.runtime.available_cores", lambda: 8)
        monkeypatch.setattr("tinygan.runtime.OWN_CGROUP", tmp_path / "own")
        monkeypatch.setattr("tinygan.runtime.CGROUPS", tmp_path / "cgroup")
        monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
        if omp is not None:
            monkeypatch.setenv("OMP_NUM_THREADS", omp)
        (tmp_path / "own").write_text(own)
        for name, text in (files or {}).items():
            file = tmp_path / "cgroup" / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)

    return make


@pytest.mark.parametrize(("omp", "threads"), [(None, 8), ("3", 3), ("2,4", 2), ("99", 8), ("", 8), ("0", 1), ("x", 8)])
def test_a_command_takes_the_cores_it_may_use_and_no_more_than_openmp_is_told(machine, omp, threads):
    machine(omp)
    assert command_threads() == threads
    assert command_threads(5) == 5  # --threads


V1 = "3:cpuset:/x\n2:cpu,cpuacct:/docker/ab\n"


@pytest.mark.parametrize(
    ("own", "files", "threads"),
    [
        ("0::/", {"cpu.max": "250000 100000\n"}, 3),
        ("0::/", {"cpu.max": "max 100000\n"}, 8),
        ("0::/a/b\n", {"a/b/cpu.max": "max 100000\n", "a/cpu.max": "50000 100000\n"}, 1),
        ("0::/a/b\n", {"a/b/cpu.max": "400000 100000\n", "a/cpu.max": "600000 100000\n"}, 4),
        (V1, {"cpu/docker/ab/cpu.cfs_quota_us": "150000\n", "cpu/docker/ab/cpu.cfs_period_us": "100000\n"}, 2),
        (V1, {"cpu/cpu.cfs_quota_us": "150000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 2),  # the host's path
        (V1, {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, 8),
        ("3:cpuset:/\n", {"cpu/cpu.cfs_quota_us": "100000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 8),
    ],
)
def test_a_command_takes_no_more_than_the_quota_of_its_container(machine, own, files, threads):
    machine(None, own, files)
    assert command_threads() == threads


def test_a_command_hands_the_rule_on(machine):
    machine("3")
    parser = make_parser("tinygan-test", "A command of the test.")
    add_runtime_options(parser)
    assert runtime_options(parser.parse_args([])) == RuntimeOptions(threads=3)
    assert runtime_options(parser.parse_args(["--threads", "7", "--precision", "32"])) == RuntimeOptions(
        threads=7, precision="32"
    )


def test_random_state_can_be_put_back():
    seed_everything(3)
    state = rng_state(CPU)
    first = torch.rand(4)
    restore_rng_state(state, CPU)
    assert torch.equal(torch.rand(4), first)


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"backend": "tensorrt"}, "backend tensorrt: expected torch, onnxruntime, openvino"),
        ({"backend": "openvino", "device": "cuda"}, "backend openvino computes on the CPU alone, got device cuda"),
        ({"backend": "onnxruntime", "precision": "bf16"}, "backend onnxruntime has no precision bf16"),
    ],
)
def test_what_a_backend_cannot_do_is_refused(options, problem):
    with pytest.raises(ConfigError, match=problem):
        RuntimeOptions(**options)


def test_a_backend_is_part_of_the_settings(monkeypatch, tmp_path):
    (tmp_path / "cpuinfo").write_text("flags\t\t: amx_bf16\n")
    monkeypatch.setattr("tinygan.runtime.CPUINFO", tmp_path / "cpuinfo")
    runtime = Runtime(RuntimeOptions(backend="onnxruntime", threads=1))
    assert runtime.settings() == {"precision": "32", "backend": "onnxruntime"} and runtime.device == CPU
    assert str(runtime) == "cpu, 1 thread, precision 32, onnxruntime"
    assert Runtime(RuntimeOptions(backend="openvino", threads=1)).settings()["precision"] == "bf16"
    assert Runtime(RuntimeOptions(backend="openvino").exact()).settings() == {"precision": "32", "backend": "openvino"}


def test_placing_a_network_leaves_its_answers_and_the_layout_of_its_maps():
    torch.manual_seed(0)
    layers = (torch.nn.Conv2d(3, 8, 3), torch.nn.Conv2d(8, 4, 1), torch.nn.Conv2d(4, 4, 1, stride=2))
    network = torch.nn.Sequential(*layers)
    pictures = torch.rand(1, 3, 40, 30)
    with one_thread(), torch.inference_mode():
        before = network(pictures)
        Runtime(RuntimeOptions(device="cpu", precision="32")).place(network)
        after = network(pictures)
        assert torch.allclose(before, after, atol=1e-6) and after.shape == before.shape
        assert after.is_contiguous(memory_format=torch.channels_last)


def test_calls_side_by_side_have_a_thread_of_torch_each_and_leave_the_setting():
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    both = Barrier(2)  # passed only by two calls at the same time

    def call(number):
        both.wait(timeout=20)
        return number, torch.get_num_threads(), current_thread().name

    try:
        answers = list(on_own_threads(call, range(4), side_by_side=2))
        assert [answer[:2] for answer in answers] == [(0, 1), (1, 1), (2, 1), (3, 1)]
        assert current_thread().name not in {answer[2] for answer in answers}
        assert torch.get_num_threads() == 3
        with pytest.raises(ZeroDivisionError):
            list(on_own_threads(lambda number: 1 // number, [1, 0], side_by_side=2))
        here = list(on_own_threads(lambda number: (number, torch.get_num_threads()), [5], side_by_side=1))
        assert here == [(5, 3)] and torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


def test_calls_are_worth_running_side_by_side_by_pytorch_on_a_cpu_alone(monkeypatch):
    before = torch.get_num_threads()
    try:
        runtime = Runtime(RuntimeOptions(device="cpu", threads=3))
        assert runtime.side_by_side == 3
        assert Runtime(RuntimeOptions(backend="onnxruntime", threads=3)).side_by_side == 1
        monkeypatch.setattr("os.getpid", lambda: -1)
        assert runtime.side_by_side == 1  # in a forked process
    finally:
        torch.set_num_threads(before)
