"""``tinygan-evaluate wider`` with ``--details``, ``--curves`` and ``--markdown``, on files."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from tinygan.cli.evaluate import main
from tinygan.detections import Detections
from tinygan.formats.writing import DetectionWriter

TRUTH = """0--Parade/a.jpg
3
10 10 20 20 0 0 0 0 0 0
60 10 6 6 2 0 1 0 1 1
90 10 20 20 0 0 0 1 0 0
0--Parade/b.jpg
1
10 10 30 40 1 0 0 0 2 0
"""
A, TINY, STRAY = [10.0, 10, 30, 30, 0.9], [60.0, 10, 66, 16, 0.8], [200.0, 10, 220, 30, 0.85]
B_LOOSE, B = [10.0, 10, 40, 36, 0.7], [10.0, 10, 40, 50, 0.7]  # IoU 0.65 and 1


def write(path: Path, **images: list[list[float]]) -> Path:
    writer = DetectionWriter(path)
    for name, rows in images.items():
        values = np.array(rows, dtype=float).reshape(-1, 5)
        writer.write(f"0--Parade/{name}.jpg", Detections(values[:, :4], values[:, 4]))
    writer.close()
    return path


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    (tmp_path / "bbx_gt.txt").write_text(TRUTH)
    write(tmp_path / "after", a=[A, TINY], b=[B])
    write(tmp_path / "before.tar.gz", a=[A, STRAY, TINY], b=[B_LOOSE])
    return tmp_path


def run(workspace: Path, *more: str, truth: str = "bbx_gt.txt") -> int:
    paths = ["--detections", str(workspace / "after"), "--ground-truth", str(workspace / truth)]
    return main(["wider", *paths, *more])


def rows_of(output: str) -> dict[str, list[str]]:
    """Cells by the first one of their row; columns are two blanks or more apart."""
    rows = [[cell for cell in line.split("  ") if cell.strip()] for line in output.splitlines()]
    return {row[0].strip(): [cell.strip() for cell in row[1:]] for row in rows if row}


def test_details(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(workspace, "--details") == 0
    out = capsys.readouterr().out
    assert [line for line in out.splitlines() if "  " not in line and line] == [
        "WIDER FACE protocol, 2 images, 3 boxes",
        "exact AP by IoU threshold",
        "false positives at recall (IoU 0.5), and the recall of all boxes",
        "exact AP and recall by kind of face (IoU 0.5, all valid faces)",
    ]
    rows = rows_of(out)
    assert rows["all"] == ["0"] * 6 + ["1.0000"]
    assert rows["height <8"] == ["1", "1.0000", "1.0000"]
    assert rows["height 64+"] == ["0", "-", "-"]
    assert [key for key in rows if key.startswith("pose")] == ["pose typical", "pose atypical"]


def test_details_before_and_after(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = workspace / "report.json"
    assert run(workspace, "--details", "--baseline", str(workspace / "before.tar.gz"), "--json", str(report)) == 0
    rows = rows_of(capsys.readouterr().out)
    # Before, the stray stands above the tiny face and b's box is too loose for IoU 0.7.
    assert rows["all 0.5"][:3] == ["0.8333", "1.0000", "+16.67"]
    assert rows["all 0.7"][:3] == ["0.5556", "1.0000", "+44.44"]
    assert rows["all before"] == ["0", "0", "1", "1", "1", "1", "1.0000"]
    assert rows["all change"] == ["+0", "+0", "-1", "-1", "-1", "-1", "+0.00"]
    assert rows["height <8"][:4] == ["1", "0.5000", "1.0000", "+50.00"]
    details = json.loads(report.read_text())["details"]
    assert details["baseline"]["ap_by_iou"]["all"]["0.7"] == pytest.approx(5 / 9)
    assert details["baseline"]["false_positives_at_recall_percent"]["all"]["50"] == 1
    assert details["detections"]["groups"]["blur"]["heavy"] == {"faces": 1, "ap": 1.0, "recall": 1.0}
    assert details["detections"]["groups"]["height"]["64+"] == {"faces": 0, "ap": None, "recall": None}
    assert details["detections"]["recall_ceiling"] == {"all": 1.0}
    change = details["difference"]
    assert change["bootstrap"] == {"resamples": 1000, "seed": 0, "level": 0.95}
    assert change["ap_by_iou"]["all"]["0.7"]["points"] == pytest.approx(400 / 9)
    assert change["groups"]["height"]["<8"]["low"] == pytest.approx(50)
    assert change["groups"]["height"]["64+"] == {"points": None, "low": None, "high": None}


def test_details_against_itself(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(workspace, "--details", "--baseline", str(workspace / "after")) == 0
    rows = rows_of(capsys.readouterr().out)
    differences = {row[-2:][0] for key, row in rows.items() if key.startswith("all 0.")}
    assert differences == {"+0.00"}


def test_markdown(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(workspace, "--details", "--markdown") == 0
    lines = capsys.readouterr().out.splitlines()
    assert "| subset | images | faces | AP binned (official) | AP exact |" in lines
    assert "| all | 2 | 3 | 1.0000 | 1.0000 |" in lines
    assert sum(line.startswith("**") for line in lines) == 4


def test_unsorted_unscaled_and_missing(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Logits out of order, boxes of no size, and an image without a file: figures, a warning and exit 1."""
    folder = workspace / "after" / "0--Parade"
    (folder / "a.txt").write_text("a\n4\n60 10 6 6 -2.5\n10 10 20 20 7.25\n5 5 0 0 -8\n40 40 -3 0 -9\n")
    (folder / "b.txt").unlink()
    assert run(workspace, "--details") == 1
    out, err = capsys.readouterr()
    rows = rows_of(out)
    assert rows["height <8"] == ["1", "1.0000", "1.0000"] and rows["height 32-64"] == ["1", "0.0000", "0.0000"]
    assert rows["all"][-1] == "0.6667"
    assert "1 of 2 images have no file" in err


def test_constant_scores(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(workspace / "after", a=[[*A[:4], 0.5], [*STRAY[:4], 0.5]], b=[[*B[:4], 0.5]])
    assert run(workspace, "--details") == 0
    assert rows_of(capsys.readouterr().out)["all"] == ["1", "1", "1", "-", "-", "-", "0.6667"]


def mat_folder(folder: Path) -> Path:
    """The official files of one image with one face."""

    def cell(value: object) -> np.ndarray:
        cells = np.empty((1, 1), dtype=object)
        cells[0, 0] = value
        return cells

    folder.mkdir()
    images = {"event_list": cell("0--Parade"), "file_list": cell(cell("a"))}
    zero = cell(cell(np.zeros((1, 1), np.uint8)))
    labels = {f"{name}_label_list": zero for name in ("blur", "occlusion", "pose", "illumination", "invalid")}
    boxes = cell(cell(np.array([[10, 10, 20, 20]])))
    savemat(folder / "wider_face_val.mat", {**images, "face_bbx_list": boxes, **labels})
    for subset in ("easy", "medium", "hard"):
        savemat(folder / f"wider_{subset}_val.mat", {**images, "gt_list": cell(cell(np.array([[1]])))})
    return folder


def published(folder: Path) -> Path:
    folder.mkdir()
    points = np.array([[1.0, 0.5], [0.5, 0.75]])
    for subset, factor in (("easy", 1.0), ("hard", 0.5)):
        curve = {"pr_cruve": points * [factor, 1], "legend_name": "Other"}
        savemat(folder / f"wider_pr_info_Other_{subset}_val.mat", curve)
    return folder


def test_published_curves(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mat_folder(workspace / "eval")
    curves, report, plot = published(workspace / "curves"), workspace / "report.json", workspace / "plot.png"
    options = ["--curves", str(curves), "--json", str(report), "--plot", str(plot), "--details"]
    assert run(workspace, *options, truth="eval") == 0
    out, err = capsys.readouterr()
    rows = rows_of(out)
    assert "1 files belong to no image" in err
    assert rows["method"] == ["easy", "hard"]
    assert rows["Other"] == ["0.6250", "0.3125"]
    assert list(rows).index("detections (this evaluation)") < list(rows).index("Other")
    assert rows["height 16-32"] == ["1", "1.0000", "1.0000"]
    assert json.loads(report.read_text())["published"] == {"easy": {"Other": 0.625}, "hard": {"Other": 0.3125}}
    with Image.open(plot) as picture:
        assert picture.format == "PNG" and picture.width > 1500


def test_published_curves_need_the_official_subsets(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(workspace, "--curves", str(published(workspace / "curves"))) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and "of the official subsets, but this ground truth has all" in err
    assert run(workspace, "--curves", str(workspace / "nowhere")) == 2
    assert "nowhere: no such folder of published curves" in capsys.readouterr().err


GROUPS = "image,face,skin\n0--Parade/a.jpg,0,I\n0--Parade/a.jpg,1,Not Sure\n0--Parade/b.jpg,0,I\n"


def test_groups_before_and_after(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    groups, report = workspace / "groups.csv", workspace / "report.json"
    groups.write_text(GROUPS)
    baseline = ["--baseline", str(workspace / "before.tar.gz")]
    assert run(workspace, "--groups", str(groups), *baseline, "--json", str(report)) == 0
    out = capsys.readouterr().out
    assert "at precision 0.9 on all valid faces (detections from score 0.7, baseline from score 0.9)" in out
    rows = rows_of(out)
    # Before, the stray at 0.85 leaves one of three faces at precision 0.9: the first of group I.
    assert rows["skin I*"][:3] == ["2", "2", "50.0"] and rows["skin I*"][4] == "100.0"
    assert rows["skin Not Sure*"][:3] == ["1", "1", "0.0"] and rows["skin Not Sure*"][6] == "+100.00"
    written = json.loads(report.read_text())["groups"]
    assert written["precision"] == 0.9 and written["thresholds"]["baseline"] == 0.9
    assert written["attributes"]["skin"]["I"]["difference"]["value"] == 50
    assert written["attributes"]["skin"]["I"]["small"] is True
    assert run(workspace, "--groups", str(groups), *baseline, "--precision", "0.5") == 0
    assert rows_of(capsys.readouterr().out)["skin Not Sure*"][2] == "100.0"


def test_groups_do_not_stop_at_a_picture_whose_size_cannot_be_read(tmp_path: Path) -> None:
    for folder in ("labels", "images"):
        (tmp_path / folder).mkdir()
    for name in "ab":
        Image.new("RGB", (100, 80)).save(tmp_path / f"images/{name}.png")
        (tmp_path / f"labels/{name}.txt").write_text("0 0.5 0.5 0.2 0.5\n")
    (tmp_path / "images/b.png").write_bytes(b"no picture")
    (tmp_path / "found.csv").write_text("image,x1,y1,x2,y2,score\na.png,40,20,60,60,0.9\n")
    (tmp_path / "groups.csv").write_text("image,face,skin\na.png,0,I\n")
    options = {"detections": "found.csv", "ground-truth": "labels", "images": "images", "groups": "groups.csv"}
    words = [word for option, name in options.items() for word in (f"--{option}", str(tmp_path / name))]
    assert main(["wider", *words]) == 1


def test_groups_that_cannot_be(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    groups = workspace / "groups.csv"
    groups.write_text(GROUPS + "0--Parade/z.jpg,0,I\n")
    cases = {
        (): "groups.csv:5: image '0--Parade/z.jpg' is not among the 2 images of the ground truth",
        ("--precision", "0"): "--precision 0: expected a number above 0",
    }
    for more, message in cases.items():
        assert run(workspace, "--groups", str(groups), *more) == 2
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1
    assert run(workspace, "--precision", "0.8") == 2
    assert "--precision 0.8 is for --groups" in capsys.readouterr().err
