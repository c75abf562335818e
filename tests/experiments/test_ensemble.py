"""The ensemble's table: every detector alone, re-scored and joined, on images of one's own."""

import json

from experiments.ensemble.run import JOINED, RESCORED, main


def test_every_detector_has_a_line_and_joining_adds_faces(tiny_wider, tmp_path, capsys):
    out = tmp_path / "out"
    words = ["--data", str(tiny_wider.root), "--split", "val", "--precision", "32", "--out", str(out)]
    assert main([*words, "--proposals", str(tiny_wider.proposals / "val")]) == 0
    report = json.loads((out / "results.json").read_text())
    assert report["images"] == 4 and set(report[RESCORED]) == set(report[JOINED]) == {"IoU 0.5", "IoU 0.7"}
    row, again = report[JOINED]["IoU 0.5"]["val"]["all"], report[RESCORED]["IoU 0.5"]["val"]["all"]
    assert row["before"] == again["before"] and row["after"] != again["after"]
    lines = (out / "table.md").read_text().splitlines()
    assert [line.split("|")[1].strip() for line in lines[4:]] == ["val", "both stages that ship"]
    assert f"{row['before']:.4f} / {again['after']:.4f} / {row['after']:.4f}" in lines[4]
    assert lines[4] in capsys.readouterr().out
