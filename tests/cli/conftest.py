import configparser
from importlib import import_module
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def scripts():
    """``{command: module:function}`` of every command, from ``setup.cfg``."""
    setup = configparser.ConfigParser()
    setup.read(Path(__file__).resolve().parents[2] / "setup.cfg")
    lines = setup["options.entry_points"]["console_scripts"].strip().splitlines()
    return {name.strip(): target.strip() for name, _, target in (line.partition("=") for line in lines)}


@pytest.fixture(scope="session")
def run(scripts):
    """Runs a command line, whose first word is the command; gives its exit code."""

    def run_words(words):
        module, _, name = scripts[words[0]].partition(":")
        return getattr(import_module(module), name)(words[1:])

    return run_words
