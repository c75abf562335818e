"""Average precision against milliseconds: every first stage here alone, at 1x and 2x, in tiles, and with ``lite``.

    python -m experiments.deal.run --data ROOT --zoo DIR --out runs/deal [--weights RUN …]

Writes ``results.json`` and ``deal.png``. What was found is kept in ``--out`` and not searched again; times are measured
anew in each run, all contenders in turn.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from PIL import Image
from tqdm import tqdm

from experiments.deal.contenders import BOTH, Contender, contenders, first_stages
from tinygan.cli.tables import NONE, Table, ap, format_tables
from tinygan.detections import Detections
from tinygan.evaluate.truth import EvaluationTruth, load_evaluation_truth, truth_of_faces
from tinygan.evaluate.wider import evaluate_wider
from tinygan.files import write_atomically
from tinygan.formats.images import read_image
from tinygan.formats.names import match_names
from tinygan.formats.registry import open_detections
from tinygan.formats.wider import WiderSplit, load_split
from tinygan.formats.wider_mat import MAT_FILES
from tinygan.formats.writing import write_wider

ROUNDS, TIMED = 5, 5
# Milliseconds per picture of detectors whose boxes are given, measured elsewhere: on one core, at 1,024 px.
GIVEN_MS = {"yunet_n": 51.0, "yolov5n_0_5_face": 45.0, "scrfd_2_5g": 154.0, "centerface": 247.0}
AS_GIVEN = "as given"


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        stage: name of the first stage.
        way: how it was used.
        ap: ``{subset: exact AP}``.
        boxes: boxes per picture.
        ms: milliseconds per picture; None if unknown.
    """

    stage: str
    way: str
    ap: dict[str, float]
    boxes: float
    ms: float | None


def main(argv: Sequence[str] | None = None) -> int:
    """Search, evaluate, time, print the table, write results and plot; returns 0."""
    arguments = _parser().parse_args(argv)
    out: Path = arguments.out
    out.mkdir(parents=True, exist_ok=True)
    split = load_split(arguments.data, arguments.split)
    truth = _truth(arguments.data, split, arguments.split)
    names = [name for name in truth.names if name in split.faces]
    names = names[:: max(1, len(names) // arguments.images)][: arguments.images] if arguments.images else names
    every = list(contenders(first_stages(arguments.weights), arguments.threads))
    times = measure(every, [read_image(split.images / name) for name in names[:: -(-len(names) // TIMED)]])
    rows = []
    for contender in every:
        found = search(contender, split, names, out)
        rows.append(_row(contender.stage, contender.way, found, truth, names, times[contender.key]))
    for path in sorted(arguments.zoo.glob("*.tar.gz")) if arguments.zoo is not None else []:
        name = path.name.removesuffix(".tar.gz")
        rows.append(_row(name, AS_GIVEN, given(path, names), truth, names, GIVEN_MS.get(name)))
    print(format_tables([tabulate(rows, len(names))], markdown=True))
    report = {"images": len(names), "split": arguments.split, "rows": [asdict(row) for row in rows]}
    write_atomically(out / "results.json", (json.dumps(report, indent=1) + "\n").encode())
    write_atomically(out / "deal.png", draw(rows))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    add = parser.add_argument
    add("--data", required=True, type=Path, help="WIDER FACE root, with the official .mat files in eval/ for val")
    add("--out", required=True, type=Path)
    add("--split", choices=["train", "val"], default="val")
    add("--images", type=int, default=0, help="evenly chosen pictures (default: all)")
    add("--weights", type=Path, nargs="+", default=[], metavar="RUN", help="further runs of tinygan-train-proposer")
    add("--zoo", type=Path, metavar="DIR", help="folder of other detectors' boxes, NAME.tar.gz")
    add("--threads", type=int, default=1)
    return parser


def measure(
    every: Sequence[Contender],
    pictures: Sequence[Image.Image],
    rounds: int = ROUNDS,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, float]:
    """Milliseconds per picture, the median of several rounds; in each round all contenders take turns.

    Args:
        every: what is timed.
        pictures: decoded already.
        rounds: how often.
        clock: ``time.process_time`` where other programs run.

    Returns:
        ``{key of the contender: milliseconds}``.
    """
    seconds: dict[str, list[float]] = {contender.key: [] for contender in every}
    for contender in every:
        contender.find(pictures[0])  # what is done once alone does not count
    for _ in tqdm(range(rounds), desc="timing", unit="round", disable=None):
        for contender in every:
            started = clock()
            for picture in pictures:
                contender.find(picture)
            seconds[contender.key].append(clock() - started)
    return {key: 1000 * statistics.median(values) / len(pictures) for key, values in seconds.items()}


def tabulate(rows: Sequence[Row], images: int) -> Table:
    """The table of all rows."""
    subsets = list(rows[0].ap)
    lines = [["first stage", "used", *(f"AP {subset}" for subset in subsets), "ms per picture", "boxes per picture"]]
    for row in rows:
        ms = NONE if row.ms is None else f"{row.ms:.0f}"
        lines.append([row.stage, row.way, *(ap(row.ap[subset]) for subset in subsets), ms, f"{row.boxes:.0f}"])
    return Table(f"exact AP on {images} images", lines)


def draw(rows: Sequence[Row]) -> bytes:
    """The plot of AP, on the last subset, over milliseconds, as PNG."""
    import io

    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    subset = list(rows[0].ap)[-1]
    for number, stage in enumerate(dict.fromkeys(row.stage for row in rows)):
        points = sorted((row.ms, row.ap[subset], row.way) for row in rows if row.stage == stage and row.ms is not None)
        if not points:
            continue
        colour = f"C{number % 10}"
        axes.plot([point[0] for point in points], [point[1] for point in points], ":", color=colour, linewidth=1)
        for ms, value, way in points:
            marker = {BOTH: "*", AS_GIVEN: "s"}.get(way, "o")
            axes.plot([ms], [value], marker, color=colour, markersize=12 if way == BOTH else 6)
            label = stage if way == AS_GIVEN else f"{stage}, {way}"
            place = (5, -11 if way == BOTH else 5)  # or the label would lie on that of the first stage alone
            axes.annotate(label, (ms, value), xytext=place, textcoords="offset points", fontsize=7, color=colour)
    axes.set(xscale="log", xlabel="milliseconds per picture, one thread", ylabel=f"exact AP, {subset}")
    axes.margins(x=0.15)  # for the labels
    axes.grid(alpha=0.3, which="both")
    content = io.BytesIO()
    FigureCanvasAgg(figure).print_png(content)
    return content.getvalue()


def _truth(root: Path, split: WiderSplit, part: str) -> EvaluationTruth:
    """The official subsets where their files are there, else one of all valid faces."""
    official = root / "eval"
    if part == "val" and (official / MAT_FILES[0]).is_file():
        return load_evaluation_truth(official)
    return truth_of_faces(split.faces)


def search(contender: Contender, split: WiderSplit, names: Sequence[str], out: Path) -> dict[str, Detections]:
    """What a contender finds in these images; kept in ``out``, and not searched again."""
    path = out / f"{contender.key}.tar.gz"
    if path.is_file():
        kept = given(path, names)
        if kept.keys() == set(names):
            return kept
    progress = tqdm(names, desc=f"{contender.stage}, {contender.way}", unit="image", disable=None)
    found = {name: contender.find(read_image(split.images / name)) for name in progress}
    write_wider(path, {name: Detections(one.boxes, one.scores) for name, one in found.items()})
    return found


def given(path: Path, names: Sequence[str]) -> dict[str, Detections]:
    """Boxes on disk of these images."""
    files = open_detections(path)
    matched = match_names(files, names, str(path))
    return {name: files[file] for name, file in matched.items()}


def _row(
    stage: str,
    way: str,
    found: Mapping[str, Detections],
    truth: EvaluationTruth,
    names: Sequence[str],
    ms: float | None,
) -> Row:
    result = evaluate_wider(found, truth, names)
    values = {subset: part.ap_exact for subset, part in result.subsets.items()}
    return Row(stage, way, values, result.boxes / len(names), None if ms is None else round(ms, 1))


if __name__ == "__main__":
    raise SystemExit(main())
