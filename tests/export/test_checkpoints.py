from __future__ import annotations

import argparse
import hashlib
import json
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from export.checkpoints.hub import parse_hub_id
from export.checkpoints.loading import (
    describe_mismatch,
    hash_checkpoint,
    load_checkpoint,
)
from export.checkpoints.sources import find_checkpoint
from export.checkpoints.state import plain_state
from export.errors import CheckpointError

STATE = {"a.weight": torch.arange(6.0).reshape(2, 3), "b": torch.ones(1)}


def same(found: Any, wanted: dict[str, torch.Tensor] = STATE) -> bool:
    return set(found) == set(wanted) and all(torch.equal(found[k], wanted[k]) for k in wanted)


def test_safetensors_with_any_file_name(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    save_file(STATE, path)
    assert same(load_checkpoint(path).state)


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("name", ["w.pth", "w.pth.tar", "w.bin"])
def test_torch_formats(tmp_path: Path, name: str, legacy: bool) -> None:
    torch.save(STATE, tmp_path / name, _use_new_zipfile_serialization=not legacy)
    assert same(load_checkpoint(tmp_path / name).state)


@pytest.mark.parametrize("container", ["state_dict", "model", "model_state_dict", "net"])
def test_containers_and_their_metadata(tmp_path: Path, container: str) -> None:
    torch.save({container: STATE, "epoch": 7, "min_age": 1}, tmp_path / "w.pth")
    loaded = load_checkpoint(tmp_path / "w.pth")
    assert same(loaded.state)
    assert loaded.metadata == {"epoch": 7, "min_age": 1}


@pytest.mark.parametrize("ema", ["state_dict_ema", "model_ema", "ema"])
def test_averaged_weights_take_precedence(tmp_path: Path, ema: str) -> None:
    other = {key: value + 1 for key, value in STATE.items()}
    torch.save({"state_dict": other, "model": other, ema: STATE}, tmp_path / "w.pth")
    assert same(load_checkpoint(tmp_path / "w.pth").state)


@pytest.mark.parametrize(
    "prefix", ["module.", "backbone.", "module.model.", "_orig_mod.module.", "net.backbone."]
)
def test_prefixes_are_removed(prefix: str) -> None:
    wrapped = {prefix + key: value for key, value in STATE.items()}
    assert same(plain_state(wrapped))


def test_a_prefix_of_only_some_keys_is_kept() -> None:
    mixed = {"backbone.a": torch.ones(1), "head": torch.ones(1)}
    assert same(plain_state(mixed), mixed)


def test_counters_and_unused_weights_are_left_out_whichever_wrapper_they_have() -> None:
    counters = {"n_averaged": torch.tensor(3), "module.bn.num_batches_tracked": torch.tensor(9)}
    wrapped = {f"module.{key}": value for key, value in STATE.items()} | counters
    wrapped["module.fds.0.mean"] = torch.tensor([float("nan")])
    assert same(plain_state(wrapped, unused=("fds.",)))
    assert set(plain_state(wrapped, wrappers=())) == set(wrapped) - set(counters)


def test_a_missing_counter_is_no_mismatch() -> None:
    wanted = STATE | {"bn.num_batches_tracked": torch.tensor(0)}
    assert describe_mismatch("resnet50", STATE, wanted) == []


@pytest.mark.parametrize("kind", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("writer", [torch.save, save_file])
def test_values_that_are_not_finite_are_named_with_file_and_key(
    tmp_path: Path, writer: Any, value: float, kind: torch.dtype
) -> None:
    bad = torch.ones(4, 3, dtype=kind)
    bad[2, 1] = value
    writer({"bad": bad, "good": torch.ones(1), "count": torch.ones(1).int()}, tmp_path / "w.pth")
    state = load_checkpoint(tmp_path / "w.pth").state
    assert float(state["good"]) == 1.0
    assert int(state["count"]) == 1
    with pytest.raises(CheckpointError, match=r"w\.pth: 'bad' holds 1 of 12 values that are NaN"):
        state["bad"]
    assert set(plain_state(state, unused=("bad",))) == {"good", "count"}


def test_numbers_in_tensors_are_numbers(tmp_path: Path) -> None:
    extra = {"min_age": torch.tensor(1.0), "max_age": torch.tensor([95]), "names": ["a", "b"]}
    torch.save({"state_dict": STATE, **extra}, tmp_path / "w.pth")
    metadata = load_checkpoint(tmp_path / "w.pth").metadata
    assert metadata == {"min_age": 1.0, "max_age": 95, "names": ["a", "b"]}
    assert [type(metadata[key]) for key in ("min_age", "max_age")] == [float, int]


class _Bomb:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("writer", [torch.save, lambda v, p: p.write_bytes(pickle.dumps(v))])
def test_pickle_is_never_executed(tmp_path: Path, writer: Any) -> None:
    trap, path = tmp_path / "executed", tmp_path / "w.pth"
    writer({"state_dict": STATE, "extra": _Bomb(trap)}, path)
    with pytest.raises(CheckpointError, match="without executing code"):
        load_checkpoint(path)
    assert not trap.exists()


@pytest.mark.parametrize("content", [b"", b"hello, this is no checkpoint at all", b"\0" * 64])
def test_files_that_are_not_checkpoints(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "w.pth"
    path.write_bytes(content)
    with pytest.raises(CheckpointError):
        load_checkpoint(path)


@pytest.mark.parametrize("keep", [20, 300])
@pytest.mark.parametrize("kind", ["safetensors", "torch"])
def test_truncated_files(tmp_path: Path, keep: int, kind: str) -> None:
    path = tmp_path / "w"
    if kind == "safetensors":
        save_file({"a": torch.zeros(1000)}, path)
    else:
        torch.save({"a": torch.zeros(1000)}, path)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(CheckpointError):
        load_checkpoint(path)


def test_a_file_without_weights_names_its_keys(tmp_path: Path) -> None:
    torch.save({"epoch": 3, "lr": 0.1}, tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match="its keys are epoch, lr"):
        load_checkpoint(tmp_path / "w.pth")


def test_sharded_checkpoints_and_a_missing_shard(tmp_path: Path) -> None:
    index = {"weight_map": {"a.weight": "1.safetensors", "b": "2.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    save_file({"a.weight": STATE["a.weight"]}, tmp_path / "1.safetensors")
    with pytest.raises(CheckpointError, match=r"lacks 1 of 2 shards: 2\.safetensors"):
        load_checkpoint(tmp_path)
    save_file({"b": STATE["b"]}, tmp_path / "2.safetensors")
    assert same(load_checkpoint(tmp_path).state)


def test_folders(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"holds no model\.safetensors"):
        load_checkpoint(tmp_path)
    torch.save(STATE, tmp_path / "pytorch_model.bin")
    assert same(load_checkpoint(tmp_path).state)


def test_hash_depends_on_content_not_location(tmp_path: Path) -> None:
    for folder in ("x", "y"):
        (tmp_path / folder).mkdir()
        save_file(STATE, tmp_path / folder / "model.safetensors")
    x, y = tmp_path / "x", tmp_path / "y"
    assert hash_checkpoint(x) == hash_checkpoint(y)
    (y / "config.json").write_text("{}")
    assert hash_checkpoint(x) != hash_checkpoint(y)


def test_hash_of_a_file_includes_the_config_that_describes_it(tmp_path: Path) -> None:
    path, config = tmp_path / "w.safetensors", tmp_path / "config.json"
    save_file(STATE, path)
    alone = hash_checkpoint(path)
    config.write_text(json.dumps({"optimizer": "adam"}))
    assert hash_checkpoint(path) == alone == hashlib.sha256(path.read_bytes()).hexdigest()
    config.write_text(json.dumps({"architecture": "resnet50"}))
    described = hash_checkpoint(path)
    config.write_text(json.dumps({"architecture": "resnetaa50"}))
    assert len({alone, described, hash_checkpoint(path)}) == 3


def test_arguments_of_timms_training_script_are_plain_values(tmp_path: Path) -> None:
    args = argparse.Namespace(model="resnet50", lr=0.1)
    torch.save({"arch": "resnet50", "args": args, "state_dict": STATE}, tmp_path / "w.pth.tar")
    loaded = load_checkpoint(tmp_path / "w.pth.tar")
    assert same(loaded.state)
    assert loaded.metadata["arch"] == "resnet50"


def test_mismatch_lists_every_kind_of_key_abbreviated() -> None:
    wanted = {f"k{i}": torch.ones(1) for i in range(20)} | {"shape": torch.ones(2)}
    state = {"shape": torch.ones(3), "odd": torch.ones(1)}
    text = "\n".join(describe_mismatch("vgg16", state, wanted))
    assert "20 missing: k0, k1, k10" in text
    assert "…" in text
    assert "1 unexpected: odd" in text
    assert "shape is (3,), wanted (2,)" in text
    assert describe_mismatch("vgg16", wanted, wanted) == []


@pytest.mark.parametrize(
    ("location", "parts"),
    [
        ("hf://o/r", ("o/r", None, None)),
        ("hf://o/r@v1", ("o/r", None, "v1")),
        ("hf://o/r/sub/w.pth@abc", ("o/r", "sub/w.pth", "abc")),
    ],
)
def test_hub_ids(location: str, parts: tuple[str, str | None, str | None]) -> None:
    assert parse_hub_id(location) == parts


@pytest.mark.parametrize("location", ["hf://o", "hf:///r", "hf://o//f"])
def test_bad_hub_ids(location: str) -> None:
    with pytest.raises(CheckpointError, match="Expected hf://owner/repo"):
        parse_hub_id(location)


def test_hub_files_and_repositories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    calls: list[tuple[str, ...]] = []

    def one(repo: str, file: str, *, revision: str | None) -> str:
        calls.append((repo, file, str(revision)))
        return str(tmp_path / "one")

    def whole(repo: str, *, revision: str | None, allow_patterns: list[str]) -> str:
        assert "*.safetensors" in allow_patterns
        calls.append((repo, str(revision)))
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", one)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", whole)
    assert find_checkpoint("hf://o/r/w.pth@v1") == tmp_path / "one"
    assert find_checkpoint("hf://o/r") == tmp_path
    assert calls == [("o/r", "config.json", "v1"), ("o/r", "w.pth", "v1"), ("o/r", "None")]


def test_a_repository_without_a_description(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub
    from huggingface_hub.errors import LocalEntryNotFoundError

    def one(repo: str, file: str, *, revision: str | None) -> str:
        if file == "sub/config.json":
            raise LocalEntryNotFoundError(f"{repo} {revision}: none")
        return str(tmp_path / file)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", one)
    assert find_checkpoint("hf://o/r/sub/w.pth") == tmp_path / "sub" / "w.pth"


def test_an_unreachable_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    def fails(*_: object, **__: object) -> str:
        raise OSError("no route")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fails)
    with pytest.raises(CheckpointError, match=r"cannot be fetched: no route.*give its path"):
        find_checkpoint("hf://o/r/w.pth")
