"""What is shipped: licences of dependencies, nothing foreign in the wheel, the same wheel from the same tree."""

import configparser
import hashlib
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SECRETS = re.compile(
    rb"-----BEGIN [A-Z ]*PRIVATE KEY|AKIA[0-9A-Z]{16}|gh[pousr]_[A-Za-z0-9]{36}|xox[bap]-[0-9A-Za-z-]{20}"
)


def requirements() -> dict[str, set[str]]:
    """``{package: {lower bounds}}``, of the core and all extras."""
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    lines = setup["options"]["install_requires"].split()
    lines += [line for extra in setup["options.extras_require"].values() for line in extra.split()]
    found: dict[str, set[str]] = {}
    for line in lines:
        name, _, bound = line.partition(">=")
        found.setdefault(name, set()).add(bound)
    return found


def test_the_licence_of_every_dependency_is_listed_and_leaves_programs_free():
    rows = re.findall(r"^\| ([\w-]+) \| (.+?) \| (.+?) \|$", (ROOT / "DEPENDENCIES.md").read_text(), re.M)[1:]
    assert [name for name, _, _ in rows] == list(dict.fromkeys(name for name, _, _ in rows))
    assert {name for name, _, _ in rows} == set(requirements())
    for name, licence, _ in rows:
        own = licence.split(";")[0]
        assert re.search(r"MIT|BSD|Apache-2.0|PSF|MPL-2.0", own) and "GPL" not in own, name


def test_every_dependency_has_one_lower_bound():
    for name, bounds in requirements().items():
        assert len(bounds) == 1, f"{name}: {bounds}"
        assert bounds != {""} or name == "types-PyYAML", name


@pytest.fixture(scope="module")
def wheels(tmp_path_factory):
    """Two wheels, built in two copies of the tree in other places and at other times."""
    found = []
    for number in range(2):
        tree, out = tmp_path_factory.mktemp(f"tree{number}"), tmp_path_factory.mktemp(f"wheel{number}")
        for name in ("tinygan", "proposals", "configs", "tests"):
            shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
        for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE", "LICENSE.weights"):
            shutil.copy(ROOT / name, tree / name)
        for file in tree.rglob("*"):
            os.utime(file, (10**9 + number, 10**9 + number))
        words = ["-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", str(out), str(tree)]
        # The one variable that a build is to be repeated with: the time that stands in the archive.
        built = subprocess.run([sys.executable, *words], env={**os.environ, "SOURCE_DATE_EPOCH": "1000000000"},
                               capture_output=True, text=True)  # fmt: skip
        if built.returncode and "setuptools" in built.stderr:
            pytest.skip("needs setuptools 68 and wheel to build without isolation")
        assert built.returncode == 0, built.stderr[-2000:]
        found.append(next(out.glob("*.whl")))
    return found


def test_two_builds_have_the_same_hash(wheels):
    first, second = (hashlib.sha256(file.read_bytes()).hexdigest() for file in wheels)
    assert first == second


def test_the_wheel_holds_the_packages_their_data_and_nothing_else(wheels):
    with zipfile.ZipFile(wheels[0]) as wheel:
        names = wheel.namelist()
        for name in names:
            assert not SECRETS.search(wheel.read(name)), name
    tops = {name.split("/")[0] for name in names}
    assert tops == {"tinygan", "proposals", next(top for top in tops if top.endswith(".dist-info"))}
    suffixes = {Path(name).suffix for name in names if ".dist-info/" not in name}
    assert suffixes == {".py", ".typed", ".yaml", ".safetensors", ".md"}
    ours = {f"{folder}/{path.relative_to(ROOT / folder).as_posix()}" for folder in ("tinygan", "proposals")
            for path in (ROOT / folder).rglob("*.py")}  # fmt: skip
    presets = {
        f"tinygan/{path.relative_to(ROOT).as_posix()}"
        for path in (ROOT / "configs").rglob("*.*")
        if path.suffix != ".pyc"
    }
    assert ours | presets <= set(names)
    assert {name for name in names if name.endswith(".py")} <= ours | presets
    assert [Path(name).name for name in names if "LICENSE" in name].count("LICENSE.weights") >= 1
    assert sum(map(len, names)) and sum(file.stat().st_size for file in wheels[:1]) < 25_000_000
