"""PyCUDA's exceptions, which contain only a text, and the driver's library with the names."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from tests.gpu.fake_cuda_bindings import TEXTS, real
from tests.gpu.fake_streams import CudaFailure


class Error(Exception):
    pass


class CudaMemoryError(Error):
    pass


class CudaLogicError(Error):
    pass


class CudaLaunchError(Error):
    pass


class CudaRuntimeError(Error):
    pass


_KINDS = {
    "CUDA_ERROR_OUT_OF_MEMORY": CudaMemoryError,
    "CUDA_ERROR_LAUNCH_FAILED": CudaLaunchError,
    "CUDA_ERROR_LAUNCH_TIMEOUT": CudaLaunchError,
    "CUDA_ERROR_NO_DEVICE": CudaRuntimeError,
    "CUDA_ERROR_ECC_UNCORRECTABLE": CudaRuntimeError,
    "CUDA_ERROR_UNKNOWN": Error,
}


def exception(name: str, failure: CudaFailure) -> Error:
    kind = _KINDS.get(failure.name, CudaLogicError)
    return kind(f"{name} failed: {TEXTS.get(failure.name, failure.name)}")


def compiled(method: Callable[..., Any]) -> Callable[..., Any]:
    """Wraps a method so that its exceptions, like those of C++, keep no argument alive."""

    def call(*args: Any, **options: Any) -> Any:
        try:
            return method(*args, **options)
        except Error as error:
            failed = error.with_traceback(None)
            failed.__context__ = None
        del args, options
        raise failed

    return call


def driver_library() -> SimpleNamespace:
    """Returns a fake of `ctypes.CDLL("libcuda.so.1")`, with the names and texts of errors."""
    names = {int(result): result.name for result in real.CUresult}

    def name(code: int, target: Any) -> int:
        target._obj.value = names[code].encode() if code in names else None
        return 0 if code in names else 1

    def text(code: int, target: Any) -> int:
        found = names.get(code)
        target._obj.value = TEXTS.get(found, found).encode() if found else None
        return 0 if found else 1

    return SimpleNamespace(cuGetErrorName=name, cuGetErrorString=text)
