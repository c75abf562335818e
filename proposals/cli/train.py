"""``tinygan-train-proposer``: train a first stage."""

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
from tinygan.errors import DataError

if TYPE_CHECKING:
    from tinygan.runtime import Runtime


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    return run_command(_parser(), _train, argv)


def _parser() -> Parser:
    parser = make_parser("tinygan-train-proposer", "Train a first stage (RetinaFace) on a WIDER FACE root.")
    parser.add_argument("--data", required=True, type=Path, metavar="ROOT", help="WIDER FACE root with WIDER_train/")
    parser.add_argument("--out", required=True, type=Path, metavar="RUN", help="run folder to write")
    parser.add_argument("--init", type=Path, metavar="W", help="weights to start from: a run, or a .pth of RetinaFace")
    parser.add_argument("--landmarks", type=Path, metavar="FILE", help="RetinaFace's label.txt: five points a face")
    parser.add_argument("--seed", type=int, help="of weights and pictures")
    add_output_options(parser, "a run")
    add_config_options(parser)
    add_runtime_options(parser)
    return parser


def _train(arguments: argparse.Namespace) -> int:
    for path in (arguments.data, arguments.init, arguments.landmarks):
        if path is not None and not path.exists():
            raise DataError(f"{path}: no such file or folder")
    if arguments.init is not None and arguments.out.resolve() in (
        arguments.init.resolve(),
        *arguments.init.resolve().parents,
    ):
        raise DataError(f"{arguments.out}: holds the weights to start from; choose another --out")
    from proposals.train.recipe import ProposerRecipe
    from proposals.train.run import ProposerData, read_inputs, saved_network, train_proposer
    from tinygan.config import load_config, to_yaml
    from tinygan.runtime import Runtime

    overrides = list(arguments.overrides)
    if arguments.seed is not None:
        overrides.append(f"seed={arguments.seed}")
    if arguments.batch_size is not None:
        overrides.append(f"loop.batch_size={arguments.batch_size}")
    recipe = load_config(ProposerRecipe, arguments.config, overrides, base=saved_network(arguments.init))
    runtime = Runtime(runtime_options(arguments).exact())
    inputs = read_inputs(ProposerData(arguments.data, arguments.landmarks, arguments.init), recipe)
    settings = to_yaml(recipe) + _origin(arguments, runtime)
    folder = open_run(arguments, settings, runtime)
    if folder.finished:
        print(f"{folder.path}: this training is finished already")
        return DONE
    skipped = train_proposer(inputs, recipe, folder, runtime)
    return end_run(
        f"{folder.path}: training is finished; use it with tinygan-propose --weights {folder.path}", skipped, runtime
    )


def _origin(arguments: argparse.Namespace, runtime: Runtime) -> str:
    """What a run was made from and its precision, as comments of its config.yaml: a resumed run has the same."""
    paths = {"data": arguments.data, "init": arguments.init, "landmarks": arguments.landmarks}
    lines = [f"# {name}: {path.resolve()}" for name, path in paths.items() if path is not None]
    return "\n".join(["# tinygan-train-proposer", f"# precision: {runtime.precision}", *lines]) + "\n"
