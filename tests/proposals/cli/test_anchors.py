"""``tinygan-anchors`` as a user types it, on drawn data."""

import yaml
from PIL import Image

from proposals.cli.anchors import main
from proposals.retinaface import RetinaFaceConfig
from tinygan.config import build_config
from tinygan.formats.wider import load_split


def test_what_is_printed_is_what_a_training_reads(tiny_wider, tmp_path, capsys):
    plot = tmp_path / "anchors.png"
    assert main([str(tiny_wider.root), "--count", "6", "--levels", "3", "--plot", str(plot)]) == 0
    *lines, setting = capsys.readouterr().out.strip().splitlines()
    config = build_config(RetinaFaceConfig, yaml.safe_load(setting)["network"])
    assert len(config.anchors) == 3 and all(len(level) == 2 for level in config.anchors)
    areas = [width * height for level in config.anchors for width, height in level]
    assert areas == sorted(areas)
    figures = {
        line.split(":")[1].strip(): float(line.split("IoU ")[1][:5]) for line in lines if "training part" in line
    }
    assert figures["found"] > figures["present"] + 0.1
    with Image.open(plot) as drawn:
        assert drawn.size[0] > 100


def test_a_subset_counts_its_faces_alone(tiny_wider, tmp_path, capsys):
    def counted(*more):
        assert main([str(tiny_wider.root), "--count", "3", *more]) == 0
        lines = capsys.readouterr().out.splitlines()
        return sum(int(line.split(", ")[1].split()[0]) for line in lines if "found" in line)

    faces = load_split(tiny_wider.root, "train").faces
    names = list(faces)[:3]
    (tmp_path / "names.txt").write_text("\n".join(names))
    part = counted("--subset", str(tmp_path / "names.txt"))
    assert part == sum(int(faces[name].usable.sum()) for name in names) < counted()


def test_mistakes_are_one_line_and_exit_2(tiny_wider, capsys):
    assert main([str(tiny_wider.root), "--count", "7"]) == 2
    assert "--count is a multiple of --levels" in capsys.readouterr().err
    assert main(["nowhere"]) == 2
    assert main([str(tiny_wider.root), "--count", "3000"]) == 2
    assert "are fewer than --count 3000" in capsys.readouterr().err
