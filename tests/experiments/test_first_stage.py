"""Landmarks from a teacher."""

import numpy as np

from experiments.first_stage.teach import landmark_rows, write_landmarks
from tinygan.checkpoint import packaged_weights
from tinygan.detections import Detections, GroundTruth
from tinygan.formats.retinaface import LANDMARKS, load_labels, parse_labels
from tinygan.formats.wider import load_split
from tinygan.runtime import Runtime, RuntimeOptions


def test_a_face_gets_the_points_of_the_detection_on_it():
    boxes = np.array([[10.0, 10, 30, 30], [50, 50, 60, 60], [80, 80, 90, 90]])
    truth = GroundTruth(boxes, np.array([False, False, True]))
    points = np.arange(20.0).reshape(2, 10)
    found = Detections([[11, 11, 30, 30], [80, 80, 90, 90]], [0.9, 0.8], {"landmarks": points})
    rows = landmark_rows(found, truth)  # the second face has no detection, the third is invalid
    read = parse_labels("\n".join(["# a.jpg", *rows]), "here")["a.jpg"]
    assert read.boxes.tolist() == [[10, 10, 30, 30]]
    assert read.fields[LANDMARKS][0].ravel().tolist() == points[0].tolist()


def test_the_file_lists_every_training_image(tiny_wider, tmp_path):
    count = write_landmarks(
        tiny_wider.root,
        packaged_weights("retinaface_mobilenet025"),
        tmp_path / "label.txt",
        Runtime(RuntimeOptions(device="cpu", precision="32", threads=1)),
    )
    labels = load_labels(tmp_path / "label.txt")
    assert list(labels) == list(load_split(tiny_wider.root, "train").faces)
    assert sum(len(one) for one in labels.values()) == count
