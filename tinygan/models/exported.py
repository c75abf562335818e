"""Folders of networks that ``tinygan-export --format openvino`` wrote, to be run in place of the checkpoint's own."""

from __future__ import annotations

import hashlib
from pathlib import Path
from xml.etree import ElementTree

from tinygan.errors import CheckpointError
from tinygan.models.graphs import FACTS, SUFFIXES
from tinygan.runtime import Exported

WEIGHTS, PRECISION = "tensors_sha256", "precision"  # facts in the files
FIRST = "judge"  # every export of a second stage has it


def open_exported(folder: Path) -> Exported:
    """Read what a folder of exported networks says of itself; OpenVINO is not needed for that.

    Raises:
        CheckpointError: if it holds no second stage in OpenVINO's format, or a network that another export left there.
    """
    files = sorted(file for suffix in SUFFIXES["openvino"] for file in folder.glob(f"*{suffix}"))
    facts = {file: _facts(file) for file in files if file.suffix == ".xml"}
    first = facts.get(folder / f"{FIRST}.xml", {})
    if WEIGHTS not in first:
        raise CheckpointError(
            f"{folder}: expected the second stage as tinygan-export --format openvino writes it, found no "
            f"{FIRST}.xml of this version of tinygan; export it again"
        )
    for file, own in facts.items():
        if own.get(WEIGHTS) not in (None, first[WEIGHTS]):
            raise CheckpointError(
                f"{file}: of other weights than {FIRST}.xml beside it; export again, with --overwrite"
            )
    digest = hashlib.sha256(b"".join(hashlib.sha256(file.read_bytes()).digest() for file in files))
    is_int8 = any(own.get(PRECISION) == "int8" for own in facts.values())
    return Exported(folder, "int8" if is_int8 else "32", first[WEIGHTS], digest.hexdigest())


def exported_file(exported: Exported, name: str) -> Path:
    """The file of a network.

    Raises:
        CheckpointError: if it is absent.
    """
    file = exported.folder / f"{name}.xml"
    if not file.is_file():
        raise CheckpointError(f"{file}: no such file; export the second stage again, with --overwrite")
    return file


def _facts(file: Path) -> dict[str, str]:
    """What the metadata of an ``.xml`` file says; empty if it is no such file."""
    try:
        found = ElementTree.parse(file).getroot().find(f"rt_info/{FACTS}")
    except (OSError, ElementTree.ParseError):
        return {}
    return {} if found is None else {info.get("name", info.tag): info.get("value", "") for info in found}
