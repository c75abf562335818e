"""The table and plot of what first stages and the second give for their cost."""

import json

import numpy as np
import pytest
from PIL import Image
from skimage import data

from experiments.deal.contenders import Contender
from experiments.deal.run import GIVEN_MS, main, measure
from tinygan.checkpoint import packaged_weights
from tinygan.detections import Detections, GroundTruth
from tinygan.formats.wider import format_ground_truth
from tinygan.formats.writing import write_wider

FACE = np.array([179.0, 55, 270, 178])


@pytest.fixture(scope="module")
def two_pictures(tmp_path_factory):
    """A WIDER FACE root of the astronaut at two sizes, and another detector's boxes on it."""
    root = tmp_path_factory.mktemp("deal")
    images = root / "WIDER_val/images/0--Parade"
    images.mkdir(parents=True)
    faces = {}
    for number, side in enumerate((128, 700)):
        name = f"0--Parade/0_Parade_{number}.png"
        Image.fromarray(data.astronaut()).resize((side, side)).save(images.parent / name)
        faces[name] = GroundTruth((FACE * side / 512)[None].round(), np.zeros(1, dtype=bool))
    (root / "wider_face_split").mkdir()
    (root / "wider_face_split/wider_face_val_bbx_gt.txt").write_text(format_ground_truth(faces))
    (root / "zoo").mkdir()
    for name in ("centerface", "unheard_of"):
        write_wider(
            root / f"zoo/{name}.tar.gz", {name: Detections(truth.boxes, [0.5]) for name, truth in faces.items()}
        )
    return root


def test_one_command_makes_table_and_plot(two_pictures, tmp_path, capsys):
    words = ["--data", str(two_pictures), "--out", str(tmp_path), "--zoo", str(two_pictures / "zoo")]
    words += ["--weights", str(packaged_weights("retinaface_mobilenet025"))]  # as a first stage of one's own
    assert main(words) == 0
    printed = capsys.readouterr().out
    rows = json.loads((tmp_path / "results.json").read_text())["rows"]
    ways = ["alone", "1x + 2x", "sliced", "with lite"]
    of_stage = {row["stage"]: [other["way"] for other in rows if other["stage"] == row["stage"]] for row in rows}
    assert of_stage["RetinaFace"] == of_stage["retinaface_mobilenet025"] == ways
    figures = {(row["stage"], row["way"]): row for row in rows}
    assert figures["RetinaFace", "alone"]["ap"] == figures["retinaface_mobilenet025", "alone"]["ap"] == {"all": 1.0}
    assert figures["RetinaFace", "with lite"]["ms"] > figures["RetinaFace", "alone"]["ms"] > 0
    assert figures["centerface", "as given"]["ms"] == GIVEN_MS["centerface"]
    assert figures["unheard_of", "as given"]["ms"] is None and "| unheard_of | as given | 1.0000 | - |" in printed
    with Image.open(tmp_path / "deal.png") as plot:
        assert plot.format == "PNG"
    found = tmp_path / "RetinaFace_sliced.tar.gz"
    written = found.stat().st_mtime_ns
    assert main(words) == 0
    assert found.stat().st_mtime_ns == written, "what was found is not searched again"


def test_contenders_take_turns():
    seen = []

    def contender(stage):
        return Contender(stage, "alone", lambda picture: seen.append((stage, picture.width)) or Detections.empty())

    every = [contender("a"), contender("b")]
    times = measure(every, [Image.new("RGB", (3, 4)), Image.new("RGB", (5, 4))], rounds=2)
    turn = [("a", 3), ("a", 5), ("b", 3), ("b", 5)]
    assert seen == [("a", 3), ("b", 3), *turn, *turn] and set(times) == {"a_alone", "b_alone"}
