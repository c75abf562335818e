"""Kills commands at random moments, continues them, and compares what they leave with an uninterrupted run.

    scripts/faults --kills 200 --log faults.jsonl

A parent process imports everything once; each run is a fork of it, so that kills fall into the work and not into the
import of torch. Data and networks are those of the tests.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

import tests.conftest as drawn
from tinygan.files import content_digest

FIRST_STAGE = [
    "pictures.size=64", "pictures.smallest_scale=0.3", "loop.epochs=2", "loop.patches_per_epoch=12",
    "loop.batch_size=4", "loop.log_every=1", "loop.save_every=2", "optimiser.average=0.5", "holdout=0.4",
    "evaluate_images=2",
]  # fmt: skip
PORTRAIT = [
    "crops.lr_size=8", "generator.form=shuffle", "generator.width=8", "generator.up_width=8",
    "generator.residual_blocks=1", "portrait_training.discriminator_start=2", "losses.pixel_form=log",
    "mse_init.epochs=1", "mse_init.patches_per_epoch=16", "mse_init.batch_size=4", "portrait.epochs=2",
    "portrait.patches_per_epoch=16", "portrait.batch_size=4", "portrait.save_every=2", "rois.holdout=0.4",
]  # fmt: skip
SIGNALS = (signal.SIGKILL, signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
ENDS = {signal.SIGTERM: 143, signal.SIGINT: 130}
DEADLINE_S = 900  # of one run: a crowded machine is slow, not wrong


@dataclass(frozen=True)
class Work:
    """A command line that leaves something.

    Attributes:
        name: of the work.
        main: ``module`` whose ``main`` runs it.
        words: its arguments without ``--out``.
        resumes: whether it has ``--resume``; others are started again.
        suffix: of the output's name.
    """

    name: str
    main: str
    words: Sequence[object]
    resumes: bool = True
    suffix: str = ""

    @property
    def again(self) -> list[str]:
        """What is typed after a run that was cut off."""
        return ["--resume" if self.resumes else "--overwrite"]


@dataclass
class Totals:
    """What was tried, and what went wrong."""

    counts: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)


def start(work: Work, out: Path, log: Path, *more: str, prepare: Callable[[], None] = lambda: None) -> int:
    """Start a fork that runs a command; returns its process id. ``prepare`` is called in it first."""
    process = os.fork()
    if process:
        return process
    code = 70
    try:
        handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        os.dup2(handle, 1)
        os.dup2(handle, 2)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        prepare()
        words = [*map(str, work.words), "--out", str(out), *more]
        code = importlib.import_module(work.main).main(words)
    except SystemExit as error:
        code = int(error.code or 0)
    except KeyboardInterrupt:
        code = 130  # before the command's own guard stood
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(code)


def wait(process: int, seconds: float | None = None) -> int | None:
    """The exit code of a fork (negative: the signal that ended it); ``None`` if it runs on after some seconds."""
    deadline = time.monotonic() + (DEADLINE_S if seconds is None else seconds)
    while time.monotonic() < deadline:
        done, status = os.waitpid(process, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.002)
    if seconds is not None:
        return None
    os.kill(process, signal.SIGKILL)
    os.waitpid(process, 0)
    return -999


def descendants(process: int) -> dict[int, bytes]:
    """Process ids, with their command lines, of all that a process has started, directly or not."""
    parents, names = {}, {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                names[int(entry.name)] = (entry / "cmdline").read_bytes()
            except (FileNotFoundError, ProcessLookupError):
                continue

    def is_below(one: int) -> bool:
        return one in parents and (parents[one] == process or is_below(parents[one]))

    return {one: name for one, name in names.items() if is_below(one)}


def left(out: Path) -> dict[str, object]:
    """What a run leaves, without what may differ: times, and paths of the output itself."""
    found: dict[str, object] = {}
    for file in sorted(out.rglob("*")) if out.is_dir() else [out]:
        name = file.relative_to(out).as_posix()
        if file.is_dir() or name in ("last.ckpt", "curves.png"):
            continue
        if name == "metrics.jsonl":
            rows = [json.loads(line) for line in file.read_text().splitlines()]
            found[name] = [{key: value for key, value in row.items() if key != "seconds"} for row in rows]
        elif name in ("done.list", "detect.jsonl"):
            found[name] = sorted(file.read_bytes().splitlines())  # each image once, in any order
        elif name == "written.list":  # names of files that are about to be written, some of them again
            found[name] = set(file.read_bytes().splitlines())
        else:
            found[name] = content_digest(file)
    return found


def rubbish(out: Path) -> list[str]:
    """Half-written files, beside or below an output."""
    near = [
        path
        for path in out.parent.iterdir()
        if path.name != out.name and path.name.startswith((f".{out.name}", f"{out.name}."))
    ]
    below = [
        path for path in out.rglob("*") if path.name.endswith((".tmp", ".partial", ".spent")) or path.name == "patches"
    ]
    return [str(path) for path in near + below]


class Run:
    """Works in a scratch folder, and counts.

    Args:
        folder: scratch.
        seed: of the moments of kills.
    """

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder, self.random, self.totals = folder, random.Random(seed), Totals()
        self.data = drawn.make_tiny_wider(folder / "wider")
        self._numbers = iter(range(10**9))

    def fail(self, work: Work, what: str, log: Path) -> None:
        """Note a failure, with the last lines that the command printed."""
        said = " | ".join(log.read_text(errors="replace").splitlines()[-3:]) if log.exists() else ""
        self.totals.failures.append(f"{work.name}: {what}: {said}")
        print("FAILED", self.totals.failures[-1], flush=True)

    def fresh(self, work: Work) -> tuple[Path, Path]:
        """A new output and a new log."""
        number = next(self._numbers)
        place = self.folder / "out" / f"{number}"
        place.mkdir(parents=True)
        return place / f"{work.name}{work.suffix}", place / "log"

    def whole(self, work: Work) -> tuple[Path, float]:
        """An uninterrupted run, and its seconds."""
        out, log = self.fresh(work)
        started = time.monotonic()
        code = wait(start(work, out, log))
        if code not in (0, 1):
            raise RuntimeError(f"{work.name}: {code}: {log.read_text()[-2000:]}")
        return out, time.monotonic() - started

    def chain(self, work: Work, reference: Path, seconds: float, most: int) -> None:
        """Kill a run up to ``most`` times, continue it each time, let it finish, and compare."""
        out, log = self.fresh(work)
        begun = False
        for number in range(most + 1):
            more = work.again if begun else []
            process = start(work, out, log, *more)
            stop = self.random.choice(SIGNALS) if number < most else None
            code = wait(process, None if stop is None else self.random.uniform(0, 0.9 * seconds))
            if stop is not None and code is None:
                os.kill(process, stop)
                code = wait(process)
                self.totals.counts[f"{work.name} {stop.name}"] += 1
                if stop in ENDS and code not in (ENDS[stop], 0, 1, -stop):
                    self.fail(work, f"{stop.name} gave {code}", log)
                if code == ENDS.get(stop) and (bad := [path for path in rubbish(out) if path.endswith(".tmp")]):
                    self.fail(work, f"{stop.name} left {bad}", log)
                begun = True
            if code in (0, 1):
                break
            if code is not None and code not in (-9, -15, -2, 130, 143):
                self.fail(work, f"continued, it gave {code}", log)
                return
        if left(out) != left(reference):
            a, b = left(out), left(reference)
            self.fail(work, f"differs in {[key for key in {*a, *b} if a.get(key) != b.get(key)]}", log)
        if bad := rubbish(out):
            self.fail(work, f"left {bad}", log)
        self.totals.counts["finished and equal"] += 1
        shutil.rmtree(out.parent)

    def two_at_once(self, work: Work, reference: Path, seconds: float) -> None:
        """A second run into the same folder is refused in one line, and harms nothing."""
        out, log = self.fresh(work)
        first = start(work, out, log)
        time.sleep(self.random.uniform(0.2, 0.6) * seconds)
        second = start(work, out, log.with_name("second"), "--resume")
        codes = wait(first), wait(second)
        said = log.with_name("second").read_text()
        if codes[0] not in (0, 1) or (codes[1] == 2) != ("another run is writing into it" in said):
            self.fail(work, f"two at once gave {codes}", log.with_name("second"))
        self.totals.counts["two runs at once"] += 1
        self.totals.counts["two runs at once: the second refused"] += codes[1] == 2
        if left(out) != left(reference):
            self.fail(work, "two at once: differs", log)

    def odd_clock(self, work: Work, reference: Path, seconds: float) -> None:
        """The clock jumps back to 1970 and on, in the middle of a run and between its parts."""

        def jump() -> None:
            real, began = time.time, time.monotonic()
            time.time = lambda: 3.0 if int((time.monotonic() - began) / max(seconds / 7, 0.01)) % 2 else real()

        out, log = self.fresh(work)
        process = start(work, out, log, prepare=jump)
        if wait(process, 0.6 * seconds) is None:
            os.kill(process, signal.SIGKILL)
            wait(process)
        code = wait(start(work, out, log, *work.again, prepare=jump))
        if code not in (0, 1) or left(out) != left(reference):
            self.fail(work, f"clock: {code} or different", log)
        self.totals.counts["clock jumped"] += 1

    def full_disk(self, work: Work, reference: Path) -> None:
        """On a disk that is full one line says so; with space, the run is continued."""
        size = sum(file.stat().st_size for file in reference.rglob("*") if file.is_file()) or reference.stat().st_size
        with small_disk(self.folder, max(40, int(self.random.uniform(0.2, 0.9) * size / 1024))) as (disk, grow):
            out, log = disk / f"{work.name}{work.suffix}", self.folder / "full.log"
            code = wait(start(work, out, log))
            said = log.read_text().splitlines()
            line = [text for text in said if "error:" in text]
            if code != 2 or len(line) != 1 or "No space left" not in line[0] or "Traceback" in "".join(said):
                if code in (0, 1):
                    return
                self.fail(work, f"full disk gave {code}", log)
            grow()
            code = wait(start(work, out, log, *work.again))
            if code not in (0, 1):
                self.fail(work, f"after the disk was full: {code}", log)
            elif left(out) != left(reference) or rubbish(out):
                self.fail(work, f"after the disk was full: different, or {rubbish(out)}", log)
            self.totals.counts["full disk"] += 1

    def read_only(self, work: Work) -> None:
        """Output on a disk that is read only."""
        with small_disk(self.folder, 100) as (disk, _):
            subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
            log = self.folder / "ro.log"
            code = wait(start(work, disk / f"{work.name}{work.suffix}", log))
            line = [text for text in log.read_text().splitlines() if "error:" in text]
            if code != 2 or len(line) != 1 or "Read-only file system; choose" not in line[0]:
                self.fail(work, f"read only gave {code}", log)
            self.totals.counts["read-only output"] += 1

    def cut_state(self, work: Work, seconds: float) -> None:
        """A resumable state that is cut short is refused in one line."""
        out, log = self.fresh(work)
        process = start(work, out, log)
        state = out / "last.ckpt"
        while not state.exists() and wait(process, 0.005) is None:
            pass
        os.kill(process, signal.SIGKILL)
        wait(process)
        content = state.read_bytes()
        state.write_bytes(content[: self.random.randrange(len(content))])
        code = wait(start(work, out, log, "--resume"))
        if code != 2 or "damaged training state" not in log.read_text().splitlines()[-1]:
            self.fail(work, f"a state that was cut gave {code}", log)
        self.totals.counts["truncated state"] += 1


@contextmanager
def small_disk(folder: Path, kib: int) -> Iterator[tuple[Path, Callable[[], None]]]:
    """A disk of so many KiB, and what makes it larger; needs root."""
    disk = Path(tempfile.mkdtemp(dir=folder))
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={kib}k", "tmpfs", str(disk)], check=True)
    try:
        yield disk, lambda: subprocess.run(["mount", "-o", "remount,size=200m", str(disk)], check=True) and None
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


def works(run: Run) -> Iterator[Work]:
    """Every command that leaves something; each may use what those before it left."""
    cpu = ["--device", "cpu", "--precision", "32", "--threads", "1"]
    tiny = [word for setting in drawn.TINY for word in ("--set", setting)]
    small = [word for setting in PORTRAIT for word in ("--set", setting)]
    data = ["--data", run.data.root]
    proposals = ["--proposals", run.data.proposals]
    made = run.folder / "made"
    images = run.data.root / "WIDER_val" / "images"
    train = "tinygan.cli.train"
    yield Work("propose", "proposals.cli.propose", ["--images", images, *cpu])
    yield Work("mse-init", train, ["--stage", "mse-init", *data, *cpu, *tiny])
    yield Work("gan", train, ["--stage", "gan", *data, *proposals, "--init", made / "mse-init", *cpu, *tiny])
    yield Work("judge", train, ["--stage", "judge", *data, *proposals, "--init", made / "gan", *cpu, *tiny])
    yield Work("fusion", train, ["--stage", "fusion", *data, *proposals, "--init", made / "judge", *cpu])
    yield Work("small", train, ["--stage", "mse-init", *data, *cpu, *small])
    yield Work("portrait", train, ["--stage", "portrait", *data, "--init", made / "small", *cpu, *small])
    first = [word for setting in FIRST_STAGE for word in ("--set", setting)]
    yield Work("first-stage", "proposals.cli.train", [*data, "--device", "cpu", "--threads", "1", *first])
    rescore = ["--proposals", run.data.proposals, "--images", run.data.root, "--checkpoint", made / "fusion", *cpu]
    yield Work("rescore", "tinygan.cli.rescore", rescore)
    yield Work("rescore-archive", "tinygan.cli.rescore", rescore, suffix=".tar.gz")
    table = ["--table", drawn.make_table(run.data, run.folder / "in.parquet", 1), "--checkpoint", made / "fusion"]
    yield Work("rescore-table", "tinygan.cli.rescore", [*table, *cpu])
    yield Work("detect", "tinygan.cli.detect", [images, *cpu])
    yield Work("upscale", "tinygan.cli.upscale", [_faces(run.folder), "--device", "cpu", "--threads", "1"])
    truth = run.data.root / "wider_face_split" / "wider_face_val_bbx_gt.txt"
    report = [made / "rescore", "--baseline", run.data.proposals, "--images", images]
    yield Work("report", "tinygan.cli.report", [*report, "--ground-truth", truth, *cpu], False, ".html")
    yield Work("convert", "tinygan.cli.convert", [made / "rescore", "--to", "wider"], False)


def _faces(folder: Path) -> Path:
    """Small pictures, which are quick to enlarge."""
    faces = folder / "faces"
    faces.mkdir()
    rng = np.random.default_rng(0)
    for number in range(12):
        Image.fromarray(rng.integers(0, 255, (14, 12, 3), np.uint8)).save(faces / f"{number}.png")
    return faces


def load_networks() -> None:
    """Import what commands use, and give stage portrait features that are not downloaded."""
    for module in ("train", "rescore", "detect", "upscale", "report", "convert"):
        importlib.import_module(f"tinygan.cli.{module}")
    for module in (
        "training.portrait",
        "training.gan",
        "training.judge",
        "training.fusion",
        "detect.run",
        "second_stage.tables",
    ):
        importlib.import_module(f"tinygan.{module}")
    for module in ("cli.train", "cli.propose", "train.run", "yunet", "retinaface"):
        importlib.import_module(f"proposals.{module}")
    importlib.import_module("pyarrow.parquet")
    import torch

    from tinygan.models.efficientnet import EfficientNetLite0
    from tinygan.training import portrait

    def features() -> EfficientNetLite0:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return EfficientNetLite0().eval()

    portrait.load_efficientnet_lite0 = features


def main() -> int:
    """Run it all; returns 1 if anything was lost."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=200, help="at least so many, over all commands")
    parser.add_argument("--per-run", type=int, default=4, help="kills of one run before it may finish")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="*", help="names of commands; those that they need run too")
    parser.add_argument("--faults", action="store_true", help="full disks and read-only ones too, which need root")
    parser.add_argument("--log", type=Path, help="totals, as a line of JSON per round")
    arguments = parser.parse_args()
    load_networks()
    with tempfile.TemporaryDirectory() as scratch:
        run = Run(Path(scratch), arguments.seed)
        chosen = []
        for work in works(run):
            reference, seconds = run.whole(work)
            made = run.folder / "made" / f"{work.name}{work.suffix}"
            made.parent.mkdir(exist_ok=True)
            made.symlink_to(reference)
            if not arguments.only or work.name in arguments.only:
                chosen.append((work, reference, seconds))
            print(f"{work.name}: {seconds:.1f} s uninterrupted", flush=True)
            if arguments.only and len(chosen) == len(arguments.only):
                break
        _rounds(run, chosen, arguments)
    print(json.dumps({"totals": run.totals.counts, "failures": run.totals.failures}, indent=1))
    return 1 if run.totals.failures else 0


def _rounds(run: Run, chosen: list[tuple[Work, Path, float]], arguments: argparse.Namespace) -> None:
    """Kill every command in turn until there were enough kills, with the other faults in the first round."""
    first = True
    while _kills(run) < arguments.kills:
        before = _kills(run)
        for work, reference, seconds in chosen:
            run.chain(work, reference, seconds, arguments.per_run)
            if first and arguments.faults:
                _other_faults(run, work, reference, seconds)
            if arguments.log is not None:
                line = {"after": work.name, "kills": _kills(run), **run.totals.counts, "failures": run.totals.failures}
                with arguments.log.open("a") as file:
                    file.write(json.dumps(line) + "\n")
            if _kills(run) >= arguments.kills and not first:
                return
        first = False
        if _kills(run) == before:
            return  # each run was done before its kill


def _kills(run: Run) -> int:
    return sum(count for name, count in run.totals.counts.items() if name.split()[-1].startswith("SIG"))


def _other_faults(run: Run, work: Work, reference: Path, seconds: float) -> None:
    run.odd_clock(work, reference, seconds)
    run.full_disk(work, reference)
    run.read_only(work)
    if work.resumes:
        run.two_at_once(work, reference, seconds)
    if (reference / "last.ckpt").exists():
        run.cut_state(work, seconds)


if __name__ == "__main__":
    raise SystemExit(main())
