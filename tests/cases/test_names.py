"""Names as systems, spreadsheets and archives write them belong to their images; what is ambiguous stays an error."""

from __future__ import annotations

import json
import unicodedata
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tinygan.cli.convert import main as convert
from tinygan.detections import Detections
from tinygan.errors import DataError
from tinygan.formats.names import match_names, select_names
from tinygan.formats.registry import open_detections
from tinygan.formats.truths import load_faces
from tinygan.formats.wider import load_subset
from tinygan.formats.writing import write_wider
from tinygan.second_stage.plan import plan_rescoring
from tinygan.second_stage.rescoring import RescoreConfig

COMPOSED = unicodedata.normalize("NFC", "Zoë/Ångström é")
DECOMPOSED = unicodedata.normalize("NFD", COMPOSED)
ONE = Detections(np.array([[1.0, 2, 30, 40]]), np.array([0.5]))


def test_composed_and_decomposed_letters_are_the_same():
    assert COMPOSED != DECOMPOSED
    assert match_names([f"{DECOMPOSED}.txt"], [f"{COMPOSED}.jpg"]) == {f"{COMPOSED}.jpg": f"{DECOMPOSED}.txt"}
    assert match_names([COMPOSED], [f"x/{DECOMPOSED}.png"]) == {f"x/{DECOMPOSED}.png": COMPOSED}
    assert select_names([DECOMPOSED], [f"{COMPOSED}.jpg", "b.jpg"], "L") == [f"{COMPOSED}.jpg"]


def test_both_forms_side_by_side_are_told_apart_to_the_letter():
    images = [f"{COMPOSED}.jpg", f"{DECOMPOSED}.jpg"]
    assert match_names([DECOMPOSED, COMPOSED], images) == {images[0]: COMPOSED, images[1]: DECOMPOSED}


def test_ambiguity_stays_an_error():
    images = [f"1/{COMPOSED.split('/')[1]}.jpg", f"2/{DECOMPOSED.split('/')[1]}.jpg"]
    with pytest.raises(DataError, match="equally well"):
        match_names([COMPOSED.split("/")[1]], images)
    with pytest.raises(DataError, match="equally well"):
        match_names(["a.txt"], ["a.jpg", "a.png"])
    assert match_names(["a.png"], ["a.jpg", "a.png"]) == {"a.png": "a.png"}


@pytest.mark.parametrize(
    "name", ["C:\\in\\1--Parade\\my photo.jpg", ".\\1--Parade\\my photo.jpg", " 1--Parade/my photo.jpg ",
             "\ufeff1--Parade/my photo.jpg", "./1--Parade/my photo", "/data/1--Parade/my photo.jpg"]
)  # fmt: skip
def test_separators_spaces_and_marks(name):
    images = ["1--Parade/my photo.jpg", "2--Fair/my photo.jpg"]
    assert match_names([name], images) == {images[0]: name}


@pytest.mark.parametrize("form", ["NFC", "NFD"])
@pytest.mark.parametrize("packed", ["folder", "zip", "csv", "json"])
def test_proposals_find_their_picture(form, packed, tmp_path):
    other = {"NFC": "NFD", "NFD": "NFC"}[form]
    image = tmp_path / "images" / unicodedata.normalize(other, f"{COMPOSED}.png")
    image.parent.mkdir(parents=True)
    Image.new("RGB", (64, 48)).save(image)
    name = unicodedata.normalize(form, COMPOSED)
    path = tmp_path / {"folder": "p", "zip": "p.zip", "csv": "p.csv", "json": "p.json"}[packed]
    if packed == "folder":
        write_wider(path, {name: ONE})
    elif packed == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr(f"{name}.txt", f"{name}\n1\n1 2 29 38 0.5\n")
    elif packed == "csv":
        windows = name.replace("/", "\\")
        path.write_text(f"\ufeffimage;xmin;ymin;xmax;ymax;confidence\r\n{windows}.png;1;2;30;40;0,5\r\n", "utf-8")
    else:
        entry = {"image_id": f"{name}.png", "category_id": 1, "bbox": [1, 2, 29, 38], "score": 0.5}
        path.write_bytes(b"\xef\xbb\xbf" + json.dumps([entry], ensure_ascii=False).encode())
    plan = plan_rescoring(path, tmp_path / "images", RescoreConfig())
    assert plan.without_proposals == [] and len(plan.image_of) == len(plan.proposals) == 1
    (proposals,) = plan.proposals.values()
    assert proposals.boxes.tolist() == [[1, 2, 30, 40]] and proposals.scores.tolist() == [0.5]
    assert list(plan.image_of.values()) == [image]


def test_byte_order_marks_in_every_text(tmp_path):
    mark = b"\xef\xbb\xbf"
    (tmp_path / "list.txt").write_bytes(mark + "é.jpg\r\nb c.jpg\r\n".encode())
    assert load_subset(tmp_path / "list.txt") == ["é.jpg", "b c.jpg"]
    (tmp_path / "x_bbx_gt.txt").write_bytes(mark + "é.jpg\r\n1\r\n1 2 3 4 0 0 0 0 0 0 \r\n".encode())
    assert load_faces(tmp_path / "x_bbx_gt.txt")["é.jpg"].boxes.tolist() == [[1, 2, 4, 6]]
    (tmp_path / "a.json").write_bytes(mark + b'{"images": [{"id": 1, "file_name": "a.jpg"}], "annotations": []}')
    assert len(load_faces(tmp_path / "a.json")["a.jpg"]) == 0
    (tmp_path / "p").mkdir()
    (tmp_path / "p/a.txt").write_bytes(mark + b"a\r\n1\r\n1 2 3 4 0.5\r\n")
    assert open_detections(tmp_path / "p")["a"].boxes.tolist() == [[1, 2, 4, 6]]
    (tmp_path / "fddb.txt").write_bytes(mark + b"a\n1\n1 2 3 4 0.5\n")
    assert list(open_detections(tmp_path / "fddb.txt")) == ["a"]
    (tmp_path / "images").mkdir()
    Image.new("RGB", (100, 50)).save(tmp_path / "images/a.png")
    (tmp_path / "yolo").mkdir()
    (tmp_path / "yolo/a.txt").write_bytes(mark + b"0 0.5 0.5 0.5 0.5\r\n")
    assert load_faces(tmp_path / "yolo", tmp_path / "images")["a.png"].boxes.tolist() == [[25, 12.5, 75, 37.5]]


def test_a_voc_name_in_the_other_form_is_not_stale(tmp_path):
    composed, decomposed = (unicodedata.normalize(form, "é") for form in ("NFC", "NFD"))
    Path(tmp_path, f"{composed}.xml").write_text(
        f"<annotation><filename>{decomposed}.jpg</filename></annotation>", encoding="utf-8"
    )
    assert list(load_faces(tmp_path)) == [f"{decomposed}.jpg"]


def test_tinygans_own_files_find_their_pictures(face, tmp_path, run):
    """Names with a second ending, or a space before it."""
    images = tmp_path / "images"
    images.mkdir()
    for name in ("photo.jpg.png", "trailing .png", " leading.png", "a.png", "50% (1)#2.png"):
        face.save(images / name)
    assert run("propose", "--images", images, "--out", tmp_path / "p") == 0
    for out in ("p.csv", "p.json"):
        assert (
            convert([str(tmp_path / "p"), "--to", {".csv": "csv"}.get(out[1:], "coco"), "--out", f"{tmp_path}/{out}"])
            == 0
        )
    for path in ("p", "p.csv", "p.json"):
        plan = plan_rescoring(tmp_path / path, images, RescoreConfig())
        assert plan.without_proposals == [] and set(plan.proposals) == set(plan.image_of)
    assert match_names(["photo.jpg"], ["photo.jpg", "photo.jpg.png"]) == {"photo.jpg": "photo.jpg"}
    assert match_names(["a ", "a"], ["a .png", "a.png"]) == {"a .png": "a ", "a.png": "a"}


class _Unmarked(zipfile.ZipInfo):
    """A member whose name is UTF-8 without the mark that says so, as macOS writes it."""

    def _encodeFilenameFlags(self):  # noqa: N802
        return self.filename.encode("utf-8"), self.flag_bits


def test_names_in_zips_of_macos(tmp_path):
    names = [f"{DECOMPOSED}.txt", "\u5bb6.TXT"]
    with zipfile.ZipFile(tmp_path / "p.zip", "w") as archive:
        for name in names:
            archive.writestr(_Unmarked(name), "a\n1\n1 2 29 38 0.5\n")
    images = [f"{COMPOSED}.jpg", "\u5bb6.jpg"]
    files = open_detections(tmp_path / "p.zip")
    matched = match_names(files, images)
    assert list(matched) == images and all(files[file].boxes.tolist() == [[1, 2, 30, 40]] for file in matched.values())


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
def test_utf16_with_a_mark_is_read_as_spreadsheets_and_powershell_write_it(encoding, tmp_path):
    def write(name: str, text: str) -> Path:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(("\ufeff" + text.replace("\n", "\r\n")).encode(encoding))
        return tmp_path / name

    write("p/é.txt", "é\n1\n1 2 29 38 0.5\n")
    entry = {"image_id": "é.png", "category_id": 1, "bbox": [1, 2, 29, 38], "score": 0.5}
    for path in (
        write("b.csv", "image,x1,y1,x2,y2,score\né.png,1,2,30,40,0.5\n"),
        write("b.tsv", "image\tx1\ty1\tx2\ty2\tscore\né.png\t1\t2\t30\t40\t0.5\n"),
        write("b.json", json.dumps([entry], ensure_ascii=False)),
        write("b.txt", "é\n1\n1 2 29 38 0.5\n"),
        tmp_path / "p",
    ):
        ((name, found),) = open_detections(path).items()
        assert name.startswith("é") and found.boxes.tolist() == [[1, 2, 30, 40]] and found.scores.tolist() == [0.5]
    assert load_subset(write("list", "é.jpg\nb c.jpg\n")) == ["é.jpg", "b c.jpg"]
    faces = load_faces(write("x_bbx_gt.txt", "é.jpg\n1\n1 2 3 4 0 0 0 0 0 0\n"))
    assert faces["é.jpg"].boxes.tolist() == [[1, 2, 4, 6]]
    with pytest.raises(DataError, match="line 1"):
        (tmp_path / "p/é.txt").write_bytes(b"\xe9\xff")  # no mark
        open_detections(tmp_path / "p")["é"]
