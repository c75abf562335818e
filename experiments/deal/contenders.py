"""What is compared: first stages at one size, at two, in tiles, and with the second stage."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path

from PIL import Image

from tinygan.config import load_config, to_tree
from tinygan.detect.detector import FaceDetector
from tinygan.detections import Detections
from tinygan.proposers import Choice, Proposer, choose_proposer, name_proposer, to_tensor
from tinygan.runtime import RuntimeOptions

PLAIN, TWICE, SLICED, BOTH = "alone", "1x + 2x", "sliced", "with lite"
SLICE_PX, OVERLAP = 640, 0.2
SETTINGS = {PLAIN: [], TWICE: ["scales=[1,2]"], SLICED: [f"slice_px={SLICE_PX}", f"slice_overlap={OVERLAP}"]}

Find = Callable[[Image.Image], Detections]


@dataclass(frozen=True)
class Contender:
    """A way to find faces.

    Attributes:
        stage: name of its first stage.
        way: one of ``alone``, ``1x + 2x``, ``sliced`` and ``with lite``.
        find: the faces of a picture.
    """

    stage: str
    way: str
    find: Find

    @property
    def key(self) -> str:
        """Its name as that of a file."""
        return "_".join(f"{self.stage} {self.way}".replace("+", "and").replace("/", "_").split())


def contenders(stages: Iterable[tuple[str, Choice]], threads: int) -> Iterator[Contender]:
    """All ways of some first stages, in the precision in which commands run them on this machine.

    Args:
        stages: names and first stages.
        threads: of torch.
    """
    options = RuntimeOptions(threads=threads)
    for name, choice in stages:
        runtime = choice.runtime(options)
        firsts = {way: _with(choice, overrides).build(runtime) for way, overrides in SETTINGS.items()}
        yield from _ways(name, firsts, FaceDetector.open(choice, options=options))


def first_stages(weights: Sequence[Path]) -> Iterator[tuple[str, Choice]]:
    """Those that ship, MTCNN where it is installed, and runs or files of ``tinygan-train-proposer``."""
    yield "pair", choose_proposer("pair")
    yield "YuNet", choose_proposer("yunet")
    yield "RetinaFace", choose_proposer("retinaface")
    if find_spec("facenet_pytorch") is not None:
        yield "MTCNN", choose_proposer("mtcnn")
    for path in weights:
        yield path.stem, choose_proposer(name_proposer(None, path), path)


def _with(choice: Choice, overrides: Sequence[str]) -> Choice:
    """The same first stage with some settings changed."""
    schema = type(choice.config)
    return replace(choice, config=load_config(schema, None, overrides, base=to_tree(choice.config)))


def _ways(stage: str, firsts: Mapping[str, Proposer], both: FaceDetector) -> Iterator[Contender]:
    for way, first in firsts.items():
        yield Contender(stage, way, _finder(first))
    yield Contender(stage, BOTH, lambda picture: both.detect(picture, min_score=0.0))


def _finder(first: Proposer) -> Find:
    def find(picture: Image.Image) -> Detections:
        (found,) = first.propose([to_tensor(picture)])
        return found

    return find
