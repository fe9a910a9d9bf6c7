"""The reference model gives the same results in a process of its own."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import numpy as np
import pytest

from export.build import reference
from export.build.experts_file import read_experts
from export.build.reference import write_large_reference, write_reference
from export.config.architecture import ExpertConfig
from export.errors import CheckpointError, ExportError
from tests.export.small import experts_toml, small_module, write_checkpoint


def config_of(folder: Path) -> ExpertConfig:
    return read_experts(experts_toml(folder, resnet50="w.safetensors"), [])["resnet50"]


@pytest.mark.conversion
def test_both_processes_give_the_same_results(tmp_path: Path) -> None:
    checkpoint = write_checkpoint(tmp_path / "w.safetensors", small_module())
    config = config_of(tmp_path)
    local = write_reference(config, checkpoint, tmp_path / "local.onnx")
    remote = write_large_reference(config, checkpoint, tmp_path / "remote.onnx")
    assert local.signature == remote.signature
    for name, values in local.reference.items():
        np.testing.assert_allclose(remote.reference[name], values, rtol=1e-5)  # threads may differ
    assert (tmp_path / "local.onnx").read_bytes() == (tmp_path / "remote.onnx").read_bytes()


def test_errors_pass_through_the_process_boundary(tmp_path: Path) -> None:
    checkpoint = write_checkpoint(tmp_path / "w.safetensors", small_module("vgg16"))
    with pytest.raises(CheckpointError, match="does not fit resnet50"):
        write_large_reference(config_of(tmp_path), checkpoint, tmp_path / "e.onnx")


def _killed(*_: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_killed_process_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reference, "write_reference", _killed)
    checkpoint = write_checkpoint(tmp_path / "w.safetensors", small_module())
    with pytest.raises(ExportError, match="was killed, most likely for lack of memory"):
        write_large_reference(config_of(tmp_path), checkpoint, tmp_path / "e.onnx")
