"""TensorBoard is served where it is installed, and not missed where it is not."""

import sys

import pytest

from tinygan.training.board import Board
from tinygan.training.run import RunFolder

ROW = {"step": 20, "seconds": 3.0, "learning_rate": 1e-3, "pixel": 0.5}


def test_without_tensorboard_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with Board(tmp_path, 0) as board:
        board.add(ROW)
    assert not list(tmp_path.iterdir())


@pytest.mark.filterwarnings("ignore")  # those of TensorBoard are not ours
def test_with_tensorboard_rows_are_logged_and_removed_with_the_run(tmp_path):
    pytest.importorskip("tensorboard", reason="needs TensorBoard: pip install -e '.[tensorboard]'")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = RunFolder(tmp_path / "run", "seed: 0\n")
    run.append_metrics(ROW)
    with Board(run.path, 0) as board:
        board.add(ROW)
    with Board(run.path, 0, is_main=False) as other:
        other.add({**ROW, "step": 40})
    events = EventAccumulator(str(run.path / "tensorboard")).Reload()
    assert set(events.Tags()["scalars"]) == {"learning_rate", "pixel"}
    assert [(event.step, event.value) for event in events.Scalars("pixel")] == [(20, 0.5)]
    RunFolder(run.path, "seed: 1\n", overwrite=True)
    assert not list((run.path).glob("tensorboard/*"))
