"""The notebooks run from top to bottom on the sample, lie in the repository without output, and become pages."""

import ast
import json
import re
import sys
from importlib.util import find_spec

import pytest
from PIL import Image

from experiments.demo.crowd import make_crowd
from experiments.notebooks import data as shared
from experiments.notebooks.run import FOLDER, main

NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
PICTURES = {"1": 7, "2": 4, "3": 2, "4": 1, "5": 2}  # shown by each, at least


@pytest.fixture(scope="module")
def sample(tmp_path_factory):
    folder = tmp_path_factory.mktemp("crowd")
    make_crowd(folder / "data", folder / "proposals", train_images=6, val_images=4)
    return folder


@pytest.fixture
def quick(sample, tmp_path, monkeypatch):
    """The small sample, short trainings, and a folder to write into."""
    monkeypatch.setenv("DATA", str(sample / "data"))
    monkeypatch.setenv("PROPOSALS", str(sample / "proposals"))
    monkeypatch.setattr(shared, "OUT", tmp_path)
    monkeypatch.setattr(shared, "QUICK", True)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.chdir(FOLDER)  # as Jupyter does


def cells(file, kind):
    return ["".join(cell["source"]) for cell in json.loads(file.read_text())["cells"] if cell["cell_type"] == kind]


def run_cell(source, names):
    """Run a cell; gives the value of its last line, which Jupyter would show."""
    lines = ast.parse(source).body
    last = lines.pop() if isinstance(lines[-1], ast.Expr) else None
    exec(compile(ast.Module(lines, []), "cell", "exec"), names)
    return None if last is None else eval(compile(ast.Expression(last.value), "cell", "eval"), names)


@pytest.mark.parametrize("file", NOTEBOOKS, ids=lambda file: file.stem)
def test_every_cell_runs(file, quick):
    names = {"__name__": "__main__"}
    shown = [run_cell(source, names) for source in cells(file, "code")]
    pictures = [one for one in shown if isinstance(one, Image.Image)]
    assert len(pictures) >= PICTURES[file.stem[0]] and min(min(one.size) for one in pictures) > 60


def test_there_are_five_and_they_hold_no_output():
    assert [file.stem[:2] for file in NOTEBOOKS] == ["1_", "2_", "3_", "4_", "5_"]
    for file in NOTEBOOKS:
        for cell in json.loads(file.read_text())["cells"]:
            assert cell.get("outputs", []) == [] and cell.get("execution_count") is None, file
        words = sum(len(text.split()) for text in cells(file, "markdown"))
        code = sum(len(text.splitlines()) for text in cells(file, "code"))
        assert words > 3 * code  # prose, no wall of code


def test_data_is_named_whole_or_not_at_all(monkeypatch):
    monkeypatch.setenv("DATA", "somewhere")
    monkeypatch.delenv("PROPOSALS", raising=False)
    with pytest.raises(shared.ConfigError, match="got DATA=somewhere and PROPOSALS=None; name both, or neither"):
        shared.open_data()


@pytest.mark.skipif(
    find_spec("nbclient") is None or find_spec("nbconvert") is None or find_spec("ipykernel") is None,
    reason="needs nbclient, nbconvert and ipykernel: pip install -e '.[notebooks]'",
)
@pytest.mark.filterwarnings("ignore")  # those of Jupyter are not ours
def test_a_notebook_becomes_a_page_that_fetches_nothing(sample, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PHOTO", str(next((sample / "data/WIDER_val/images").rglob("*.jpg"))))
    assert main(["--out", str(tmp_path), "--only", "5_"]) == 0
    (page,) = tmp_path.glob("*.html")
    assert str(page) in capsys.readouterr().out
    text = page.read_text()
    assert "faces in" in text and text.count('src="data:image/png;base64,') == 2
    assert not re.findall(r'(?:src|href)="https?:[^"]*\\.(?:js|css)', text) and "require.min.js" not in text
