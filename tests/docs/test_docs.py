"""The documentation: its Python runs, its YAML loads, its pages are all listed, and it builds without a warning."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from skimage import data

from proposals.adapters.onnx import OnnxConfig
from tinygan.config import load_config

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
WITH_PACKAGES = {
    "sahi",
    "supervision",
    "ultralytics",
    "huggingface",
    "insightface",
    "opencv",
    "faster",
}  # elsewhere


def blocks(language):
    for page in sorted(DOCS.rglob("*.md")):
        if "generated" not in page.parts:
            for code in re.findall(rf"```{language}\n(.*?)```", page.read_text(), flags=re.S):
                yield page.stem, code


@pytest.mark.parametrize(("page", "code"), [one for one in blocks("python") if one[0] not in WITH_PACKAGES])
def test_python_runs_as_printed(page, code, tmp_path, capsys):
    Image.fromarray(data.astronaut()).save(tmp_path / "photo.png")
    exec(compile(code, f"{page}.md", "exec"), {"path": str(tmp_path / "photo.png")})
    numbers = re.findall(r"\d+\.\d+|\d+", capsys.readouterr().out)
    assert np.abs(np.array(numbers[:4], float) - [179, 55, 270, 178]).max() < 25, "the astronaut's face comes first"


@pytest.mark.parametrize(("page", "code"), list(blocks("yaml")))
def test_yaml_loads(page, code, tmp_path):
    (tmp_path / "mine.yaml").write_text(code)
    assert load_config(OnnxConfig, tmp_path / "mine.yaml").decode == "rows"


def test_every_page_is_listed():
    for folder in (DOCS, DOCS / "behind"):
        listed = (folder / "index.md").read_text().split("```{toctree}")[1].splitlines()
        pages = {page.stem for page in folder.glob("*.md")} - {"index"}
        assert pages <= set(listed), pages - set(listed)
    for page in (DOCS / "behind").glob("*.md"):
        if page.stem not in ("index", "fiftyone"):
            assert "tinygan" in page.read_text() and f"({page.name})" in (DOCS / "behind/index.md").read_text()


@pytest.mark.integration
def test_it_builds_without_a_warning(tmp_path):
    pytest.importorskip("sphinx")
    words = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-b", "html", str(DOCS), str(tmp_path)]
    done = subprocess.run(words, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "generated/configuration.html").read_text()
    assert "First stage" in page and "score_threshold" in page and "boxes of a lower" in page
