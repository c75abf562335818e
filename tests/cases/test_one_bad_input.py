"""One bad input costs that input: it is skipped, named with its reason, and the exit code is 1."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import proposals.engine
import tinygan.second_stage.judging
from proposals.adapters.callable import CallableProposer
from proposals.cli.train import main as train_proposer
from tests.cases.conftest import damaged_folder
from tests.proposals.cli.test_train import TINY
from tinygan.cli.convert import main as convert
from tinygan.cli.evaluate import main as evaluate
from tinygan.cli.train import main as train
from tinygan.detect.results import open_results
from tinygan.detect.run import DetectConfig, detect_all
from tinygan.detect.sources import Source
from tinygan.detect.video import read_frames
from tinygan.detections import Detections, GroundTruth
from tinygan.errors import DataError
from tinygan.formats.registry import open_detections
from tinygan.formats.wider import format_detections, format_ground_truth
from tinygan.formats.writing import write_wider

ROOT = Path(__file__).resolve().parents[2]


def report_of(path: Path) -> dict:
    return json.loads(path.read_text())


def test_a_mixed_folder_adds_up_in_every_command(face, tmp_path, run, capsys):
    images, good, bad = damaged_folder(face, tmp_path / "images")
    report = tmp_path / "report.json"
    assert run("propose", "--images", images, "--out", tmp_path / "p", "--report", report) == 1
    error, counts = capsys.readouterr().err, report_of(report)
    assert counts["images"] == len(good) and counts["unreadable"] == len(bad) and counts["unread"] == 2
    assert all(f"{name}: " in error for name in bad) and "expected a readable image: " in error
    assert f"{len(bad)} images were skipped: 0 missing, {len(bad)} unreadable, 0 failed" in error
    proposed = open_detections(tmp_path / "p")
    assert len(proposed) == len(good) and sum(map(len, proposed.values())) == counts["boxes"]

    for stray in ("README.txt", "._twin.png.txt", "event/blank.txt"):
        (tmp_path / "p" / stray).parent.mkdir(exist_ok=True)
        (tmp_path / "p" / stray).write_bytes(b"" if "blank" in stray else b"\0\5\x16\7 no proposals")
    face.save(images / "event/blank.png")
    words = ("--proposals", tmp_path / "p", "--images", images, "--out", tmp_path / "r", "--report", report)
    assert run("rescore", *words) == 1
    error, counts = capsys.readouterr().err, report_of(report)
    assert counts["images"] == len(good) and counts["unusable"] == 2 and counts["without_proposals"] == len(bad)
    assert counts["proposals"] == counts["written"] + counts["merged"] == counts["rescored"] + counts["passed_through"]
    assert "README.txt" in error and "event/blank.txt: is empty, expected proposals" in error and "._twin" not in error
    assert len(open_detections(tmp_path / "r")) == len(good)

    (images / "event/blank.png").unlink()
    (images / "anim.gif").unlink()  # a video to tinygan-detect
    assert run("detect", images, "--out", tmp_path / "d") == 1
    captured = capsys.readouterr()
    tables = report_of(tmp_path / "d/detections.json")["images"]
    assert f"{len(good)} images" in captured.out and f"skipped: {len(bad)} inputs" in captured.err
    assert all(f"{name}: " in captured.err for name in bad)
    assert {image["name"] for image in tables} == set(good)
    assert len(list((tmp_path / "d").rglob("*.png"))) == len(good)


def test_a_mixed_folder_adds_up_where_boxes_need_the_sizes_of_pictures(face, box, tmp_path, capsys):
    """YOLO's texts, as detections and as annotations; a picture that breaks off still has the size its header says."""
    images, good, bad = damaged_folder(face, tmp_path / "images")
    sizeless = [name for name in bad if name not in ("cut.png", "cut.jpg", "sum.png")]
    row = " ".join(f"{part}" for part in (42.15 / 96, 21.75 / 72, 17.1 / 96, 23.1 / 72))
    ellipses = []
    for name in [*good, *bad]:
        for folder, end in (("found", " 0.9"), ("truth", "")):
            (tmp_path / folder / f"{name}.txt").parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / folder / f"{name}.txt").write_text(f"0 {row}{end}\n")
        ellipses.append(f"{name}\n1\n11.55 8.55 1.5707963 42.15 21.75 1\n")
    (tmp_path / "found/notes.txt").write_text("Boxes of a detector, which are\nno boxes.\n")
    (tmp_path / "folds").mkdir()
    (tmp_path / "folds/FDDB-fold-01-ellipseList.txt").write_text("".join(ellipses))
    usable = len(good) + len(bad) - len(sizeless)

    def run(body, *words):
        assert body([str(word) for word in (*words, "--images", images)]) == 1
        captured = capsys.readouterr()
        assert all(f"{name}: expected an image whose size can be read" in captured.err for name in sizeless)
        return captured

    captured = run(convert, tmp_path / "found", "--to", "csv", "--out", tmp_path / "found.csv")
    assert f"yolo to csv, {usable} images, {usable} boxes" in captured.out
    assert f"{len(sizeless) + 1} files were left out" in captured.err and "notes: " in captured.err
    table = open_detections(tmp_path / "found.csv")
    assert len(table) == usable and np.allclose(table["twin.JPG"].boxes, box, atol=1e-6)
    for protocol in ("wider", "voc", "coco"):
        report = tmp_path / f"{protocol}.json"
        words = ("--detections", tmp_path / "found", "--ground-truth", tmp_path / "truth", "--json", report)
        captured = run(evaluate, protocol, *words)
        counts = report_of(report)
        assert counts["images"] == counts["detections"]["boxes"] == usable
        assert f"{len(sizeless)} inputs of the ground truth could not be read" in captured.err
        assert "notes: " in captured.err
    words = ("fddb", "--detections", tmp_path / "found.csv", "--ground-truth", tmp_path / "folds")
    report = tmp_path / "fddb.json"
    run(evaluate, *words, "--json", report)
    assert report_of(report)["images"] == len(good) + len(bad)
    assert report_of(report)["detections"]["images_without_size"] == len(sizeless)


def test_a_mixed_folder_adds_up_in_training(face, box, tmp_path, tiny_set, capsys):
    """All stages read all pictures, but for fusion (the hold-out) and a first stage (pictures at random)."""
    (tmp_path / "data/WIDER_train").mkdir(parents=True)
    images, good, bad = damaged_folder(face, tmp_path / "data/WIDER_train/images")
    (images / "event/pixel.bmp").unlink()  # which has no room for a face
    good.remove("event/pixel.bmp")
    faces = {name: GroundTruth(box, np.zeros(1, bool)) for name in [*good, *bad]}
    found = Detections(np.concatenate([box, box + np.array([20, 30, 20, 30])]), np.array([0.9, 0.4]))
    write_wider(tmp_path / "p", dict.fromkeys(faces, found))
    (tmp_path / "data/wider_face_split").mkdir()
    (tmp_path / "data/wider_face_split/wider_face_train_bbx_gt.txt").write_text(format_ground_truth(faces))
    common = ["--data", tmp_path / "data", "--device", "cpu", "--threads", "1"]
    short = [word for one in ("mse_init.epochs=1", "gan.epochs=1", "judge.epochs=1") for word in ("--set", one)]
    first = [word for one in (*TINY, "loop.epochs=1", "evaluate_images=1") for word in ("--set", one)]
    stages = {stage: ["--stage", stage, *tiny_set, *short] for stage in ("mse-init", "gan", "judge", "fusion")}
    for stage, before in (("gan", "mse-init"), ("judge", "gan"), ("fusion", "judge")):
        stages[stage] += ["--init", tmp_path / before, "--proposals", tmp_path / "p"]
    for stage, words in {**stages, "first": first}.items():
        body = train_proposer if stage == "first" else train
        assert body([str(word) for word in (*words, "--out", tmp_path / stage, *common)]) == 1, stage
        error = capsys.readouterr().err
        named = [name for name in bad if f"{name}: " in error]
        holdout = (tmp_path / "mse-init/holdout.txt").read_text().split("\n")
        expected = [name for name in bad if name in holdout] if stage == "fusion" else bad
        assert named and (named == expected or stage == "first"), stage
        assert f"{len(named)} images could not be read and were skipped" in error
        assert not any(f"{name}: " in error for name in good)


def test_an_unexpected_exception_costs_its_picture(images, tmp_path, run, capsys, monkeypatch):
    cut = tinygan.second_stage.judging.cut_regions
    proposing = proposals.engine.read_image

    def cut_one(image, *more):
        if image.halved(0).getpixel((0, 0)) == (1, 2, 3):
            raise ZeroDivisionError("of a bug")
        return cut(image, *more)

    marked = Image.open(images / "b.png").copy()
    marked.putpixel((0, 0), (1, 2, 3))
    marked.save(images / "b.png")
    assert run("propose", "--images", images, "--out", tmp_path / "p") == 0
    monkeypatch.setattr(tinygan.second_stage.judging, "cut_regions", cut_one)
    capsys.readouterr()
    assert run("rescore", "--proposals", tmp_path / "p", "--images", images, "--out", tmp_path / "r") == 1
    assert "b.png: failed: ZeroDivisionError: of a bug; proposals kept" in capsys.readouterr().err
    assert (tmp_path / "r/b.txt").read_text() == (tmp_path / "p/b.txt").read_text()
    assert open_detections(tmp_path / "r")["a"].scores[0] != open_detections(tmp_path / "p")["a"].scores[0]
    assert run("detect", images, "--out", tmp_path / "d") == 1
    assert "b.png" in capsys.readouterr().err and {file.name for file in (tmp_path / "d").glob("*.png")} == {
        "a.png",
        "c.png",
    }

    def run_out(path, orientation):
        if path.name == "c.png":
            raise DataError(f"{path}: made up")
        return proposing(path, orientation)

    monkeypatch.setattr(proposals.engine, "read_image", run_out)
    assert (
        run("propose", "--images", images, "--out", tmp_path / "q") == 1 and len(open_detections(tmp_path / "q")) == 2
    )


def test_a_first_stage_that_fails_on_one_image_of_a_batch(images, tmp_path, capsys):
    from proposals.engine import plan_proposing, propose_all
    from tinygan.formats.writing import DetectionWriter

    Image.new("RGB", (30, 20)).save(images / "b.png")

    class Fragile:
        def propose(self, tensors):
            if any(tensor.shape[2] == 30 for tensor in tensors):
                raise RuntimeError("shape")
            return [Detections(np.array([[1.0, 2, 9, 9]]), np.array([0.5])) for _ in tensors]

    report = propose_all(plan_proposing(images), Fragile(), DetectionWriter(tmp_path / "p"), batch_size=3)
    assert report.images == 2 and report.failed == ["b.png: failed: RuntimeError: shape"]
    Fragile.side_by_side = 2
    report = propose_all(plan_proposing(images), Fragile(), DetectionWriter(tmp_path / "r"))
    assert report.images == 2 and report.failed == ["b.png: failed: RuntimeError: shape"]
    (images / "a.png").unlink()
    (images / "c.png").unlink()
    with pytest.raises(DataError, match=r"b\.png: failed: RuntimeError: shape"):  # nothing was done
        propose_all(plan_proposing(images), Fragile(), DetectionWriter(tmp_path / "q"))


@pytest.mark.parametrize(
    "nothing", [None, (None, None), ([], []), (np.zeros((0, 4)), np.zeros(0)), (), [], np.zeros((0, 5))]
)
def test_a_detector_function_that_returns_nothing_found_no_face(nothing):
    import torch

    (found,) = CallableProposer(lambda image: nothing).propose([torch.zeros(3, 20, 30, dtype=torch.uint8)])
    assert len(found) == 0 and found.boxes.shape == (0, 4)


def test_what_else_a_detector_function_may_return():
    import torch

    image, box = torch.zeros(3, 20, 30, dtype=torch.uint8), np.array([[1.0, 2, 9, 9]])
    whole = np.hstack([box, [[0.5]]])
    for answer in (whole, torch.tensor(whole), Detections(box, np.array([0.5])), [box, [0.5]]):
        (found,) = CallableProposer(lambda image, answer=answer: answer).propose([image])
        assert found.boxes.tolist() == box.tolist() and found.scores.tolist() == [0.5]
    with pytest.raises(DataError, match=r"got one array \[1, 4\], expected boxes and scores, or \[N, 5\]"):
        CallableProposer(lambda image: box).propose([image])


def test_two_pictures_of_one_stem_get_two_outputs(images, face, tmp_path, run):
    face.resize((48, 36)).save(images / "a.JPG", "jpeg")
    (images / "event").mkdir()
    face.save(images / "event/a.png")
    assert run("propose", "--images", images, "--out", tmp_path / "p") == 0
    names = ["a.JPG.txt", "a.png.txt", "b.txt", "c.txt", "event/a.txt"]
    assert sorted(f.relative_to(tmp_path / "p").as_posix() for f in (tmp_path / "p").rglob("*.txt")) == names
    assert (
        open_detections(tmp_path / "p")["a.JPG"].boxes.max()
        <= 48
        < open_detections(tmp_path / "p")["a.png"].boxes.max()
    )
    assert run("rescore", "--proposals", tmp_path / "p", "--images", images, "--out", tmp_path / "r") == 0
    assert sorted(f.relative_to(tmp_path / "r").as_posix() for f in (tmp_path / "r").rglob("*.txt")) == names
    assert (tmp_path / "r/a.JPG.txt").read_text().splitlines()[0] == "a.JPG"
    assert run("rescore", "--proposals", tmp_path / "p", "--images", images, "--out", tmp_path / "r", "--resume") == 0
    assert run("detect", images, "--out", tmp_path / "d") == 0
    assert {f.name for f in (tmp_path / "d").glob("*.png")} == {"a.JPG.png", "a.png.png", "b.png", "c.png"}


def test_a_malformed_line_of_an_images_proposals_is_still_an_error(images, tmp_path, run, capsys):
    (tmp_path / "p").mkdir()
    for name in ("a", "b"):
        (tmp_path / f"p/{name}.txt").write_text(format_detections(name, Detections(np.ones((1, 4)), np.ones(1) / 2)))
    (tmp_path / "p/c.txt").write_text("c\n1\n1 2 3\n")
    assert run("rescore", "--proposals", tmp_path / "p", "--images", images, "--out", tmp_path / "r") == 2
    assert "c.txt:3: expected 'x y w h score'" in capsys.readouterr().err


CODECS = [
    ("libvpx-vp9", "yuv420p", "webm"),
    ("prores_ks", "yuv422p10le", "mov"),
    ("mjpeg", "yuvj420p", "avi"),
    ("mpeg4", "yuv420p", "mp4"),
]


def damaged_video(path: Path, codec: str, pixel_format: str, damaged: int) -> None:
    """Twelve frames that grow brighter; the packet of one of them is zeros."""
    av = pytest.importorskip("av")
    if codec not in av.codecs_available:
        pytest.skip(f"this PyAV has no {codec}")
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=10)
        stream.width, stream.height, stream.pix_fmt = 96, 64, pixel_format
        if codec == "libvpx-vp9":
            stream.options = {"deadline": "realtime", "lag-in-frames": "0"}
        frames = [av.VideoFrame.from_ndarray(np.full((64, 96, 3), 20 * n, np.uint8), format="rgb24") for n in range(12)]
        packets = [packet for frame in (*frames, None) for packet in stream.encode(frame)]
        for number, packet in enumerate(packets):
            if number == damaged:
                broken = av.Packet(bytes(packet.size))
                broken.pts, broken.dts, broken.time_base, broken.stream = (
                    packet.pts,
                    packet.dts,
                    packet.time_base,
                    stream,
                )
                packet = broken
            container.mux(packet)


@pytest.mark.parametrize(("codec", "pixel_format", "suffix"), CODECS)
def test_a_damaged_packet_costs_its_frame(tmp_path, codec, pixel_format, suffix):
    path = tmp_path / f"a.{suffix}"
    damaged_video(path, codec, pixel_format, damaged=4)
    damage: list[str] = []
    frames = list(read_frames(path, damage))
    assert [frame.number for frame in frames] == [0, 1, 2, 3, 5, 6, 7, 8, 9, 10, 11]
    assert [frame.seconds for frame in frames] == pytest.approx([n / 10 for n in range(12) if n != 4], abs=1e-3)
    assert len(damage) == 1 and "damaged in 1 place (" in damage[0] and "the 11 frames around are kept" in damage[0]
    assert abs(np.asarray(frames[3].picture).mean() - 60) < 8


def h264_video(path: Path, spoil: Callable[[int, bytes], bytes | None], frames: int = 24) -> None:
    """A texture that moves; every sixth frame stands alone, and all others refer to the one before."""
    av = pytest.importorskip("av")
    if "libx264" not in av.codecs_available:
        pytest.skip("this PyAV has no libx264")
    texture = np.random.default_rng(0).integers(0, 255, (64, 96, 3), np.uint8)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10, options={"g": "6", "bf": "0"})
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        pictures = [av.VideoFrame.from_ndarray(np.roll(texture, 3 * n, 1), format="rgb24") for n in range(frames)]
        for number, packet in enumerate([p for picture in (*pictures, None) for p in stream.encode(picture)]):
            content = spoil(number, bytes(packet))
            if content is not None:
                broken = av.Packet(content)
                broken.pts, broken.dts, broken.time_base = packet.pts, packet.dts, packet.time_base
                broken.is_keyframe, broken.stream = packet.is_keyframe, stream
                container.mux(broken)


@pytest.mark.parametrize("suffix", ["mp4", "avi", "mkv"])
@pytest.mark.parametrize("damaged", [None, 7, 12])
def test_h264_says_which_frames_its_decoder_made_up(tmp_path, suffix, damaged):
    def halve(number: int, content: bytes) -> bytes:
        half = len(content) // 2
        return content[:half] + bytes(len(content) - half) if number == damaged else content

    h264_video(tmp_path / f"a.{suffix}", halve)
    damage: list[str] = []
    assert [frame.number for frame in read_frames(tmp_path / f"a.{suffix}", damage)] == list(range(24))
    said = f"{tmp_path}/a.{suffix}: 1 frame could be decoded in part; the 24 frames around are kept"
    assert damage == ([] if damaged is None else [said])


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_h264_frames_that_are_lost_in_silence_are_counted(tmp_path, suffix):
    h264_video(tmp_path / f"a.{suffix}", lambda number, content: None if number == 6 else content)
    damage: list[str] = []
    frames = list(read_frames(tmp_path / f"a.{suffix}", damage))
    lost = 23 - len(frames)
    assert lost >= 3, "the frames that refer to the one left out"
    assert f"{lost} frames could not be decoded; the {len(frames)} frames around are kept" in damage[0]
    seconds = [frame.seconds for frame in frames]
    assert seconds[:6] == pytest.approx([n / 10 for n in range(6)], abs=2e-3)
    assert seconds[-1] == pytest.approx(2.3, abs=2e-3)


def test_a_lossy_h264_video_ends_with_exit_code_1(tmp_path, run, capsys):
    h264_video(tmp_path / "a.mp4", lambda number, content: None if number == 6 else content, 12)
    assert run("detect", tmp_path / "a.mp4", "--out", tmp_path / "d", "--no-pictures") == 1
    assert "frames could not be decoded; the" in capsys.readouterr().err


class NoFace:
    """A detector that finds nothing."""

    side_by_side = 1

    def detect(self, image, min_score):
        fields = {"proposal_score": [], "face_logit": [], "proposal_box": np.zeros((0, 4)), "outcome": []}
        return Detections(np.zeros((0, 4)), np.zeros(0), fields)


def test_a_damaged_video_is_listed_also_when_its_run_is_continued(tmp_path):
    damaged_video(tmp_path / "a.avi", "mjpeg", "yuvj420p", damaged=2)
    for resume in (False, True):
        with open_results(tmp_path / "out", {}, resume=resume, overwrite=False) as results:
            source = Source("a.avi", tmp_path / "a.avi")
            skipped = detect_all(NoFace(), [source], results, DetectConfig())
            assert results.write_tables({}).frames == 11
        assert len(skipped) == 1 and "damaged in 1 place" in skipped[0]


def test_odd_inputs_beside_good_ones(images, tmp_path, run, capsys):
    (tmp_path / "notes.txt").touch()
    (tmp_path / "empty").mkdir()
    words = (images / "a.png", tmp_path / "notes.txt", tmp_path / "empty")
    assert run("detect", *words, "--out", tmp_path / "d", "--no-pictures") == 1
    captured = capsys.readouterr()
    assert "1 image, " in captured.out and "skipped: 2 inputs" in captured.err
    assert "notes.txt: expected an image" in captured.err and "empty: holds no image and no video" in captured.err


def test_a_name_that_is_not_utf8_costs_its_picture(images, face, tmp_path, run, capsys):
    try:
        face.save(os.fsdecode(os.fsencode(images) + b"/caf\xe9.png"))
    except OSError:
        pytest.skip("this file system has UTF-8 names alone")
    assert run("propose", "--images", images, "--out", tmp_path / "p") == 1
    assert "cannot be written as UTF-8" in capsys.readouterr().err and len(open_detections(tmp_path / "p")) == 3
    assert run("detect", images, "--out", tmp_path / "d", "--no-pictures") == 1
    assert "expected a name in UTF-8" in capsys.readouterr().err


PRINT = """
import sys
from tinygan.cli.common import make_parser, list_skipped, run_command
def body(arguments):
    print("\u5bb6.png: \u2026 done")
    for _ in range(int(sys.argv[1])):
        print("a line")
    return list_skipped("skipped: 1 input", ["\u5bb6.png: damaged"])
sys.exit(run_command(make_parser("t", "t"), body, []))
"""


def test_a_terminal_without_these_characters_does_not_fail_the_run():
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", PRINT, "0"], capture_output=True, env=environment, timeout=60)
    assert done.returncode == 1 and done.stdout == b"\\u5bb6.png: \\u2026 done\n"
    assert b"\\u5bb6.png: damaged" in done.stderr


@pytest.mark.parametrize("lines", [0, 100_000])
def test_a_reader_that_leaves_does_not_fail_the_run(lines):
    code = [sys.executable, "-c", PRINT, str(lines)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "utf-8"}
    process = subprocess.Popen(code, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment)
    process.stdout.close()  # as `| head` does, sooner or later
    error = process.stderr.read()
    process.stderr.close()
    assert process.wait(60) == 1 and b"damaged" in error and b"Broken" not in error and b"Traceback" not in error
