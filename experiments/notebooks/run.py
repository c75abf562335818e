"""Runs the notebooks and leaves each as a page. ``make notebooks`` does it.

    python -m experiments.notebooks.run --out runs/notebooks [--only NAME]

Takes minutes, most of them to train. ``DATA`` and ``PROPOSALS`` in the environment name a WIDER FACE root and a first
stage's boxes; without them the sample crowd set is drawn. The notebooks themselves stay without output.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tinygan.errors import MissingDependency
from tinygan.files import write_atomically

FOLDER = Path(__file__).parent
MOST_SECONDS = 1800  # for one cell


def main(argv: Sequence[str] | None = None) -> int:
    """Run all notebooks, or one; returns 0."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, default=Path("runs/notebooks"), help="folder of the pages")
    parser.add_argument("--only", metavar="NAME", default="", help="the notebook whose name contains this")
    arguments = parser.parse_args(argv)
    arguments.out.mkdir(parents=True, exist_ok=True)
    os.environ["NOTEBOOKS_OUT"] = str(arguments.out.resolve())
    for file in sorted(file for file in FOLDER.glob("*.ipynb") if arguments.only in file.stem):
        page = arguments.out / f"{file.stem}.html"
        write_atomically(page, to_page(file).encode())
        print(page, flush=True)
    return 0


def to_page(file: Path) -> str:
    """Run a notebook in a fresh Python and give it as HTML, which asks nothing of the network.

    Raises:
        MissingDependency: without nbclient or nbconvert.
    """
    nbclient, nbconvert, nbformat = _import_tools()
    notebook = nbformat.read(file, as_version=4)
    root = {"metadata": {"path": str(FOLDER.parents[1])}}
    nbclient.NotebookClient(notebook, timeout=MOST_SECONDS, kernel_name="python3", resources=root).execute()
    for output in (output for cell in notebook.cells for output in cell.get("outputs", ())):
        if output.output_type == "stream":
            output.name = "stdout"  # a command's progress; as stderr the page would print it on red, like an error
    exporter = nbconvert.HTMLExporter(template_name="lab", mathjax_url="", require_js_url="", jquery_url="")
    exporter.exclude_input_prompt = exporter.exclude_output_prompt = True
    page, _ = exporter.from_notebook_node(notebook, resources={"metadata": {"name": file.stem}})
    return str(page)


def _import_tools() -> tuple[Any, Any, Any]:
    try:
        import nbclient
        import nbconvert
        import nbformat
    except ImportError as error:
        raise MissingDependency("running the notebooks needs pip install 'tinygan[notebooks]'") from error
    return nbclient, nbconvert, nbformat


if __name__ == "__main__":
    raise SystemExit(main())
