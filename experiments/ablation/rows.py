"""The rows of the table, each given by its differences from one common recipe."""

from __future__ import annotations

from dataclasses import dataclass, replace

from experiments.lite.flops import discriminator_flops, generator_flops
from tinygan.training.recipe import Recipe

EVERYTHING = 1e9  # in pixels; no crop is larger, so all go through the generator


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        name: name of the row, as printed.
        settings: ``section.key=value`` overrides of the recipe.
        note: description of the row, as printed.
        wider: whether the discriminator is widened until the row costs as many operations as ``full``.
        box: whether stage ``judge`` follows, which adds the third head.
        surroundings: whether that stage also adds the second tower, starting from public weights.
    """

    name: str
    settings: tuple[str, ...] = ()
    note: str = ""
    wider: bool = False
    box: bool = False
    surroundings: bool = False

    def recipe(self, load, seed: int) -> Recipe:  # type: ignore[no-untyped-def]
        """The recipe of this row."""
        recipe: Recipe = load([*self.settings, f"seed={seed}"])
        return widen(recipe, load([])) if self.wider else recipe


NO_SR = ("generator.form=bilinear", "losses.adversarial=false")
SQUEEZED = (f"crops.route_px={EVERYTHING}",)
PRETRAINED = (  # the paper's "pretrained D" where VGG19's weights cannot be had; at a third of the rate of a new D
    "discriminator.backbone=efficientnet_lite0",
    "discriminator.weights=imagenet",
    "adversarial_game.discriminator_rate=3",
)
ROWS = (
    Row("full", (), "pairs and wild stream, routing: the recipe of `lite`, narrower"),
    Row("without refinement", ("generator.refinement=false",), "no G2"),
    Row("without adversarial", ("losses.adversarial=false",), "no real/generated game"),
    Row("without classification", ("losses.classification=false",), "the face logit does not drive G"),
    Row(
        "box loss into G",
        ("discriminator.box=true", "losses.gamma=0.1"),
        "`full`, and D predicts the face's box, whose loss drives G too (SOD-MTGAN)",
    ),
    Row("no SR", NO_SR, "bilinear 4x instead of G, D trained anew for the same steps"),
    Row("no SR, wider D", NO_SR, "the same, D as wide as G and D together cost", wider=True),
    Row("pairs, no routing", (*SQUEEZED, "batches.wild=0"), "the paper: every crop shrunk to 16 px and super-resolved"),
    Row("pairs + wild, no routing", SQUEEZED, "+ wild stream; + routing is `full`"),
    Row("no SR, no routing", (*NO_SR, *SQUEEZED), "every crop shrunk to 16 px, bilinear 4x"),
    Row(
        "pretrained D",
        PRETRAINED,
        "D is EfficientNet-Lite0 from ImageNet weights, fine-tuned on super-resolved pictures",
    ),
    Row("pretrained D, no SR", (*NO_SR, *PRETRAINED), "the same D, fine-tuned on bilinear pictures"),
    Row("full + box head", (), "stage judge after `full`: boxes move, merge, and are looked at twice", box=True),
    Row(
        "full + box head + surroundings",
        ("judge_training.surroundings=mobilenet025",),
        "the same, a second tower sees the surroundings (starts from public weights)",
        box=True,
        surroundings=True,
    ),
)


def widen(recipe: Recipe, like: Recipe) -> Recipe:
    """The recipe with a discriminator so wide that it alone costs what both networks of ``like`` cost."""
    aim = discriminator_flops(like) + generator_flops(like)
    widths = recipe.discriminator.lite_widths
    wider = recipe
    for eighths in range(8, 80):
        trial = tuple(max(4, 4 * round(width * eighths / 32)) for width in widths)
        candidate = replace(recipe, discriminator=replace(recipe.discriminator, lite_widths=trial))
        if discriminator_flops(candidate) > aim:
            break
        wider = candidate
    return wider
