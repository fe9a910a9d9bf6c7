"""NVIDIA's own cuda-python on the simulated device: a `libcuda.so.1` that asks the simulator.

    python -m pytest tests/gpu/test_cuda.py -p tests.gpu.driver_library

As a plugin of pytest it puts the real `cuda.bindings.driver` where `simulated_gpu` would put its
fake, so that every test shows how the real one takes our arguments and gives its answers. How C
passes them is read from NVIDIA's cuda.h. The driver stays loaded, so that the process has to be one
of its own.
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
"""Where a result goes, if that is not a pointer to 64 bits."""
_ANSWER = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_char_p, *[ctypes.c_size_t] * 6)


@dataclass(frozen=True, slots=True)
class Prototype:
    """A function of cuda.h."""

    symbol: str
    """What it is called in the library."""
    types: tuple[str, ...]
    """Of its arguments, in C."""


def prototypes(names: tuple[str, ...]) -> dict[str, Prototype]:
    """Those functions as NVIDIA declares them."""
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
    """cuda.h of the nvidia-cuda-runtime wheel, which PyTorch brings."""
    spec = importlib.util.find_spec("nvidia.cu13")
    assert spec is not None
    return Path(next(iter(spec.submodule_search_locations or ()))) / "include" / "cuda.h"


class DriverLibrary:
    """The loaded library, and the simulated device that it asks."""

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
        self._answer = _ANSWER(self._answered)
        self._library = _loaded(self._prototypes)
        self._library.answer_with(self._answer)
        real.cuDriverGetVersion()  # the bindings look for it now, and never again

    def bindings(self, gpu: SimulatedDriver) -> ModuleType:
        """The real `cuda.bindings.driver`, from now on on this device."""
        self._gpu = gpu
        return real

    def _answered(self, name: bytes, *words: int) -> int:
        try:
            self._answer_to(name.decode(), words)
        except CudaFailure as failure:
            return int(getattr(real.CUresult, failure.name))
        except RuleBrokenError:  # the simulator raises it again at its end
            return int(real.CUresult.CUDA_ERROR_UNKNOWN)
        return 0

    def _answer_to(self, name: str, words: tuple[int, ...]) -> None:
        given, results = [], []
        for kind, word in zip(self._prototypes[name].types, words, strict=False):
            if kind.endswith("*") and kind not in ("void *", "const void *"):
                results.append((kind, word))
            else:
                narrow = kind in _IN_32_BITS
                given.append(ctypes.c_int32(word).value if narrow else word)
        found = self._asked(name, given)
        values = found if isinstance(found, tuple) else (found,)
        for (kind, place), value in zip(results, values, strict=False):
            if isinstance(value, bytes):  # a text, of which C writes no more than its end
                ctypes.memmove(place, value, value.index(b"\0") + 1)
            else:
                _RESULTS.get(kind, ctypes.c_uint64).from_address(place).value = value

    def _asked(self, name: str, given: list[int]) -> object:
        if name in ERROR_TEXTS:
            if (name, given[0]) not in self._texts:
                raise CudaFailure("CUDA_ERROR_INVALID_VALUE")
            return ctypes.addressof(self._texts[name, given[0]])
        if self._gpu is None:
            raise CudaFailure("CUDA_ERROR_NOT_INITIALIZED")
        return self._gpu.call(name, functions(self._gpu)[name], *given)


def _loaded(known: dict[str, Prototype]) -> ctypes.CDLL:
    """Under its own name, it is what everybody finds who asks for libcuda.so.1."""
    listed = " ".join(f"X({name}, {prototype.symbol})" for name, prototype in known.items())
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder) / "libcuda.so.1"
        options = ["-shared", "-fPIC", f"-Wl,-soname,{library.name}", f"-DFUNCTIONS={listed}"]
        run(["cc", *options, "-o", str(library), str(SOURCE)])
        return ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)


simulator.cuda_python = DriverLibrary().bindings
