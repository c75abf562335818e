"""Python's ways: what people pass works, or is refused in one line."""

import numpy as np
import pytest
import torch

import tinygan
from tinygan.detect.detector import FaceDetector
from tinygan.errors import ConfigError, DataError


@pytest.mark.parametrize("kind", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("grad", [False, True])
def test_tensors_of_any_kind(stage, face, box, kind, grad):
    expected = stage.rescore(face, box.round(), [0.5])
    boxes = torch.tensor(box.round(), dtype=kind, requires_grad=grad)
    scores = torch.tensor([0.5], dtype=kind, requires_grad=grad)
    found = stage.rescore(face, boxes, scores)
    assert np.array_equal(found.boxes, expected.boxes) and np.array_equal(found.scores, expected.scores)
    assert len(tinygan.Detections(boxes, scores, {"mark": scores})) == 1


def test_lists_of_all_depths(stage, face, box):
    expected = stage.rescore(face, box, [0.5]).scores
    row = box[0].tolist()
    tensors = [torch.tensor(row, dtype=torch.float64, requires_grad=True)]
    for boxes in (
        [row],
        [tuple(row)],
        (tuple(row),),
        row,
        tensors,
        [[torch.tensor(v, dtype=torch.float64) for v in row]],
    ):
        assert np.allclose(stage.rescore(face, boxes, [0.5]).scores, expected)
    assert np.allclose(stage.rescore(face, [row], [torch.tensor(0.5, requires_grad=True)]).scores, expected)
    assert np.allclose(stage.rescore(face, tensors, 0.5).scores, expected)


@pytest.mark.parametrize(
    ("boxes", "scores"),
    [
        ([[1, 2, 3]], [0.5]),
        (np.ones((4, 3)), [0.5] * 3),  # transposed
        ([[1, 2, 3, 4]], [0.5, 0.5]),
        ("boxes", [0.5]),
        ([[1, 2, 3, 4], [1, 2]], [0.5, 0.5]),
        ([[1, 2, 3, np.nan]], [0.5]),
        ([[1, 2, 3, 4]], [None]),
        (None, [0.5]),
        (np.ones((1, 1, 4)), [0.5]),
    ],
)
def test_what_is_no_boxes_and_scores_is_one_line(stage, face, boxes, scores):
    with pytest.raises(DataError, match="expected boxes") as caught:
        stage.rescore(face, boxes, scores)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("device", ["cpu", torch.device("cpu"), None, "auto"])
def test_devices_by_all_their_names(face, box, stage, device):
    assert np.allclose(
        tinygan.SecondStage(device=device).rescore(face, box, [0.5]).scores,
        stage.rescore(face, box, [0.5]).scores,
        atol=0.02,
    )


@pytest.mark.parametrize(
    "device", [0, "cuda", torch.device("cuda"), torch.device("cuda:0"), torch.device("meta"), -1, "gpu"]
)
def test_devices_that_are_not_there(device):
    if torch.cuda.is_available() and "cuda" in str(device) + "cuda" * (device == 0):
        pytest.skip("it is there")
    for build in (tinygan.SecondStage, FaceDetector):
        with pytest.raises(ConfigError, match="--device"):
            build(device=device)


def test_many_images_are_detected_lazily_and_as_one_by_one(detector, face):
    drawn: list[int] = []

    def pictures():
        for number in range(5):
            drawn.append(number)
            yield face.resize((96 - 8 * number, 72 - 6 * number))

    many = detector.detect_many(pictures(), batch_size=2)
    assert drawn == []
    first = next(many)
    assert drawn == [0, 1]
    found = [first, *many]
    alone = [detector.detect(picture) for picture in pictures()]
    assert len(found) == 5 and all(len(one) for one in found)
    for one, other in zip(found, alone, strict=True):
        assert np.allclose(one.boxes, other.boxes, atol=1e-3) and np.allclose(one.scores, other.scores, atol=1e-4)
        assert one.fields["outcome"].tolist() == other.fields["outcome"].tolist()
    assert list(detector.detect_many([])) == []


def test_a_bad_image_comes_after_the_faces_before_it(detector, face, tmp_path):
    many = detector.detect_many([face, tmp_path / "absent.png", face], batch_size=8)
    assert len(next(many)) > 0
    with pytest.raises(DataError, match=r"absent\.png: no such image"):
        next(many)
    for wrong in ({"min_score": 2}, {"batch_size": 0}):
        with pytest.raises(DataError):
            detector.detect_many([face], **wrong)


def test_an_exception_inside_a_picture_is_no_silent_answer(stage, face, box, monkeypatch):
    def fail(*_):
        raise RuntimeError("of a bug")

    monkeypatch.setattr("tinygan.second_stage.judging.cut_regions", fail)
    with pytest.raises(DataError, match="image 1: failed: RuntimeError: of a bug"):
        list(stage.rescore_many([face, face], [tinygan.Detections.empty(), tinygan.Detections(box, np.array([0.5]))]))


def test_one_picture_is_no_several(detector, face):
    for one in (face, "a.png", 3):
        with pytest.raises(DataError, match="expected several pictures, a list or an iterator; got one"):
            detector.detect_many(one)
