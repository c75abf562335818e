"""``tinygan-train``: one stage of training."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tinygan.cli.common import (
    DONE,
    Parser,
    add_config_options,
    add_output_options,
    add_runtime_options,
    end_run,
    make_parser,
    open_run,
    run_command,
    runtime_options,
)
from tinygan.errors import ConfigError, DataError

if TYPE_CHECKING:
    from tinygan.runtime import Runtime
    from tinygan.training.recipe import Recipe
    from tinygan.training.run import RunFolder

STAGES = ("mse-init", "gan", "judge", "fusion")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    return run_command(_parser(), _train, argv)


def _parser() -> Parser:
    parser = make_parser("tinygan-train", "Train by stages: generator (mse-init), GAN (gan), judge (judge), fusion.")
    parser.add_argument("--stage", required=True, choices=STAGES)
    parser.add_argument("--data", required=True, type=Path, metavar="ROOT", help="WIDER FACE root with WIDER_train/")
    parser.add_argument("--out", required=True, type=Path, metavar="RUN", help="run folder to write")
    parser.add_argument(
        "--proposals", nargs="+", default=[], type=Path, metavar="P", help="first-stage proposals, one path a detector"
    )
    parser.add_argument("--init", type=Path, metavar="RUN", help="run folder of the stage before")
    parser.add_argument("--extra-images", type=Path, metavar="DIR", help="mse-init: pictures of one centred face each")
    parser.add_argument(
        "--surroundings",
        type=Path,
        metavar="W",
        help="judge: RetinaFace-MobileNet0.25 (.pth) its second tower starts from",
    )
    parser.add_argument("--subset", type=Path, metavar="LIST", help="fusion: hold-out images to fit on")
    parser.add_argument("--max-rois", type=int, default=600, metavar="N", help="fusion: proposals an image")
    parser.add_argument("--seed", type=int, help="of weights and batches")
    add_output_options(parser, "a run")
    add_config_options(parser)
    add_runtime_options(parser)
    return parser


def _train(arguments: argparse.Namespace) -> int:
    _check_usage(arguments)
    from tinygan.config import to_yaml
    from tinygan.runtime import Runtime

    recipe = _recipe(arguments)
    runtime = Runtime(runtime_options(arguments))
    settings = to_yaml(recipe) + _origin(arguments, runtime)
    folder = open_run(arguments, settings, runtime)
    if folder.finished:
        print(f"{folder.path}: this stage is finished already")
        return DONE
    skipped = _run_stage(arguments, recipe, folder, runtime)
    return end_run(f"{folder.path}: stage {arguments.stage} is finished", skipped, runtime)


def _check_usage(arguments: argparse.Namespace) -> None:
    """Options that a stage needs, or cannot use."""
    stage = arguments.stage
    if stage != "mse-init" and arguments.init is None:
        raise ConfigError(f"--stage {stage} needs --init RUN, the run folder of the stage before")
    if stage != "mse-init" and not arguments.proposals:
        raise ConfigError(f"--stage {stage} needs --proposals P, a first stage's detections on the training images")
    if stage != "mse-init" and arguments.extra_images is not None:
        raise ConfigError("--extra-images is for --stage mse-init: stage gan learns from proposals")
    if stage == "mse-init" and arguments.init is not None:
        raise ConfigError("--stage mse-init starts from scratch; it takes no --init")
    if stage != "judge" and arguments.surroundings is not None:
        raise ConfigError("--surroundings is for --stage judge, whose second tower sees what lies around a proposal")
    if stage != "fusion" and arguments.subset is not None:
        raise ConfigError("--subset is for --stage fusion; training uses all of WIDER_train but the hold-out")
    for path in (arguments.data, arguments.init, arguments.extra_images, arguments.surroundings, *arguments.proposals):
        if path is not None and not path.exists():
            raise DataError(f"{path}: no such file or folder")


def _origin(arguments: argparse.Namespace, runtime: Runtime) -> str:
    """What a run was made from and its precision, as comments of its config.yaml: a resumed run has the same."""
    paths = {
        "data": [arguments.data],
        "proposals": arguments.proposals,
        "init": [arguments.init] if arguments.init else [],
        "extra images": [arguments.extra_images] if arguments.extra_images else [],
        "surroundings": [arguments.surroundings] if arguments.surroundings else [],
        "subset": [arguments.subset] if arguments.subset else [],
    }
    lines = [f"# {name}: {' '.join(str(path.resolve()) for path in given)}" for name, given in paths.items() if given]
    head = [f"# stage: {arguments.stage}", f"# precision: {runtime.precision}"]
    return "\n".join([*head, *lines]) + "\n"


def _recipe(arguments: argparse.Namespace) -> Recipe:
    """Defaults < the checkpoint's config (stages that start from one) < --config < --set."""
    from tinygan.checkpoint import load_checkpoint
    from tinygan.config import load_config, to_tree
    from tinygan.training.recipe import Recipe

    overrides = list(arguments.overrides)
    if arguments.seed is not None:
        overrides.append(f"seed={arguments.seed}")
    section = {"mse-init": "mse_init", "gan": "gan", "judge": "judge"}.get(arguments.stage)
    if arguments.batch_size is not None and section is not None:
        overrides.append(f"{section}.batch_size={arguments.batch_size}")
    if arguments.config is not None or arguments.init is None:
        recipe = load_config(Recipe, arguments.config, overrides)
    else:
        before = load_checkpoint(arguments.init, ("generator", "gan", "fused")).recipe
        recipe = load_config(Recipe, None, overrides, base=before)
    if arguments.stage == "fusion" and arguments.config is not None:
        trained = load_checkpoint(arguments.init, ("gan", "fused")).recipe
        for name in ("crops", "generator", "discriminator"):
            if to_tree(recipe)[name] != trained[name]:
                raise ConfigError(f"--config {arguments.config}: section {name} differs from what {arguments.init} has")
    return recipe


def _run_stage(arguments: argparse.Namespace, recipe: Recipe, folder: RunFolder, runtime: Runtime) -> list[str]:
    from tinygan.training.prepare import TrainingInput

    data = TrainingInput(arguments.data, tuple(arguments.proposals), arguments.extra_images)
    if arguments.stage == "mse-init":
        from tinygan.training.mse_init import train_mse_init

        return train_mse_init(data, recipe, folder, runtime)
    if arguments.stage == "gan":
        from tinygan.training.gan import train_gan

        return train_gan(data, arguments.init, recipe, folder, runtime)
    if arguments.stage == "judge":
        from tinygan.training.judge import train_judge

        return train_judge(data, arguments.init, recipe, folder, runtime, arguments.surroundings)
    from tinygan.training.fusion import train_fusion

    return train_fusion(
        data,
        arguments.init,
        recipe,
        folder,
        runtime,
        batch_size=arguments.batch_size or 128,
        max_rois=arguments.max_rois,
        subset=arguments.subset,
    )
