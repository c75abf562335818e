"""The demonstration and the super-resolution figures, on drawn data and tiny networks."""

import json

import numpy as np
import pytest
import yaml
from PIL import Image

from experiments.demo.run import main
from experiments.sr_quality.run import main as sr_quality


@pytest.fixture(scope="module")
def demo(tiny_wider, tiny_options, tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo")
    tree: dict[str, dict[str, object]] = {}
    for option in tiny_options:
        key, _, value = option.partition("=")
        section, _, name = key.partition(".")
        tree.setdefault(section, {})[name] = yaml.safe_load(value)
    (folder / "tiny.yaml").write_text(yaml.safe_dump(tree))
    words = ["--out", str(folder), "--data", str(tiny_wider.root), "--proposals", str(tiny_wider.proposals)]
    return folder, [*words, "--config", str(folder / "tiny.yaml")]


def test_demo_runs_every_step_and_again(demo, capsys):
    folder, words = demo
    assert main(words) == 0
    printed = capsys.readouterr().out
    assert printed.count("$ tinygan-") == 5 and "Results on" in printed and "95 % interval" in printed
    assert all(f"{name}, {stage}" in printed for name in ("G1", "G2") for stage in ("mse-init", "gan"))
    (run,) = folder.glob("data-*")
    assert {path.name for path in run.glob("*.png")} >= {"sheet.png", "precision_recall.png", "before_after_best.png"}
    assert main(words) == 0
    assert capsys.readouterr().out.count("is finished already") == 3


def test_demo_needs_both_or_neither(capsys):
    with pytest.raises(SystemExit):
        main(["--data", "somewhere"])
    assert "give both --data and --proposals" in capsys.readouterr().err


def test_sr_quality_of_a_run_and_of_nothing(demo, tiny_wider, tmp_path, capsys):
    folder, words = demo
    main(words)
    (run,) = folder.glob("data-*")
    start = ["--data", str(tiny_wider.root), "--out", str(tmp_path)]
    assert sr_quality(["--checkpoint", str(run / "mse"), *start]) == 0
    figures = json.loads((tmp_path / "results.json").read_text())
    assert figures["G2"]["patches"] > 0 and 5 < figures["bicubic"]["psnr"] < 60 and (tmp_path / "sheet.png").is_file()
    assert sr_quality(["--checkpoint", str(tmp_path / "nothing"), *start]) == 2
    assert "no such file" in capsys.readouterr().err


def test_full_table_tells_pictures_apart(demo, tiny_wider, tmp_path, capsys):
    folder, words = demo
    main(words)
    (run,) = folder.glob("data-*")
    pictures = tmp_path / "lfw/someone"
    pictures.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for number in range(3):
        Image.fromarray(rng.integers(0, 255, (100, 100, 3), dtype=np.uint8)).save(pictures / f"{number}.png")
    words = ["--checkpoint", str(run / "gan"), "--mse", str(run / "mse"), "--data", str(tiny_wider.root)]
    words += ["--proposals", str(tiny_wider.proposals), "--lfw", str(tmp_path / "lfw"), "--out", str(tmp_path / "out")]
    assert sr_quality([*words, "--limit", "4"]) == 0
    table = json.loads((tmp_path / "out/table.json").read_text())
    assert list(table["pictures"]) == ["bicubic", "G1, mse-init", "G2, mse-init", "G1, gan", "G2, gan"]
    assert table["faces"]["LFW (seen in mse-init)"] == {"8": 3, "12": 3, "16": 3}
    psnrs = {
        name: one["quality"]["LFW (seen in mse-init)"]["8"]["clean"]["psnr"] for name, one in table["pictures"].items()
    }
    assert len(set(psnrs.values())) >= 4 and all(np.isfinite(list(psnrs.values())))
    assert "| bicubic | clean |" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="2"):
        sr_quality([*words[:4], "--data", "x", "--out", "y"])
