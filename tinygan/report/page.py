"""The parts that the report is built of, as HTML: sections, tables, charts, pictures with a slider, and the whole page.

All text is escaped here; what is already HTML goes by the name ``body``.
"""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Sequence
from dataclasses import dataclass
from string import Template
from typing import Literal

from PIL import Image

from tinygan.detections import ByteArray

_QUALITY = 88  # of JPEG: a picture of 384 px takes about 25 kB

_PAGE = Template("""\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy"
  content="default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'">
<title>$title</title>
<style>
$style</style>
</head>
<body>
<header>
<h1>$title</h1>
$lead
<nav aria-label="Sections">
<ul>
$links
</ul>
</nav>
</header>
<main>
$body
</main>
<script>
$script</script>
</body>
</html>
""")

_STYLE = """\
:root { --ground: #fff; --ink: #1a1a1a; --soft: #595959; --rule: #c9c9c9; --panel: #f4f4f4;
  --before: #707070; --after: #0b57a4; }
@media (prefers-color-scheme: dark) {
  :root { --ground: #151515; --ink: #ececec; --soft: #b0b0b0; --rule: #4a4a4a; --panel: #222;
    --before: #a0a0a0; --after: #7ab8ff; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 76rem; padding: 1rem; background: var(--ground); color: var(--ink);
  font: 1rem/1.5 system-ui, sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 1.6rem; line-height: 1.2; margin: 0 0 .5rem; }
h2 { font-size: 1.25rem; margin: 2rem 0 .5rem; padding-top: .75rem; border-top: 1px solid var(--rule); }
h3 { font-size: 1rem; margin: 1.25rem 0 .5rem; }
p { max-width: 46rem; margin: .5rem 0; }
a { color: var(--after); }
nav ul { display: flex; flex-wrap: wrap; gap: .25rem 1.25rem; margin: .75rem 0 0; padding: 0; list-style: none; }
.note { color: var(--soft); font-size: .9rem; }
.scroll { overflow-x: auto; max-width: 100%; margin: .75rem 0; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; overflow-wrap: normal; }
caption { text-align: left; font-weight: 600; padding-bottom: .25rem; }
th, td { padding: .25rem .6rem; border-bottom: 1px solid var(--rule); text-align: right; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; padding-left: 0; }
.facts td { text-align: left; white-space: normal; overflow-wrap: anywhere; }
.grid { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 20rem), 1fr)); gap: 1rem;
  align-items: start; }
.faces { grid-template-columns: repeat(auto-fill, minmax(min(100%, 16rem), 1fr)); }
.wide { grid-template-columns: repeat(auto-fill, minmax(min(100%, 30rem), 1fr)); }
figure { margin: 0; padding: .75rem; background: var(--panel); border-radius: .4rem; }
figcaption { font-size: .9rem; }
svg { display: block; width: 100%; max-width: 32rem; height: auto; }
svg text { fill: var(--ink); font-size: 12px; }
svg .rule { stroke: var(--rule); stroke-width: 1; }
svg .line { fill: none; stroke-width: 2; stroke-linejoin: round; }
svg .before { stroke: var(--before); stroke-dasharray: 6 4; }
svg .after { stroke: var(--after); }
svg .faint { stroke: var(--before); stroke-width: 1; opacity: .6; }
svg .dot { fill: var(--after); }
.compare { position: relative; }
.compare img { display: block; width: 100%; height: auto; }
.compare img + img { position: absolute; inset: 0; clip-path: inset(0 0 0 var(--cut, 50%)); }
.compare::after { content: ""; position: absolute; top: 0; bottom: 0; left: var(--cut, 50%); width: 2px;
  margin-left: -1px; background: #fff; outline: 1px solid #000; pointer-events: none; }
input[type=range] { display: block; width: 100%; min-height: 1.75rem; margin: .25rem 0; accent-color: var(--after); }
label { font-size: .85rem; color: var(--soft); display: block; margin-top: .4rem; }
@media (max-width: 40rem) {
  table { font-size: .85rem; }
  th, td { padding: .25rem; white-space: normal; }
  .faces { grid-template-columns: repeat(auto-fill, minmax(min(100%, 9.5rem), 1fr)); gap: .5rem; }
  .faces figure { padding: .5rem; }
}
:focus-visible { outline: 3px solid var(--after); outline-offset: 1px; }
pre { overflow-x: auto; background: var(--panel); padding: .75rem; font-size: .85rem; }
summary { cursor: pointer; min-height: 2rem; }
"""

# The first picture is seen to the left of the cut, the second to its right.
_SCRIPT = """\
for (const range of document.querySelectorAll("input[type=range]")) {
  const move = () => {
    range.parentElement.querySelector(".compare").style.setProperty("--cut", range.value + "%");
    range.setAttribute("aria-valuetext", range.value + " % bicubic, the rest super-resolved");
  };
  range.addEventListener("input", move);
  move();
}
"""


@dataclass(frozen=True)
class Section:
    """A part of the page with a heading of its own.

    Attributes:
        key: its anchor: letters and hyphens.
        title: the heading.
        body: HTML.
    """

    key: str
    title: str
    body: str


def page(title: str, lead: str, sections: Sequence[Section]) -> str:
    """The whole page.

    Args:
        title: its heading.
        lead: a sentence below the heading.
        sections: its parts, which links at the top lead to.
    """
    return _PAGE.substitute(
        title=text(title),
        style=_STYLE,
        lead=paragraph(lead),
        links="\n".join(f'<li><a href="#{one.key}">{text(one.title)}</a></li>' for one in sections),
        body="\n".join(_section(one) for one in sections),
        script=_SCRIPT,
    )


def text(value: str) -> str:
    """Text as HTML, to stand between tags or in quotes."""
    return html.escape(value, quote=True)


def paragraph(value: str, note: bool = False) -> str:
    """A paragraph of text, smaller and paler if it is a note."""
    return f'<p class="note">{text(value)}</p>' if note else f"<p>{text(value)}</p>"


def heading(value: str) -> str:
    """A heading below a section's."""
    return f"<h3>{text(value)}</h3>"


def table(caption: str, rows: Sequence[Sequence[str]], note: str = "") -> str:
    """A table, which scrolls sideways by touch and by keyboard where the screen is narrow.

    Args:
        caption: what it shows.
        rows: equally long rows of text; the first is the heading, and the first cell of each row names it.
        note: a line below it.
    """
    first, *others = rows
    head = "".join(f'<th scope="col">{text(cell)}</th>' for cell in first)
    lines = [
        f'<tr><th scope="row">{text(row[0])}</th>{"".join(f"<td>{text(cell)}</td>" for cell in row[1:])}</tr>'
        for row in others
    ]
    return "\n".join(
        [
            f'<div class="scroll" role="region" aria-label="{text(caption)}" tabindex="0">',
            f"<table><caption>{text(caption)}</caption>",
            f"<thead><tr>{head}</tr></thead>",
            f"<tbody>{''.join(lines)}</tbody></table></div>",
            *([paragraph(note, note=True)] if note else []),
        ]
    )


def facts(caption: str, values: Sequence[tuple[str, str]]) -> str:
    """A table of names and values in whole lines of text."""
    lines = "\n".join(f'<tr><th scope="row">{text(name)}</th><td>{text(value)}</td></tr>' for name, value in values)
    return f'<table class="facts"><caption>{text(caption)}</caption><tbody>\n{lines}\n</tbody></table>'


def folded(summary: str, content: str) -> str:
    """Text as it is, which a click or a key unfolds."""
    return f'<details><summary>{text(summary)}</summary><pre tabindex="0">{text(content)}</pre></details>'


def chart(svg: str, caption: str) -> str:
    """A figure with a drawing."""
    return f"<figure>{svg}<figcaption>{text(caption)}</figcaption></figure>"


def grid(parts: Sequence[str], size: Literal["", "faces", "wide"] = "") -> str:
    """Figures side by side, as many as fit; those of faces are narrower, wide ones wider."""
    body = "\n".join(parts)
    return f'<div class="{f"grid {size}".strip()}">\n{body}\n</div>'


def compare(key: str, bicubic: ByteArray, resolved: ByteArray, name: str, caption: str) -> str:
    """Two pictures of one face, one over the other, with a slider between them.

    Args:
        key: of the slider, which no other one of the page has: letters, digits and hyphens.
        bicubic: uint8 [S, S, 3].
        resolved: uint8 [S, S, 3].
        name: what the pictures show.
        caption: what is said below them.
    """
    return "\n".join(
        [
            "<figure>",
            '<div class="compare">',
            _picture(bicubic, f"{name}, enlarged by bicubic interpolation"),
            _picture(resolved, f"{name}, super-resolved"),
            "</div>",
            f'<label for="{key}">bicubic (left) and super-resolved (right)</label>',
            f'<input type="range" id="{key}" min="0" max="100" value="50">',
            f"<figcaption>{text(caption)}</figcaption>",
            "</figure>",
        ]
    )


def _picture(pixels: ByteArray, alt: str) -> str:
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, "JPEG", quality=_QUALITY)
    packed = base64.b64encode(content.getvalue()).decode("ascii")
    size = f'width="{pixels.shape[1]}" height="{len(pixels)}"'
    return f'<img src="data:image/jpeg;base64,{packed}" alt="{text(alt)}" {size}>'


def _section(section: Section) -> str:
    return (
        f'<section aria-labelledby="{section.key}">\n<h2 id="{section.key}">{text(section.title)}</h2>\n'
        f"{section.body}\n</section>"
    )
