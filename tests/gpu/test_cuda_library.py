"""Choice of the CUDA library, and errors without a library, driver or device."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from runtime.backends.gpu.cuda_library import LIBRARIES, cuda_devices, open_cuda
from runtime.errors import BackendError
from tests.gpu.simulator import simulated_gpu
from tests.gpu.small_experts import build_experts, open_device


@pytest.mark.parametrize(
    ("installed", "requested", "library"),
    [
        ("both", None, "cuda-python"),
        ("both", "pycuda", "pycuda"),
        ("pycuda", None, "pycuda"),
        ("cuda-python", "cuda-python", "cuda-python"),
    ],
)
def test_the_library_that_is_installed(installed: str, requested: str | None, library: str) -> None:
    with simulated_gpu(library=installed):
        cuda = open_cuda(0, requested)
        assert cuda.library == library
        cuda.close()


@pytest.mark.parametrize(
    ("installed", "requested", "message"),
    [
        ("none", None, r"cuda-python: .*pycuda: .*agemoe-runtime\[tensorrt\]"),
        ("pycuda", "cuda-python", r"cuda-python: .*Install"),
        ("both", "cupy", "no CUDA library 'cupy'. Choose one of cuda-python, pycuda"),
    ],
)
def test_no_library(installed: str, requested: str | None, message: str) -> None:
    with simulated_gpu(library=installed):
        with pytest.raises(BackendError, match=message):
            open_cuda(0, requested)
        assert message[:5] in (cuda_devices(requested).reason or "")


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize(
    ("devices", "ordinal", "found"),
    [(0, 0, "no CUDA device"), (1, 99, "1 CUDA device: cuda:0"), (2, -1, "cuda:0 to cuda:1")],
)
def test_a_missing_device(library: str, devices: int, ordinal: int, found: str) -> None:
    with simulated_gpu(library=library, devices=devices):
        with pytest.raises(
            BackendError, match=f"no CUDA device {ordinal}; the driver finds .*{found}. Choose"
        ):
            open_cuda(ordinal)
        listed = cuda_devices()
        assert len(listed.devices) == devices
        assert (listed.reason is None) == (devices > 0)


def test_no_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(_flags: int) -> None:
        raise RuntimeError("libcuda.so.1 is missing")

    with simulated_gpu():
        monkeypatch.setattr(sys.modules["cuda.bindings.driver"], "cuInit", missing, raising=False)
        with pytest.raises(BackendError, match=r"no NVIDIA driver .*libcuda.so.1 is missing"):
            open_cuda(0)
        monkeypatch.undo()


def test_a_driver_too_old_for_the_bindings_is_reported_while_opening(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """cuda-bindings 13 measures time with a function that drivers have since CUDA 12.8."""

    def missing(*_events: object) -> None:
        raise RuntimeError('Function "cuEventElapsedTime_v2" not found')

    with simulated_gpu() as gpu:
        built = build_experts(gpu, tmp_path)
        driver = sys.modules["cuda.bindings.driver"]
        monkeypatch.setattr(driver, "cuEventElapsedTime", missing, raising=False)
        with pytest.raises(BackendError, match=r"_v2\" not found\. The NVIDIA driver is too old"):
            open_device(built)
        monkeypatch.undo()
        assert gpu.leaks() == []


@pytest.mark.parametrize("library", LIBRARIES)
def test_listing_devices_opens_none(library: str) -> None:
    with simulated_gpu(library=library, devices=2) as gpu:
        assert [device.ordinal for device in cuda_devices().devices] == [0, 1]
        assert gpu.calls["cuDevicePrimaryCtxRetain"] == 0
