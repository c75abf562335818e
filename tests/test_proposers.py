"""First stages are found by name, in whatever package they lie."""

import json
import sys

import numpy as np
import pytest

from proposals.cli.propose import main as propose
from tinygan.cli.detect import main as detect
from tinygan.detections import Detections
from tinygan.errors import CheckpointError, ConfigError
from tinygan.formats.registry import open_detections
from tinygan.proposers import Entry, best_inside, build_proposer, choose_proposer, find_proposer, proposer_names

OURS = [
    "callable",
    "centerface",
    "mb_fcn",
    "mtcnn",
    "onnx",
    "pair",
    "refineface",
    "retinaface",
    "retinanet",
    "torchvision",
    "yunet",
    "yunet-opencv",
]
MODULE = '''
from dataclasses import dataclass
import numpy as np
from tinygan.detections import Detections
from tinygan.proposers import Entry, best_inside

@dataclass(frozen=True, kw_only=True)
class CornerConfig:
    """A square in the upper left corner.

    Attributes:
        side_px: its side.
    """

    side_px: float = 12.0

class Corner:
    def __init__(self, side_px):
        self.square = Detections(np.array([[0.0, 0.0, side_px, side_px]]), np.array([0.9]))

    def propose(self, images):
        return [best_inside(self.square, image.shape[2], image.shape[1], 1) for image in images]

ENTRY = Entry(CornerConfig, lambda config, weights, runtime: Corner(config.side_px))
'''


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Puts a package of one module, and what it announces, where Python finds packages; as ``pip install`` would."""

    def put(package, module, **announced):
        folder = tmp_path / "site" / package
        info = folder / f"{package}-1.0.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
        lines = [f"{name} = {value}" for name, value in announced.items()]
        (info / "entry_points.txt").write_text("\n".join(["[tinygan.proposers]", *lines, ""]))
        (folder / f"{package}.py").write_text(module)
        monkeypatch.syspath_prepend(folder)
        monkeypatch.delitem(sys.modules, package, raising=False)

    yield put
    for package in (tmp_path / "site").glob("*"):
        sys.modules.pop(package.name, None)


@pytest.fixture
def corner(install):
    """A package of somebody else's with the first stage ``corner``."""
    install("their_corner", MODULE, corner="their_corner:ENTRY")


def test_somebody_elses_first_stage_is_found_like_ours(corner):
    assert proposer_names() == sorted(["corner", *OURS])
    assert "their_corner" not in sys.modules, "names are listed without importing anything"
    assert choose_proposer("corner", overrides=["side_px=7"]).config.side_px == 7
    with pytest.raises(ConfigError, match="'cornr': no such first stage; did you mean 'corner'"):
        find_proposer("cornr")


def test_propose_runs_with_it(corner, tiny_wider, tmp_path, capsys):
    words = ["--proposer", "corner", "--set", "side_px=9", "--threads", "1", "--device", "cpu"]
    images = str(tiny_wider.root / "WIDER_val/images")
    assert propose(["--images", images, "--out", str(tmp_path / "out"), *words]) == 0
    found = open_detections(tmp_path / "out")
    assert len(found) == 4 and all(item.boxes.tolist() == [[0, 0, 9, 9]] for item in found.values())


def test_views_need_settings_for_them(corner, tiny_wider, tmp_path, capsys):
    images = str(tiny_wider.root / "WIDER_val/images")
    assert propose(["--images", images, "--out", str(tmp_path / "out"), "--proposer", "corner", "--scale", "2"]) == 2
    assert "--scale: first stage 'corner' has no setting 'scales'" in capsys.readouterr().err


def test_detect_runs_with_it(corner, tiny_wider, checkpoint, tmp_path, capsys):
    words = ["--proposer", "corner", "--checkpoint", str(checkpoint), "--min-score", "0", "--no-pictures"]
    image, out = tiny_wider.root / "WIDER_val/images/0--Parade/val_0.jpg", tmp_path / "out"
    assert detect([str(image), "--out", str(out), *words, "--threads", "1", "--device", "cpu"]) == 0
    table = json.loads((out / "detections.json").read_text())
    ((face,),) = (picture["faces"] for picture in table["images"])
    assert face["proposal_box"] == [0, 0, 12, 12] and face["proposal_score"] == 0.9
    assert table["first_stage"] == {
        "proposer": "corner",
        "weights": None,
        "side_px": 12.0,
        "precision": "32",
        "backend": "torch",
    }


BROKEN = {
    "no_module": ("", "nowhere_at_all:ENTRY", r"\(nowhere_at_all:ENTRY\): cannot be imported: ModuleNotFoundError"),
    "no_attribute": ("", "{package}:ENTRY", "cannot be imported: AttributeError"),
    "no_python": ("def", "{package}:ENTRY", "cannot be imported: SyntaxError"),
    "no_entry": ("ENTRY = 5", "{package}:ENTRY", "expected a tinygan.proposers.Entry, got int"),
    "no_config": (
        "from tinygan.proposers import Entry\nENTRY = Entry(dict, print)",
        "{package}:ENTRY",
        "Entry.config must be a dataclass, got <class 'dict'>",
    ),
    "no_build": (MODULE + "ENTRY = Entry(CornerConfig, None)", "{package}:ENTRY", "Entry.build must be a function"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_one_is_one_line_and_does_not_disturb_the_others(install, kind, tiny_wider, tmp_path, capsys):
    package = f"their_{kind}"
    module, value, message = BROKEN[kind]
    install(package, module, broken=value.format(package=package))
    with pytest.raises(ConfigError, match=message):
        find_proposer("broken")
    assert "broken" in proposer_names() and isinstance(find_proposer("retinaface"), Entry)
    for command, words in ((propose, ["--images"]), (detect, [])):
        images = str(tiny_wider.root / "WIDER_val/images")
        assert command([*words, images, "--out", str(tmp_path / "out"), "--proposer", "broken"]) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1 and f"proposer 'broken' of {package}" in error
        assert not (tmp_path / "out").exists()


def test_two_packages_under_one_name_are_both_named(corner, install, tiny_wider, tmp_path, capsys):
    install("another_corner", MODULE, corner="another_corner:ENTRY")
    images = str(tiny_wider.root / "WIDER_val/images")
    assert propose(["--images", images, "--out", str(tmp_path / "out"), "--proposer", "corner"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "another_corner (another_corner:ENTRY)" in error
    assert "their_corner (their_corner:ENTRY)" in error and "uninstall one" in error
    assert proposer_names().count("corner") == 1 and isinstance(find_proposer("retinaface"), Entry)


def test_every_installed_one_resolves_and_says_what_its_settings_are():
    assert {"callable", "retinaface", "yunet"} <= set(proposer_names())
    for name in proposer_names():
        entry = find_proposer(name)
        assert isinstance(entry, Entry) and "Attributes:" in entry.config.__doc__


def test_weights_and_settings_of_another_are_refused(corner):
    weights = choose_proposer("retinaface").weights
    with pytest.raises(CheckpointError, match="weights of proposer 'retinaface', not of 'corner'"):
        choose_proposer("corner", weights)
    with pytest.raises(TypeError, match="proposer 'retinaface': expected a RetinaFaceConfig, got dict"):
        build_proposer("retinaface", {}, None, None)


def test_the_best_boxes_inside_an_image():
    boxes = np.array([[-5.0, -5, 5, 5], [50, 0, 60, 9], [1, 1, 3, 3], [0, 0, 9, 9]])
    found = Detections(boxes, np.array([0.5, 0.9, 0.7, 0.6]), {"row": np.arange(4)})
    best = best_inside(found, width_px=20, height_px=4, keep=2)
    assert best.boxes.tolist() == [[1, 1, 3, 3], [0, 0, 9, 4]]
    assert best.scores.tolist() == [0.7, 0.6] and best.fields["row"].tolist() == [2, 3]
    assert best_inside(found, 20, 4, 9).boxes[-1].tolist() == [0, 0, 5, 4]


def test_an_entry_checks_itself():
    with pytest.raises(TypeError, match=r"Entry\.config must be a dataclass, got 5"):
        Entry(5, print)
