"""Fine-tuning of a RetinaFace: frozen layers, k-means anchors and thresholds, at equal steps.

    python -m experiments.retinaface_finetuning.run --data ROOT --init W --out runs/retinaface_finetuning

``W`` are the public weights of a RetinaFace-MobileNet0.25 (``.pth``), from which every column starts. Finished columns
are not repeated, and a training that was cut off goes on. Figures are those on images kept out of WIDER_train;
WIDER_val is not read.
"""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from experiments.columns import TABLE, Bench, Column, tabulate
from proposals.train.recipe import ProposerRecipe
from tinygan.config import load_config
from tinygan.files import write_atomically

CONFIG = "proposers/retinaface_mobilenet025_finetune"
CONTROL = "control"
FROZEN, ANCHORS, THRESHOLDS = "What is frozen?", "Which anchors?", "Which thresholds?"
STAGES = "[body.stage1, body.stage2]"  # what the preset freezes
KMEANS = "network.anchors=[[[5, 6], [8, 10]], [[12, 15], [20, 25]], [[36, 45], [94, 126]]]"  # tinygan-anchors ROOT
COLUMNS = (
    Column(CONTROL, (f"optimiser.freeze={STAGES}",), (FROZEN, ANCHORS, THRESHOLDS)),
    Column("nothing frozen", ("optimiser.freeze=[]", "optimiser.freeze_norm=false"), (FROZEN,)),
    Column("first stage frozen", ("optimiser.freeze=[body.stage1]",), (FROZEN,)),
    Column("backbone frozen", ("optimiser.freeze=[body]",), (FROZEN,)),
    Column("six k-means anchors", (f"optimiser.freeze={STAGES}", KMEANS), (ANCHORS,)),
)
USED = (  # the control's weights, used in another way
    Column("NMS at .3", (), (THRESHOLDS,), ("nms_iou=0.3",)),
    Column("NMS at .5", (), (THRESHOLDS,), ("nms_iou=0.5",)),
    Column("score from .1", (), (THRESHOLDS,), ("score_threshold=0.1",)),
    Column("200 boxes kept", (), (THRESHOLDS,), ("keep=200",)),
)


def main(argv: Sequence[str] | None = None) -> int:
    """Train, measure and tabulate every column that is not done yet."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    add = parser.add_argument
    add("--data", type=Path, required=True, help="WIDER FACE root")
    add("--init", type=Path, required=True, help="weights that every column starts from")
    add("--out", type=Path, default=Path("runs/retinaface_finetuning"))
    add("--config", default=CONFIG, help=f"preset or YAML of the common recipe (default: {CONFIG})")
    add("--set", dest="settings", action="append", default=[], metavar="K=V", help="override one key of it")
    add("--steps", type=int, default=300, help="length of each training")
    names = [one.name for one in (*COLUMNS, *USED)]
    add("--columns", nargs="+", choices=names, default=names)
    add("--seeds", type=int, nargs="+", default=[0, 1, 2], help="of the control; the others have the first")
    add("--images", type=int, default=100, help="images kept out that are searched; 0: all 15 %%")
    add("--threads", type=int)
    arguments = parser.parse_args(argv)
    common = ["--config", arguments.config, *(word for one in arguments.settings for word in ("--set", one))]
    recipe = load_config(ProposerRecipe, arguments.config, arguments.settings)
    bench = Bench(arguments.data, arguments.out, recipe.holdout, arguments.images, common, arguments.threads)
    length = ("loop.epochs=1", f"loop.patches_per_epoch={arguments.steps * recipe.loop.batch_size}")
    control = replace(COLUMNS[0], settings=(*COLUMNS[0].settings, *length))
    for at, seed in enumerate(arguments.seeds):
        for column in (*COLUMNS, *USED):
            if column.name in arguments.columns and (at == 0 or column.name == CONTROL):
                if column in USED:
                    bench.do(control, seed, arguments.init)
                    use_control(bench, column, seed)
                bench.do(replace(column, settings=(*column.settings, *length)), seed, arguments.init)
                text = tabulate(bench.results(), (*COLUMNS, *USED), CONTROL)
                write_atomically(arguments.out / TABLE, text.encode())
    return 0


def use_control(bench: Bench, column: Column, seed: int) -> None:
    """Let a column have the control's weights."""
    control, own = bench.run(COLUMNS[0], seed), bench.run(column, seed)
    if not own.exists():
        shutil.copytree(control, own)


if __name__ == "__main__":
    raise SystemExit(main())
