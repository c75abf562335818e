import pytest

from tinygan.errors import DataError
from tinygan.formats.names import list_images, match_names, select_names, stem


def test_stem_drops_known_endings_only():
    assert [stem(n) for n in ("e/a.jpg", "e/a.txt", "e/a.b", "a.b.JPG", "e\\a.png")] == [
        "e/a",
        "e/a",
        "e/a.b",
        "a.b",
        "e/a",
    ]


def test_longest_common_suffix_wins():
    images = ["e1/a.jpg", "e2/a.jpg"]
    assert match_names(["det/val/e2/a", "det/val/e1/a"], images) == {
        "e1/a.jpg": "det/val/e1/a",
        "e2/a.jpg": "det/val/e2/a",
    }
    assert match_names(["e2/a"], images) == {"e2/a.jpg": "e2/a"}
    assert match_names(["other"], images) == {}


def test_ambiguity_both_ways_is_an_error():
    with pytest.raises(DataError, match=r"P: 'a' fits 'e1/a.jpg' and 'e2/a.jpg' equally well"):
        match_names(["a"], ["e1/a.jpg", "e2/a.jpg"], "P")
    with pytest.raises(DataError, match="'e/a.jpg' fits 'train/e/a' and 'val/e/a' equally well"):
        match_names(["train/e/a", "val/e/a"], ["e/a.jpg"])


def test_select_keeps_the_images_order_and_refuses_strangers():
    assert select_names(["e/b", "e/a.jpg"], ["e/a.jpg", "e/b.jpg", "e/c.jpg"], "L") == ["e/a.jpg", "e/b.jpg"]
    with pytest.raises(DataError, match="L: none of its names is among the 1 images"):
        select_names(["z"], ["e/a.jpg"], "L")


def test_list_images(tmp_path):
    (tmp_path / "e").mkdir()
    for name in ("e/b.JPG", "e/a.png", "notes.txt"):
        (tmp_path / name).touch()
    assert list_images(tmp_path) == ["e/a.png", "e/b.JPG"]
    with pytest.raises(DataError, match="no such folder of images"):
        list_images(tmp_path / "x")
    (tmp_path / "none").mkdir()
    with pytest.raises(DataError, match="expected images"):
        list_images(tmp_path / "none")
