"""A network in a process of its own says and writes what one in this process does."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import numpy as np
import pytest

from export.build import reference
from export.build.options import read_experts
from export.build.reference import write_large_reference, write_reference
from export.config.architecture import ExpertConfig
from export.errors import CheckpointError, ExportError
from tests.export.small import experts_toml, small_module, write_checkpoint


def config_of(folder: Path) -> ExpertConfig:
    return read_experts(experts_toml(folder, resnet50="w.safetensors"), [])["resnet50"]


def test_both_ways_agree(tmp_path: Path) -> None:
    checkpoint = write_checkpoint(tmp_path / "w.safetensors", small_module())
    config = config_of(tmp_path)
    here = write_reference(config, checkpoint, tmp_path / "here.onnx")
    there = write_large_reference(config, checkpoint, tmp_path / "there.onnx")
    assert here.signature == there.signature
    for name, values in here.reference.items():
        np.testing.assert_allclose(there.reference[name], values, rtol=1e-5)  # threads may differ
    assert (tmp_path / "here.onnx").read_bytes() == (tmp_path / "there.onnx").read_bytes()


def test_errors_come_back_as_they_are(tmp_path: Path) -> None:
    checkpoint = write_checkpoint(tmp_path / "w.safetensors", small_module("vgg16"))
    with pytest.raises(CheckpointError, match="does not fit resnet50"):
        write_large_reference(config_of(tmp_path), checkpoint, tmp_path / "e.onnx")


def _killed(*_: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_process_that_was_killed_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reference, "write_reference", _killed)
    checkpoint = write_checkpoint(tmp_path / "w.safetensors", small_module())
    with pytest.raises(ExportError, match="was killed, most likely for lack of memory"):
        write_large_reference(config_of(tmp_path), checkpoint, tmp_path / "e.onnx")
