"""Which of several categories are the faces."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from tinygan.detections import BoolArray
from tinygan.errors import DataError

FACE = "face"
ADVICE = "name those of faces with --category"


def keep_faces(
    of_rows: Sequence[object], wanted: Sequence[str], place: str, names: Mapping[object, str] | None = None
) -> BoolArray:
    """The rows of detections that are faces: bool [N].

    Those of the wanted categories, else of the one called ``face``, else all if they are of one category.

    Args:
        of_rows: the category of each of N rows, a name or a number.
        wanted: names or numbers, in any case of letters.
        place: for messages.
        names: names of the categories that are numbers.

    Raises:
        DataError: if there are several categories and none is wanted or called ``face``.
    """
    distinct = set(of_rows)
    if len(distinct) < 2:
        return np.ones(len(of_rows), np.bool_)
    for names_kept in (wanted, (FACE,)):
        kept = choose(distinct, names_kept, names)
        if kept:
            return np.fromiter((category in kept for category in of_rows), np.bool_, len(of_rows))
    raise DataError(f"{place}: expected detections of faces alone, got categories {listed(distinct, names)}; {ADVICE}")


def face_categories(
    present: Iterable[object], wanted: Sequence[str], place: str, names: Mapping[object, str] | None = None
) -> set[object] | None:
    """The categories of annotations that are faces; ``None`` where there is no choice, as there is one or none.

    Args:
        present: categories that annotations have or may have, names or numbers.
        wanted: names or numbers of those that are faces, in any case of letters; default: the one called ``face``.
        place: for messages.
        names: names of the categories that are numbers.

    Raises:
        DataError: if no category is wanted, or there are several and none is called ``face``.
    """
    present = set(present)
    if not wanted and len(present) < 2:
        return None
    kept = choose(present, wanted or (FACE,), names)
    if kept:
        return kept
    if wanted:
        raise DataError(f"{place}: no category {' or '.join(wanted)} among {listed(present, names)}")
    raise DataError(f"{place}: expected faces alone, got categories {listed(present, names)}; {ADVICE}")


def choose(
    categories: Iterable[object], wanted: Iterable[str], names: Mapping[object, str] | None = None
) -> set[object]:
    """Those of several categories that are wanted, by name or number."""
    folded = {name.strip().casefold() for name in wanted}
    names = names or {}
    return {one for one in categories if folded & {str(one).strip().casefold(), names.get(one, "").strip().casefold()}}


def listed(categories: Iterable[object], names: Mapping[object, str] | None = None) -> str:
    """Categories for a message, five at most."""
    said = sorted(str((names or {}).get(one, one)) for one in categories)
    return ", ".join(said[:5]) + (", …" if len(said) > 5 else "")
