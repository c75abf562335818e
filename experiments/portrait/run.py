"""The recipe of the generator ``portrait``, in one command that continues where it was cut off.

    python -m experiments.portrait.run --data ROOT --extra-images LFW --out runs/portrait

Stage ``mse-init`` of ``tinygan-train``, stage ``portrait``, that once more with twice as many residual blocks, a third
time, the longest, with further ones at twice the size, and a fourth time mostly on clean pictures; then
``portrait.safetensors`` in half precision. How good it is says ``experiments.sr_quality.pictures``.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from experiments.lite.run import halved
from tinygan.checkpoint import load_checkpoint, save_checkpoint
from tinygan.cli.train import main as train
from tinygan.training.run import FINISHED_FILE

SHIPPED = "portrait.safetensors"
DEEPER = (  # where the second run of stage ``portrait`` differs from the preset
    "portrait.epochs=3", "portrait.patches_per_epoch=16000", "portrait.learning_rate=4e-4",
    "portrait_training.features=0.92", "portrait_training.adversarial=0.06", "portrait_training.ema_decay=0.99",
    "portrait_training.further_blocks=12",
)  # fmt: skip
FINER = (  # and the third
    "generator.residual_blocks=24", "degradation.clean=0.7", "portrait.epochs=6", "portrait.patches_per_epoch=25600",
    "portrait.warmup_steps=200", "portrait_training.features=0.93", "portrait_training.adversarial=0.05",
    "portrait_training.discriminator_start=100", "portrait_training.ema_decay=0.995",
    "portrait_training.further_up_blocks=4",
)  # fmt: skip
CLEAR = (  # and the fourth
    "generator.residual_blocks=24", "generator.up_blocks=4", "degradation.clean=0.9",
    "batches.lr_sizes=[12,16,16,16,20,24,32]", "portrait.epochs=1", "portrait.patches_per_epoch=41600",
    "portrait.learning_rate=2.5e-4", "portrait_training.pixel=0.01", "portrait_training.features=0.96",
    "portrait_training.adversarial=0.03", "portrait_training.discriminator_start=100",
    "portrait_training.ema_decay=0.99",
)  # fmt: skip
STAGES: tuple[tuple[str, str, tuple[str, ...]], ...] = (  # stage, folder, settings
    ("mse-init", "mse", ()), ("portrait", "portrait", ()), ("portrait", "deeper", DEEPER),
    ("portrait", "finer", FINER), ("portrait", "clear", CLEAR),
)  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    """Run the stages and write the checkpoint; returns the exit code of the first one that fails."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data", type=Path, required=True, help="WIDER FACE root")
    parser.add_argument("--extra-images", type=Path, help="further pictures of one centred face each, such as LFW")
    parser.add_argument("--config", default="portrait")
    parser.add_argument("--precision", default="bf16", choices=("bf16", "32"))
    parser.add_argument("--set", action="append", default=[], dest="overrides", metavar="KEY=VALUE")
    parser.add_argument("--out", type=Path, default=Path("runs/portrait"))
    arguments = parser.parse_args(argv)
    common = ["--config", arguments.config, "--data", str(arguments.data), "--precision", arguments.precision]
    common += [] if arguments.extra_images is None else ["--extra-images", str(arguments.extra_images)]
    before = None
    for stage, name, settings in STAGES:
        run = arguments.out / name
        words = ["--stage", stage, *common, *([] if before is None else ["--init", str(before)])]
        words += [word for setting in (*settings, *arguments.overrides) for word in ("--set", setting)]
        code = train([*words, "--out", str(run), "--resume"])
        if not (run / FINISHED_FILE).is_file():
            return code
        before = run
    weights = load_checkpoint(run, ("generator",))
    save_checkpoint(arguments.out / SHIPPED, replace(weights, tensors=halved(weights.tensors)))
    print(f"{arguments.out / SHIPPED}: {(arguments.out / SHIPPED).stat().st_size / 1e6:.1f} MB")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
