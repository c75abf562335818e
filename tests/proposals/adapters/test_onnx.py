"""A detector in an ONNX file finds what the same network finds here, and what does not fit is one line."""

import numpy as np
import onnx
import pytest
import torch
from PIL import Image
from skimage import data
from torch import nn

from proposals.adapters.onnx import OnnxConfig, build_onnx
from proposals.cli.propose import main as propose
from tinygan.checkpoint import packaged_weights
from tinygan.config import load_config
from tinygan.errors import CheckpointError, ConfigError, MissingDependency
from tinygan.formats.registry import open_detections
from tinygan.models.graphs import Graph, Port, to_onnx
from tinygan.proposers import choose_proposer

ANCHORS = "anchors=[[10, 20], [32, 64], [128, 256]]"  # of the weights that ship
PICTURE = torch.from_numpy(np.array(Image.fromarray(data.astronaut()).resize((256, 224)))).permute(2, 0, 1)


class AsPublished(nn.Module):
    """RetinaFace with the input and outputs of the common PyTorch repository: BGR less the mean; two classes."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, pictures):
        output = self.network((pictures + self.network.mean).flip(1))
        classes = torch.stack([torch.zeros_like(output.face_logits), output.face_logits], dim=-1).softmax(dim=-1)
        return output.boxes, classes, output.landmarks


@pytest.fixture(scope="module")
def ours(runtime):
    """The RetinaFace that ships, as a first stage of its own."""
    overrides = ["overview_px=0"]
    return choose_proposer("retinaface", packaged_weights("retinaface_mobilenet025"), overrides=overrides).build(
        runtime
    )


@pytest.fixture(scope="module")
def file(ours, tmp_path_factory):
    """The same network in an ONNX file."""
    taken = Port("input", ("batch", 3, "height", "width"), "BGR less the mean")
    given = (("loc", 4), ("conf", 2), ("landms", 10))
    outputs = tuple(Port(name, ("batch", "anchors", columns), "") for name, columns in given)
    path = tmp_path_factory.mktemp("onnx") / "retinaface.onnx"
    path.write_bytes(to_onnx(Graph("retinaface", AsPublished(ours._portable), (taken,), outputs)))
    return path


def open_onnx(file, runtime, *overrides):
    return build_onnx(load_config(OnnxConfig, "onnx/retinaface", [ANCHORS, *overrides]), file, runtime)


def fix_size(file, height, width):
    """The same file, for pictures of one size."""
    model = onnx.load(file)
    for at, side in enumerate((1, 3, height, width)):
        model.graph.input[0].type.tensor_type.shape.dim[at].dim_value = side
    path = file.with_name(f"fixed_{height}_{width}.onnx")
    onnx.save(model, path)
    return path


def same(found, other, tolerance_px):
    assert len(found) == len(other) > 0
    assert np.abs(found.boxes - other.boxes).max() < tolerance_px
    assert np.abs(found.scores - other.scores).max() < 1e-3
    assert np.abs(found.fields["landmarks"] - other.fields["landmarks"]).max() < tolerance_px


def test_the_same_boxes_as_the_network_itself(ours, file, runtime):
    (expected,), (found,) = ours.propose([PICTURE]), open_onnx(file, runtime).propose([PICTURE])
    same(found, expected, 0.01)
    assert found.scores[0] > 0.9


def test_sides_are_padded_and_boxes_stay_where_they_are(ours, file, runtime):
    cut = PICTURE[:, :219, :249]
    (expected,), (found,) = ours.propose([cut]), open_onnx(file, runtime).propose([cut])
    assert np.abs(found.boxes[0] - expected.boxes[0]).max() < 3  # padding reaches a few pixels into the picture


def test_a_file_of_a_fixed_size_gets_that_size(ours, file, runtime):
    (expected,) = ours.propose([PICTURE])
    (found,) = open_onnx(fix_size(file, 512, 448), runtime).propose([PICTURE])
    assert np.abs(found.boxes[0] - expected.boxes[0]).max() < 12 and found.boxes[0, 3] <= 224
    same(open_onnx(fix_size(file, 64, 64), runtime, "any_size=true").propose([PICTURE])[0], expected, 0.01)


def test_scale_and_slice_from_the_command_line(file, tmp_path, capsys):
    (tmp_path / "images").mkdir()
    side = 300
    picture = np.zeros((900, 1200, 3), np.uint8)
    for left, top in ((20, 30), (840, 560)):
        picture[top : top + side, left : left + side] = np.array(Image.fromarray(data.astronaut()).resize((side, side)))
    Image.fromarray(picture).save(tmp_path / "images/two.png")
    words = ["--proposer", "onnx", "--config", "onnx/retinaface", "--set", ANCHORS, "--weights", str(file)]
    words += ["--images", str(tmp_path / "images"), "--threads", "1"]
    for more in ([], ["--scale", "1,2"], ["--slice", "640", "--overlap", "0.2"], ["--set", "side_px=600"]):
        out = tmp_path / "_".join(["out", *more]).replace(",", "_")
        assert propose([*words, "--out", str(out), *more]) == 0
        found = open_detections(out)["two"]
        sure = found.boxes[found.scores > 0.6]
        centres = sorted(((sure[:, :2] + sure[:, 2:]) / 2).tolist())
        assert len(centres) == 2, more
        x, y = np.array([224.5, 116.5]) * side / 512
        assert np.abs(np.array(centres) - [[20 + x, 30 + y], [840 + x, 560 + y]]).max() < 10, more


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["decode=rows"], r"not decode=rows: expected one output of rows of 16 numbers, got \[1, 2352, 4\]"),
        (["decode=centres"], r"not decode=centres: expected .*; see --config onnx/"),
        (["decode=distances", "strides=[8]", "outputs=[conf, loc]"], "are not decode=distances"),
        (["outputs=[loc, scores]"], "outputs: there is no scores; there are loc, conf, landms"),
        (["anchors=[[16, 32], [64], [256]]"], "expected 2072 anchors in a picture of 256 x 224 px, got 2352"),
    ],
)
def test_settings_that_do_not_fit_the_file(file, runtime, settings, message):
    with pytest.raises(ConfigError, match=message) as caught:
        open_onnx(file, runtime, *settings).propose([PICTURE])
    assert "\n" not in str(caught.value)


def test_what_is_missing_is_said(file, tmp_path, runtime, monkeypatch, capsys):
    with pytest.raises(ConfigError, match=r"say what its outputs mean: --config onnx/scrfd"):
        build_onnx(OnnxConfig(), file, runtime)
    with pytest.raises(CheckpointError, match="no such file; expected a detector in an ONNX file"):
        build_onnx(OnnxConfig(decode="cells"), tmp_path / "none.onnx", runtime)
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"no graph")
    with pytest.raises(CheckpointError, match="expected an ONNX file"):
        build_onnx(OnnxConfig(decode="cells"), broken, runtime)
    (tmp_path / "images").mkdir()
    Image.new("RGB", (9, 9)).save(tmp_path / "images/a.png")
    words = ["--proposer", "onnx", "--images", str(tmp_path / "images"), "--out", str(tmp_path / "out")]
    assert propose(words) == 2
    assert "give it an ONNX file, and --config onnx/scrfd" in capsys.readouterr().err
    monkeypatch.setitem(__import__("sys").modules, "onnxruntime", None)
    with pytest.raises(MissingDependency, match=r"proposer 'onnx' needs .* pip install 'tinygan\[onnx\]'"):
        open_onnx(file, runtime)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"std": (1, 0, 1)}, "std above 0"),
        ({"padding": 300}, "padding lies in"),
        ({"score_threshold": 2}, "score_threshold lies in"),
    ],
)
def test_settings_out_of_range(settings, message):
    with pytest.raises(ValueError, match=message):
        OnnxConfig(decode="cells", **settings)


def test_real_files_agree_with_boxes_found_elsewhere(shared_data, runtime):
    """YuNet-n as it lies on disk, against what the same network gave when others ran it on the same pictures."""
    config = load_config(OnnxConfig, "onnx/yunet")
    first = build_onnx(config, shared_data / "weights/yunet_n_dynamic.onnx", runtime)
    known = open_detections(shared_data / "proposals/zoo/yunet_n.tar.gz")
    images = shared_data / "widerface/WIDER_train/images"
    for path in sorted(images.rglob("*.jpg"))[:3]:
        (found,) = first.propose([torch.from_numpy(np.array(Image.open(path).convert("RGB"))).permute(2, 0, 1)])
        name = next(name for name in known if name.endswith(f"train/{path.parent.name}/{path.stem}"))
        sure, others = found[found.scores > 0.5], known[name]
        others = others[others.scores > 0.5]
        assert abs(len(sure) - len(others)) <= max(1, 0.1 * len(others))
        near = [np.abs(others.boxes - box).max(axis=1).min() for box in sure.boxes]
        assert np.median(near) < 2
