"""Damaged and hostile files for every reader: each is read, or refused by one error that tinygan raises on purpose.

scripts/faults --inputs 10000
"""

from __future__ import annotations

import argparse
import importlib
import io
import json
import logging
import math
import re
import resource
import tempfile
import time
import traceback
import zlib
from collections import Counter
from collections.abc import Callable, Mapping
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
import torch
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import save as save_tensors
from scipy.io import savemat

from tinygan.checkpoint import load_checkpoint, load_state
from tinygan.config import build_config, load_config
from tinygan.detect.results import open_results
from tinygan.detect.sources import Source
from tinygan.detections import Detections
from tinygan.errors import TinyGanError
from tinygan.formats.dialect import AS_WRITTEN, Dialect
from tinygan.formats.face_groups import load_face_groups
from tinygan.formats.fddb import load_roc
from tinygan.formats.images import read_image
from tinygan.formats.registry import find_format, open_detections
from tinygan.formats.sizes import read_size
from tinygan.formats.truths import load_faces
from tinygan.formats.wider import load_subset
from tinygan.formats.wider_mat import read_mat
from tinygan.formats.writing import open_output, write_wider
from tinygan.models.onnx_file import read_convolutions
from tinygan.models.public_weights import load_tensors
from tinygan.second_stage.fusion import stored_fusion
from tinygan.training.recipe import Recipe

SLOW_S = 20.0  # for one small file, on a crowded machine
MEMORY = 12 << 30  # bytes of address space that the long run may take


class Reader(NamedTuple):
    """A reader and a file that it reads.

    Attributes:
        file: name of the file, or of one in a folder.
        valid: function that makes its content.
        read: reads the file.
    """

    file: str
    valid: Callable[[], bytes]
    read: Callable[[Path], object]


def detections(kind: str, name: str) -> Reader:
    """Detections of a format that is written too."""

    def valid() -> bytes:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, name)
            found = Detections(np.array([[1.5, 2, 3, 4], [-5, 0, 60, 7.25]]), np.array([0.9, 0.1]))
            item = {"e/a.jpg": found, "b.jpg": found}
            if kind == "wider":
                write_wider(path, item)
            else:
                write = find_format(kind).write
                assert write is not None
                write(path, item, AS_WRITTEN)
            return path.read_bytes()

    def read(path: Path) -> None:
        files = open_detections(path, None if kind == "detect" else kind)
        for one in files:
            files[one].sorted()

    return Reader(name, valid, read)


def picture(suffix: str, mode: str = "RGB", **options: object) -> Reader:
    """A picture that Pillow or tifffile reads."""

    def valid() -> bytes:
        pixels = (np.arange(40 * 30 * 3) % 251).astype(np.uint8).reshape(30, 40, 3)
        image = Image.fromarray(pixels).convert("L" if mode in ("F", "I;16") else mode)
        image = image.convert("I").convert("I;16") if mode == "I;16" else image.convert(mode)
        content = io.BytesIO()
        image.save(content, suffix, **options)
        return content.getvalue()

    def read(path: Path) -> None:
        size = read_size(path)
        shown = read_image(path)
        assert shown.mode == "RGB" and shown.size == size, (shown.size, size)

    return Reader(f"a.{suffix}", valid, read)


def text(name: str, content: str, read: Callable[[Path], object]) -> Reader:
    """A text, written by hand."""
    return Reader(name, content.encode, read)


COCO = {
    "images": [{"id": 1, "file_name": "a.jpg", "width": 40, "height": 30}],
    "categories": [{"id": 1, "name": "face"}],
    "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 2, 10, 11], "area": 110, "iscrowd": 0}],
}
VALUE = {"x": 10, "y": 20.5, "width": 30, "height": 40, "rotation": 0, "rectanglelabels": ["face"]}
TASKS = [{
    "data": {"image": "/data/upload/a.jpg"},
    "annotations": [{"result": [{"type": "rectanglelabels", "original_width": 40, "original_height": 30,
                                 "from_name": "l", "value": VALUE}]}],
}]  # fmt: skip
CVAT = """<annotations><version>1.1</version><image id="0" name="a.jpg" width="40" height="30">
<box label="face" xtl="1" ytl="2" xbr="9" ybr="8.5" occluded="0"><attribute name="score">0.5</attribute></box>
</image></annotations>"""
VOC = """<annotation><filename>a.jpg</filename><size><width>40</width><height>30</height><depth>3</depth></size><object>
<name>face</name><difficult>0</difficult><bndbox><xmin>1</xmin><ymin>2</ymin><xmax>9</xmax><ymax>8</ymax></bndbox>
</object></annotation>"""
FACES = "0--Parade/a.jpg\n2\n1 2 10 20 0 0 0 0 0 0\n3 4 5 6 2 0 0 1 0 0\n0--Parade/b.jpg\n0\n0 0 0 0 0 0 0 0 0 0\n"
LABELS = "# 0--Parade/a.jpg\n1 2 10 20 " + " ".join(["3.5 4.5 0.0"] * 5) + " 0.9\n"
ELLIPSES = "2002/08/11/big/img_591\n1\n123.5 85.5 1.2 269.6 161.7 1\n"


def mat(version: int) -> bytes:
    """A MATLAB file, v5 (7 compresses it) or v7.3."""
    names = np.empty((2, 1), object)
    names[:, 0] = ["a_1", "b"]
    content = io.BytesIO()
    if version == 73:
        with h5py.File(content, "w", userblock_size=512) as file:
            file["event_list"] = np.array([[97, 98]], np.uint16)
            file["event_list"].attrs["MATLAB_class"] = np.bytes_("char")
            file["boxes"] = np.arange(12.0).reshape(4, 3)
            references = file.create_dataset("cells", (1, 2), dtype=h5py.ref_dtype)
            references[0, 0], references[0, 1] = file["boxes"].ref, file["event_list"].ref
        return b"MATLAB 7.3 MAT-file".ljust(116) + bytes(8) + b"\x00\x02IM" + content.getvalue()[128:]
    variables = {"event_list": names, "boxes": np.arange(12.0).reshape(4, 3), "cells": names}
    savemat(content, variables, do_compression=version == 7)
    return content.getvalue()


def tensors(wrap: bool) -> bytes:
    """What ``torch.save`` writes."""
    content = io.BytesIO()
    some = {"a.weight": torch.arange(6.0).reshape(2, 3), "step": 3}
    torch.save({"state_dict": some} if wrap else some, content)
    return content.getvalue()


def checkpoint() -> bytes:
    """A checkpoint of tinygan."""
    return save_tensors({"generator.a": torch.zeros(2, 3)}, metadata={"tinygan": json.dumps(HEADER)})


def onnx() -> bytes:
    """An ONNX file of one convolution."""
    import onnx as library
    from onnx import TensorProto, helper, numpy_helper

    weight = numpy_helper.from_array(np.zeros((2, 3, 1, 1), np.float32), "w")
    bias = numpy_helper.from_array(np.zeros(2, np.float32), "b")
    node = helper.make_node("Conv", ["x", "w", "b"], ["y"], name="conv", kernel_shape=[1, 1])
    given_, made = (helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in "xy")
    model = helper.make_model(helper.make_graph([node], "g", [given_], [made], [weight, bias]))
    content = io.BytesIO()
    library.save(model, content)
    return content.getvalue()


def resumed(path: Path) -> None:
    """Continue a run whose list of finished images is this file."""
    (path.parent / "run.json").write_text("{}")
    names = ["a.jpg", "b.jpg"]
    writer = open_output(path.parent, ("run.json",), "tinygan-test", {}, resume=True, overwrite=False, names=names)
    assert writer.done({name: {"picture": "1-2"} for name in names}) == {}


def pack_header(path: Path) -> None:
    """Read weights whose header this file is."""
    weights = path.with_name("w.safetensors")
    weights.write_bytes(
        save_tensors({"generator.a": torch.zeros(2, 3)}, metadata={"tinygan": path.read_text("latin-1")})
    )
    loaded = load_checkpoint(weights, ("gan",))
    build_config(Recipe, loaded.recipe)
    stored_fusion(loaded)


def journal(path: Path) -> None:
    """Continue a run of ``tinygan-detect`` whose journal this file is."""
    with open_results(path.parent, {}, resume=True, overwrite=False) as results:
        results.missing([Source("a.jpg", Path("/a.jpg"))])
        results.write_tables({})


HEADER = {"format": 1, "kind": "gan", "config": {"seed": 0}, "facts": {"trained_on": ["ab"], "fusion": {"judge": 1.0}}}
FACE = {"box": [1.0, 2.0, 3.0, 4.5], "score": 0.5, "proposal_score": 0.4, "face_logit": 1.0, "outcome": "raised"}
JOURNAL = [
    {"settings": {}},
    {"name": "a.jpg", "width": 4, "height": 5, "dropped": 0, "faces": [FACE]},
    {"done": "a.jpg", "output": None, "path": "/a.jpg", "made_of": ""},
]

READERS: dict[str, Reader] = {
    "wider.tar.gz": detections("wider", "a.tar.gz"),
    "wider.tar": detections("wider", "a.tar"),
    "wider.zip": detections("wider", "a.zip"),
    "fddb": detections("fddb", "a.txt"),
    "csv": detections("csv", "a.csv"),
    "coco": detections("coco", "a.json"),
    "parquet": detections("parquet", "a.parquet"),
    "sahi": detections("sahi", "a.json"),
    "supervision": detections("supervision", "a.csv"),
    "supervision-json": detections("supervision-json", "a.json"),
    "pandas": detections("pandas", "a.csv"),
    "detect": detections("detect", "a.json"),
    "cvat scores": text("a.xml", CVAT, lambda path: dict(open_detections(path, "cvat"))),
    "label-studio": text("a.json", json.dumps(TASKS), lambda path: dict(open_detections(path, "label-studio"))),
    "names": text("n.json", json.dumps(COCO), lambda path: Dialect(names=path) and load_faces(path)),
    "coco truth": text("a.json", json.dumps(COCO), load_faces),
    "label-studio truth": text("a.json", json.dumps(TASKS), load_faces),
    "cvat": text("a.xml", CVAT, load_faces),
    "voc": text("x.xml", VOC, lambda path: load_faces(path.parent)),
    "wider truth": text("a_bbx_gt.txt", FACES, load_faces),
    "retinaface": text("label.txt", LABELS, load_faces),
    "ellipses": text("FDDB-fold-01-ellipseList.txt", ELLIPSES, load_faces),
    "roc": text("roc.txt", "0.5 3\n0.6 7\n", load_roc),
    "subset": text("list.txt", "a.jpg\nb.jpg\n", load_subset),
    "groups": text("g.csv", "image,face,group\na.jpg,1,dark\n", lambda path: load_face_groups(path, {"a.jpg": 2})),
    "yaml": text("a.yaml", "seed: 3\ngan: {epochs: 2}\nbatches:\n  lr_sizes: [6, 8]\n",
                 lambda path: load_config(Recipe, str(path))),
    "done.list": text("done.list", '["a.jpg", {"picture": "1-2"}]\n["b.jpg", {"picture": "1-2"}]\n', resumed),
    "safetensors header": text("header.json", json.dumps(HEADER), pack_header),
    "detect.jsonl": text("detect.jsonl", "".join(json.dumps(line) + "\n" for line in JOURNAL), journal),
    "safetensors": Reader("a.safetensors", checkpoint, lambda path: load_checkpoint(path, ("gan",))),
    "state": Reader("last.ckpt", lambda: tensors(False), load_state),
    "pth": Reader("a.pth", lambda: tensors(True), load_tensors),
    "onnx": Reader("a.onnx", onnx, read_convolutions),
    "mat v5": Reader("a.mat", lambda: mat(5), lambda path: read_mat(path, ("event_list", "boxes", "cells"))),
    "mat v7": Reader("a.mat", lambda: mat(7), lambda path: read_mat(path, ("event_list", "boxes", "cells"))),
    "mat v7.3": Reader("a.mat", lambda: mat(73), lambda path: read_mat(path, ("event_list", "boxes", "cells"))),
    "png": picture("png"),
    "png palette": picture("png", "P"),
    "png 16": picture("png", "I;16"),
    "jpeg": picture("jpeg"),
    "jpeg progressive": picture("jpeg", "CMYK", progressive=True),
    "gif": picture("gif", "P"),
    "bmp": picture("bmp"),
    "webp": picture("webp"),
    "ppm": picture("ppm"),
    "tiff": picture("tiff"),
    "tiff lzw": picture("tiff", "F", compression="tiff_lzw"),
    "tga": picture("tga"),
    "ico": picture("ico"),
}  # fmt: skip

GARBAGE = [b"nan", b"inf", b"-inf", b"1e999", b"1e308", b"-1", b"-7", b"999999999", b"9" * 30, b"9" * 5000, b"", b"x"]
GARBAGE += [b"\xff", b"\0", b"null", b"true", b"[]", b"{}", b'"', b"1_0", "\u0661".encode(), b",", b"\n", b"\r", b"1 2"]
GARBAGE += [b"[" * 2000, b"{a: " * 500, b"&x [*x, *x]", b"!!python/object/apply:os.system [id]", b"../../../etc/x"]
GARBAGE += [
    b"<!ENTITY a 'b'>",
    b"<a>" * 500,
    b"\\ud800",
    b"0x10",
    b"\xff\xff\xff\xff",
    b"\x7f\xff\xff\xff",
    b"%s",
    b"~",
]
ODD = [None, True, -1, 0, 3, 1e308, 1e-320, math.nan, math.inf, 10**30, "", "x", "../x", "\0", "\ud800", "9" * 5000]
ODD += [[], {}, [[]], [None], {"a": 1}, [[1, 2], [3]], [1, 2, 3, 4], "nan", "1e999", -(2**63), 2**64]
TOKEN = re.compile(rb"[-\w.]+")


@st.composite
def grafted(draw: st.DrawFn, content: bytes) -> bytes:
    """Lines of JSON with values, at any depth, replaced by others, or left out."""
    lines = content.decode().splitlines()
    if not lines[0].endswith(("}", "]")):  # one document, over several lines
        lines = [json.dumps(json.loads(content))]
    which = draw(st.integers(0, len(lines) - 1))
    tree = json.loads(lines[which])
    for _ in range(draw(st.integers(1, 3))):
        node: Any = {"": tree}
        key: Any = ""
        while isinstance(node[key], dict | list) and node[key] and draw(st.integers(0, 3)):
            node = node[key]
            key = draw(st.sampled_from(list(node) if isinstance(node, dict) else range(len(node))))
        if key == "" or not (isinstance(node, dict) and draw(st.booleans()) and draw(st.booleans())):
            node[key] = deepcopy(draw(st.sampled_from(ODD)))
            tree = node[""] if key == "" else tree
        else:
            del node[key]
    lines[which] = json.dumps(tree)
    return "\n".join(lines).encode() + b"\n"


@st.composite
def damaged(draw: st.DrawFn, content: bytes) -> bytes:
    """Content cut off, doubled, with tokens or bytes replaced, or bytes that have nothing to do with it."""
    if content[:1] in (b"{", b"[") and draw(st.booleans()):
        return draw(grafted(content))
    how = draw(st.sampled_from(["cut", "token", "token", "token", "bytes", "bytes", "noise", "lines", "twice"]))
    if how == "cut":
        return content[: draw(st.integers(0, len(content)))]
    if how == "noise":
        return draw(st.binary(max_size=200))
    if how == "twice":
        return content + content[draw(st.integers(0, len(content))) :]
    if how == "lines":
        return b"\n".join(draw(st.lists(st.sampled_from(content.split(b"\n")), max_size=8)))
    for _ in range(draw(st.integers(1, 4))):
        if how == "token":
            found = list(TOKEN.finditer(content))
            start, end = draw(st.sampled_from(found)).span() if found else (0, 0)
            content = content[:start] + draw(st.sampled_from(GARBAGE)) + content[end:]
        else:
            at = draw(st.integers(0, max(0, len(content) - 1)))
            content = content[:at] + draw(st.binary(min_size=1, max_size=4)) + content[at + 1 :]
    return content


@cache
def valid_content(name: str) -> bytes:
    """A whole file for a reader."""
    return READERS[name].valid()


def try_input(name: str, content: bytes) -> str:
    """Read a file; whether it was ``read`` or ``refused``. Any other error, or a long wait, is raised.

    A PNG's checksums are mended first, or nothing behind the first one would ever be reached.
    """
    reader = READERS[name]
    if name.startswith("png"):
        content = with_checksums(content)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, reader.file)
        path.write_bytes(content)
        started = time.monotonic()
        try:
            reader.read(path)
            outcome = "read"
        except TinyGanError as error:
            assert str(error).strip(), "a message"
            outcome = "refused"
        assert time.monotonic() - started < SLOW_S, f"took {time.monotonic() - started:.0f} s"
    return outcome


def with_checksums(png: bytes) -> bytes:
    """A PNG with the right checksum behind every chunk."""
    whole, at = png[:8], 8
    while at + 12 <= len(png):
        size = int.from_bytes(png[at : at + 4], "big")
        chunk = png[at + 4 : at + 8 + size]
        whole += png[at : at + 4] + chunk + zlib.crc32(chunk).to_bytes(4, "big")
        at += 12 + size
    return whole + png[at:]


def fuzz(name: str, count: int, start: int, outcomes: Counter[str]) -> None:
    """Try so many damaged files on a reader; an error that nobody foresaw is raised, with the smallest file."""

    @seed(start)
    @settings(max_examples=count, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(content=damaged(valid_content(name)))
    def attempt(content: bytes) -> None:
        outcomes[try_input(name, content)] += 1

    attempt()


def _told(error: BaseException) -> str:
    """An error, where it was raised, and the smallest file that raises it."""
    place = traceback.extract_tb(error.__traceback__)[-1]
    notes = " ".join(getattr(error, "__notes__", []))
    return f"{type(error).__name__}: {str(error)[:150]} at {place.filename}:{place.lineno} {notes[:400]}"


def main() -> int:
    """Try all readers; returns 1 if one failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--inputs", type=int, default=10_000, help="files in all, at least")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="*", help="names of readers")
    parser.add_argument("--log", type=Path, help="a line of JSON per reader")
    arguments = parser.parse_args()
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    logging.disable(logging.CRITICAL)
    importlib.import_module("warnings").simplefilter("ignore")
    totals: Counter[str] = Counter()
    failures: Mapping[str, str] = {}
    names = arguments.only or list(READERS)
    for name in names:
        outcomes: Counter[str] = Counter()
        try:
            fuzz(name, -(-arguments.inputs // len(names)), arguments.seed, outcomes)
        except Exception as error:
            several = getattr(error, "exceptions", [error])
            failures = {**failures, name: " || ".join(_told(one) for one in several)}
            print("FAILED", name, failures[name], flush=True)
        totals.update(outcomes)
        line = {"reader": name, **outcomes, **({"failure": failures[name]} if name in failures else {})}
        print(json.dumps(line), flush=True)
        if arguments.log is not None:
            with arguments.log.open("a") as file:
                file.write(json.dumps(line) + "\n")
    print(json.dumps({"inputs": totals.total(), **totals, "failures": len(failures)}))
    return 1 if failures else 0


if __name__ == "__main__":
    raise SystemExit(main())
