import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from skimage import data

from tinygan.checkpoint import load_checkpoint, packaged_weights, save_checkpoint
from tinygan.formats.registry import open_detections
from tinygan.proposers import choose_proposer
from tinygan.runtime import Runtime, RuntimeOptions
from tinygan.training.fusion import with_second

DOCS = Path(__file__).resolve().parents[2] / "docs/faster.md"


@pytest.fixture
def export(run, tmp_path):
    def run_export(*words):
        return run(["tinygan-export", "--out", str(tmp_path / "out"), *map(str, words)])

    return run_export


def test_a_checkpoint_of_ones_own_is_exported(export, checkpoint, tmp_path, capsys):
    onnxruntime = pytest.importorskip("onnxruntime")
    assert export("--format", "onnx", "--checkpoint", checkpoint) == 0
    out = tmp_path / "out"
    assert {file.name for file in out.iterdir()} == {"judge.onnx", "discriminator.onnx", "generator.onnx"}
    printed = capsys.readouterr().out
    assert printed.startswith(f"{out}: judge.onnx (") and "judge input crops: float32 [batch, 3, 32, 32]: " in printed
    session = onnxruntime.InferenceSession(out / "judge.onnx", providers=["CPUExecutionProvider"])
    facts = session.get_modelmeta().custom_metadata_map
    assert facts["weights_sha256"] == hashlib.sha256(checkpoint.read_bytes()).hexdigest()
    assert facts["name"] == "judge" and facts["producer"].startswith("tinygan 0")
    assert facts["licence"] == "that of the weights that it was made from"
    assert [output.name for output in session.get_outputs()] == ["face_logit"]


def test_files_are_replaced_only_if_asked(export, checkpoint, tmp_path, capsys):
    words = ("--format", "torchscript", "--checkpoint", checkpoint)
    assert export(*words) == 0
    (tmp_path / "out/judge.pt").write_bytes(b"mine")
    assert export(*words) == 2
    assert "judge.pt: exists already; replace it with --overwrite" in capsys.readouterr().err
    assert (tmp_path / "out/judge.pt").read_bytes() == b"mine"
    assert export(*words, "--overwrite") == 0
    assert (tmp_path / "out/judge.pt").stat().st_size > 1000


def test_openvino_is_two_files_per_network(export, tmp_path):
    pytest.importorskip("openvino")
    assert export("--format", "openvino", "--proposer", "yunet", "--weights", yunet_run(tmp_path)) == 0
    assert {file.name for file in (tmp_path / "out").iterdir()} == {"yunet.xml", "yunet.bin"}


def test_a_pair_is_a_file_per_network(export, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    assert export("--format", "onnx", "--proposer", "pair") == 0
    out = tmp_path / "out"
    assert {file.name for file in out.iterdir()} == {"yunet.onnx", "centerface.onnx"}
    session = onnxruntime.InferenceSession(out / "centerface.onnx", providers=["CPUExecutionProvider"])
    picture = data.astronaut()[None, :320, :384].transpose(0, 3, 1, 2).astype(np.float32)
    scores, boxes, landmarks = session.run(["scores", "boxes", "landmarks"], {"pictures": picture})
    assert scores.shape == (1, 80 * 96) and boxes.shape == (1, 7680, 4) and landmarks.shape == (1, 7680, 10)
    left, top, right, bottom = boxes[0, scores[0].argmax()]
    assert scores.max() > 0.5 and 150 < left < right < 300 and 40 < top < bottom < 220


@pytest.fixture
def export_int8(export, tiny_wider):
    pytest.importorskip("openvino")
    pytest.importorskip("nncf")
    seen = ("--images", tiny_wider.root / "WIDER_train/images", "--proposals", tiny_wider.proposals / "train")
    return lambda path: export("--format", "openvino", "--checkpoint", path, "--int8", *seen)


def test_the_second_judge_in_int8_rescores_and_is_recorded(
    export_int8, run, finding_checkpoint, checkpoint, tiny_wider, tmp_path, capsys
):
    one, other = (load_checkpoint(finding_checkpoint, ("fused",)) for _ in range(2))
    both = tmp_path / "both.safetensors"
    save_checkpoint(both, with_second(one, other, finding_checkpoint))
    assert export_int8(both) == 0
    exported = tmp_path / "out"
    assert capsys.readouterr().out.startswith(f"{exported}: judge.xml (")
    in_int8 = {file.stem for file in exported.glob("*.xml") if '<precision value="int8" />' in file.read_text()}
    assert in_int8 == {"second_judge"}
    out, val = tmp_path / "rescored", tiny_wider.root / "WIDER_val/images"
    words = ["tinygan-rescore", "--images", str(val), "--proposals", str(tiny_wider.proposals / "val")]
    words += ["--out", str(out), "--device", "cpu", "--backend", "openvino"]
    ours = [*words, "--checkpoint", str(both)]
    assert run([*ours, "--exported", str(exported)]) == 0
    recorded = json.loads((out / "rescore.json").read_text())
    assert recorded["backend"].startswith("openvino with networks in int8, SHA-256 ")
    found = open_detections(out)["0--Parade/val_0"].scores
    assert run([*ours, "--resume"]) == 2
    assert "(backend was openvino with networks in int8, SHA-256 " in capsys.readouterr().err
    assert run([*ours, "--overwrite"]) == 0
    expected = open_detections(out)["0--Parade/val_0"].scores
    assert found[:5] == pytest.approx(expected[:5], abs=0.1) and not np.array_equal(found, expected)
    assert run([*words, "--checkpoint", str(checkpoint), "--exported", str(exported), "--overwrite"]) == 2
    assert "was exported from other weights than the checkpoint's" in capsys.readouterr().err


def test_a_judge_alone_is_put_into_int8_with_super_resolved_crops(export_int8, checkpoint, tmp_path):
    assert export_int8(checkpoint) == 0
    assert '<precision value="int8" />' in (tmp_path / "out/judge.xml").read_text()


def test_too_few_regions_are_refused(export, checkpoint, tiny_wider, tmp_path, capsys):
    name = "0--Parade/val_0.txt"
    (tmp_path / "few/0--Parade").mkdir(parents=True)
    (tmp_path / "few" / name).write_bytes((tiny_wider.proposals / "val" / name).read_bytes())
    images = tiny_wider.root / "WIDER_val/images"
    words = ("--format", "openvino", "--checkpoint", checkpoint, "--int8")
    assert export(*words, "--images", images, "--proposals", tmp_path / "few") == 2
    assert "int8 is calibrated on 32 proposals or more, got 8" in capsys.readouterr().err


def yunet_run(folder: Path) -> Path:
    """Weights of a YuNet that learnt nothing."""
    from proposals.yunet import YuNetConfig, YuNetNetwork
    from tinygan.checkpoint import Checkpoint, save_checkpoint
    from tinygan.config import to_tree

    tensors = {f"proposer.{name}": tensor for name, tensor in YuNetNetwork(YuNetConfig()).state_dict().items()}
    file = folder / "yunet.safetensors"
    save_checkpoint(file, Checkpoint("proposer", {"network": to_tree(YuNetConfig())}, tensors, proposer="yunet"))
    return file


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (("--format", "tflite"), "invalid choice: 'tflite'"),
        (("--format", "onnx", "--checkpoint", "huge"), "--checkpoint huge: no such file"),
        (("--format", "onnx", "--proposer", "yolo"), "proposer 'yolo': no such first stage"),
        (("--format", "onnx", "--proposer", "mb_fcn"), "no weights of it ship with tinygan"),
        (("--format", "onnx", "--weights", "w"), "are for a first stage; name it with --proposer NAME"),
        (("--format", "onnx", "--set", "keep=3"), "are for a first stage; name it with --proposer NAME"),
        (("--format", "onnx", "--proposer", "callable", "--set", "function=math:sin"), "has no network that tinygan"),
        (("--format", "onnx", "--proposer", "retinaface", "--checkpoint", "lite"), "not allowed with"),
        (("--format", "onnx", "--int8"), "--int8 is for the second stage with --format openvino"),
        (("--format", "openvino", "--int8", "--images", "i"), "--int8 needs regions to calibrate by: --images DIR and"),
        (("--format", "openvino", "--proposals", "p"), "are what --int8 is calibrated by; give --int8 too"),
    ],
)
def test_misuse_is_one_line(export, words, problem, tmp_path, capsys):
    try:
        assert export(*words) == 2
    except SystemExit as stopped:
        assert stopped.code == 2
    error = capsys.readouterr().err
    assert problem in error and error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_checkpoint_without_a_discriminator_is_refused(export, run, tmp_path, capsys):
    from tinygan.checkpoint import Checkpoint, save_checkpoint

    save_checkpoint(tmp_path / "g.safetensors", Checkpoint("generator", {}, {"generator.x": torch.zeros(1)}))
    assert export("--format", "onnx", "--checkpoint", tmp_path / "g.safetensors") == 2
    assert "a checkpoint of kind 'generator', expected fused or gan; train stage gan" in capsys.readouterr().err


def test_a_missing_extra_is_one_line(export, monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(__import__("sys").modules, "onnx", None)
    assert export("--format", "onnx") == 2
    assert "writing ONNX needs the package onnx: pip install 'tinygan[onnx]'\n" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_file_is_no_folder(export, tmp_path, capsys):
    (tmp_path / "out").write_text("")
    assert export("--format", "onnx") == 2
    assert "out: expected a folder to write into, but this is a file" in capsys.readouterr().err


def test_the_readmes_lines_find_faces_without_tinygan(run, tmp_path, monkeypatch, capsys):
    pytest.importorskip("onnxruntime")
    monkeypatch.chdir(tmp_path)
    Image.fromarray(data.astronaut()).save("photo.jpg", quality=95)
    assert run(["tinygan-export", "--format", "onnx", "--proposer", "retinaface", "--out", "exported"]) == 0
    lines = DOCS.read_text().split("```python\nimport numpy as np, onnxruntime")[1].split("```")[0]
    code = [line for line in lines.splitlines() if line]  # after the first
    assert len(code) == 9 and "tinygan" not in lines
    found: dict[str, object] = {}
    exec("import numpy as np, onnxruntime" + lines, found)
    picture = torch.from_numpy(np.array(Image.open("photo.jpg"))).permute(2, 0, 1)
    (expected,) = choose_proposer("retinaface").build(Runtime(RuntimeOptions(device="cpu").exact())).propose([picture])
    expected = expected[expected.scores > 0.3]
    faces = found["faces"]
    assert len(expected) >= 1 and len(faces) == len(expected)
    assert found["boxes"][faces] == pytest.approx(expected.boxes, abs=0.01)
    meta = found["session"].get_modelmeta().custom_metadata_map
    assert meta["weights"] == packaged_weights("retinaface_mobilenet025").name
    assert meta["licence"] == "non-commercial research only: LICENSE.weights of tinygan"
