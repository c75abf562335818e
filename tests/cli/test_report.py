"""``tinygan-report``: what is on the page, that it fetches nothing, and what is said where something is missing."""

import csv
import json
import shutil
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from tinygan.cli.report import main
from tinygan.detections import Detections
from tinygan.formats.dialect import AS_WRITTEN
from tinygan.formats.registry import find_format, open_detections
from tinygan.formats.wider import load_ground_truth
from tinygan.formats.writing import write_wider

VOID = ("meta", "img", "input")


class Page(HTMLParser):
    """A parsed page: its tags, its text by the tag around it, and whether tags are closed in order."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.source = file.read_text(encoding="utf-8")
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.said: list[tuple[str, str]] = []
        self._open: list[str] = []
        self.feed(self.source)
        assert self._open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        if self._open and data.strip():
            self.said.append((self._open[-1], data))

    def all(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]

    def texts(self, tag):
        return [text for name, text in self.said if name == tag]

    @property
    def text(self):
        return " ".join(text for name, text in self.said if name not in ("style", "script"))


@pytest.fixture
def typed(tiny_wider, checkpoint, tmp_path):
    """The words that name drawn pictures, what was found in them before, and after: every score changed."""
    before = open_detections(tiny_wider.proposals / "val")
    after = {}
    for name, found in before.items():
        rng = np.random.default_rng(len(after))
        after[name] = Detections(found.boxes, np.clip(found.scores + rng.normal(0, 0.3, len(found)), 0, 1))
    write_wider(tmp_path / "rescored", after)
    return {
        "rescored": [str(tmp_path / "rescored")],
        "images": ["--images", str(tiny_wider.root / "WIDER_val/images")],
        "truth": ["--ground-truth", str(tiny_wider.root / "wider_face_split/wider_face_val_bbx_gt.txt")],
        "baseline": ["--baseline", str(tiny_wider.proposals / "val")],
        "run": ["--checkpoint", str(checkpoint), "--device", "cpu", "--threads", "1"],
    }


def words(typed, *left_out):
    return [word for key, values in typed.items() if key not in left_out for word in values]


def test_a_page_with_everything(typed, tmp_path, capsys):
    run = tmp_path / "judge <1>"
    run.mkdir()
    rows = [{"step": step, "seconds": 1.0, "box": 1 / (1 + step), "once": 1.0} for step in range(20)]
    del rows[0]["once"]
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (run / "config.yaml").write_text("loop: {epochs: 3}  # a < b\n")
    names = [f"val_{number}.jpg" for number in range(4)]
    groups = tmp_path / "groups.csv"
    with groups.open("w", newline="") as file:
        csv.writer(file).writerows([("image", "face", "hat"), *((name, 0, "yes & no") for name in names)])
    out = tmp_path / "report.html"
    more = ["--run", str(run), "--groups", str(groups), "--out", str(out)]
    assert main([*words(typed), *more]) == 0
    assert f"{out}: 4 pictures, " in capsys.readouterr().out

    page = Page(out)
    assert page.texts("h1") == ["What the second stage changed"]
    assert page.texts("h2") == [
        "Average precision", "Precision and recall", "Where the gain comes from", "By group of faces",
        "Faces that changed most", "The costliest false positives", "Training", "Settings and versions",
    ]  # fmt: skip
    assert {f"#{heading['id']}" for heading in page.all("h2")} == {link["href"] for link in page.all("a")}
    assert "4 pictures, 60 boxes before and 60 after." in page.text
    assert "hat yes & no*" in page.text and "Config of the run judge <1>" in page.texts("summary")
    assert "loop: {epochs: 3}  # a < b\n" in page.texts("pre")
    assert "box: 1 at step 0, 0.05 at step 19" in page.text and "seconds:" not in page.text
    assert "Gain by height in pixels" in page.texts("h3") and "95 % intervals by paired bootstrap" in page.text
    assert "before, " in page.text and "val_0.jpg" in page.text


def test_a_page_fetches_nothing_and_can_be_read_aloud(typed, tmp_path):
    out = tmp_path / "report.html"
    assert main([*words(typed), "--out", str(out)]) == 0
    page = Page(out)
    assert "http:" not in page.source and "https:" not in page.source and "url(" not in page.source
    assert all(image["src"].startswith("data:image/jpeg;base64,") and image["alt"] for image in page.all("img"))
    assert not page.all("link") and all("src" not in script for script in page.all("script"))
    assert page.all("html") == [{"lang": "en"}]
    sliders = [slider["id"] for slider in page.all("input")]
    assert len(sliders) == len(set(sliders)) == len(page.all("img")) / 2 > 8
    assert [label["for"] for label in page.all("label")] == sliders
    assert all(cell["scope"] in ("col", "row") for cell in page.all("th"))
    assert len(page.all("caption")) == len(page.all("table")) >= 3
    assert all(drawing["role"] == "img" and drawing["aria-label"] for drawing in page.all("svg"))


def test_figures_are_those_of_tinygan_evaluate(typed, tmp_path, capsys):
    from tinygan.cli.evaluate import main as evaluate

    out = tmp_path / "report.html"
    assert main([*words(typed), "--out", str(out)]) == 0
    given = ["--detections", *typed["rescored"], *typed["truth"], *typed["baseline"]]
    assert evaluate(["wider", *given, "--json", str(tmp_path / "e.json")]) == 0
    report = json.loads((tmp_path / "e.json").read_text())
    before, after = (report[role]["subsets"]["all"]["ap_exact"] for role in ("baseline", "detections"))
    change = report["difference"]["subsets"]["all"]
    cells = Page(out).texts("td")
    assert cells[:3] == ["20", f"{before:.4f}", f"{after:.4f}"]
    assert cells[3] == f"{change['points']:+.2f} [{change['low']:+.2f},\N{NO-BREAK SPACE}{change['high']:+.2f}]"


def test_faces_without_attributes_are_broken_down_by_height_alone(typed, tmp_path):
    faces = load_ground_truth(Path(typed["truth"][1]))
    truth, out = tmp_path / "faces.json", tmp_path / "report.html"
    boxes = [(number, box) for number, one in enumerate(faces.values()) for box in one.boxes.tolist()]
    annotations = [
        {"id": row, "image_id": number, "category_id": 1, "bbox": [x1, y1, x2 - x1, y2 - y1], "iscrowd": 0, "area": 1.0}
        for row, (number, (x1, y1, x2, y2)) in enumerate(boxes)
    ]
    images = [{"id": number, "file_name": name} for number, name in enumerate(faces)]
    categories = [{"id": 1, "name": "face"}]
    truth.write_text(json.dumps({"images": images, "categories": categories, "annotations": annotations}))
    typed["truth"] = ["--ground-truth", str(truth)]
    assert main([*words(typed), "--out", str(out)]) == 0
    titles = Page(out).texts("h3")
    assert "Gain by height in pixels" in titles and not {"Gain by blur", "Gain by occlusion"} & set(titles)


def test_without_annotated_faces_boxes_are_compared(typed, tmp_path):
    out = tmp_path / "report.html"
    assert main([*words(typed, "truth"), "--out", str(out)]) == 0
    page = Page(out)
    assert page.texts("h2") == ["Boxes that changed most", "Settings and versions"]
    assert page.texts("h3") == ["Boxes that rose most", "Boxes that fell most"]
    assert "No annotated faces were given (--ground-truth), so this page shows only the boxes" in page.text
    assert len(page.all("input")) == 16


def test_the_scores_before_may_be_a_column(typed, tmp_path, capsys):
    table, out = tmp_path / "found.csv", tmp_path / "report.html"
    old = open_detections(Path(typed["baseline"][1]))
    new = open_detections(Path(typed["rescored"][0]))
    both = {}
    for name in old:
        by_box = np.lexsort(old[name].boxes.T), np.lexsort(new[name].boxes.T)
        both[name] = new[name][by_box[1]].with_fields(proposal_score=old[name].scores[by_box[0]])
    write = find_format("csv").write
    assert write is not None
    write(table, both, AS_WRITTEN)
    typed["rescored"] = [str(table)]
    assert main([*words(typed, "baseline"), "--out", str(out)]) == 0
    page = Page(out)
    assert "The scores before are those of column proposal_score" in page.text
    assert main([*words(typed), "--out", str(out), "--overwrite"]) == 0
    again = Page(out)
    assert again.texts("td")[:4] == page.texts("td")[:4] and "The scores before" not in again.text


def test_pictures_without_boxes_are_told_of_on_the_page(typed, tmp_path, capsys):
    out = tmp_path / "report.html"
    next(Path(typed["rescored"][0]).rglob("val_3.txt")).unlink()
    assert main([*words(typed), "--out", str(out)]) == 1
    assert "1 of 4 images have no file" in capsys.readouterr().err
    said = (
        "1 of the 4 annotated pictures have no file in rescored and count as without boxes; --subset leaves them out."
    )
    assert said in Page(out).text


def test_what_tinygan_rescore_noted_is_the_baseline(typed, tmp_path):
    out = tmp_path / "report.html"
    notes = {"proposals": typed["baseline"][1], "method": "a<b"}
    Path(typed["rescored"][0], "rescore.json").write_text(json.dumps(notes))
    assert main([*words(typed, "baseline"), "--out", str(out)]) == 0
    page = Page(out)
    assert "Settings of tinygan-rescore" in page.texts("summary") and '"method": "a<b"' in page.texts("pre")[0]


def test_names_are_escaped_and_unread_pictures_listed(typed, tiny_wider, tmp_path, capsys):
    images, rescored, before = tmp_path / "images", tmp_path / "new", tmp_path / "old"
    images.mkdir()
    source = sorted((tiny_wider.root / "WIDER_val/images").rglob("*.jpg"))
    names = ["<b>&'.jpg", "broken.jpg"]
    for name, file in zip(names, source, strict=False):
        shutil.copy(file, images / name)
    (images / "broken.jpg").write_bytes(b"\xff\xd8\xff")
    box = np.array([[10.0, 10.0, 30.0, 34.0]])
    write_wider(before, {name: Detections(box, np.array([0.5])) for name in names})
    write_wider(rescored, {name: Detections(box, np.array([0.9])) for name in names})
    out = tmp_path / "report.html"
    given = [str(rescored), "--images", str(images), "--baseline", str(before), *typed["run"], "--out", str(out)]
    assert main(given) == 1
    error = capsys.readouterr().err
    assert "skipped: 1 images" in error and "broken.jpg: expected a readable image" in error
    page = Page(out)
    assert not page.all("b") and "<b>&'.jpg" in page.text and len(page.all("input")) == 1
    assert page.all("img")[0]["alt"] == "Box in <b>&'.jpg, enlarged by bicubic interpolation"


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--out", "page.pdf"], "--out page.pdf: expected a file name that ends in .html"),
        (["--out", "no/page.html"], "no such folder as no; make it first"),
        (["--run", "."], "--run .: expected the folder of a run with figures in metrics.jsonl, found none"),
        (["--groups", "g.csv"], "--groups g.csv: groups are of annotated faces; give --ground-truth too"),
        (["--checkpoint", "huge"], "--checkpoint huge: no such file, folder or shipped checkpoint"),
        (["--images", "nowhere"], "nowhere: no such folder of images"),
    ],
)
def test_misuse_is_one_line(typed, more, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main([*words(typed, "truth"), "--out", "report.html", *more]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1 and not list(tmp_path.glob("*.html"))


def test_scores_before_are_needed(typed, tmp_path, capsys):
    assert main([*words(typed, "baseline"), "--out", str(tmp_path / "report.html")]) == 2
    assert "has no column proposal_score; give the boxes before rescoring with --baseline P" in capsys.readouterr().err


def test_a_page_is_replaced_only_when_told(typed, tmp_path, capsys):
    out = tmp_path / "report.html"
    out.write_text("mine")
    assert main([*words(typed, "truth"), "--out", str(out)]) == 2
    assert "exists already; replace it with --overwrite" in capsys.readouterr().err and out.read_text() == "mine"
    assert main([*words(typed, "truth"), "--out", str(out), "--overwrite"]) == 0
    first = out.read_bytes()
    assert main([*words(typed, "truth"), "--out", str(out), "--overwrite"]) == 0
    assert out.read_bytes() == first


def test_ellipses_of_fddb_get_their_roc(typed, tmp_path, capsys):
    from tinygan.cli.evaluate import main as evaluate

    faces, folds, out = load_ground_truth(Path(typed["truth"][1])), tmp_path / "FDDB-folds", tmp_path / "report.html"
    folds.mkdir()
    lines = []
    for name, truth in faces.items():
        lines += [name.removesuffix(".jpg"), str(len(truth))]
        for x1, y1, x2, y2 in truth.boxes.tolist():
            lines.append(f"{(y2 - y1) / 2} {(x2 - x1) / 2} 1.5707963 {(x1 + x2) / 2} {(y1 + y2) / 2}  1")
    (folds / "FDDB-fold-01-ellipseList.txt").write_text("\n".join(lines) + "\n")
    typed["truth"] = ["--ground-truth", str(folds)]
    assert main([*words(typed), "--out", str(out)]) == 0
    page = Page(out)
    assert page.texts("h2")[:3] == ["Average precision", "Precision and recall", "ROC of FDDB"]
    given = ["fddb", "--detections", *typed["rescored"], *typed["truth"], *typed["baseline"], *typed["images"]]
    assert evaluate([*given, "--json", str(tmp_path / "e.json")]) == 0
    report = json.loads((tmp_path / "e.json").read_text())
    at_500 = page.texts("td")[page.texts("td").index("20") + 4 :]
    for kind in ("discrete", "continuous"):
        for role in ("baseline", "detections"):
            assert f"{report[role]['merged'][kind]['500']['tpr']:.4f}*" in at_500
