import configparser
import subprocess
import sys
from pathlib import Path

import pytest

import tinygan

COMMANDS = {
    "tinygan": "tinygan.cli.main",
    "tinygan-train": "tinygan.cli.train",
    "tinygan-rescore": "tinygan.cli.rescore",
    "tinygan-evaluate": "tinygan.cli.evaluate",
    "tinygan-convert": "tinygan.cli.convert",
    "tinygan-detect": "tinygan.cli.detect",
    "tinygan-upscale": "tinygan.cli.upscale",
    "tinygan-compare": "tinygan.cli.compare",
    "tinygan-propose": "proposals.cli.propose",
    "tinygan-train-proposer": "proposals.cli.train",
    "tinygan-anchors": "proposals.cli.anchors",
}


def test_public_names_are_these_and_resolve():
    assert sorted(tinygan.__all__) == [
        "Detections",
        "FaceDetector",
        "GroundTruth",
        "SecondStage",
        "SuperResolver",
        "TinyGanError",
        "__version__",
        "join_detections",
    ]
    assert all(getattr(tinygan, name) is not None for name in tinygan.__all__)
    assert dir(tinygan) == sorted(tinygan.__all__)
    with pytest.raises(AttributeError, match="has no attribute 'Detection'"):
        _ = tinygan.Detection


def test_version_is_the_packages():
    setup = configparser.ConfigParser()
    setup.read(Path(__file__).resolve().parents[1] / "setup.cfg")
    assert tinygan.__version__ == setup["metadata"]["version"]


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_tell_their_version_and_help(command):
    start = [sys.executable, "-c", f"from {COMMANDS[command]} import main; raise SystemExit(main())"]
    version = subprocess.run([*start, "--version"], capture_output=True, text=True, check=True)
    assert version.stdout.strip() == f"{command} {tinygan.__version__}"
    assert f"usage: {command} " in subprocess.run([*start, "--help"], capture_output=True, text=True, check=True).stdout
    wrong = subprocess.run([*start, "--nonsense"], capture_output=True, text=True, check=False)
    assert wrong.returncode == 2 and len(wrong.stderr.strip().splitlines()) == 1
