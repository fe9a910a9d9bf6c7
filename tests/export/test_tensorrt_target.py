"""Selection of the TensorRT target by installed packages, GPU and options."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from export.build.options import resolve_options
from export.build.tensorrt_target import find_target
from export.errors import OptionsError
from runtime.backends.gpu.cuda_library import CudaDeviceList
from tests.export.fake_builder import fake_tensorrt, gpu

NO_GPU = CudaDeviceList((), "The NVIDIA driver finds no device.")


@pytest.mark.parametrize(
    ("tensorrt_version", "rtx_version", "devices", "backend", "tag"),
    [
        ("11.4.0.106", None, gpu(), "tensorrt", "trt11.4-sm90"),
        ("10.12.0.36", "1.7.1", gpu("12.0"), "tensorrt", "trt10.12-sm120"),
        (None, "1.7.1", NO_GPU, "tensorrt_rtx", "rtx1.7"),
        ("11.4.0.106", "1.7.1", NO_GPU, None, "installed, but builds engines only where"),
        ("10.11.0.33", None, gpu(), None, "10.11.0.33 is too old, 10.12 is needed"),
        (None, None, gpu(), None, r"pip install 'agemoe-runtime[tensorrt]'"),
    ],
)
def test_auto_selects_what_is_available(
    monkeypatch: pytest.MonkeyPatch,
    tensorrt_version: str | None,
    rtx_version: str | None,
    devices: CudaDeviceList,
    backend: str | None,
    tag: str,
) -> None:
    for name, version in (("tensorrt", tensorrt_version), ("tensorrt_rtx", rtx_version)):
        module = fake_tensorrt(version, name) if version else None
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr("export.build.tensorrt_target.cuda_devices", lambda: devices)
    target, reason = find_target("auto")
    if target is None:
        assert backend is None
        assert tag in reason
    else:
        assert (target.backend, target.tag) == (backend, tag)


@pytest.mark.parametrize(
    ("capability", "can_run"),
    [
        *((supported, True) for supported in ("8.6", "8.9", "12.0", "12.1")),
        *((other, False) for other in ("7.0", "7.5", "8.0", "8.7", "9.0", "10.0", "11.0", "12.2")),
    ],
)
def test_rtx_engines_run_on_rtx_gpus(
    monkeypatch: pytest.MonkeyPatch, capability: str, can_run: bool
) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", fake_tensorrt("1.7.1", "tensorrt_rtx"))
    monkeypatch.setattr("export.build.tensorrt_target.cuda_devices", lambda: gpu(capability))
    target, _ = find_target("rtx")
    assert target is not None
    assert target.can_run == can_run


def test_rtx_engines_do_not_run_without_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", fake_tensorrt("1.7.1", "tensorrt_rtx"))
    monkeypatch.setattr("export.build.tensorrt_target.cuda_devices", lambda: NO_GPU)
    target, _ = find_target("rtx")
    assert target is not None
    assert not target.can_run


def test_every_problem_with_the_engine_options_is_reported(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(OptionsError) as caught:
        resolve_options(output=tmp_path, target="tensorrt", workspace_gib=0.0, optimization_level=6)
    workspace, level, target = caught.value.problems
    assert workspace == "--workspace-gib: must be more than 0, got 0"
    assert level == "--optimization-level: must lie within 0..5, got 6"
    assert target.startswith("--target tensorrt: TensorRT is not installed")
    assert target.endswith("or leave --target out")
