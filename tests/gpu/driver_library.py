"""NVIDIA's cuda-python on the simulated device: a `libcuda.so.1` that calls the simulator.

    python -m pytest tests/gpu/test_cuda.py -p tests.gpu.driver_library

As a pytest plugin it makes `simulated_gpu` use the real `cuda.bindings.driver` instead of the fake,
so that every test also covers how the real one passes arguments and results. Their C types are read
from NVIDIA's cuda.h. The driver stays loaded, so this needs a separate process.
"""

from __future__ import annotations

import ctypes
import importlib.util
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from tests.gpu import simulator
from tests.gpu.fake_cuda_bindings import TEXTS, functions, real
from tests.gpu.fake_driver import SimulatedDriver
from tests.gpu.fake_streams import CudaFailure, RuleBrokenError
from tests.trt_cpu import run

SOURCE = Path(__file__).with_suffix(".c")
ERROR_TEXTS = ("cuGetErrorName", "cuGetErrorString")
_IN_32_BITS = frozenset(
    ("int", "unsigned int", "CUdevice", "CUdevice_attribute", "CUstreamCaptureMode", "CUresult")
)
_RESULTS: dict[str, Any] = {
    "char *": ctypes.c_char,
    "const char **": ctypes.c_void_p,
    "float *": ctypes.c_float,
    "int *": ctypes.c_int32,
    "CUdevice *": ctypes.c_int32,
}
"""By the type of an output parameter: what it points to, if not to 64 bits."""
_CALLBACK = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_char_p, *[ctypes.c_size_t] * 6)


@dataclass(frozen=True, slots=True)
class Prototype:
    """A function of cuda.h."""

    symbol: str
    """Name in the library."""
    types: tuple[str, ...]
    """C types of the arguments."""


def prototypes(names: tuple[str, ...]) -> dict[str, Prototype]:
    """Returns the functions' prototypes, from NVIDIA's header."""
    header = cuda_header().read_text(encoding="latin-1")

    def declared(name: str) -> Prototype:
        renamed = re.search(rf"#define {name} +(?:__CUDA_API_PT\w+\()?(cu\w+)", header)
        found = re.search(rf"CUresult CUDAAPI {name}\((.*?)\);", header)
        assert found is not None, f"cuda.h has no {name}"
        arguments = found[1].split(", ") if found[1] != "void" else []
        types = tuple(re.sub(r"\w+$", "", argument).strip() for argument in arguments)
        return Prototype(renamed[1] if renamed else name, types)

    return {name: declared(name) for name in names}


def cuda_header() -> Path:
    """Returns cuda.h of the nvidia-cuda-runtime wheel, a dependency of PyTorch."""
    spec = importlib.util.find_spec("nvidia.cu13")
    assert spec is not None
    return Path(next(iter(spec.submodule_search_locations or ()))) / "include" / "cuda.h"


class DriverLibrary:
    """The loaded library and the simulated device that it calls."""

    def __init__(self) -> None:
        simulated = functions(SimulatedDriver(0, devices=1, memory_bytes=1, capability=(9, 0)))
        self._gpu: SimulatedDriver | None = None
        self._prototypes = prototypes((*simulated, *ERROR_TEXTS))
        self._texts = {
            (function, int(result)): ctypes.create_string_buffer(text.encode())
            for result in real.CUresult
            for function, text in zip(
                ERROR_TEXTS, (result.name, TEXTS.get(result.name, result.name)), strict=True
            )
        }
        self._callback = _CALLBACK(self._called)
        self._library = _loaded(self._prototypes)
        self._library.set_callback(self._callback)
        real.cuDriverGetVersion()  # the bindings look it up once

    def bindings(self, gpu: SimulatedDriver) -> ModuleType:
        """Returns the real `cuda.bindings.driver`, connected to this device."""
        self._gpu = gpu
        return real

    def _called(self, name: bytes, *words: int) -> int:
        try:
            self._call(name.decode(), words)
        except CudaFailure as failure:
            return int(getattr(real.CUresult, failure.name))
        except RuleBrokenError:  # the simulator raises it again at its end
            return int(real.CUresult.CUDA_ERROR_UNKNOWN)
        return 0

    def _call(self, name: str, words: tuple[int, ...]) -> None:
        arguments, outputs = [], []
        for kind, word in zip(self._prototypes[name].types, words, strict=False):
            if kind.endswith("*") and kind not in ("void *", "const void *"):
                outputs.append((kind, word))
            else:
                narrow = kind in _IN_32_BITS
                arguments.append(ctypes.c_int32(word).value if narrow else word)
        found = self._result(name, arguments)
        values = found if isinstance(found, tuple) else (found,)
        for (kind, address), value in zip(outputs, values, strict=False):
            if isinstance(value, bytes):  # C writes a text up to its terminator
                ctypes.memmove(address, value, value.index(b"\0") + 1)
            else:
                _RESULTS.get(kind, ctypes.c_uint64).from_address(address).value = value

    def _result(self, name: str, arguments: list[int]) -> object:
        if name in ERROR_TEXTS:
            if (name, arguments[0]) not in self._texts:
                raise CudaFailure("CUDA_ERROR_INVALID_VALUE")
            return ctypes.addressof(self._texts[name, arguments[0]])
        if self._gpu is None:
            raise CudaFailure("CUDA_ERROR_NOT_INITIALIZED")
        return self._gpu.call(name, functions(self._gpu)[name], *arguments)


def _loaded(known: dict[str, Prototype]) -> ctypes.CDLL:
    """Compiles and loads the library; later look-ups of libcuda.so.1 find it by its soname."""
    listed = " ".join(f"X({name}, {prototype.symbol})" for name, prototype in known.items())
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder) / "libcuda.so.1"
        options = ["-shared", "-fPIC", f"-Wl,-soname,{library.name}", f"-DFUNCTIONS={listed}"]
        run(["cc", *options, "-o", str(library), str(SOURCE)])
        return ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)


simulator.cuda_python = DriverLibrary().bindings
