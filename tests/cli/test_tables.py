from __future__ import annotations

from tinygan.cli.tables import Table, ap, count, format_tables, interval, points

TABLES = [Table("first", [["name", "AP"], ["a|b", "0.5000"], ["c", "-"]], "a note"), Table("second", [["x"], ["1"]])]


def test_plain() -> None:
    assert format_tables(TABLES, markdown=False).splitlines() == [
        "first",
        "name      AP",
        "a|b   0.5000",
        "c          -",
        "a note",
        "",
        "second",
        "x",
        "1",
    ]


def test_markdown() -> None:
    assert format_tables(TABLES, markdown=True).splitlines() == [
        "**first**",
        "",
        "| name | AP |",
        "| :-- | --: |",
        "| a\\|b | 0.5000 |",
        "| c | - |",
        "",
        "a note",
        "",
        "**second**",
        "",
        "| x |",
        "| :-- |",
        "| 1 |",
    ]


def test_figures() -> None:
    nan = float("nan")
    assert [ap(0.87304), ap(nan)] == ["0.8730", "-"]
    assert [points(0.0123), points(-0.5), points(nan)] == ["+1.23", "-50.00", "-"]
    assert interval(-0.001, 0.02) == "[-0.10, +2.00]"
    assert [count(13319), count(0), count(None)] == ["13,319", "0", "-"]
