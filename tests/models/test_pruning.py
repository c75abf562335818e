"""A narrower copy keeps the filters that matter."""

from dataclasses import replace

import pytest
import torch

from tinygan.errors import CheckpointError
from tinygan.models.discriminator import Discriminator, DiscriminatorConfig
from tinygan.models.pruning import shrink

NARROW = DiscriminatorConfig(
    backbone="vgg_lite", weights="none", lite_widths=(4, 4, 8, 8, 8), box=True, surroundings="mobilenet025"
)
WIDE = replace(NARROW, lite_widths=(6, 4, 12, 8, 16), fc_std=0.3)


def test_filters_that_say_nothing_go_and_the_answers_stay():
    torch.manual_seed(0)
    wide = Discriminator(WIDE, 32, 48)
    pictures, around = torch.rand(16, 3, 32, 32), torch.rand(16, 3, 48, 48)
    wide.train()(pictures, around)  # BN statistics other than (0, 1)
    with torch.no_grad():
        for layer in wide.features.children():
            if isinstance(layer, torch.nn.Sequential):
                norm = layer[1]
                norm.bias.uniform_(0.1, 0.3)
                silent = torch.randperm(norm.num_features)[SAID.get(norm.num_features, norm.num_features) :]
                norm.weight[silent] = norm.bias[silent] = 0.0
    narrow = Discriminator(replace(NARROW, fc_std=0.3), 32, 48)
    shrink(narrow, wide)
    before, after = wide.eval()(pictures, around), narrow.eval()(pictures, around)
    assert float(before.face_logit.detach().std()) > 3e-4
    for one, other in zip(before, after, strict=True):
        assert torch.allclose(one, other, atol=1e-6)


SAID = {6: 4, 12: 8, 16: 8}  # filters that say something, of so many


def test_what_matters_more_is_kept():
    wide, narrow = Discriminator(WIDE, 32, 48), Discriminator(replace(NARROW, fc_std=0.3), 32, 48)
    last = [layer for layer in wide.features.children() if isinstance(layer, torch.nn.Sequential)][-1]
    with torch.no_grad():
        last[1].weight.fill_(0.1)
        last[1].weight[[1, 3, 5, 7, 9, 11, 13, 15]] = 1.0
        last[1].running_mean.copy_(torch.arange(16.0))
        for head in wide.heads:
            head.weight.fill_(1.0)
    shrink(narrow, wide)
    own = [layer for layer in narrow.features.children() if isinstance(layer, torch.nn.Sequential)][-1]
    assert own[1].running_mean.tolist() == [1, 3, 5, 7, 9, 11, 13, 15]


@pytest.mark.parametrize("form", [WIDE, replace(NARROW, box=False), replace(NARROW, lite_widths=(4, 5, 8, 8, 8))])
def test_it_is_made_of_one_that_differs_in_widths_alone(form):
    wide = Discriminator(replace(NARROW, lite_widths=(4, 4, 8, 8, 12)), 32, 48)
    with pytest.raises(CheckpointError, match="differs in widths alone"):
        shrink(Discriminator(form, 32, 48), wide)
