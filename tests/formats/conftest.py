"""A table of pictures, for the tests of what is read from it and what is written for it."""

import io

import pytest
from PIL import Image


def png(value: int) -> bytes:
    content = io.BytesIO()
    Image.new("RGB", (8, 6), (value, 0, 0)).save(content, "PNG")
    return content.getvalue()


def write_table(file, rows, row_group_size=None, **columns):
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    table = pa.table({"name": [f"picture {row}" for row in range(rows)], **columns})
    pq.write_table(table, file, row_group_size=row_group_size)


@pytest.fixture
def table(tmp_path):
    """Two files with 5 and 3 pictures, 2 rows a group; picture n has n boxes and the colour n."""
    (tmp_path / "in").mkdir()
    for name, numbers in (("a", range(5)), ("b", range(5, 8))):
        write_table(
            tmp_path / "in" / f"{name}.parquet",
            len(numbers),
            2,
            image=[png(number) for number in numbers],
            boxes=[[[box, 0.0, box + 2, 3.0] for box in range(number)] for number in numbers],
            scores=[[0.1 * (box + 1) for box in range(number)] for number in numbers],
        )
    return tmp_path / "in"
