"""Every kind of outputs that public detectors have: known faces, written as such a detector would, come back."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from proposals.adapters.decoding import BINS, DECODERS, DecodingConfig
from proposals.adapters.onnx import OnnxConfig, OnnxProposer
from proposals.anchors import encode_boxes, encode_landmarks, pyramid_anchors
from tinygan.config import load_config, presets_for
from tinygan.detections import Detections

SIZE = (64, 96)  # height, width of the input
STRIDES = (8, 16, 32)
GENERATOR = torch.Generator().manual_seed(0)


def grid(stride):
    """Corners of the cells of a level, [cells, 2]."""
    rows, columns = SIZE[0] // stride, SIZE[1] // stride
    return torch.tensor([[column * stride, row * stride] for row in range(rows) for column in range(columns)]).float()


def faces(middles, stride):
    """A face near each of some points: boxes [K, 4], scores [K] and five points [K, 10], at random."""
    centre = middles + torch.rand(len(middles), 2, generator=GENERATOR) * stride
    half = (0.5 + torch.rand(len(middles), 2, generator=GENERATOR)) * stride
    boxes = torch.cat([centre - half, centre + half], dim=1)
    scores = torch.rand(len(middles), generator=GENERATOR)
    return boxes, scores, boxes[:, :2].repeat(1, 5) + torch.rand(len(middles), 10, generator=GENERATOR) * stride


def expect(found, known, landmarks=True):
    boxes, scores, points = known
    assert torch.allclose(found.boxes, boxes, atol=1e-3)
    assert torch.allclose(found.scores, scores, atol=1e-5)
    if landmarks:
        assert torch.allclose(found.landmarks, points, atol=1e-3)


def preset(name):
    return load_config(OnnxConfig, f"onnx/{name}")


def all_levels():
    parts = [(grid(stride), *faces(grid(stride), stride), stride) for stride in STRIDES]
    known = tuple(torch.cat([part[at] for part in parts]) for at in (1, 2, 3))
    return parts, known


def beside(middle, boxes, stride):
    return torch.cat([middle - boxes[:, :2], boxes[:, 2:] - middle], dim=1) / stride


@pytest.mark.parametrize("name", ["yolov5_face", "yolov7_face", "yolov8_face"])
@pytest.mark.parametrize("turned", [False, True])
def test_rows(name, turned):
    known = boxes, scores, points = faces(grid(8), 8)
    config = preset(name)
    rows = torch.full((len(boxes), config.columns), 7.0)
    rows[:, :2], rows[:, 2:4] = (boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]
    for column in config.scores:
        rows[:, column] = scores ** (1 / len(config.scores))
    rows[:, list(config.landmarks)] = points
    expect(DECODERS["rows"]([rows.T[None] if turned else rows[None]], config, SIZE), known)


def test_rows_that_begin_with_corners():
    known = boxes, scores, _ = faces(grid(32), 32)
    config = DecodingConfig(decode="rows", columns=6, corners=True)
    rows = torch.cat([boxes, scores[:, None], torch.ones(len(boxes), 1)], dim=1)
    found = DECODERS["rows"]([rows[None]], config, SIZE)
    expect(found, known, landmarks=False)
    assert found.landmarks.shape == (len(boxes), 0)


def test_bins():
    parts, (boxes, scores, points) = all_levels()
    outputs = []
    for corner, box, score, point, stride in parts:
        distances = beside(corner + stride / 2, box, stride).clamp(0, BINS - 1.01)
        low = distances.floor()
        bins = torch.full((len(box), 4, BINS), -40.0)
        bins.scatter_(2, low.long()[..., None], (1 - (distances - low)).log()[..., None])
        bins.scatter_(2, low.long()[..., None] + 1, (distances - low).clamp(min=1e-12).log()[..., None])
        marks = torch.zeros(len(box), 5, 3)
        marks[..., :2] = (point.reshape(-1, 5, 2) - corner[:, None]) / stride / 2
        rows = torch.cat([bins.flatten(1), torch.logit(score)[:, None], marks.flatten(1)], dim=1)
        outputs.append(rows.T.reshape(1, -1, SIZE[0] // stride, SIZE[1] // stride))
    expect(DECODERS["bins"](outputs, preset("yolov8_face_maps"), SIZE), (boxes, scores, points))


@pytest.mark.parametrize("landmarks", [True, False])
def test_distances_of_two_boxes_per_cell(landmarks):
    said, known = ([], [], []), []
    for stride in STRIDES:
        corner = grid(stride).repeat_interleave(2, dim=0)
        box, score, point = faces(corner, stride)
        known.append((box, score, point))
        columns = (score[:, None], beside(corner, box, stride), (point - corner.repeat(1, 5)) / stride)
        for kind, column in zip(said, columns, strict=True):
            kind.append(column)
    known = tuple(torch.cat(column) for column in zip(*known, strict=True))
    outputs = [*said[0], *said[1], *(said[2] if landmarks else [])]
    expect(DECODERS["distances"](outputs, preset("scrfd"), SIZE), known, landmarks)


def test_cells():
    parts, known = all_levels()
    said = ([], [], [], [])
    for corner, box, score, point, stride in parts:
        centre, side = (box[:, :2] + box[:, 2:]) / 2, box[:, 2:] - box[:, :2]
        boxes = torch.cat([(centre - corner) / stride, (side / stride).log()], dim=1)
        columns = (score[:, None] ** 1.5, score[:, None] ** 0.5, boxes, (point - corner.repeat(1, 5)) / stride)
        for kind, column in zip(said, columns, strict=True):
            kind.append(column[None])
    expect(DECODERS["cells"]([one for kind in said for one in kind], preset("yunet"), SIZE), known)


def test_anchors():
    config = preset("retinaface")
    anchors = pyramid_anchors([(SIZE[0] // s, SIZE[1] // s) for s in STRIDES], STRIDES, config.anchors)
    known = boxes, scores, points = faces(anchors[:, :2], 8)
    classes = torch.stack([1 - scores, scores], dim=1)
    outputs = [encode_boxes(boxes, anchors, (0.1, 0.2)), classes, encode_landmarks(points, anchors, (0.1, 0.2))]
    expect(DECODERS["anchors"]([one[None] for one in outputs], config, SIZE), known)
    with pytest.raises(ValueError, match=f"{len(anchors)} anchors in a picture of 96 x 64 px, got 3"):
        DECODERS["anchors"]([one[None, :3] for one in outputs], config, SIZE)


def test_centres():
    config, shape = preset("centerface"), (SIZE[0] // 4, SIZE[1] // 4)
    heat, sides, offset, marks = (torch.zeros(1, n, *shape) for n in (1, 2, 2, 10))
    heat[0, 0, 2, 5] = 1.2  # may exceed 1
    sides[0, :, 2, 5] = torch.tensor([6.0, 3.0]).log()  # height, width in cells
    offset[0, :, 2, 5] = torch.tensor([0.5, 0.25])  # down, right
    marks[0, 2:4, 2, 5] = torch.tensor([0.5, 0.25])  # the second point: down, right, in sides of the box
    found = DECODERS["centres"]([heat, sides, offset, marks], config, SIZE)
    at = 2 * shape[1] + 5
    x, y = 4 * 5.75, 4 * 3.0
    assert found.boxes[at].tolist() == pytest.approx([x - 6, y - 12, x + 6, y + 12])
    assert found.scores[at] == 1 and len(found.scores) == shape[0] * shape[1]
    assert found.landmarks[at, 2:4].tolist() == pytest.approx([x - 6 + 0.25 * 12, y - 12 + 0.5 * 24])


def test_levels_in_another_order_are_refused():
    config = DecodingConfig(decode="distances", strides=(8, 16), per_cell=1)
    rows = {stride: torch.rand(len(grid(stride)), 1) for stride in (8, 16)}
    sides = {stride: torch.rand(len(grid(stride)), 4) for stride in (8, 16)}
    right = [rows[8], rows[16], sides[8], sides[16]]
    assert len(DECODERS["distances"](right, config, SIZE).boxes) == 96 + 24
    with pytest.raises(ValueError, match=r"outputs of \[96, 24\] places, finest level first, got \[24, 96\]"):
        DECODERS["distances"]([rows[8], rows[16], sides[16], sides[8]], config, SIZE)


class Session:
    """Stands for a session of onnxruntime whose file gives these outputs, and keeps what it was given."""

    def __init__(self, outputs):
        self.outputs, self.given = [np.asarray(output) for output in outputs], None

    def get_inputs(self):
        return [SimpleNamespace(name="input.1", shape=[1, 3, "?", "?"], type="tensor(float)")]

    def get_outputs(self):
        return [SimpleNamespace(name=str(at), shape=list(one.shape)) for at, one in enumerate(self.outputs)]

    def run(self, names, feeds):
        (self.given,) = feeds.values()
        return self.outputs

    def get_providers(self):
        return ["CPUExecutionProvider"]


def propose(session, name, image):
    config = load_config(OnnxConfig, f"onnx/{name}", ["keep=5000"])
    return OnnxProposer(session, config, name).propose([image])[0]


@pytest.mark.integration
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("landmarks", [True, False])
def test_scrfd_as_insightface_itself_reads_it(landmarks):
    """The same numbers go into the network, and the same outputs mean the same boxes and points."""
    scrfd = pytest.importorskip("insightface.model_zoo.scrfd")
    random, side = np.random.default_rng(0), 128
    outputs = [
        random.random(((side // stride) ** 2 * 2, columns), dtype=np.float32) * (3 if columns == 4 else 1)
        for columns in ([1, 4, 10] if landmarks else [1, 4])
        for stride in STRIDES
    ]
    session = Session(outputs)
    image = random.integers(0, 256, (side, side, 3), dtype=np.uint8)
    known = scrfd.SCRFD(model_file=None, session=session)
    known.prepare(0, input_size=(side, side), det_thresh=0.5, nms_thresh=0.4)
    rows, points = known.detect(image)  # BGR
    given = session.given
    found = propose(session, "scrfd", torch.from_numpy(image[..., ::-1].copy()).permute(2, 0, 1))
    assert np.abs(session.given - given).max() < 1e-6
    for number in np.argsort(-rows[:, 4])[:40]:  # its NMS differs a little: sides are one pixel longer there
        at = np.abs(found.scores - rows[number, 4]).argmin()
        assert np.abs(found.boxes[at] - rows[number, :4].clip(0, side)).max() < 1e-3
        assert not landmarks or np.abs(found.fields["landmarks"][at] - points[number].ravel()).max() < 1e-3


@pytest.mark.integration
@pytest.mark.filterwarnings("ignore")
def test_yolov8_face_as_ultralytics_itself_reads_it():
    """A network of YOLOv8-face's form, with random weights: as Ultralytics exports it and as its authors do."""
    tasks = pytest.importorskip("ultralytics.nn.tasks")
    from ultralytics.utils.nms import non_max_suppression

    torch.manual_seed(0)
    network = tasks.PoseModel("yolov8n-pose.yaml", nc=1, data_kpt_shape=(5, 3), verbose=False).eval()
    head, maps = network.model[-1], []
    for sides, face, points in zip(head.cv2, head.cv3, head.cv4, strict=True):
        for part in (sides, face, points):
            part[-1].weight.data *= 20  # boxes that differ
        sides[-1].bias.data = torch.linspace(6, -6, BINS).repeat(4)  # and are small
        face[-1].bias.data.zero_()

    def keep_maps(head, given):
        parts = zip(head.cv2, head.cv3, head.cv4, given[0], strict=True)
        maps.extend(torch.cat([sides(x), face(x), points(x)], dim=1) for sides, face, points, x in parts)

    head.register_forward_pre_hook(keep_maps)
    image = torch.randint(0, 256, (3, 96, 128), dtype=torch.uint8)
    with torch.no_grad():
        rows = network(image[None].float() / 255)[0]
        maps = [one.detach() for one in maps]
    assert rows.shape == (1, 20, 252) and [one.shape[1] for one in maps] == [80, 80, 80]
    known = non_max_suppression(rows, 0.02, 0.5, nc=1, max_det=5000)[0].double().numpy()
    corners = known[:, :4].clip(0, [128, 96, 128, 96])
    inside = (corners[:, 2:] - corners[:, :2]).min(axis=1) > 0
    for name, outputs in (("yolov8_face", [rows]), ("yolov8_face_maps", maps)):
        session = Session(outputs)
        found = propose(session, name, image)
        assert np.abs(session.given - image[None].numpy() / 255).max() < 1e-6
        assert len(found) == inside.sum() > 20
        assert np.abs(found.boxes - corners[inside]).max() < 1e-3
        assert np.abs(found.scores - known[inside, 4]).max() < 1e-5
        points = known[inside, 6:].reshape(-1, 5, 3)[..., :2].reshape(-1, 10)
        assert np.abs(found.fields["landmarks"] - points).max() < 1e-2


def test_every_preset_of_a_detector_is_one():
    names = [name for name in presets_for(OnnxConfig) if name.startswith("onnx/")]
    assert len(names) == 8
    assert {load_config(OnnxConfig, name).decode for name in names} == set(DECODERS)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"decode": "row"}, "decode is one of none, rows, bins"),
        ({"scores": (16,)}, "columns from 0 to 15"),
        ({"landmarks": (1, 2)}, "landmarks are 10 columns or none, got 2"),
        ({"decode": "anchors", "strides": (8,)}, "anchors are one list per stride, got 3 for 1"),
        ({"strides": (0,)}, "strides are numbers above 0"),
        ({"variances": (0.1,)}, "variances are two numbers"),
        ({"max_side_px": -1}, "max_side_px must be above 0"),
    ],
)
def test_settings_that_do_not_fit(settings, message):
    with pytest.raises(ValueError, match=message):
        DecodingConfig(**settings)


def test_decoded_boxes_are_detections():
    found = DECODERS["rows"]([torch.rand(1, 3, 16)], preset("yolov5_face"), SIZE)
    assert len(Detections(found.boxes, found.scores, {"landmarks": np.asarray(found.landmarks)})) == 3
