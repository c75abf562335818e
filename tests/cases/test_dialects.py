"""Boxes and annotations as popular tools write them, imitated to the key, and evaluated like the official text."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.cases.conftest import NAMES, Case, figures
from tinygan.cli.convert import main as convert
from tinygan.errors import DataError
from tinygan.formats.dialect import Dialect, Notation
from tinygan.formats.registry import DIALECTS, open_detections


def write_csv(path: Path, header: list[str], rows: list[list[object]], delimiter: str = ",", mark: str = "") -> Path:
    with path.open("w", encoding="utf-8", newline="") as file:
        file.write(mark)
        writer = csv.writer(file, delimiter=delimiter)
        writer.writerow(header)
        writer.writerows(rows)
    return path


def ultralytics_txt(case: Case, out: Path) -> list[object]:
    """``predict(save_txt=True, save_conf=True)``: six numbers by ``%g``, no file for a picture without a box."""
    (out / "labels").mkdir()
    for name, one in case.found.items():
        size = np.tile(case.sizes[name], 2)
        middles = np.concatenate([(one.boxes[:, :2] + one.boxes[:, 2:]) / 2, one.boxes[:, 2:] - one.boxes[:, :2]], 1)
        lines = [("%g " * 6).rstrip() % (0, *row, score) for row, score in zip(middles / size, one.scores, strict=True)]
        if lines:
            (out / "labels" / f"{Path(name).stem}.txt").write_text("\n".join(lines) + "\n")
    return [out / "labels", "--images", case.folder / "images"]


def ultralytics_txt_of_two_classes(case: Case, out: Path) -> list[object]:
    path, *options = ultralytics_txt(case, out)
    assert isinstance(path, Path)
    for file in path.glob("*.txt"):
        faces = "".join("1" + line[1:] + "\n" for line in file.read_text().splitlines())
        file.write_text(faces + "0 0.5 0.5 0.9 0.9 0.99\n")
    (path / "classes.txt").write_text("person\nface\n")
    return [path, *options]


def ultralytics_json(case: Case, out: Path) -> list[object]:
    """``val(save_json=True)``: the id is the stem, a number if it can be."""
    entries = [
        {
            "image_id": int(Path(name).stem) if Path(name).stem.isnumeric() else Path(name).stem,
            "file_name": Path(name).name,
            "category_id": 1,
            "bbox": [round(v, 3) for v in xywh],
            "score": round(score, 5),
        }
        for _, name, _, xywh, score in case.rows()
    ]
    (out / "predictions.json").write_text(json.dumps(entries))
    return [out / "predictions.json"]


def coco_names(case: Case, out: Path) -> list[object]:
    entries = [{"image_id": name, "category_id": 1, "bbox": b, "score": s} for _, name, _, b, s in case.rows()]
    (out / "results.json").write_text(json.dumps(entries))
    return [out / "results.json"]


def coco_numbers(case: Case, out: Path) -> list[object]:
    entries = [{"image_id": i, "category_id": 1, "bbox": b, "score": s} for i, _, _, b, s in case.rows()]
    (out / "results.json").write_text(json.dumps(entries))
    return [out / "results.json", "--names", case.folder / "instances.json"]


def coco_texts(case: Case, out: Path) -> list[object]:
    """Numbers as strings, as some exporters write them."""
    entries = [
        {"image_id": str(i), "category_id": "1", "bbox": [str(v) for v in b], "score": str(s)}
        for i, _, _, b, s in case.rows()
    ]
    (out / "results.json").write_text(json.dumps(entries))
    return [out / "results.json", "--names", case.folder / "instances.json"]


def sahi(case: Case, out: Path) -> list[object]:
    """``predict(dataset_json_path=…)``: ``result.json``; here with a second category."""
    entries = []
    for i, _, box, b, s in case.rows():
        rest = {"segmentation": [], "iscrowd": 0, "area": int(b[2] * b[3])}
        entries.append({"image_id": i, "bbox": b, "score": s, "category_id": 0, "category_name": "Human face", **rest})
        entries.append({"image_id": i, "bbox": box, "score": 0.99, "category_id": 1, "category_name": "Person", **rest})
    (out / "result.json").write_text(json.dumps(entries))
    return [out / "result.json", "--names", case.folder / "instances.json", "--category", "human face"]


def supervision_csv(case: Case, out: Path) -> list[object]:
    header = ["x_min", "y_min", "x_max", "y_max", "class_id", "confidence", "tracker_id", "class_name", "image_name"]
    rows = [[*box, 0, s, "", "face", name] for _, name, box, _, s in case.rows()]
    return [write_csv(out / "sink.csv", header, rows)]


def supervision_json(case: Case, out: Path) -> list[object]:
    entries = [
        dict(zip(("x_min", "y_min", "x_max", "y_max"), box, strict=True))
        | {"class_id": 0, "confidence": s, "tracker_id": "", "class_name": "face", "image_path": f"D:\\in\\{name}"}
        for _, name, box, _, s in case.rows()
    ]
    (out / "sink.json").write_text(json.dumps(entries, indent=4))
    return [out / "sink.json"]


def pandas_csv(case: Case, out: Path) -> list[object]:
    """YOLOv5's ``results.pandas().xyxy[i].to_csv()`` with a column for the picture, and the index in front."""
    header = ["", "xmin", "ymin", "xmax", "ymax", "confidence", "class", "name", "filename"]
    rows = [[n, *box, s, 0, "face", name] for n, (_, name, box, _, s) in enumerate(case.rows())]
    rows += [[0, 1, 1, 90, 90, 0.99, 1, "dog", name] for name in case.found]
    return [write_csv(out / "boxes.csv", header, rows)]


def semicolons(case: Case, out: Path) -> list[object]:
    """A spreadsheet's ``;`` and decimal commas."""
    rows = [[name, *(str(v).replace(".", ",") for v in (*b, s))] for _, name, _, b, s in case.rows()]
    return [write_csv(out / "b.csv", ["File", "Left", "Top", "Width", "Height", "Confidence"], rows, ";")]


def tabs(case: Case, out: Path) -> list[object]:
    rows = [[name, *box, s] for _, name, box, _, s in case.rows()]
    return [write_csv(out / "b.tsv", ["image_path", "left", "top", "right", "bottom", "conf"], rows, "\t")]


def windows(case: Case, out: Path) -> list[object]:
    """Byte order mark, and the paths of Windows."""
    rows = [["C:\\data\\" + name.replace("/", "\\"), *box, s] for _, name, box, _, s in case.rows()]
    return [write_csv(out / "b.csv", ["Image", "X1", "Y1", "X2", "Y2", "Score"], rows, mark="\ufeff")]


def open_images(case: Case, out: Path) -> list[object]:
    header = ["ImageID", "Source", "LabelName", "Confidence", "XMin", "XMax", "YMin", "YMax"]
    rows = []
    for _, name, (x1, y1, x2, y2), _, s in case.rows():
        w, h = case.sizes[name]
        rows.append([Path(name).stem, "xclick", "Human face", s, x1 / w, x2 / w, y1 / h, y2 / h])
    return [write_csv(out / "b.csv", header, rows), "--boxes", "relative", "--images", case.folder / "images"]


def centres(case: Case, out: Path) -> list[object]:
    """YOLOv5's ``results.pandas().xywh``."""
    header = ["xcenter", "ycenter", "width", "height", "confidence", "class", "name", "image"]
    rows = [[b[0] + b[2] / 2, b[1] + b[3] / 2, *b[2:], s, 0, "face", name] for _, name, _, b, s in case.rows()]
    return [write_csv(out / "b.csv", header, rows)]


def fiftyone(case: Case, out: Path) -> list[object]:
    """``COCODetectionDataset`` with confidences: annotations with ``score`` beside the labels' names."""
    annotations = [
        {"id": n, "image_id": i, "category_id": 2, "bbox": b, "area": b[2] * b[3], "score": s, "iscrowd": 0}
        for n, (i, _, _, b, s) in enumerate(case.rows())
    ]
    annotations += [{**one, "category_id": 1, "score": 0.99} for one in annotations]
    categories = [{"id": n, "name": name, "supercategory": None} for n, name in enumerate(("cat", "car", "face"))]
    content = {"info": {}, "licenses": [], "categories": categories, "images": case.images, "annotations": annotations}
    (out / "labels.json").write_text(json.dumps(content))
    return [out / "labels.json"]


def tinygan_detect(case: Case, out: Path) -> list[object]:
    images = [
        {"name": name, "width": case.sizes[name][0], "height": case.sizes[name][1], "dropped": 0,
         "faces": [{"box": b, "score": s, "outcome": "kept"} for b, s in zip(one.boxes.tolist(), one.scores.tolist(),
                                                                             strict=True)]}
        for name, one in case.found.items()
    ]  # fmt: skip
    (out / "detections.json").write_text(json.dumps({"min_score": 0.3, "images": images}))
    return [out / "detections.json"]


EXPORTS: list[Callable[[Case, Path], list[object]]] = [
    ultralytics_txt, ultralytics_txt_of_two_classes, ultralytics_json, coco_names, coco_numbers, coco_texts, sahi,
    supervision_csv, supervision_json, pandas_csv, semicolons, tabs, windows, open_images, centres, fiftyone,
    tinygan_detect,
]  # fmt: skip


@pytest.mark.parametrize("export", EXPORTS, ids=lambda export: export.__name__)
def test_an_export_has_the_ap_of_the_official_text(case, export, tmp_path, capsys):
    official = figures(case, case.folder / "official")
    assert 0.2 < official["ap_exact"] < 0.9, "figures that tell right boxes from wrong ones"
    path, *options = export(case, tmp_path)
    assert figures(case, path, *options) == pytest.approx(official, abs=1e-9)
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize("name", [name for name, one in DIALECTS.items() if one.write is not None])
def test_what_tinygan_convert_writes_has_it_too(case, name, tmp_path, capsys):
    out, images = tmp_path / "out", ["--images", str(case.folder / "images")] if name == "yolo" else []
    assert convert([str(case.folder / "official"), "--to", name, "--out", str(out), *images]) == 0
    assert figures(case, out, *images) == pytest.approx(figures(case, case.folder / "official"), abs=1e-9)
    files = open_detections(out, name, Dialect(images=case.folder / "images"))
    found = files[next(file for file in files if "42" in file)]
    expected = case.found[NAMES[0]]
    assert np.allclose(found.boxes, expected.boxes, atol=1e-6) and np.array_equal(found.scores, expected.scores)


def test_dialects_are_written_to_the_key(case, tmp_path):
    for name, keys in (
        ("sahi", ["image_id", "bbox", "score", "category_id", "category_name", "segmentation", "iscrowd", "area"]),
        (
            "supervision-json",
            ["x_min", "y_min", "x_max", "y_max", "class_id", "confidence", "tracker_id", "image_name"],
        ),
    ):
        assert convert([str(case.folder / "official"), "--to", name, "--out", str(tmp_path / name)]) == 0
        assert list(json.loads((tmp_path / name).read_text())[0]) == keys
    for name, header in (
        ("supervision", "x_min,y_min,x_max,y_max,class_id,confidence,tracker_id,image_name"),
        ("pandas", "image,xmin,ymin,xmax,ymax,confidence,class,name"),
    ):
        assert convert([str(case.folder / "official"), "--to", name, "--out", str(tmp_path / name)]) == 0
        assert (tmp_path / name).read_text().splitlines()[0] == header


def test_yolo_without_confidences_scores_one_and_says_so(case, tmp_path, caplog):
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels/000042.txt").write_text("0 0.5 0.5 0.5 0.25\n")
    files = open_detections(tmp_path / "labels", dialect=Dialect(images=case.folder / "images"))
    assert files["000042"].boxes.tolist() == [[80, 90, 240, 150]] and files["000042"].scores.tolist() == [1]
    assert "no box has a confidence (save_conf)" in caplog.text
    assert len(files) == 4, "pictures without a file have no box"
    with pytest.raises(DataError, match=r"labels: its boxes are parts of a picture's size; give the pictures"):
        open_detections(tmp_path / "labels")


def test_yolo_files_without_a_picture_are_left_out_and_named(case, tmp_path, capsys):
    path, *options = ultralytics_txt(case, tmp_path)
    (path / "stranger.txt").write_text("0 0.5 0.5 0.5 0.25 0.9\n")
    assert figures(case, path, *options) == pytest.approx(figures(case, case.folder / "official"), abs=1e-9)
    assert "1 files were left out" in (error := capsys.readouterr().err) and "stranger" in error


def test_landmarks_and_track_numbers_of_yolo_rows(case, tmp_path):
    (tmp_path / "labels").mkdir()
    box, points = "0 0.5 0.5 0.5 0.25", " 0.4 0.5 1" * 5
    for name, row in (("000042", f"{box}{points} 0.75"), ("b", f"{box} 0.25 12")):
        (tmp_path / f"labels/{name}.txt").write_text(row + "\n")
    files = open_detections(tmp_path / "labels", dialect=Dialect(images=case.folder / "images"))
    assert files["000042"].scores.tolist() == [0.75] and files["b"].scores.tolist() == [0.25]


@pytest.mark.parametrize("name", ["csv", "json", "yolo"])
def test_several_categories_want_a_name(case, name, tmp_path):
    file = tmp_path / {"csv": "b.csv", "json": "b.json", "yolo": "labels"}[name]
    if name == "csv":
        write_csv(file, ["image", "x1", "y1", "x2", "y2", "score", "class_name"],
                  [["a", 1, 2, 3, 4, 0.5, "head"], ["a", 5, 6, 7, 8, 0.5, "hat"]])  # fmt: skip
    elif name == "json":
        rows = [(0, [1, 2, 2, 2], "head"), (1, [5, 6, 2, 2], "hat")]
        file.write_text(json.dumps([{"image_id": "a", "category_id": i, "category_name": n, "bbox": b, "score": 0.5}
                                    for i, b, n in rows]))  # fmt: skip
    else:
        file.mkdir()
        (file / "000042.txt").write_text("0 0.5 0.5 0.5 0.5 0.5\n1 0.1 0.1 0.1 0.1 0.5\n")
        (tmp_path / "data.yaml").write_text("nc: 2\nnames: [head, hat]\n")
    images = case.folder / "images"
    with pytest.raises(DataError, match="got categories hat, head; name those of faces with --category"):
        open_detections(file, dialect=Dialect(images=images))
    kept = open_detections(file, dialect=Dialect(images=images, categories=("Head",)))
    assert sum(map(len, kept.values())) == 1
    both = open_detections(file, dialect=Dialect(images=images, categories=("head", "hat")))
    assert sum(map(len, both.values())) == 2


def test_from_names_the_format_of_proposals(face, box, tmp_path, run, capsys):
    """A table that calls itself ``.json`` and starts like FDDB's text is read as what ``--from`` says."""
    (tmp_path / "images").mkdir()
    face.save(tmp_path / "images/a.png")
    (tmp_path / "boxes.dat").write_text("image,x1,y1,x2,y2,score\na," + ",".join(map(str, box[0])) + ",0.5\n")
    words = ("--proposals", tmp_path / "boxes.dat", "--images", tmp_path / "images", "--no-boxes")
    assert run("rescore", *words, "--from", "csv", "--out", tmp_path / "r") == 0
    assert np.allclose(open_detections(tmp_path / "r")["a"].boxes, box, atol=0.1)
    assert run("rescore", *words, "--from", "fddb", "--out", tmp_path / "q") == 2
    assert run("rescore", *words, "--from", "cvs", "--out", tmp_path / "q") == 2
    assert "unknown format 'cvs'" in (error := capsys.readouterr().err) and "did you mean 'csv'?" in error
    assert run("rescore", *words, "--out", tmp_path / "r", "--resume") == 2, "another format is another run"


def test_tabs_with_decimal_commas(tmp_path):
    (tmp_path / "b.tsv").write_text("image\tx1\ty1\tx2\ty2\tscore\na b.c.jpg\t1,5\t2\t3\t4\t0,5\n")
    found = open_detections(tmp_path / "b.tsv")["a b.c.jpg"]
    assert found.boxes.tolist() == [[1.5, 2, 3, 4]] and found.scores.tolist() == [0.5]


def test_yolo_rows_in_pixels_are_refused_unless_named(case, tmp_path):
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels/000042.txt").write_text("0 40 25 40 30 0.9\n")
    with pytest.raises(DataError, match="if their numbers are pixels, read them with --from yolo --boxes cxcywh"):
        open_detections(tmp_path / "labels", "yolo", Dialect(images=case.folder / "images"))
    found = open_detections(tmp_path / "labels", "yolo", Dialect(boxes=Notation("cxcywh")))
    assert found["000042"].boxes.tolist() == [[20, 10, 60, 40]]


def test_boxes_without_area_are_told_where_no_picture_is_at_hand(case, tmp_path, caplog):
    """Corners that were labelled ``x y w h`` the other way round: every width is negative."""
    rows = case.rows()
    entries = [{"image_id": n, "bbox": [*b[:2], -b[2], -b[3]], "score": s} for _, n, _, b, s in rows]
    (tmp_path / "r.json").write_text(json.dumps(entries))
    figures(case, tmp_path / "r.json")
    assert "100% of 24 boxes have no area or are below 1.5 px; check what their four numbers are" in caplog.text
    caplog.clear()
    figures(case, case.folder / "official")
    assert "no area" not in caplog.text
