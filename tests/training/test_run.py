"""The folder of a training run: what replaces a run leaves nothing of it, and all of what is somebody else's."""

from tinygan.training.run import FILES, RunFolder


def test_overwriting_removes_all_that_a_run_wrote(tmp_path):
    run = RunFolder(tmp_path, "seed: 0\n")
    for name in FILES[1:]:
        run.file(name).write_text("old")
    run.sample(1).touch()
    run.sample(1000).touch()
    (run.patches / "holdout").mkdir(parents=True)
    (run.patches / "holdout/small.u8").touch()
    (tmp_path / ".model.safetensors.x1_y.tmp").touch()  # killed while writing
    RunFolder(tmp_path, "seed: 1\n", overwrite=True)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["config.yaml", "samples"]
    assert run.file("config.yaml").read_text() == "seed: 1\n"


def test_overwriting_leaves_what_no_run_wrote(tmp_path):
    RunFolder(tmp_path, "").file("holdout.txt").touch()
    mine = [tmp_path / name for name in ("notes.txt", "samples/mine.png", ".notes.txt.swp", ".notes.txt.x.tmp")]
    for file in mine:
        file.write_text("mine")
    RunFolder(tmp_path, "", overwrite=True)
    assert all(file.read_text() == "mine" for file in mine) and not (tmp_path / "holdout.txt").exists()


def test_a_folder_without_a_run_is_nobodys_to_clear(tmp_path):
    (tmp_path / "holdout.txt").write_text("mine")
    RunFolder(tmp_path, "", overwrite=True)
    assert (tmp_path / "holdout.txt").read_text() == "mine"
