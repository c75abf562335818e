"""Work on a Ray cluster: actors hold the networks, Ray Data hands them images, this process alone writes.

Exactly once: an actor that dies is started again and its images are worked on again, which writes nothing; if this
process dies, its run is continued as any other, from what it has written, on a cluster or without one.
"""

from __future__ import annotations

import logging
import os
import pickle
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

from tinygan.checkpoint import Checkpoint
from tinygan.errors import ConfigError, DataError, MissingDependency
from tinygan.formats.images import ImageFile, allow_pixels
from tinygan.runtime import Runtime, RuntimeOptions
from tinygan.second_stage.engine import Judging
from tinygan.second_stage.judge import Judge
from tinygan.second_stage.judging import Judged, Request, closed, judge_images
from tinygan.second_stage.opinion import SecondOpinion
from tinygan.second_stage.rescoring import RescoreConfig

ITEMS_PER_TASK = 16
# What waits in the cluster's memory. Actors are started anew for each window, so it holds some tasks for each of them.
WINDOW_TASKS, WINDOW_BYTES = 20_000, 200_000_000
TASKS_PER_ACTOR = 8
ACTORS_PER_ITEM = 2_000  # of minutes each: this process hands out more than a hundred tasks per second
Item = TypeVar("Item")
Result = TypeVar("Result")
Work: TypeAlias = "Callable[[Sequence[Item]], Iterable[Result]]"


@dataclass(frozen=True, kw_only=True)
class ClusterOptions:
    """Where a cluster is, and how much of it is used.

    Attributes:
        address: as ``ray start --head`` prints it; ``None``: a cluster of this machine alone, for this run.
        workers: number of actors; ``None``: one per core of the cluster.
        options: device, precision and threads of each actor.
        max_pixels: pixels of the largest picture that is read, see :func:`tinygan.formats.images.allow_pixels`.
    """

    address: str | None = None
    workers: int | None = None
    options: RuntimeOptions = field(default_factory=RuntimeOptions)
    max_pixels: int | None = None


class Cluster:
    """A Ray cluster that this process has joined; work that needs images must find them under the same path everywhere.

    Args:
        settings: where it is.

    Raises:
        MissingDependency: without Ray.
        ConfigError: if it cannot be reached.
    """

    def __init__(self, settings: ClusterOptions) -> None:
        self.settings = settings
        self._ray = _connect(settings)
        self._workers = settings.workers or max(1, int(self._ray.cluster_resources().get("CPU", 1)))

    def map(
        self, make: Callable[[], Work[Item, Result]], items: Iterable[Item], per_task: int = ITEMS_PER_TASK
    ) -> Iterator[Result]:
        """What actors make of items, in order; ``items`` is iterated over lazily.

        Args:
            make: called once per actor; returns what makes a list of results of a list of items.
            items: whatever can be pickled.
            per_task: items that an actor gets at once, and again if another one dies on them.
        """
        gpus = 1 if self.settings.options.device.startswith("cuda") else 0
        for window in _windows(items, per_task * max(WINDOW_TASKS, TASKS_PER_ACTOR * self._workers)):
            tasks = -(-len(window) // per_task)
            results = self._ray.data.from_items(window, override_num_blocks=tasks).map_batches(
                _Worker,
                fn_constructor_args=(make, self.settings.max_pixels),
                compute=self._ray.data.ActorPoolStrategy(size=min(self._workers, tasks)),
                batch_size=per_task,
                num_cpus=1,
                num_gpus=gpus,
            )
            try:
                yield from (pickle.loads(row["result"]) for row in results.iter_rows())
            except self._ray.exceptions.RayError as error:
                raise DataError(
                    f"--engine ray: {' '.join(str(error).split())[-300:]}; continue with --resume"
                ) from error

    def spread(self, make: Callable[[], Work[Item, Result]], items: Iterable[Item]) -> Iterator[Result]:
        """Like :meth:`map`, for items that take minutes each."""
        some = list(items)
        return self.map(make, some, items_per_task(len(some), self._workers))


def items_per_task(items: int, actors: int) -> int:
    """How many items of minutes each are a task: several where thousands of actors would wait for the next one."""
    return max(1, min(actors // ACTORS_PER_ITEM, items // (TASKS_PER_ACTOR * actors)))


def _windows(items: Iterable[object], most: int) -> Iterator[list[dict[str, bytes]]]:
    """Pickled items, as many at once as may wait."""
    window: list[dict[str, bytes]] = []
    size = 0
    for item in items:
        window.append({"item": pickle.dumps(item)})
        size += len(window[-1]["item"])
        if size >= WINDOW_BYTES or len(window) >= most:
            yield window
            window, size = [], 0
    if window:
        yield window


class _Worker:
    """An actor."""

    def __init__(self, make: Callable[[], Work[Any, Any]], max_pixels: int | None) -> None:
        allow_pixels(max_pixels)
        self._work = make()

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        items = [pickle.loads(row) for row in batch["item"]]
        return {"result": [pickle.dumps(result) for result in self._work(items)]}


def judging(weights: Checkpoint, config: RescoreConfig, cluster: Cluster) -> Judging:
    """What has requests judged by a cluster's actors, those up to one that closes a batch by one actor."""
    make = partial(_make_judge, weights, config, cluster.settings.options)

    def judge(requests: Iterable[Request]) -> Iterator[Judged]:
        for judged in cluster.map(make, closed(map(_absolute, requests)), per_task=1):
            yield from judged

    return judge


def _make_judge(
    weights: Checkpoint, config: RescoreConfig, options: RuntimeOptions
) -> Work[Sequence[Request], list[Judged]]:
    judge, opinion = Judge.from_weights(weights, Runtime(options)), SecondOpinion.open(config, options)

    def work(groups: Sequence[Sequence[Request]]) -> Iterator[list[Judged]]:
        for group in groups:
            yield list(judge_images(judge, group, **config.judging_options, opinion=opinion))

    return work


def _absolute(request: Request) -> Request:
    image = request.image
    if isinstance(image, ImageFile) and isinstance(image.path, Path):
        return replace(request, image=image._replace(path=image.path.resolve()))
    return replace(request, image=image.resolve()) if isinstance(image, Path) else request


def _connect(cluster: ClusterOptions) -> Any:
    try:
        os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
        import ray
        import ray.data
    except ImportError as error:
        raise MissingDependency("--engine ray needs Ray: pip install 'tinygan[ray]'") from error
    if not ray.is_initialized():
        here = {"num_cpus": cluster.workers, "include_dashboard": False} if cluster.address is None else {}
        try:
            ray.init(address=cluster.address, log_to_driver=False, logging_level=logging.ERROR, **here)
        except Exception as error:  # Ray raises bare ones, as on a machine too busy to start it
            raise ConfigError(f"--engine ray: no cluster at {cluster.address or 'this machine'}: {error}") from error
    for name in ("ray", "ray.data"):
        logging.getLogger(name).setLevel(logging.ERROR)  # each execution announces its plan
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.execution_options.preserve_order = True
    return ray
