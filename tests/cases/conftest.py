"""What people really have, made small: a face, photographed in many ways."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from skimage import data

import tinygan
from proposals.cli.propose import main as propose
from tinygan.cli.detect import main as detect
from tinygan.cli.rescore import main as rescore
from tinygan.detect.detector import FaceDetector
from tinygan.proposers import choose_proposer
from tinygan.runtime import RuntimeOptions

COMMANDS = {"propose": propose, "detect": detect, "rescore": rescore}


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
    """Good, odd, damaged and foreign files; returns the folder and the names of good and of damaged pictures."""
    (folder / "event").mkdir(parents=True)
    grey = np.asarray(picture.convert("L"))
    picture.save(folder / "plain.jpg", quality=95)
    picture.save(folder / "twin.JPG", "jpeg")
    picture.save(folder / "twin.png")
    picture.convert("P").save(folder / "palette.png")
    picture.convert("RGBA").save(folder / "clear.png")
    picture.convert("CMYK").save(folder / "print.tif")
    picture.convert("1").save(folder / "fax.tiff")
    Image.fromarray(grey.astype(np.uint16) * 16).save(folder / "twelve.png")
    Image.fromarray(grey.astype(np.float32) / 255).save(folder / "real.tif")
    phone_photo(picture, folder / "phone.jpe")
    picture.save(folder / "event/name with spaces.webp")
    picture.save(folder / "event/netz.ppm")
    picture.resize((1, 1)).save(folder / "event/pixel.bmp")
    picture.save(folder / "exif.jpg", exif=b"Exif\0\0" + bytes(range(99)))
    good = [file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()]
    whole = (folder / "twin.png").read_bytes()
    (folder / "cut.png").write_bytes(whole[: len(whole) // 2])
    (folder / "cut.jpg").write_bytes((folder / "plain.jpg").read_bytes()[:900])
    (folder / "event/empty.jpg").touch()
    (folder / "text.jpeg").write_text("<html>404</html>")
    (folder / "noise.webp").write_bytes(b"RIFF\x10\0\0\0WEBPVP8 " + bytes(9))
    (folder / "head.tif").write_bytes(b"II*\0\x08\0\0\0")
    (folder / "gone.bmp").symlink_to(folder / "nowhere.bmp")
    bad = ["cut.png", "cut.jpg", "event/empty.jpg", "text.jpeg", "noise.webp", "head.tif", "gone.bmp"]
    for name in ("camera.CR2", "anim.gif", "notes.txt", "._twin.png", "Thumbs.db", "event/.DS_Store"):
        (folder / name).write_bytes(b"\0\5\x16\7")
    return folder, sorted(good), bad
