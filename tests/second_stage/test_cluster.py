"""``--engine ray`` writes what the local engine writes, byte for byte, also if an actor or the driver is killed."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.conftest import make_table, make_tiny_wider
from tests.faults.kills import descendants
from tinygan.cli.rescore import main
from tinygan.second_stage import cluster

ROOT = Path(__file__).resolve().parents[2]
COMMAND = "from tinygan.cli.{} import main; raise SystemExit(main())"


def words(data, checkpoint, out: Path, *more: str) -> list[str]:
    given = ["--proposals", data.proposals, "--images", data.root, "--checkpoint", checkpoint, "--out", out, *more]
    return [str(word) for word in given]


def contents(out: Path) -> dict[str, object]:
    """What a run wrote; each picture's line once, in any order."""
    found: dict[str, object] = {
        file.relative_to(out).as_posix(): file.read_bytes()
        for file in out.rglob("*")
        if file.suffix in (".txt", ".png", ".csv", ".parquet") or file.name in ("detections.json", "manifest.json")
    }
    lists = {name: out / name for name in ("done.list", "detect.jsonl")}
    return {**found, **{name: sorted(file.read_bytes().splitlines()) for name, file in lists.items() if file.exists()}}


def begun(out: Path) -> bool:
    """Whether something of a run's output is finished."""
    journal = out / "detect.jsonl"
    finished = (out / "done.list").exists() or any(out.glob("part-*.parquet"))
    return finished or (journal.exists() and b'{"done"' in journal.read_bytes())


def test_options_of_a_cluster_need_the_engine(tiny_wider, checkpoint, tmp_path, capsys):
    assert main(words(tiny_wider, checkpoint, tmp_path / "out", "--workers", "2")) == 2
    assert "--address and --workers are for --engine ray" in capsys.readouterr().err


def test_without_ray_one_line_says_what_to_install(tiny_wider, checkpoint, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    assert main(words(tiny_wider, checkpoint, tmp_path / "out", "--engine", "ray")) == 2
    assert "--engine ray needs Ray: pip install 'tinygan[ray]'" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_what_waits_in_the_clusters_memory_is_bounded(monkeypatch):
    monkeypatch.setattr(cluster, "WINDOW_BYTES", 1000)
    drawn = []
    windows = cluster._windows((drawn.append(number) or bytes(400) for number in range(5)), most=8)
    assert len(next(windows)) == len(drawn) == 3  # no more are drawn before these are done
    assert [len(window) for window in windows] == [2]
    assert [len(window) for window in cluster._windows(range(10), most=8)] == [8, 2]
    assert not list(cluster._windows([], most=2))


@pytest.mark.parametrize(("items", "actors", "count"), [(10**6, 100, 1), (19_540, 16_000, 1), (2 * 10**6, 16_000, 8)])
def test_a_task_holds_several_items_only_where_thousands_of_actors_have_many(items, actors, count):
    assert cluster.items_per_task(items, actors) == count


@pytest.mark.slow
@pytest.mark.parametrize("work", ["rescore", "detect", "rescore a table", "detect in a table"])
def test_killed_actors_and_drivers_lose_and_repeat_nothing(finding_checkpoint, tmp_path, work):
    pytest.importorskip("ray")
    data = make_tiny_wider(tmp_path / "data", 4, 48)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "RAY_USAGE_STATS_ENABLED": "0"}
    given = ["--proposals", data.proposals / "val", "--images", data.root / "WIDER_val/images"]
    if work == "detect":
        given = [data.root / "WIDER_val/images"]
    elif "table" in work:
        given = ["--table", make_table(data, tmp_path / "in.parquet", 3)]
    rescoring = ["--checkpoint", finding_checkpoint, "--set", "again_from=-0.005"]  # a second look at some
    given += rescoring if "rescore" in work else ["--min-score", "0.01"]

    def start(out: Path, *more: str) -> "subprocess.Popen[bytes]":
        command = COMMAND.format(work.split()[0])
        typed = [sys.executable, "-c", command, *map(str, given), "--threads", "1", "--out", str(out), *more]
        with (tmp_path / "log").open("ab") as log:
            return subprocess.Popen(typed, env=environment, stderr=log, stdout=log)

    on_ray = ("--engine", "ray", "--workers", "2")
    assert start(tmp_path / "local").wait(900) == 0, (tmp_path / "log").read_text()[-2000:]
    expected = contents(tmp_path / "local")
    assert len(expected) > 10
    for kill in ("nobody", "an actor", "the driver"):
        out = tmp_path / kill
        process = start(out, *on_ray)
        if kill != "nobody":
            while not begun(out) and process.poll() is None:
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
            code = start(out, *on_ray, "--resume").wait(900)
        assert code == 0, f"{kill}: {(tmp_path / 'log').read_text()[-2000:]}"
        assert contents(out) == expected, kill
        assert not list(out.rglob("*.tmp")), kill
