"""What a benchmark ran on."""

from __future__ import annotations

import contextlib
import os
import platform
import resource
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from runtime.backends.fallback import parse_device
from runtime.cores import usable_cores
from runtime.errors import BackendError

_PACKAGES = (
    "numpy",
    "pillow",
    "opencv-python-headless",
    "onnxruntime",
    "onnxruntime-gpu",
    "openvino",
)
_PACKAGES_OF_GPU = ("tensorrt", "tensorrt-rtx", "cuda-bindings", "pycuda")
_PACKAGES_OF_BASELINES = ("torch", "timm", "transformers")
_TELLING_FLAGS = (
    "avx2",
    "avx512f",
    "avx512_vnni",
    "avx_vnni",
    "avx512_bf16",
    "amx_bf16",
    "amx_int8",
)
"""Instructions that decide how fast matrix products are."""
_BUSY = 0.5
"""Load per core from which on a machine is not quiet."""
_GPU_QUERY = "name,driver_version,memory.total,compute_cap"


def machine() -> dict[str, object]:
    """Processor, memory, GPUs, versions."""
    return {
        "processor": _cpuinfo("model name") or platform.processor() or platform.machine(),
        "instructions": [f for f in _TELLING_FLAGS if f in _cpuinfo("flags").split()],
        "cores": usable_cores(),
        "memory_bytes": os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
        "gpus": _gpus(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "versions": _versions(),
    }


def busy(before: Sequence[float], cores: int) -> bool:
    """Whether other programs were at work before a benchmark began, by the load average then."""
    return before[0] > _BUSY * cores


def load_average() -> list[float]:
    """Processes that wanted a core: in the last 1, 5 and 15 minutes, this one included."""
    return [round(load, 2) for load in os.getloadavg()]


def peak_bytes() -> int:
    """The most memory that this process has had so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


@contextmanager
def gpu_memory(device: str) -> Iterator[Callable[[], int | None]]:
    """Gives a function that tells how many bytes of GPU memory were taken since the beginning.

    Args:
        device: as `AgeMoE` takes it. Where no GPU is used or found, the function gives None.
    """
    kind, ordinal = parse_device(device)
    cuda = None
    if kind != "cpu":
        with contextlib.suppress(BackendError, ImportError):
            from runtime.backends.gpu.cuda_library import open_cuda

            cuda = open_cuda(ordinal, None)
    if cuda is None:
        yield lambda: None
        return
    try:
        with cuda.current():
            before = cuda.free_bytes()

        def taken() -> int:
            with cuda.current():
                return before - cuda.free_bytes()

        yield taken
    finally:
        cuda.close()


def _cpuinfo(key: str) -> str:
    path = Path("/proc/cpuinfo")
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(key)), "")


def _gpus() -> list[str]:
    """Name, driver, memory and compute capability of each, as NVIDIA's own tool says."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return []
    command = [tool, f"--query-gpu={_GPU_QUERY}", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, check=True, text=True, timeout=30)
    except (OSError, subprocess.SubprocessError):
        return []
    return done.stdout.strip().splitlines()


def _versions() -> dict[str, str]:
    packages = (*_PACKAGES, *_PACKAGES_OF_GPU, *_PACKAGES_OF_BASELINES)
    return {name: number for name in packages if (number := _version(name))}


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
