import pytest
import torch
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from tinygan.checkpoint import Checkpoint, load_checkpoint, packaged_weights
from tinygan.config import build_config, load_config, to_tree
from tinygan.models.blocks import ResidualBlock
from tinygan.models.build import load_generator
from tinygan.models.generator import Generator, GeneratorConfig, ShuffleGenerator, bicubic
from tinygan.training.recipe import Recipe

SMALL = GeneratorConfig(width=8, up_width=8, residual_blocks=1, refine_width=8, refine_up_width=8, refine_blocks=1)


@pytest.mark.parametrize("size", [8, 16, 24])
def test_output_is_four_times_larger(size):
    generated = Generator(SMALL)(torch.rand(2, 3, size, size))
    assert generated.sr.shape == generated.refined.shape == (2, 3, 4 * size, 4 * size)


def test_without_refinement_there_is_no_g2():
    config = GeneratorConfig(width=8, up_width=8, residual_blocks=1, refinement=False)
    generator = Generator(config)
    generated = generator(torch.rand(1, 3, 8, 8))
    assert generator.refine is None and generated.refined is generated.sr


def test_bicubic_skip_starts_near_bicubic():
    config = GeneratorConfig(width=8, up_width=8, residual_blocks=1, refine_width=8, refine_blocks=1, skip="bicubic")
    lr = torch.rand(2, 3, 8, 8)
    assert (Generator(config).eval()(lr).refined - bicubic(lr)).abs().mean() < 0.05


def test_sigmoid_output_stays_in_range():
    config = GeneratorConfig(width=8, up_width=8, residual_blocks=1, refine_width=8, refine_blocks=1, output="sigmoid")
    refined = Generator(config)(torch.rand(2, 3, 8, 8)).refined
    assert refined.min() > 0 and refined.max() < 1


def test_paper_layer_counts_and_initialisation():
    generator = Generator(load_config(Recipe, "paper").generator)
    convs = [m for m in generator.upsample.modules() if isinstance(m, torch.nn.Conv2d)]
    deconvs = [m for m in generator.upsample.modules() if isinstance(m, torch.nn.ConvTranspose2d)]
    assert len(convs) == 1 + 8 + 1 + 1 and len(deconvs) == 2  # Table 1: conv, one block of 8, conv, 1x1 out
    assert len([m for m in generator.refine.modules() if isinstance(m, torch.nn.Conv2d)]) == 1 + 8 + 1 + 2 + 1
    blocks = [m for m in generator.modules() if isinstance(m, ResidualBlock)]
    assert len(blocks) == 2 and all(isinstance(block.body[-1], torch.nn.BatchNorm2d) for block in blocks)
    assert float(convs[5].weight.detach().std()) == pytest.approx(0.02, rel=0.05)
    assert float(convs[-1].bias.detach().abs().max()) == 0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"width": 0}, "width must be at least 1"),
        ({"up_blocks": -1}, "up_blocks must not be negative, got -1"),
        ({"skip": "bicubic", "output": "sigmoid"}, "cannot be combined"),
    ],
)
def test_bad_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        GeneratorConfig(**settings)


def test_a_shuffle_generator_starts_as_bicubic_and_takes_any_size():
    generator = ShuffleGenerator(GeneratorConfig(form="shuffle", width=8, up_width=4, residual_blocks=2))
    lr = torch.rand(2, 3, 12, 17)
    generated = generator(lr)
    assert (generated.sr - bicubic(lr)).abs().mean() < 0.03, "but for the colours"
    assert generated.refined is generated.sr and not generated.has_g2
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in generator.modules())
    generated.sr.square().mean().backward()
    assert generator.last.weight.grad.abs().sum() > 0  # so it learns all the same


def test_a_checkpoint_from_before_there_were_up_blocks_loads():
    recipe = to_tree(load_config(Recipe, None, ["generator.form=shuffle", "generator.width=8", "generator.up_width=4"]))
    recipe["generator"].pop("up_blocks")
    whole = ShuffleGenerator(build_config(GeneratorConfig, recipe["generator"]))
    assert not any(name.startswith("between") for name in whole.state_dict())
    tensors = {f"generator.{name}": torch.rand_like(value) for name, value in whole.state_dict().items()}
    loaded = load_generator(Checkpoint("generator", recipe, tensors))
    assert torch.equal(loaded.last.weight, tensors["generator.last.weight"])


@pytest.mark.parametrize("change", [0.2, -0.2])
def test_a_shuffle_generator_keeps_the_mean_colours_of_the_small_picture(change):
    generator = ShuffleGenerator(GeneratorConfig(form="shuffle", width=8, up_width=4, residual_blocks=1))
    with torch.no_grad():
        generator.last.bias += torch.tensor([change, 0.0, -change])  # it would tint every picture
    smooth = bicubic(torch.rand(2, 3, 4, 5, generator=torch.Generator().manual_seed(0)))
    with torch.no_grad():
        means = functional.avg_pool2d(generator(smooth).sr, 4)
    assert (means - smooth)[:, :, 2:-2, 2:-2].abs().max() < 0.03


def test_portrait_fits_its_limits():
    generator = load_generator(load_checkpoint(packaged_weights("portrait", ("generator",)), ("generator",))).eval()
    assert 2 * sum(value.numel() for value in generator.state_dict().values()) <= 4_000_000  # bytes in half precision
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        generator(torch.zeros(1, 3, 16, 16))
    assert counter.get_total_flops() / 1e9 == pytest.approx(1.18, abs=0.01)
