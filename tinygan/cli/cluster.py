"""``--engine ray``: the options of commands that one machine or many may run."""

from __future__ import annotations

import argparse
from dataclasses import replace
from typing import TYPE_CHECKING

from tinygan.cli.options import positive_int, runtime_options
from tinygan.errors import ConfigError

if TYPE_CHECKING:
    from tinygan.second_stage.cluster import Cluster


def add_cluster_options(parser: argparse.ArgumentParser) -> None:
    """``--engine``, ``--address`` and ``--workers``: one machine or many."""
    group = parser.add_argument_group("one machine or many")
    group.add_argument(
        "--engine",
        choices=["local", "ray"],
        default="local",
        help="ray: on a Ray cluster (pip install 'tinygan[ray]'), whose machines see the images under the same path",
    )
    group.add_argument("--address", metavar="HOST:PORT", help="the cluster (default: one of this machine alone)")
    group.add_argument("--workers", type=positive_int, metavar="N", help="processes that judge (default: one per core)")


def open_cluster(arguments: argparse.Namespace) -> Cluster | None:
    """The cluster of the options that :func:`add_cluster_options` added; ``None`` for ``--engine local``."""
    if arguments.engine == "local":
        if arguments.address is not None or arguments.workers is not None:
            raise ConfigError("--address and --workers are for --engine ray")
        return None
    from tinygan.second_stage.cluster import Cluster, ClusterOptions

    return Cluster(
        ClusterOptions(
            address=arguments.address,
            workers=arguments.workers,
            options=replace(runtime_options(arguments), threads=arguments.threads or 1),
            max_pixels=arguments.max_pixels,
        )
    )
