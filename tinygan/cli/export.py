"""``tinygan-export``: the networks as files that other programs run."""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from tinygan import __version__
from tinygan.cli.common import DONE, Parser, make_parser, run_command, show_config
from tinygan.cli.options import DETECTIONS, add_config_options
from tinygan.errors import ConfigError, DataError

if TYPE_CHECKING:
    from tinygan.checkpoint import Checkpoint
    from tinygan.models.graphs import Graph
    from tinygan.proposers import Choice

EXAMPLE = """tinygan-export --format onnx --out exported
tinygan-export --format openvino --int8 --images DIR --proposals P --out exported"""
OF_WEIGHTS = "of the weights that it was made from"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    return run_command(_parser(), _export, argv)


def _parser() -> Parser:
    from tinygan.proposers import proposer_names

    parser = make_parser("tinygan-export", "Write the networks as ONNX, OpenVINO or TorchScript.", EXAMPLE)
    parser.add_argument("--format", required=True, choices=["onnx", "openvino", "torchscript"], help="format to write")
    parser.add_argument("--out", required=True, type=Path, metavar="DIR", help="folder to write into")
    stage = parser.add_mutually_exclusive_group()
    stage.add_argument(
        "--checkpoint",
        metavar="PATH|lite",
        help="second stage: run folder or .safetensors file of stage fusion, judge or gan; default: lite, which ships "
        "with tinygan; writes its judge, discriminator and generator",
    )
    stage.add_argument(
        "--proposer", metavar="NAME", help=f"a first stage instead: {', '.join(proposer_names())}; writes its networks"
    )
    parser.add_argument(
        "--weights", type=Path, metavar="W", help="weights of the first stage, as tinygan-propose takes them"
    )
    int8 = parser.add_argument_group("8-bit integers, for OpenVINO")
    int8.add_argument(
        "--int8",
        action="store_true",
        help="convolutions of the judge that takes the second look compute in int8 (pip install 'tinygan[int8]'); the "
        "other networks are as without it",
    )
    int8.add_argument(
        "--images", type=Path, metavar="DIR", help="pictures to calibrate by: training images, not those of a test"
    )
    int8.add_argument("--proposals", type=Path, metavar="P", help=f"a detector's boxes in them, in {DETECTIONS}")
    parser.add_argument("--overwrite", action="store_true", help="replace files that exist")
    add_config_options(parser, "the first stage")
    return parser


def _export(arguments: argparse.Namespace) -> int:
    if arguments.show_config:
        return show_config(_choice(arguments).config)
    if arguments.proposer is None and (arguments.weights or arguments.config or arguments.overrides):
        raise ConfigError("--weights, --config and --set are for a first stage; name it with --proposer NAME")
    from tinygan.files import write_atomically
    from tinygan.models.graphs import SUFFIXES, encode_graph

    _check_int8(arguments)
    graphs, weights, facts = _second_stage(arguments) if arguments.proposer is None else _first_stage(arguments)
    _check_output(
        arguments.out, [graph.name + end for graph in graphs for end in SUFFIXES[arguments.format]], arguments.overwrite
    )
    facts |= _facts(weights)
    int8 = _judge_in_int8(arguments, graphs, facts) if arguments.int8 else {}
    written = []
    for graph in graphs:
        files = int8.get(graph.name) or encode_graph(graph, arguments.format, {"name": graph.name, **facts})
        arguments.out.mkdir(parents=True, exist_ok=True)
        for suffix, content in files.items():
            write_atomically(arguments.out / (graph.name + suffix), content)
            written.append(f"{graph.name}{suffix} ({len(content) / 1e6:.1f} MB)")
    print(f"{arguments.out}: {', '.join(written)}")
    for graph in graphs:
        print(*(f"  {graph.name} {name}: {meaning}" for name, meaning in graph.facts().items()), sep="\n")
    return DONE


def _second_stage(arguments: argparse.Namespace) -> tuple[list[Graph], Path | None, dict[str, str]]:
    from tinygan.models.exported import WEIGHTS
    from tinygan.second_stage.graphs import second_stage_graphs

    path, weights = _weights(arguments)
    return second_stage_graphs(weights), path, {WEIGHTS: weights.digest()}


def _weights(arguments: argparse.Namespace) -> tuple[Path, Checkpoint]:
    from tinygan.checkpoint import chosen_weights, find_weights, load_checkpoint

    path = find_weights(chosen_weights(arguments.checkpoint or "lite"))
    return path, load_checkpoint(path, ("fused", "gan"))


def _check_int8(arguments: argparse.Namespace) -> None:
    given = arguments.images is not None, arguments.proposals is not None
    if not arguments.int8:
        if any(given):
            raise ConfigError("--images and --proposals are what --int8 is calibrated by; give --int8 too")
    elif arguments.format != "openvino" or arguments.proposer is not None:
        raise ConfigError("--int8 is for the second stage with --format openvino")
    elif not all(given):
        raise ConfigError(
            "--int8 needs regions to calibrate by: --images DIR and --proposals P, as for tinygan-rescore"
        )


def _judge_in_int8(
    arguments: argparse.Namespace, graphs: Sequence[Graph], facts: Mapping[str, str]
) -> dict[str, dict[str, bytes]]:
    """The files of the judge that takes the last look, ``{name: {suffix: content}}``.

    Where there are two judges, the first one remains as it is: in int8 it cost 0.15 points of easy and medium AP.
    """
    from tinygan.models.exported import PRECISION
    from tinygan.models.graphs import encode_openvino
    from tinygan.models.quantise import to_int8
    from tinygan.second_stage.int8 import calibration_regions
    from tinygan.second_stage.plan import plan_rescoring
    from tinygan.second_stage.rescoring import RescoreConfig

    plan = plan_rescoring(arguments.proposals, arguments.images, RescoreConfig())
    seen = calibration_regions(_weights(arguments)[1], plan)
    judges = {graph.name: graph for graph in graphs if graph.name in ("judge", "second_judge")}
    graph = judges.get("second_judge", judges["judge"])
    samples = seen[: len(graph.inputs)]
    if graph.name == "second_judge":
        samples = [pictures.flip(3) for pictures in samples]  # it sees mirror images
    model = to_int8(graph, samples, {"name": graph.name, **facts, PRECISION: "int8"})
    return {graph.name: encode_openvino(model)}


def _first_stage(arguments: argparse.Namespace) -> tuple[list[Graph], Path | None, dict[str, str]]:
    from tinygan.models.graphs import Exportable
    from tinygan.runtime import Runtime, RuntimeOptions

    chosen = _choice(arguments)
    proposer = chosen.build(Runtime(RuntimeOptions(device="cpu", precision="32")))
    if not isinstance(proposer, Exportable):
        raise ConfigError(f"--proposer {chosen.name}: it has no network that tinygan could export")
    graphs = proposer.graphs()
    return [replace(graphs[0], name=chosen.name)] if len(graphs) == 1 else graphs, chosen.weights, {}


def _choice(arguments: argparse.Namespace) -> Choice:
    from tinygan.proposers import choose_proposer, name_proposer

    name = name_proposer(arguments.proposer, arguments.weights)
    return choose_proposer(name, arguments.weights, arguments.config, arguments.overrides)


def _facts(weights: Path | None) -> dict[str, str]:
    """What the metadata says of the weights."""
    import tinygan

    facts = {"producer": f"tinygan {__version__}"}
    if weights is None:
        return facts
    ships = weights.resolve().parent == (Path(tinygan.__file__).parent / "weights").resolve()
    licence = "non-commercial research only: LICENSE.weights of tinygan" if ships else f"that {OF_WEIGHTS}"
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()
    return {**facts, "weights": weights.name, "weights_sha256": digest, "licence": licence}


def _check_output(out: Path, names: Sequence[str], overwrite: bool) -> None:
    if out.exists() and not out.is_dir():
        raise DataError(f"{out}: expected a folder to write into, but this is a file; choose another --out")
    existing = [out / name for name in names if (out / name).exists()]
    if existing and not overwrite:
        raise DataError(f"{existing[0]}: exists already; replace it with --overwrite or choose another --out")
