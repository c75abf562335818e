"""``tinygan-train-proposer``: train a first stage."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tinygan.cli.common import DONE, Parser, end_run, make_parser, open_run, run_command, show_config
from tinygan.cli.options import WIDER_ROOT, add_config_options, add_output_options, add_runtime_options, runtime_options
from tinygan.errors import ConfigError, DataError
from tinygan.formats.truths import GROUND_TRUTHS

if TYPE_CHECKING:
    from proposals.train.recipe import DetectorRecipe
    from tinygan.runtime import Runtime

PRESETS = (
    "proposers/mb_fcn_mobilenet025",
    "proposers/mb_fcn_resnet50",
    "proposers/refineface_mobilenet025",
    "proposers/refineface_resnet101",
    "proposers/refineface_resnet152",
    "proposers/refineface_resnet18",
    "proposers/refineface_resnet50",
    "proposers/retinaface_cascade",
    "proposers/retinaface_mobilenet025",
    "proposers/retinaface_mobilenet025_finetune",
    "proposers/retinaface_paper",
    "proposers/retinaface_resnet50",
    "proposers/retinanet_fddb",
    "proposers/retinanet_mobilenet025",
    "proposers/retinanet_resnet50",
    "proposers/yunet",
)
EXAMPLE = "tinygan-train-proposer --config proposers/retinaface_mobilenet025 --data ROOT --out runs/first"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    return run_command(_parser(), _train, argv)


def _parser() -> Parser:
    parser = make_parser("tinygan-train-proposer", "Train a first stage on WIDER FACE or on other faces.", EXAMPLE)
    parser.add_argument("--data", type=Path, metavar="ROOT", help=f"{WIDER_ROOT}; or give --truth and --images")
    parser.add_argument("--truth", type=Path, metavar="FILE", help=f"annotated faces: {GROUND_TRUTHS}; with --images")
    parser.add_argument("--images", type=Path, metavar="DIR", help="folder of the images of --truth, at any depth")
    parser.add_argument(
        "--folds", type=int, nargs="+", default=[], metavar="N", help="train on these folds of FDDB alone, with --truth"
    )
    parser.add_argument("--out", required=True, type=Path, metavar="RUN", help="run folder to write")
    parser.add_argument(
        "--proposer",
        metavar="NAME",
        help="first stage, such as retinaface or yunet (default: that of --config, of --init, else retinaface)",
    )
    parser.add_argument(
        "--init",
        type=Path,
        metavar="W",
        help="weights to start from: run folder of tinygan-train-proposer, .safetensors, the .pth of a public "
        "RetinaFace, or the .onnx of a public YuNet (default: random weights)",
    )
    parser.add_argument(
        "--init-body",
        type=Path,
        metavar="W",
        help="weights of which the backbone alone is taken, of any first stage with the same one; the rest is random",
    )
    parser.add_argument(
        "--landmarks", type=Path, metavar="FILE", help="RetinaFace's label.txt, with five landmarks per face"
    )
    parser.add_argument(
        "--teacher",
        type=Path,
        nargs="+",
        default=[],
        metavar="P",
        help="what other detectors found in the training images: faces that nobody labelled are learnt from them, or "
        "ignored if they are less sure",
    )
    parser.add_argument(
        "--mine",
        action="store_true",
        help="a round of hard negatives: search the training images with the weights of --init first, and learn most "
        "from what they take for a face and is none",
    )
    parser.add_argument("--seed", type=int, metavar="N", help="seed of weights and pictures (default: the settings')")
    add_output_options(parser, "a run")
    add_config_options(parser, "this training", PRESETS)
    add_runtime_options(parser, "pictures per training step (default: the settings')")
    return parser


def _train(arguments: argparse.Namespace) -> int:
    if arguments.show_config:
        return show_config(_recipe(arguments))
    _check_paths(arguments)
    from proposals.train.recipe import AnchoredRecipe
    from proposals.train.run import ProposerData, mine, read_inputs, train_proposer
    from tinygan.config import to_yaml
    from tinygan.runtime import Runtime
    from tinygan.training.summary import summarise

    recipe = _recipe(arguments)
    if arguments.mine and not isinstance(recipe, AnchoredRecipe):
        raise ConfigError(f"--mine: proposer '{recipe.proposer}' has no anchors, of which hard negatives are some")
    runtime = Runtime(runtime_options(arguments).exact())
    data = ProposerData(
        arguments.data, arguments.truth, arguments.images, tuple(arguments.folds),
        arguments.landmarks, tuple(arguments.teacher), arguments.init, arguments.init_body,
    )  # fmt: skip
    inputs = read_inputs(data, recipe)
    settings = to_yaml(recipe) + _origin(arguments, runtime)
    folder = open_run(arguments, settings, runtime)
    if folder.finished:
        print(f"{folder.path}: this training is finished already")
        return DONE
    if arguments.mine:
        assert isinstance(recipe, AnchoredRecipe)
        inputs = mine(inputs, recipe, folder, runtime)
    skipped = train_proposer(inputs, recipe, folder, runtime)
    message = f"{folder.path}: training is finished; use it with tinygan-propose --weights {folder.path}"
    return end_run("\n".join([message, *summarise(folder)]), skipped, runtime)


def _check_paths(arguments: argparse.Namespace) -> None:
    own = (arguments.truth, arguments.images)
    if (arguments.data is None) != all(own) or (arguments.data is not None and any(own)):
        raise DataError("give the faces to train on: --data ROOT, or --truth FILE and --images DIR")
    if arguments.folds and arguments.truth is None:
        raise DataError("--folds is for FDDB's annotations alone; give --truth FDDB-folds and --images DIR")
    if arguments.mine and arguments.init is None:
        raise DataError("--mine searches with weights that were trained before; give --init W")
    if arguments.init is not None and arguments.init_body is not None:
        raise DataError("--init holds a backbone already; leave --init-body out")
    for path in (arguments.data, *own, arguments.init, arguments.init_body, arguments.landmarks, *arguments.teacher):
        if path is not None and not path.exists():
            raise DataError(f"{path}: no such file or folder")
    if arguments.init is not None and arguments.out.resolve() in (
        arguments.init.resolve(),
        *arguments.init.resolve().parents,
    ):
        raise DataError(f"{arguments.out}: holds the weights to start from; choose another --out")


def _recipe(arguments: argparse.Namespace) -> DetectorRecipe:
    """Defaults < the network of --init < --config < --set and options."""
    from proposals.train.recipe import find_recipe
    from proposals.train.run import saved_network, saved_proposer
    from tinygan.config import load_config, peek

    said = peek(arguments.config, "proposer")
    name = str(arguments.proposer or said or saved_proposer(arguments.init) or "retinaface")
    if said not in (None, name):
        raise ConfigError(f"--config {arguments.config}: settings of proposer '{said}', not of '{name}'")

    overrides = list(arguments.overrides)
    if arguments.seed is not None:
        overrides.append(f"seed={arguments.seed}")
    if arguments.batch_size is not None:
        overrides.append(f"loop.batch_size={arguments.batch_size}")
    return load_config(find_recipe(name), arguments.config, overrides, base=saved_network(arguments.init, name))


def _origin(arguments: argparse.Namespace, runtime: Runtime) -> str:
    """What a run was made from and its precision, as comments of its config.yaml: a resumed run has the same."""
    from tinygan.checkpoint import find_weights
    from tinygan.files import content_digest, listing_digest
    from tinygan.formats.wider import split_digest
    from tinygan.training.run import CONTENT

    def digest_weights(path: Path) -> str:
        return content_digest(find_weights(path))

    digests: dict[str, Callable[[Path], str]] = {
        "data": lambda root: split_digest(root, "train"),
        "truth": content_digest,
        "images": listing_digest,
        "init": digest_weights,
        "init_body": digest_weights,
        "landmarks": content_digest,
    }
    paths = {name: getattr(arguments, name) for name in digests if getattr(arguments, name) is not None}
    lines = [f"# {name}: {path.resolve()}" for name, path in paths.items()]
    lines += [f"# folds: {' '.join(map(str, arguments.folds))}"] if arguments.folds else []
    lines += ["# mine: true"] if arguments.mine else []
    lines += [f"# teacher: {path.resolve()}" for path in arguments.teacher]
    lines += [f"{CONTENT} {name}: {digests[name](path)}" for name, path in paths.items()]
    if arguments.teacher:
        lines.append(f"{CONTENT} teacher: {' '.join(map(content_digest, arguments.teacher))}")
    return "\n".join(["# tinygan-train-proposer", f"# precision: {runtime.precision}", *lines]) + "\n"
