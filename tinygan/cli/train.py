"""``tinygan-train``: one stage of training."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tinygan.cli.common import DONE, Parser, end_run, make_parser, open_run, run_command, show_config
from tinygan.cli.options import (
    DETECTIONS,
    SUBSET,
    WIDER_ROOT,
    add_config_options,
    add_dialect_options,
    add_output_options,
    add_runtime_options,
    positive_int,
    read_dialect,
    runtime_options,
)
from tinygan.errors import ConfigError, DataError

if TYPE_CHECKING:
    from tinygan.runtime import Runtime
    from tinygan.training.prepare import TrainingInput
    from tinygan.training.recipe import Recipe
    from tinygan.training.run import RunFolder

STAGES = ("mse-init", "gan", "judge", "fusion", "portrait")
OF_PICTURES = ("mse-init", "portrait")  # which need no proposals
PRESETS = ("lite", "paper", "paper_wild", "portrait")
EXAMPLE = """\
tinygan-train --stage mse-init --config lite --data ROOT --out runs/mse
tinygan-train --stage gan --config lite --data ROOT --proposals P --init runs/mse --out runs/gan
tinygan-train --stage judge --config lite --data ROOT --proposals P --init runs/gan --out runs/judge
tinygan-train --stage fusion --data ROOT --proposals P --init runs/judge --out runs/fused"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    return run_command(_parser(), _train, argv)


def _parser() -> Parser:
    parser = make_parser("tinygan-train", "Train the second stage, one stage of training after another.", EXAMPLE)
    add = parser.add_argument
    add(
        "--stage",
        required=True,
        choices=STAGES,
        help="mse-init, then gan, then judge (may be left out), then fusion; "
        "or mse-init, then portrait, for a generator of pictures that people look at",
    )
    add("--data", required=True, type=Path, metavar="ROOT", help=WIDER_ROOT)
    add("--out", required=True, type=Path, metavar="RUN", help="run folder to write")
    add(
        "--proposals",
        nargs="+",
        default=[],
        type=Path,
        metavar="P",
        help="boxes in the training images, one path per detector (mse-init does without them, unless by --config "
        f"paper), in {DETECTIONS}",
    )
    _add_stage_options(parser)
    add("--seed", type=int, metavar="N", help="seed of weights and batches (default: the settings')")
    add_dialect_options(parser, "proposals")
    add_output_options(parser, "a run")
    add_config_options(parser, "this training", PRESETS)
    add_runtime_options(
        parser, "patches per training step (default: the settings'); fusion: per forward pass (default: 128)"
    )
    return parser


def _add_stage_options(parser: argparse.ArgumentParser) -> None:
    """Options that some stages take; each help begins with them."""
    add = parser.add_argument
    add("--init", type=Path, metavar="RUN", help="gan, judge, fusion, portrait: run folder of the stage before")
    add(
        "--extra-images",
        type=Path,
        metavar="DIR",
        help="mse-init, portrait: folder of further pictures, each of one centred face",
    )
    add(
        "--surroundings",
        type=Path,
        metavar="W",
        help="judge: .pth of a public RetinaFace-MobileNet0.25, from which the tower for the surroundings starts",
    )
    add(
        "--teacher",
        type=Path,
        metavar="RUN",
        help="judge: run folder of stage judge of another judge, whose answers are learnt as well",
    )
    add(
        "--second",
        type=Path,
        metavar="RUN",
        help="fusion: run folder of stage judge of another judge, which takes the second look, or a checkpoint that "
        "has one for that",
    )
    add("--subset", type=Path, metavar="LIST", help=f"fusion: fit on these hold-out images only: {SUBSET}")
    add(
        "--max-rois",
        type=positive_int,
        default=600,
        metavar="N",
        help="fusion: judge the best N proposals per image (default: 600)",
    )


def _train(arguments: argparse.Namespace) -> int:
    if arguments.show_config:
        return show_config(_recipe(arguments))
    _check_usage(arguments)
    from tinygan.config import to_yaml
    from tinygan.runtime import Runtime
    from tinygan.training.prepare import check_source
    from tinygan.training.summary import summarise

    recipe, data = _recipe(arguments), _input(arguments)
    if arguments.stage in OF_PICTURES:
        check_source(data, recipe)
    runtime = Runtime(runtime_options(arguments))
    settings = to_yaml(recipe) + _origin(arguments, runtime)
    folder = open_run(arguments, settings, runtime)
    if folder.finished:
        print(f"{folder.path}: this stage is finished already")
        return DONE
    skipped = _run_stage(arguments, data, recipe, folder, runtime)
    message = f"{folder.path}: stage {arguments.stage} is finished"
    return end_run("\n".join([message, *summarise(folder)]), skipped, runtime)


def _check_usage(arguments: argparse.Namespace) -> None:
    """Options that a stage needs, or cannot use."""
    stage = arguments.stage
    if stage != "mse-init" and arguments.init is None:
        raise ConfigError(f"--stage {stage} needs --init RUN, the run folder of the stage before")
    if stage not in OF_PICTURES and not arguments.proposals:
        raise ConfigError(f"--stage {stage} needs --proposals P, a first stage's detections on the training images")
    if stage not in OF_PICTURES and arguments.extra_images is not None:
        raise ConfigError("--extra-images is for --stage mse-init and portrait: stage gan learns from proposals")
    if stage == "mse-init" and arguments.init is not None:
        raise ConfigError("--stage mse-init starts from scratch; it takes no --init")
    if stage != "judge" and arguments.surroundings is not None:
        raise ConfigError("--surroundings is for --stage judge, whose second tower sees what lies around a proposal")
    if stage != "judge" and arguments.teacher is not None:
        raise ConfigError("--teacher is for --stage judge, which learns from labels and, with it, from another judge")
    if stage != "fusion" and arguments.subset is not None:
        raise ConfigError("--subset is for --stage fusion; training uses all of WIDER_train but the hold-out")
    if stage != "fusion" and arguments.second is not None:
        raise ConfigError("--second is for --stage fusion, which puts two judges together")
    given = (arguments.data, arguments.init, arguments.extra_images, arguments.surroundings, arguments.second)
    for path in (*given, arguments.teacher, *arguments.proposals):
        if path is not None and not path.exists():
            raise DataError(f"{path}: no such file or folder")


def _origin(arguments: argparse.Namespace, runtime: Runtime) -> str:
    """What a run was made from and its precision, as comments of its config.yaml: a resumed run has the same."""
    from tinygan.checkpoint import find_weights
    from tinygan.files import content_digest
    from tinygan.formats.wider import split_digest
    from tinygan.training.run import CONTENT

    paths = {
        "data": [arguments.data],
        "proposals": arguments.proposals,
        "init": [arguments.init] if arguments.init else [],
        "extra images": [arguments.extra_images] if arguments.extra_images else [],
        "surroundings": [arguments.surroundings] if arguments.surroundings else [],
        "second": [arguments.second] if arguments.second else [],
        "teacher": [arguments.teacher] if arguments.teacher else [],
        "subset": [arguments.subset] if arguments.subset else [],
    }
    lines = [f"# {name}: {' '.join(str(path.resolve()) for path in given)}" for name, given in paths.items() if given]
    digests = {"proposals": [content_digest(path) for path in arguments.proposals]}
    weights = ("init", "second", "teacher")
    digests |= {name: [content_digest(find_weights(path)) for path in paths[name]] for name in weights}
    digests["data"] = [split_digest(arguments.data, "train")]
    lines += [f"{CONTENT} {name}: {' '.join(hashes)}" for name, hashes in digests.items() if hashes]
    lines += [f"# dialect: {dialect}"] if (dialect := str(read_dialect(arguments))) else []
    head = [f"# stage: {arguments.stage}", f"# precision: {runtime.precision}"]
    if arguments.stage == "fusion":
        head.append(f"# max-rois: {arguments.max_rois}")
    return "\n".join([*head, *lines]) + "\n"


def _recipe(arguments: argparse.Namespace) -> Recipe:
    """Defaults < the checkpoint's config (stages that start from one) < --config < --set."""
    from tinygan.checkpoint import load_checkpoint
    from tinygan.config import build_config, load_config, to_tree
    from tinygan.training.recipe import Recipe

    overrides = list(arguments.overrides)
    if arguments.seed is not None:
        overrides.append(f"seed={arguments.seed}")
    section = None if arguments.stage in (None, "fusion") else arguments.stage.replace("-", "_")
    if arguments.batch_size is not None and section is not None:
        overrides.append(f"{section}.batch_size={arguments.batch_size}")
    if arguments.config is not None or arguments.init is None:
        recipe = load_config(Recipe, arguments.config, overrides)
    else:
        before = load_checkpoint(arguments.init, ("generator", "gan", "fused")).recipe
        recipe = load_config(Recipe, None, overrides, base=before)
    if arguments.stage == "fusion" and arguments.config is not None and arguments.init is not None:
        trained = to_tree(build_config(Recipe, load_checkpoint(arguments.init, ("gan", "fused")).recipe))
        for name in ("crops", "generator", "discriminator"):
            if to_tree(recipe)[name] != trained[name]:
                raise ConfigError(f"--config {arguments.config}: section {name} differs from what {arguments.init} has")
    return recipe


def _input(arguments: argparse.Namespace) -> TrainingInput:
    from tinygan.training.prepare import TrainingInput

    return TrainingInput(arguments.data, tuple(arguments.proposals), arguments.extra_images, read_dialect(arguments))


def _run_stage(
    arguments: argparse.Namespace, data: TrainingInput, recipe: Recipe, folder: RunFolder, runtime: Runtime
) -> list[str]:
    if arguments.stage == "mse-init":
        from tinygan.training.mse_init import train_mse_init

        return train_mse_init(data, recipe, folder, runtime)
    if arguments.stage == "portrait":
        from tinygan.training.portrait import train_portrait

        return train_portrait(data, arguments.init, recipe, folder, runtime)
    if arguments.stage == "gan":
        from tinygan.training.gan import train_gan

        return train_gan(data, arguments.init, recipe, folder, runtime)
    if arguments.stage == "judge":
        from tinygan.training.judge import train_judge

        return train_judge(data, arguments.init, recipe, folder, runtime, arguments.surroundings, arguments.teacher)
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
        second=arguments.second,
    )
