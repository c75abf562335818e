import numpy as np
import pytest

from tinygan.errors import DataError
from tinygan.formats.retinaface import load_labels, parse_labels

POINTS = "11 21 0.0 12 22 1.0 13 23 0.0 -1.0 -1.0 -1.0 15 25 0.0"
TEXT = f"""# 0--Parade/a b.jpg
10 20 30 40 {POINTS} 0.82
1 2 3 4 {"-1.0 -1.0 -1.0 " * 5}0.2
# 0--Parade/none.jpg
# 0--Parade/c.jpg
5 6 7 8
9 9 0 0 {POINTS}
"""


def test_boxes_landmarks_and_their_absence():
    faces = parse_labels(TEXT, "label.txt")
    assert {name: len(item) for name, item in faces.items()} == {
        "0--Parade/a b.jpg": 2, "0--Parade/none.jpg": 0, "0--Parade/c.jpg": 2,
    }  # fmt: skip
    first, last = faces["0--Parade/a b.jpg"], faces["0--Parade/c.jpg"]
    assert first.boxes.tolist() == [[10, 20, 40, 60], [1, 2, 4, 6]] and not first.invalid.any()
    points = first.fields["landmarks"]
    assert points.shape == (2, 5, 2) and points[0, [0, 1, 2, 4]].tolist() == [[11, 21], [12, 22], [13, 23], [15, 25]]
    assert np.isnan(points[0, 3]).all() and np.isnan(points[1]).all()
    assert first.fields["landmark_flags"][0].tolist() == [0, 1, 0, -1, 0]
    assert first.fields["landmark_quality"].tolist() == [0.82, 0.2]
    assert np.isnan(last.fields["landmarks"][0]).all() and last.fields["landmarks"][1, 0].tolist() == [11, 21]
    assert np.isnan(last.fields["landmark_quality"]).all() and last.usable.tolist() == [True, False]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1 2 3 4\n", "label.txt:1: expected '# image name' before the first face"),
        ("# a\n\n1 2 3\n", "label.txt:3: expected 'x y w h', then nothing or 'x y v' of 5 landmarks"),
        (f"# a\n1 2 3 4 {POINTS} 1 2\n", "label.txt:2: expected"),
        ("# a\n1 2 3 4\n1 2 x 4\n", "label.txt:3: expected"),
        ("# a\n1 2 3 nan\n", "label.txt:2: expected"),
        ("# a\n1e308 0 1e308 0\n", "label.txt:2: expected"),
        ("# a\n# b\n# a\n", "label.txt:3: image 'a' is listed a second time"),
        ("#\n", "label.txt:1: expected the name of an image after #"),
    ],
)
def test_bad_labels_name_the_line(text, message):
    with pytest.raises(DataError) as caught:
        parse_labels(text, "label.txt")
    assert str(caught.value).startswith(message)


def test_from_disk(tmp_path):
    file = tmp_path / "label.txt"
    file.write_bytes(TEXT.replace("\n", "\r\n").encode())
    assert list(load_labels(file)) == list(parse_labels(TEXT, "x"))
    file.write_text("\n")
    with pytest.raises(DataError, match=r"label\.txt: expected '# image name' lines and faces"):
        load_labels(file)
    with pytest.raises(DataError, match=r"none\.txt: expected RetinaFace's label\.txt: No such file"):
        load_labels(tmp_path / "none.txt")
