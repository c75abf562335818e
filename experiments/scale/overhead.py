"""Ray's overhead on one machine: N actors of one thread each against the local engine with N threads.

    python -m experiments.scale.overhead --proposals P --images DIR --subset LIST --out runs/overhead

Both write the same files, which is checked. What starting Ray and its actors takes is given apart, as it does not grow
with the number of images. Throughput is that of the time in which images are judged and written.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from tinygan.checkpoint import load_checkpoint, packaged_weights
from tinygan.files import content_digest
from tinygan.formats.writing import open_output
from tinygan.runtime import Runtime, RuntimeOptions
from tinygan.second_stage import cluster as ray_engine
from tinygan.second_stage.cluster import Cluster, ClusterOptions, Work
from tinygan.second_stage.engine import Judging, rescore
from tinygan.second_stage.fusion import stored_fusion
from tinygan.second_stage.judge import Judge
from tinygan.second_stage.judging import Judged, Request, judge_images
from tinygan.second_stage.plan import Plan, plan_rescoring
from tinygan.second_stage.rescoring import RescoreConfig


def timed(make: Callable[[], Work[Any, Any]], log: Path) -> Work[Any, Any]:
    """Work that notes when it began and ended, a line per task; to be made in an actor."""
    work = make()

    def noted(items: Any) -> Iterator[Any]:
        began = time.time()
        yield from work(items)
        with log.open("a") as file:
            file.write(f"{began} {time.time()}\n")

    return noted


class TimedCluster(Cluster):
    """A cluster of which every task notes its time.

    Args:
        settings: where it is.
        log: a file that the actors share.
    """

    def __init__(self, settings: ClusterOptions, log: Path) -> None:
        super().__init__(settings)
        self._log, self.busy = log, 0.0

    def map(self, make: Any, items: Any, *more: Any, **named: Any) -> Iterator[Any]:
        """As a cluster's."""
        before = len(_lines(self._log))
        yield from super().map(partial(timed, make, self._log), items, *more, **named)
        if new := _lines(self._log)[before:]:
            self.busy += max(end for _, end in new) - min(began for began, _ in new)


def _lines(log: Path) -> list[tuple[float, float]]:
    rows = log.read_text().splitlines() if log.exists() else []
    return [(float(began), float(ended)) for began, ended in (row.split() for row in rows)]


def run(plan: Plan, judging: Judging, config: RescoreConfig, out: Path) -> dict[str, float]:
    """Rescore into a folder; proposals judged and wall time in seconds."""
    writer = open_output(out, ("rescore.json", "calibration.json"), "overhead", {}, resume=False, overwrite=True)
    began = time.time()
    report = rescore(plan, judging, config, writer)
    writer.close()
    return {"images": report.images, "proposals": report.rescored, "wall_s": time.time() - began}


def main() -> None:
    """Measure both engines in turn."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("proposals", "images", "subset", "out"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    weights = load_checkpoint(packaged_weights("lite"), ("fused",))
    fusion = stored_fusion(weights)
    assert fusion is not None
    config = RescoreConfig(fusion=fusion)
    plan = plan_rescoring(arguments.proposals, arguments.images, config, arguments.subset)
    arguments.out.mkdir(parents=True, exist_ok=True)

    judge = Judge.from_weights(weights, Runtime(RuntimeOptions(threads=arguments.workers)))
    busy = 0.0

    def here(requests: Iterable[Request]) -> Iterator[Judged]:
        nonlocal busy
        began = time.time()
        yield from judge_images(judge, requests, **config.judging_options)
        busy += time.time() - began

    local = run(plan, here, config, arguments.out / "local")
    local["busy_s"] = busy

    log = arguments.out / "tasks.log"
    log.unlink(missing_ok=True)
    began = time.time()
    cluster = TimedCluster(ClusterOptions(workers=arguments.workers, options=RuntimeOptions(threads=1)), log)
    joined = time.time() - began
    ray = run(plan, ray_engine.judging(weights, config, cluster), config, arguments.out / "ray")
    ray |= {"busy_s": cluster.busy, "join_s": joined, "actors_s": ray["wall_s"] - cluster.busy}
    tasks = _lines(log)
    ray |= {"tasks": len(tasks), "task_s": sum(end - start for start, end in tasks) / len(tasks)}
    same = [content_digest(next((arguments.out / name).rglob("*.txt")).parent) for name in ("local", "ray")]
    overhead = ray["busy_s"] / local["busy_s"] - 1
    print(json.dumps({"local": local, "ray": ray, "overhead": round(overhead, 3), "equal": same[0] == same[1]}))


if __name__ == "__main__":
    main()
