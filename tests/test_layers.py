"""Imports go strictly downwards, one file knows the device, and light modules stay light (see README, "Layout")."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("tinygan", "proposals", "experiments")

# Top to bottom. A module belongs to the longest name that is a prefix of its own. Units in one braces set
# never import one another, except within the last three layers, where no cycle arises.
LAYERS: list[set[str]] = [
    {"tinygan.cli", "experiments"},
    {"tinygan.detect"},
    {"tinygan.second_stage", "tinygan.integrations"},
    {"tinygan.train", "tinygan.rescore", "proposals.train"},
    {"tinygan.stage"},
    {"tinygan.judge", "tinygan.fusion", "tinygan.loop", "tinygan.evaluate"},
    {"tinygan.losses", "tinygan.data", "tinygan.detector_view", "proposals"},
    {"tinygan.models", "tinygan.output"},
    {"tinygan.formats", "tinygan.checkpoint", "tinygan.viz", "tinygan.viz_detect"},
    {"tinygan.boxes", "tinygan.config", "tinygan.runtime"},
    {"tinygan.errors", "tinygan.detections"},
]
LOWEST_SHARED = len(LAYERS) - 3  # from here down units of one layer may import one another


def unit_of(module: str) -> str | None:
    units = [unit for layer in LAYERS for unit in layer if module == unit or module.startswith(f"{unit}.")]
    return max(units, key=len, default=None)


def depth_of(unit: str) -> int:
    return next(at for at, layer in enumerate(LAYERS) if unit in layer)


def imports_of(source: str) -> Iterator[str]:
    """Every module a source imports, wherever the statement stands."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def violations(module: str, source: str) -> list[str]:
    unit = unit_of(module)
    found = []
    for imported in imports_of(source):
        if imported.split(".")[0] == "tests" or (imported.startswith("experiments") and unit != "experiments"):
            found.append(f"{module} imports {imported}: nothing imports tests or experiments")
        other = unit_of(imported)
        if other is None or unit is None or other == unit:
            continue
        above, same = depth_of(other) < depth_of(unit), depth_of(other) == depth_of(unit)
        if above or (same and depth_of(unit) < LOWEST_SHARED and unit != "experiments"):
            found.append(f"{module} imports {imported}: imports go downwards")
    return found


def modules() -> list[tuple[str, Path]]:
    files = [file for package in PACKAGES for file in sorted((ROOT / package).rglob("*.py"))]
    return [(".".join(f.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"), f) for f in files]


def test_imports_go_downwards():
    found = [line for module, file in modules() for line in violations(module, file.read_text())]
    assert not found, "\n".join(found)


def test_every_module_has_a_layer():
    homeless = [module for module, _ in modules() if module != "tinygan" and unit_of(module) is None]
    assert not homeless


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("tinygan.boxes", "from tinygan.data.rois import Rois"),
        ("tinygan.train.gan", "def later():\n    import tinygan.rescore"),
        ("tinygan.loop", "from tinygan.fusion import fuse"),
        ("tinygan.models.blocks", "from tinygan.losses import pixel_loss"),
        ("tinygan.rescore", "from experiments.demo import run"),
        ("tinygan.detections", "from tinygan import boxes"),
    ],
)
def test_a_planted_upward_import_is_caught(module, source):
    assert violations(module, source)


def test_only_runtime_knows_the_device():
    known = {"cuda", "autocast", "Fabric", "lightning_fabric"}
    for module, file in modules():
        if module == "tinygan.runtime":
            continue
        for node in ast.walk(ast.parse(file.read_text())):
            name = {ast.Name: "id", ast.Attribute: "attr"}.get(type(node))
            mentioned = getattr(node, name) if name else None
            own = mentioned == "autocast" and isinstance(node, ast.Attribute)  # Runtime.autocast()
            assert own or mentioned not in known, f"{file}:{node.lineno} mentions {mentioned}"
        assert not known & {part for name in imports_of(file.read_text()) for part in name.split(".")}, file


def test_light_modules_do_not_load_torch():
    light = "tinygan, tinygan.detections, tinygan.boxes, tinygan.formats.wider, tinygan.formats.wider_mat"
    light += ", tinygan.evaluate.wider, tinygan.evaluate.fddb, tinygan.evaluate.image_quality, tinygan.formats.registry"
    light += ", tinygan.cli.evaluate, tinygan.cli.convert"
    code = f"import sys, {light}; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True, cwd=ROOT)
