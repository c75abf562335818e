"""What people really have, made small: a face, photographed in many ways."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import tifffile
from PIL import Image
from skimage import data

import tinygan
from proposals.cli.propose import main as propose
from tinygan.cli.detect import main as detect
from tinygan.cli.evaluate import main as evaluate
from tinygan.cli.rescore import main as rescore
from tinygan.detect.detector import FaceDetector
from tinygan.detections import Detections, GroundTruth
from tinygan.formats.wider import format_ground_truth
from tinygan.formats.writing import write_wider
from tinygan.proposers import choose_proposer
from tinygan.runtime import RuntimeOptions

COMMANDS = {"propose": propose, "detect": detect, "rescore": rescore}


NAMES = ("1--Parade/000042.jpg", "1--Parade/street view.jpg", "2--Fair/b.jpg", "2--Fair/nobody.jpg")


class Case(NamedTuple):
    """One detector's boxes in pictures, and where everything lies."""

    folder: Path
    found: dict[str, Detections]
    sizes: dict[str, tuple[int, int]]
    truth: dict[str, GroundTruth]

    @property
    def images(self) -> list[dict[str, object]]:
        """COCO's ``images``."""
        return [
            {"id": number, "file_name": name, "width": self.sizes[name][0], "height": self.sizes[name][1]}
            for number, name in enumerate(self.found, 7)
        ]

    def rows(self) -> list[tuple[int, str, list[float], list[float], float]]:
        """Image id, name, corners, ``x y w h`` and score of every box."""
        return [
            (number, name, box, [box[0], box[1], box[2] - box[0], box[3] - box[1]], score)
            for number, (name, one) in enumerate(self.found.items(), 7)
            for box, score in zip(one.boxes.tolist(), one.scores.tolist(), strict=True)
        ]


@pytest.fixture(scope="session")
def case(tmp_path_factory) -> Case:
    folder = tmp_path_factory.mktemp("dialects")
    rng = np.random.default_rng(3)
    found, truth, sizes = {}, {}, {}
    for number, name in enumerate(NAMES):
        size = (320 + 40 * number, 240)
        (folder / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", size).save(folder / "images" / name)
        corner = rng.uniform(0, 150, (8, 2)).round(2)
        faces = np.concatenate([corner, corner + rng.uniform(20, 60, (8, 2)).round(2)], axis=1)
        boxes = (faces + rng.normal(0, 5, faces.shape)).round(2)
        empty = name.endswith("nobody.jpg")
        truth[name] = GroundTruth.empty() if empty else GroundTruth(faces, np.zeros(8, bool))
        found[name] = Detections.empty() if empty else Detections(boxes, rng.uniform(0.1, 0.9, 8).round(4)).sorted()
        sizes[name] = size
    (folder / "truth_bbx_gt.txt").write_text(format_ground_truth(truth))
    write_wider(folder / "official", found)
    one = Case(folder, found, sizes, truth)
    (folder / "instances.json").write_text(json.dumps({"images": one.images, "annotations": [], "categories": []}))
    return one


def figures(case: Case, detections: Path, *options: object, truth: str = "truth_bbx_gt.txt") -> dict[str, object]:
    """``faces``, ``ap_binned`` and ``ap_exact`` of ``tinygan-evaluate wider``, which has to end well."""
    report = detections.parent / "report.json"
    words = ["wider", "--detections", detections, "--ground-truth", case.folder / truth, "--json", report, *options]
    assert evaluate([str(word) for word in words]) in (0, 1)
    return json.loads(report.read_text())["detections"]["subsets"]["all"]


@pytest.fixture(scope="session")
def face() -> Image.Image:
    """scikit-image's astronaut, 96 px wide and 72 high."""
    photo = Image.fromarray(data.astronaut()).resize((96, 96), Image.Resampling.BICUBIC)
    return photo.crop((0, 0, 96, 72))


@pytest.fixture(scope="session")
def box() -> np.ndarray:
    """Where her face is."""
    return np.array([[33.6, 10.2, 50.7, 33.3]])


@pytest.fixture(scope="session")
def stage() -> tinygan.SecondStage:
    """The second stage that ships."""
    return tinygan.SecondStage("lite", device="cpu")


@pytest.fixture(scope="session")
def detector() -> FaceDetector:
    """Both stages that ship, on one thread."""
    return FaceDetector.open(choose_proposer("retinaface"), options=RuntimeOptions(device="cpu", threads=1))


@pytest.fixture
def run() -> Callable[..., int]:
    """Runs ``tinygan-propose``, ``-detect`` or ``-rescore`` on one thread; returns the exit code."""

    def call(command: str, *words: object) -> int:
        return COMMANDS[command]([*map(str, words), "--device", "cpu", "--threads", "1"])

    return call


def phone_photo(picture: Image.Image, path: Path) -> Path:
    """Store a picture as a phone held upright does: a quarter turn to the left, and EXIF orientation 6."""
    exif = Image.Exif()
    exif[0x0112] = 6
    picture.transpose(Image.Transpose.ROTATE_90).save(path, exif=exif)
    return path


def damaged_folder(picture: Image.Image, folder: Path) -> tuple[Path, list[str], list[str]]:
    """Forty good, odd, damaged and foreign files; returns the folder and the names of good and of damaged pictures."""
    (folder / "event").mkdir(parents=True)
    grey = np.asarray(picture.convert("L"))
    picture.save(folder / "plain.jpg", quality=95)
    picture.save(folder / "twin.JPG", "jpeg")
    picture.save(folder / "twin.png")
    picture.convert("P").save(folder / "palette.png")
    picture.convert("RGBA").save(folder / "clear.png")
    picture.convert("LA").save(folder / "grey clear.png")
    picture.convert("CMYK").save(folder / "print.tif")
    picture.convert("CMYK").save(folder / "print.jpg")
    picture.convert("1").save(folder / "fax.tiff")
    picture.save(folder / "pages.tif", save_all=True, append_images=[picture.resize((9, 9))])
    Image.fromarray(grey.astype(np.uint16) * 16).save(folder / "twelve.png")
    tifffile.imwrite(folder / "motorola.tif", grey.astype(">u2") * 257, byteorder=">")
    Image.fromarray(grey.astype(np.float32) / 255).save(folder / "real.tif")
    phone_photo(picture, folder / "phone.jpe")
    picture.save(folder / "event/name with spaces.webp")
    picture.save(folder / "event/moves.webp", save_all=True, append_images=[picture.rotate(90)])
    picture.save(folder / "event/netz.ppm")
    picture.resize((1, 1)).save(folder / "event/pixel.bmp")
    picture.save(folder / "event/\u5bb6 \U0001f600.v1.2.png")
    picture.save(folder / "exif.jpg", exif=b"Exif\0\0" + bytes(range(99)))
    good = [file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()]
    whole = (folder / "twin.png").read_bytes()
    (folder / "cut.png").write_bytes(whole[: len(whole) // 2])
    (folder / "sum.png").write_bytes(whole[:60] + bytes([whole[60] ^ 255]) + whole[61:])
    (folder / "cut.jpg").write_bytes((folder / "plain.jpg").read_bytes()[:900])
    (folder / "event/empty.jpg").touch()
    (folder / "text.jpeg").write_text("<html>404</html>")
    (folder / "film.jpg").write_bytes(b"\0\0\0\x18ftypisom" + bytes(90))
    (folder / "noise.webp").write_bytes(b"RIFF\x10\0\0\0WEBPVP8 " + bytes(9))
    (folder / "head.tif").write_bytes(b"II*\0\x08\0\0\0")
    (folder / "gone.bmp").symlink_to(folder / "nowhere.bmp")
    (folder / "folder.png").symlink_to(folder / "folder.png")
    bad = ["cut.png", "sum.png", "cut.jpg", "event/empty.jpg", "text.jpeg", "film.jpg", "noise.webp", "head.tif"]
    bad += ["gone.bmp", "folder.png"]
    foreign = ["camera.CR2", "anim.gif", "notes.txt", "table.csv", "._twin.png", "Thumbs.db", "event/.DS_Store"]
    foreign += ["desktop.ini", "event/twin.xmp", "sound.wav"]
    for name in foreign:
        (folder / name).write_bytes(b"\0\5\x16\7")
    assert len(good) + len(bad) + len(foreign) == 40
    return folder, sorted(good), bad


@pytest.fixture
def images(face, tmp_path):
    """A folder of three pictures of one face."""
    folder = tmp_path / "images"
    folder.mkdir()
    for name in ("a.png", "b.png", "c.png"):
        face.save(folder / name)
    return folder
