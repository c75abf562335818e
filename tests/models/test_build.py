"""Networks from configs and checkpoints; what is downloaded, and what is not."""

from urllib.error import URLError

import pytest
import torch
from torchvision.models import VGG19_Weights

from tinygan.checkpoint import Checkpoint
from tinygan.config import to_tree
from tinygan.errors import CheckpointError, MissingDependency
from tinygan.models.build import build_discriminator, build_generator, load_discriminator, load_generator
from tinygan.models.discriminator import Discriminator, DiscriminatorConfig
from tinygan.models.generator import BilinearGenerator, Generator, GeneratorConfig
from tinygan.training.recipe import Recipe

LITE = DiscriminatorConfig(backbone="vgg_lite", weights="none", lite_widths=(4, 4, 8, 8, 8), fc_std=0.01)
SMALL = GeneratorConfig(width=4, up_width=4, residual_blocks=1, refine_width=4, refine_up_width=4, refine_blocks=1)


@pytest.fixture
def offline(monkeypatch):
    def fail(*_, **__):
        raise URLError("no network")

    monkeypatch.setattr(VGG19_Weights, "get_state_dict", fail)


def as_tensors(**networks):
    return {f"{part}.{name}": value for part, one in networks.items() for name, value in one.state_dict().items()}


def test_download_that_fails_says_what_to_do(offline):
    with pytest.raises(MissingDependency, match=r"--set discriminator\.weights=none"):
        build_discriminator(DiscriminatorConfig(), 32)


def test_training_starts_from_imagenet(monkeypatch):
    public = {
        name: torch.randn_like(value)
        for name, value in Discriminator(DiscriminatorConfig(), 32).features.state_dict(prefix="features.").items()
    }
    monkeypatch.setattr(
        VGG19_Weights, "get_state_dict", lambda *_, **__: {**public, "classifier.6.bias": torch.zeros(1000)}
    )
    built = build_discriminator(DiscriminatorConfig(), 32).features.state_dict(prefix="features.")
    assert built.keys() == public.keys() and all(torch.equal(built[name], public[name]) for name in public)


def test_a_checkpoint_is_loaded_without_any_download(offline):
    config = DiscriminatorConfig()
    saved = Discriminator(config, 32)
    checkpoint = Checkpoint("gan", {"discriminator": {"backbone": "vgg19"}}, as_tensors(discriminator=saved))
    loaded = load_discriminator(checkpoint, 32, 0)
    assert loaded.config == config
    assert all(torch.equal(a, b) for a, b in zip(saved.parameters(), loaded.parameters(), strict=True))


def test_bilinear_generator_upscales_and_has_no_weights():
    generator = build_generator(GeneratorConfig(form="bilinear"))
    assert isinstance(generator, BilinearGenerator) and not generator.state_dict()
    lr = torch.tensor([[0.0, 1.0], [0.0, 1.0]], dtype=torch.bfloat16).expand(1, 3, 2, 2)
    generated = generator(lr)
    assert generated.refined.dtype == torch.float32 and not generated.has_g2
    assert generated.refined[0, 0, 0].tolist() == [0, 0, 0.125, 0.375, 0.625, 0.875, 1, 1]


def test_generators_of_both_forms_come_back_from_a_checkpoint():
    saved = build_generator(SMALL)
    checkpoint = Checkpoint("generator", to_tree(Recipe(generator=SMALL)), as_tensors(generator=saved))
    loaded = load_generator(checkpoint)
    assert isinstance(loaded, Generator) and torch.equal(loaded.upsample[-1].weight, saved.upsample[-1].weight)
    old = Checkpoint("gan", {"generator": {"width": 4, "form": "bilinear"}}, {})
    assert isinstance(load_generator(old), BilinearGenerator)


def test_weights_that_do_not_fit_are_named():
    tensors = as_tensors(generator=build_generator(SMALL), discriminator=Discriminator(LITE, 32))
    checkpoint = Checkpoint("gan", {"generator": {}, "discriminator": to_tree(LITE)}, tensors)
    with pytest.raises(CheckpointError, match="kind 'gan': its generator does not fit its config"):
        load_generator(checkpoint)
    with pytest.raises(CheckpointError, match="its discriminator does not fit its config"):
        load_discriminator(checkpoint, 64, 0)
