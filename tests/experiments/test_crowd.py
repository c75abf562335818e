import socket

import numpy as np
import pytest
from PIL import Image

from experiments.demo import crowd
from experiments.demo.decoys import random_decoy
from experiments.demo.faces import draw_person
from experiments.demo.people import random_person
from experiments.demo.photos import astronaut_face, load_photos, tiny_face
from experiments.demo.simulate import simulate_proposals
from tinygan.boxes import iou
from tinygan.errors import DataError
from tinygan.formats.names import stem
from tinygan.formats.registry import open_detections
from tinygan.formats.wider import load_split


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("crowd")
    crowd.make_crowd(folder / "data", folder / "proposals", train_images=8, val_images=3, seed=3)
    return folder


def contents(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.mark.parametrize(("split", "count"), [("train", 8), ("val", 3)])
def test_a_split_reads_as_wider_face(made, split, count):
    scenes = load_split(made / "data", split)
    assert len(scenes.faces) == count
    assert sum(len(truth) for truth in scenes.faces.values()) > count
    for name, truth in scenes.faces.items():
        with Image.open(scenes.images / name) as image:
            size = image.size
        assert (truth.boxes[:, :2] >= 0).all() and (truth.boxes[:, 2:] <= size).all()
        assert ((truth.boxes[:, 2:] - truth.boxes[:, :2]) > 3).all()


def test_proposals_find_most_faces_and_lie_inside(made):
    overlaps = []
    scenes = load_split(made / "data", "train")
    proposals = open_detections(made / "proposals" / "train")
    assert len(proposals) == len(scenes.faces)
    for name, truth in scenes.faces.items():
        found = proposals[stem(name)]
        assert (found.scores > 0.02).all() and (found.scores < 1).all()
        assert (found.boxes >= 0).all()
        if len(truth):
            overlaps.append(iou(truth.boxes, found.boxes).max(axis=1))
    assert 0.8 < (np.concatenate(overlaps) >= 0.5).mean() < 1


def test_the_same_seed_gives_the_same_bytes_and_another_does_not(tmp_path):
    for name, seed in (("one", 0), ("two", 0), ("three", 1)):
        crowd.make_crowd(tmp_path / name / "d", tmp_path / name / "p", train_images=2, val_images=1, seed=seed)
    one, two, three = (contents(tmp_path / name) for name in ("one", "two", "three"))
    assert one == two != three
    assert not [name for name in one if "partial" in name]


def test_train_and_val_share_no_photographed_face_and_no_scene(made):
    train, val = load_photos("train"), load_photos("val")
    for first, second in ((train.faces, val.faces), (train.patches, val.patches)):
        assert not {image.tobytes() for image in first} & {image.tobytes() for image in second}
    pictures = [{data for path, data in contents(made / "data" / f"WIDER_{s}").items()} for s in ("train", "val")]
    assert not pictures[0] & pictures[1]


def test_photographs_need_no_network(monkeypatch):
    def refuse(*_):
        raise AssertionError("went to the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    assert len(load_photos("train").faces) + len(load_photos("val").faces) == 100


def test_some_scenes_are_empty_and_none_hides_a_face(monkeypatch):
    photos = load_photos("val")
    monkeypatch.setattr(crowd, "_EMPTY_SHARE", 1.0)
    empty = crowd.draw_scene(photos, np.random.default_rng(0))
    assert len(empty.truth) == 0 and len(empty.decoys) > 0
    monkeypatch.setattr(crowd, "_EMPTY_SHARE", 0.0)
    assert len(crowd.draw_scene(photos, np.random.default_rng(0)).truth) > 0


def test_an_empty_scene_has_the_official_zero_row(monkeypatch, tmp_path):
    monkeypatch.setattr(crowd, "_EMPTY_SHARE", 1.0)
    crowd.make_crowd(tmp_path / "d", tmp_path / "p", train_images=1, val_images=0)
    text = (tmp_path / "d" / "wider_face_split" / "wider_face_train_bbx_gt.txt").read_text()
    assert text.splitlines()[1:] == ["0", "0 0 0 0 0 0 0 0 0 0"]


def test_face_sizes_are_mostly_tiny_with_a_sixth_large():
    rng = np.random.default_rng(0)
    heights = np.array([crowd._face_height(rng) for _ in range(2000)])
    assert heights.min() >= 8 and heights.max() <= 120
    assert np.median(heights) < 25 and (heights >= 40).mean() > 1 / 6


def test_a_folder_in_the_way_is_left_alone(made):
    before = contents(made)
    with pytest.raises(DataError, match="data: exists already"):
        crowd.make_crowd(made / "data", made / "other")
    assert contents(made) == before and not (made / "other").exists()


def test_a_cut_off_run_leaves_nothing(monkeypatch, tmp_path):
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(crowd, "simulate_proposals", stop)
    with pytest.raises(KeyboardInterrupt):
        crowd.make_crowd(tmp_path / "data", tmp_path / "proposals", train_images=1, val_images=1)
    assert list(tmp_path.iterdir()) == []


def test_the_command_writes_both_folders_and_refuses_a_second_time(tmp_path, capsys):
    command = ["--out", str(tmp_path / "out"), "--train-images", "1", "--val-images", "1"]
    assert crowd.main(command) == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["data", "proposals"]
    assert crowd.main(command) == 2
    assert "exists already" in capsys.readouterr().err


@pytest.mark.parametrize("height_px", [8.0, 20.0, 90.0])
def test_sprites_are_premultiplied_and_their_boxes_fit_the_height(height_px):
    rng = np.random.default_rng(1)
    photos = load_photos("train")
    faces = [draw_person(random_person(rng), height_px, rng) for _ in range(5)]
    faces += [tiny_face(photos, min(height_px, 25), rng), astronaut_face(photos, height_px, rng)]
    for sprite in [*faces, *(random_decoy(photos, height_px, rng) for _ in range(12))]:
        assert sprite.rgb.shape == (*sprite.alpha.shape, 3) and sprite.core.shape == sprite.alpha.shape
        assert sprite.alpha.min() >= 0 and sprite.alpha.max() <= 1 + 1e-6
        assert (sprite.rgb <= sprite.alpha[..., None] + 1e-5).all()
    for sprite in faces:
        assert sprite.is_face
        assert 0.6 * min(height_px, 25) < sprite.box[3] - sprite.box[1] < 1.3 * height_px
        rows, columns = np.nonzero(sprite.core)
        core = columns.min(), rows.min(), columns.max() + 1, rows.max() + 1
        assert np.abs(np.array(core) - sprite.box).max() < max(1.5, 0.2 * height_px)


def test_no_faces_and_no_decoys_leave_background_boxes_only():
    found = simulate_proposals(np.zeros((0, 4)), np.zeros((0, 4)), (640, 480), np.random.default_rng(0))
    assert 0 < len(found) < 40
    assert (found.boxes[:, 2] <= 640).all() and (found.boxes[:, 3] <= 480).all()
