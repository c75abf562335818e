"""Settings of the documentation: `make docs` builds it into build/docs."""

import re
from pathlib import Path

import tinygan
from tinygan.config import explain, load_config, presets_for
from tinygan.detect.run import DetectConfig
from tinygan.proposers import find_proposer, proposer_names
from tinygan.second_stage.rescoring import RescoreConfig
from tinygan.training.recipe import Recipe

project, author, release = "tinygan", "The tinygan developers", tinygan.__version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build"]
html_theme = "alabaster"
html_static_path = ["_static"]
html_theme_options = {
    "description": "Finds the faces other detectors miss",
    "page_width": "1300px",
    "fixed_sidebar": True,
}
html_show_sourcelink = False
html_show_copyright = False
myst_heading_anchors = 3
autodoc_typehints = "signature"
autodoc_member_order = "bysource"
add_module_names = False

HERE = Path(__file__).resolve().parent
IN_REPOSITORY = re.compile(r"\[([^\]]+)\]\((?!https?:|mailto:)[^)]*\)")


def write_configuration() -> None:
    """The configuration reference, from the dataclasses: each key with its default and its meaning."""
    functions = {"callable": ["function=my_module:find_faces"]}
    sections: list[tuple[str, object]] = [("`tinygan-train`", Recipe()), ("`tinygan-rescore`", RescoreConfig())]
    for name in proposer_names():
        entry = find_proposer(name)
        if entry.build.__module__.startswith("proposals."):
            sections.append((f"First stage `{name}`", load_config(entry.config, None, functions.get(name, []))))
    sections.append(("What `tinygan-detect` writes", DetectConfig()))
    page = [
        "# Configuration",
        "Every setting with its default, as `--show-config` prints it. `--config FILE.yaml` or a preset overrides "
        "defaults, `--set section.key=value` both. An unknown key is an error that names the nearest one.",
    ]
    for title, config in sections:
        page += [f"## {title}", f"```yaml\n{explain(config)}```"]
        if presets := [name for name in presets_for(type(config)) if "/" in name or isinstance(config, Recipe)]:
            page.append(f"Presets: {', '.join(f'`{name}`' for name in presets)}.")
    (HERE / "generated").mkdir(exist_ok=True)
    (HERE / "generated/configuration.md").write_text("\n\n".join(page) + "\n", encoding="utf-8")


def without_links(app: object, relative_path: object, parent: str, content: list[str]) -> None:
    """Pages that quote the repository's own files leave out links that lead back into it."""
    content[0] = IN_REPOSITORY.sub(r"\1", content[0])


def setup(app: object) -> None:
    """Called by Sphinx."""
    write_configuration()
    app.connect("include-read", without_links)  # type: ignore[attr-defined]
