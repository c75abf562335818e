from __future__ import annotations

from pathlib import Path

import pytest

from tinygan.errors import DataError
from tinygan.formats.face_groups import load_face_groups

FACES = {"0--Parade/a.jpg": 3, "0--Parade/b.jpg": 1, "c.jpg": 0}


def load(folder: Path, text: str, faces: dict[str, int] = FACES):
    (folder / "groups.csv").write_text(text)
    return load_face_groups(folder / "groups.csv", faces)


def test_groups_by_value(tmp_path):
    table = "﻿skin,image,face,age\r\nVI,a.jpg,2,Not Sure\r\n\r\nI,a.jpg,0,\r\nVI,0--Parade/b.jpg,0,Adult\r\n"
    assert load(tmp_path, table) == {
        "skin": {"I": [("0--Parade/a.jpg", 0)], "VI": [("0--Parade/a.jpg", 2), ("0--Parade/b.jpg", 0)]},
        "age": {"Adult": [("0--Parade/b.jpg", 0)], "Not Sure": [("0--Parade/a.jpg", 2)]},  # an empty cell is no group
    }


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("", r"groups.csv:1: expected a CSV table .* got the columns \(none\)"),
        ("image,face\na.jpg,0\n", "one or more attributes"),
        ("image,age\na.jpg,old\n", "got the columns image, age"),
        ("image,face,age,age\na.jpg,0,old,old\n", "got the columns image, face, age, age"),
        ("image,face,age\n", "there is no face below the heading"),
        ("image,face,age\na.jpg,0\n", r"groups.csv:2: expected 3 columns \(image, face, age\), got 2"),
        ("image,face,age\na.jpg,first,old\n", "groups.csv:2: expected the number of a face, from 0 on, got 'first'"),
        ("image,face,age\nb.jpg,0,old\nz.jpg,0,old\n", "groups.csv:3: image 'z.jpg' is not among the 3 images"),
        ("image,face,age\na.jpg,3,old\n", "groups.csv:2: face 3 of 'a.jpg', which has 3 boxes"),
        ("image,face,age\na.jpg,-1,old\n", "face -1 of 'a.jpg'"),
        ("image,face,age\nc.jpg,0,old\n", "face 0 of 'c.jpg', which has 0 boxes"),
        ("image,face,age\na.jpg,0,old\na.jpg,0,young\n", "groups.csv:3: face 0 of 'a.jpg' was there before, at .*:2"),
        ('image,face,age\na.jpg,0,"old\n', "expected a line of CSV"),
    ],
)
def test_bad_tables_say_where(tmp_path, table, message):
    with pytest.raises(DataError, match=message) as error:
        load(tmp_path, table)
    assert "\n" not in str(error.value)
