from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tinygan.cli.evaluate import main
from tinygan.detections import Detections
from tinygan.formats.writing import DetectionWriter

TRUTH = """0--Parade/a.jpg
2
10 10 20 20 0 0 0 0 0 0
60 10 20 20 0 0 0 0 0 0
0--Parade/b.jpg
1
10 10 30 30 0 0 0 0 0 0
"""


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
    a, second, stray = [10.0, 10, 30, 30, 0.9], [60.0, 10, 80, 30, 0.8], [200.0, 10, 220, 30, 0.85]
    write(tmp_path / "after", a=[a, second], b=[[10.0, 10, 40, 40, 0.7]])
    write(tmp_path / "before.tar.gz", a=[a, second, stray], b=[[10.0, 10, 40, 40, 0.7]])
    return tmp_path


def run(workspace: Path, *more: str, detections: str = "after", truth: str = "bbx_gt.txt") -> int:
    paths = ["--detections", str(workspace / detections), "--ground-truth", str(workspace / truth)]
    return main(["wider", *paths, *more])


def test_table(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(workspace) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert out.splitlines() == [
        "WIDER FACE protocol, 2 images, 3 boxes",
        "subset  images  faces  AP binned (official)  AP exact",
        "all          2      3                1.0000    1.0000",
    ]


def test_baseline_json_and_plot(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report, plot = workspace / "report.json", workspace / "curves.png"
    options = ["--baseline", str(workspace / "before.tar.gz"), "--json", str(report), "--plot", str(plot)]
    assert run(workspace, *options) == 0
    row = capsys.readouterr().out.splitlines()[2].split()
    assert row[:8] == ["all", "2", "3", "0.8333", "1.0000", "0.8333", "1.0000", "+16.67"]
    content = json.loads(report.read_text())
    assert content["images"] == 2
    assert content["detections"]["subsets"]["all"] == {"faces": 3, "ap_binned": 1.0, "ap_exact": 1.0}
    assert content["baseline"]["boxes"] == 4
    assert content["difference"]["subsets"]["all"]["points"] == pytest.approx(100 / 6)
    assert content["difference"]["bootstrap"] == {"resamples": 1000, "seed": 0, "level": 0.95}
    with Image.open(plot) as picture:
        assert picture.format == "PNG" and picture.width > 400


def test_baseline_against_itself(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(workspace, "--baseline", str(workspace / "after")) == 0
    assert capsys.readouterr().out.splitlines()[2].endswith("+0.00  [+0.00, +0.00]")


def test_subset_counts_its_images_only(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (workspace / "list.txt").write_text("b.jpg\n")
    assert run(workspace, "--subset", str(workspace / "list.txt")) == 0
    out, err = capsys.readouterr()
    assert out.splitlines()[2].split() == ["all", "1", "1", "1.0000", "1.0000"]
    assert "1 files belong to no image of this evaluation" in err


def test_subset_names_that_are_unknown_are_listed(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (workspace / "list.txt").write_text("b.jpg\nnobody.jpg\n")
    assert run(workspace, "--subset", str(workspace / "list.txt")) == 1
    assert "1 names of the subset are not in the ground truth: nobody.jpg" in capsys.readouterr().err


def test_images_without_a_file_are_listed(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (workspace / "after" / "0--Parade" / "b.txt").unlink()
    report = workspace / "report.json"
    assert run(workspace, "--json", str(report)) == 1
    out, err = capsys.readouterr()
    assert out.splitlines()[2].split()[-1] == "0.6667"
    assert "1 of 2 images have no file" in err and "0--Parade/b.jpg" in err
    assert json.loads(report.read_text())["detections"]["images_without_file"] == ["0--Parade/b.jpg"]


def test_a_subset_without_faces_has_no_ap(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (workspace / "none.txt").write_text("a.jpg\n1\n0 0 0 0 0 0 0 0 0 0\n")
    report = workspace / "report.json"
    options = ["--baseline", str(workspace / "after"), "--json", str(report), "--plot", str(workspace / "none.png")]
    assert run(workspace, *options, truth="none.txt") == 0
    assert capsys.readouterr().out.splitlines()[2].split()[2:8] == ["0", "-", "-", "-", "-", "-"]
    assert json.loads(report.read_text())["detections"]["subsets"]["all"]["ap_exact"] is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--json", "nowhere/report.json"], "no such folder"),
        (["--plot", "nowhere/plot.png"], "no such folder"),
        (["--plot", "plot.pdf"], "ends in .png"),
        (["--subset", "nowhere.txt"], "nowhere.txt: expected a list of image names"),
        (["--baseline", "nowhere"], "nowhere: no such file or folder"),
    ],
)
def test_bad_options_are_one_line(
    workspace: Path, capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    assert run(workspace, options[0], str(workspace / options[1])) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and message in err


def test_bad_files_are_one_line(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (workspace / "empty").mkdir()
    write(workspace / "other", c=[[0, 0, 1, 1, 0.5]])
    write(workspace / "broken", a=[[0, 0, 1, 1, 0.5]])
    (workspace / "broken" / "0--Parade" / "a.txt").write_text("a\n2\n1 2 3 4 0.5\n1 2 x 4 0.5\n")
    for detections, truth, message in [
        ("nowhere", "bbx_gt.txt", "nowhere: no such file or folder"),
        ("empty", "bbx_gt.txt", "found none"),
        ("other", "bbx_gt.txt", "none of its 1 files (such as '0--Parade/c') is named like one of the 2 images"),
        ("broken", "bbx_gt.txt", "0--Parade/a.txt:4: expected 'x y w h score'"),
        ("after", "nowhere", "nowhere: no such file or folder"),
        ("after", "empty", "empty: expected Pascal VOC XML or YOLO annotations"),
        ("after", "before.tar.gz", "not UTF-8 text"),
    ]:
        assert run(workspace, detections=detections, truth=truth) == 2
        out, err = capsys.readouterr()
        assert out == "" and err.count("\n") == 1 and message in err


def test_debug_shows_the_traceback(workspace: Path) -> None:
    with pytest.raises(Exception, match="no such file or folder"):
        run(workspace, "--debug", detections="nowhere")


@pytest.mark.parametrize("arguments", [[], ["nothing"], ["wider"]])
def test_misuse_is_one_line(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_starts_without_torch_scipy_and_matplotlib() -> None:
    code = (
        "import sys, tinygan.cli.evaluate, tinygan.evaluate.wider, tinygan.evaluate.plots, tinygan.formats.wider_mat;"
        "print([m for m in ('torch', 'scipy', 'h5py', 'matplotlib') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
