"""The report's parts as HTML: text is escaped, tables and pictures say what they are, nothing is fetched."""

from html.parser import HTMLParser

import numpy as np

from tinygan.evaluate.curves import Curve, Difference
from tinygan.report.charts import draw_gains, draw_precision_recall, draw_term
from tinygan.report.page import Section, compare, facts, folded, page, paragraph, table

NASTY = "<b>&\"'"


class Parsed(HTMLParser):
    """Tags with their attributes, and all text outside of style and script."""

    def __init__(self, content: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.open: list[str] = []
        self.feed(content)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "img", "input"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if not {"style", "script"} & set(self.open):
            self.text.append(data)

    def all(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]


def test_text_is_escaped_everywhere():
    pixels = np.zeros((8, 8, 3), np.uint8)
    gain = Difference(0.1, 0.2, 0.05, 0.15)
    parts = [
        paragraph(NASTY), table(NASTY, [[NASTY, NASTY], [NASTY, NASTY]], NASTY), facts(NASTY, [(NASTY, NASTY)]),
        folded(NASTY, NASTY), compare("one", pixels, pixels, NASTY, NASTY), draw_gains([(NASTY, gain)], NASTY),
    ]  # fmt: skip
    parsed = Parsed(page(NASTY, NASTY, [Section("one-section", NASTY, "".join(parts))]))
    assert not parsed.all("b") and parsed.open == []
    assert sum(text == NASTY for text in parsed.text) == 19
    assert [image["alt"].startswith(NASTY) for image in parsed.all("img")] == [True, True]
    assert parsed.all("svg")[0]["aria-label"] == NASTY


def test_links_lead_to_the_headings_of_their_sections():
    parsed = Parsed(page("Title", "Lead.", [Section("a", "A", ""), Section("b-c", "B", "")]))
    assert [link["href"] for link in parsed.all("a")] == ["#a", "#b-c"]
    assert [heading["id"] for heading in parsed.all("h2")] == ["a", "b-c"]
    assert [section["aria-labelledby"] for section in parsed.all("section")] == ["a", "b-c"]
    assert parsed.all("html") == [{"lang": "en"}]


def test_a_table_names_its_columns_and_rows():
    parsed = Parsed(table("AP", [["subset", "before"], ["easy", "0.9"], ["hard", "0.7"]]))
    assert [cell["scope"] for cell in parsed.all("th")] == ["col", "col", "row", "row"]
    assert parsed.all("div")[0] == {"class": "scroll", "role": "region", "aria-label": "AP", "tabindex": "0"}
    assert "AP" in parsed.text and parsed.text.count("0.7") == 1


def test_a_slider_has_a_label_and_both_pictures_their_names():
    dark, bright = np.zeros((8, 8, 3), np.uint8), np.full((8, 8, 3), 255, np.uint8)
    parsed = Parsed(compare("rose-1", dark, bright, "Face in a.jpg", "A caption"))
    (slider,) = parsed.all("input")
    assert slider == {"type": "range", "id": "rose-1", "min": "0", "max": "100", "value": "50"}
    assert parsed.all("label") == [{"for": "rose-1"}]
    first, second = parsed.all("img")
    assert first["alt"] == "Face in a.jpg, enlarged by bicubic interpolation"
    assert second["alt"] == "Face in a.jpg, super-resolved" and second["src"] != first["src"]


def test_curves_are_told_apart_without_colour():
    before = Curve(np.array([0.9, 0.5]), np.array([1.0, 0.5]), np.array([0.2, 0.6]))
    after = Curve(np.array([0.9, 0.5]), np.array([1.0, 0.75]), np.array([0.4, 0.8]))
    parsed = Parsed(draw_precision_recall(before, after, "said"))
    drawn = {path["class"]: path["d"] for path in parsed.all("path")[:-2] if path["class"] != "rule"}
    assert list(drawn) == ["line before", "line after"]
    # The axes: recall 0 to 1 at 60 to 346 px across, precision 0 to 1 at 220 to 34 px down.
    assert drawn["line before"] == "M117.2 34.0L231.6 127.0"
    assert drawn["line after"] == "M174.4 34.0L288.8 80.5"
    assert parsed.text.count("before") == 1 and parsed.text.count("after") == 1
    style = page("", "", [])
    assert "svg .before { stroke: var(--before); stroke-dasharray: 6 4; }" in style


def test_gains_lie_right_of_zero_and_losses_left():
    gains = [("up", Difference(0.5, 0.6, 0.05, 0.2)), ("down", Difference(0.5, 0.4, -0.2, -0.05))]
    parsed = Parsed(draw_gains([*gains, ("none", Difference(0.5, float("nan"), 0.0, 0.0))], "said"))
    up, down = (float(dot["cx"]) for dot in parsed.all("circle"))
    zero = float(parsed.all("path")[0]["d"][1:].split()[0])
    assert down < zero < up and np.isclose(up - zero, zero - down, atol=0.2)
    assert "+10.00" in parsed.text and "-10.00" in parsed.text and "none" not in parsed.text


def test_a_term_that_never_changes_is_drawn_flat():
    parsed = Parsed(draw_term(np.arange(1000.0), np.full(1000, 0.5), "said"))
    line = next(path["d"] for path in parsed.all("path") if path["class"] == "line after")
    assert len({point.split()[1] for point in line[1:].split("L")}) == 1
    assert len(line.split("L")) == 300  # no more than can be seen
