"""Damaged checkpoints are read, or end in an error of this project, within bounded memory.

Pickles among them ask for foreign names; PyTorch's reader executes none.

The quick share is some hundred mutants of each format; `-m slow` tries thousands.
"""

from __future__ import annotations

import io
import json
import random
import struct
import zipfile
from argparse import Namespace
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from safetensors.torch import save

from export.checkpoints import weight_sets
from export.checkpoints.description import describe
from export.checkpoints.loading import hash_checkpoint, load_checkpoint
from export.checkpoints.tensorflow_js import read_tensorflow_js
from export.errors import CheckpointError, ExportError
from export.experts.onnx_file.wrapper import external_expert
from runtime.geometry import Geometry
from tests.export.damage import mutants
from tests.export.test_tensorflow_js import write as write_tensorflow_js
from tests.export.tiny_onnx import Tiny, body, model, settings
from tests.hostile_paths import EVIL, unprintable

QUICK, SLOW = 150, 2_000
"""Mutants of each format."""
COUNTS = [QUICK, pytest.param(SLOW, marks=pytest.mark.slow)]
MOST_BYTES = 64 << 20
"""Of a mutant's weights together; the files have some kB."""
STATE = {"a.weight": torch.arange(6.0).reshape(2, 3), "b": torch.ones(1)}
CONTENT = {
    "state_dict": STATE,
    "ema": OrderedDict(STATE),
    "best": [1.5, "x", (1, None)],
    "path": Path("a"),
    "args": Namespace(x=1),
    "scores": np.arange(3.0),
    "mean": np.float64(2.0),
}
JSON_VALUES = [
    b"0", b"-1", b"1e999", b"9" * 5_000, b"18446744073709551615", b"null", b"[]", b"{}", b'""',
    b'"F64"', b'"BOOL"', b'"F8_E4M3"', b"[0]", b"[1, 4294967296, 4294967296]", b"[" * 3_000,
    b'{"a":' * 2_000, b'"\\ud800"', b"\0", b"\xff", b'"' + EVIL.encode("utf-8", "replace") + b'"',
    b'"../w"', b'"/etc/passwd"', b"true", b'"' + b"n" * 5_000 + b'"', b",",
]  # fmt: skip
PICKLE_VALUES = [
    b"(", b".", b"0", b"}", b"]", b")", b"t", b"R", b"\x81", b"b", b"Q", b"N", b"\x85", b"\x86",
    b"s", b"u", b"e", b"a", b"h\0", b"q\0", b"j\xff\xff\xff\x7f", b"r\xff\xff\xff\x7f",
    b"M\xff\xff", b"J\xff\xff\xff\x7f", b"J\xff\xff\xff\xff", b"\x8a\x08" + b"\xff" * 7 + b"\x7f",
    b"\x8a\xff", b"K\0", b"G\x7f\xf0\0\0\0\0\0\0", b"X\xff\xff\xff\x7f", b"X\0\0\0\0",
    b"cbuiltins\nbytearray\n", b"cbuiltins\neval\n", b"ctorch\nFloatTensor\n",
    b"ctorch.sparse\nFloatTensor\n", b"ctorch._utils\n_rebuild_sparse_tensor\n",
    b"ctorch._utils\n_rebuild_meta_tensor_no_storage\n", b"ctorch\nDoubleStorage\n",
    b"cnumpy\nndarray\n", b"cnumpy\ndtype\n", b"ccollections\ndeque\n", b"cdecimal\nDecimal\n",
    b"c\xff\n\n", b"\x80\x05", b"\x8c\x05", b"}q\x01h\x01h\x01s",
]  # fmt: skip

ONNX_VALUES = [
    b"\xff" * 8, b"\x7f" * 4, b"\0", b"\x08\x01", b"\xff\xff\xff\xff\x0f", b"\x80\x80\x80\x80\x08",
    b"Loop", b"If", b"Conv", b"ConstantOfShape", b"Expand", b"n" * 300, b"\xff\xfe", b"x", b"w",
    EVIL.encode("utf-8", "replace"), b"out", b"\x22\x02", b"\x0a\x04", b"../w", b"/etc/passwd",
]  # fmt: skip


def zipped(value: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def legacy(value: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer, _use_new_zipfile_serialization=False)
    return buffer.getvalue()


def with_pickle(archive: bytes, inner: bytes) -> bytes:
    """Returns an intact archive with another pickle, so that this is reached."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(archive)) as old, zipfile.ZipFile(buffer, "w") as new:
        for name in old.namelist():
            new.writestr(name, inner if name.endswith("data.pkl") else old.read(name))
    return buffer.getvalue()


def pickle_of(archive: bytes) -> bytes:
    with zipfile.ZipFile(io.BytesIO(archive)) as old:
        return old.read(next(name for name in old.namelist() if name.endswith("data.pkl")))


def with_header(data: bytes, header: bytes) -> bytes:
    """Returns safetensors with another header, whose stated length is right."""
    (size,) = struct.unpack_from("<Q", data)
    return struct.pack("<Q", len(header)) + header + data[8 + size :]


def read_checkpoint(path: Path) -> int:
    """Reads all that a build reads; returns the bytes of the weights."""
    hash_checkpoint(path)
    loaded = load_checkpoint(path)
    describe(path, loaded.metadata)
    tensors = list(dict(loaded.state).values())
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def read_index(path: Path) -> int:
    hash_checkpoint(path.parent)
    return read_checkpoint(path.parent)


def read_manifest(path: Path) -> int:
    hash_checkpoint(path)
    return sum(values.nbytes for values in read_tensorflow_js(path).values())


Case = tuple[Path, Callable[[int, random.Random], Iterator[bytes]], Callable[[Path], int], Path]
"""What is damaged, its mutants, a reader, and what is read."""


def direct(data: bytes, values: list[bytes]) -> Callable[[int, random.Random], Iterator[bytes]]:
    return lambda count, rng: mutants(data, count, rng, values)


def cases(folder: Path) -> dict[str, Case]:
    archive, tensors = zipped(CONTENT), save(STATE, {"format": "pt"})
    inner, (size,) = pickle_of(archive), struct.unpack_from("<Q", tensors)
    header = tensors[8 : 8 + size]
    path = folder / "w.pth"
    shards = folder / "shards"
    shards.mkdir()
    (shards / "1.safetensors").write_bytes(tensors)
    index = json.dumps({"weight_map": dict.fromkeys(STATE, "1.safetensors")}).encode()
    config = b'{"architecture": "resnet18", "pretrained_cfg": {"mean": [0.5]}, "global_pool": "x"}'
    described = folder / "described"
    described.mkdir()
    (described / "w.pth").write_bytes(archive)
    browser = folder / "browser"
    browser.mkdir()
    manifest = write_tensorflow_js(browser)
    shard = browser / "m-shard1"
    index_path = shards / "model.safetensors.index.json"
    every = JSON_VALUES + PICKLE_VALUES

    def headers(count: int, rng: random.Random) -> Iterator[bytes]:
        return (with_header(tensors, h) for h in mutants(header, count, rng, JSON_VALUES))

    def pickles(count: int, rng: random.Random) -> Iterator[bytes]:
        return (with_pickle(archive, p) for p in mutants(inner, count, rng, PICKLE_VALUES))

    return {
        "safetensors": (path, direct(tensors, JSON_VALUES), read_checkpoint, path),
        "safetensors header": (path, headers, read_checkpoint, path),
        "zip": (path, direct(archive, every), read_checkpoint, path),
        "pickle": (path, pickles, read_checkpoint, path),
        "legacy": (path, direct(legacy(CONTENT), PICKLE_VALUES), read_checkpoint, path),
        "index": (index_path, direct(index, JSON_VALUES), read_index, index_path),
        "config": (
            described / "config.json",
            direct(config, JSON_VALUES),
            read_checkpoint,
            described / "w.pth",
        ),
        "manifest": (
            manifest,
            direct(manifest.read_bytes(), JSON_VALUES),
            read_manifest,
            manifest,
        ),
        "shard": (shard, direct(b"abcde", [b"", b"\0" * 8, b"\xff" * 5]), read_manifest, manifest),
    }


KINDS = (
    "safetensors", "safetensors header", "zip", "pickle", "legacy", "index", "config", "manifest",
    "shard",
)  # fmt: skip


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("kind", KINDS)
def test_damaged_checkpoints_end_in_errors_of_this_project(
    tmp_path: Path, kind: str, count: int
) -> None:
    path, make, read, given = cases(tmp_path)[kind]
    ends: Counter[str] = Counter()
    for mutant in make(count, random.Random(kind)):
        path.write_bytes(mutant)
        try:
            most = read(given)
        except CheckpointError as error:
            ends["refused"] += 1
            message = str(error)
            assert not list(unprintable(message)), mutant
            assert len(message) < 300_000, mutant
        else:
            ends["read"] += 1
            assert most <= MOST_BYTES, mutant
    assert ends["refused"] > count // 10, ends


@pytest.mark.parametrize("count", COUNTS)
def test_damaged_onnx_files_end_in_errors_of_this_project(tmp_path: Path, count: int) -> None:
    path, inside = tmp_path / "given.onnx", model(Tiny(1).tensors(), body())
    outside = tmp_path / "outside.onnx"
    onnx.save(inside, outside, save_as_external_data=True, location="w", size_threshold=0)
    ends: Counter[str] = Counter()
    for data in (inside.SerializeToString(), outside.read_bytes()):
        for mutant in mutants(data, count // 4, random.Random(0), ONNX_VALUES):
            path.write_bytes(mutant)
            try:
                hash_checkpoint(path)
                external_expert(path, settings(), Geometry()).write_onnx(tmp_path / "written.onnx")
                message = ""
            except ExportError as error:
                message = str(error)
            ends["refused" if message else "read"] += 1
            assert not list(unprintable(message)), mutant
            assert len(message) < 300_000, mutant
    assert ends["refused"] > count // 10, ends
    assert ends["read"] > 0


STOP = b"."
MEGABYTES = 1 << 20


def written(inner: bytes) -> bytes:
    return with_pickle(zipped({"w": torch.ones(3)}), inner)


def called(name: bytes, argument: bytes) -> bytes:
    """Returns a pickle of a dict whose only value is what a type makes of a number."""
    return b"\x80\x02}X\1\0\0\0wc" + name + argument + b"\x85RsX\1\0\0\0vK\1s" + STOP


LARGE = b"\x8a\x05\0\0\0\0\x10"
"""64 GiB as a number in a pickle."""


def view(stride: int) -> Any:
    return torch.ones(4).as_strided((30_000, 1_000), (stride, 0))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (written(called(b"builtins\nbytearray\n", LARGE)), r"builtins\.bytearray"),
        (called(b"builtins\nbytearray\n", LARGE), r"builtins\.bytearray"),
        (zipped({"w": view(0)}), "more values than the file"),
        (zipped({"model": {"w": view(0)}, "ema": {"w": view(0)}}), "more values than the file"),
        (zipped([{"w": [view(0)]}]), "more values than the file"),
        (written(called(b"torch\nByteTensor\n", b"J\0\0\0\x10")), "more values than the file"),
    ],
)
def test_what_grows_beyond_the_file_is_refused(tmp_path: Path, content: bytes, words: str) -> None:
    (tmp_path / "w.pth").write_bytes(content)
    with pytest.raises(CheckpointError, match=words):
        load_checkpoint(tmp_path / "w.pth")


@pytest.mark.parametrize("member", ["data.pkl", "data/0"])
def test_compressed_archives_are_refused_before_they_are_unpacked(
    tmp_path: Path, member: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "load", None)
    archive = zipped({"w": torch.zeros(8 * MEGABYTES)})
    with (
        zipfile.ZipFile(io.BytesIO(archive)) as old,
        zipfile.ZipFile(tmp_path / "w.pth", "w") as new,
    ):
        for name in old.namelist():
            kind = zipfile.ZIP_DEFLATED if name.endswith(member) else zipfile.ZIP_STORED
            new.writestr(name, old.read(name), kind)
    with pytest.raises(CheckpointError, match="is a compressed archive"):
        load_checkpoint(tmp_path / "w.pth")


def test_records_that_overlap_count_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "load", None)
    path = tmp_path / "w.pth"
    path.write_bytes(zipped({"w": torch.zeros(1_000)}))
    with zipfile.ZipFile(path, "a") as archive:
        first = next(info for info in archive.infolist() if info.filename.endswith("data/0"))
        for _ in range(3):
            archive.filelist.append(first)
        archive._didModify = True  # type: ignore[attr-defined]
    with pytest.raises(CheckpointError, match=r"16,\d+ bytes unpacked|1\d,\d+ bytes unpacked"):
        load_checkpoint(path)


def test_a_container_in_many_places_counts_in_each(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(weight_sets, "_MOST_ENTRIES", 20_000)
    value: object = {"w": torch.ones(3)}
    for _ in range(5):
        value = {f"k{i}": value for i in range(40)}
    torch.save(value, tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match=r"more than 500 sets|over 20,000 entries"):
        load_checkpoint(tmp_path / "w.pth")
    empty: object = {}
    for _ in range(5):
        empty = {f"k{i}": empty for i in range(100)}
    torch.save(empty, tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match="over 20,000 entries"):
        load_checkpoint(tmp_path / "w.pth")


@pytest.mark.parametrize(
    "unusual",
    [
        torch.ones(3).to_sparse(),
        torch.ones(3, device="meta"),
        torch.ones(3, dtype=torch.complex64),
        torch.ones(3).to(torch.float8_e4m3fn),
        torch.ones(3, requires_grad=True),
    ],
)
@pytest.mark.parametrize("names", [("model", "net"), ("model", "ema"), ("model",)])
def test_unusual_tensors_in_several_sets(
    tmp_path: Path, unusual: Any, names: tuple[str, ...]
) -> None:
    torch.save(
        {name: {"w": unusual, "n_averaged": torch.tensor(2)} for name in names}, tmp_path / "w.pth"
    )
    try:
        state = dict(load_checkpoint(tmp_path / "w.pth").state)
    except CheckpointError:
        return
    assert torch.isfinite(state["w"]).all()
