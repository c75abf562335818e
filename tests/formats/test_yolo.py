import pytest
from PIL import Image

from tinygan.errors import DataError
from tinygan.formats.yolo import load_yolo, parse_yolo

SIZE = (200, 100)


def test_parts_of_the_size_become_pixels():
    faces = parse_yolo("0 0.5 0.5 0.5 0.5\n\n1 0.25 0.5 0.1 1\r\n", "a.txt", SIZE)
    assert faces.boxes.tolist() == [[50, 25, 150, 75], [40, 0, 60, 100]] and not faces.invalid.any()
    assert len(parse_yolo("0 0.5 0.5 0.5 0.5\n1 0.25 0.5 0.1 1\n", "a.txt", SIZE, classes=[1])) == 1
    assert len(parse_yolo("", "a.txt", SIZE)) == 0


@pytest.mark.parametrize(
    "row", ["0 0.5 0.5 0.5", "0 0.5 0.5 0.5 0.5 0.9", "face 0.5 0.5 0.5 0.5", "0 50 25 150 75", "0.5 0 0 0 0",
            "-1 0.5 0.5 0.5 0.5", "0 nan 0.5 0.5 0.5", "inf 0.5 0.5 0.5 0.5", "0 0.5 0.5 -0.5 0.5"]
)  # fmt: skip
def test_bad_rows_name_the_line(row):
    with pytest.raises(DataError, match=r"^a\.txt:3: expected 'class cx cy w h'"):
        parse_yolo(f"0 0.5 0.5 0.5 0.5\n\n{row}\n", "a.txt", SIZE)


@pytest.fixture
def folders(tmp_path):
    labels, images = tmp_path / "labels", tmp_path / "images"
    for folder in (labels / "train", images / "train"):
        folder.mkdir(parents=True)
    for name in ("a.jpg", "b.png"):
        Image.new("RGB", SIZE).save(images / "train" / name)
    (labels / "train/a.txt").write_text("0 0.5 0.5 0.5 0.5\n")
    (labels / "classes.txt").write_text("face\n")
    return labels, images


def test_sizes_come_from_the_images(folders):
    faces = load_yolo(*folders)
    assert faces["train/a.jpg"].boxes.tolist() == [[50, 25, 150, 75]] and len(faces["train/b.png"]) == 0


def test_a_truncated_image_still_has_a_size(folders):
    file = folders[1] / "train/a.jpg"
    file.write_bytes(file.read_bytes()[:-50])
    assert load_yolo(*folders)["train/a.jpg"].boxes.tolist() == [[50, 25, 150, 75]]
    file.write_bytes(b"nonsense")
    with pytest.raises(DataError, match=r"a\.jpg: expected an image whose size can be read"):
        load_yolo(*folders)


def test_classes_may_be_written_with_a_point(folders):
    (folders[0] / "train/a.txt").write_text("0.0 0.5 0.5 0.5 0.5\n1.0 0.5 0.5 0.1 0.1\n")
    assert load_yolo(*folders)["train/a.jpg"].boxes.tolist() == [[50, 25, 150, 75]]  # class 0 is called face


def test_a_folder_with_a_malformed_row_names_its_line(folders):
    (folders[0] / "train/a.txt").write_text("0 0.5 0.5 0.5 0.5\n0.5 0.5 0.1 0.1\n")
    with pytest.raises(DataError, match=r"a\.txt:2: expected 'class cx cy w h'"):
        load_yolo(*folders)


def test_what_is_missing(folders, tmp_path):
    labels, images = folders
    with pytest.raises(DataError, match=r"none: expected YOLO annotations .* no such folder"):
        load_yolo(tmp_path / "none", images)
    with pytest.raises(DataError, match="no such folder of images"):
        load_yolo(labels, tmp_path / "none")
    (labels / "train/c.txt").write_text("")
    with pytest.raises(DataError, match=r"train/c\.txt: expected an image of that name"):
        load_yolo(labels, images)
    (labels / "train/c.txt").unlink()
    (labels / "train/a.txt").write_bytes(b"\n\xff")
    with pytest.raises(DataError, match=r"a\.txt:2: expected UTF-8 text"):
        load_yolo(labels, images)
