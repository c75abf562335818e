"""The output folder survives a kill and holds nothing by halves."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from tinygan.detect.results import open_results, to_record
from tinygan.detect.sources import Source
from tinygan.detections import Detections
from tinygan.errors import DataError
from tinygan.formats.registry import open_detections

SETTINGS = {"min_score": 0.3}
ONE, TWO, CLIP = (Source(name, Path(name)) for name in ("a/one.jpg", "two.jpg", "clip.mp4"))


def faces(count: int) -> Detections:
    boxes = np.arange(4.0 * count).reshape(count, 4) / 3
    fields = {
        "proposal_score": np.full(count, 0.25),
        "face_logit": np.full(count, 1.5),
        "proposal_box": boxes,
        "outcome": np.array(["raised"] * count),
    }
    return Detections(boxes, np.full(count, 0.75), fields)


def opened(folder, resume=False, overwrite=False, settings=SETTINGS):
    return open_results(folder, settings, resume, overwrite)


def write_both(folder):
    with opened(folder) as results:
        for source, count in ((ONE, 2), (TWO, 0)):
            picture = folder / source.output
            picture.parent.mkdir(exist_ok=True)
            results.begin(source)
            picture.touch()
            results.add(to_record(source.name, (20, 10), faces(count), 1))
            results.finish(source)
        return results.write_tables(SETTINGS)


def test_tables_hold_every_face_and_every_image(tmp_path):
    totals = write_both(tmp_path / "out")
    assert (totals.images, totals.frames, totals.faces, totals.dropped) == (2, 0, 2, 2)
    assert totals.outcomes == {"raised": 2}
    table = json.loads((tmp_path / "out/detections.json").read_text())
    assert table["min_score"] == 0.3 and [image["name"] for image in table["images"]] == ["a/one.jpg", "two.jpg"]
    first = table["images"][0]
    assert (first["width"], first["height"], len(first["faces"]), table["images"][1]["faces"]) == (20, 10, 2, [])
    assert set(first["faces"][0]) == {"box", "score", "proposal_score", "face_logit", "proposal_box", "outcome"}
    found = open_detections(tmp_path / "out/detections.csv")
    assert np.array_equal(found["a/one.jpg"].boxes, faces(2).boxes) and len(found["two.jpg"]) == 0
    assert "frame" not in (tmp_path / "out/detections.csv").read_text()


def test_frames_have_a_number_and_a_time(tmp_path):
    with opened(tmp_path) as results:
        for number, count in enumerate((1, 0, 2)):
            results.add({**to_record(CLIP.name, (8, 8), faces(count), 0), "frame": number, "seconds": number / 4})
        results.finish(CLIP)
        results.add(to_record(ONE.name, (8, 8), faces(1), 0))
        results.finish(ONE)
        totals = results.write_tables(SETTINGS)
    assert (totals.images, totals.frames, totals.faces) == (1, 3, 4)
    with (tmp_path / "detections.csv").open(newline="") as file:
        rows = [(row["image"], row["frame"], row["seconds"]) for row in csv.DictReader(file)]
    assert rows == [("clip.mp4", "0", "0.0"), *[("clip.mp4", "2", "0.5")] * 2, ("a/one.jpg", "", "")]


def test_a_cut_off_run_goes_on_after_the_last_finished_input(tmp_path):
    write_both(tmp_path)
    with (tmp_path / "detect.jsonl").open("ab") as journal:
        journal.write(json.dumps(to_record(CLIP.name, (8, 8), faces(1), 0)).encode() + b'\n{"done": "cl')  # killed here
    with opened(tmp_path, resume=True) as results:
        assert results.done == {"a/one.jpg": "a/one.png", "two.jpg": "two.png"}
        results.add(to_record(CLIP.name, (8, 8), faces(3), 0))
        results.finish(CLIP)
        assert results.write_tables(SETTINGS).faces == 5


def test_what_is_dropped_is_nowhere(tmp_path):
    with opened(tmp_path) as results:
        results.add(to_record(CLIP.name, (8, 8), faces(3), 0))
        results.drop()
        results.add(to_record(ONE.name, (8, 8), faces(1), 0))
        results.finish(ONE)
        assert results.write_tables(SETTINGS).faces == 1
    assert "clip" not in (tmp_path / "detect.jsonl").read_text()


def test_results_are_refused_continued_or_replaced(tmp_path):
    out = tmp_path / "out"
    write_both(out)
    with pytest.raises(DataError, match=r"holds results already; continue with --resume or .* --overwrite"):
        opened(out)
    with pytest.raises(DataError, match="other settings"):
        opened(out, resume=True, settings={"min_score": 0.5})
    (out / "mine.txt").touch()
    with opened(out, overwrite=True, settings={"min_score": 0.5}) as results:
        assert not results.done
    assert sorted(path.name for path in out.iterdir()) == ["detect.jsonl", "mine.txt"]


def test_replacing_removes_a_picture_that_was_cut_off_and_leaves_those_of_others(tmp_path):
    with opened(tmp_path) as results:
        results.add(to_record(ONE.name, (8, 8), faces(1), 0))
        results.finish(ONE)  # --no-pictures
        results.begin(TWO)  # killed here
    for name in ("a/one.png", "two.png", "a/.one.png.swp", ".two.png.x1_y.tmp"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    with opened(tmp_path, overwrite=True):
        pass
    assert sorted(path.name for path in tmp_path.rglob("*")) == [".one.png.swp", "a", "detect.jsonl", "one.png"]


def test_folders_of_others_are_left_alone(tmp_path):
    (tmp_path / "mine.txt").touch()
    for choice in ({}, {"resume": True}, {"overwrite": True}):
        with pytest.raises(DataError, match="was not written by tinygan-detect"):
            opened(tmp_path, **choice)
        with pytest.raises(DataError, match=r"mine\.txt: expected a folder"):
            opened(tmp_path / "mine.txt", **choice)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_a_damaged_journal_is_named(tmp_path):
    (tmp_path / "detect.jsonl").write_text("nonsense\n")
    with pytest.raises(DataError, match=r"detect\.jsonl:1: expected the settings of a run"):
        opened(tmp_path, resume=True)


def test_another_file_of_the_same_name_is_refused(tmp_path):
    mine, other = Source("a.png", tmp_path / "1/a.png"), Source("a.png", tmp_path / "2/a.png")
    with open_results(tmp_path / "out", {}, resume=False, overwrite=False) as results:
        results.finish(mine)
    with open_results(tmp_path / "out", {}, resume=True, overwrite=False) as results:
        assert results.missing([mine, Source("b.png", tmp_path / "b.png")]) == [Source("b.png", tmp_path / "b.png")]
        with pytest.raises(DataError, match=r"holds 'a.png' of .*1/a.png; choose another --out for .*2/a.png"):
            results.missing([other])
