"""What the page of ``tinygan-app`` computes, without the page."""

import csv
import io

import numpy as np
import pytest
from PIL import Image

from tinygan.app.search import SIGNS, Stages, first_stages, view_faces
from tinygan.boxes import iou
from tinygan.detect.picture import COLOURS
from tinygan.detections import Detections
from tinygan.proposers import DEFAULT
from tinygan.runtime import RuntimeOptions

BOXES = np.array([[10.0, 10, 50, 60], [20, 20, 30, 32], [100, 40, 120, 64], [150, 40, 170, 64], [150, 100, 170, 124]])
GREY = Image.new("RGB", (200, 150), (90, 90, 90))


@pytest.fixture
def every():
    """Five boxes; with a least score of 0.5 the third is found by the second stage and the fourth dropped."""
    return Detections(BOXES, np.array([0.9, 0.8, 0.7, 0.3, 0.2])).with_fields(
        proposal_box=BOXES,
        proposal_score=np.array([0.9, 0.95, 0.2, 0.6, 0.1]),
        face_logit=np.arange(5.0),
        outcome=np.array(["kept", "lowered", "raised", "lowered", "raised"]),
    )


@pytest.fixture(scope="module")
def stages():
    return Stages(RuntimeOptions(device="cpu", precision="32", threads=1))


def test_the_least_score_says_what_is_found_and_what_is_dropped(every):
    view = view_faces(GREY, "a.jpg", every, 0.5)
    assert view.faces.fields["outcome"].tolist() == ["kept", "lowered", "found"]
    assert view.dropped.tolist() == BOXES[3:4].tolist()
    assert view.count() == {"kept": 1, "raised": 0, "lowered": 1, "moved": 0, "found": 1}
    assert view.label(2) == "3: found, 0.20 to 0.70, 24 px"
    drawn = [name for name, colour in COLOURS.items() if (view.drawn == colour).all(axis=2).any()]
    assert drawn == ["kept", "lowered", "found"]
    assert SIGNS.keys() == COLOURS.keys()


def test_a_click_means_the_smallest_face_there(every):
    view = view_faces(GREY, "a.jpg", every, 0.5)
    factor = view.drawn.shape[1] / GREY.width
    assert factor > 3  # small pictures are shown enlarged
    places = [(25, 25), (12, 12), (110, 50), (160, 50), (199, 149)]
    assert [view.face_at(factor * x, factor * y) for x, y in places] == [1, 0, 2, None, None]


def test_the_table_is_that_of_tinygan_detect(every):
    rows = list(csv.DictReader(io.StringIO(view_faces(GREY, "a, b.jpg", every, 0.5).table())))
    assert [row["outcome"] for row in rows] == ["kept", "lowered", "found"]
    assert rows[2]["image"] == "a, b.jpg" and float(rows[2]["x1"]) == 100 and float(rows[2]["score"]) == 0.7
    nothing = list(csv.DictReader(io.StringIO(view_faces(GREY, "a.jpg", every, 1.0).table())))
    assert [(row["image"], row["x1"]) for row in nothing] == [("a.jpg", "")]


def test_every_first_stage_that_ships_finds_the_astronaut(stages, photograph):
    assert DEFAULT in first_stages() and len(first_stages()) >= 2
    for name in first_stages():
        both, alone = (
            view_faces(photograph, "a.png", stages.search(photograph, name, on), 0.3) for on in (True, False)
        )
        for view in (both, alone):
            assert len(view.faces) == 1 and iou(view.faces.boxes, np.array([[180.0, 60, 270, 180]]))[0, 0] > 0.6
        assert both.faces.scores[0] != alone.faces.scores[0] == alone.faces.fields["proposal_score"][0]
        assert alone.faces.fields["outcome"].tolist() == ["kept"] and not len(alone.dropped)


def test_a_face_is_shown_as_it_is_and_enlarged(stages, photograph):
    view = view_faces(photograph, "a.png", stages.search(photograph, DEFAULT, True), 0.3)
    sheet = stages.enlarge(view, 0)
    assert sheet.shape[1] > 3 * 256 and sheet.dtype == np.uint8
    assert stages.draw(view, DEFAULT).shape[1] > photograph.width
