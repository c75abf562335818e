"""Building blocks of networks."""

from torch import nn

from tinygan.models.blocks import one_by_one


def test_layers_come_one_by_one_in_the_order_in_which_they_run() -> None:
    first, second, third, fourth = nn.ReLU(), nn.Sigmoid(), nn.Tanh(), nn.MaxPool2d(2)
    inner = nn.Sequential(nn.Sequential(second), third)
    assert list(one_by_one(nn.Sequential(first, inner), fourth)) == [first, second, third, fourth]
