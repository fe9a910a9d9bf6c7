"""Loading of TensorRT engines, with checks that they fit this machine and the manifest."""

from __future__ import annotations

import functools
import importlib
import logging
import threading
from collections.abc import Callable
from types import ModuleType
from typing import Any, TypeVar

from runtime.backends import ExpertVariant
from runtime.backends.gpu.cuda import DeviceProperties
from runtime.errors import BackendError, ContractError, EngineMismatchError
from runtime.manifest import Expert, output_shape

T = TypeVar("T")

_log = logging.getLogger("agemoe")
_INSTALL = {"tensorrt": "agemoe-runtime[tensorrt]", "tensorrt_rtx": "NVIDIA's tensorrt-rtx"}
"""By backend, which is also the name of its package: what to install."""
_CUDA_ERROR = "Cuda Runtime"
"""Marks errors of CUDA in TensorRT's messages; the engine itself may be sound."""
_Tensor = tuple[Any, Any, tuple[int, ...]]
"""Mode, data type and shape."""
_VERSION_PARTS = 4
"""An engine runs only with the major, minor, patch and build version that wrote it."""


def import_tensorrt(backend: str) -> ModuleType:
    """Imports TensorRT or TensorRT for RTX; raises `BackendError` if that fails."""
    try:
        return importlib.import_module(backend)
    except (ImportError, OSError) as error:  # OSError: a library of the package is missing
        raise BackendError(
            f"The package {backend} cannot be imported ({error}). Install {_INSTALL[backend]} or "
            f"use device='auto'."
        ) from error


def check_binding(variant: ExpertVariant, device: DeviceProperties) -> None:
    """Checks, before loading, that an engine was built for this machine and from this graph.

    Raises:
        BackendError: TensorRT is not installed.
        EngineMismatchError: TensorRT has another version, the GPU another compute capability, or
            the ONNX graph was rebuilt since.
    """
    name, artifact = variant.name, variant.artifact
    binding = artifact.binding
    if binding is None:
        raise EngineMismatchError(
            f"The manifest does not state what the engine of {name!r} was built for. "
            f"{variant.rebuild}"
        )
    library = import_tensorrt(artifact.backend)
    title = "TensorRT for RTX" if artifact.backend == "tensorrt_rtx" else "TensorRT"
    problems = []
    if _version(binding.tensorrt) != _version(library.__version__):
        problems.append(
            f"was built with {title} {binding.tensorrt}, installed is {library.__version__}"
        )
    if binding.compute_capability not in (None, device.compute_capability):
        problems.append(
            f"was built for compute capability {binding.compute_capability}, {device.name} has "
            f"{device.compute_capability}"
        )
    source = ("onnx", artifact.precision)
    twins = [a for a in variant.expert.artifacts if (a.backend, a.precision) == source]
    if any(twin.sha256 != binding.onnx_sha256 for twin in twins):
        problems.append(f"was built from another graph than {twins[0].files[0].path}")
    if problems:
        raise EngineMismatchError(
            f"The engine of {name!r} does not fit: it {' and it '.join(problems)}. "
            f"{variant.rebuild}"
        )


def load_engine(variant: ExpertVariant, library: ModuleType) -> tuple[Any, Any]:
    """Loads an engine that has passed `check_binding` and checks it against the contract.

    The device must be current. Returns the `Runtime`, which must outlive the engine, and the
    `ICudaEngine`.

    Raises:
        BackendError: TensorRT does not start on this machine, or lacks GPU memory.
        ContractError: TensorRT cannot read the engine, or it breaks the contract.
    """
    name, path = variant.name, variant.path
    logger = tensorrt_logger(library)
    runtime = construct(library.Runtime, logger)
    logger.clear()
    # engine_host_code_allowed stays False: a plan is data, and the host runs no code from it.
    engine = runtime.deserialize_cuda_engine(path.read_bytes())
    if engine is None and _CUDA_ERROR in logger.errors():
        raise BackendError(
            f"TensorRT cannot load {path} of expert {name!r}: {logger.errors()}. The GPU may be "
            f"full, or its driver too old for this TensorRT; see nvidia-smi."
        )
    if engine is None:
        raise ContractError(
            f"TensorRT cannot read {path} of expert {name!r}: {logger.errors()}. {variant.rebuild}"
        )
    problems = _contract_problems(variant.expert, engine, library)
    if problems:
        del engine, runtime  # the error's traceback would keep them alive after the device
        raise ContractError(
            f"The engine of expert {name!r} breaks the contract: {'; '.join(problems)}. "
            f"{variant.rebuild}"
        )
    return runtime, engine


def construct(kind: Callable[[Any], T], logger: Any) -> T:  # noqa: ANN401 - of tensorrt_logger
    """Creates a `Runtime` or `Builder`.

    Raises:
        BackendError: TensorRT does not start; most often its CUDA is newer than the driver.
    """
    logger.clear()
    try:
        return kind(logger)
    except TypeError as error:  # pybind11 raises it for the null pointer that TensorRT returns
        raise BackendError(
            f"TensorRT does not start on this machine: {logger.errors()}. Its CUDA may need a "
            f"newer NVIDIA driver than the one installed; nvidia-smi shows the CUDA it supports."
        ) from error


@functools.lru_cache(maxsize=2)
def tensorrt_logger(library: ModuleType) -> Any:  # noqa: ANN401 - a class of a lazily imported module
    """Returns the process's only logger; TensorRT, or TensorRT for RTX, supports no second one.

    Its `errors()` are this thread's errors since `clear()`, or if there were none, its warnings.
    """

    class _Log(library.ILogger):  # type: ignore[misc, name-defined]
        """Passes warnings to the log and keeps errors for the exception that follows."""

        def __init__(self) -> None:
            library.ILogger.__init__(self)
            self._thread = threading.local()

        def log(self, severity: Any, msg: str) -> None:  # noqa: ANN401
            if severity == library.ILogger.WARNING:
                _log.warning("TensorRT: %s", msg)
                self._messages("warnings").append(msg)
            elif severity in (library.ILogger.ERROR, library.ILogger.INTERNAL_ERROR):
                _log.debug("TensorRT: %s", msg)
                self._messages("errors").append(msg)

        def clear(self) -> None:
            vars(self._thread).clear()

        def errors(self) -> str:
            messages = self._messages("errors") or self._messages("warnings")
            return "; ".join(messages) or "no reason was logged"

        def _messages(self, kind: str) -> list[str]:
            return vars(self._thread).setdefault(kind, [])  # type: ignore[no-any-return]

    return _Log()


def _version(text: str) -> list[str]:
    return text.split(".")[:_VERSION_PARTS]


def _contract_problems(expert: Expert, engine: Any, library: ModuleType) -> list[str]:  # noqa: ANN401
    uint8, float32 = library.DataType.UINT8, library.DataType.FLOAT
    into, out = library.TensorIOMode.INPUT, library.TensorIOMode.OUTPUT
    wanted: dict[str, _Tensor] = {
        spec.name: (into, uint8, (-1, spec.height, spec.width, 3)) for spec in expert.inputs
    }
    wanted |= {o: (out, float32, output_shape(o, -1, expert.age_grid)) for o in expert.outputs}
    names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
    mode, dtype, shape = engine.get_tensor_mode, engine.get_tensor_dtype, engine.get_tensor_shape
    found = {name: (mode(name), dtype(name), tuple(shape(name))) for name in names}
    problems = [
        f"{name} should be {_described(wanted.get(name))}, is {_described(found.get(name))}"
        for name in sorted(wanted.keys() | found.keys())
        if not _agree(wanted.get(name), found.get(name))
    ]
    return problems or _profile_problems(expert, engine)


def _agree(wanted: _Tensor | None, found: _Tensor | None) -> bool:
    """Returns True if a tensor is as promised; a width known only at run time is checked later."""
    if wanted is None or found is None or wanted[:2] != found[:2]:
        return False
    same_rank = len(wanted[2]) == len(found[2]) and found[2][0] == -1
    return same_rank and all(f in (-1, w) for w, f in zip(wanted[2], found[2], strict=True))


def _described(tensor: _Tensor | None) -> str:
    if tensor is None:
        return "absent"
    mode, dtype, shape = tensor
    return f"{mode.name} {dtype.name} {shape}"


def _profile_problems(expert: Expert, engine: Any) -> list[str]:  # noqa: ANN401
    """Returns the inputs whose optimization profile does not cover 1 to the largest batch."""
    problems = []
    for spec in expert.inputs:
        low, _, high = engine.get_tensor_profile_shape(spec.name, 0)
        if low[0] > 1 or high[0] < expert.profile.largest:
            problems.append(
                f"{spec.name} takes {low[0]} to {high[0]} faces, should take 1 to "
                f"{expert.profile.largest}"
            )
    return problems
