"""The queue that stands for a cluster, and what it is fed with."""

import pytest

from experiments.scale.run import (
    ROWS_PER_FILE,
    Costs,
    Stub,
    lines_of,
    measure_picture,
    measure_plan,
    measure_resume,
    simulate,
)
from tinygan.formats.shards import ROWS


@pytest.mark.parametrize(
    ("durations", "workers", "driver", "seconds"),
    [
        ([2.0] * 6, 1, 0.0, 12.0),
        ([2.0] * 6, 3, 0.0, 4.0),
        ([2.0] * 6, 100, 0.0, 2.0),
        ([1.0, 5.0, 1.0], 2, 0.0, 5.0),
        ([1.0] * 10, 100, 0.5, 6.0),  # the driver hands out the last after 5 s
        ([1.0] * 4, 1, 0.5, 4.5),  # it hands out the next while the only worker is busy
    ],
)
def test_workers_are_free_when_they_are_done_and_one_driver_hands_out(durations, workers, driver, seconds):
    assert simulate(durations, workers, driver) == pytest.approx(seconds)
    assert simulate(durations, workers, driver, start_s=7.0) == pytest.approx(seconds + 7)


def test_more_machines_are_quicker_until_the_driver_is_what_takes_time():
    costs = Costs(10**6, 1954, 1.0, 1.0, 0.001, 0.01, 0.002, 0.001)
    table, folder = (lines_of(costs, kind, 10**6, [1, 10, 1000]) for kind in ("table", "folder"))
    assert table[0]["hours"] > 3 * table[1]["hours"] > 3 * table[2]["hours"]
    assert table[0]["used"] > 0.98 > table[1]["used"] > table[2]["used"]
    assert folder[2]["hours"] >= 10**6 * 0.002 / 3600 > table[2]["hours"]
    few, many = (lines_of(costs, "table", count, [1000])[0]["used"] for count in (10**7, 10**9))
    assert few < 0.6 and many > 0.8


def test_the_driver_and_the_planner_are_the_real_ones(tmp_path):
    pytest.importorskip("pyarrow")
    table, seconds, _ = measure_plan(tmp_path / "table", 2 * ROWS_PER_FILE)
    assert table.rows == 2 * ROWS_PER_FILE and len(table.shards) == 2 * ROWS_PER_FILE // ROWS and seconds > 0
    assert table.boxes == 82 * table.rows
    assert measure_resume(table, tmp_path / "parts", 3) > 0
    assert measure_picture(tmp_path / "folder", 3) > 0
    assert [part.shard.number for part in Stub()(table.shards[:2])] == [0, 1]
