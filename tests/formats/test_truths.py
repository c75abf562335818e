import json

import numpy as np
import pytest
from PIL import Image

from tinygan.errors import DataError
from tinygan.formats.truths import load_faces

XML = (
    "<annotation><filename>a.jpg</filename><object><name>face</name><bndbox><xmin>2</xmin><ymin>3</ymin>"
    "<xmax>11</xmax><ymax>22</ymax></bndbox></object></annotation>"
)
COCO = {"images": [{"id": 1, "file_name": "a.jpg"}], "annotations": [{"image_id": 1, "bbox": [1, 2, 10, 20]}]}
FILES = {
    "voc/a.xml": XML,
    "coco.json": json.dumps(COCO),
    "wider_bbx_gt.txt": "a.jpg\n1\n1 2 10 20 0 0 0 0 0 0\n",
    "label.txt": "# a.jpg\n1 2 10 20\n",
    "folds/FDDB-fold-01-ellipseList.txt": "a.jpg\n1\n10 5 1.5707963267948966 6 12 1\n",
    "yolo/a.txt": "0 0.15 0.3 0.25 0.5\n",
}


@pytest.fixture
def written(tmp_path):
    """One face ``1, 2, 11, 22`` of the image ``a.jpg`` (40 x 40 px) in every format."""
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    (tmp_path / "images").mkdir()
    Image.new("RGB", (40, 40)).save(tmp_path / "images" / "a.jpg")
    return tmp_path


@pytest.mark.parametrize(
    "path",
    ["voc", "coco.json", "wider_bbx_gt.txt", "label.txt", "folds", "folds/FDDB-fold-01-ellipseList.txt", "yolo"],
)
def test_every_format_is_found_out(written, path):
    faces = load_faces(written / path, written / "images")
    assert list(faces) == ["a.jpg"]
    assert np.allclose(faces["a.jpg"].boxes, [[1, 2, 11, 22]]) and not faces["a.jpg"].invalid.any()


def test_what_is_none_of_them_says_what_is_read(written):
    with pytest.raises(DataError, match=r"yolo: YOLO annotations hold parts of an image's size; give .* \(--images\)"):
        load_faces(written / "yolo")
    with pytest.raises(DataError, match=r"images: expected Pascal VOC XML .*; found no such file in this folder"):
        load_faces(written / "images")
    with pytest.raises(DataError, match=r"nowhere: expected Pascal VOC XML .*: No such file"):
        load_faces(written / "nowhere")
    (written / "empty.txt").touch()
    with pytest.raises(DataError, match=r"empty.txt: the file is empty; expected Pascal VOC XML"):
        load_faces(written / "empty.txt")
