"""What a thousand machines would take for ten million pictures, and where they saturate.

    python -m experiments.scale.run --out runs/scale

The planner, the driver and Ray are the real ones; the model is a stub, and so are the machines. Measured are (1)
planning a table of ten million rows, (2) what a task costs Ray's driver, (3) what a picture in a folder costs it,
(4) going on with a table of which all parts are there. A queue with these times then stands for the cluster.
"""

from __future__ import annotations

import argparse
import heapq
import json
import os
import resource
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from tinygan.detections import Detections
from tinygan.formats.folders import ParsedDetections
from tinygan.formats.parts import Answer, Part, PartFolder, write_part
from tinygan.formats.shards import ROWS, Shard, Table, plan_table
from tinygan.formats.writing import open_output
from tinygan.runtime import RuntimeOptions
from tinygan.second_stage.cluster import (
    TASKS_PER_ACTOR,
    WINDOW_TASKS,
    Cluster,
    ClusterOptions,
    items_per_task,
)  # fmt: skip
from tinygan.second_stage.engine import CHUNK, rescore
from tinygan.second_stage.judging import Judged, Request
from tinygan.second_stage.plan import Plan
from tinygan.second_stage.rescoring import RescoreConfig

ROWS_PER_FILE = 10_240
BOXES = 82  # per picture, as in the measurement of the cost
SECONDS_PER_PICTURE = 0.249  # of one core, measured by overhead.py: 325 pictures, 26,802 boxes
CORES = 16  # of a machine
START_S = 11.0  # of Ray and its actors, measured by overhead.py


@dataclass(frozen=True)
class Costs:
    """What was measured, in seconds.

    Attributes:
        rows: of the table.
        shards: of the table.
        plan: planning it.
        plan_mb: memory that the planner took, in MB.
        queue: of the driver before the first task, per task of Ray.
        task: of the driver, per task of Ray.
        picture: of the driver, per picture of a folder: calibrating, fusing and writing.
        resume: looking at one part that is there.
    """

    rows: int
    shards: int
    plan: float
    plan_mb: float
    queue: float
    task: float
    picture: float
    resume: float


def make_table(folder: Path, rows: int) -> Path:
    """Files of :data:`ROWS_PER_FILE` rows in row groups of :data:`ROWS`: one, and as many links to it as are needed."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder.mkdir(parents=True, exist_ok=True)
    first = folder / "00000.parquet"
    box = [[10.0, 10.0, 30.0, 34.0]] * BOXES
    columns = {
        "path": [f"s3://pictures/{row}.jpg" for row in range(ROWS_PER_FILE)],
        "boxes": pa.array([box] * ROWS_PER_FILE, pa.list_(pa.list_(pa.float32()))),
        "scores": pa.array([[0.5] * BOXES] * ROWS_PER_FILE, pa.list_(pa.float32())),
    }
    pq.write_table(pa.table(columns), first, row_group_size=ROWS)
    for number in range(1, -(-rows // ROWS_PER_FILE)):
        os.link(first, folder / f"{number:05d}.parquet")
    return folder


def measure_plan(folder: Path, rows: int) -> tuple[Table, float, float]:
    """The plan, its seconds, and by how many MB the process grew."""
    place = make_table(folder, rows)
    before, began = _peak_mb(), time.perf_counter()
    table = plan_table(str(place), with_boxes=True)
    return table, time.perf_counter() - began, _peak_mb() - before


def _peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


class Stub:
    """Work without a model: a part per shard, of which nothing is written."""

    def __call__(self, shards: Sequence[Shard]) -> Iterator[Part]:
        """Parts without boxes."""
        return (Part(shard) for shard in shards)


def measure_task(table: Table, tasks: int, workers: int) -> tuple[float, float]:
    """Seconds of the driver per task, before the first one runs, and once they run."""
    cluster = Cluster(ClusterOptions(workers=workers, options=RuntimeOptions(threads=1)))
    arrivals = []
    for count in (workers, tasks):
        began = time.perf_counter()
        arrivals.append([time.perf_counter() - began for _ in cluster.map(Stub, table.shards[:count], per_task=1)])
    few, many = arrivals
    return max(0.0, many[0] - few[0]) / tasks, (many[-1] - many[0]) / (len(many) - 1)


def measure_picture(folder: Path, pictures: int) -> float:
    """Seconds of the driver per picture of a folder, whose proposals are judged elsewhere."""
    rng = np.random.default_rng(0)
    names = [f"{number}.jpg" for number in range(pictures)]
    corner = rng.uniform(0, 900, (BOXES, 2))
    one = Detections(np.concatenate([corner, corner + 20], axis=1), np.sort(rng.uniform(0, 1, BOXES))[::-1].copy())
    found = dict.fromkeys(names, one)
    files = ParsedDetections(found, folder)
    plan = Plan(files, {name: name for name in names}, {name: folder / name for name in names}, found, [])

    def judge(requests: Iterable[Request]) -> Iterator[Judged]:
        for request in requests:
            yield Judged(request.name, request.proposals, np.zeros(BOXES), request.proposals.boxes)

    writer = open_output(folder / "out", ("settings.json",), "scale", {}, resume=False, overwrite=True)
    began = time.perf_counter()
    rescore(plan, judge, RescoreConfig(), writer)
    return (time.perf_counter() - began) / pictures


def measure_resume(table: Table, folder: Path, parts: int) -> float:
    """Seconds per part to find out that it is there and of what it was made."""
    some = Table(table.shards[:parts], 0, 0)
    out = PartFolder(str(folder), "scale", {}, resume=False, overwrite=True)
    for shard in some.shards:
        write_part(out, shard, [Answer("a", Detections.empty())])
    again = PartFolder(str(folder), "scale", {}, resume=True, overwrite=False)
    began = time.perf_counter()
    assert len(again.done(some)) == len(some.shards)
    return (time.perf_counter() - began) / len(some.shards)


def simulate(durations: Sequence[float], workers: int, driver_s: float, start_s: float = 0.0) -> float:
    """Seconds until all tasks are done.

    Args:
        durations: seconds of each task, in the order in which they are handed out.
        workers: number of them; a free one gets the next task.
        driver_s: seconds of the driver, which is one, per task.
        start_s: seconds before the first task.
    """
    free, now, end = [start_s] * min(workers, len(durations)), start_s, start_s
    for seconds in durations:
        now = max(now + driver_s, heapq.heappop(free))
        end = max(end, now + seconds)
        heapq.heappush(free, now + seconds)
    return end


def wall_s(costs: Costs, kind: str, pictures: int, workers: int) -> float:
    """Seconds for so many pictures in a ``table`` or in a ``folder``, with the windows that the cluster works in."""
    if kind == "table":
        together, driver, before = ROWS * items_per_task(pictures // ROWS, workers), costs.task, costs.plan
    else:
        together, before = round(CHUNK / BOXES), 0.0
        driver = costs.task + costs.picture * together
    rng = np.random.default_rng(0)
    # Pictures differ: a task is as long as the mean of its pictures, each between none and twice the mean.
    lengths = rng.normal(1, 1 / np.sqrt(3 * together), -(-pictures // together)).clip(0.1)
    durations = (SECONDS_PER_PICTURE * together * lengths).tolist()
    window = max(WINDOW_TASKS, TASKS_PER_ACTOR * workers)
    for start in range(0, len(durations), window):
        some = durations[start : start + window]
        before += simulate(some, workers, driver, START_S + costs.queue * len(some))
    return before


def lines_of(costs: Costs, kind: str, pictures: int, machines: Sequence[int]) -> list[dict[str, float]]:
    """For each number of machines the hours, and the share of their time that is used."""
    lines = []
    for count in machines:
        wall = wall_s(costs, kind, pictures, count * CORES)
        used = pictures * SECONDS_PER_PICTURE / (wall * count * CORES)
        lines.append({"machines": count, "hours": round(wall / 3600, 3), "used": round(used, 3)})
    return lines


def main() -> None:
    """Measure, simulate and print both as lines of JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="scratch folder")
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--tasks", type=int, default=2_000, help="given to Ray")
    parser.add_argument("--pictures", type=int, default=2_000, help="of the folder")
    parser.add_argument("--machines", type=int, nargs="+", default=[1, 10, 100, 300, 1000, 3000])
    arguments = parser.parse_args()
    table, plan_s, plan_mb = measure_plan(arguments.out / "table", arguments.rows)
    print(f"planned {table.rows:,} rows, {len(table.shards):,} shards in {plan_s:.1f} s, {plan_mb:.0f} MB", flush=True)
    picture = measure_picture(arguments.out / "folder", arguments.pictures)
    resume = measure_resume(table, arguments.out / "parts", arguments.pictures)
    print(
        f"driver: {1000 * picture:.2f} ms per picture of a folder; resume: {1000 * resume:.2f} ms per part", flush=True
    )
    queue, task = measure_task(table, arguments.tasks, 2)
    costs = Costs(table.rows, len(table.shards), plan_s, plan_mb, queue, task, picture, resume)
    print(json.dumps(asdict(costs)), flush=True)
    for kind, pictures in (("table", table.rows), ("table", 100 * table.rows), ("folder", table.rows)):
        for line in lines_of(costs, kind, pictures, arguments.machines):
            print(json.dumps({"from": kind, "pictures": pictures, **line}), flush=True)


if __name__ == "__main__":
    main()
