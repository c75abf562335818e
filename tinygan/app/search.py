"""What the page shows, without the page: the faces of a photograph, the picture of them, one of them enlarged."""

from __future__ import annotations

import io
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from PIL import Image

from tinygan.data.cutting import SCALE
from tinygan.detect.detector import LITE, FaceDetector, split_by_score
from tinygan.detect.picture import detection_picture, mark_faces, resize_to_show
from tinygan.detect.results import to_record, write_rows
from tinygan.detections import ByteArray, Detections, FloatArray
from tinygan.pictures import sr_sheet
from tinygan.proposers import choose_proposer, find_proposer, proposer_names
from tinygan.runtime import Runtime, RuntimeOptions
from tinygan.second_stage.figures import enlarge_face
from tinygan.second_stage.upscaling import SuperResolver

# What stands beside a box, for those who do not see its colour.
SIGNS = {"kept": "=", "raised": "+", "lowered": "-", "moved": "~", "found": "new"}
_TILE_PX = 256  # side of an enlarged face there


@dataclass(frozen=True, eq=False)
class View:
    """A photograph with the faces of at least a score.

    Attributes:
        picture: the photograph.
        name: its file's name.
        faces: by falling score, in pixels of the photograph, with column ``outcome``: as of ``FaceDetector``, or
            ``found``, where the first stage's score was below the least and that of both is not.
        dropped: float64 [M, 4], boxes that the second stage lowered below the least score.
        drawn: uint8 RGB [H, W, 3], the photograph with numbered boxes, enlarged or shrunk.
        scale: float64 [4], the factors from ``x, y, x, y`` in the photograph to those drawn.
    """

    picture: Image.Image
    name: str
    faces: Detections
    dropped: FloatArray
    drawn: ByteArray
    scale: FloatArray

    def face_at(self, x: float, y: float) -> int | None:
        """The smallest face at a place of the drawn picture; ``None`` if there is none.

        Args:
            x: pixels from its left.
            y: pixels from its top.
        """
        place = np.array([x, y]) / self.scale[:2]
        corners = self.faces.boxes[:, :2], self.faces.boxes[:, 2:]
        rows = np.flatnonzero(((corners[0] <= place) & (place < corners[1])).all(axis=1))
        sizes = (corners[1] - corners[0])[rows].prod(axis=1)
        return int(rows[sizes.argmin()]) if len(rows) else None

    def label(self, row: int) -> str:
        """A face in one line: its number, what happened, its score before and after, its height."""
        before, after = self.faces.fields["proposal_score"][row], self.faces.scores[row]
        height = self.faces.boxes[row, 3] - self.faces.boxes[row, 1]
        return f"{row + 1}: {self.faces.fields['outcome'][row]}, {before:.2f} to {after:.2f}, {height:.0f} px"

    def count(self) -> dict[str, int]:
        """How many faces there are of each outcome."""
        outcomes = self.faces.fields["outcome"].tolist()
        return {name: outcomes.count(name) for name in SIGNS}

    def table(self) -> str:
        """The faces as the CSV table of ``tinygan-detect``."""
        text = io.StringIO()
        record = to_record(self.name, self.picture.size, self.faces, len(self.dropped))
        write_rows(text, lambda: [record])
        return text.getvalue()


class Stages:
    """The first stages that ship, each with the second stage, and the generator that enlarges faces.

    All are built when they are first needed.

    Args:
        options: where they run.
        batch_size: patches per forward pass of the second stage.
    """

    def __init__(self, options: RuntimeOptions, batch_size: int = 64) -> None:
        self._options, self._batch_size = options, batch_size
        self._detector = lru_cache(maxsize=None)(self._build)
        self._resolver = lru_cache(maxsize=None)(lambda: SuperResolver(runtime=Runtime(options)))

    def search(self, picture: Image.Image, first_stage: str, rescore: bool) -> Detections:
        """All boxes, by falling score, with the columns of :meth:`FaceDetector.detect`.

        Args:
            picture: RGB.
            first_stage: one of :func:`first_stages`.
            rescore: whether the second stage judges them; else every box is ``kept``.
        """
        detector = self._detector(first_stage)
        if rescore:
            return detector.detect(picture, min_score=0.0)
        found = detector.propose(picture)
        same = np.full(len(found), "kept")
        unknown = np.full(len(found), np.nan)
        return Detections(found.boxes, found.scores).with_fields(
            proposal_box=found.boxes, proposal_score=found.scores, face_logit=unknown, outcome=same
        )

    def enlarge(self, view: View, row: int) -> ByteArray:
        """A face as it is, enlarged by bicubic interpolation and super-resolved, side by side; uint8 RGB [H, W, 3]."""
        lr, bicubic, resolved = enlarge_face(view.picture, view.faces.boxes[row], self._resolver())
        pixels = lr.repeat(SCALE, axis=0).repeat(SCALE, axis=1)
        return sr_sheet([{"as it is": pixels, "bicubic": bicubic, "super-resolved": resolved}], tile_px=_TILE_PX)

    def draw(self, view: View, first_stage: str) -> ByteArray:
        """The picture that ``tinygan-detect`` writes, with the small faces super-resolved below it."""
        tiles = self._detector(first_stage).enlarge(view.picture, view.faces)
        return detection_picture(np.asarray(view.picture), view.faces, view.dropped, tiles)

    def _build(self, first_stage: str) -> FaceDetector:
        return FaceDetector.open(choose_proposer(first_stage), LITE, options=self._options, batch_size=self._batch_size)


def first_stages() -> list[str]:
    """Those that ship with weights."""
    return [name for name in proposer_names() if find_proposer(name).packaged is not None]


def view_faces(picture: Image.Image, name: str, every: Detections, min_score: float) -> View:
    """The faces of at least a score.

    Args:
        picture: the photograph.
        name: its file's name.
        every: all boxes, as of :meth:`Stages.search`.
        min_score: least final score.
    """
    faces, dropped = split_by_score(every, min_score)
    outcome = np.where(faces.fields["proposal_score"] < min_score, "found", faces.fields["outcome"])
    faces = faces.with_fields(outcome=outcome)
    shown, scale = resize_to_show(np.asarray(picture))
    scaled = Detections(faces.boxes * scale, faces.scores, faces.fields)
    labels = {row: f"{row + 1} {SIGNS[one]}" for row, one in enumerate(outcome.tolist())}
    drawn = mark_faces(shown, scaled, dropped * scale, labels)
    return View(picture, name, faces, dropped, drawn, scale)
