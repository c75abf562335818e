"""Annotations as popular tools export them, imitated to the key, and given as a user would: the file, or the folder."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.cases.conftest import NAMES, Case, figures
from tinygan.cli.convert import main as convert
from tinygan.cli.evaluate import main as evaluate
from tinygan.errors import DataError
from tinygan.formats.registry import open_detections
from tinygan.formats.truths import load_faces


def faces_of(case: Case) -> list[tuple[str, int, int, list[list[float]]]]:
    """Name, width, height and boxes of every picture."""
    return [(name, *case.sizes[name], case.truth[name].boxes.tolist()) for name in NAMES]


def cvat_images(case: Case, out: Path) -> Path:
    """ "CVAT for images 1.1", with shapes that are no upright box, and another label."""
    rows = []
    for number, (name, width, height, boxes) in enumerate(faces_of(case)):
        shapes = [
            f'<box label="face" source="manual" occluded="0" xtl="{a}" ytl="{b}" xbr="{c}" ybr="{d}" z_order="0">'
            '<attribute name="blur">clear</attribute></box>'
            for a, b, c, d in boxes
        ]
        shapes.append('<box label="car" source="manual" occluded="0" xtl="1" ytl="1" xbr="9" ybr="9" z_order="0"/>')
        shapes.append('<box label="face" occluded="0" xtl="1" ytl="1" xbr="9" ybr="9" rotation="30.00" z_order="0"/>')
        shapes.append('<polygon label="face" occluded="0" points="1,1;2,2;3,1" z_order="0"/><tag label="day"/>')
        image = f'<image id="{number}" name="{name}" width="{width}" height="{height}">'
        rows.append(f"  {image}{''.join(shapes)}</image>")
    labels = "".join(f"<label><name>{name}</name><attributes/></label>" for name in ("face", "car"))
    head = f"<version>1.1</version><meta><task><labels>{labels}</labels></task></meta>"
    out.mkdir(exist_ok=True)
    (out / "annotations.xml").write_text(
        '<?xml version="1.0" encoding="utf-8"?>\n<annotations>\n' + head + "\n".join(rows) + "\n</annotations>\n"
    )
    return out / "annotations.xml"


def label_studio(case: Case, out: Path) -> Path:
    """ "JSON": percent of the picture's size, uploaded files, one annotation that was skipped."""
    tasks = []
    for number, (name, width, height, boxes) in enumerate(faces_of(case)):
        size = {"original_width": width, "original_height": height, "image_rotation": 0}
        regions = [
            {
                "id": f"r{row}", "type": "rectanglelabels", "from_name": "label", "to_name": "image",
                **size,
                "value": {"x": 100 * a / width, "y": 100 * b / height, "width": 100 * (c - a) / width,
                          "height": 100 * (d - b) / height, "rotation": 0, "rectanglelabels": ["face"]},
            }
            for row, (a, b, c, d) in enumerate(boxes)
        ]  # fmt: skip
        odd = {"type": "ellipselabels", **size, "value": {"x": 5, "y": 5, "radiusX": 2, "radiusY": 2, "rotation": 0,
                                                          "ellipselabels": ["face"]}}  # fmt: skip
        turned = {"type": "rectanglelabels", **size, "value": {"x": 5, "y": 5, "width": 9, "height": 9, "rotation": 12,
                                                               "rectanglelabels": ["face"]}}  # fmt: skip
        choice = {"type": "choices", "value": {"choices": ["sharp"]}}
        skipped = {"id": 1, "was_cancelled": True, "result": [dict(turned, value={**turned["value"], "rotation": 0})]}
        done = {"id": 2, "was_cancelled": False, "ground_truth": False, "result": [*regions, odd, turned, choice]}
        file = f"{number:08x}-{Path(name).name}"
        tasks.append({"id": number, "annotations": [skipped, done], "drafts": [], "predictions": [],
                      "file_upload": file, "data": {"image": f"/data/upload/1/{file}"}, "meta": {}})  # fmt: skip
    out.mkdir(exist_ok=True)
    (out / "project-1-at-2026-01-01.json").write_text(json.dumps(tasks))
    return out / "project-1-at-2026-01-01.json"


def label_studio_min(case: Case, out: Path) -> Path:
    """ "JSON-MIN", of local files with blanks in their addresses."""
    tasks = []
    for number, (name, width, height, boxes) in enumerate(faces_of(case)):
        regions = [
            {"x": str(100 * a / width), "y": str(100 * b / height), "width": str(100 * (c - a) / width),
             "height": str(100 * (d - b) / height), "rotation": "0", "rectanglelabels": ["face"],
             "original_width": str(width), "original_height": str(height)}
            for a, b, c, d in boxes
        ]  # fmt: skip
        address = f"/data/local-files/?d=in/{name.replace(' ', '%20')}"
        tasks.append({"image": address, "id": number, **({"label": regions} if regions else {}), "annotator": 1})
    out.mkdir(exist_ok=True)
    (out / "min.json").write_text(json.dumps(tasks))
    return out / "min.json"


def coco_of(case: Case) -> dict[str, object]:
    annotations = [
        {"id": 0, "image_id": image["id"], "category_id": 1, "bbox": [a, b, c - a, d - b], "iscrowd": 0,
         "segmentation": []}
        for image in case.images for a, b, c, d in case.truth[str(image["file_name"])].boxes.tolist()
    ]  # fmt: skip
    return {"images": case.images, "annotations": annotations, "categories": [{"id": 1, "name": "face"}]}


def roboflow(case: Case, out: Path) -> Path:
    """A split of Roboflow's COCO, given as its folder."""
    shutil.copytree(case.folder / "images", out / "train")
    (out / "train/_annotations.coco.json").write_text(json.dumps(coco_of(case)))
    (out / "README.dataset.txt").write_text("faces\nhttps://example.org\n")
    return out / "train"


def roboflow_root(case: Case, out: Path) -> Path:
    roboflow(case, out)
    return out


def cvat_coco(case: Case, out: Path) -> Path:
    """CVAT's COCO 1.0: ``annotations/instances_default.json``."""
    (out / "annotations").mkdir(parents=True)
    (out / "annotations/instances_default.json").write_text(json.dumps(coco_of(case)))
    return out


def write_yolo(case: Case, labels: Callable[[str], Path]) -> None:
    for name, width, height, boxes in faces_of(case):
        rows = [f"0 {(a + c) / 2 / width} {(b + d) / 2 / height} {(c - a) / width} {(d - b) / height}"
                for a, b, c, d in boxes]  # fmt: skip
        labels(name).parent.mkdir(parents=True, exist_ok=True)
        labels(name).write_text("\n".join(rows) + "\n" if rows else "")


def ultralytics(case: Case, out: Path) -> Path:
    """``images/ labels/ data.yaml``, given as the folder that holds them."""
    shutil.copytree(case.folder / "images", out / "images/val")
    write_yolo(case, lambda name: (out / "labels/val" / name).with_suffix(".txt"))
    (out / "data.yaml").write_text("path: .\nval: images/val\nnames:\n  0: face\n")
    (out / "val.txt").write_text("\n".join(f"./images/val/{name}" for name in NAMES))
    return out


def yolo_labels(case: Case, out: Path) -> Path:
    return ultralytics(case, out) / "labels"


def roboflow_yolo(case: Case, out: Path) -> Path:
    """``valid/images valid/labels``, and two READMEs."""
    shutil.copytree(case.folder / "images", out / "valid/images")
    write_yolo(case, lambda name: (out / "valid/labels" / name).with_suffix(".txt"))
    for name in ("README.dataset.txt", "README.roboflow.txt"):
        (out / name).write_text("faces\nProvided by a user\n")
    (out / "data.yaml").write_text("names: ['face']\nnc: 1\n")
    return out


def cvat_yolo(case: Case, out: Path) -> Path:
    """CVAT's YOLO 1.1: texts beside the pictures, ``obj.names`` and a list of the pictures."""
    shutil.copytree(case.folder / "images", out / "images")
    write_yolo(case, lambda name: (out / "images" / name).with_suffix(".txt"))
    (out / "obj.names").write_text("face\n")
    (out / "train.txt").write_text("\n".join(f"data/obj_train_data/{name}" for name in NAMES))
    return out


EXPORTS: list[Callable[[Case, Path], Path]] = [
    cvat_images, label_studio, label_studio_min, roboflow, roboflow_root, cvat_coco, ultralytics, yolo_labels,
    roboflow_yolo, cvat_yolo,
]  # fmt: skip


@pytest.mark.parametrize("export", EXPORTS, ids=lambda export: export.__name__)
def test_an_export_of_the_faces_gives_the_ap_of_the_official_text(case, export, tmp_path, capsys):
    official = figures(case, case.folder / "official")
    truth = export(case, tmp_path / "export")
    for path in (truth, truth.parent) if export in (cvat_images, label_studio, label_studio_min) else (truth,):
        report = tmp_path / "report.json"
        words = ["wider", "--detections", case.folder / "official", "--ground-truth", path, "--json", report]
        assert evaluate([str(word) for word in words]) == 0, capsys.readouterr().err
        assert json.loads(report.read_text())["detections"]["subsets"]["all"] == pytest.approx(official, abs=1e-6)
        assert json.loads(report.read_text())["images"] == 4, "the picture without a face counts"


def test_shapes_that_are_no_upright_rectangle_are_counted(case, tmp_path, caplog):
    load_faces(cvat_images(case, tmp_path / "a"))
    assert "8 shapes that are no upright rectangle are left out (4 polygon, 4 turned box)" in caplog.text
    load_faces(label_studio(case, tmp_path / "b"))
    assert "8 shapes that are no upright rectangle are left out (4 ellipse, 4 turned rectangle)" in caplog.text


def test_labels_are_chosen_by_name_and_numbers_are_checked(case, tmp_path):
    path = cvat_images(case, tmp_path / "a")
    cars = load_faces(path, categories=["Car"])
    assert all(one.boxes.tolist() == [[1, 1, 9, 9]] for one in cars.values())
    with pytest.raises(DataError, match="no category head among car, face"):
        load_faces(path, categories=["head"])
    path.write_text(path.read_text().replace('xtl="1"', 'xtl="nan"', 1))
    with pytest.raises(DataError, match=r"annotations.xml: image '1--Parade/000042.jpg': expected a box with finite"):
        load_faces(path)
    path.write_text(path.read_text()[:-9])
    with pytest.raises(DataError, match=r"annotations.xml:\d+: expected XML"):
        load_faces(path)


def test_frames_of_cvat_videos_are_named_as_tinygan_detect_names_them(tmp_path):
    box = '<box frame="{}" outside="{}" occluded="0" keyframe="1" xtl="9" ytl="2" xbr="1" ybr="20"/>'
    (tmp_path / "annotations.xml").write_text(
        "<annotations><meta><task><size>4</size></task><source>clip.mp4</source></meta>"
        f'<track id="0" label="face">{box.format(1, 0)}{box.format(2, 1)}</track></annotations>'
    )
    faces = load_faces(tmp_path)
    assert list(faces) == [f"clip.mp4/{n}" for n in range(4)]
    assert faces["clip.mp4/1"].boxes.tolist() == [[1, 2, 9, 20]] and not len(faces["clip.mp4/2"])


def test_label_studio_counts_pictures_that_nobody_annotated(tmp_path, caplog):
    region = {
        "original_width": 200, "original_height": 100, "type": "rectanglelabels",
        "value": {"x": 10, "y": 10, "width": 5, "height": "20", "rotation": 0, "rectanglelabels": ["face"]},
    }  # fmt: skip
    tasks = [
        {"id": 1, "data": {"image": "s3://bucket/in/a.jpg"}, "annotations": [{"result": [region]}]},
        {"id": 2, "data": {"image": "https://example.org/in/b%20c.png?x=1"}, "annotations": [{"result": []}]},
        {"id": 3, "data": {"image": "c.png"}, "annotations": []},
    ]
    (tmp_path / "a.json").write_text(json.dumps(tasks), encoding="utf-8-sig")
    faces = load_faces(tmp_path / "a.json")
    assert {name: one.boxes.tolist() for name, one in faces.items()} == {
        "in/a.jpg": [[20, 10, 30, 30]], "in/b c.png": [],
    }  # fmt: skip
    assert "1 pictures that nobody annotated are left out, such as c.png" in caplog.text


def test_predictions_of_label_studio_are_detections(tmp_path, caplog):
    size = {"original_width": 200, "original_height": 100, "type": "rectanglelabels"}
    value = {"x": 10, "y": 10, "width": 5, "height": 20, "rotation": 0, "rectanglelabels": ["face"]}
    predictions = [{"score": 0.5, "result": [{**size, "score": 0.25, "value": value}, {**size, "value": value}]}]
    task = {"id": 1, "data": {"image": "a.jpg"}, "predictions": predictions, "annotations": [{"result": []}]}
    (tmp_path / "a.json").write_text(json.dumps([task]))
    found = open_detections(tmp_path / "a.json")["a.jpg"]
    assert sorted(found.scores) == [0.25, 0.5] and found.boxes.tolist() == [[20, 10, 30, 30]] * 2
    assert "score 1" not in caplog.text


def test_cvat_boxes_as_detections(case, tmp_path, caplog):
    path = cvat_images(case, tmp_path / "a")
    found = open_detections(path)
    assert np.array_equal(found[NAMES[0]].boxes, case.truth[NAMES[0]].boxes) and found[NAMES[0]].scores.min() == 1
    assert len(found[NAMES[3]]) == 0 and "they get the score 1" in caplog.text
    path.write_text(path.read_text().replace('name="blur">clear', 'name="confidence">0.5'))
    assert set(open_detections(path)[NAMES[0]].scores) == {0.5}
    assert convert([str(path), "--to", "cvat", "--out", str(tmp_path / "o.xml")]) == 2


@pytest.mark.parametrize("name", ["predictions.json", "result.json", "detections.json", "boxes.csv"])
def test_the_folder_of_a_detectors_run(case, tmp_path, name):
    (tmp_path / "exp/visuals").mkdir(parents=True)
    (tmp_path / "exp/args.json").write_text("{}") if name != "boxes.csv" else None
    to = {"detections.json": "detect", "boxes.csv": "csv"}.get(name, "sahi")
    assert convert([str(case.folder / "official"), "--to", to, "--out", str(tmp_path / "exp" / name)]) == 0
    assert figures(case, tmp_path / "exp") == pytest.approx(figures(case, case.folder / "official"), abs=1e-9)


def test_ultralytics_run_folder(case, tmp_path):
    """``runs/detect/predict``: pictures, and ``labels`` below."""
    shutil.copytree(case.folder / "images", tmp_path / "predict")
    words = ["--to", "yolo", "--images", str(case.folder / "images"), "--out", str(tmp_path / "predict/labels")]
    assert convert([str(case.folder / "official"), *words]) == 0
    (tmp_path / "predict/args.yaml").write_text("save_txt: true\n")
    found = figures(case, tmp_path / "predict", "--images", case.folder / "images")
    assert found == pytest.approx(figures(case, case.folder / "official"), abs=1e-9)


def test_several_splits_are_named(case, tmp_path):
    roboflow(case, tmp_path)
    shutil.copytree(tmp_path / "train", tmp_path / "valid")
    with pytest.raises(DataError, match=r"holds several files of annotations, train/_annotations.coco.json, valid/"):
        load_faces(tmp_path)
