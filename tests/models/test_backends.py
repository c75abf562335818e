import sys
from dataclasses import replace

import pytest
import torch

from tinygan.errors import MissingDependency
from tinygan.models.backends import deploy
from tinygan.models.graphs import Graph, Port
from tinygan.runtime import Runtime, RuntimeOptions


class Sums(torch.nn.Module):
    """A convolution, and the sum of each picture."""

    def __init__(self):
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 2, 3)

    def forward(self, pictures):
        return self.conv(pictures), pictures.sum(dim=(1, 2, 3))


@pytest.fixture
def graph():
    torch.manual_seed(0)
    outputs = (Port("maps", ("batch", 2, "h", "w"), "maps"), Port("sums", ("batch",), "sums"))
    return Graph("sums", Sums().eval(), (Port("pictures", ("batch", 3, "height", "width"), "any"),), outputs)


def runtime(backend, **more):
    return Runtime(RuntimeOptions(backend=backend, threads=1, **more))


@pytest.mark.parametrize("white", [255.0, 1.0])
@pytest.mark.parametrize("backend", ["torch", "onnxruntime", "openvino"])
def test_every_backend_answers_alike_of_floats_and_of_bytes(graph, backend, white):
    pytest.importorskip(backend)
    graph = replace(graph, inputs=(replace(graph.inputs[0], white=white),))
    lying = torch.randint(0, 256, (5, 9, 17, 3), dtype=torch.uint8).permute(0, 3, 1, 2)  # as pictures lie in memory
    pictures = (lying, lying.contiguous(), lying[..., 1:].flip(3), torch.rand(1, 3, 12, 8))
    with torch.no_grad():
        expected = [graph.network(seen * (white / 255 if seen.dtype == torch.uint8 else 1.0)) for seen in pictures]
        run = deploy(graph, runtime(backend, precision="32", device="cpu"))
        for seen, answers in zip(pictures, expected, strict=True):
            for found, right in zip(run(seen), answers, strict=True):
                assert found.dtype == torch.float32 and torch.allclose(found, right, atol=1e-3)


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_an_answer_outlives_the_next_call(graph, backend):
    pytest.importorskip(backend)
    run = deploy(graph, runtime(backend))
    first = run(torch.ones(1, 3, 8, 8))
    run(torch.zeros(1, 3, 8, 8))
    assert first[1].tolist() == pytest.approx([192])


def test_bf16_is_asked_of_openvino(graph):
    openvino = pytest.importorskip("openvino")
    if "BF16" not in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        pytest.skip("needs a CPU with bf16")
    pictures = torch.rand(2, 3, 32, 32)
    exact, rough = (
        deploy(graph, runtime("openvino", precision=precision))(pictures)[0] for precision in ("32", "bf16")
    )
    assert 1e-5 < (exact - rough).abs().max() < 0.1


@pytest.mark.parametrize(("backend", "extra"), [("onnxruntime", "onnx"), ("openvino", "openvino")])
def test_a_missing_backend_is_named(graph, monkeypatch, backend, extra):
    monkeypatch.setitem(sys.modules, backend, None)
    with pytest.raises(MissingDependency, match=rf"backend {backend} needs .* pip install 'tinygan\[{extra}\]'$"):
        deploy(graph, runtime(backend))
