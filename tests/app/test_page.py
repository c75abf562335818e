"""``tinygan-app`` in a browser: a photograph goes in, boxes come back, nothing leaves the machine or stays."""

import csv
import os
import socket
import time

import numpy as np
import pytest
from PIL import Image

from tinygan.app.page import ServerOptions, remove_old, serve
from tinygan.app.search import Stages
from tinygan.boxes import iou
from tinygan.runtime import RuntimeOptions

pytestmark = pytest.mark.filterwarnings("ignore")  # those of Gradio's server are not ours
FACE = np.array([[180.0, 60, 270, 180]])
FILMS = "() => [...document.querySelectorAll('video')].some(one => one.readyState >= one.HAVE_CURRENT_DATA)"


@pytest.fixture(scope="module")
def strangers():
    """Addresses outside of this machine that the server asked for."""
    asked = []
    connect = socket.socket.connect

    def note(self, address):
        if self.family != socket.AF_UNIX and address[0] not in ("127.0.0.1", "::1", "localhost"):
            asked.append(address)
        return connect(self, address)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", note)
        yield asked
    assert not asked


@pytest.fixture(scope="module")
def address(chromium, strangers):
    """The page, with the networks that ship, at a free port."""
    pytest.importorskip("gradio", reason="needs Gradio: pip install -e '.[app]'")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    stages = Stages(RuntimeOptions(device="cpu", precision="32", threads=1))
    with serve(stages, ServerOptions(port=port, most_bytes=1_000_000)) as url:
        folder = os.environ["GRADIO_TEMP_DIR"]
        assert url == f"http://127.0.0.1:{port}/" and os.path.isdir(folder)
        yield url
    assert not os.path.exists(folder)
    with socket.socket() as closed:
        assert closed.connect_ex(("127.0.0.1", port)) != 0


@pytest.fixture
def uploaded(address, pages, photograph, tmp_path):
    """Opens the page at a width and gives it the photograph."""
    file = tmp_path / "crew.png"
    photograph.save(file)

    def upload(width, scheme="light"):
        page = pages.open(address, width, scheme)
        page.locator("input[type=file]").first.set_input_files(file)
        page.get_by_text("1 face by pair and the second stage").wait_for()
        page.get_by_alt_text("Your photograph with numbered boxes").wait_for()
        return page

    return upload


def saved(page, button, folder):
    with page.expect_download() as download:
        page.get_by_role("button", name=button).or_(page.get_by_role("link", name=button)).first.click()
    file = folder / download.value.suggested_filename
    download.value.save_as(file)
    return file


def test_a_photograph_goes_in_and_boxes_come_back(uploaded, barriers, tmp_path):
    page = uploaded(390)
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    drawn = page.get_by_alt_text("Your photograph with numbered boxes")
    assert drawn.evaluate("one => one.naturalWidth") == 1024
    (row,) = csv.DictReader(saved(page, "Table (CSV)", tmp_path).open())
    assert row["image"] == "crew.png" and row["outcome"] == "kept"
    assert iou(np.array([[float(row[name]) for name in ("x1", "y1", "x2", "y2")]]), FACE)[0, 0] > 0.6
    with Image.open(saved(page, "Picture (JPEG)", tmp_path)) as picture:
        assert picture.format == "JPEG" and picture.width == 1024
    box = drawn.bounding_box()
    drawn.click(position={"x": box["width"] * 225 / 512, "y": box["height"] * 120 / 512})
    enlarged = page.get_by_alt_text("The face as it is, by bicubic interpolation, super-resolved")
    enlarged.wait_for()
    assert enlarged.evaluate("one => one.naturalWidth") > 3 * 256
    assert page.get_by_label("Enlarge a face").input_value().startswith("1: kept, 0.9")
    assert barriers(page) == []


def test_all_is_done_by_keyboard_too(uploaded, barriers):
    page = uploaded(1440, "dark")
    assert page.evaluate("document.documentElement.scrollWidth") == 1440
    assert barriers(page) == []
    page.get_by_label("Second stage").focus()
    page.keyboard.press("Space")
    page.get_by_text("1 face by pair alone").wait_for()
    faces = page.get_by_label("Enlarge a face")
    faces.focus()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    page.get_by_alt_text("The face as it is, by bicubic interpolation, super-resolved").wait_for()
    before, after = faces.input_value().split(", ")[1].split(" to ")
    assert before == after  # the second stage is off
    page.locator("input[type=range]").focus()
    page.keyboard.press("End")
    page.get_by_text("0 faces by pair alone").wait_for()


def test_the_camera_takes_a_photograph(address, pages, barriers):
    page = pages.open(address, 390)
    page.get_by_label("Capture from camera").click()
    page.get_by_role("button", name="Access Webcam").click()
    page.wait_for_function(FILMS)  # Gradio's button takes nothing before, and says nothing
    page.get_by_role("button", name="capture photo").click()
    page.get_by_text("1 face by pair and the second stage").wait_for()
    page.get_by_alt_text("Your photograph with numbered boxes").wait_for()
    assert barriers(page) == []


def test_a_file_that_is_too_large_is_refused(address, pages, tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (700, 700, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "large.png")
    page = pages.open(address, 390)
    page.locator("input[type=file]").first.set_input_files(tmp_path / "large.png")
    page.get_by_text("maximum allowed size").or_(page.get_by_text("exceeds")).first.wait_for()
    pages.complaints.clear()


def test_what_is_old_is_removed(tmp_path):
    (tmp_path / "sub").mkdir()
    for name, age in (("sub/old.jpg", 100), ("new.jpg", 0)):
        (tmp_path / name).write_bytes(b"x")
        os.utime(tmp_path / name, (time.time() - age,) * 2)
    remove_old(tmp_path, 60)
    assert not (tmp_path / "sub/old.jpg").exists() and (tmp_path / "new.jpg").exists()
