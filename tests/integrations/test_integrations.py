"""The second stage in other people's pipelines, with their real packages; examples of the documentation as printed."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from skimage import data

import tinygan
from tinygan.errors import DataError
from tinygan.integrations.huggingface import rescore_huggingface
from tinygan.integrations.insightface import rescore_insightface
from tinygan.integrations.opencv import rescore_opencv
from tinygan.integrations.sahi import rescore_sahi
from tinygan.integrations.supervision import rescore_supervision
from tinygan.integrations.ultralytics import rescore_ultralytics
from tinygan.proposers import choose_proposer
from tinygan.runtime import Runtime, RuntimeOptions

DOCS = Path(__file__).resolve().parents[2] / "docs"
ASTRONAUT = data.astronaut()
FACE = np.array([179.0, 55, 270, 178])
BOXES = np.array([[10.25, 300, 60, 380], [183.5, 60.25, 262.5, 172.75], [400, 20, 480.5, 100]])
SCORES = np.array([0.55, 0.5, 0.45])


@pytest.fixture(scope="module")
def stage():
    return tinygan.SecondStage("lite", device="cpu")


@pytest.fixture(scope="module")
def expected(stage):
    """What the second stage says of the same boxes, asked directly."""
    found = stage.rescore(ASTRONAUT, BOXES, SCORES)
    assert np.abs(found.boxes[0] - FACE).max() < 25 and len(found) >= 1, "the face comes first"
    return found


def check(boxes, scores, expected, tolerance=1e-3):
    """The same boxes and scores as asked directly; none of them rounded."""
    assert len(boxes) == len(expected)
    assert np.abs(np.asarray(boxes) - expected.boxes.clip(0, 512)).max() < tolerance
    assert np.abs(np.asarray(scores) - expected.scores).max() < 1e-6


def example(page):
    """The Python of a page, of ten lines or fewer."""
    (code,) = re.findall(r"```python\n(.*?)```", (DOCS / f"behind/{page}.md").read_text(), flags=re.S)
    assert len(code.strip().splitlines()) <= 10
    return code


def run(page, **names):
    exec(compile(example(page), f"{page}.md", "exec"), names)
    return names


def bgr_file(folder):
    path = folder / "photo.png"
    Image.fromarray(ASTRONAUT).save(path)
    return str(path)


@pytest.mark.integration
@pytest.mark.filterwarnings("ignore")
def test_sahi(stage, expected, tmp_path):
    pytest.importorskip("sahi")
    from sahi.models.base import DetectionModel
    from sahi.prediction import ObjectPrediction, PredictionResult

    class OurYuNet(DetectionModel):
        """As SAHI's documentation says how a detector of one's own is put behind it."""

        def check_dependencies(self, packages=None):
            pass

        def set_device(self, device=None):
            self.device = "cpu"

        def load_model(self):
            runtime = Runtime(RuntimeOptions(device="cpu", threads=1))
            self.model, self.category_mapping = choose_proposer("yunet").build(runtime), {"0": "face"}

        def perform_inference(self, image):
            (found,) = self.model.propose([torch.from_numpy(np.array(image)).permute(2, 0, 1)])
            self._original_predictions = found[found.scores > 0.3]

        def _create_object_prediction_list_from_original_predictions(
            self, shift_amount_list=None, full_shape_list=None
        ):
            shift, shape = (
                one[0] if one and isinstance(one[0], list) else one for one in (shift_amount_list, full_shape_list)
            )
            found = self._original_predictions
            self._object_prediction_list_per_image = [
                [
                    ObjectPrediction(
                        bbox=box, category_id=0, category_name="face", score=score, shift_amount=shift, full_shape=shape
                    )
                    for box, score in zip(found.boxes.tolist(), found.scores.tolist(), strict=True)
                ]
            ]

    names = run("sahi", model=OurYuNet(model_path="none"), path=bgr_file(tmp_path))
    before, better = names["result"], names["better"]
    assert len(before.object_prediction_list) >= len(better.object_prediction_list) >= 1
    best = better.object_prediction_list[0]
    assert np.abs(np.array(best.bbox.to_xyxy()) - FACE).max() < 25 and best.category.name == "face"

    rows = [ObjectPrediction(bbox=b.tolist(), category_id=0, score=s) for b, s in zip(BOXES, SCORES, strict=True)]
    before = PredictionResult(rows, Image.fromarray(ASTRONAUT))
    found = rescore_sahi(before, stage).object_prediction_list
    check([one.bbox.to_xyxy() for one in found], [one.score.value for one in found], expected)
    assert before.object_prediction_list[0].score.value == 0.55, "the given result stays as it is"
    assert rescore_sahi(PredictionResult([], Image.fromarray(ASTRONAUT)), stage).object_prediction_list == []


@pytest.mark.integration
@pytest.mark.filterwarnings("ignore")
def test_supervision(stage, expected, tmp_path):
    pytest.importorskip("supervision")
    import supervision as sv

    def detect(image):
        first = choose_proposer("yunet").build(Runtime(RuntimeOptions(device="cpu", threads=1)))
        (found,) = first.propose([torch.from_numpy(np.ascontiguousarray(image[..., ::-1])).permute(2, 0, 1)])
        found = found[found.scores > 0.3]
        return sv.Detections(found.boxes, confidence=found.scores, class_id=np.zeros(len(found), int))

    names = run("supervision", detect=detect, path=bgr_file(tmp_path))
    better = names["better"]
    assert np.abs(better.xyxy[0] - FACE).max() < 25 and {"proposal_box", "face_logit"} <= set(better.data)

    data_ = {"name": np.array(["a", "b", "c"])}
    given = sv.Detections(BOXES, confidence=SCORES, class_id=np.arange(3), data=data_)
    found = rescore_supervision(ASTRONAUT[..., ::-1], given, stage)
    check(found.xyxy, found.confidence, expected)
    assert found.class_id[0] == 1 and found.data["name"][0] == "b" and given.confidence[0] == 0.55
    assert len(rescore_supervision(ASTRONAUT, sv.Detections.empty(), stage)) == 0
    with pytest.raises(DataError, match=r"sv\.Detections: expected boxes with scores, got none"):
        rescore_supervision(ASTRONAUT, sv.Detections(BOXES), stage)


@pytest.mark.integration
@pytest.mark.filterwarnings("ignore")
def test_ultralytics(stage, expected, tmp_path):
    pytest.importorskip("ultralytics")
    from ultralytics import YOLO
    from ultralytics.engine.results import Results

    names = run("ultralytics", model=YOLO("yolov8n.yaml"), path=bgr_file(tmp_path))
    assert type(names["better"]) is Results  # a network that has learnt nothing: that it runs is what counts

    rows = torch.from_numpy(np.column_stack([BOXES, [7, 8, 9], SCORES, [0, 0, 0]])).float()  # with track numbers
    points = torch.arange(3.0)[:, None, None].expand(3, 5, 3)
    given = Results(ASTRONAUT[..., ::-1], "photo.png", {0: "face"}, boxes=rows, keypoints=points)
    found = rescore_ultralytics(given, stage)
    check(found.boxes.xyxy, found.boxes.conf, expected)
    assert found.boxes.id[0] == 8 and found.keypoints.data[0, 0, 0] == 1 and given.boxes.conf[0] == rows[0, 5]
    none = rescore_ultralytics(Results(ASTRONAUT, "photo.png", {0: "face"}, boxes=torch.zeros(0, 6)), stage)
    assert len(none.boxes) == 0
    with pytest.raises(DataError, match="expected boxes, got none; is this a model that detects"):
        rescore_ultralytics(Results(ASTRONAUT, "photo.png", {0: "face"}), stage)


@pytest.mark.integration
@pytest.mark.filterwarnings("ignore")
def test_huggingface(stage, expected, tmp_path):
    pytest.importorskip("transformers")
    from transformers import YolosConfig, YolosForObjectDetection, YolosImageProcessor

    small = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    config = YolosConfig(**small, image_size=[64, 64], num_detection_tokens=5, num_labels=1)
    model, processor = YolosForObjectDetection(config).eval(), YolosImageProcessor(size={"height": 64, "width": 64})
    names = run("huggingface", model=model, processor=processor, path=bgr_file(tmp_path))
    assert len(names["result"]["boxes"]) > 0 and names["better"]["boxes"].dtype == torch.float32

    given = {"boxes": torch.from_numpy(BOXES), "scores": torch.from_numpy(SCORES), "labels": torch.arange(3)}
    found = rescore_huggingface(ASTRONAUT, given, stage)
    check(found["boxes"], found["scores"], expected)
    assert found["labels"][0] == 1 and given["scores"][0] == 0.55
    relative = {**given, "boxes": given["boxes"] / 512}
    with pytest.raises(DataError):
        rescore_huggingface(ASTRONAUT, relative, stage)


@pytest.mark.integration
@pytest.mark.filterwarnings("ignore")
def test_insightface(stage, expected, tmp_path):
    pytest.importorskip("insightface")
    from insightface.app.common import Face

    class App:
        """Stands for ``FaceAnalysis``, whose models cannot be had without a licence; faces are InsightFace's own."""

        def get(self, image):
            rows = zip(BOXES.astype(np.float32), SCORES.astype(np.float32), strict=True)
            return [Face(bbox=box, det_score=score, kps=np.tile(box[:2], (5, 1))) for box, score in rows]

    names = run("insightface", app=App(), path=bgr_file(tmp_path))
    found = names["better"]
    check([one.bbox for one in found], [one.det_score for one in found], expected)
    assert found[0].kps[0].tolist() == [183.5, 60.25] and names["faces"][0].det_score == np.float32(0.55)
    assert found[0]["bbox"] is found[0].bbox and rescore_insightface(ASTRONAUT, [], stage) == []


def test_opencv(stage, expected, shared_data, tmp_path):
    pytest.importorskip("cv2")
    weights = str(shared_data / "weights/yunet_n_640_640.onnx")
    names = run("opencv", weights=weights, path=bgr_file(tmp_path))
    better = names["better"]
    assert np.abs(better[0, :2] - FACE[:2]).max() < 25 and len(better) <= len(names["faces"])

    rows = np.zeros((3, 15), np.float32)
    rows[:, :2], rows[:, 2:4], rows[:, 14] = BOXES[:, :2], BOXES[:, 2:] - BOXES[:, :2], SCORES
    rows[:, 4] = [1, 2, 3]
    found = rescore_opencv(ASTRONAUT[..., ::-1], rows, stage)
    corners = np.concatenate([found[:, :2], found[:, :2] + found[:, 2:4]], axis=1)
    check(corners, found[:, 14], expected)
    assert found[0, 4] == 2 and rows[0, 14] == np.float32(0.55)
    assert rescore_opencv(ASTRONAUT, None, stage).shape == (0, 15)
