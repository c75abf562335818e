"""Imports go strictly downwards and never in circles, one file knows the device, and light modules stay light.

See the README, "Layout".
"""

import ast
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("tinygan", "proposals", "experiments")

# Top to bottom. A module belongs to the longest name that is a prefix of its own. Units of one layer never import one
# another.
LAYERS: list[set[str]] = [
    {"experiments"},
    {"proposals.cli"},
    {"tinygan.cli", "proposals.train"},
    {"tinygan.report", "tinygan.app"},
    {"tinygan.detect", "tinygan.training", "tinygan.integrations"},
    {"tinygan.second_stage", "tinygan.evaluate", "proposals"},
    {"tinygan.losses", "tinygan.data"},
    {"tinygan.models", "tinygan.proposers", "tinygan.joining"},
    {"tinygan.formats", "tinygan.checkpoint", "tinygan.pictures"},
    {"tinygan.files"},
    {"tinygan.boxes", "tinygan.config", "tinygan.runtime"},
    {"tinygan.errors", "tinygan.detections", "tinygan.concurrency", "tinygan.heap"},
]


def unit_of(module: str) -> str | None:
    units = [unit for layer in LAYERS for unit in layer if module == unit or module.startswith(f"{unit}.")]
    return max(units, key=len, default=None)


def depth_of(unit: str) -> int:
    return next(at for at, layer in enumerate(LAYERS) if unit in layer)


def imports_of(source: str) -> Iterator[str]:
    """Every module or name a source imports, wherever the statement stands."""
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
        if module.startswith("tinygan") and imported.split(".")[0] == "proposals":
            found.append(f"{module} imports {imported}: tinygan finds proposers through entry points")
        other = unit_of(imported)
        if other is None or unit is None or other == unit:
            continue
        if depth_of(other) <= depth_of(unit):
            found.append(f"{module} imports {imported}: imports go downwards")
    return found


def modules() -> dict[str, Path]:
    files = [file for package in PACKAGES for file in sorted((ROOT / package).rglob("*.py"))]
    return {".".join(f.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): f for f in files}


def circle(sources: Mapping[str, str]) -> list[str]:
    """Modules that import one another in a circle; empty without one. A package's own ``__init__`` counts too."""
    graph = {module: [_home(name, sources) for name in imports_of(source)] for module, source in sources.items()}
    done: set[str] = set()

    def visit(module: str, path: list[str]) -> list[str]:
        if module in path:
            return [*path[path.index(module) :], module]
        if module in done:
            return []
        for imported in graph[module]:
            if imported is not None and imported != module and (found := visit(imported, [*path, module])):
                return found
        done.add(module)
        return []

    return next((found for module in graph if (found := visit(module, []))), [])


def _home(name: str, sources: Mapping[str, str]) -> str | None:
    """The module in which an imported name lies."""
    while name and name not in sources:
        name = name.rpartition(".")[0]
    return name or None


def test_imports_go_downwards():
    found = [line for module, file in modules().items() for line in violations(module, file.read_text())]
    assert not found, "\n".join(found)


def test_no_module_imports_itself_in_a_circle():
    sources = {module: file.read_text() for module, file in modules().items() if module != "tinygan"}
    assert " -> ".join(circle(sources)) == ""


def test_every_module_has_a_layer():
    homeless = [module for module in modules() if module != "tinygan" and unit_of(module) is None]
    assert not homeless


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("tinygan.boxes", "from tinygan.data.rois import Rois"),
        ("tinygan.second_stage.engine", "def later():\n    import tinygan.training.gan"),
        ("tinygan.evaluate.wider", "from tinygan.second_stage.fusion import fuse"),
        ("tinygan.models.blocks", "from tinygan.losses import pixel_loss"),
        ("tinygan.second_stage.engine", "from experiments.demo import run"),
        ("tinygan.detections", "from tinygan import boxes"),
        ("tinygan.detect.run", "import proposals"),
        ("tinygan.cli.detect", "from proposals.retinaface import RetinaFace"),
    ],
)
def test_a_planted_upward_import_is_caught(module, source):
    assert violations(module, source)


def test_a_planted_circle_inside_a_package_is_caught():
    sources = {module: file.read_text() for module, file in modules().items() if module != "tinygan"}
    sources["tinygan.formats.rows"] += "\n\ndef later():\n    from tinygan.formats.registry import FORMATS\n"
    found = circle(sources)
    assert "tinygan.formats.rows" in found and "tinygan.formats.registry" in found


def test_only_runtime_knows_the_device():
    known = {"cuda", "autocast", "Fabric", "lightning_fabric"}
    for module, file in modules().items():
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
    light += ", tinygan.cli.evaluate, tinygan.cli.convert, tinygan.proposers"
    code = f"import sys, {light}; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True, cwd=ROOT)
