"""Each first stage that runs here alone, enlarged, in tiles and with ``lite``: AP, milliseconds, points per ms.

    python -m experiments.second_stage_behind.run --data ROOT --out runs/behind --split train --images 40 \\
        --onnx yunet=yunet_n_dynamic.onnx centerface=centerface.onnx

Writes ``results.json`` and ``table.md``. What was found is kept in ``--out`` and not searched again.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from experiments.deal.contenders import BOTH, PLAIN, SLICED, TWICE, Contender, contenders
from experiments.deal.run import measure, search
from experiments.lite.report import Row, compare, truth_of
from tinygan.checkpoint import load_checkpoint, packaged_weights
from tinygan.cli.tables import Table, ap, format_tables
from tinygan.detections import Detections
from tinygan.files import write_atomically
from tinygan.formats.images import read_image
from tinygan.formats.wider import WiderSplit, load_split
from tinygan.proposers import Choice, choose_proposer

ROUNDS, TIMED = 3, 3
MIN_FACE_PX = 20  # of MTCNN, which takes four times as long with 10


def main(argv: Sequence[str] | None = None) -> int:
    """Search, time, compare; print the table and write it; returns 0."""
    arguments = _parser().parse_args(argv)
    out: Path = arguments.out
    out.mkdir(parents=True, exist_ok=True)
    split = load_split(arguments.data, arguments.split)
    names = chosen(split, arguments.images)
    every = list(contenders(first_stages(arguments.onnx, arguments.opencv, arguments.mtcnn), arguments.threads))
    found = {contender.key: search(contender, split, names, out) for contender in every}
    pictures = [read_image(split.images / name) for name in names[:: -(-len(names) // TIMED)]]
    ms = measure(every, pictures, ROUNDS, time.process_time)  # of the processor, as others may use it too
    rows = gains(every, found, split, arguments.data, names)
    table = format_tables([tabulate(every, rows, ms, len(names))], markdown=True)
    print(table)
    report = {"images": names, "split": arguments.split, "ms": ms, "rows": rows}
    write_atomically(out / "results.json", (json.dumps(report, indent=1) + "\n").encode())
    write_atomically(out / "table.md", table.encode())
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    add = parser.add_argument
    add("--data", required=True, type=Path, help="WIDER FACE root, with the official .mat files in eval/")
    add("--out", required=True, type=Path)
    add("--split", choices=["train", "val"], default="train", help="of train, the images that lite never saw")
    add("--images", type=int, default=0, help="evenly chosen pictures (default: all)")
    add("--onnx", nargs="+", default=[], metavar="PRESET=FILE", help="detectors in ONNX files, such as yunet=W.onnx")
    add("--opencv", type=Path, metavar="FILE", help="YuNet's ONNX file, for OpenCV")
    add("--mtcnn", action="store_true", help="also MTCNN, of facenet-pytorch: several times as slow as the others")
    add("--threads", type=int, default=1)
    return parser


def first_stages(onnx: Sequence[str], opencv: Path | None, mtcnn: bool) -> Iterator[tuple[str, Choice]]:
    """Names and first stages: those that ship, and those that are asked for."""
    yield "pair (ships)", choose_proposer("pair")
    yield "YuNet (ships)", choose_proposer("yunet")
    yield "RetinaFace (ships)", choose_proposer("retinaface")
    for given in onnx:
        preset, _, file = given.partition("=")
        yield f"{preset} (ONNX)", choose_proposer("onnx", Path(file), f"onnx/{preset}")
    if opencv is not None:
        yield "YuNet (OpenCV)", choose_proposer("yunet-opencv", opencv)
    if mtcnn:
        yield "MTCNN", choose_proposer("mtcnn", overrides=[f"min_face_px={MIN_FACE_PX}"])


def chosen(split: WiderSplit, count: int) -> list[str]:
    """Evenly chosen images that no network of ``lite`` was trained on."""
    lite = load_checkpoint(packaged_weights("lite"), ("fused",))
    names = [name for name in split.faces if not lite.was_trained_on(name)]
    return names[:: max(1, len(names) // count)][:count] if count else names


def gains(
    every: Sequence[Contender],
    found: Mapping[str, Mapping[str, Detections]],
    split: WiderSplit,
    root: Path,
    names: Sequence[str],
) -> dict[str, dict[str, Row]]:
    """``{contender: {subset: before, after, points, low, high}}`` against the same first stage alone."""
    alone = {contender.stage: found[contender.key] for contender in every if contender.way == PLAIN}
    pairs = {contender.key: (alone[contender.stage], found[contender.key]) for contender in every}
    table = compare(pairs, truth_of(root, split, names), names)
    return {key: table[key] for key in pairs}


def tabulate(
    every: Sequence[Contender], rows: Mapping[str, Mapping[str, Row]], ms: Mapping[str, float], images: int
) -> Table:
    """One line per first stage and way, on the last subset, the hardest."""
    subset = list(next(iter(rows.values())))[-1]
    lines = [["first stage", "used", f"AP {subset}", "points [95 %]", "ms (CPU)", "points per 100 ms more"]]
    plain = {contender.stage: ms[contender.key] for contender in every if contender.way == PLAIN}
    for contender in every:
        row, more = rows[contender.key][subset], ms[contender.key] - plain[contender.stage]
        cells = [contender.stage, contender.way, ap(row["after"])]
        if contender.way == PLAIN:
            lines.append([*cells, "", f"{ms[contender.key]:.0f}", ""])
            continue
        interval = f"{row['points']:+.2f} [{row['low']:+.2f}, {row['high']:+.2f}]"
        lines.append([*cells, interval, f"{ms[contender.key]:.0f}", per_100_ms(row["points"], more)])
    return Table(f"exact AP on {images} images; ways: {PLAIN}, {TWICE}, {SLICED}, {BOTH}", lines)


def per_100_ms(points: float, more_ms: float) -> str:
    """Points of AP for each 100 milliseconds more than the first stage alone takes; ``free`` if it takes none."""
    return f"{100 * points / more_ms:+.2f}" if more_ms > 0 else "free"


if __name__ == "__main__":
    raise SystemExit(main())
