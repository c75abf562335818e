"""``--engine ray`` writes what the local engine writes, byte for byte, also if an actor or the driver is killed."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.conftest import make_tiny_wider
from tests.faults.kills import descendants
from tinygan.cli.rescore import main

ROOT = Path(__file__).resolve().parents[2]
RESCORE = "from tinygan.cli.rescore import main; raise SystemExit(main())"


def words(data, checkpoint, out: Path, *more: str) -> list[str]:
    given = ["--proposals", data.proposals, "--images", data.root, "--checkpoint", checkpoint, "--out", out, *more]
    return [str(word) for word in given]


def contents(out: Path) -> dict[str, object]:
    found: dict[str, object] = {file.relative_to(out).as_posix(): file.read_bytes() for file in out.rglob("*.txt")}
    return {**found, "done": sorted((out / "done.list").read_bytes().splitlines())}


def test_options_of_a_cluster_need_the_engine(tiny_wider, checkpoint, tmp_path, capsys):
    assert main(words(tiny_wider, checkpoint, tmp_path / "out", "--workers", "2")) == 2
    assert "--address and --workers are for --engine ray" in capsys.readouterr().err


def test_without_ray_one_line_says_what_to_install(tiny_wider, checkpoint, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    assert main(words(tiny_wider, checkpoint, tmp_path / "out", "--engine", "ray")) == 2
    assert "--engine ray needs Ray: pip install 'tinygan[ray]'" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_killed_actors_and_drivers_lose_and_repeat_nothing(finding_checkpoint, tmp_path):
    pytest.importorskip("ray")
    data = make_tiny_wider(tmp_path / "data", 48, 4)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "RAY_USAGE_STATS_ENABLED": "0"}

    def start(out: Path, *more: str) -> "subprocess.Popen[bytes]":
        typed = [sys.executable, "-c", RESCORE, *words(data, finding_checkpoint, out, *more)]
        with (tmp_path / "log").open("ab") as log:
            return subprocess.Popen(typed, env=environment, stderr=log, stdout=log)

    cluster = ("--engine", "ray", "--workers", "2")
    assert start(tmp_path / "local").wait(900) == 0
    for kill in ("nobody", "an actor", "the driver"):
        out = tmp_path / kill
        process = start(out, *cluster)
        if kill != "nobody":
            while not (out / "done.list").exists() and process.poll() is None:
                time.sleep(0.002)
            victim = (
                process.pid
                if kill == "the driver"
                else next(one for one, name in descendants(process.pid).items() if b"MapWorker" in name)
            )
            os.kill(victim, signal.SIGKILL)
        code = process.wait(900)
        if kill == "the driver":
            assert code == -signal.SIGKILL
            code = start(out, *cluster, "--resume").wait(900)
        assert code == 0, f"{kill}: {(tmp_path / 'log').read_text()[-2000:]}"
        assert contents(out) == contents(tmp_path / "local"), kill
