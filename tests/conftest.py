"""A WIDER FACE root of a few drawn pictures, so that every test of the real path runs anywhere."""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from skimage import data

from tinygan.checkpoint import Checkpoint, save_checkpoint
from tinygan.config import load_config, to_tree
from tinygan.detections import Detections, GroundTruth
from tinygan.formats.registry import open_detections
from tinygan.formats.wider import format_ground_truth
from tinygan.formats.writing import DetectionWriter
from tinygan.models.discriminator import Discriminator
from tinygan.models.generator import Generator
from tinygan.second_stage.fusion import Fusion
from tinygan.training.recipe import Recipe

# One thread, here and in what tests start: several of them slow the small networks of tests down, on a busy machine
# forty times. What commands take of their own accord is tested in test_runtime.py.
os.environ["OMP_NUM_THREADS"] = "1"
torch.set_num_threads(1)

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"

# No sandbox, as it is refused to root; and no name is looked up.
CHROMIUM = ["--no-sandbox", "--disable-gpu", "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"]
CAMERA = ["--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]  # asks nobody for permission

TINY = [
    "crops.lr_size=8",
    "generator.width=6",
    "generator.up_width=6",
    "generator.residual_blocks=1",
    "generator.refine_width=4",
    "generator.refine_up_width=4",
    "generator.refine_blocks=1",
    "generator.skip=bicubic",
    "discriminator.backbone=vgg_lite",
    "discriminator.weights=none",
    "discriminator.lite_widths=[4,4,8,8,8]",
    "discriminator.fc_std=0.01",
    "rois.holdout=0.4",
    "mse_init.epochs=2",
    "mse_init.patches_per_epoch=32",
    "mse_init.batch_size=8",
    "mse_init.learning_rate=1e-3",
    "mse_init.log_every=1",
    "mse_init.save_every=2",
    "gan.epochs=2",
    "gan.patches_per_epoch=32",
    "gan.batch_size=8",
    "gan.learning_rate=1e-3",
    "gan.log_every=1",
    "gan.save_every=2",
    "judge.epochs=2",
    "judge.patches_per_epoch=32",
    "judge.batch_size=8",
    "judge.learning_rate=1e-3",
    "judge.log_every=1",
    "judge.save_every=2",
    "judge_training.widths=[4,6,8,8,12]",
    "judge_training.surroundings=mobilenet025",
    "crops.wide_size=32",
    "judge_training.ema_decay=0.5",
    "fusion_search.judge=[0.0,0.5]",
    "fusion_search.judge_by_size=[0.0]",
    "fusion_search.size=[0.0]",
    "fusion_search.sweeps=1",
]


class TinyWider(NamedTuple):
    """Where the drawn data lies."""

    root: Path
    proposals: Path


@pytest.fixture
def two_threads() -> Iterator[int]:
    """A host program that has set torch to two threads."""
    torch.set_num_threads(2)
    yield 2
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real images and ground truth beside the repository; tests that need them skip where they are absent."""
    if not SHARED.is_dir():
        pytest.skip("needs the real data in ../shared/data")
    return SHARED


@pytest.fixture(scope="session")
def tiny_wider(tmp_path_factory: pytest.TempPathFactory) -> TinyWider:
    """Both splits of a drawn WIDER FACE root and one detector's proposals on them. Read only."""
    return make_tiny_wider(tmp_path_factory.mktemp("wider"))


@pytest.fixture(scope="session")
def make_wider() -> Callable[[Path], TinyWider]:
    """Draws a data set of one's own into a folder, for tests that damage it."""
    return make_tiny_wider


@pytest.fixture(scope="session")
def tiny_options() -> list[str]:
    """``section.key=value`` overrides of networks and schedules small enough for a test."""
    return list(TINY)


@pytest.fixture(scope="session")
def tiny_set() -> list[str]:
    """The same as ``--set`` options."""
    return [word for setting in TINY for word in ("--set", setting)]


@pytest.fixture(scope="session")
def checkpoint(tiny_options: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Untrained networks with a fitted fusion: enough to follow every box."""
    torch.manual_seed(0)
    recipe = load_config(Recipe, None, [*tiny_options, "discriminator.fc_std=1.0"])
    tensors = {f"generator.{n}": t for n, t in Generator(recipe.generator).state_dict().items()}
    discriminator = Discriminator(recipe.discriminator, recipe.crops.hr_size)
    tensors |= {f"discriminator.{n}": t for n, t in discriminator.state_dict().items()}
    fusion = Fusion(detector=0.8, judge=0.6, size=0.1, bias=-0.2, fitted=True)
    path = tmp_path_factory.mktemp("checkpoint") / "model.safetensors"
    save_checkpoint(path, Checkpoint("fused", to_tree(recipe), tensors, fusion=fusion.to_facts()))
    return path


@pytest.fixture(scope="session")
def finding_checkpoint(tiny_options: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Untrained networks with all three heads: every face lies half a side below the box, also in a mirror."""
    torch.manual_seed(0)
    recipe = load_config(Recipe, None, [*tiny_options, "discriminator.fc_std=1.0"])
    recipe = replace(recipe, discriminator=recipe.judge_training.form(recipe.discriminator))
    tensors = {f"generator.{n}": t for n, t in Generator(recipe.generator).state_dict().items()}
    discriminator = Discriminator(recipe.discriminator, recipe.crops.hr_size, recipe.crops.wide_size)
    assert discriminator.fc_box is not None
    with torch.no_grad():
        discriminator.fc_box.weight.zero_()
        discriminator.fc_box.bias.copy_(torch.tensor([0.0, 2 * math.atanh(0.25), 0.0, 0.0]))
    tensors |= {f"discriminator.{n}": t for n, t in discriminator.state_dict().items()}
    fusion = Fusion(judge=0.6, move=1.0, merge_iou=0.6, looks=2, fitted=True)
    path = tmp_path_factory.mktemp("finding") / "model.safetensors"
    save_checkpoint(path, Checkpoint("fused", to_tree(recipe), tensors, fusion=fusion.to_facts()))
    return path


@pytest.fixture(scope="module")  # while it runs, nothing else may run asyncio in this thread
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A headless Chromium, by playwright; tests that need it skip where one of both is absent.

    Its camera sees scikit-image's astronaut.
    """
    api = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install -e '.[browser]'")
    pytest.importorskip("axe_playwright_python", reason="needs axe-core: pip install -e '.[browser]'")
    names = (os.environ.get("CHROMIUM", ""), "chromium", "chromium-browser", "google-chrome")
    binary = next(filter(None, map(shutil.which, names)), None)
    if binary is None:
        pytest.skip("needs Chromium: apt-get install chromium, or its path as CHROMIUM=…")
    film = tmp_path_factory.mktemp("camera") / "astronaut.mjpeg"
    Image.fromarray(data.astronaut()).save(film, "JPEG", quality=95)
    camera = [*CAMERA, f"--use-file-for-fake-video-capture={film}"]
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=binary, args=[*CHROMIUM, *camera])
        yield browser
        browser.close()


class Pages:
    """Opens pages in Chromium, and notes what they complain of and what they ask of other machines.

    Args:
        browser: of playwright.
    """

    def __init__(self, browser: Any) -> None:
        self._browser = browser
        self._contexts: list[Any] = []
        self.complaints: list[str] = []
        self.strangers: list[str] = []  # addresses on other machines

    def open(self, address: str, width: int, scheme: str = "light") -> Any:
        """A new page of that width in pixels, in a ``light`` or ``dark`` scheme."""
        context = self._browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
        context.set_default_timeout(120_000)  # milliseconds: on a busy machine, too, a page comes in the end
        self._contexts.append(context)
        page = context.new_page()
        page.on("request", lambda request: self._note(request.url))
        page.on("websocket", lambda socket: self._note(socket.url))
        page.on("console", lambda line: self._hear(line.text) if line.type == "error" else None)
        page.on("pageerror", lambda error: self._hear(str(error)))
        page.goto(address)
        return page

    def close(self) -> None:
        """Close all of them."""
        for context in self._contexts:
            context.close()

    def _note(self, address: str) -> None:
        parts = urlsplit(address)
        if parts.scheme not in ("file", "data", "blob") and parts.hostname != "127.0.0.1":
            self.strangers.append(address)

    def _hear(self, complaint: str) -> None:
        self.complaints.append(complaint)


@pytest.fixture
def pages(chromium: Any) -> Iterator[Pages]:
    """Opens pages; whatever the test does with them, they may not complain, nor ask anything of other machines."""
    opened = Pages(chromium)
    yield opened
    opened.close()
    assert not opened.complaints and not opened.strangers, (opened.complaints, opened.strangers)


@pytest.fixture
def barriers() -> Callable[[Any], list[str]]:
    """What axe-core finds serious or critical on a page for people who use it by keyboard or screen reader."""

    def find(page: Any) -> list[str]:
        from axe_playwright_python.sync_playwright import Axe

        found: list[str] = []
        for _ in range(20):  # colours fade in, which takes its time on a busy machine
            violations = Axe().run(page).response["violations"]
            grave = [one for one in violations if one["impact"] in ("serious", "critical")]
            found = [f"{one['id']}: {node['html'][:200]}" for one in grave for node in one["nodes"]]
            if not found:
                break
            page.wait_for_timeout(250)
        return found

    return find


def make_tiny_wider(folder: Path, train: int = 12, val: int = 4) -> TinyWider:
    """Draw the data into ``folder``."""
    rng = np.random.default_rng(7)
    root, proposals = folder / "data", folder / "proposals"
    writer = DetectionWriter(proposals)
    (root / "wider_face_split").mkdir(parents=True)
    for split, count in (("train", train), ("val", val)):
        truths = {}
        for number in range(count):
            name = f"0--Parade/{split}_{number}.jpg"
            image, truth = _draw_scene(rng)
            path = root / f"WIDER_{split}" / "images" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            image.save(path, quality=95)
            truths[name] = truth
            writer.write(f"{split}/{name}", _propose(truth, image.size, rng))
        list_file = root / "wider_face_split" / f"wider_face_{split}_bbx_gt.txt"
        list_file.write_text(format_ground_truth(truths))
    return TinyWider(root, proposals)


def make_table(data: TinyWider, file: Path, row_group: int, split: str = "val") -> Path:
    """The pictures of a split and the proposals on them as one Parquet file, with so many rows per row group."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    found = open_detections(data.proposals / split)
    rows = [
        {
            "name": f"{name}.jpg",
            "bytes": (data.root / f"WIDER_{split}" / "images" / f"{name}.jpg").read_bytes(),
            "boxes": found[name].boxes.tolist(),
            "scores": found[name].scores.tolist(),
        }
        for name in sorted(found)
    ]
    pq.write_table(pa.Table.from_pylist(rows), file, row_group_size=row_group)
    return file


def _draw_scene(rng: np.random.Generator) -> tuple[Image.Image, GroundTruth]:
    image = Image.fromarray(rng.integers(60, 120, (12, 16, 3), dtype=np.uint8)).resize((320, 240))
    draw = ImageDraw.Draw(image)
    boxes = []
    for column in range(5):
        height = float(rng.uniform(24, 40) if column < 2 else rng.uniform(6, 14))
        x, y = 12 + 62 * column + rng.uniform(0, 8), rng.uniform(20, 180)
        box = (x, y, x + 0.8 * height, y + height)
        draw.ellipse(box, fill=(224, 180, 150))
        for eye in (0.3, 0.7):
            at = (x + 0.8 * height * eye, y + 0.4 * height)
            radius = max(0.8, height / 14)
            draw.ellipse((at[0] - radius, at[1] - radius, at[0] + radius, at[1] + radius), fill=(20, 20, 20))
        boxes.append(box)
    return image, GroundTruth(np.array(boxes), np.zeros(len(boxes), bool))


def _propose(truth: GroundTruth, size: tuple[int, int], rng: np.random.Generator) -> Detections:
    faces = truth.boxes + rng.normal(0, 0.5, truth.boxes.shape)
    corner = rng.uniform(0, 1, (10, 2)) * (np.array(size) - 50)
    sides = rng.choice([8.0, 12.0, 30.0, 36.0], (10, 1))
    others = np.concatenate([corner, corner + sides], axis=1)
    scores = np.concatenate([rng.uniform(0.3, 0.95, len(faces)), rng.uniform(0.05, 0.7, len(others))])
    return Detections(np.concatenate([faces, others]), scores).sorted()
