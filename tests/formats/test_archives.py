import io
import tarfile
import zipfile

import numpy as np
import pytest

from tinygan.errors import DataError
from tinygan.formats.archives import read_archive


def test_truncated_archive_is_an_error(tmp_path):
    rng = np.random.default_rng(0)
    (tmp_path / "a.txt").write_text(" ".join(map(str, rng.random(5000))))
    with tarfile.open(tmp_path / "whole.tar.gz", "w:gz") as tar:
        tar.add(tmp_path / "a.txt", "a.txt")
    whole = (tmp_path / "whole.tar.gz").read_bytes()
    (tmp_path / "cut.tar.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"cut\.tar\.gz: expected a readable"):
        read_archive(tmp_path / "cut.tar.gz")


def test_what_macos_adds_to_archives_is_no_detection(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("e/a.txt", "a\n0\n")
        archive.writestr("__MACOSX/e/._a.txt", b"\0\5\x16")
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for name in ("./e/a.txt", "./e/._a.txt"):
            archive.addfile(tarfile.TarInfo(name), io.BytesIO())
    assert list(read_archive(tmp_path / "a.zip")) == list(read_archive(tmp_path / "a.tar")) == ["e/a.txt"]


def test_a_zip_member_without_a_name_is_passed_over(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("?", b"")
        archive.writestr("a.txt", "a\n0\n")
    content = (tmp_path / "a.zip").read_bytes().replace(b"?", b"\0")  # zipfile cuts names off at a NUL
    (tmp_path / "a.zip").write_bytes(content)
    assert list(read_archive(tmp_path / "a.zip")) == ["a.txt"]
