"""NVIDIA's Python bindings of two TensorRT versions and of TensorRT for RTX, without TensorRT.

Their wheels are on the registry; the nine C functions that they link against are stubs here, so
that every class, method and enumeration can be inspected but not called.
"""

from __future__ import annotations

import functools
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Collection
from pathlib import Path

import pytest

from tests.trt_cpu import cached, pip_install, run

RTX = "tensorrt_rtx-cu13-bindings==1.7.1.116"
WHEELS = ("tensorrt-cu13-bindings==11.4.0.106", "tensorrt-cu13-bindings==10.16.1.11", RTX)
STUBBED = (
    "createInferBuilder_INTERNAL",
    "createInferRefitter_INTERNAL",
    "createInferRuntime_INTERNAL",
    "createNvOnnxParserRefitter_INTERNAL",
    "createNvOnnxParser_INTERNAL",
    "getBuilderPluginRegistry",
    "getNvOnnxParserVersion",
    "getPluginRegistry",
    "initLibNvInferPlugins",
)
_LIBRARIES = ("nvinfer", "nvonnxparser", "nvinfer_plugin")
_RTX_LIBRARIES = ("tensorrt_rtx", "tensorrt_onnxparser_rtx")
_LIST_MISSING = """
import importlib, json, os, sys
sys.setdlopenflags(os.RTLD_LAZY)
tensorrt = importlib.import_module(sys.argv[1])
def exists(dotted):
    found = tensorrt
    for name in dotted.split("."):
        if not hasattr(found, name):
            return False
        found = getattr(found, name)
    return True
print(json.dumps([name for name in json.load(sys.stdin) if not exists(name)]))
"""


def missing_names(wheel: str, names: Collection[str]) -> list[str]:
    """Returns the dotted names that a TensorRT lacks; installs its bindings on first use."""
    home = _home(wheel)
    package = "tensorrt_rtx_bindings" if wheel == RTX else "tensorrt_bindings"
    listed = subprocess.run(
        [sys.executable, "-c", _LIST_MISSING, package],
        input=json.dumps(sorted(names)),
        env=os.environ | {"PYTHONPATH": str(home / "site"), "LD_LIBRARY_PATH": str(home / "lib")},
        capture_output=True,
        text=True,
        check=False,
    )
    if listed.returncode:
        raise RuntimeError(f"{wheel} cannot be imported: {listed.stderr}")
    missing: list[str] = json.loads(listed.stdout)
    return missing


def _home(wheel: str) -> Path:
    if shutil.which("cc") is None:
        pytest.skip("no C compiler (cc): TensorRT's libraries cannot be stubbed")
    key = "".join((wheel, sys.version, *STUBBED))
    return cached("agemoe-trt-bindings", key, functools.partial(_install, wheel))


def _install(wheel: str, home: Path) -> None:
    pip_install(home / "site", wheel)
    source = home / "stubs.c"
    source.write_text("".join(f"void {name}(void) {{}}\n" for name in STUBBED))
    (home / "lib").mkdir()
    major = wheel.rpartition("==")[2].partition(".")[0]
    for library in _RTX_LIBRARIES if wheel == RTX else _LIBRARIES:
        target = home / "lib" / f"lib{library}.so.{major}"
        run(["cc", "-shared", "-fPIC", "-o", str(target), str(source)])
