"""Files as viewers show them."""

import numpy as np
import pytest
from PIL import Image

from tinygan.errors import DataError
from tinygan.formats.images import read_image

PIXELS = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3) * 3


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied_unless_stored_pixels_are_asked_for(tmp_path, orientation):
    shown = {1: PIXELS, 2: PIXELS[:, ::-1], 3: PIXELS[::-1, ::-1], 4: PIXELS[::-1], 5: PIXELS.swapaxes(0, 1)}
    shown |= {6: np.rot90(PIXELS, -1), 7: np.rot90(PIXELS, 2).swapaxes(0, 1), 8: np.rot90(PIXELS)}
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(PIXELS).save(tmp_path / "a.png", exif=exif)
    assert np.array_equal(read_image(tmp_path / "a.png"), shown[orientation])
    assert np.array_equal(read_image(tmp_path / "a.png", "stored"), PIXELS)


def test_sixteen_bits_become_eight(tmp_path):
    Image.fromarray(np.array([[0, 257 * 7, 257 * 128, 65535]], dtype=np.uint16)).save(tmp_path / "a.png")
    assert np.asarray(read_image(tmp_path / "a.png"))[0, :, 0].tolist() == [0, 7, 128, 255]


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "I;16"])
def test_every_mode_becomes_rgb(tmp_path, mode):
    Image.fromarray(PIXELS).convert("L" if mode == "I;16" else mode).convert(mode).save(tmp_path / "a.tif")
    shown = read_image(tmp_path / "a.tif")
    assert shown.mode == "RGB" and shown.size == (6, 4)


@pytest.mark.parametrize("content", [b"", b"text", b"\x89PNG\r\n\x1a\n\0\0"])
def test_what_is_no_image_is_named(tmp_path, content):
    (tmp_path / "a.jpg").write_bytes(content)
    with pytest.raises(DataError, match=r"a\.jpg: expected a readable image"):
        read_image(tmp_path / "a.jpg")
    with pytest.raises(DataError, match=r"b\.jpg: no such image"):
        read_image(tmp_path / "b.jpg")
