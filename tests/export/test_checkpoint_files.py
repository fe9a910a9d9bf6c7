"""Files given in place of a checkpoint, shards, hashes, and damage."""

from __future__ import annotations

import codecs
import gzip
import io
import json
import os
import random
import shutil
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save, save_file

from export.checkpoints.loading import checkpoint_files, hash_checkpoint, load_checkpoint
from export.checkpoints.recognition import read_json
from export.errors import CheckpointError

STATE = {"a.weight": torch.arange(6.0).reshape(2, 3), "b": torch.ones(1)}
CASES = Path(__file__).parent / "cases"
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"
PAGE = b"\n<!DOCTYPE html>\n<html><body>Sign in</body></html>"


def tar() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("w.pth"), io.BytesIO())
    return buffer.getvalue()


def zipped() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("w.pth", b"x")
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (POINTER, r"a Git LFS pointer, not the file\. Fetch it: git lfs pull"),
        (PAGE, "an HTML page.*Download the weights"),
        (codecs.BOM_UTF8 + PAGE, "an HTML page"),
        (b"<?xml version='1.0'?><Error/>", "an XML document"),
        (b'{"error": "Repository not found"}', r"is JSON or another text.*repository not found"),
        (b"", "is empty"),
        (gzip.compress(b"x", mtime=0), "compressed by gzip"),
        (tar(), "a tar archive"),
        (zipped(), "a zip archive of 1 files, not written by torch.save"),
        (b"\x89HDF\r\n\x1a\n" + bytes(100), "an HDF5 file"),
        (b"\x93NUMPY\x01\x00", "a NumPy array"),
        (b"GGUF" + bytes(100), "a GGUF file"),
        (codecs.BOM_UTF8 + save(STATE), "begins with a byte order mark"),
    ],
)
@pytest.mark.parametrize("name", ["w.pth", "w.safetensors"])
def test_what_is_no_checkpoint_is_named(
    tmp_path: Path, name: str, content: bytes, words: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=words):
        load_checkpoint(tmp_path / name)


def test_pipes_and_folders_are_named(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "w.pth")
    for read in (load_checkpoint, hash_checkpoint):
        with pytest.raises(CheckpointError, match="a named pipe, expected a file"):
            read(tmp_path / "w.pth")
        with pytest.raises(CheckpointError, match="cannot be read"):
            read(tmp_path / "none.pth")
    (tmp_path / "f").mkdir()
    (tmp_path / "f" / "model.safetensors").mkdir()
    with pytest.raises(CheckpointError, match="a folder, expected a file"):
        load_checkpoint(tmp_path / "f")
    os.mkfifo(tmp_path / "config.json")
    with pytest.raises(CheckpointError, match=r"config\.json is not JSON: it is a named pipe"):
        read_json(tmp_path / "config.json")


@pytest.mark.parametrize("case", ["bad_1.safetensors", "bad_2.pth"])
def test_damaged_files_of_the_cases(case: str) -> None:
    with pytest.raises(CheckpointError, match=rf"{case} is not a readable.*damaged"):
        load_checkpoint(CASES / case)


def sharded(folder: Path, names: tuple[str, str] = ("1.safetensors", "2.safetensors")) -> Path:
    folder.mkdir(exist_ok=True)
    for name, key in zip(names, STATE, strict=True):
        (folder / name).parent.mkdir(exist_ok=True)
        if not name.startswith(".."):
            save_file({key: STATE[key]}, folder / name)
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": dict(zip(STATE, names, strict=True))}))
    return index


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_an_index_with_byte_order_mark_or_as_the_checkpoint(tmp_path: Path, encoding: str) -> None:
    index = sharded(tmp_path / "x")
    index.write_text(index.read_text(), encoding=encoding)
    for path in (index, index.parent):
        assert set(load_checkpoint(path).state) == set(STATE)
        assert len(checkpoint_files(path)) == 3


@pytest.mark.parametrize(
    "shard", ["../2.safetensors", "/2.safetensors", "C:\\w", "..\\w", "a/../../w"]
)
def test_shards_outside_the_folder_are_refused(tmp_path: Path, shard: str) -> None:
    index = sharded(tmp_path / "x")
    index.write_text(json.dumps({"weight_map": {"b": shard}}))
    for read in (load_checkpoint, hash_checkpoint):
        with pytest.raises(CheckpointError, match="which is outside its folder"):
            read(tmp_path / "x")


@pytest.mark.parametrize("content", ["{}", '{"weight_map": []}', '{"weight_map": {}}', "[1]", "{"])
def test_an_index_without_weight_map(tmp_path: Path, content: str) -> None:
    sharded(tmp_path / "x").write_text(content)
    with pytest.raises(CheckpointError, match=r"no weight_map|not hold a JSON object|is not JSON"):
        load_checkpoint(tmp_path / "x")


def test_a_key_in_two_shards_is_refused(tmp_path: Path) -> None:
    sharded(tmp_path / "x")
    save_file(STATE, tmp_path / "x" / "2.safetensors")
    with pytest.raises(CheckpointError, match=r"'a\.weight' is both in"):
        load_checkpoint(tmp_path / "x")


def test_shards_of_subfolders_are_in_the_hash(tmp_path: Path) -> None:
    sharded(tmp_path / "x", ("1.safetensors", "part/2.safetensors"))
    before = hash_checkpoint(tmp_path / "x")
    shutil.copytree(tmp_path / "x", tmp_path / "y")
    assert hash_checkpoint(tmp_path / "y") == before
    save_file({"b": STATE["b"] + 1}, tmp_path / "x" / "part" / "2.safetensors")
    assert hash_checkpoint(tmp_path / "x") != before


def test_external_data_of_an_onnx_file_is_in_the_hash(tmp_path: Path) -> None:
    import onnx
    from onnx.parser import parse_model

    model = parse_model(
        "<ir_version: 8, opset_import: ['' : 18]> g () => (float[4] w) {}".replace("'", '"')
    )
    model.graph.initializer.append(onnx.numpy_helper.from_array(torch.arange(4.0).numpy(), "w"))
    path = tmp_path / "model.onnx"
    onnx.save(model, path, save_as_external_data=True, location="w.data", size_threshold=0)
    before = hash_checkpoint(path)
    assert set(checkpoint_files(path)) == {"model.onnx", "w.data"}
    data = bytearray((tmp_path / "w.data").read_bytes())
    data[0] ^= 1
    (tmp_path / "w.data").write_bytes(data)
    assert hash_checkpoint(path) != before
    (tmp_path / "w.data").unlink()
    with pytest.raises(CheckpointError, match=r"'w\.data', which is missing"):
        hash_checkpoint(path)


def damaged(data: bytes, rng: random.Random) -> bytes:
    for _ in range(rng.randint(1, 4)):
        place = rng.randrange(len(data) + 1)
        junk = rng.randbytes(rng.randint(0, 6))
        data = rng.choice(
            [
                data[:place] + junk + data[place + len(junk) :],
                data[:place] + data[place + len(junk) + 1 :],
                data[:place],
                data[:place] + junk + data[place:],
            ]
        )
        data = data or b"x"
    return data


def _written(value: Any, *, legacy: bool = False) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer, _use_new_zipfile_serialization=not legacy)
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["zip", "legacy", "safetensors", "pickle alone"])
def test_damage_gives_a_checkpoint_or_a_checkpoint_error(tmp_path: Path, kind: str) -> None:
    rng = random.Random(kind)
    content = {"state_dict": STATE, "ema": STATE, "best": [1.5, "x", (1, None)], "path": Path("a")}
    data = save(STATE) if kind == "safetensors" else _written(content, legacy=kind != "zip")
    archive = _written(content)
    path = tmp_path / "w.pth"
    refused: list[str] = []
    for _ in range(150):
        if kind == "pickle alone":  # the archive stays intact, so that its pickle is reached
            data = _with_pickle(archive, lambda inner: damaged(inner, rng))
            path.write_bytes(data)
        else:
            path.write_bytes(damaged(data, rng))
        try:
            dict(load_checkpoint(path).state)
        except CheckpointError as error:
            refused.append(str(error))
    assert len(refused) > 30
    assert all(str(path) in text and "weights_only" not in text for text in refused)


def _with_pickle(archive: bytes, change: Any) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(archive)) as old, zipfile.ZipFile(buffer, "w") as new:
        for name in old.namelist():
            inner = old.read(name)
            new.writestr(name, change(inner) if name.endswith("data.pkl") else inner)
    return buffer.getvalue()
