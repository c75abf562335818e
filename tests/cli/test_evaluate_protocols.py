"""``tinygan-evaluate voc``, ``coco`` and ``fddb``, on files."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tinygan.cli.evaluate import main

TRUTH = """a.jpg
2
0 0 10 10 0 0 0 0 0 0
50 0 20 20 0 0 0 1 0 0
b.jpg
1
0 0 40 40 0 0 0 0 0 0
"""
GOOD = ["a,0,0,10,10,0.9", "b,0,0,40,40,0.8"]
STRAY = "a,200,200,10,10,0.85"
COCO = {
    "images": [{"id": 7, "file_name": "a.jpg"}, {"id": 9, "file_name": "b.jpg"}],
    "categories": [{"id": 1, "name": "face"}],
    "annotations": [
        {"id": 1, "image_id": 7, "category_id": 1, "bbox": [0, 0, 10, 10], "iscrowd": 0, "area": 100},
        {"id": 2, "image_id": 7, "category_id": 1, "bbox": [50, 0, 20, 20], "iscrowd": 1, "area": 400},
        {"id": 3, "image_id": 9, "category_id": 1, "bbox": [0, 0, 40, 40], "iscrowd": 0, "area": 1600},
    ],
}


def write_csv(path: Path, rows: list[str]) -> Path:
    path.write_text("\n".join(["image,x,y,w,h,score", *rows]) + "\n")
    return path


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    (tmp_path / "gt.txt").write_text(TRUTH)
    write_csv(tmp_path / "after.csv", GOOD)
    write_csv(tmp_path / "before.csv", [*GOOD, STRAY])
    return tmp_path


def run(workspace: Path, protocol: str, *more: str, truth: str = "gt.txt", detections: str = "after.csv") -> int:
    paths = ["--detections", str(workspace / detections), "--ground-truth", str(workspace / truth)]
    return main([protocol, *paths, *more])


def test_voc(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(workspace, "voc") == 0
    assert capsys.readouterr().out.splitlines() == [
        "Pascal VOC protocol, 2 images, 2 boxes",
        "subset  faces  AP (all-point)  AP (11-point)",
        "all         2          1.0000         1.0000",
    ]


def test_voc_baseline_json_and_plot(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report, plot = workspace / "report.json", workspace / "plot.png"
    options = ["--baseline", str(workspace / "before.csv"), "--json", str(report), "--plot", str(plot)]
    assert run(workspace, "voc", *options, "--markdown") == 0
    row = capsys.readouterr().out.splitlines()[4]
    assert row.startswith("| all | 2 | 0.8333 | 1.0000 | 0.8485 | 1.0000 | +16.67 |")
    content = json.loads(report.read_text())
    assert content["protocol"] == "voc" and content["baseline"]["boxes"] == 3
    assert content["baseline"]["subsets"]["all"]["ap"] == pytest.approx(5 / 6)
    assert content["difference"]["subsets"]["all"]["points"] == pytest.approx(100 / 6)
    with Image.open(plot) as picture:
        assert picture.format == "PNG"


def write_xml(folder: Path, name: str, *objects: tuple[str, str, int]) -> None:
    """Objects are a class, a VOC box ``xmin ymin xmax ymax`` (from 1, inclusive) and difficult."""
    text = f"<annotation><filename>{name}.jpg</filename>"
    for label, box, difficult in objects:
        corners = zip(("xmin", "ymin", "xmax", "ymax"), box.split(), strict=True)
        inner = "".join(f"<{tag}>{value}</{tag}>" for tag, value in corners)
        text += f"<object><name>{label}</name><difficult>{difficult}</difficult><bndbox>{inner}</bndbox></object>"
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.xml").write_text(f"{text}</annotation>")


def test_voc_xml_and_mafa(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = workspace / "xml"
    write_xml(folder, "a", ("face", "1 1 10 10", 0), ("face_mask", "51 1 70 20", 0))
    write_xml(folder, "b", ("face_mask", "1 1 40 40", 1))
    assert run(workspace, "voc", truth="xml") == 0
    assert capsys.readouterr().out.splitlines()[2].split() == ["all", "1", "1.0000", "1.0000"]
    assert run(workspace, "voc", "--mafa", truth="xml") == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()[2:]]
    # Found: the unmasked face, then the ignored one.
    assert rows == [
        ["whole", "3", "0.6667", "0.6364"],
        ["masked", "1", "0.0000", "0.0000"],
        ["unignored", "2", "0.5000", "0.5455"],
    ]


@pytest.mark.parametrize("protocol", ["wider", "voc", "coco"])
def test_yolo(workspace: Path, capsys: pytest.CaptureFixture[str], protocol: str) -> None:
    (workspace / "texts").mkdir()
    (workspace / "images").mkdir()
    for name, row in (("a", "0 0.05 0.05 0.1 0.1"), ("b", "0 0.2 0.2 0.4 0.4")):
        (workspace / f"texts/{name}.txt").write_text(f"{row}\n")
        Image.new("RGB", (100, 100)).save(workspace / f"images/{name}.jpg")
    images = ("--images", str(workspace / "images"))
    assert run(workspace, protocol, *images, truth="texts") == 0
    figures = capsys.readouterr().out.splitlines()[2].split()
    assert figures[-1] == "1.0000"
    assert run(workspace, protocol, truth="texts") == 2
    assert "(--images)" in capsys.readouterr().err
    if protocol == "wider":
        assert run(workspace, protocol, *images, "--details", truth="texts") == 2
        assert "--details needs attributes" in capsys.readouterr().err


@pytest.mark.parametrize("truth", ["gt.txt", "coco.json"])
def test_coco(workspace: Path, capsys: pytest.CaptureFixture[str], truth: str) -> None:
    pytest.importorskip("faster_coco_eval")
    (workspace / "coco.json").write_text(json.dumps(COCO))
    report = workspace / "report.json"
    options = ["--baseline", str(workspace / "before.csv"), "--json", str(report), "--max-detections", "50"]
    assert run(workspace, "coco", *options, truth=truth) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "COCO protocol, 2 images, 2 faces, 2 boxes (baseline: 3)"
    assert lines[2].split() == ["AP", "0.8350", "1.0000", "+16.50"]
    assert lines[-1].startswith("at most 50 boxes per image")
    content = json.loads(report.read_text())
    assert content["max_detections"] == 50 and content["detections"]["figures"]["AP_large"] is None


def test_coco_results_take_their_names_from_the_annotations(
    workspace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("faster_coco_eval")
    (workspace / "coco.json").write_text(json.dumps(COCO))
    results = [{"image_id": 7, "category_id": 1, "bbox": [0, 0, 10, 10], "score": 0.9}]
    (workspace / "results.json").write_text(json.dumps(results))
    assert run(workspace, "coco", truth="coco.json", detections="results.json") == 1  # b.jpg has no detections
    assert "1 of 2 images have no file" in capsys.readouterr().err


def test_coco_without_its_library(
    workspace: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "faster_coco_eval", None)
    assert run(workspace, "coco") == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and "pip install 'tinygan[coco]'" in err


@pytest.fixture
def fddb(tmp_path: Path) -> Path:
    """Two folds of one picture with one upright ellipse each; boxes on both, and a stray."""
    folds, found = tmp_path / "folds", tmp_path / "found"
    folds.mkdir()
    found.mkdir()
    for fold, centre in ((1, 60), (2, 80)):
        name = f"2002/08/img_{fold}"
        ellipse = f"30 20 {np.pi / 2} {centre} {centre} 1"
        (folds / f"FDDB-fold-0{fold}-ellipseList.txt").write_text(f"{name}\n1\n{ellipse}\n")
        boxes = [f"{centre - 20} {centre - 30} 40 60 0.9"] + (["200 200 20 20 0.95"] if fold == 2 else [])
        (found / f"fold-0{fold}-out.txt").write_text("\n".join([name, str(len(boxes)), *boxes]) + "\n")
    return tmp_path


def test_fddb(fddb: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report, plot = fddb / "report.json", fddb / "roc.png"
    curves = fddb / "curves"
    curves.mkdir()
    (curves / "OtherDiscROC.txt").write_text("0.9 100 0.1\n0.5 3 0.9\n")
    (curves / "OtherContROC.txt").write_text("0.7 100\n0.4 3\n")
    options = ["--json", str(report), "--plot", str(plot), "--curves", str(curves)]
    assert run(fddb, "fddb", *options, truth="folds", detections="found") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "FDDB protocol, detections: true positive rate"
    assert lines[2].split()[:6] == ["all", "folds", "2", "2", "3", "1.0000*"]
    assert lines[3].startswith("fold 1") and "images of unknown size" in lines[-1]
    merged = json.loads(report.read_text())["detections"]["merged"]
    assert merged["false_positives"] == 1
    assert merged["discrete"]["500"] == {"tpr": 1.0, "reached": False}
    assert 0.7 < merged["continuous"]["500"]["tpr"] < 0.9  # an ellipse fills pi / 4 of its box
    with Image.open(plot) as picture:
        assert picture.format == "PNG" and picture.width > 1000
    before = plot.read_bytes()
    assert run(fddb, "fddb", *options, "--at", "500", truth="folds", detections="found") == 0
    assert plot.read_bytes() != before  # its title says so
    capsys.readouterr()


def test_fddb_ellipses_baseline_and_sizes(fddb: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pictures = fddb / "pictures" / "2002" / "08"
    pictures.mkdir(parents=True)
    for fold in (1, 2):
        Image.new("RGB", (300, 250)).save(pictures / f"img_{fold}.jpg")
    options = ["--ellipses", "--baseline", str(fddb / "found"), "--images", str(fddb / "pictures"), "--markdown"]
    assert run(fddb, "fddb", *options, truth="folds", detections="found") == 0
    out = capsys.readouterr().out
    assert "**FDDB protocol, baseline, boxes turned into ellipses: true positive rate**" in out
    assert "unknown size" not in out


def test_bad_ground_truth_is_one_line(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (workspace / "empty").mkdir()
    (workspace / "empty.txt").write_text("")
    for protocol, truth, message in [
        ("voc", "nowhere", "nowhere"),
        ("voc", "empty", "expected Pascal VOC XML"),
        ("coco", "empty.txt", "the file is empty"),
        ("fddb", "empty", "empty"),
    ]:
        assert run(workspace, protocol, truth=truth) == 2
        out, err = capsys.readouterr()
        assert out == "" and err.count("\n") == 1 and message in err


def test_a_named_format(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(workspace, "voc", "--from", "csv") == 0
    assert run(workspace, "voc", "--from", "csw") == 2
    assert "unknown format 'csw'" in capsys.readouterr().err
