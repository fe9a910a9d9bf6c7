"""Several sets of weights in one file, and names that training programs put around them."""

from __future__ import annotations

import argparse
import collections
import datetime as dt
import pathlib
import types
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from export.checkpoints.loading import load_checkpoint
from export.checkpoints.state import plain_state
from export.errors import CheckpointError

State = dict[str, torch.Tensor]
RAW: State = {"conv.weight": torch.arange(6.0).reshape(2, 3), "fc.bias": torch.ones(2)}
EMA: State = {key: value + 10 for key, value in RAW.items()}


def prefixed(prefix: str, state: State) -> State:
    return {prefix + key: value for key, value in state.items()}


def loaded(content: Any, folder: Path, key: str | None = None) -> State:
    torch.save(content, folder / "w.pth")
    return dict(plain_state(load_checkpoint(folder / "w.pth", key).state))


def same(found: State, wanted: State) -> bool:
    return set(found) == set(wanted) and all(torch.equal(found[k], wanted[k]) for k in wanted)


AVERAGED = [
    ("ema_state_dict", {"model_state_dict": RAW, "ema_state_dict": EMA, "epoch": 3}),
    ("model_ema_state_dict", {"state_dict": RAW, "model_ema_state_dict": EMA}),
    ("params_ema", {"params": RAW, "params_ema": EMA}),
    ("ema.module", {"model": RAW, "ema": {"module": EMA, "updates": 7}}),
    ("modelEMA", {"model": RAW, "modelEMA": EMA}),
    ("ema_model", prefixed("online_model.", RAW) | prefixed("ema_model.", EMA)),
    (
        "ema.ema_model",
        {
            "model": RAW,
            "ema": {
                "initted": torch.tensor(True),
                "step": torch.tensor(9),
                **prefixed("online_model.", RAW),
                **prefixed("ema_model.", EMA),
            },
        },
    ),
    (
        "swa_model",
        {"model": RAW, "swa_model": prefixed("module.", EMA) | {"n_averaged": torch.tensor(4)}},
    ),
    ("checkpoint.state_dict_ema", {"checkpoint": {"state_dict": RAW, "state_dict_ema": EMA}}),
    (
        "state_dict",  # Lightning's WeightAveraging
        {
            "state_dict": EMA,
            "current_model_state": RAW,
            "averaging_state": {"n_averaged": torch.tensor(2)},
        },
    ),
    ("state_dict.ema", {"state_dict": prefixed("model.", RAW) | prefixed("ema.", EMA)}),
]


@pytest.mark.parametrize(("name", "content"), AVERAGED, ids=[name for name, _ in AVERAGED])
def test_the_averaged_set_is_used_and_said(tmp_path: Path, name: str, content: Any) -> None:
    assert same(loaded(content, tmp_path), EMA)
    checkpoint = load_checkpoint(tmp_path / "w.pth")
    assert checkpoint.used == name
    assert checkpoint.facts["weights"] == {"used": name, "not_used": list(checkpoint.unused)}
    assert same(loaded(content, tmp_path, name), EMA)
    raw = [other for other in checkpoint.unused if same(loaded(content, tmp_path, other), RAW)]
    assert raw


def test_a_real_averaged_model_and_its_network(tmp_path: Path) -> None:
    network = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    averaged = torch.optim.swa_utils.AveragedModel(network)
    wanted = {k: v for k, v in network.state_dict().items() if "num_batches" not in k}
    assert same(loaded(averaged.state_dict(), tmp_path), wanted)
    both = {"model": network.state_dict(), "swa_model": averaged.state_dict()}
    with pytest.raises(CheckpointError, match=r"average over 0 steps.*weights_key = 'model'"):
        loaded({**both, "model": prefixed("", {k: v + 1 for k, v in wanted.items()})}, tmp_path)


AMBIGUOUS = [
    {"student": RAW, "teacher": EMA},
    {"generator": RAW, "discriminator": EMA},
    {"model": RAW, "net": EMA},
    {"model": RAW, "ema": EMA, "ema_slow": RAW | {"fc.bias": torch.zeros(2)}},
    prefixed("student.", RAW) | prefixed("teacher.", EMA),
]


@pytest.mark.parametrize("content", AMBIGUOUS)
def test_an_ambiguous_choice_is_refused_and_can_be_made(tmp_path: Path, content: Any) -> None:
    with pytest.raises(CheckpointError, match=r"sets of weights: .*Name the one.*weights_key = "):
        loaded(content, tmp_path)
    first = "student" if "student" in str(content) else next(iter(content))
    assert same(loaded(content, tmp_path, first), RAW)


def test_an_averaged_list_without_names_is_refused(tmp_path: Path) -> None:
    content = {"model": RAW, "ema": {"decay": 0.9, "shadow_params": list(EMA.values())}}
    with pytest.raises(CheckpointError, match=r"'ema' are a list without names.*'model'"):
        loaded(content, tmp_path)
    assert same(loaded(content, tmp_path, "model"), RAW)


def test_averaged_parameters_without_statistics_are_refused(tmp_path: Path) -> None:
    """Some programs average parameters only, and leave the statistics of normalization out."""
    raw = RAW | {"bn.running_mean": torch.zeros(2)}
    for ema in (EMA, {key.replace(".", ""): value for key, value in EMA.items()}):
        with pytest.raises(CheckpointError, match=r"'ema' lack . tensors .*weights_key = 'model'"):
            loaded({"model": raw, "ema": ema}, tmp_path)
    assert same(loaded({"model": raw, "ema": EMA}, tmp_path, "ema"), EMA)


def test_an_unknown_key_lists_the_sets(tmp_path: Path) -> None:
    with pytest.raises(
        CheckpointError, match=r"no weights_key = 'emma'; it has .*params, params_ema"
    ):
        loaded({"params": RAW, "params_ema": EMA}, tmp_path, "emma")
    with pytest.raises(CheckpointError, match="one set of weights, no key"):
        loaded(RAW, tmp_path, "state_dict")


def test_equal_sets_are_one(tmp_path: Path) -> None:
    assert same(loaded({"model": RAW, "net": dict(RAW)}, tmp_path), RAW)


def test_safetensors_with_two_networks(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    save_file(prefixed("model.", RAW) | prefixed("model_ema.", EMA), path)
    assert same(dict(load_checkpoint(path).state), EMA)
    assert same(dict(load_checkpoint(path, "model").state), RAW)


@pytest.mark.parametrize(
    "container", ["weights", "params", "model.state_dict", "state_dict.model", "a.b.c.weights", "0"]
)
def test_containers_of_any_depth(tmp_path: Path, container: str) -> None:
    content: Any = RAW
    for key in reversed(container.split(".")):
        content = [content, 5] if key == "0" else {key: content, "epoch": 3, "min_age": 1}
    assert same(loaded(content, tmp_path), RAW)
    if container != "0":
        assert load_checkpoint(tmp_path / "w.pth").metadata["min_age"] == 1


def test_tensors_of_the_training_are_no_weights(tmp_path: Path) -> None:
    network = nn.Linear(3, 2)
    optimizer = torch.optim.Adam(network.parameters())
    network(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    content = {
        "model": RAW,
        "optimizer": optimizer.state_dict(),
        "optimizer_states": [optimizer.state_dict()],
        "criterion": {"weight": torch.ones(101)},
        "rng_state": torch.get_rng_state(),
        "loss_weights": {"w": torch.ones(3)},
    }
    assert same(loaded(content, tmp_path), RAW)


@pytest.mark.parametrize(
    "prefix",
    [
        *("network.", "student.", "resnet.", "_model.", "_fsdp_wrapped_module.", "_module."),
        *("module._orig_mod.", "model.network.", "ema_model.", "_forward_module.model."),
    ],
)
def test_more_prefixes(prefix: str) -> None:
    beside = {
        "n_averaged": torch.tensor(3),
        "criterion.weight": torch.ones(101),
        "age_loss.class_weights": torch.ones(101),
        "train_mae.sum_abs_error": torch.tensor(1.0),
        "val_mae.total": torch.tensor(4),
    }
    assert same(dict(plain_state(prefixed(prefix, RAW) | beside)), RAW)


def test_wrappers_within_names() -> None:
    """FSDP, activation checkpointing and DataParallel wrap modules anywhere in a network."""
    wrapped = {
        "_fsdp_wrapped_module.layer1._fsdp_wrapped_module.0._checkpoint_wrapped_module.w": RAW[
            "fc.bias"
        ],
        "_fsdp_wrapped_module.features.module.0.weight": RAW["conv.weight"],
    }
    assert set(plain_state(wrapped)) == {"layer1.0.w", "features.0.weight"}
    clash = {"a.module.w": torch.ones(1), "a.w": torch.ones(1)}
    assert set(plain_state(clash)) == set(clash)


def test_inert_types_beside_the_weights(tmp_path: Path) -> None:
    content = {
        "state_dict": RAW,
        "arch": "resnet50",
        "args": argparse.Namespace(lr=np.float64(0.1), output=pathlib.PurePosixPath("/tmp/x")),  # noqa: S108
        "space": types.SimpleNamespace(a=1),
        "best": np.float32(4.5),
        "count": np.int64(7),
        "curve": np.arange(4.0),
        "path": Path("runs/1"),
        "counter": collections.Counter("abca"),
        "seen": collections.defaultdict(list, {"a": [1]}),
        "recent": collections.deque([1, 2], maxlen=5),
        "when": dt.datetime(2020, 1, 1, tzinfo=dt.UTC),
        "torch": torch.__version__,
        "dtype": torch.float16,
        "size": torch.Size([2, 3]),
    }
    assert same(loaded(content, tmp_path), RAW)
    metadata = load_checkpoint(tmp_path / "w.pth").metadata
    assert metadata["best"] == 4.5
    assert metadata["count"] == 7
    assert str(metadata["path"]) == "runs/1"
    assert torch.equal(metadata["curve"], torch.arange(4.0, dtype=torch.float64))  # type: ignore[arg-type]
    assert metadata["torch"] == torch.__version__
    assert metadata["args"].lr == 0.1  # type: ignore[attr-defined]


@pytest.mark.parametrize("dtype", ["<f4", ">f4", "<i8", "<f2", "|u1"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_arrays_as_weights(tmp_path: Path, dtype: str, order: Any) -> None:
    values = np.array(np.arange(6).reshape(2, 3), dtype, order=order)
    found = loaded({"state_dict": {"a": values}}, tmp_path)
    assert found["a"].numpy().tolist() == values.tolist()


class Own:
    """A type that only the program that saved it knows."""


def test_what_is_refused_is_named_without_pytorchs_advice(tmp_path: Path) -> None:
    for content in ({"state_dict": RAW, "config": Own()}, {"state_dict": RAW, "f": eval}):
        with pytest.raises(CheckpointError) as caught:
            loaded(content, tmp_path)
        text = str(caught.value)
        assert "it holds tests.export.test_weight_sets.Own" in text or "it holds eval" in text
        assert "model.state_dict()" in text
        assert not any(
            word in text for word in ("weights_only", "safe_globals", "trust", "torch.load")
        )
    with pytest.raises(CheckpointError, match=r"it holds torch\.nn\.modules\.linear\.Linear"):
        loaded(nn.Linear(2, 2), tmp_path)


def test_a_torchscript_program_is_named(tmp_path: Path) -> None:
    path = tmp_path / "w.pt"
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("data.pkl", "constants.pkl", "code/__torch__.py"):
            archive.writestr(f"net/{name}", b"")
    with pytest.raises(CheckpointError, match="is a TorchScript program"):
        load_checkpoint(path)


@pytest.mark.parametrize(
    ("tensor", "problem"),
    [
        (torch.ones(2, 2).to_sparse(), "sparse"),
        (torch.ones(2, dtype=torch.complex64), "complex"),
    ],
)
def test_tensors_of_other_kinds_are_refused(tmp_path: Path, tensor: Any, problem: str) -> None:
    with pytest.raises(CheckpointError, match=rf"'a' is {problem}"):
        loaded({"a": tensor}, tmp_path)


def test_float8_is_read_as_float32(tmp_path: Path) -> None:
    found = loaded({"a": torch.tensor([1.0, 2.0]).to(torch.float8_e4m3fn)}, tmp_path)
    assert found["a"].dtype == torch.float32
    assert found["a"].tolist() == [1.0, 2.0]
