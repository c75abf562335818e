"""What keeps runs from harm: locks, signals, full disks, states that are not finite, inputs that changed."""

import errno
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from tinygan.cli.common import make_parser, run_command
from tinygan.cli.options import add_output_options
from tinygan.cli.train import main as train
from tinygan.detections import Detections
from tinygan.errors import CheckpointError, DataError, TinyGanError
from tinygan.files import hold_folder, write_atomically
from tinygan.formats.writing import open_output, write_wider
from tinygan.runtime import Runtime, RuntimeOptions
from tinygan.training.loop import LoopConfig, descend, run_loop
from tinygan.training.run import RunFolder

HOLD = """
import sys, time
from pathlib import Path
from tinygan.files import hold_folder
with hold_folder(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


def holder(folder: Path) -> "subprocess.Popen[bytes]":
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(folder)], stdout=subprocess.PIPE)
    assert process.stdout is not None and process.stdout.readline() == b"held\n"
    return process


def body_of(out: Path, work=lambda: 0):
    parser = make_parser("tinygan-test", "A command of the test.")
    parser.add_argument("--out", type=Path)
    add_output_options(parser, "a run")
    return run_command(parser, lambda _: work(), ["--out", str(out)])


@pytest.mark.parametrize("name", ["out", "out.tar.gz"])
def test_two_runs_into_one_folder_and_a_lock_that_dies_with_its_owner(tmp_path, name, capsys):
    out = tmp_path / name
    process = holder(tmp_path / ("out" if name == "out" else "out.tar.gz.partial"))
    try:
        assert body_of(out) == 2
        assert "another run is writing into it; wait for it, or choose another --out" in capsys.readouterr().err
    finally:
        process.kill()
        process.communicate()
    assert body_of(out) == 0 and body_of(out) == 0


def test_a_held_folder_leaves_nothing_behind(tmp_path):
    with hold_folder(tmp_path / "a/b"):
        pass
    assert not list(tmp_path.iterdir())
    with hold_folder(tmp_path / "a/b"):
        (tmp_path / "a/b/mine").touch()
    assert [path.name for path in tmp_path.rglob("*")] == ["a", "b", "mine"]


@pytest.fixture
def usual_signals():
    """As in a terminal: jobs in the background are started with SIGINT ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("usual_signals")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
@pytest.mark.parametrize("lost", [False, True])
def test_a_signal_removes_half_written_files_and_says_how_to_go_on(tmp_path, number, code, lost, capsys):
    (tmp_path / "out").mkdir()

    def work():
        from tinygan.files import open_atomically

        with open_atomically(tmp_path / "out/a.txt") as file:
            file.write(b"half")
            try:
                signal.raise_signal(number)
            except KeyboardInterrupt:
                if not lost:
                    raise
                raise DataError("code that is not Python made this of it") from None
        return 0

    assert body_of(tmp_path / "out", work) == code
    assert capsys.readouterr().err == "tinygan-test: interrupted; continue with --resume\n"
    assert not list((tmp_path / "out").iterdir())
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


@pytest.mark.parametrize(
    ("number", "hint"),
    [(errno.ENOSPC, "No space left on device; free some space"), (errno.EROFS, "Read-only file system; choose")],
)
def test_a_disk_that_takes_no_more_is_one_line_with_the_files_name(tmp_path, number, hint, monkeypatch, capsys):
    def full(_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", full)
    (tmp_path / "out").mkdir()
    assert body_of(tmp_path / "out", lambda: write_atomically(tmp_path / "out/a.txt", b"x")) == 2
    said = capsys.readouterr().err
    assert f"{tmp_path}/out/a.txt: {hint}" in said and said.count("\n") == 1 and not list((tmp_path / "out").iterdir())


def test_a_line_that_was_cut_short_spoils_no_other(tmp_path):
    made_of = {"picture": "1-2"}

    def opened(resume):
        return open_output(
            tmp_path / "out", ("run.json",), "test", {}, resume=resume, overwrite=False, names=["a", "b"]
        )

    writer = opened(False)
    for name in "ab":
        writer.write(name, Detections.empty())
        writer.finish(name, made_of)
    file = tmp_path / "out/done.list"
    file.write_bytes(file.read_bytes()[:-5])  # the disk was full
    inputs = dict.fromkeys("ab", made_of)
    again = opened(True)
    assert set(again.done(inputs)) == {"a"}
    again.finish("b", made_of)
    assert set(opened(True).done(inputs)) == {"a", "b"}
    file.write_bytes(b"{\n" + file.read_bytes())
    with pytest.raises(DataError, match=r"done\.list: is damaged.*--overwrite"):
        opened(True).done(inputs)


def test_a_continued_run_removes_what_a_kill_left_half_written(tmp_path):
    writer = open_output(tmp_path / "out", ("run.json",), "test", {}, resume=False, overwrite=False, names=["e/a"])
    writer.write("e/a", Detections.empty())
    for name in ("e/.a.txt.x1y2z3w4.tmp", ".run.json.x1y2z3w4.tmp", ".mine.tmp"):
        (tmp_path / "out" / name).touch()
    open_output(tmp_path / "out", ("run.json",), "test", {}, resume=True, overwrite=False, names=["e/a"])
    assert {path.name for path in tmp_path.rglob(".*")} == {".mine.tmp"}
    run = RunFolder(tmp_path / "run", "")
    for name in (".last.ckpt.abc.tmp", "samples/.epoch_002.png.abc.tmp", ".mine.tmp"):
        (tmp_path / "run" / name).touch()
    run.remove_half_written()
    assert [path.name for path in (tmp_path / "run").rglob(".*")] == [".mine.tmp"]


def test_equal_detections_give_equal_archives_whatever_the_clock_says(tmp_path, monkeypatch):
    found = {"a.jpg": Detections(np.array([[1.0, 2, 3, 4]]), np.array([0.5]))}
    for name in ("a.tar.gz", "a.tar", "a.zip"):
        write_wider(tmp_path / name, found)
        before = (tmp_path / name).read_bytes()
        with monkeypatch.context() as patch:
            patch.setattr(time, "time", lambda: 3.0)  # 1970, which a zip cannot hold
            write_wider(tmp_path / name, found)
        assert (tmp_path / name).read_bytes() == before
    with tarfile.open(tmp_path / "a.tar.gz") as archive:
        assert [(one.name, one.mtime, one.uname) for one in archive] == [("a.txt", 0, "")]


class Exploding:
    """A weight whose loss is finite in the step that spoils it."""

    def __init__(self, runtime, at: int, spoil: float) -> None:
        self.net = torch.nn.Linear(1, 1)
        torch.nn.init.ones_(self.net.weight)
        self.optimiser = torch.optim.SGD(self.net.parameters(), lr=0.1)
        self.runtime, self.at, self.spoil, self.steps = runtime, at, spoil, 0

    def step(self, batch):
        self.steps += 1
        loss = self.net(torch.ones(1, 1)).square().mean()
        descend(loss * (self.spoil if self.steps == self.at else 1.0), self.net, self.optimiser, self.runtime)
        return {"loss": loss.detach()}

    def set_learning_rate(self, rate):
        pass

    def state_dict(self):
        return {"net": self.net.state_dict(), "optimiser": self.optimiser.state_dict()}

    def load_state_dict(self, state):
        self.net.load_state_dict(state["net"])

    def evaluate(self):
        return {}

    def draw_samples(self, path):
        path.touch()


@pytest.mark.parametrize("spoil", [float("inf"), float("nan"), 1e39])
def test_an_exploding_gradient_never_replaces_the_last_good_state(tmp_path, spoil):
    """The loss of step 4 is finite; its gradient is not, and the state is saved after that very step."""
    config = LoopConfig(epochs=1, patches_per_epoch=8, batch_size=1, log_every=1, save_every=2)
    runtime = Runtime(RuntimeOptions(device="cpu"))
    with pytest.raises(
        TinyGanError, match="'net.weight' is not finite after step 3: the training diverged; the last good"
    ):
        run_loop(Exploding(runtime, 4, spoil), torch.tensor, config, RunFolder(tmp_path / "run", ""), runtime)
    state = torch.load(tmp_path / "run/last.ckpt")
    assert state["step"] == 2 and all(tensor.isfinite().all() for tensor in state["stage"]["net"].values())
    assert not list((tmp_path / "run").glob(".*.tmp"))


def test_training_says_that_pictures_or_first_weights_changed(make_wider, tiny_set, tmp_path, capsys):
    data = make_wider(tmp_path / "wider")
    words = ["--stage", "mse-init", "--data", data.root, "--out", tmp_path / "run", "--device", "cpu", "--threads", "1"]
    words = [str(word) for word in [*words, *tiny_set, "--set", "mse_init.epochs=1", "--set", "rois.holdout=0.2"]]
    assert train(words) == 0
    (tmp_path / "run/finished.json").unlink()
    picture = next((data.root / "WIDER_train").rglob("*.jpg"))
    picture.write_bytes(picture.read_bytes() + b"\0")
    capsys.readouterr()
    assert train([*words, "--resume"]) == 2
    assert "first difference: '# content of data: " in capsys.readouterr().err


def test_a_run_of_before_inputs_were_noted_goes_on(tmp_path):
    RunFolder(tmp_path, "a: 1\n# content of proposals: x\n").append_metrics({"step": 0})
    now = "a: 1\n# content of proposals: x\n# content of init: y\n# content of data: z\n"
    RunFolder(tmp_path, now, resume=True)
    with pytest.raises(CheckpointError, match="first difference: '# content of data: w'"):
        RunFolder(tmp_path, now.replace("z", "w"), resume=True)


def test_a_state_that_is_cut_short_is_one_line(tmp_path):
    config = LoopConfig(epochs=1, patches_per_epoch=4, batch_size=1, save_every=1)
    runtime = Runtime(RuntimeOptions(device="cpu"))
    folder = RunFolder(tmp_path / "run", "")
    run_loop(Exploding(runtime, 0, 1.0), torch.tensor, config, folder, runtime)
    file = tmp_path / "run/last.ckpt"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match=r"last\.ckpt: damaged training state; delete it to start again"):
        run_loop(Exploding(runtime, 0, 1.0), torch.tensor, config, folder, runtime)


def test_kills_at_random_moments_lose_nothing(tmp_path):
    """A few of each; scripts/faults has hundreds, of all commands."""
    root = Path(__file__).resolve().parents[2]
    words = [
        sys.executable,
        "-m",
        "tests.faults.kills",
        "--kills",
        "4",
        "--per-run",
        "4",
        "--only",
        "fusion",
        "rescore",
    ]
    done = subprocess.run(words, cwd=root, capture_output=True, text=True, timeout=1500)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-2000:]
    totals = json.loads(done.stdout[done.stdout.index("{") :])
    assert totals["failures"] == [] and totals["totals"]["finished and equal"] >= 2
