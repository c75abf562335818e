"""A first stage's network by every backend, and as a file."""

import numpy as np
import pytest
import torch
from skimage import data

from tinygan.config import load_config
from tinygan.models.graphs import Exportable, to_onnx
from tinygan.proposers import build_proposer, choose_proposer, find_proposer
from tinygan.runtime import Runtime, RuntimeOptions

BUILDS = [("retinaface", ()), ("yunet", ()), ("yunet", ("fine=true", "norm=true"))]


@pytest.mark.parametrize(("name", "settings"), BUILDS, ids=["retinaface", "yunet", "yunet-fine"])
def test_the_exported_network_takes_pictures_of_any_size(name, settings, runtime, noise):
    onnxruntime = pytest.importorskip("onnxruntime")
    torch.manual_seed(0)
    config = load_config(find_proposer(name).config, None, [*settings, "score_threshold=0", "keep=100000"])
    proposer = build_proposer(name, config, None, runtime)
    assert isinstance(proposer, Exportable)
    graph = proposer.graph()
    session = onnxruntime.InferenceSession(to_onnx(graph), providers=["CPUExecutionProvider"])
    for height, width in ((70, 90), (33, 200), (160, 96)):
        pictures = torch.stack([noise(height, width, seed) for seed in (1, 2, 3)]).float()
        with torch.no_grad():
            expected = graph.network(pictures)
        found = session.run(["scores", "boxes", "landmarks"], {"pictures": pictures.numpy()})
        assert found[0].shape[0] == 3 and not np.allclose(found[0][0], found[0][1])
        for one, right in zip(found, expected, strict=True):
            assert one == pytest.approx(right.numpy(), abs=1e-3, rel=1e-4)


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_the_first_stage_that_ships_finds_the_same_faces_by_every_backend(backend):
    pytest.importorskip(backend)
    picture = torch.from_numpy(data.astronaut()).permute(2, 0, 1)
    images = [picture, picture[:, :301, :413], torch.zeros(3, 40, 50, dtype=torch.uint8)]
    found, others = (
        choose_proposer("retinaface", overrides=["overview_px=200"])
        .build(Runtime(RuntimeOptions(device="cpu", precision="32", backend=one)))
        .propose(images)
        for one in ("torch", backend)
    )
    assert len(found[0]) >= 1 and len(found[2]) == 0
    for one, other in zip(found, others, strict=True):
        assert other.boxes == pytest.approx(one.boxes, abs=1e-3) and other.scores == pytest.approx(one.scores, abs=1e-4)
        assert other.fields["landmarks"] == pytest.approx(one.fields["landmarks"], abs=1e-3)
