"""Judging on a Ray cluster: actors hold the networks, Ray Data hands them images, this process alone writes.

Exactly once: an actor that dies is started again and its images are judged again, which writes nothing; if this process
dies, its run is continued as any other, from what it has written.
"""

from __future__ import annotations

import logging
import os
import pickle
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

from tinygan.checkpoint import Checkpoint
from tinygan.errors import ConfigError, MissingDependency
from tinygan.formats.images import ImageFile
from tinygan.runtime import Runtime, RuntimeOptions
from tinygan.second_stage.engine import Judging
from tinygan.second_stage.judge import Judge
from tinygan.second_stage.judging import Judged, Request, judge_images
from tinygan.second_stage.rescoring import RescoreConfig

IMAGES_PER_TASK = 16  # what is judged again if an actor dies
WINDOW = 20_000  # images whose proposals wait in the cluster's memory, 24 kB each at 600 proposals
Columns = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class ClusterOptions:
    """Where a cluster is, and how much of it is used.

    Attributes:
        address: as ``ray start --head`` prints it; ``None``: a cluster of this machine alone, for this run.
        workers: number of actors; ``None``: one per core of the cluster.
        options: device, precision and threads of each actor.
    """

    address: str | None = None
    workers: int | None = None
    options: RuntimeOptions = field(default_factory=RuntimeOptions)


class _Worker:
    """An actor: the networks, and the judging of a few images at a time."""

    def __init__(self, weights: Checkpoint, options: RuntimeOptions, config: RescoreConfig) -> None:
        self._judge, self._config = Judge.from_weights(weights, Runtime(options)), config

    def __call__(self, batch: Columns) -> Columns:
        requests = [pickle.loads(row) for row in batch["request"]]
        config = self._config
        judged = judge_images(self._judge, requests, config.batch_size, config.workers, config.looks)
        return {"judged": [pickle.dumps(one) for one in judged]}


def judging(weights: Checkpoint, config: RescoreConfig, cluster: ClusterOptions) -> Judging:
    """What has requests judged by a cluster's actors; answers come in any order.

    Images are read by the actors, so each machine must see them under the same path.

    Raises:
        MissingDependency: without Ray.
        ConfigError: if the cluster cannot be reached.
    """
    ray = _connect(cluster)
    workers = cluster.workers or max(1, int(ray.cluster_resources().get("CPU", 1)))
    arguments = {"weights": weights, "options": cluster.options, "config": config}

    def judge(requests: Iterable[Request]) -> Iterator[Judged]:
        waiting = iter(requests)
        while window := [{"request": pickle.dumps(_absolute(request))} for request in islice(waiting, WINDOW)]:
            tasks = -(-len(window) // IMAGES_PER_TASK)
            answers = ray.data.from_items(window, override_num_blocks=tasks).map_batches(
                _Worker,
                fn_constructor_kwargs=arguments,
                concurrency=min(workers, tasks),
                batch_size=IMAGES_PER_TASK,
                num_cpus=1,
                num_gpus=1 if cluster.options.device.startswith("cuda") else 0,
            )
            yield from (pickle.loads(row["judged"]) for row in answers.iter_rows())

    return judge


def _absolute(request: Request) -> Request:
    image = request.image
    if isinstance(image, ImageFile):
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
            ray.init(address=cluster.address, log_to_driver=False, logging_level=logging.WARNING, **here)
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise ConfigError(f"--address {cluster.address}: no Ray cluster can be reached: {error}") from error
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    return ray
