import json

import numpy as np
import pytest
import torch

from tinygan.data.cutting import CropConfig
from tinygan.errors import MissingDependency
from tinygan.models.generator import Generator, GeneratorConfig
from tinygan.models.graphs import Exportable, encode_graph, to_onnx, to_openvino, to_torchscript
from tinygan.second_stage.graphs import generator_graph

FACTS = {"weights": "w.safetensors", "licence": "none"}
OTHER_SIZE = (3, 3, 20, 12)  # than the one it is traced with


@pytest.fixture(scope="module")
def graph():
    torch.manual_seed(0)
    widths = dict.fromkeys(("width", "up_width", "refine_width", "refine_up_width"), 4)
    network = Generator(GeneratorConfig(**widths, residual_blocks=1, refine_blocks=1, skip="bicubic"))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return generator_graph(network, CropConfig(lr_size=8))


@pytest.fixture(scope="module")
def expected(graph):
    lr = torch.rand(OTHER_SIZE)
    with torch.no_grad():
        return lr, [output.numpy() for output in graph.network(lr)]


def test_an_example_leaves_random_numbers_of_the_caller_alone(graph):
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    graph.examples()
    assert torch.equal(torch.rand(1), expected)


def test_onnx_answers_alike_at_another_size(graph, expected):
    onnxruntime = pytest.importorskip("onnxruntime")
    session = onnxruntime.InferenceSession(to_onnx(graph, FACTS), providers=["CPUExecutionProvider"])
    lr, pictures = expected
    for found, picture in zip(session.run(["sr", "refined"], {"lr": lr.numpy()}), pictures, strict=True):
        assert picture.shape == (3, 3, 80, 48) and found == pytest.approx(picture, abs=1e-4)
    kept = session.get_modelmeta().custom_metadata_map
    assert kept == {**graph.facts(), **FACTS}
    assert kept["input lr"].startswith("float32 [batch, 3, height, width]: RGB in [0, 1]")


def test_openvino_answers_alike_at_another_size(graph, expected, tmp_path):
    openvino = pytest.importorskip("openvino")
    for suffix, content in encode_graph(graph, "openvino", FACTS).items():
        (tmp_path / f"g{suffix}").write_bytes(content)
    model = openvino.Core().read_model(tmp_path / "g.xml")
    assert model.get_rt_info(["tinygan", "licence"]).value == "none"
    lr, pictures = expected
    exact = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
    found = openvino.Core().compile_model(model, "CPU", exact)([lr.numpy()])
    for name, picture in zip(("sr", "refined"), pictures, strict=True):
        assert found[name] == pytest.approx(picture, abs=1e-4)


@pytest.mark.filterwarnings("ignore:.*deprecated")
def test_torchscript_answers_alike_at_another_size(graph, expected, tmp_path):
    (tmp_path / "g.pt").write_bytes(to_torchscript(graph, FACTS))
    extra = {"tinygan": ""}
    network = torch.jit.load(tmp_path / "g.pt", _extra_files=extra)
    assert json.loads(extra["tinygan"]) == {**graph.facts(), **FACTS}
    lr, pictures = expected
    for found, picture in zip(network(lr), pictures, strict=True):
        assert np.array_equal(found.detach().numpy(), picture)


@pytest.mark.parametrize(
    ("module", "write", "extra"), [("onnx", to_onnx, "onnx"), ("openvino", to_openvino, "openvino")]
)
def test_a_missing_extra_is_named(graph, monkeypatch, module, write, extra):
    monkeypatch.setitem(__import__("sys").modules, module, None)
    with pytest.raises(MissingDependency, match=rf"needs the package {module}: pip install 'tinygan\[{extra}\]'"):
        write(graph)


def test_what_has_no_graph_is_not_exportable(graph):
    assert not isinstance(graph.network, Exportable)
