"""A first stage's network by every backend, and as a file."""

import numpy as np
import pytest
import torch
from skimage import data
from torchvision.ops import box_iou

from proposals.candidates import Candidates, mean_of_both
from proposals.detector import DetectorConfig, PyramidDetector, doubtful
from proposals.views import View
from tinygan.checkpoint import packaged_weights
from tinygan.config import load_config
from tinygan.errors import ConfigError
from tinygan.models.graphs import Exportable, to_onnx
from tinygan.proposers import build_proposer, choose_proposer, find_proposer
from tinygan.runtime import Runtime, RuntimeOptions

BUILDS = [("retinaface", ()), ("yunet", ()), ("yunet", ("fine=true", "norm=true"))]


@pytest.mark.parametrize(("name", "settings"), BUILDS, ids=["retinaface", "yunet", "yunet-fine"])
def test_the_exported_network_takes_pictures_of_any_size(name, settings, runtime, noise):
    onnxruntime = pytest.importorskip("onnxruntime")
    torch.manual_seed(0)
    config = load_config(find_proposer(name).config, None, [*settings, "score_threshold=0", "keep=100000"])
    proposer = build_proposer(name, config, None, runtime)
    assert isinstance(proposer, Exportable)
    graph = proposer.graphs()[0]
    if name == "yunet":
        next(graph.network.parameters()).data *= 255  # or the random network says the same of all pictures
    session = onnxruntime.InferenceSession(to_onnx(graph), providers=["CPUExecutionProvider"])
    for height, width in ((70, 90), (33, 200), (160, 96)):
        pictures = torch.stack([noise(height, width, seed) for seed in (1, 2, 3)]).float()
        with torch.no_grad():
            expected = graph.network(pictures)
        found = session.run(["scores", "boxes", "landmarks"], {"pictures": pictures.numpy()})
        assert found[0].shape[0] == 3 and not np.allclose(found[0][0], found[0][1])
        for one, right in zip(found, expected, strict=True):
            assert one == pytest.approx(right.numpy(), abs=1e-3, rel=1e-4)


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_the_first_stage_that_ships_finds_the_same_faces_by_every_backend(backend):
    pytest.importorskip(backend)
    picture = torch.from_numpy(data.astronaut()).permute(2, 0, 1)
    images = [picture, picture[:, :301, :413], torch.zeros(3, 40, 50, dtype=torch.uint8)]
    found, others = (
        choose_proposer("retinaface", overrides=["overview_px=200"])
        .build(Runtime(RuntimeOptions(device="cpu", precision="32", backend=one)))
        .propose(images)
        for one in ("torch", backend)
    )
    assert len(found[0]) >= 1 and len(found[2]) == 0
    for one, other in zip(found, others, strict=True):
        assert other.boxes == pytest.approx(one.boxes, abs=1e-3) and other.scores == pytest.approx(one.scores, abs=1e-4)
        assert other.fields["landmarks"] == pytest.approx(one.fields["landmarks"], abs=1e-3)


def test_small_boxes_lose_some_of_their_score():
    boxes = torch.tensor([[0.0, 0, 8, 6], [10, 10, 20, 74], [0, 0, 0.1, 0.1], [0, 0, 300, 200]])
    scores = torch.tensor([0.8, 0.8, 0.8, 1.0])
    config = DetectorConfig(doubt=0.5, doubt_below_px=64)
    found = doubtful(scores, boxes, config)
    # logit 0.8 = ln 4; 8 px are an eighth of 64 px: ln 4 - 0.5 ln 8 = ln 1.414; a box below 1 px counts as one of 1 px
    assert found[:3].tolist() == pytest.approx([1.4142 / 2.4142, 0.8, 0.5 / 1.5], abs=1e-4)
    assert found[3] > 0.99999
    assert torch.equal(doubtful(scores, boxes, DetectorConfig()), scores)


@pytest.mark.parametrize("settings", [{"doubt": -0.1}, {"doubt_below_px": 0.0}, {"doubt": float("nan")}])
def test_doubt_that_is_none_is_refused(settings):
    with pytest.raises(ValueError, match="doubt_below_px must be above 0 and doubt not below"):
        DetectorConfig(**settings)


def test_doubt_is_of_pixels_of_the_image_whatever_the_scale(runtime):
    picture = torch.from_numpy(data.astronaut()).permute(2, 0, 1)

    def best(**settings):
        config = load_config(
            find_proposer("retinaface").config, None, [f"{key}={value}" for key, value in settings.items()]
        )
        (found,) = build_proposer("retinaface", config, packaged_weights("retinaface_mobilenet025"), runtime).propose(
            [picture]
        )
        return found.sorted()[:1]

    for scales in ("[1]", "[0.5]"):
        plain, doubted = best(scales=scales), best(scales=scales, doubt=1, doubt_below_px=1000)
        side = float((plain.boxes[0, 2:] - plain.boxes[0, :2]).max())
        odds = plain.scores[0] / (1 - plain.scores[0]) * side / 1000
        assert doubted.scores[0] == pytest.approx(odds / (1 + odds), rel=0.02)


def test_small_faces_are_not_looked_for_in_the_overview(runtime, monkeypatch):
    """The astronaut's face, 92 x 123 px of 512, is 39 px high in an overview of 160 px, 25 px in one of 104 px."""
    monkeypatch.setattr("proposals.detector.OVERVIEW_FROM", 2.0)  # so that there is but one
    picture = torch.from_numpy(data.astronaut()).permute(2, 0, 1)

    def faces(overview_px):
        detector = choose_proposer("retinaface", overrides=[f"overview_px={overview_px}", "score_threshold=0.5"])
        return detector.build(runtime).propose([picture])[0]

    whole, large, small = faces(0), faces(160), faces(104)
    assert len(whole) == len(small) == 1 and small.boxes == pytest.approx(whole.boxes)
    assert len(large) == 1


def crowd(faces):
    """So many faces, six in a row, on grey; of about 12 px, from the thirteenth on of 9 px."""
    face = torch.from_numpy(data.astronaut()[40:200, 150:300].copy()).permute(2, 0, 1)[None]
    picture = torch.full((3, 240, 320), 120, dtype=torch.uint8)
    for at in range(faces):
        side = 16 if at < 12 else 12
        top, left = 20 + 50 * (at // 6), 20 + 50 * (at % 6)
        resized = torch.nn.functional.interpolate(face, size=(side, side - 1), mode="bilinear", antialias=True)[0]
        picture[:, top : top + side, left : left + side - 1] = resized
    return picture


def test_a_crowd_of_tiny_faces_is_searched_once_more(runtime):
    def surely(faces, **settings):
        overrides = ["scales=[1]", "overview_px=0", *(f"{key}={value}" for key, value in settings.items())]
        (found,) = choose_proposer("yunet", overrides=overrides).build(runtime).propose([crowd(faces)])
        return found[found.scores >= 0.3]

    assert len(surely(24, zoom=2)) >= len(surely(24, zoom=0)) + 3
    few = surely(3, zoom=0)
    assert len(few) == 3
    assert surely(3, zoom=2).scores == pytest.approx(few.scores)  # too few of them
    assert (surely(3, zoom=2, zoom_faces=1).scores > few.scores + 0.01).any()
    assert surely(3, zoom=2, zoom_faces=1, zoom_below_px=5).scores == pytest.approx(few.scores)  # not tiny enough


def test_only_what_would_be_larger_is_searched_once_more():
    crowd = (100, 10, 200, 470)
    (view,) = DetectorConfig(scales=(0.5, 1.25), zoom=(1, 2)).zoomed_views(640, 480, crowd)
    assert (view.left, view.top, view.right, view.bottom, view.scale) == (36, 0, 264, 480, 2)
    assert view.largest_px == pytest.approx(48 / 1.25)  # larger faces are found at 1.25
    first, second = DetectorConfig(zoom=(1.5, 2)).zoomed_views(640, 480, crowd)
    assert (first.scale, first.largest_px, second.scale, second.largest_px) == (1.5, 48, 2, 32)
    assert DetectorConfig(scales=(2.0,), zoom=(2,)).zoomed_views(640, 480, crowd) == []
    assert DetectorConfig(zoom=(2,), slice_px=320).zoomed_views(640, 480, crowd) == []
    assert len(DetectorConfig(zoom=(2,), slice_px=640).zoomed_views(640, 480, crowd)) == 1
    assert DetectorConfig(zoom=(2,), max_side_px=1000).zoomed_views(2000, 1000, crowd) == []
    assert DetectorConfig().zoomed_views(640, 480, crowd) == []


def test_the_part_with_the_crowd_alone_is_searched_once_more(runtime, monkeypatch):
    picture = torch.full((3, 480, 960), 120, dtype=torch.uint8)
    picture[:, 100:340, 500:820] = crowd(24)
    searched = []
    detector = choose_proposer("yunet", overrides=["overview_px=0", "mirror_unsure=0", "zoom=2"]).build(runtime)
    seen = PyramidDetector._seen

    def note(self, picture, view, mirrored=False):
        searched.append((view, mirrored))
        return seen(self, picture, view, mirrored)

    monkeypatch.setattr(PyramidDetector, "_seen", note)
    (found,) = detector.propose([picture])
    (whole, first), (part, straight), (again, mirrored) = searched
    assert (whole.scale, first) == (1, False) and part == again and (straight, mirrored) == (False, True)
    assert part.scale == 2 and 380 < part.left < 520 and 800 < part.right < 900 and 30 < part.top < 120
    sure = found[found.scores >= 0.3].boxes
    assert len(sure) >= 16 and (sure[:, 0] > 500).all() and (sure[:, 2] < 820).all()


def test_an_unsure_picture_is_searched_in_its_mirror_image_as_well(runtime, monkeypatch):
    picture = torch.from_numpy(data.astronaut()).permute(2, 0, 1)  # its width is a multiple of 64

    def propose(unsure, picture=picture, slice_px=0):
        settings = ["overview_px=0", "zoom=0", f"mirror_unsure={unsure}", f"slice_px={slice_px}"]
        return choose_proposer("yunet", overrides=settings).build(runtime).propose([picture])[0]

    plain, mirrored = propose(0), propose(0, picture.flip(2))
    assert propose(1).scores == pytest.approx(plain.scores)  # it is sure of this one
    monkeypatch.setattr("proposals.detector.UNSURE", (0.0, 1.1))
    both = propose(1)
    assert both.scores[0] == pytest.approx((plain.scores[0] + mirrored.scores[0]) / 2, abs=1e-4)
    assert both.boxes[0] == pytest.approx(plain.boxes[0], abs=4)
    assert both.fields["landmarks"][0] == pytest.approx(plain.fields["landmarks"][0], abs=4)
    assert propose(100).scores == pytest.approx(plain.scores)
    assert propose(1, slice_px=256).scores == pytest.approx(propose(0, slice_px=256).scores)  # not in tiles


def test_nms_of_the_best_boxes_alone_leaves_the_same_ones(runtime, monkeypatch):
    generator = torch.Generator().manual_seed(0)
    corners = torch.rand(3000, 2, generator=generator) * 400
    sides = 5 + 20 * torch.rand(3000, 2, generator=generator)
    scores = (torch.rand(3000, generator=generator) * 50).round() / 50  # many are equal
    many = Candidates(torch.cat([corners, corners + sides], dim=1), scores, torch.zeros(3000, 0))
    for keep in (1, 40, 200, 5000):
        detector = choose_proposer("yunet", overrides=[f"keep={keep}"]).build(runtime)
        monkeypatch.setattr("proposals.detector.NMS_AT_ONCE", 10**6)
        every = detector._distinct([many])
        monkeypatch.setattr("proposals.detector.NMS_AT_ONCE", 1)
        parts = [Candidates(*(column[rows] for column in many)) for rows in (slice(1000), slice(1000, None))]
        found = detector._distinct(parts)
        count = min(keep, len(every.scores))
        assert count <= len(found.scores) <= len(every.scores)
        assert torch.equal(found.boxes[:count], every.boxes[:count])


def test_boxes_found_in_one_of_two_mirror_images_lose_half_of_their_score():
    def found(boxes, scores):
        boxes = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
        return Candidates(boxes, torch.tensor(scores), boxes.new_zeros(len(boxes), 0))

    own = found([[0, 0, 10, 10], [50, 50, 60, 60]], [0.6, 0.8])
    other = found([[0, 0, 10, 14], [0, 0, 10, 13], [20, 0, 30, 10]], [0.2, 0.1, 0.9])
    mean = mean_of_both(own, other, box_iou(own.boxes, other.boxes))
    assert mean.scores.tolist() == pytest.approx([0.4, 0.4])
    assert mean.boxes.numpy() == pytest.approx(np.array([[0, 0, 10, 11], [50, 50, 60, 60]]))
    none = found([], [])
    assert mean_of_both(own, none, box_iou(own.boxes, none.boxes)).scores.tolist() == pytest.approx([0.3, 0.4])
    assert len(mean_of_both(none, own, box_iou(none.boxes, own.boxes)).scores) == 0


@pytest.mark.parametrize("zoom", ["-1", "nan", "[2, 1.5]", "[1.5, 1.5]", "[2, inf]"])
def test_a_zoom_that_is_none_is_refused(zoom):
    with pytest.raises(ConfigError, match="zoom"):
        choose_proposer("yunet", overrides=[f"zoom={zoom}"])


@pytest.mark.parametrize("settings", [{"zoom_below_px": float("inf")}, {"mirror_unsure": -1}])
def test_settings_of_the_zoom_out_of_range_are_refused(settings):
    with pytest.raises(ValueError, match="must be finite and not negative"):
        DetectorConfig(**settings)


class Seeing(PyramidDetector):
    """Finds what views keep of some boxes: of ``whole`` at 1x, of ``closer`` at 2x."""

    def __init__(self, whole, closer, runtime):
        self._found, self._runtime, self._config = (whole, closer), runtime, DetectorConfig()

    def _seen(self, picture, view):
        rows = torch.tensor(self._found[view.scale > 1], dtype=torch.float32).reshape(-1, 5)
        kept = rows[view.keeps(rows[:, :4], picture.shape[3], picture.shape[2])]
        return Candidates(kept[:, :4], kept[:, 4], kept[:, :0])


def test_what_a_closer_view_is_for_it_alone_decides(runtime):
    views = [View(0, 0, 600, 600, 1.0), View(236, 136, 394, 294, 2.0, 48.0, 16.0)]
    picture = torch.zeros(3, 600, 600, dtype=torch.uint8)
    border, inside, large = (370, 200, 400, 230, 0.9), (260, 200, 290, 230, 0.8), (255, 150, 304, 199, 0.9)
    elsewhere, unseen = (10, 500, 20, 512, 0.7), (300, 260, 312, 272, 0.7)

    def lefts(whole, closer):
        return Seeing(whole, closer, runtime).search(picture, views).boxes[:, 0].tolist()

    assert lefts([border, large, elsewhere, unseen], [inside]) == [370, 255, 260, 10]  # what it did not find is dropped
    assert lefts([border], [border, inside]) == [370, 260]  # at its border the whole picture decides
    assert lefts([(265, 180, 314, 229, 0.9)], [(266, 181, 312, 227, 0.8)]) == [265]  # 49 px and 46 px: one face


def test_a_face_at_the_limits_of_the_closer_view_is_not_lost(runtime):
    """Each view may measure it so that it is the other one's."""
    views = [View(0, 0, 600, 600, 1.0), View(236, 136, 394, 294, 2.0, 48.0, 16.0)]
    picture = torch.zeros(3, 600, 600, dtype=torch.uint8)
    for whole, closer in (
        ((265, 180, 312, 227, 0.9), (264, 179, 313, 228, 0.9)),  # 47 px and 49 px
        ((348, 200, 377.5, 230, 0.9), (349, 200, 378.5, 230, 0.9)),  # 16.5 px and 15.5 px from the border
    ):
        assert len(Seeing([whole], [closer], runtime).search(picture, views)) == 1
