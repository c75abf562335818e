"""What of the second stage is exported: G, D, and D as the judge of one look."""

from __future__ import annotations

from torch import Tensor, nn

from tinygan.checkpoint import Checkpoint
from tinygan.config import build_config
from tinygan.data.cutting import CropConfig
from tinygan.models.build import load_discriminator, load_generator, load_second
from tinygan.models.discriminator import Discriminator
from tinygan.models.folding import fold_batch_norm
from tinygan.models.graphs import Graph, Port

RGB = "RGB in [0, 1]"
FACE_LOGIT = Port("face_logit", ("batch",), "log-odds of a face; the second stage limits them to [-8, 8]")
REAL_LOGIT = Port("real_logit", ("batch",), "log-odds of a real picture against a generated one")
BOX = Port(
    "box",
    ("batch", 4),
    "where the face lies: x1, y1, x2, y2 from the proposal's centre, in units of its longer side",
)


class _Answers(nn.Module):
    """D's answers as a tuple.

    Args:
        discriminator: D.
        all_heads: whether the logit of real pictures is among them, as the first; the judge does not ask for it.
    """

    def __init__(self, discriminator: Discriminator, all_heads: bool) -> None:
        super().__init__()
        self.discriminator, self.all_heads = discriminator, all_heads

    def forward(self, crops: Tensor, surroundings: Tensor | None = None) -> tuple[Tensor, ...]:
        """Crops [B, 3, S, S] and surroundings [B, 3, W, W] to face logits [B] and, with that head, boxes [B, 4]."""
        verdict = self.discriminator(crops, surroundings)
        answers = verdict if self.all_heads else verdict[1:]
        return tuple(answer for answer in answers if answer is not None)


def second_stage_graphs(weights: Checkpoint) -> list[Graph]:
    """All graphs of a checkpoint of kind ``gan`` or ``fused``.

    Raises:
        CheckpointError: if config and tensors do not fit.
    """
    crops = build_config(CropConfig, weights.recipe["crops"])
    discriminator = load_discriminator(weights, crops.hr_size, crops.wide_size)
    generator = generator_graph(load_generator(weights), crops)
    graphs = [judge_graph(discriminator, crops), discriminator_graph(discriminator, crops), generator]
    second = load_second(weights, crops.hr_size, crops.wide_size)
    if second is not None:
        graphs.append(judge_graph(second, crops, "second_judge"))
    return graphs


def judge_graph(discriminator: Discriminator, crops: CropConfig, name: str = "judge") -> Graph:
    """What the second stage computes when it looks at a region.

    Args:
        discriminator: D; its batch normalisation, and the scale of its colours, are folded.
        crops: sizes of its inputs.
        name: ``judge``, or ``second_judge`` for another D that takes the second look.
    """
    outputs = (FACE_LOGIT,) if discriminator.fc_box is None else (FACE_LOGIT, BOX)
    return Graph(name, _Answers(_folded(discriminator), all_heads=False), _inputs(discriminator, crops), outputs)


def discriminator_graph(discriminator: Discriminator, crops: CropConfig) -> Graph:
    """All heads of D; see :func:`judge_graph`."""
    outputs = (REAL_LOGIT, FACE_LOGIT) if discriminator.fc_box is None else (REAL_LOGIT, FACE_LOGIT, BOX)
    return Graph(
        "discriminator", _Answers(_folded(discriminator), all_heads=True), _inputs(discriminator, crops), outputs
    )


def generator_graph(generator: nn.Module, crops: CropConfig) -> Graph:
    """G1 and G2, for pictures of any size.

    Args:
        generator: G; its batch normalisation is folded.
        crops: size of the crops that it was made for.
    """
    lr = Port("lr", ("batch", 3, "height", "width"), f"{RGB}; it was made for crops of {crops.lr_size} px", white=1.0)
    sr = Port("sr", ("batch", 3, "4 height", "4 width"), f"G1's picture, about {RGB}")
    refined = Port("refined", ("batch", 3, "4 height", "4 width"), f"G2's picture, about {RGB}")
    return Graph("generator", fold_batch_norm(generator), (lr,), (sr, refined))


def _folded(discriminator: Discriminator) -> Discriminator:
    fold_batch_norm(discriminator)
    discriminator.deploy()
    return discriminator


def _inputs(discriminator: Discriminator, crops: CropConfig) -> tuple[Port, ...]:
    size, wide, around = crops.hr_size, crops.wide_size, f"longer side of the proposal, centred on it, {RGB}"
    inputs = Port("crops", ("batch", 3, size, size), f"squares of {crops.context:g} x the {around}", white=1.0)
    if discriminator.surroundings is None:
        return (inputs,)
    surroundings = f"squares of {crops.wide_context:g} x the {around}"
    return inputs, Port("surroundings", ("batch", 3, wide, wide), surroundings, white=1.0)
