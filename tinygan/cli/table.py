"""``--table``: pictures in Parquet, at any address of fsspec, for commands that one machine or many may run."""

from __future__ import annotations

import argparse
import os
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tinygan.cli.common import DONE, list_skipped
from tinygan.errors import ConfigError
from tinygan.files import is_address

if TYPE_CHECKING:
    from tinygan.formats.parts import Part, PartFolder, Spread
    from tinygan.second_stage.cluster import Cluster


def add_table_option(parser: argparse.ArgumentParser, out: str, with_boxes: bool) -> None:
    """``--table``, and ``--out``, which may be an address with it.

    Args:
        parser: the command's parser.
        out: what is written without a table.
        with_boxes: whether a table holds boxes.
    """
    boxes = ", and its boxes and scores" if with_boxes else ""
    parser.add_argument(
        "--table",
        metavar="ADDRESS",
        help=f"pictures in Parquet, in place of files: a row per picture with its image or path{boxes}; a file, "
        "a folder or a pattern, also at s3:// and the like (pip install 'tinygan[ray]'); --out gets Parquet, too",
    )
    parser.add_argument(
        "--out", required=True, type=place, metavar="OUT", help=f"{out}; with --table a folder or an address"
    )


def place(text: str) -> Path | str:
    """An argparse type: a path, or an address of fsspec."""
    return text if is_address(text) else Path(text)


def check_table(arguments: argparse.Namespace, usual: Mapping[str, str], unfit: Sequence[str]) -> None:
    """Refuse options that do not go together.

    Args:
        arguments: parsed.
        usual: ``{attribute: option}`` of the inputs without a table.
        unfit: names of options that a table cannot be read with.
    """
    if arguments.table is None:
        if not all(getattr(arguments, name) for name in usual):
            raise ConfigError(f"expected {' and '.join(usual.values())}, or --table ADDRESS")
        if isinstance(arguments.out, str):
            raise ConfigError(f"--out {arguments.out}: expected a path; an address is for --table")
        return
    given = [option for name, option in usual.items() if getattr(arguments, name)]
    given += [f"--{name}" for name in unfit if getattr(arguments, name.replace("-", "_"))]
    if given:
        raise ConfigError(f"{given[0]}: does not go with --table, whose rows say it all; leave it out")
    above, out = (
        str(one) if is_address(str(one)) else os.path.abspath(one) for one in (arguments.table, arguments.out)
    )
    if f"{out}/".startswith(f"{above.rstrip('/')}/"):
        raise ConfigError(f"--out {arguments.out}: is, or lies in, the folder --table; choose another --out")


def open_parts(
    arguments: argparse.Namespace, command: str, settings: Mapping[str, Any], kept: Collection[str] = ()
) -> PartFolder:
    """The folder ``--out`` for the parts of a table, and for files of these names beside them."""
    from tinygan.formats.parts import PartFolder

    resume, overwrite = arguments.resume, arguments.overwrite
    return PartFolder(str(arguments.out), command, settings, resume=resume, overwrite=overwrite, kept=kept)


def spread_over(cluster: Cluster | None) -> Spread:
    """What has shards worked on: this process, or a cluster."""
    from tinygan.formats.parts import work_here

    return work_here if cluster is None else cluster.spread


def print_parts(parts: Sequence[Part], out: Path | str, seconds: float, skipped_were: str = "skipped") -> int:
    """Say what was done, and what images with an error were; returns the exit code."""
    skipped = [line for part in parts for line in part.skipped]
    rows, boxes = sum(part.shard.rows for part in parts), sum(part.boxes for part in parts)
    print(f"{out}: {rows} images, {boxes} boxes in {len(parts)} parts; {seconds:.1f} s")
    if not skipped:
        return DONE
    return list_skipped(f"{len(skipped)} images were {skipped_were}", skipped, "; the manifest lists them all")
