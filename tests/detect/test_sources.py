"""What is read, and what it is written to."""

import sys
from pathlib import Path

import pytest

from tinygan.detect.sources import find_sources
from tinygan.errors import DataError, MissingDependency

OUT = Path("nowhere/out")


def make(folder: Path, *names: str) -> list[Path]:
    files = [folder / name for name in names]
    for file in files:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    return files


def test_files_keep_their_name_and_folders_their_tree(tmp_path):
    make(tmp_path / "many", "b/c.JPG", "a.png", "notes.txt", "b/d.e.webp")
    (one,) = make(tmp_path, "photo.jpg")
    found = find_sources([one, tmp_path / "many"], OUT).found
    assert [source.name for source in found] == ["photo.jpg", "a.png", "b/c.JPG", "b/d.e.webp"]
    assert [source.output for source in found] == ["photo.png", "a.png", "b/c.png", "b/d.e.png"]


def test_two_inputs_of_one_name_are_both_named(tmp_path):
    files = make(tmp_path, "a/p.jpg", "b/p.jpg")
    with pytest.raises(DataError, match=r"a/p\.jpg and .*b/p\.jpg would both be written to .*out/p\.png"):
        find_sources(files, OUT)


def test_two_inputs_for_one_output_keep_their_endings_and_no_other_does(tmp_path):
    files = make(tmp_path, "IMG_1.JPG", "IMG_1.png", "IMG_2.JPG", "IMG_1.mp4", "IMG_1.heic")
    outputs = [source.output for source in find_sources([file for file in files if file.suffix != ".mp4"], OUT).found]
    assert outputs == ["IMG_1.JPG.png", "IMG_1.png.png", "IMG_2.png", "IMG_1.heic.png"]
    rivals = make(tmp_path, "IMG_1.JPG", "IMG_1.png", "IMG_1.JPG.bmp")
    with pytest.raises(DataError, match=r"IMG_1\.JPG and .*IMG_1\.JPG\.bmp would both be written to .*IMG_1\.JPG\.png"):
        find_sources(rivals, OUT)


def test_the_same_file_twice_is_read_once(tmp_path):
    files = make(tmp_path, "p.jpg", "q.jpg")
    assert [source.name for source in find_sources([*files, tmp_path], OUT).found] == ["p.jpg", "q.jpg"]


def test_inputs_are_never_written_over_and_outputs_never_read(tmp_path):
    (photo,) = make(tmp_path, "p.png")
    with pytest.raises(DataError, match="is an input, and would be written over"):
        find_sources([photo], tmp_path)
    make(tmp_path, "found/p.png", "found/deep/q.png")
    assert [source.path for source in find_sources([tmp_path], tmp_path / "found").found] == [photo]


def test_mistakes_are_named(tmp_path):
    (notes,) = make(tmp_path, "notes.txt")
    with pytest.raises(DataError, match=r"absent\.jpg: no such file or folder; expected an image"):
        find_sources([tmp_path / "absent.jpg"], OUT)
    with pytest.raises(DataError, match=r"notes\.txt: expected an image .* or a folder"):
        find_sources([notes], OUT)
    with pytest.raises(DataError, match="holds no image and no video"):
        find_sources([tmp_path], OUT)


def test_an_output_folder_above_the_inputs_is_refused(tmp_path):
    make(tmp_path / "in", "a.png")
    for out in (tmp_path, tmp_path / "in"):
        with pytest.raises(DataError, match="lies above, the input folder"):
            find_sources([tmp_path / "in"], out)


def test_a_video_without_pyav_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    photo, clip = make(tmp_path, "photo.jpg", "clip.mp4")
    with pytest.raises(MissingDependency, match=r"clip\.mp4: .*pip install 'tinygan\[video\]'"):
        find_sources([photo, clip], OUT)
    assert len(find_sources([photo], OUT).found) == 1
