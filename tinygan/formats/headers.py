"""What the columns of a table of boxes are called: by tinygan and by popular tools."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tinygan.errors import DataError
from tinygan.formats.dialect import Order

IMAGE, SCORE = "image", "score"
CORNERS = ("x1", "y1", "x2", "y2")
SIZES = ("x", "y", "w", "h")
WRITTEN = (IMAGE, *CORNERS, SCORE)
EXPECTED = f"a header '{','.join(WRITTEN)}' or '{','.join((IMAGE, *SIZES, SCORE))}'"
DELIMITERS = (",", ";", "\t")

# Read without regard to case, blanks, _ and -; the first that a header has counts.
_SCORES = ("score", "confidence", "conf", "probability", "prob")
_IMAGES = (
    "image", "imagename", "imagefile", "imagepath", "filename", "filepath", "file", "path", "img", "imgname", "imgpath",
    "imageid",
)  # fmt: skip
_CATEGORIES = ("classname", "categoryname", "labelname", "category", "class", "classid", "categoryid", "cls")
_NUMBERED = ("class", "classid", "categoryid", "cls")  # a name beside them, as pandas has, says more
_NOTES = ("name", "label")
_BOXES: Mapping[Order, tuple[tuple[str, ...], ...]] = {
    "xyxy": (
        ("x1", "xmin", "left", "xtl"), ("y1", "ymin", "top", "ytl"),
        ("x2", "xmax", "right", "xbr"), ("y2", "ymax", "bottom", "ybr"),
    ),
    "xywh": (
        ("x", "left", "xmin", "x1"), ("y", "top", "ymin", "y1"), ("w", "width"), ("h", "height"),
    ),
    "cxcywh": (
        ("cx", "xcenter", "xcentre", "centerx"), ("cy", "ycenter", "ycentre", "centery"), ("w", "width"),
        ("h", "height"),
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Header:
    """Places of a table's columns.

    Attributes:
        image: the image's name.
        order: what the four numbers of a box are.
        box: four places.
        score: the score.
        category: the category, if there is one.
        is_category: whether that column can be nothing else; one called ``label`` or ``name`` may be a note.
        further: ``{name: place}`` of all other columns that have a name.
        names: what the columns of the box and the score are called, for messages.
    """

    image: int
    order: Order
    box: tuple[int, ...]
    score: int
    category: int | None
    is_category: bool
    further: Mapping[str, int]
    names: tuple[str, ...]

    @property
    def numbers(self) -> tuple[int, ...]:
        """Places of the box and the score."""
        return (*self.box, self.score)


def find_header(cells: Sequence[str], place: str) -> Header:
    """Find out which columns a header names.

    Raises:
        DataError: if one is missing, or stands twice.
    """
    cleaned = [cell.strip() for cell in cells]
    plain = [re.sub(r"[\s_\-]", "", cell.casefold()) for cell in cleaned]
    doubles = sorted({name for name in plain if name and plain.count(name) > 1 and _is_of_a_box(name)})
    doubles = doubles or sorted({name for name in cleaned if name and cleaned.count(name) > 1})
    if doubles:
        raise DataError(f"{place}: column '{doubles[0]}' stands twice in the header")
    image, score = _place(plain, _IMAGES), _place(plain, _SCORES)
    order, box = _find_box(plain)
    if image is None or score is None or order is None:
        raise DataError(f"{place}: expected {EXPECTED}; got '{','.join(cleaned)[:200]}'")
    texts = [name for name in _CATEGORIES if name not in _NUMBERED]
    category = _place(plain, (*texts, *_NOTES, *_NUMBERED))
    certain = _place(plain, _CATEGORIES) is not None
    taken = (*box, score, image, *((category,) if certain else ()))
    further = {cleaned[at]: at for at, name in enumerate(plain) if name and at not in taken}
    names = tuple(cleaned[at] for at in (*box, score))
    return Header(image, order, box, score, category, certain, further, names)


def find_delimiter(line: str) -> str:
    """What separates the columns of a header line: ``,``, ``;`` or a tab; the first by which it is one."""
    for delimiter in DELIMITERS:
        if is_header(line, delimiter):
            return delimiter
    return DELIMITERS[0]


def is_header(line: str, delimiter: str) -> bool:
    """Whether a line names the columns of a table of boxes."""
    try:
        find_header([cell.strip().strip('"') for cell in line.strip("\r\n").split(delimiter)], "")
    except DataError:
        return False
    return True


def _place(plain: Sequence[str], names: Sequence[str]) -> int | None:
    return next((plain.index(name) for name in names if name in plain), None)


def _find_box(plain: Sequence[str]) -> tuple[Order | None, tuple[int, ...]]:
    """The first order of which all four columns are there, and their places."""
    for order, columns in _BOXES.items():
        places = [_place(plain, names) for names in columns]
        found = tuple(at for at in places if at is not None)
        if len(found) == len(columns):
            return order, found
    return None, ()


def _is_of_a_box(name: str) -> bool:
    return name in (*WRITTEN, *SIZES)
