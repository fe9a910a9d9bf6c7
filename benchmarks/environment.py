"""The machine and the engines that a benchmark ran on, as reports describe them."""

from __future__ import annotations

import contextlib
import datetime as dt
import os
import platform
import resource
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from runtime import AgeMoE, BackendError
from runtime.backends import ExpertVariant, backend_kind
from runtime.backends.names import parse_device
from runtime.backends.variants import choose_variant
from runtime.cores import usable_cores
from runtime.installed import installed_version
from runtime.manifest_file import read_manifest, write_manifest

_PACKAGES = (
    *("numpy", "pillow", "opencv-python-headless", "onnxruntime", "onnxruntime-gpu", "openvino"),
    *("tensorrt", "tensorrt-rtx", "cuda-bindings", "pycuda", "torch", "timm", "transformers"),
)
_INSTRUCTIONS = (
    *("avx2", "avx512f", "avx512_vnni", "avx_vnni"),
    *("avx512_bf16", "amx_bf16", "amx_int8"),
)
"""CPU flags that decide the speed of matrix products."""
_BUSY = 0.5
"""Load per core from which on a machine counts as busy."""
_GPU_QUERY = "name,driver_version,memory.total,compute_cap"


def report_header(benchmark: str, schema_version: int) -> dict[str, object]:
    """Returns the beginning of a JSON report."""
    return {
        "schema_version": schema_version,
        "benchmark": benchmark,
        "created": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        "machine": machine(),
    }


def machine() -> dict[str, object]:
    """Returns processor, memory, GPUs and versions."""
    return {
        "processor": _cpuinfo("model name") or platform.processor() or platform.machine(),
        "instructions": [f for f in _INSTRUCTIONS if f in _cpuinfo("flags").split()],
        "cores": usable_cores(),
        "memory_bytes": os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
        "gpus": _gpus(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "versions": {name: number for name in _PACKAGES if (number := installed_version(name))},
    }


def busy(before: Sequence[float], cores: int) -> bool:
    """Returns whether other programs were running, by the load average before a benchmark."""
    return before[0] > _BUSY * cores


def load_average() -> list[float]:
    """Returns the load of the last 1, 5 and 15 minutes, this process included."""
    return [round(load, 2) for load in os.getloadavg()]


def peak_bytes() -> int:
    """Returns the largest resident set of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


@contextmanager
def gpu_memory(device: str) -> Iterator[Callable[[], int | None]]:
    """Yields a function that returns the bytes of GPU memory taken since the beginning.

    It returns None where the device, as for `AgeMoE`, is no GPU or is not found.
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


def described_experts(moe: AgeMoE, engines: Path, precision: str) -> dict[str, object]:
    """Returns files, backend, precision and measured parity of each expert."""
    experts = read_manifest(engines).experts
    described: dict[str, object] = {}
    for name, backend in moe.backends.items():
        kind = backend_kind(backend)
        variant = choose_variant(engines, name, experts[name], kind, precision)
        described[name] = _described(variant, backend)
    return described


@contextmanager
def onnx_only(engines: Path) -> Iterator[Path]:
    """Yields a folder that links to the ONNX files; raises `BackendError` for an expert without."""
    manifest = read_manifest(engines)
    experts = {}
    for name, expert in manifest.experts.items():
        graphs = tuple(artifact for artifact in expert.artifacts if artifact.backend == "onnx")
        if not graphs:
            raise BackendError(f"Expert {name!r} has no ONNX file, so that there is no baseline.")
        experts[name] = replace(expert, artifacts=graphs)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for child in engines.resolve().iterdir():
            if child.name != "manifest.json":
                (folder / child.name).symlink_to(child)
        write_manifest(folder, replace(manifest, experts=experts))
        yield folder


def _described(variant: ExpertVariant, backend: str) -> dict[str, object]:
    expert, artifact = variant.expert, variant.artifact
    parity = artifact.parity
    return {
        "architecture": expert.architecture,
        "weights": expert.source.kind,
        "inputs": {spec.name: [spec.height, spec.width] for spec in expert.inputs},
        "backend": backend,
        "precision": artifact.precision,
        "sha256": artifact.sha256,
        "size_bytes": sum(file.size_bytes for file in artifact.files),
        "parity_years": None
        if parity is None
        else {"mean": parity.mean_years, "max": parity.max_years, "faces": parity.faces},
    }


def _cpuinfo(key: str) -> str:
    path = Path("/proc/cpuinfo")
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(key)), "")


def _gpus() -> list[str]:
    """Returns name, driver, memory and compute capability of each GPU, from nvidia-smi."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return []
    command = [tool, f"--query-gpu={_GPU_QUERY}", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, check=True, text=True, timeout=30)
    except (OSError, subprocess.SubprocessError):
        return []
    return done.stdout.strip().splitlines()
