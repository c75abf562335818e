"""``setup.cfg``, README and the tree say the same."""

import configparser
from importlib import import_module
from pathlib import Path

import tinygan

ROOT = Path(__file__).resolve().parents[1]
PRESETS = {
    "tinygan.configs": "configs",
    "tinygan.configs.onnx": "configs/onnx",
    "tinygan.configs.proposers": "configs/proposers",
}


def setup() -> configparser.ConfigParser:
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg")
    return parser


def lines(text: str) -> list[str]:
    return text.strip().splitlines()


def pairs(text: str) -> dict[str, str]:
    return {name.strip(): value.strip() for name, _, value in (line.partition("=") for line in lines(text))}


def packages_on_disk() -> set[str]:
    found = {
        ".".join(file.parent.relative_to(ROOT).parts)
        for folder in ("tinygan", "proposals")
        for file in (ROOT / folder).rglob("__init__.py")
    }
    return found | {package for package, folder in PRESETS.items() if (ROOT / folder / "__init__.py").is_file()}


def test_every_package_on_disk_is_installed():
    listed = lines(setup()["options"]["packages"])
    assert len(listed) == len(set(listed)) and set(listed) == packages_on_disk()
    assert pairs(setup()["options"]["package_dir"]) == PRESETS


def test_every_python_file_lies_in_a_package():
    for folder in ("tinygan", "proposals", "configs"):
        for file in (ROOT / folder).rglob("*.py"):
            assert (file.parent / "__init__.py").is_file(), file


def test_entry_points_resolve():
    groups = setup()["options.entry_points"]
    for group in ("console_scripts", "tinygan.proposers"):
        for target in pairs(groups[group]).values():
            module, _, name = target.partition(":")
            assert hasattr(import_module(module), name), target


def test_data_is_installed_with_its_package():
    data = {package: patterns.split() for package, patterns in setup()["options.package_data"].items()}
    for package, patterns in data.items():
        folder = ROOT / PRESETS.get(package, package)
        assert all(any(folder.glob(pattern)) for pattern in patterns), package
    assert all(data[package] == ["*.yaml"] for package in PRESETS)
    assert "py.typed" in data["tinygan"] and "py.typed" in data["proposals"] and "weights/*" in data["tinygan"]


def test_both_licences_are_named_and_packed():
    metadata = setup()["metadata"]
    assert lines(metadata["license_files"]) == ["LICENSE", "LICENSE.weights"]
    assert "MIT" in metadata["license"] and "LICENSE.weights" in metadata["license"]
    text = (ROOT / "LICENSE.weights").read_text()
    for file in (ROOT / "tinygan/weights").glob("*.safetensors"):
        assert file.name in text
    for page in ("README.md", "tinygan/weights/README.md"):
        assert "LICENSE.weights" in (ROOT / page).read_text(), page


def test_dev_has_every_extra_that_tests_need():
    extras = {name: set(lines(packages)) for name, packages in setup()["options.extras_require"].items()}
    assert extras["dev"] >= extras["parquet"] | extras["coco"] | extras["video"] | extras["onnx"] | extras["opencv"]


def test_all_is_every_extra_that_users_want():
    extras = setup()["options.extras_require"]
    (every,) = lines(extras["all"])
    assert sorted(extras.keys() - {"all", "browser", "dev", "docs", "notebooks"}) == every[8:-1].split(",")


def test_the_readme_names_every_room_and_what_is_public():
    text = (ROOT / "README.md").read_text()
    layout = text.split("## Layout\n")[1].split("\nImports go")[0]
    rooms = {word.strip("/") for word in layout.replace(",", " ").split()}
    paths = [path for folder in ("tinygan", "experiments") for path in (ROOT / folder).iterdir()]
    names = {path.stem for path in paths if path.suffix == ".py" or (path.is_dir() and any(path.glob("*.*")))}
    assert names - {"__init__"} <= rooms
    public = text.split("`tinygan.__all__`")[1].split("commands")[0]
    assert all(f"`{name}`" in public for name in tinygan.__all__ if name != "__version__")
