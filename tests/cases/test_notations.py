"""Boxes in a wrong notation are told from right ones, and read rightly on request; so are scores."""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import tinygan
from proposals.adapters.callable import CallableProposer
from tests.cases.conftest import figures
from tinygan.cli.convert import main as convert
from tinygan.cli.rescore import main as rescore
from tinygan.cli.train import main as train
from tinygan.detections import Detections, FloatArray
from tinygan.errors import ConfigError, DataError
from tinygan.evaluate.truth import load_evaluation_truth
from tinygan.formats.dialect import AS_WRITTEN, Dialect, Notation, parse_notation
from tinygan.formats.names import list_images, match_names
from tinygan.formats.notation import from_corners, to_corners
from tinygan.formats.plausible import BoxCheck, explain_by_faces, explain_scores
from tinygan.formats.registry import open_detections
from tinygan.formats.sizes import read_size
from tinygan.formats.writing import write_wider
from tinygan.second_stage.plan import plan_rescoring
from tinygan.second_stage.rescoring import RescoreConfig

Plant = Callable[[FloatArray, FloatArray], FloatArray]  # corners and sizes [w, h, w, h] -> what is written as x y w h

# What a user writes by mistake, and what the warning has to name.
PLANTED: dict[str, tuple[Plant, str]] = {
    "parts of the size": (
        lambda boxes, size: from_corners(boxes, "xywh") / size, "x y w h in parts .* with --boxes relative$",
    ),
    "corners in parts of the size": (
        lambda boxes, size: boxes / size, "x1 y1 x2 y2 in parts .* with --boxes xyxy,relative$",
    ),
    "corners": (lambda boxes, size: boxes, "x1 y1 x2 y2 in pixels; .* with --boxes xyxy$"),
    "centres in parts of the size": (
        lambda boxes, size: from_corners(boxes, "cxcywh") / size, "cx cy w h in parts .* with --boxes cxcywh,relative$",
    ),
    "a picture twice as large": (
        lambda boxes, size: from_corners(boxes * 2, "xywh"), r"of a picture of another size, about 2\.[01] times as",
    ),
    "transposed": (
        lambda boxes, size: np.ascontiguousarray(from_corners(boxes, "xywh").T).reshape(-1, 4), r"transposed x y w h",
    ),
    "y before x": (lambda boxes, size: from_corners(boxes, "xywh")[:, [1, 0, 3, 2]], "y before x; write x first"),
}  # fmt: skip
# These leave all boxes within their pictures; it takes many boxes to see them.
PLANTED_IN_MANY: dict[str, tuple[Plant, str]] = {
    "centres": (
        lambda boxes, size: from_corners(boxes, "cxcywh"),
        "cx cy w h in pixels; read them with --boxes cxcywh$",
    ),
    "a picture half as large": (lambda boxes, size: from_corners(boxes / 2, "xywh"), "no box reaches beyond .* scale"),
}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> tuple[Path, dict[str, Detections], dict[str, FloatArray]]:
    """40 wide pictures with boxes everywhere in them, the corners included, and a few that hang over."""
    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(11)
    found, sizes = {}, {}
    for number in range(40):
        width, height = 640, 360
        Image.new("RGB", (width, height)).save(folder / f"{number}.png")
        side = rng.uniform(8, 60, (12, 2))
        corner = rng.uniform(0, 1, (12, 2)) * (np.array([width, height]) - side)
        corner[:2] = np.array([width, height]) - side[:2]
        boxes = np.concatenate([corner, corner + side], axis=1)
        if number % 4 == 0:
            boxes[2] = [-100, 100, 20, 240]
        found[str(number)] = Detections(boxes, rng.uniform(0.1, 0.9, 12))
        sizes[str(number)] = np.array([width, height, width, height], float)
    return folder, found, sizes


def write(path: Path, found: Mapping[str, Detections], sizes: Mapping[str, FloatArray], plant: Plant) -> Path:
    """A folder in the official format, in which planted numbers stand for ``x y w h``; rows by falling score."""
    planted = {}
    for name, one in found.items():
        by_score = one.sorted()
        planted[name] = Detections(to_corners(plant(by_score.boxes, sizes[name]), "xywh"), by_score.scores)
    write_wider(path, planted)
    return path


def warnings_of(caplog, proposals: Path, images: Path, dialect: Dialect = AS_WRITTEN) -> list[str]:
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        plan_rescoring(proposals, images, RescoreConfig(), dialect=dialect)
    return [record.getMessage() for record in caplog.records]


@pytest.mark.parametrize("kind", [*PLANTED, *PLANTED_IN_MANY])
def test_a_wrong_notation_is_named_in_one_sentence(kind, pictures, tmp_path, caplog):
    folder, found, sizes = pictures
    plant, expected = {**PLANTED, **PLANTED_IN_MANY}[kind]
    (message,) = warnings_of(caplog, write(tmp_path / "p", found, sizes, plant), folder)
    assert message.startswith(f"{tmp_path / 'p'}: ") and "\n" not in message
    assert re.search(expected, message), message


def test_right_boxes_are_let_be(pictures, tmp_path, caplog):
    folder, found, sizes = pictures
    right = write(tmp_path / "p", found, sizes, lambda boxes, size: from_corners(boxes, "xywh"))
    assert warnings_of(caplog, right, folder) == []


@pytest.mark.parametrize(
    ("kind", "boxes"),
    [
        ("parts of the size", "relative"), ("corners in parts of the size", "xyxy,relative"), ("corners", "xyxy"),
        ("centres in parts of the size", "relative,cxcywh"), ("centres", "cxcywh"),
    ],
)  # fmt: skip
def test_the_option_that_is_named_reads_them(kind, boxes, pictures, tmp_path, caplog):
    folder, found, sizes = pictures
    path = write(tmp_path / "p", found, sizes, {**PLANTED, **PLANTED_IN_MANY}[kind][0])
    dialect = Dialect(boxes=parse_notation(boxes), images=folder)
    assert warnings_of(caplog, path, folder, dialect) == []
    files = open_detections(path, dialect=dialect)
    assert all(np.allclose(files[name].boxes, one.sorted().boxes, atol=1e-9) for name, one in found.items())
    assert files.text("0").splitlines()[2].split()[4] == repr(float(found["0"].scores.max()))


def test_notations_of_the_option():
    assert parse_notation("XYXY, relative") == Notation("xyxy", True) and parse_notation("xywh") == Notation("xywh")
    for text in ("xyxy,cxcywh", "pixels", "", "relative,relative"):
        with pytest.raises(ConfigError, match=r"expected one of xywh\|xyxy\|cxcywh\|relative"):
            parse_notation(text)


def test_the_commands_warn_and_read(tiny_wider, checkpoint, tmp_path, capsys, caplog):
    images = tiny_wider.root / "WIDER_val/images"
    found = dict(open_detections(tiny_wider.proposals / "val"))
    sizes = {name: np.array([320.0, 240, 320, 240]) for name in found}
    write(tmp_path / "p", found, sizes, PLANTED["parts of the size"][0])
    words = ["--proposals", tmp_path / "p", "--images", images, "--checkpoint", checkpoint, "--device", "cpu"]
    assert rescore([str(word) for word in [*words, "--out", tmp_path / "wrong"]]) == 0
    assert caplog.text.count("read them with --boxes relative") == 1
    caplog.clear()
    assert rescore([str(word) for word in [*words, "--out", tmp_path / "right", "--boxes", "relative"]]) == 0
    assert "--boxes" not in caplog.text
    plain = ["--proposals", tiny_wider.proposals / "val", *words[2:]]
    assert rescore([str(word) for word in [*plain, "--out", tmp_path / "plain"]]) == 0
    right, expected = open_detections(tmp_path / "right"), open_detections(tmp_path / "plain")
    for name in expected:
        assert np.allclose(right[name].boxes, expected[name].boxes, atol=1e-4)
    with pytest.raises(SystemExit) as stopped:
        rescore([str(word) for word in [*words, "--out", tmp_path / "none", "--boxes", "pixels"]])
    assert stopped.value.code == 2 and "expected one of xywh|xyxy|cxcywh|relative" in capsys.readouterr().err


def test_training_warns_and_reads(tiny_wider, tiny_set, tmp_path, caplog):
    found = dict(open_detections(tiny_wider.proposals / "train"))
    sizes = {name: np.array([320.0, 240, 320, 240]) for name in found}
    write(tmp_path / "p", found, sizes, PLANTED["corners"][0])
    root = ["--data", str(tiny_wider.root), "--device", "cpu", *tiny_set]
    assert train(["--stage", "mse-init", *root, "--out", str(tmp_path / "mse")]) == 0
    gan = ["--stage", "gan", *root, "--init", str(tmp_path / "mse"), "--proposals", str(tmp_path / "p")]
    caplog.clear()
    assert train([*gan, "--out", str(tmp_path / "right"), "--boxes", "xyxy"]) == 0
    assert "--boxes" not in caplog.text and "# dialect: boxes xyxy" in (tmp_path / "right/config.yaml").read_text()
    assert train([*gan, "--out", str(tmp_path / "wrong")]) == 0
    assert caplog.text.count("x1 y1 x2 y2 in pixels; read them with --boxes xyxy") == 1


def test_the_pictures_that_relative_boxes_lack_are_skipped_and_counted(pictures, tmp_path, checkpoint, capsys):
    folder, found, sizes = pictures
    (tmp_path / "some").mkdir()
    for name in ("0", "1"):
        (tmp_path / f"some/{name}.png").symlink_to(folder / f"{name}.png")
    some = {name: found[name] for name in ("0", "1", "2")}
    write(tmp_path / "p", some, sizes, PLANTED["parts of the size"][0])
    words = ["--proposals", tmp_path / "p", "--images", tmp_path / "some", "--checkpoint", checkpoint, "--out",
             tmp_path / "out", "--boxes", "relative", "--device", "cpu"]  # fmt: skip
    assert rescore([str(word) for word in words]) == 1
    error = capsys.readouterr().err
    assert "2: not on disk" in error and "1 without a size" in error
    assert sorted(open_detections(tmp_path / "out")) == ["0", "1"]


@pytest.fixture
def stage(checkpoint) -> tinygan.SecondStage:
    return tinygan.SecondStage(checkpoint, device="cpu")


PICTURE = np.zeros((240, 320, 3), np.uint8)
CORNERS = np.array([[10.0, 20, 40, 60], [200, 100, 232, 140], [280, 180, 318, 238]])


@pytest.mark.parametrize(
    ("boxes", "message"),
    [
        (CORNERS / [320, 240, 320, 240], "x1 y1 x2 y2 in parts of the picture's size"),
        (from_corners(CORNERS, "xywh")[1:], "x y w h in pixels"),
        (from_corners(CORNERS, "cxcywh")[1:], "in pixels"),
        (CORNERS[1:] * 4, "of a picture of another size"),
        (CORNERS.T, r"got \[4, 3\]"),
        (CORNERS[:, [0, 1, 0, 1]], "expected boxes x1, y1, x2, y2 in pixels"),
    ],
)
def test_python_refuses_what_are_no_corners_in_pixels(boxes, message, stage):
    with pytest.raises(DataError, match=message):
        stage.rescore(PICTURE, boxes, np.full(boxes.shape[0] if boxes.shape[1] == 4 else boxes.shape[1], 0.5))


def test_python_takes_a_face_larger_than_its_picture(stage):
    assert len(stage.rescore(PICTURE, [[-80, -60, 390, 300]], [0.9])) == 1
    assert len(stage.rescore(PICTURE, [10.0, 20, 40, 60], [0.9])) == 1
    with pytest.raises(DataError, match="of a picture of another size, about 3.2 times"):
        stage.rescore(PICTURE, [[900, 700, 950, 760]], [0.9])


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        ([12.5, 99, 88, 3], "to 99: they look like percent; divide them by 100"),
        ([0.5, 1.0000001], "1 of 2 are slightly above 1; clip them to 1, or divide all by 1"),
        ([0.5, -3, 8], "they look like logits; map them there first, e.g. by a sigmoid"),
        ([0.5, 7], "divide percent by 100, map logits there by a sigmoid"),
        ([0.5, 255], "divide them by 255"),
    ],
)
def test_scores_that_are_no_probabilities(scores, message, stage):
    boxes = np.tile(CORNERS, (2, 1))[: len(scores)]
    with pytest.raises(DataError, match=message):
        stage.rescore(PICTURE, boxes, scores)


def test_scores_in_percent_are_judged_by_all_files(pictures, tmp_path):
    folder, found, _ = pictures
    low, high = ({name: Detections(found[name].boxes, found[name].scores * by)} for name, by in (("0", 3), ("1", 100)))
    write_wider(tmp_path / "p", {**low, **high})
    with pytest.raises(DataError, match=r"0\.txt: .* they look like percent; divide them by 100"):
        plan_rescoring(tmp_path / "p", folder, RescoreConfig())
    assert explain_scores(np.array([0.0, 1.0])) is None and explain_scores(np.zeros(0)) is None


def test_real_detectors_are_let_be_and_planted_notations_found(shared_data, tmp_path, caplog):
    folder = shared_data / "widerface/WIDER_val/images"
    names = list_images(folder)
    detectors = [*(shared_data / "proposals").glob("*.tar.gz"), *(shared_data / "proposals/zoo").glob("*.tar.gz")]
    assert len(detectors) >= 8
    for path in detectors:
        files = open_detections(path)
        of_image = {image: files[file].sorted() for image, file in match_names(files, names).items()}
        sizes = {name: np.tile(read_size(folder / name), 2).astype(float) for name in of_image}
        pictures = {name: folder / name for name in of_image}
        plants: dict[str, tuple[Plant, str]] = {"": (lambda boxes, size: from_corners(boxes, "xywh"), ""), **PLANTED}
        for kind, (plant, expected) in plants.items():
            caplog.clear()
            check = BoxCheck(pictures, of_image)
            for name, one in of_image.items():
                boxes = to_corners(plant(one.boxes, sizes[name]), "xywh")
                check.add(name, Detections(boxes, one.scores))
            check.warn(files)
            messages = [record.getMessage() for record in caplog.records]
            assert len(messages) == bool(kind), f"{path.name}, {kind or 'as it is'}: {messages}"
            assert not kind or re.search(expected, messages[0]), f"{path.name}, {kind}: {messages}"


FUNCTIONS = """
def right(image): return [[33, 10, 50, 33.0]], [0.87]
def padded(image): return [[33, 10, 50, 33.0]] + [[0, 0, 0, 0]] * 99, [0.87] + [0] * 99
def percent(image): return [[33, 10, 50, 33.0]], [87.0]
def logits(image): return [[33, 10, 50, 33.0]], [-2.0]
def above(image): return [[33, 10, 50, 33.0]], [1.0000001]
def relative(image): return [[0.33, 0.1, 0.5, 0.33]], [0.87]
def sizes(image): return [[60, 40, 20, 20.0], [33, 40, 17, 23]], [0.87, 0.5]
"""
WRONG = {
    "percent": "to 87: they look like percent; divide them by 100",
    "logits": "they look like logits; map them there first, e.g. by a sigmoid",
    "above": "1 of 1 are slightly above 1; clip them to 1",
    "relative": "expected boxes x1, y1, x2, y2 in pixels of the picture: they look like x1 y1 x2 y2 in parts",
    "sizes": "expected boxes x1, y1, x2, y2 in pixels of the picture: they look like x y w h in pixels",
}


@pytest.mark.parametrize("name", ["right", "padded", *WRONG])
def test_what_a_detector_function_returns_is_checked(name, face, tmp_path, run, capsys, monkeypatch):
    (tmp_path / "functions_of_test.py").write_text(FUNCTIONS)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "images").mkdir()
    for picture in ("a.png", "b.png"):
        face.save(tmp_path / "images" / picture)
    words = ("--out", tmp_path / "p", "--proposer", "callable", "--set", f"function=functions_of_test:{name}")
    code, captured = run("propose", "--images", tmp_path / "images", *words), capsys.readouterr()
    monkeypatch.delitem(sys.modules, "functions_of_test")
    if name not in WRONG:
        assert code == 0 and all(
            one.boxes.tolist() == [[33, 10, 50, 33]] for one in open_detections(tmp_path / "p").values()
        )
        return
    assert code == 2 and WRONG[name] in captured.err.splitlines()[-1] and not list((tmp_path / "p").glob("*.txt"))


def test_a_detector_function_of_percent_stops_both_stages_at_once(face):
    first = CallableProposer(lambda image: ([[33, 10, 50, 33.0]], [87.0]))
    with pytest.raises(ConfigError, match="they look like percent; divide them by 100"):
        tinygan.FaceDetector(first, device="cpu").detect(face)


EVALUATED = {  # what is written as x y w h, and what the warning has to name
    "corners": (lambda boxes: boxes, "x1 y1 x2 y2 in pixels; read them with --boxes xyxy"),
    "centres": (lambda boxes: from_corners(boxes, "cxcywh"), "cx cy w h in pixels; read them with --boxes cxcywh"),
    "y before x": (lambda boxes: from_corners(boxes, "xywh")[:, [1, 0, 3, 2]], "y before x; write x first"),
}


@pytest.mark.parametrize("kind", EVALUATED)
def test_evaluating_tells_a_wrong_notation_by_the_faces(kind, case, tmp_path, caplog):
    plant, expected = EVALUATED[kind]
    planted = {n: Detections(to_corners(plant(one.boxes), "xywh"), one.scores) for n, one in case.found.items()}
    write_wider(tmp_path / "d", planted)
    wrong = figures(case, tmp_path / "d")
    (message,) = [record.getMessage() for record in caplog.records]
    assert re.fullmatch(rf".*: \d of the 15 best boxes hit a face, and 1\d would if they are {expected}", message), (
        message
    )
    caplog.clear()
    right = figures(case, case.folder / "official")
    assert caplog.text == "" and wrong["ap_exact"] < right["ap_exact"] / 2
    if "--boxes" in expected:
        assert figures(case, tmp_path / "d", "--boxes", expected.split()[-1]) == pytest.approx(right, abs=1e-9)
        assert caplog.text == ""


def test_evaluating_tells_boxes_of_another_picture_by_the_pictures(case, tmp_path, caplog):
    write_wider(tmp_path / "d", {n: Detections(one.boxes * 4, one.scores) for n, one in case.found.items()})
    figures(case, tmp_path / "d", "--images", case.folder / "images")
    assert caplog.text.count("they look like boxes of a picture of another size") == 1
    caplog.clear()
    figures(case, case.folder / "official", "--images", case.folder / "images")
    assert caplog.text == ""


def test_converting_boxes_in_parts_of_a_picture_warns(case, tmp_path, caplog):
    write_wider(tmp_path / "d", {n: Detections(one.boxes / 400, one.scores) for n, one in case.found.items()})
    assert convert([str(tmp_path / "d"), "--to", "csv", "--out", str(tmp_path / "d.csv")]) == 0
    assert caplog.text.count("100% of 24 boxes have no area or are below 1.5 px") == 1


def test_real_detectors_hit_faces_as_they_are(shared_data):
    truth = load_evaluation_truth(shared_data / "widerface/eval").faces
    names = list_images(shared_data / "widerface/WIDER_val/images")
    of_truth = match_names(truth, names)
    for path in [*(shared_data / "proposals").glob("*.tar.gz"), *(shared_data / "proposals/zoo").glob("*.tar.gz")]:
        files = open_detections(path)
        found = {of_truth[n]: files[file] for n, file in match_names(files, names).items() if n in of_truth}
        assert len(found) > 200 and explain_by_faces(found, truth, "xywh") is None, path.name
        for plant, expected in EVALUATED.values():
            planted = {n: Detections(to_corners(plant(one.boxes), "xywh"), one.scores) for n, one in found.items()}
            assert str(explain_by_faces(planted, truth, "xywh")).endswith(expected), path.name
