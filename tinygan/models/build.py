"""Networks from a checkpoint."""

from __future__ import annotations

from torch import nn

from tinygan.checkpoint import Weights
from tinygan.config import build_config
from tinygan.errors import CheckpointError
from tinygan.models.generator import Generator, GeneratorConfig


def load_generator(weights: Weights) -> Generator:
    """The generator of any checkpoint.

    Raises:
        CheckpointError: if config and tensors do not fit.
    """
    generator = Generator(build_config(GeneratorConfig, weights.config["generator"]))
    load_part(generator, weights, "generator")
    return generator


def load_part(network: nn.Module, weights: Weights, prefix: str) -> None:
    """Load one network's tensors from a checkpoint.

    Raises:
        CheckpointError: if names or shapes differ.
    """
    try:
        network.load_state_dict(weights.part(prefix))
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise CheckpointError(
            f"checkpoint of kind '{weights.kind}': its {prefix} does not fit its config: {reason}"
        ) from error
