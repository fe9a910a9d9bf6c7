"""NVIDIA's real ONNX parser and engine builder on a machine without a GPU.

TensorRT for RTX builds engines without one. Its library is part of ONNX Runtime's wheel for it,
TensorRT's Python bindings have their own wheel; `shim.c` connects the two. Everything up to the
serialized plan is real; the plan is for RTX and is not run. `packages` holds the
modules `tensorrt` and `tensorrt_rtx` of a process with this `environment`.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

WHEELS = ("tensorrt-cu13-bindings==11.4.0.106", "onnxruntime-ep-nv-tensorrt-rtx-cu13==0.5.0")
SHIMMED = ("libnvinfer.so.11", "libnvonnxparser.so.11", "libnvinfer_plugin.so.11")
HERE = Path(__file__).parent
SHIM = HERE / "shim.c"
PACKAGES = HERE / "packages"


@dataclass(frozen=True, slots=True)
class TrtReport:
    """Result of parsing and building an ONNX file."""

    layers: int
    int64_layers: int
    """Layers with an INT64 output, that is shape arithmetic."""
    dtype_counts: dict[str, int]
    """Number of layer outputs by type: FLOAT, HALF, INT64, …"""
    plan_bytes: int
    """Size of the serialized plan; 0 if none was built."""
    errors: tuple[str, ...]


def trt_report(onnx_path: Path) -> TrtReport:
    """Parses and builds a file; installs the tools on first use, skips without a C compiler."""
    home = toolchain()
    result = subprocess.run(
        [sys.executable, str(HERE / "checker.py"), str(onnx_path)],
        env=os.environ | environment(home),
        capture_output=True,
        text=True,
        check=False,
    )
    if result.returncode:
        raise RuntimeError(f"The TensorRT checker ended with {result.returncode}: {result.stderr}")
    answer = json.loads(result.stdout.splitlines()[-1])
    return TrtReport(**answer | {"errors": tuple(answer["errors"])})


def toolchain() -> Path:
    """Returns the folder with both wheels and the compiled shim, created on first use."""
    if shutil.which("cc") is None:
        pytest.skip("no C compiler (cc): the shim to TensorRT for RTX cannot be compiled")
    return cached("agemoe-trt-cpu", "".join((*WHEELS, sys.version, SHIM.read_text())), _install)


def cached(name: str, key: str, install: Callable[[Path], None]) -> Path:
    """Returns a folder of the user's cache that `install` filled for this key."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / name
    home = cache / hashlib.sha256(key.encode()).hexdigest()[:16]
    if not home.exists():
        cache.mkdir(parents=True, exist_ok=True)
        unfinished = Path(tempfile.mkdtemp(dir=cache))
        install(unfinished)
        unfinished.replace(home)
    return home


def pip_install(target: Path, *wheels: str) -> None:
    """Installs wheels into a folder, without their dependencies."""
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps"]
    run([*pip, "--disable-pip-version-check", "--target", str(target), *wheels])


def _install(home: Path) -> None:
    pip_install(home / "site", *WHEELS)
    library = home / "lib" / SHIMMED[0]
    library.parent.mkdir()
    run(["cc", "-O1", "-shared", "-fPIC", "-o", str(library), str(SHIM), "-ldl"])
    for name in SHIMMED[1:]:
        library.with_name(name).symlink_to(library.name)


def environment(home: Path, *packages: str) -> dict[str, str]:
    """Returns the variables of a process with the bindings and the given `packages`."""
    rtx = home / "site" / "onnxruntime_ep_nv_tensorrt_rtx"
    return {
        "AGEMOE_RTX_BUILDER": str(_only(rtx, "libtensorrt_rtx.so.*.*")),
        "AGEMOE_RTX_PARSER": str(_only(rtx, "libtensorrt_onnxparser_rtx.so.*.*")),
        "LD_LIBRARY_PATH": f"{home / 'lib'}:{os.environ.get('LD_LIBRARY_PATH', '')}",
        "PYTHONPATH": ":".join(map(str, (home / "site", *(PACKAGES / p for p in packages)))),
    }


def _only(folder: Path, pattern: str) -> Path:
    (found,) = folder.glob(pattern)
    return found


def run(command: list[str]) -> None:
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        raise RuntimeError(f"{' '.join(command)} failed: {result.stderr}")
