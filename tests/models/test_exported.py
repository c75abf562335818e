from pathlib import Path

import pytest

from tinygan.errors import CheckpointError, ConfigError
from tinygan.models.exported import exported_file, open_exported
from tinygan.runtime import Runtime, RuntimeOptions


def write(folder: Path, name: str, **facts: str) -> None:
    """A network as OpenVINO writes it, without its layers."""
    lines = "".join(f'<{key} value="{value}" />' for key, value in facts.items())
    (folder / f"{name}.xml").write_text(f"<net><layers /><rt_info><tinygan>{lines}</tinygan></rt_info></net>")
    (folder / f"{name}.bin").write_bytes(b"weights")


def test_a_folder_says_what_it_holds(tmp_path):
    write(tmp_path, "judge", tensors_sha256="aa")
    write(tmp_path, "second_judge", tensors_sha256="aa", precision="int8")
    found = open_exported(tmp_path)
    assert (found.precision, found.weights) == ("int8", "aa")
    assert exported_file(found, "judge") == tmp_path / "judge.xml"
    (tmp_path / "judge.bin").write_bytes(b"others")
    assert open_exported(tmp_path).digest != found.digest, "the weights count"
    write(tmp_path, "second_judge", tensors_sha256="aa")
    assert open_exported(tmp_path).precision == "32"


def test_a_run_notes_exported_networks(tmp_path):
    write(tmp_path, "judge", tensors_sha256="aa", precision="int8")
    options = RuntimeOptions(
        device="cpu", backend="openvino", threads=1, precision="32", exported=open_exported(tmp_path)
    )
    runtime = Runtime(options)
    noted = f"openvino with networks in int8, SHA-256 {open_exported(tmp_path).digest[:16]}"
    assert runtime.settings() == {"precision": "32", "backend": noted}
    assert str(runtime) == f"cpu, 1 thread, precision 32, openvino with networks in int8 of {tmp_path}"
    assert Runtime(options.exact()).settings() == {"precision": "32", "backend": "openvino"}, "of the first stage"


def test_mistakes_are_named(tmp_path):
    with pytest.raises(CheckpointError, match="expected the second stage as tinygan-export --format openvino writes"):
        open_exported(tmp_path)
    (tmp_path / "judge.xml").write_text("no XML")
    with pytest.raises(CheckpointError, match="found no judge.xml of this version"):
        open_exported(tmp_path)
    write(tmp_path, "judge", tensors_sha256="aa")
    write(tmp_path, "other", tensors_sha256="bb")
    with pytest.raises(CheckpointError, match=r"other\.xml: of other weights than judge\.xml beside it"):
        open_exported(tmp_path)
    (tmp_path / "other.xml").unlink()
    exported = open_exported(tmp_path)
    with pytest.raises(CheckpointError, match=r"second_judge\.xml: no such file; export the second stage again"):
        exported_file(exported, "second_judge")
    with pytest.raises(ConfigError, match="exported networks are for backend openvino, got backend torch"):
        RuntimeOptions(exported=exported)
