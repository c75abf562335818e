"""``tinygan-detect`` as a user types it."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from skimage import data

from tinygan.boxes import iou
from tinygan.cli.detect import main
from tinygan.detect.video import read_frames, write_video
from tinygan.formats.registry import open_detections

FACE = np.array([[22.4, 6.8, 33.8, 22.2]])  # of the astronaut at 64 px


@pytest.fixture(scope="module")
def astronaut():
    return Image.fromarray(data.astronaut()).resize((64, 64), Image.Resampling.BICUBIC)


@pytest.fixture
def photos(tmp_path, astronaut):
    """A folder of a face, a picture without one, and a smaller face deeper down."""
    folder = tmp_path / "photos"
    (folder / "deep").mkdir(parents=True)
    astronaut.save(folder / "face.png")
    Image.new("RGB", (80, 60), (120, 130, 140)).save(folder / "none.jpg")
    astronaut.resize((48, 48), Image.Resampling.BICUBIC).save(folder / "deep/face.png")
    return folder


def typed(*words: object) -> list[str]:
    return [*map(str, words), "--device", "cpu", "--threads", "1"]


def table(out: Path) -> dict[str, dict]:
    return {image["name"]: image for image in json.loads((out / "detections.json").read_text())["images"]}


def contents(out: Path) -> dict[str, bytes]:
    return {str(file.relative_to(out)): file.read_bytes() for file in out.rglob("*") if file.is_file()}


def test_a_folder_gives_pictures_and_tables(photos, tmp_path, capsys):
    out = tmp_path / "found"
    assert main(typed(photos, "--out", out)) == 0
    printed = capsys.readouterr().out
    assert printed.startswith(f"{out}: 3 images, ") and len(printed.splitlines()) == 1
    images = table(out)
    assert set(images) == {"face.png", "none.jpg", "deep/face.png"} and images["none.jpg"]["faces"] == []
    face = images["face.png"]["faces"][0]
    assert iou(np.array([face["box"]]), FACE)[0, 0] >= 0.4 and len(face["landmarks"]) == 10
    found = open_detections(out / "detections.csv")
    assert found["face.png"].boxes[0].tolist() == face["box"] and len(found["none.jpg"]) == 0
    for name in ("face.png", "none.png", "deep/face.png"):
        with Image.open(out / name) as picture:
            assert picture.width >= 480
    with Image.open(photos / "face.png") as original:
        assert original.size == (64, 64)


def test_tables_alone_and_options(photos, tmp_path):
    out = tmp_path / "found"
    words = (
        "--no-pictures",
        "--no-boxes",
        "--min-score",
        "0.1",
        "--set",
        "score_threshold=0.1",
        "--set",
        "doubt=0",
        "--max-rois",
        "5",
    )
    assert main(typed(photos / "face.png", "--out", out, *words)) == 0
    assert set(contents(out)) == {"detect.jsonl", "detections.csv", "detections.json"}
    faces = table(out)["face.png"]["faces"]
    assert faces and all(np.allclose(face["box"], face["proposal_box"]) for face in faces)
    assert all(face["score"] >= 0.1 and face["proposal_score"] >= 0.1 for face in faces)


def test_boxes_lowered_below_the_least_score_are_counted(photos, checkpoint, tmp_path, capsys):
    words = ("--no-pictures", "--checkpoint", checkpoint, "--set", "score_threshold=0.5", "--min-score")
    assert main(typed(photos / "face.png", "--out", tmp_path / "none", *words, "1")) == 0
    assert main(typed(photos / "face.png", "--out", tmp_path / "all", *words, "0")) == 0
    (every,) = table(tmp_path / "all")["face.png"]["faces"]
    between = (every["score"] + every["proposal_score"]) / 2
    assert every["score"] < every["proposal_score"]
    capsys.readouterr()
    assert main(typed(photos / "face.png", "--out", tmp_path / "cut", *words, between)) == 0
    assert "0 faces; 0 raised, 0 lowered, 0 moved; 1 dropped" in capsys.readouterr().out
    assert table(tmp_path / "cut")["face.png"] == {**table(tmp_path / "none")["face.png"], "dropped": 1}


def test_unreadable_inputs_are_skipped_and_listed(photos, tmp_path, capsys):
    (photos / "text.jpg").write_text("no picture")
    (photos / "cut.png").write_bytes((photos / "face.png").read_bytes()[:500])
    out = tmp_path / "found"
    assert main(typed(photos, "--out", out, "--no-pictures")) == 1
    captured = capsys.readouterr()
    assert "3 images" in captured.out and "skipped: 2 inputs" in captured.err
    assert "text.jpg: expected a readable image" in captured.err and "cut.png: expected" in captured.err
    assert set(table(out)) == {"face.png", "none.jpg", "deep/face.png"}


def test_a_cut_off_run_is_continued(photos, tmp_path, capsys, monkeypatch):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert main(typed(photos, "--out", whole)) == 0

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("tinygan.detect.results.Results.finish", killed)
        assert main(typed(photos / "face.png", "--out", cut)) == 130
    assert not (cut / "detections.json").exists()
    assert main(typed(photos / "face.png", "--out", cut, "--resume")) == 0
    before = (cut / "face.png").stat().st_mtime_ns
    assert main(typed(photos, "--out", cut, "--resume")) == 0
    assert (cut / "face.png").stat().st_mtime_ns == before  # not done again
    assert table(cut) == table(whole) and set(contents(cut)) == set(contents(whole))


def test_another_precision_is_not_mixed_in(photos, tmp_path, capsys):
    out = tmp_path / "found"
    assert main(typed(photos / "none.jpg", "--out", out, "--precision", "32")) == 0
    noted = json.loads((out / "detections.json").read_text())
    assert noted["first_stage"]["precision"] == noted["second_stage"]["precision"] == "32"
    assert main(typed(photos / "none.jpg", "--out", out, "--resume", "--precision", "bf16")) == 2
    assert "first_stage.precision was 32, is now bf16" in capsys.readouterr().err


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_a_backend_finds_the_same_faces_and_is_not_mixed_in(photos, tmp_path, capsys, backend):
    pytest.importorskip(backend)
    plain, out = tmp_path / "plain", tmp_path / "found"
    exact = ("--precision", "32")
    assert main(typed(photos / "face.png", "--out", plain, *exact)) == 0
    assert main(typed(photos / "face.png", "--out", out, *exact, "--backend", backend)) == 0
    noted, expected = (json.loads((folder / "detections.json").read_text()) for folder in (out, plain))
    assert noted["first_stage"]["backend"] == noted["second_stage"]["backend"] == backend
    faces, right = noted["images"][0]["faces"], expected["images"][0]["faces"]
    assert len(faces) == len(right) >= 1
    for face, same in zip(faces, right, strict=True):
        assert face["box"] == pytest.approx(same["box"], abs=0.01)
        assert face["face_logit"] == pytest.approx(
            same["face_logit"], abs=0.05
        )  # boxes of the second look move by 1e-5
    assert main(typed(photos / "face.png", "--out", out, *exact, "--resume")) == 2
    assert f"first_stage.backend was {backend}, is now torch" in capsys.readouterr().err


def test_the_same_command_gives_the_same_tables_every_time(photos, tmp_path):
    tables = []
    for number in range(6):
        out = tmp_path / str(number)
        assert main(typed(photos / "face.png", "--out", out, "--no-pictures")) == 0
        tables.append([(out / name).read_bytes() for name in ("detections.json", "detections.csv")])
    assert all(found == tables[0] for found in tables)


def test_results_are_not_lost(photos, tmp_path, capsys):
    out = tmp_path / "found"
    assert main(typed(photos, "--out", out)) == 0
    before = contents(out)
    assert main(typed(photos, "--out", out)) == 2
    assert main(typed(photos, "--out", out, "--resume", "--min-score", "0.9")) == 2
    errors = capsys.readouterr().err
    assert "--overwrite" in errors and "other settings" in errors and contents(out) == before
    assert main(typed(photos / "none.jpg", "--out", out, "--overwrite", "--min-score", "0.9")) == 0
    assert set(contents(out)) == {"none.png", "detect.jsonl", "detections.csv", "detections.json"}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("absent.jpg",), "absent.jpg: no such file or folder"),
        (("empty",), "holds no image and no video"),
        (("face.png", "--min-score", "7"), "expected a number in [0, 1], got 7"),
        (("face.png", "--min-score", "high"), "expected a number in [0, 1], got high"),
        (("face.png", "--proposer", "retinafce"), "did you mean 'retinaface'"),
        (("face.png", "--checkpoint", "huge"), "no such file, folder or shipped checkpoint"),
        (("face.png", "--first-stage-weights", "absent.pth"), "absent.pth"),
        (("face.png", "--set", "kep=3"), "did you mean 'keep'"),
        (("face.png", "deep/face.png"), "would both be written to"),
        ((), "expected INPUT, or --table ADDRESS"),
    ],
)
def test_mistakes_are_one_line_and_exit_2(photos, tmp_path, words, message, capsys, monkeypatch):
    monkeypatch.chdir(photos)
    (photos / "empty").mkdir()
    (photos / "face.jpg").touch()
    try:
        code = main(typed(*words, "--out", tmp_path / "out"))
    except SystemExit as left:
        code = left.code
    error = capsys.readouterr().err.strip()
    assert code == 2 and message in error and len(error.splitlines()) == 1 and not (tmp_path / "out").exists()


def test_a_video_gives_a_video_and_rows_with_times(photos, astronaut, tmp_path, capsys):
    pytest.importorskip("av")
    with write_video(photos / "clip.mp4") as writer:
        for number in range(3):
            shown = np.asarray(astronaut) if number != 1 else np.full((64, 64, 3), 100, np.uint8)
            writer.write(shown, number / 2)
    (photos / "broken.mp4").write_bytes((photos / "clip.mp4").read_bytes()[:600])
    out = tmp_path / "found"
    assert main(typed(photos / "clip.mp4", photos / "broken.mp4", photos / "none.jpg", "--out", out)) == 1
    captured = capsys.readouterr()
    assert f"{out}: 1 image, 3 frames, 2 faces" in captured.out and "broken.mp4: expected a readable" in captured.err
    rows = json.loads((out / "detections.json").read_text())["images"]
    assert [(row["name"], row.get("frame"), row.get("seconds"), len(row["faces"])) for row in rows] == [
        ("clip.mp4", 0, 0.0, 1), ("clip.mp4", 1, 0.5, 0), ("clip.mp4", 2, 1.0, 1), ("none.jpg", None, None, 0)
    ]  # fmt: skip
    assert iou(np.array([rows[0]["faces"][0]["box"]]), FACE)[0, 0] >= 0.4
    drawn = list(read_frames(out / "clip.mp4"))
    assert [frame.seconds for frame in drawn] == pytest.approx([0, 0.5, 1], abs=1e-3)
    difference = np.abs(np.asarray(drawn[0].picture).astype(int) - np.asarray(astronaut))
    assert difference[5:24, 20:36].mean() > 2 * difference[40:].mean()  # a box is drawn
    assert not (out / "broken.mp4").exists()
