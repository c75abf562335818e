"""``tinygan-train-proposer`` as a user types it, on drawn data."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from proposals.cli.propose import main as propose
from proposals.cli.train import main
from proposals.train import run as training
from tinygan.boxes import iou
from tinygan.checkpoint import load_checkpoint
from tinygan.data.rois import split_holdout
from tinygan.formats.registry import open_detections
from tinygan.formats.wider import load_split
from tinygan.training.run import NEGATIVES_FILE, STATE_FILE

TINY = [
    "pictures.size=64",
    "pictures.smallest_scale=0.3",
    "loop.epochs=2",
    "loop.patches_per_epoch=12",
    "loop.batch_size=4",
    "loop.learning_rate=1e-3",
    "loop.log_every=1",
    "loop.save_every=2",
    "optimiser.average=0.5",
    "holdout=0.4",
    "evaluate_images=2",
]


def typed(root, out, *more, settings=()):
    words = [word for setting in [*TINY, *settings] for word in ("--set", setting)]
    return ["--data", str(root), "--out", str(out), "--device", "cpu", "--threads", "1", *words, *more]


def metrics(run: Path):
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in row.items() if name != "seconds"} for row in rows]


@pytest.fixture(scope="module")
def trained(tiny_wider, tmp_path_factory):
    out = tmp_path_factory.mktemp("proposer") / "run"
    assert main(typed(tiny_wider.root, out)) == 0
    return out


def test_a_run_folder_holds_what_every_run_holds(trained):
    for name in ("config.yaml", "metrics.jsonl", "curves.png", "last.ckpt", "model.safetensors", "holdout.txt"):
        assert (trained / name).is_file(), name
    assert len(list((trained / "samples").glob("*.png"))) == 2
    rows = metrics(trained)
    assert len(rows) == 6 and {"classification", "box", "landmarks"} <= rows[0].keys()
    assert 0 <= rows[-1]["ap_0px"] <= 1 and "ap_0px" not in rows[0]
    assert rows[0]["landmarks"] == 0  # there were none to learn from


def test_another_precision_is_not_mixed_in(trained, tiny_wider, capsys):
    assert main(typed(tiny_wider.root, trained, "--resume", "--precision", "bf16")) == 2
    assert "other settings (first difference: '# precision: bf16')" in capsys.readouterr().err


def test_what_was_trained_proposes(trained, tiny_wider, tmp_path, capsys):
    images = str(tiny_wider.root / "WIDER_val/images")
    for weights in (trained, trained / "model.safetensors"):
        out = tmp_path / weights.name
        assert propose(["--weights", str(weights), "--images", images, "--out", str(out), "--set", "keep=7"]) == 0
        assert max(len(found) for found in open_detections(out).values()) <= 7
    assert load_checkpoint(trained, ("proposer",)).recipe["network"]["keep"] == 750


def test_resumed_equals_uninterrupted(trained, tiny_wider, tmp_path, monkeypatch):
    class Cut(Exception):
        pass

    real, steps = training.DetectorStage.step, []

    def step(self, batch):
        if len(steps) == 4:
            raise Cut
        steps.append(1)
        return real(self, batch)

    out = tmp_path / "run"
    monkeypatch.setattr(training.DetectorStage, "step", step)
    with pytest.raises(Cut):
        main(typed(tiny_wider.root, out))
    assert (out / STATE_FILE).is_file()
    monkeypatch.setattr(training.DetectorStage, "step", real)
    assert main(typed(tiny_wider.root, out, "--resume")) == 0
    assert metrics(out) == metrics(trained)
    ours, theirs = (load_checkpoint(run, ("proposer",)).tensors for run in (out, trained))
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_frozen_layers_rest_and_the_others_learn(trained, tiny_wider, tmp_path):
    frozen = ("optimiser.freeze=[body.stage1, body.stage2]", "loop.epochs=1", "optimiser.average=0.0")
    assert main(typed(tiny_wider.root, tmp_path / "run", "--init", str(trained), settings=frozen)) == 0
    before, after = (load_checkpoint(run, ("proposer",)).tensors for run in (trained, tmp_path / "run"))
    resting = [name for name in before if name.startswith(("proposer.body.stage1", "proposer.body.stage2"))]
    assert len(resting) > 50 and all(torch.equal(before[name], after[name]) for name in resting)
    learnt = [name for name in before if name.startswith("proposer.body.stage3") and name.endswith("weight")]
    assert learnt and not any(torch.equal(before[name], after[name]) for name in learnt)


def test_landmarks_are_learnt_where_they_are_known(tiny_wider, tmp_path):
    lines = []
    for name, truth in load_split(tiny_wider.root, "train").faces.items():
        lines.append(f"# {name}")
        for x1, y1, x2, y2 in truth.boxes:
            points = " ".join(f"{x1 + 2} {y1 + 2} 0" for _ in range(5))
            lines.append(f"{x1} {y1} {x2 - x1} {y2 - y1} {points} 0.9")
    labels = tmp_path / "label.txt"
    labels.write_text("\n".join(lines) + "\n")
    words = typed(tiny_wider.root, tmp_path / "run", "--landmarks", str(labels), settings=("loop.epochs=1",))
    assert main(words) == 0
    assert all(row["landmarks"] > 0 for row in metrics(tmp_path / "run"))


def test_it_learns(tiny_wider, tmp_path):
    longer = ("loop.epochs=1", "loop.patches_per_epoch=120", "optimiser.kind=adamw", "loop.learning_rate=3e-3")
    assert main(typed(tiny_wider.root, tmp_path / "run", settings=(*longer, "losses.classification=focal"))) == 0
    rows = metrics(tmp_path / "run")
    first, last = (sum(row["classification"] for row in part) for part in (rows[:5], rows[-5:]))
    assert last < 0.5 * first


def test_faces_of_another_format_give_the_same_training(trained, tiny_wider, tmp_path):
    images, annotations = [], []
    for number, (name, truth) in enumerate(load_split(tiny_wider.root, "train").faces.items()):
        images.append({"id": number, "file_name": name})
        for x1, y1, x2, y2 in truth.boxes:
            annotations.append({"image_id": number, "bbox": [x1, y1, x2 - x1, y2 - y1]})
    (tmp_path / "coco.json").write_text(json.dumps({"images": images, "annotations": annotations}))
    words = typed(tiny_wider.root, tmp_path / "run")[2:]  # without --data
    given = ["--truth", str(tmp_path / "coco.json"), "--images", str(tiny_wider.root / "WIDER_train/images")]
    assert main([*words, *given]) == 0
    for row, other in zip(metrics(tmp_path / "run"), metrics(trained), strict=True):
        assert row == pytest.approx(other, rel=1e-5)


def test_folds_are_those_named(tiny_wider, tmp_path, capsys):
    names = [f"WIDER_train/images/0--Parade/train_{number}" for number in range(4)]
    for fold, some in ((1, names[:2]), (2, names[2:])):
        text = "".join(f"{name}\n1\n12 10 1.5707963 60 40 1\n" for name in some)
        (tmp_path / f"FDDB-fold-{fold:02d}-ellipseList.txt").write_text(text)
    given = ["--truth", str(tmp_path), "--images", str(tiny_wider.root)]
    words = typed(tiny_wider.root, tmp_path / "run", settings=("loop.epochs=1", "holdout=0"))[2:]
    assert main([*words, *given, "--folds", "1"]) == 0
    assert json.loads((tmp_path / "run/finished.json").read_text())["training_images"] == 2
    assert "# folds: 1\n" in (tmp_path / "run/config.yaml").read_text()
    assert main([*words, *given, "--overwrite", "--folds", "3"]) == 2
    assert "there is no fold 3; there are 1, 2" in capsys.readouterr().err


def test_a_round_of_hard_negatives(trained, tiny_wider, tmp_path, monkeypatch):
    every = ("loop.epochs=1", "mining.min_score=0", "mining.unlabelled_score=1", "pictures.mined_share=1")
    words = typed(tiny_wider.root, tmp_path / "run", "--init", str(trained), "--mine", settings=every)
    assert main(words) == 0
    faces = load_split(tiny_wider.root, "train").faces
    mined, (_, holdout) = open_detections(tmp_path / "run" / NEGATIVES_FILE), split_holdout(faces, 0.4)
    assert len(mined) > 0 and holdout and not set(mined) & set(holdout) and sum(map(len, mined.values()))
    for name, found in mined.items():
        assert len(found) <= 50 and (iou(found.boxes, faces[name].boxes) < 0.3).all()
    assert "# mine: true\n" in (tmp_path / "run/config.yaml").read_text()

    # Another round is the same command on this run; one that is continued does not search again.
    again = typed(tiny_wider.root, tmp_path / "again", "--init", str(tmp_path / "run"), "--mine", settings=every)
    monkeypatch.setattr(training, "_search", lambda *_: {name: found[:1] for name, found in mined.items()})
    assert main(again) == 0
    for name in ("finished.json", "model.safetensors"):
        (tmp_path / "again" / name).unlink()
    monkeypatch.setattr(training, "_search", lambda *_: pytest.fail("searched again"))
    assert main([*again, "--resume"]) == 0


def test_a_backbone_alone_is_taken(trained, tiny_wider, tmp_path):
    frozen = ("loop.epochs=1", "optimiser.average=0.0", "optimiser.freeze=[body]")
    assert main(typed(tiny_wider.root, tmp_path / "run", "--init-body", str(trained), settings=frozen)) == 0
    before, after = (load_checkpoint(run, ("proposer",)).tensors for run in (trained, tmp_path / "run"))
    assert {name for name in before if torch.equal(before[name], after[name])} >= {
        name for name in before if name.startswith("proposer.body.")
    }
    assert not torch.equal(before["proposer.ClassHead.0.conv1x1.weight"], after["proposer.ClassHead.0.conv1x1.weight"])


@pytest.mark.parametrize(
    ("words", "settings", "message"),
    [
        (("--truth", "setup.cfg"), (), "--data ROOT, or --truth FILE and --images DIR"),
        (("--folds", "1"), (), "--folds is for FDDB's annotations alone"),
        (("--init", "setup.cfg", "--init-body", "setup.cfg"), (), "leave --init-body out"),
        (("--proposer", "yunet", "--init-body", "setup.cfg"), (), "has no backbone of its own"),
        (("--init-body", "setup.cfg"), (), "setup.cfg: expected a state dict"),
        (("--mine",), (), "--mine searches with weights that were trained before; give --init W"),
        (("--mine", "--init", "setup.cfg", "--proposer", "yunet"), (), "proposer 'yunet' has no anchors"),
        ((), ("mining.per_image=0",), "per_image must be at least 1"),
        (("--init", "nowhere.pth"), (), "nowhere.pth: no such file"),
        (("--landmarks", "setup.cfg"), (), "setup.cfg:1: expected '# image name'"),
        (("--config", "proposers/nothing"), (), "proposers/retinaface_mobilenet025"),
        ((), ("optimiser.freze=[body]",), "did you mean 'optimiser.freeze'"),
        ((), ("optimiser.freeze=[spine]",), "no layer 'spine'; there are"),
        (
            (),
            ("optimiser.freeze=[body, fpn, ssh1, ssh2, ssh3, ClassHead, BboxHead, LandmarkHead]",),
            "nothing to learn",
        ),
        ((), ("optimiser.backbone_weights=imagenet",), "for backbones resnet18 to resnet152"),
        ((), ("pictures.size=3",), "size must be at least 32"),
        ((), ("optimiser.freeze=[body.stage1]",), "would keep random weights as they are; give --init W"),
        ((), ("holdout=0.9999",), "is left to train on; lower holdout"),
        ((), ("pictures.largest_scale=.inf",), "smallest_scale <= largest_scale"),
        ((), ("optimiser.weight_decay=-1",), "weight_decay must not be negative"),
        ((), ("losses.box_weight=.nan",), "weights and focal_gamma must not be negative"),
        ((), ("network.anchors=[[], [], []]",), "anchors are 3 lists"),
        (("--seed", "-1"), (), "seed must not be negative"),
    ],
)
def test_mistakes_are_one_line_and_exit_2(tiny_wider, tmp_path, monkeypatch, words, settings, message, capsys):
    monkeypatch.chdir(Path(__file__).parents[3])
    assert main(typed(tiny_wider.root, tmp_path / "run", *words, settings=settings)) == 2
    error = capsys.readouterr().err.strip()
    assert message in error.splitlines()[-1] and "Traceback" not in error


def test_a_runs_network_comes_along_with_its_weights(tiny_wider, tmp_path):
    anchors = ((16.0, 32.0), (64.0, 128.0), (256.0, 512.0))
    first = ("network.anchors=[[16, 32], [64, 128], [256, 512]]", "loop.epochs=1", "loop.patches_per_epoch=4")
    assert main(typed(tiny_wider.root, tmp_path / "first", settings=first)) == 0
    then = ("loop.epochs=1", "loop.patches_per_epoch=4")
    assert main(typed(tiny_wider.root, tmp_path / "then", "--init", str(tmp_path / "first"), settings=then)) == 0
    saved = load_checkpoint(tmp_path / "then", ("proposer",)).recipe["network"]["anchors"]
    assert tuple(tuple(level) for level in saved) == anchors


def test_nothing_is_overwritten_before_the_inputs_are_found_fit(tiny_wider, tmp_path, capsys):
    short, run = ("loop.epochs=1", "loop.patches_per_epoch=4"), tmp_path / "run"
    assert main(typed(tiny_wider.root, run, settings=short)) == 0
    before = (run / "model.safetensors").read_bytes()
    assert main(typed(tiny_wider.root, run, "--init", str(run), "--overwrite", settings=short)) == 2
    assert "holds the weights to start from" in capsys.readouterr().err
    assert main(typed(tiny_wider.root, run, "--overwrite", settings=(*short, "optimiser.freeze=[spine]"))) == 2
    assert (run / "model.safetensors").read_bytes() == before


def test_weights_of_another_network_are_refused(checkpoint, tiny_wider, tmp_path, capsys):
    assert main(typed(tiny_wider.root, tmp_path / "run", "--init", str(checkpoint))) == 2
    assert "expected proposer" in capsys.readouterr().err


def test_imagenet_weights_that_cannot_be_had_say_what_to_do(tiny_wider, tmp_path, monkeypatch, capsys):
    def absent(name, weights):
        raise OSError("no network")

    monkeypatch.setattr(training, "get_model", absent)
    settings = ("network.backbone=resnet50", "optimiser.backbone_weights=imagenet")
    assert main(typed(tiny_wider.root, tmp_path / "run", settings=settings)) == 2
    assert "TORCH_HOME" in capsys.readouterr().err


def test_images_that_cannot_be_read_are_listed_and_the_rest_is_learnt(make_wider, tmp_path, capsys):
    data = make_wider(tmp_path / "wider")
    training, holdout = split_holdout(load_split(data.root, "train").faces, 0.4)
    for name in (training[0], holdout[0]):
        (data.root / "WIDER_train/images" / name).write_bytes(b"no image")
    assert main(typed(data.root, tmp_path / "run", settings=("evaluate_images=20",))) == 1
    assert training[0] in capsys.readouterr().err and (tmp_path / "run/model.safetensors").is_file()
    assert "ap_0px" in metrics(tmp_path / "run")[-1]


def test_a_finished_or_started_run_is_not_lost(trained, tiny_wider, capsys):
    assert main(typed(tiny_wider.root, trained)) == 2
    assert "--resume" in capsys.readouterr().err
    assert main(typed(tiny_wider.root, trained, "--resume")) == 0
    assert "finished already" in capsys.readouterr().out


@pytest.mark.parametrize("changed", ["picture", "faces", "init"])
def test_a_run_says_what_it_was_made_of_changed_since(make_wider, trained, tmp_path, capsys, changed):
    data, out, first = make_wider(tmp_path / "wider"), tmp_path / "run", tmp_path / "first.safetensors"
    shutil.copy(trained / "model.safetensors", first)
    words = typed(data.root, out, "--init", str(first), settings=["loop.epochs=1"])
    assert main(words) == 0
    (out / "finished.json").unlink()
    assert main([*words, "--resume"]) == 0
    (out / "finished.json").unlink()
    if changed == "init":
        shutil.copy(out / "model.safetensors", first)
    else:
        picture = next((data.root / "WIDER_train").rglob("*.jpg"))
        file = picture if changed == "picture" else data.root / "wider_face_split/wider_face_train_bbx_gt.txt"
        file.write_bytes(file.read_bytes() + b"\n")
    capsys.readouterr()
    assert main([*words, "--resume"]) == 2
    said = capsys.readouterr().err
    what = "init" if changed == "init" else "data"
    assert f"first difference: '# content of {what}: " in said and said.count("\n") == 1


@pytest.mark.parametrize("changed", ["picture", "faces", "teacher"])
def test_a_run_on_ones_own_faces_says_so_too(make_wider, tmp_path, capsys, changed):
    data, out = make_wider(tmp_path / "wider"), tmp_path / "run"
    truth, images = data.root / "wider_face_split/wider_face_train_bbx_gt.txt", data.root / "WIDER_train/images"
    words = typed(data.root, out, "--teacher", str(data.proposals / "train"), settings=["loop.epochs=1"])
    words = ["--truth", str(truth), "--images", str(images), *words[2:]]
    assert main(words) == 0
    (out / "finished.json").unlink()
    file = {
        "picture": next(images.rglob("*.jpg")),
        "faces": truth,
        "teacher": next((data.proposals / "train").rglob("*.txt")),
    }[changed]
    file.write_bytes(file.read_bytes() + b"\n")
    capsys.readouterr()
    assert main([*words, "--resume"]) == 2
    what = {"picture": "images", "faces": "truth"}.get(changed, changed)
    assert f"first difference: '# content of {what}: " in capsys.readouterr().err
