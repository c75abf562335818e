"""What a file of boxes may leave unsaid, and a user says on the command line.

Nothing here imports NumPy: the command line takes it for its help.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple, get_args

from tinygan.errors import ConfigError

Order = Literal["xywh", "xyxy", "cxcywh"]
ORDERS: tuple[Order, ...] = get_args(Order)
RELATIVE = "relative"
NOTATIONS = f"{'|'.join(ORDERS)}|{RELATIVE}"


class Notation(NamedTuple):
    """What the four numbers of a box are.

    Attributes:
        order: left, top, width, height (``xywh``), two corners (``xyxy``) or centre, width, height (``cxcywh``);
            ``None``: that of the format.
        relative: whether they are parts of the picture's width and height rather than pixels.
    """

    order: Order | None = None
    relative: bool = False

    def __str__(self) -> str:
        return ",".join(filter(None, (self.order, RELATIVE if self.relative else None)))


@dataclass(frozen=True, kw_only=True)
class Dialect:
    """What a file leaves unsaid.

    Attributes:
        boxes: what the four numbers of a box are; default: as the format has it.
        names: COCO's JSON, whose ``images`` name the image ids, and its ``categories`` theirs.
        categories: names (or numbers) of the categories that are faces; default: ``face``, or the only one.
        images: folder of the pictures, for boxes that are parts of their sizes.
        orientation: whether those are the sizes of the ``upright`` pictures or of the ``stored`` pixels.
    """

    boxes: Notation | None = None
    names: Path | None = None
    categories: tuple[str, ...] = ()
    images: Path | None = None
    orientation: Literal["upright", "stored"] = "upright"

    def __str__(self) -> str:
        """What decides how boxes are read, for a run's settings; empty by default."""
        parts = [f"boxes {self.boxes}"] if self.boxes else []
        parts += [f"names {self.names.resolve()}"] if self.names else []
        return "; ".join([*parts, f"category {', '.join(self.categories)}"] if self.categories else parts)


AS_WRITTEN = Dialect()


def parse_notation(text: str) -> Notation:
    """A notation of ``--boxes``: an order, ``relative``, or both with a comma between.

    Raises:
        ConfigError: if it is none.
    """
    words = [word.strip().casefold() for word in text.split(",")]
    orders = [order for order in ORDERS if order in words]
    if len(orders) > 1 or len(words) != len(orders) + (RELATIVE in words):
        raise ConfigError(f"--boxes {text}: expected one of {NOTATIONS}, or two such as xyxy,{RELATIVE}")
    return Notation(orders[0] if orders else None, RELATIVE in words)
