"""One picture, one reader: whoever asks, in whatever file or array it comes."""

import io
import struct
import sys

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image, PngImagePlugin, features

import tinygan
from tests.cases.conftest import phone_photo
from tinygan.cli.evaluate import main as evaluate
from tinygan.errors import DataError
from tinygan.formats.images import read_image, to_picture
from tinygan.formats.names import find_images
from tinygan.formats.registry import open_detections
from tinygan.formats.sizes import read_size


def found(folder):
    return {name: (one.boxes, one.scores) for name, one in open_detections(folder).items()}


def test_a_phone_photo_is_rescored_as_its_upright_copy(stage, face, box, tmp_path):
    face.save(tmp_path / "upright.png")
    turned = phone_photo(face, tmp_path / "turned.png")
    with Image.open(turned) as stored:
        assert stored.size == (72, 96)
    first, second = (stage.rescore(tmp_path / name, box, [0.5]) for name in ("upright.png", "turned.png"))
    assert np.abs(first.boxes - second.boxes).max() < 0.01 and abs(first.scores - second.scores)[0] < 0.01
    assert first.scores[0] > 0.6


@pytest.mark.parametrize("kind", ["jpg", "webp", "tif"])
def test_all_commands_see_a_phone_photo_upright(face, tmp_path, run, kind):
    images, upright = tmp_path / "images", tmp_path / "upright"
    images.mkdir()
    upright.mkdir()
    options = {"quality": 95} if kind != "tif" else {}
    exif = Image.Exif()
    exif[0x0112] = 6
    face.transpose(Image.Transpose.ROTATE_90).save(images / f"a.{kind}", exif=exif, **options)
    read_image(images / f"a.{kind}").save(upright / "a.png")
    for folder in (images, upright):
        assert run("propose", "--images", folder, "--out", tmp_path / f"p-{folder.name}") == 0
        proposals = tmp_path / f"p-{folder.name}"
        assert run("rescore", "--proposals", proposals, "--images", folder, "--out", tmp_path / f"r-{folder.name}") == 0
        assert run("detect", folder, "--out", tmp_path / f"d-{folder.name}", "--no-pictures") == 0
    for step in ("p", "r"):
        boxes, scores = found(tmp_path / f"{step}-images")["a"]
        expected = found(tmp_path / f"{step}-upright")["a"]
        assert np.abs(boxes - expected[0]).max() < 0.01 and np.abs(scores - expected[1]).max() < 0.01
    boxes, _ = found(tmp_path / "d-images/detections.csv")[f"a.{kind}"]
    assert np.abs(boxes[0] - [33.6, 10.2, 50.7, 33.3]).max() < 4


def test_stored_pixels_for_those_who_need_them(stage, face, box, tmp_path, run):
    (tmp_path / "images").mkdir()
    turned = phone_photo(face, tmp_path / "images/a.png")
    assert run("propose", "--images", turned.parent, "--out", tmp_path / "p", "--orientation", "stored") == 0
    boxes, _ = found(tmp_path / "p")["a"]
    assert boxes[:, [0, 2]].max() <= 72 and boxes[:, [1, 3]].max() <= 96  # of the stored picture, 72 wide
    sideways = np.array([[box[0, 1], 96 - box[0, 2], box[0, 3], 96 - box[0, 0]]])
    plain = face.transpose(Image.Transpose.ROTATE_90)
    stored = tinygan.SecondStage("lite", device="cpu", orientation="stored").rescore(turned, sideways, [0.5])
    assert np.allclose(stored.scores, stage.rescore(plain, sideways, [0.5]).scores)
    exif = Image.Exif()
    exif[0x0112] = 6
    plain.save(tmp_path / "a.tif", exif=exif)  # which Pillow turns of its own accord
    assert np.array_equal(read_image(tmp_path / "a.tif", "stored"), plain)
    assert run("rescore", "--proposals", tmp_path / "p", "--images", turned.parent, "--out", tmp_path / "r") == 0
    words = ("--proposals", tmp_path / "p", "--images", turned.parent, "--out", tmp_path / "r", "--resume")
    assert run("rescore", *words, "--orientation", "stored") == 2


DEPTHS = {
    "16 bits, grey": lambda grey: grey.astype(np.uint16) * 257,
    "12 in 16 bits": lambda grey: grey.astype(np.uint16) * 16,
    "32-bit integers": lambda grey: grey.astype(np.int32) * (2**23),
    "0 to 1": lambda grey: (grey / 255).astype(np.float32),
    "0 to 255": lambda grey: grey.astype(np.float32),
    "half precision": lambda grey: (grey / 255).astype(np.float16),
    "thermal, 16 bits": lambda grey: (29_000 + 10 * grey.astype(np.int64)).astype(np.uint16),
}


@pytest.mark.parametrize("depth", DEPTHS)
def test_one_picture_at_many_depths_has_one_score(stage, detector, face, box, tmp_path, depth):
    grey = np.asarray(face.convert("L"))
    plain = stage.rescore(grey, box, [0.5]).scores.mean(), detector.detect(grey).scores.mean()
    deep = DEPTHS[depth](grey)
    tifffile.imwrite(tmp_path / "a.tif", deep)
    for image in (deep, deep[..., None], tmp_path / "a.tif", io.BytesIO((tmp_path / "a.tif").read_bytes())):
        assert abs(stage.rescore(image, box, [0.5]).scores.mean() - plain[0]) < 0.03
        assert abs(detector.detect(image).scores.mean() - plain[1]) < 0.03
    assert plain[0] > 0.5 and plain[1] > 0.5


@pytest.mark.parametrize("factor", [1, 4, 16, 64, 257])  # 8, 10, 12, 14 and 16 bits in a 16-bit file
@pytest.mark.parametrize("layout", ["contiguous", "zlib", "big-endian", "planes"])
def test_deep_colours_in_tiff(face, tmp_path, factor, layout):
    pixels = np.asarray(face).astype(np.uint16) * factor
    options = {"zlib": {"compression": "zlib"}, "big-endian": {"byteorder": ">"}}.get(layout, {})
    if layout == "planes":
        pixels, options = pixels.transpose(2, 0, 1), {"planarconfig": "separate"}
    tifffile.imwrite(tmp_path / "a.tif", pixels, photometric="rgb", **options)
    shown = np.asarray(read_image(tmp_path / "a.tif")).astype(int)
    assert np.abs(shown - np.asarray(face)).max() <= 1


@pytest.mark.parametrize("factor", [1, 16, 257])
def test_deep_colours_in_png(face, tmp_path, factor):
    av = pytest.importorskip("av")
    pixels = np.ascontiguousarray(np.asarray(face).astype(np.uint16) * factor)
    with av.open(str(tmp_path / "a.png"), "w", format="image2") as container:
        stream = container.add_stream("png", rate=1)
        stream.width, stream.height, stream.pix_fmt = 96, 72, "rgb48be"
        frame = av.VideoFrame.from_ndarray(pixels, format="rgb48le").reformat(format="rgb48be")
        for packet in (*stream.encode(frame), *stream.encode(None)):
            container.mux(packet)
    assert np.abs(np.asarray(read_image(tmp_path / "a.png")).astype(int) - np.asarray(face)).max() <= 1


def test_floating_point_colours_that_pillow_does_not_know(face, tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", (np.asarray(face) / 255).astype(np.float32), photometric="rgb")
    assert np.array_equal(read_image(tmp_path / "a.tif"), face)


def test_the_rule_of_depth_by_hand():
    def shown(values, kind):
        return np.asarray(to_picture(np.array([values], kind)))[0, :, 0].tolist()

    assert shown([0, 128, 255], np.uint8) == [0, 128, 255]
    assert shown([0, 511, 1023], np.uint16) == [0, 127, 255]
    assert shown([0, 2000, 4000], np.uint16) == [0, 125, 249]  # of 4095
    assert shown([0, 1000, 16000], np.int64) == [0, 16, 249]  # of 16383
    assert shown([0, 0.5, 1.2], np.float32) == [0, 128, 255]  # of 1
    assert shown([0, 100, 260], np.float64) == [0, 100, 255]  # of 255; interpolation overshot
    assert shown([False, True, True], np.bool_) == [0, 255, 255]
    assert shown([0, np.nan, 1], np.float32) == [0, 0, 255]
    assert shown([-10.0, 5, 30], np.float32) == [0, 96, 255]  # degrees Celsius, between the 0.5 and 99.5 % points
    assert set(shown([300, 300, 300], np.float32)) == {255}


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "PA", "RGBA", "CMYK", "YCbCr"])
def test_every_mode_shows_what_it_holds(face, tmp_path, mode):
    if mode in ("1", "L", "LA"):
        expected = face.convert("1" if mode == "1" else "L").convert("RGB")
    else:
        expected = face.convert("P").convert("RGB") if mode in ("P", "PA") else face
    picture = face.convert(mode)
    if mode in ("LA", "RGBA"):
        picture.putalpha(Image.linear_gradient("L").resize(face.size))  # transparency is dropped
    difference = np.abs(np.asarray(to_picture(picture)).astype(int) - np.asarray(expected))
    assert difference.mean() < (8 if mode in ("P", "PA") else 3)
    assert np.array_equal(to_picture(np.asarray(picture.convert("RGBA"))), picture.convert("RGBA").convert("RGB"))


def test_palettes_with_transparency_raise_no_warning(face, tmp_path):
    face.convert("P").save(tmp_path / "a.png", transparency=bytes(range(256)))
    assert np.array_equal(read_image(tmp_path / "a.png"), face.convert("P").convert("RGB"))


@pytest.mark.parametrize("suffix", ["jfif", "jpe", "JPEG", "jp2", "ppm", "bmp", "tiff", "webp", "avif"])
def test_files_by_all_their_endings(face, tmp_path, suffix):
    if suffix == "avif" and not features.check("avif"):
        pytest.skip("this Pillow reads no AVIF")
    kind = {"jfif": "jpeg", "jpe": "jpeg", "jp2": "jpeg2000"}.get(suffix, suffix)
    face.save(tmp_path / f"a.{suffix}", kind)
    assert find_images(tmp_path).names == [f"a.{suffix}"]
    assert np.abs(np.asarray(read_image(tmp_path / f"a.{suffix}")).astype(int) - np.asarray(face)).mean() < 12


def test_sixteen_bit_pgm_is_read(face, tmp_path):
    grey = np.asarray(face.convert("L"))
    Image.fromarray(grey.astype(np.uint16) * 257).save(tmp_path / "a.pgm")
    assert np.array_equal(np.asarray(read_image(tmp_path / "a.pgm"))[..., 0], grey)


def test_heic_is_read_or_says_what_to_install(face, tmp_path, monkeypatch):
    heif = pytest.importorskip("pillow_heif")
    heif.from_pillow(face).save(tmp_path / "a.jpg", quality=95)  # phones rename it
    assert np.abs(np.asarray(read_image(tmp_path / "a.jpg")).astype(int) - np.asarray(face)).mean() < 12


def test_heic_without_its_package_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    (tmp_path / "a.heic").write_bytes(b"\0\0\0\x18ftypmsf1\0\0\0\0msf1heic" + bytes(50))
    with pytest.raises(DataError, match=r"a\.heic: .*(HEIC needs pillow-heif: pip install 'tinygan\[heic\]'|identify)"):
        read_image(tmp_path / "a.heic")


def test_what_is_not_read_is_counted_in_one_line(face, tmp_path, run, capsys):
    images = tmp_path / "images"
    images.mkdir()
    face.save(images / "a.png")
    for name in ("b.CR2", "c.cr2", "d.psd", "e.gif", "notes.txt", "Thumbs.db", "._a.png", ".hidden"):
        (images / name).write_bytes(b"nothing")
    face.save(images / "IMG_0001", "jpeg")
    line = "pictures of a kind that is not read: {} (2 .cr2,{} 1 .psd, 1 no ending), such as IMG_0001"
    assert run("propose", "--images", images, "--out", tmp_path / "p") == 0
    captured = capsys.readouterr()
    assert "1 images, " in captured.out and captured.err.count(line.format(5, " 1 .gif,")) == 1
    assert run("rescore", "--proposals", tmp_path / "p", "--images", images, "--out", tmp_path / "r") == 0
    assert capsys.readouterr().err.count(line.format(5, " 1 .gif,")) == 1
    (images / "e.gif").unlink()  # a video to tinygan-detect
    assert run("detect", images, "--out", tmp_path / "d", "--no-pictures") == 0
    assert capsys.readouterr().err.count(line.format(4, "")) == 1


def test_linked_folders_are_followed_once_and_loops_end(face, tmp_path, run, capsys):
    images, elsewhere = tmp_path / "images", tmp_path / "elsewhere"
    (images / "real").mkdir(parents=True)
    elsewhere.mkdir()
    face.save(images / "real/a.png")
    face.save(elsewhere / "b.png")
    (images / "linked").symlink_to(elsewhere)
    (images / "again").symlink_to(images / "real")
    (images / "real/loop").symlink_to(images)
    (images / "gone.png").symlink_to(tmp_path / "nowhere.png")
    assert find_images(images).names == ["gone.png", "linked/b.png", "real/a.png"]
    assert run("detect", images, "--out", tmp_path / "d", "--no-pictures") == 1
    captured = capsys.readouterr()
    assert "2 images" in captured.out and "gone.png: no such image" in captured.err


def damaged_exif(kind: str) -> bytes:
    entry = struct.pack(">HHHIHH", 1, 0x0112, 3, 1, 6, 0)
    return (
        b"Exif\0\0"
        + {
            "noise": bytes(range(200)),
            "cut": b"MM\0*\0\0\0\x08" + entry[:5],
            "far": b"MM\0*\xff\xff\xff\xf0" + entry,
            "loop": b"MM\0*\0\0\0\x08" + struct.pack(">HHHII", 1, 0x8769, 4, 1, 8) + b"\0\0\0\x08",
            "type": b"MM\0*\0\0\0\x08" + struct.pack(">HHHI", 1, 0x0112, 2, 4) + b"no\0\0" + b"\0\0\0\0",
        }[kind]
    )


@pytest.mark.parametrize("kind", ["noise", "cut", "far", "loop", "type"])
@pytest.mark.parametrize("suffix", ["jpg", "png", "webp"])
def test_a_damaged_exif_block_costs_its_orientation_alone(face, tmp_path, kind, suffix):
    options = {"quality": 100, "subsampling": 0} if suffix == "jpg" else {"lossless": True} if suffix == "webp" else {}
    face.save(tmp_path / f"a.{suffix}", exif=damaged_exif(kind), **options)
    assert np.abs(np.asarray(read_image(tmp_path / f"a.{suffix}")).astype(int) - np.asarray(face)).max() < 8


def test_a_bomb_is_one_line_that_names_the_option_that_lifts_the_limit(face, tmp_path, run, capsys, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    (tmp_path / "images").mkdir()
    face.save(tmp_path / "images/a.png")
    assert run("propose", "--images", tmp_path / "images", "--out", tmp_path / "p") == 1
    assert "a.png: Image size (6912 pixels) exceeds limit of 2000 pixels" in (error := capsys.readouterr().err)
    assert "--max-pixels N" in error
    words = ("--images", tmp_path / "images", "--out", tmp_path / "p", "--resume", "--max-pixels")
    assert run("propose", *words, "6910") == 1
    assert run("propose", *words, "6912") == 0
    assert len(open_detections(tmp_path / "p")["a"]) > 0


def test_normalised_arrays_and_other_things_are_refused_in_one_line(stage, face, box):
    pixels = np.asarray(face)
    with pytest.raises(DataError, match=r"samples from 0 up, got -1 to 1; give it as it was before"):
        stage.rescore(pixels / 127.5 - 1, box, [0.5])
    for nothing in (None, "a" * 3000, 5, pixels.astype(complex), np.zeros((0, 5, 3)), ["a"]):
        with pytest.raises(tinygan.TinyGanError):
            stage.rescore(nothing, box, [0.5])


def test_tensors_have_their_channels_first(stage, face, box):
    pixels = np.asarray(face)
    expected = stage.rescore(face, box, [0.5]).scores
    planes = torch.from_numpy(pixels.copy()).permute(2, 0, 1)
    for image in (planes, planes / 255, (planes / 255).requires_grad_(), planes.permute(1, 2, 0)):
        assert np.allclose(stage.rescore(image, box, [0.5]).scores, expected, atol=1e-6)
    assert np.allclose(stage.rescore((planes / 255).bfloat16(), box, [0.5]).scores, expected, atol=0.03)


@pytest.mark.parametrize("kind", ["jpeg", "png", "webp", "tiff"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_size_of_a_header_is_that_of_the_picture_read(face, tmp_path, kind, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"a.{kind}"
    face.save(path, kind, exif=exif)
    for position in ("upright", "stored"):
        assert read_size(path, position) == read_image(path, position).size
        assert read_size(path.read_bytes(), position) == read_size(str(path), position) == read_size(path, position)
    assert read_size(path) == ((72, 96) if orientation > 4 else (96, 72))


@pytest.mark.parametrize("where", ["before the pixels", "after them", "nowhere"])
def test_the_size_of_a_png_needs_its_pixels_only_where_its_orientation_follows_them(face, tmp_path, monkeypatch, where):
    exif = Image.Exif()
    exif[0x0112] = 6
    file = io.BytesIO()
    face.save(file, "png", exif=exif)
    content = file.getvalue()
    at, pixels = content.index(b"eXIf") - 4, content.index(b"IDAT") - 4
    chunk = content[at:pixels]
    content = content[:at] + content[pixels:]
    end = {"before the pixels": at, "after them": content.index(b"IEND") - 4, "nowhere": None}[where]
    if end is not None:
        content = content[:end] + chunk + content[end:]
    path = tmp_path / "a.png"
    path.write_bytes(content)
    expected = read_image(path).size
    decoded = []
    load = PngImagePlugin.PngImageFile.load
    monkeypatch.setattr(PngImagePlugin.PngImageFile, "load", lambda image: decoded.append(1) or load(image))
    assert read_size(path) == read_size(content) == expected == ((96, 72) if where == "nowhere" else (72, 96))
    assert bool(decoded) == (where == "after them")
    if where == "after them":  # what Pillow reads an orientation from elsewhere
        for kind in (b"iTXt", b"zTXt", b"tEXt"):
            path.write_bytes(content.replace(b"eXIf", kind))
            decoded.clear()
            assert read_size(path, "upright") and decoded
    path.write_bytes(content[:-30])  # cut off
    assert read_size(path, "stored") == (96, 72)


def test_a_picture_normalised_for_a_network_is_refused(face):
    normalised = (np.asarray(face) / 255 - 0.45) / 0.22
    with pytest.raises(DataError, match="before it was normalised for a network"):
        to_picture(normalised)


def test_fddb_cuts_boxes_to_the_upright_picture(tmp_path, capsys):
    """A portrait photo, stored lying: a face in its lower half lies beyond the height of the stored pixels."""
    (tmp_path / "images").mkdir()
    phone_photo(Image.new("RGB", (100, 200)), tmp_path / "images/a.jpg")
    (tmp_path / "images/b.jpg").write_bytes(b"\xff\xd8\xff damaged")
    (tmp_path / "folds").mkdir()
    (tmp_path / "folds/FDDB-fold-01-ellipseList.txt").write_text(
        "a\n1\n20 20 1.5707963267948966 50 160 1\nb\n1\n9 9 0 30 30 1\n"
    )
    (tmp_path / "found.txt").write_text("a\n1\n30 140 40 40 0.9\nb\n1\n21 21 18 18 0.8\n")
    truth = ["--ground-truth", str(tmp_path / "folds"), "--images", str(tmp_path / "images")]
    assert evaluate(["fddb", "--detections", str(tmp_path / "found.txt"), *truth]) == 1
    captured = capsys.readouterr()
    assert captured.out.splitlines()[2].split()[:6] == ["all", "folds", "2", "2", "2", "1.0000*"]
    assert "b.jpg: expected an image whose size can be read" in captured.err
