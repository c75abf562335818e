"""The report in a browser: it fits a telephone and a desk, its sliders move, and nobody is shut out."""

import json

import pytest

from tinygan.cli.report import main
from tinygan.detections import Detections
from tinygan.formats.registry import open_detections
from tinygan.formats.wider import load_ground_truth
from tinygan.formats.writing import write_wider

CUT = "getComputedStyle(document.querySelector('.compare')).getPropertyValue('--cut')"


@pytest.fixture(scope="module")
def report(tiny_wider, checkpoint, tmp_path_factory):
    """The address of a page with every section."""
    folder = tmp_path_factory.mktemp("report")
    before = open_detections(tiny_wider.proposals / "val")
    after = {name: Detections(found.boxes, 1 - found.scores) for name, found in before.items()}
    write_wider(folder / "rescored", after)
    truth = tiny_wider.root / "wider_face_split/wider_face_val_bbx_gt.txt"
    (folder / "groups.csv").write_text(
        "image,face,hat\n" + "".join(f"{name},0,yes\n" for name in load_ground_truth(truth))
    )
    (folder / "run").mkdir()
    rows = [{"step": step, "pixel": 1 / (1 + step)} for step in range(20)]
    (folder / "run/metrics.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    (folder / "run/config.yaml").write_text("gan:\n  epochs: 3\n")
    words = ["--images", str(tiny_wider.root / "WIDER_val/images"), "--ground-truth", str(truth)]
    words += ["--baseline", str(tiny_wider.proposals / "val"), "--groups", str(folder / "groups.csv")]
    words += ["--run", str(folder / "run"), "--checkpoint", str(checkpoint), "--device", "cpu", "--threads", "1"]
    assert main([str(folder / "rescored"), *words, "--out", str(folder / "report.html")]) == 0
    return (folder / "report.html").as_uri()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1440])
def test_a_page_fits_the_screen_and_shuts_nobody_out(report, pages, barriers, width, scheme):
    page = pages.open(report, width, scheme)
    assert page.locator("h2").count() == 8
    assert page.evaluate("document.documentElement.scrollWidth") == width
    pictures = page.locator("img").evaluate_all("all => all.map(one => one.naturalWidth)")
    assert len(pictures) > 20 and min(pictures) > 0
    texts = page.locator("svg text").evaluate_all(
        """all => all.filter(text => {
          const [own, drawing] = [text, text.ownerSVGElement].map(one => one.getBoundingClientRect());
          return own.left < drawing.left - 1 || own.right > drawing.right + 1 || own.bottom > drawing.bottom + 1;
        }).map(text => text.textContent)"""
    )
    assert texts == []  # a label that is cut off
    dark = "rgb(21, 21, 21)"
    assert (page.evaluate("getComputedStyle(document.body).backgroundColor") == dark) == (scheme == "dark")
    assert barriers(page) == []


@pytest.mark.parametrize("width", [390, 1440])
def test_a_slider_moves_by_mouse_and_by_keyboard(report, pages, width):
    page = pages.open(report, width)
    slider = page.locator("input[type=range]").first
    slider.scroll_into_view_if_needed()
    assert page.evaluate(CUT) == "50%"
    box = slider.bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.mouse.down()
    page.mouse.move(box["x"] + 0.8 * box["width"], box["y"] + box["height"] / 2)
    page.mouse.up()
    dragged = int(page.evaluate(CUT).removesuffix("%"))
    assert 70 <= dragged <= 90
    page.keyboard.press("ArrowLeft")
    assert page.evaluate(CUT) == f"{dragged - 1}%"
    page.keyboard.press("Home")
    assert page.evaluate(CUT) == "0%" and slider.get_attribute("aria-valuetext").startswith("0 % bicubic")
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("Tab")
    assert slider.evaluate("one => one === document.activeElement")


def test_what_the_checks_look_for_is_found(pages, barriers, tmp_path):
    grey = "<p style='color: #ccc'>pale</p><img src='data:image/gif;base64,R0lGODlhAQABAAAAACw='>"
    (tmp_path / "bad.html").write_text(f"{grey}<script src='https://example.invalid/count.js'></script>")
    page = pages.open((tmp_path / "bad.html").as_uri(), 390)
    found = " ".join(barriers(page))
    assert "image-alt" in found and "color-contrast" in found
    assert pages.strangers == ["https://example.invalid/count.js"] and "ERR_NAME_NOT" in pages.complaints[0]
    pages.strangers, pages.complaints = [], []
