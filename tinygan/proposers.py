"""First stages as tinygan sees them: what a proposer is, and how one is found by its name.

An installed package announces its proposers as entry points of the group ``tinygan.proposers``, each
``name = module:entry``, where ``entry`` is an :class:`Entry`. In ``pyproject.toml``::

    [project.entry-points."tinygan.proposers"]
    mine = "my_package.my_module:ENTRY"

tinygan's own first stages, in the package ``proposals``, are found in the same way (setup.cfg).
"""

from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, is_dataclass, replace
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from tinygan.boxes import area, clip
from tinygan.detections import Detections
from tinygan.errors import CheckpointError, ConfigError

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

    from tinygan.runtime import Runtime, RuntimeOptions

GROUP = "tinygan.proposers"
DEFAULT = "pair"  # the first stage where a user names none
DEFAULT_ROIS = (
    1000  # boxes of a first stage that the second one judges per image; the paper's 600 are too few for crowds
)


class Proposer(Protocol):
    """A face detector as tinygan sees it.

    One that several threads may call at once may have an attribute ``side_by_side``: how many are worth it.
    """

    def propose(self, images: Sequence[Tensor]) -> list[Detections]:
        """Find boxes.

        Args:
            images: uint8 RGB [3, H, W] each, of any sizes.

        Returns:
            One :class:`Detections` per image, by falling score: boxes with a positive area, in pixels of that image
            and inside it (:func:`best_inside` sees to that). The boxes found in an image do not depend on the other
            images.

        Raises:
            ValueError: if an image is not uint8 [3, H, W].
        """
        ...


@dataclass(frozen=True)
class Entry:
    """What an entry point leads to: how a proposer is configured and built.

    Attributes:
        config: the proposer's config, a frozen dataclass whose fields all have defaults; ``--set`` and ``--config``
            override them.
        build: function ``(config, weights, runtime) -> Proposer``; ``weights`` is the path that the user gave, or None.
        packaged: name of the weights that ship with tinygan and are taken when the user gives none; None for a
            proposer of another package, which finds its own.
        recipe: ``module:class`` of the recipe by which ``tinygan-train-proposer`` trains it; None if it cannot.
        wanted: for a proposer that can do nothing without weights and ships with none: what the user may give.
        half: whether its boxes are as good in bf16, so that at precision ``auto`` it runs in bf16 where the second
            stage does; else it runs in single precision.

    Raises:
        TypeError: if ``config`` is not a dataclass, or ``build`` cannot be called.
    """

    config: type[Any]
    build: Callable[[Any, Path | None, Runtime], Proposer]
    packaged: str | None = None
    recipe: str | None = None
    wanted: str | None = None
    half: bool = False

    def __post_init__(self) -> None:
        if not (isinstance(self.config, type) and is_dataclass(self.config)):
            raise TypeError(f"Entry.config must be a dataclass, got {self.config!r}")
        if not callable(self.build):
            raise TypeError(f"Entry.build must be a function, got {self.build!r}")


@dataclass(frozen=True)
class Choice:
    """A first stage as a user chose it.

    Attributes:
        name: the proposer's name.
        config: an instance of its config dataclass.
        weights: the weights file it is built with; None if the user gave none and none ship with tinygan.
    """

    name: str
    config: object
    weights: Path | None

    def runtime(self, options: RuntimeOptions) -> Runtime:
        """Device and precision of this first stage, of those that the user chose for both stages."""
        from tinygan.runtime import Runtime

        return Runtime(options.of_first_stage(find_proposer(self.name).half))

    def settings(self, runtime: Runtime) -> dict[str, Any]:
        """What decides its results, as JSON types; ``runtime`` is where it runs."""
        from tinygan.config import to_tree

        digest = None if self.weights is None else hashlib.sha256(self.weights.read_bytes()).hexdigest()
        config = json.loads(json.dumps(to_tree(self.config)))
        return {"proposer": self.name, "weights": digest, **runtime.settings(), **config}

    def build(self, runtime: Runtime) -> Proposer:
        """See :func:`build_proposer`.

        Raises:
            CheckpointError: if there are no weights and the proposer needs some.
        """
        wanted = find_proposer(self.name).wanted
        if self.weights is None and wanted is not None:
            raise CheckpointError(f"proposer '{self.name}': no weights of it ship with tinygan; give it {wanted}")
        return build_proposer(self.name, self.config, self.weights, runtime)


def proposer_names() -> list[str]:
    """Names of all installed proposers, sorted; none of them is imported."""
    return sorted({point.name for point in entry_points(group=GROUP)})


def find_proposer(name: str) -> Entry:
    """The entry of a proposer; its module is imported here and not before.

    Raises:
        ConfigError: if there is none of that name, two packages announce different ones under it, its module cannot
            be imported, or it is no :class:`Entry`.
    """
    points = {point.value: point for point in entry_points(group=GROUP, name=name)}
    if not points:
        known = proposer_names()
        close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
        hint = f"did you mean '{close[0]}'? " if close else ""
        have = f"there are {', '.join(known)}" if known else "none is installed; pip install tinygan"
        raise ConfigError(f"proposer '{name}': no such first stage; {hint}{have}")
    if len(points) > 1:
        rivals = " and ".join(map(_origin, points.values()))
        raise ConfigError(f"proposer '{name}': announced by {rivals}; uninstall one of the two packages")
    (point,) = points.values()
    try:
        entry = point.load()
    except Exception as error:  # whatever somebody's module may raise
        reason = f"{type(error).__name__}: {error}"
        raise ConfigError(f"proposer '{name}' of {_origin(point)}: cannot be imported: {reason}") from error
    if not isinstance(entry, Entry):
        raise ConfigError(
            f"proposer '{name}' of {_origin(point)}: expected a tinygan.proposers.Entry, got {type(entry).__name__}"
        )
    return entry


def name_proposer(name: str | None, weights: Path | None) -> str:
    """The first stage that a user means: the one named, else the one that the weights are of, else :data:`DEFAULT`.

    Of other projects' files, ``.pth`` and ``.pt`` are taken for a RetinaFace, ``.onnx`` for a YuNet.

    Raises:
        CheckpointError: if the weights are a damaged file of tinygan, or none of a first stage.
    """
    from tinygan.checkpoint import is_ours, load_checkpoint

    if name is not None or weights is None:
        return name or DEFAULT
    if is_ours(weights):
        return load_checkpoint(weights, ("proposer",)).proposer or "yunet"
    return "retinaface" if weights.suffix in (".pth", ".pt") else "yunet"


def choose_proposer(
    name: str, weights: Path | None = None, source: str | Path | None = None, overrides: Sequence[str] = ()
) -> Choice:
    """A first stage's settings and weights.

    Args:
        name: one of :func:`proposer_names`.
        weights: a run folder or file of ``tinygan-train-proposer``, whose settings come along, or a weights file of
            another project; default: the weights that ship with tinygan.
        source: a YAML file or preset that overrides settings.
        overrides: ``key=value`` strings that override both.

    Raises:
        ConfigError: if there is no such first stage, preset or key.
        CheckpointError: if the weights are absent or another first stage's.
    """
    from tinygan.checkpoint import find_weights, is_ours, load_checkpoint, packaged_weights
    from tinygan.config import load_config

    entry = find_proposer(name)
    if weights is None and entry.packaged is not None:
        weights = packaged_weights(entry.packaged)
    base = None
    if weights is not None and is_ours(weights):
        weights = find_weights(weights)
        saved = load_checkpoint(weights, ("proposer",))
        if saved.proposer != name:
            raise CheckpointError(f"{weights}: weights of proposer '{saved.proposer}', not of '{name}'")
        base = saved.recipe["network"]
    return Choice(name, load_config(entry.config, source, overrides, base=base), weights)


def build_proposer(name: str, config: object, weights: Path | None, runtime: Runtime) -> Proposer:
    """Build a first stage.

    Args:
        name: one of :func:`proposer_names`.
        config: an instance of its config dataclass.
        weights: its weights file; None leaves tinygan's own with random weights.
        runtime: device and precision.

    Raises:
        ConfigError: if there is no such proposer.
        CheckpointError: if the weights are absent or another network's.
    """
    entry = find_proposer(name)
    if not isinstance(config, entry.config):
        raise TypeError(f"proposer '{name}': expected a {entry.config.__name__}, got {type(config).__name__}")
    return entry.build(config, weights, runtime)


def check_image(image: Tensor) -> None:
    """Refuse what is not an image.

    Raises:
        ValueError: if ``image`` is not uint8 [3, H, W] with at least one pixel.
    """
    import torch

    if image.dtype != torch.uint8 or image.ndim != 3 or image.shape[0] != 3 or not image.numel():
        raise ValueError(f"expected a uint8 RGB image [3, H, W], got {image.dtype} {list(image.shape)}")


def to_tensor(picture: Image.Image) -> Tensor:
    """An RGB picture as first stages take it: uint8 [3, H, W]."""
    import torch

    return torch.from_numpy(np.array(picture)).permute(2, 0, 1)


def best_inside(found: Detections, width_px: int, height_px: int, keep: int) -> Detections:
    """The best boxes, cut to the image; boxes wholly outside it are dropped.

    Args:
        found: boxes in pixels of the image.
        width_px: width of the image.
        height_px: height of the image.
        keep: largest number of boxes.

    Returns:
        By falling score; every box has a positive area.
    """
    boxes = clip(found.boxes, width_px, height_px)
    return replace(found, boxes=boxes)[area(boxes) > 0].sorted()[:keep]


def _origin(point: EntryPoint) -> str:
    """The package that announces an entry point, and where the entry lies."""
    return f"{point.dist.name if point.dist is not None else 'an unknown package'} ({point.value})"
