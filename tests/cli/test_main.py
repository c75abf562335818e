"""The plain ``tinygan`` command."""

from importlib import import_module

import pytest

import tinygan
from tinygan.cli.main import COMMANDS, main


def test_it_lists_every_command_with_what_the_command_says_of_itself(scripts, capsys):
    assert main([]) == 0
    listed = capsys.readouterr().out
    assert {f"tinygan-{name}" for name in COMMANDS} == scripts.keys() - {"tinygan"}
    for name, summary in COMMANDS.items():
        assert f"  tinygan-{name:<15} {summary}\n" in listed
        module = import_module(scripts[f"tinygan-{name}"].partition(":")[0])
        assert module._parser().description == summary


def test_a_command_may_follow_as_a_word(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["convert", "--help"])
    assert stopped.value.code == 0 and capsys.readouterr().out.startswith("usage: tinygan-convert ")
    assert main(["train-proposer", "--show-config"]) == 0
    assert "\nseed: 0\n" in capsys.readouterr().out


@pytest.mark.parametrize(("words", "code"), [(["--version"], 0), (["trian"], 2), (["--debug", "train"], 2)])
def test_version_and_misuse(words, code, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(words)
    out, err = capsys.readouterr()
    assert stopped.value.code == code
    assert out == f"tinygan {tinygan.__version__}\n" if code == 0 else err.count("\n") == 1
