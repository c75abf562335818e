import sys

import numpy as np
import pytest
import torch
from torch import nn

from tinygan.errors import MissingDependency
from tinygan.models.graphs import Graph, Port, to_openvino
from tinygan.models.quantise import sensitive, to_int8


class Network(nn.Module):
    """Three convolutions and a head; the picture is shifted before and the logit stretched after."""

    def __init__(self):
        super().__init__()
        self.first, self.middle, self.last = (nn.Conv2d(inputs, 8, 3) for inputs in (3, 8, 8))
        self.head = nn.Linear(8, 1)

    def forward(self, pictures):
        features = self.middle(torch.relu(self.first(pictures - 0.5)))
        return (3 * self.head(torch.relu(self.last(torch.relu(features))).mean(dim=(2, 3))).squeeze(1).tanh(),)


@pytest.fixture
def graph():
    torch.manual_seed(0)
    picture, logit = Port("pictures", ("batch", 3, 16, 16), "any"), Port("logit", ("batch",), "any")
    return Graph("network", Network().eval(), (picture,), (logit,))


@pytest.fixture
def pictures():
    return torch.rand(48, 3, 16, 16, generator=torch.Generator().manual_seed(1)) * torch.linspace(0, 1, 48).view(
        -1, 1, 1, 1
    )


def test_the_first_convolution_and_the_head_are_left_out(graph):
    pytest.importorskip("openvino")
    left = sensitive(to_openvino(graph))
    assert any("first" in name for name in left) and any("head" in name for name in left)
    assert not any(name in ("/middle/Conv/WithoutBiases", "/last/Conv/WithoutBiases") for name in left)


def test_int8_answers_about_alike(graph, pictures):
    openvino, _ = pytest.importorskip("openvino"), pytest.importorskip("nncf")
    model = to_int8(graph, [pictures], {"licence": "none"})
    kinds = [one.get_type_name() for one in model.get_ops()]
    assert kinds.count("Convolution") == 3 and kinds.count("FakeQuantize") == 2, "before the second and the third"
    assert model.get_rt_info(["tinygan", "licence"]).value == "none"
    (found,) = (
        openvino.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})([pictures.numpy()]).values()
    )
    expected = graph.network(pictures)[0].detach().numpy()
    assert np.ptp(expected) > 0.05 and np.corrcoef(found, expected)[0, 1] > 0.98
    assert not np.array_equal(found, expected)


def test_a_missing_extra_is_named(graph, pictures, monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(MissingDependency, match=r"int8 needs the package openvino: pip install 'tinygan\[int8\]'$"):
        to_int8(graph, [pictures])
