import pytest

from tinygan.errors import DataError
from tinygan.formats.voc import load_voc, parse_voc


def box(corners="11 21 40 60", name="face", more=""):
    texts = "".join(
        f"<{tag}>{value}</{tag}>" for tag, value in zip(("xmin", "ymin", "xmax", "ymax"), corners.split(), strict=False)
    )
    return f"<object>\n<name>{name}</name>{more}<bndbox>{texts}</bndbox></object>\n"


def xml(*objects, filename="a.jpg"):
    return f"<annotation>\n<filename>{filename}</filename>\n{''.join(objects)}</annotation>".encode()


PART = "<part><name>face</name><bndbox><xmin>1</xmin></bndbox></part>"


def test_inclusive_pixels_from_1_become_exclusive_ones_from_0():
    found = parse_voc(xml(box(), box("1 1 1 1", "Face", "<difficult>1</difficult>"), box("x", "car")), "a.xml")
    assert found.file_name == "a.jpg" and found.others == ["car"]
    assert found.faces.boxes.tolist() == [[10, 20, 40, 60], [0, 0, 1, 1]]
    assert found.faces.invalid.tolist() == [False, True]
    assert len(parse_voc(xml(), "a.xml").faces) == 0


def test_classes_and_parts():
    content = xml(box(more=PART), box("1 2 3 4", "car"))
    assert len(parse_voc(content, "a.xml", None).faces) == 2
    assert parse_voc(content, "a.xml", ["CAR"]).faces.boxes.tolist() == [[0, 1, 3, 4]]
    assert parse_voc(content, "a.xml").faces.boxes.tolist() == [[10, 20, 40, 60]]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "a.xml:1: expected XML: no element found"),
        (b"<annotation>\n<object>\n</annotation>", "a.xml:3: expected XML: mismatched tag"),
        (xml(box(), box("1 2 3")), "a.xml:5: expected finite numbers bndbox/{xmin,ymin,xmax,ymax}; got"),
        (xml(box("1 2 3 nan")), "a.xml:3: expected finite numbers"),
        (xml(box("1 2 3 four")), "a.xml:3: expected finite numbers"),
        (b'<?xml version="1.0" encoding="nonsense"?>\n<a/>', "a.xml:1: expected XML"),
        (b"\xff\xfe\x00", "a.xml:1: expected XML"),
    ],
)
def test_bad_xml_names_the_line(content, message):
    with pytest.raises(DataError) as caught:
        parse_voc(content, "a.xml")
    assert str(caught.value).startswith(message)


def test_folder(tmp_path):
    (tmp_path / "e").mkdir()
    (tmp_path / "e/a.xml").write_bytes(xml(box(), filename="C:\\sub\\a.jpg"))
    (tmp_path / "e/b.xml").write_bytes(xml(filename=""))
    faces = load_voc(tmp_path)
    assert {name: len(item) for name, item in faces.items()} == {"e/a.jpg": 1, "e/b": 0}
    (tmp_path / "e/c.xml").write_bytes(xml(box(), box(), filename="a.jpg"))
    assert len(load_voc(tmp_path)["e/c"]) == 2, "a stale filename gives way to the XML's own name"
    (tmp_path / "e/a.jpg.xml").write_bytes(xml(box(), filename="a.jpg"))
    with pytest.raises(DataError, match=r"a\.xml: image 'e/a\.jpg' is annotated in another file too"):
        load_voc(tmp_path)


def test_swapped_corners_and_objects_without_a_box(tmp_path, caplog):
    (tmp_path / "a.xml").write_bytes(xml(box("40 60 11 21"), "<object><name>face</name><polygon/></object>"))
    assert load_voc(tmp_path)["a.jpg"].boxes.tolist() == [[10, 20, 40, 60]]
    assert "1 objects without a box are left out" in caplog.text


def test_folders_without_faces(tmp_path):
    with pytest.raises(DataError, match=r"none: expected Pascal VOC annotations .* no such folder"):
        load_voc(tmp_path / "none")
    with pytest.raises(DataError, match="found none"):
        load_voc(tmp_path)
    (tmp_path / "1.xml").write_bytes(xml(box(name="car")))
    with pytest.raises(DataError, match="expected objects of class face, got only car"):
        load_voc(tmp_path)
