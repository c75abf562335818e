"""Detectors as files: the same answers as in PyTorch, for pictures of other sizes than the one they are traced with."""

import pytest
import torch

from proposals.detector import PyramidDetector
from proposals.mb_fcn import MbFcnConfig, MbFcnNetwork
from proposals.refineface import RefineFaceConfig, RefineFaceNetwork
from proposals.retinaface import RetinaFaceConfig, RetinaFaceNetwork
from proposals.retinanet import RetinaNetConfig, RetinaNetNetwork
from tinygan.models.graphs import to_onnx

SIDES = tuple((2.0**k, 1.5 * 2**k) for k in range(3, 8))
NETWORKS = {
    "mb_fcn": lambda: MbFcnNetwork(MbFcnConfig(backbone="mobilenet025", skip_channels=4, channels=8)),
    "retinanet": lambda: RetinaNetNetwork(RetinaNetConfig(backbone="mobilenet025", channels=8, subnet_depth=1)),
    "refineface": lambda: RefineFaceNetwork(RefineFaceConfig(backbone="mobilenet025", channels=8)),
    "cascade": lambda: RetinaFaceNetwork(RetinaFaceConfig(levels=(2, 3, 4, 5, 6), anchors=SIDES, cascade=True)),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_onnx_answers_alike_at_other_sizes(name, runtime, noise):
    onnxruntime = pytest.importorskip("onnxruntime")
    torch.manual_seed(0)
    network = NETWORKS[name]().eval()
    graph = PyramidDetector(network, network.config, runtime).graphs()[0]
    session = onnxruntime.InferenceSession(to_onnx(graph, {}), providers=["CPUExecutionProvider"])
    for height, width in ((67, 131), (160, 45)):
        pictures = noise(height, width)[None].float()
        with torch.no_grad():
            expected = graph.network(pictures)
        found = session.run(["scores", "boxes", "landmarks"], {"pictures": pictures.numpy()})
        assert expected[2].shape[2] == (10 if name == "cascade" else 0)
        for one, other in zip(found, expected, strict=True):
            assert one.shape == tuple(other.shape) and one == pytest.approx(other.numpy(), abs=2e-3)
