"""Opening a TensorRT engine: whether it is one for this machine, and the expert it claims to be."""

from __future__ import annotations

import functools
import importlib
import logging
import threading
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

from runtime.backends.gpu.buffers import output_tails
from runtime.backends.gpu.cuda import DeviceFacts
from runtime.errors import BackendError, ContractError, EngineMismatchError
from runtime.manifest import REBUILD, Artifact, Expert

T = TypeVar("T")

_log = logging.getLogger("agemoe")
_INSTALL = {"tensorrt": "agemoe-runtime[tensorrt]", "tensorrt_rtx": "NVIDIA's tensorrt-rtx"}
"""What to install, by backend, which is also the package's name."""
_CUDA_ERROR = "Cuda Runtime"
"""How TensorRT calls what is CUDA's fault; an engine may well be sound then."""
_Tensor = tuple[Any, Any, tuple[int, ...]]
"""Mode, data type and shape."""
_VERSION_PARTS = 4
"""Engines run with exactly the major, minor, patch and build version that wrote them."""


def import_tensorrt(backend: str) -> ModuleType:
    """TensorRT, or TensorRT for RTX, imported when it is needed first.

    Raises:
        BackendError: it is not installed, or not whole.
    """
    try:
        return importlib.import_module(backend)
    except (ImportError, OSError) as error:  # OSError: the package is there, a library it loads not
        raise BackendError(
            f"The package {backend} cannot be imported ({error}). Install {_INSTALL[backend]} or "
            f"use device='auto'."
        ) from error


def check_binding(name: str, expert: Expert, artifact: Artifact, facts: DeviceFacts) -> None:
    """Checks, before it is read, that an engine was built for this machine and from this graph.

    Args:
        name: of the expert.
        expert: its manifest entry.
        artifact: its TensorRT engine.
        facts: of the device.

    Raises:
        BackendError: TensorRT is not installed.
        EngineMismatchError: TensorRT is of another version, the GPU is of another compute
            capability, or the ONNX graph was built anew since.
    """
    binding = artifact.binding
    if binding is None:
        raise EngineMismatchError(
            f"The manifest does not say what the engine of {name!r} was built for. "
            f"{_rebuild(name, artifact)}"
        )
    library = import_tensorrt(artifact.backend)
    title = "TensorRT for RTX" if artifact.backend == "tensorrt_rtx" else "TensorRT"
    problems = []
    if _version(binding.tensorrt) != _version(library.__version__):
        problems.append(f"was built with {title} {binding.tensorrt}, here is {library.__version__}")
    if binding.compute_capability not in (None, facts.compute_capability):
        problems.append(
            f"was built for compute capability {binding.compute_capability}, {facts.name} has "
            f"{facts.compute_capability}"
        )
    twins = [
        a for a in expert.artifacts if (a.backend, a.precision) == ("onnx", artifact.precision)
    ]
    if any(twin.files[0].sha256 != binding.onnx_sha256 for twin in twins):
        problems.append(f"was built from another graph than {twins[0].files[0].path}")
    if problems:
        raise EngineMismatchError(
            f"The engine of {name!r} does not fit: it {' and it '.join(problems)}. "
            f"{_rebuild(name, artifact)}"
        )


def load_engine(
    name: str, expert: Expert, artifact: Artifact, folder: Path, library: ModuleType
) -> tuple[Any, Any]:
    """Reads an engine and checks it against the contract; to be called with the device current.

    Args:
        name: of the expert.
        expert: its manifest entry.
        artifact: its engine, which fits this machine.
        folder: the engines folder.
        library: `tensorrt` or `tensorrt_rtx`.

    Returns:
        The `Runtime`, which has to live longer, and the `ICudaEngine`.

    Raises:
        BackendError: TensorRT does not start here, or has no room for it.
        ContractError: TensorRT cannot read it, or it breaks the contract.
    """
    path = folder / artifact.files[0].path
    log = tensorrt_log(library)
    runtime = started(library.Runtime, log)
    log.forget()
    # engine_host_code_allowed stays False: a plan is data, and no code of it is run on the host.
    engine = runtime.deserialize_cuda_engine(path.read_bytes())
    if engine is None and _CUDA_ERROR in log.errors():
        raise BackendError(
            f"TensorRT cannot load {path} of expert {name!r}: {log.errors()}. The GPU may be full, "
            f"or its driver too old for this TensorRT; see nvidia-smi."
        )
    if engine is None:
        raise ContractError(
            f"TensorRT cannot read {path} of expert {name!r}: {log.errors()}. "
            f"{_rebuild(name, artifact)}"
        )
    problems = _contract_problems(expert, engine, library)
    if problems:
        del engine, runtime  # in the error's traceback they would outlive the device
        raise ContractError(
            f"The engine of expert {name!r} breaks the contract: {'; '.join(problems)}. "
            f"{_rebuild(name, artifact)}"
        )
    return runtime, engine


def started(kind: Callable[[Any], T], log: Any) -> T:  # noqa: ANN401 - what tensorrt_log returns
    """A new `Runtime` or `Builder`.

    Raises:
        BackendError: TensorRT does not start here; most often its CUDA is newer than the driver.
    """
    log.forget()
    try:
        return kind(log)
    except TypeError as error:  # what pybind11 makes of the null pointer that TensorRT returns
        raise BackendError(
            f"TensorRT does not start on this machine: {log.errors()}. Its CUDA may need a newer "
            f"NVIDIA driver than the one installed; nvidia-smi shows which CUDA that supports."
        ) from error


@functools.lru_cache(maxsize=2)
def tensorrt_log(library: ModuleType) -> Any:  # noqa: ANN401 - a class of a lazily imported module
    """The one logger that TensorRT wants in a process.

    Args:
        library: `tensorrt` or `tensorrt_rtx`.

    Returns:
        An `ILogger` with `forget()` and `errors()`: what went wrong in this thread since, or where
        it names no error, what it warned of.
    """

    class _Log(library.ILogger):  # type: ignore[misc, name-defined]
        """Warnings go to the log, errors to whoever raises them."""

        def __init__(self) -> None:
            library.ILogger.__init__(self)
            self._here = threading.local()

        def log(self, severity: Any, msg: str) -> None:  # noqa: ANN401
            if severity == library.ILogger.WARNING:
                _log.warning("TensorRT: %s", msg)
                self._said("warnings").append(msg)
            elif severity in (library.ILogger.ERROR, library.ILogger.INTERNAL_ERROR):
                _log.debug("TensorRT: %s", msg)
                self._said("errors").append(msg)

        def forget(self) -> None:
            vars(self._here).clear()

        def errors(self) -> str:
            said = self._said("errors") or self._said("warnings")
            return "; ".join(said) or "it does not say why"

        def _said(self, kind: str) -> list[str]:
            return vars(self._here).setdefault(kind, [])  # type: ignore[no-any-return]

    return _Log()


def _rebuild(name: str, artifact: Artifact) -> str:
    return f"{REBUILD} --only {name}{' --fp16' if artifact.precision == 'fp16' else ''}"


def _version(text: str) -> list[str]:
    return text.split(".")[:_VERSION_PARTS]


def _contract_problems(expert: Expert, engine: Any, library: ModuleType) -> list[str]:  # noqa: ANN401
    """Where an engine's tensors differ from what the expert's manifest entry promises."""
    uint8, float32 = library.DataType.UINT8, library.DataType.FLOAT
    into, out = library.TensorIOMode.INPUT, library.TensorIOMode.OUTPUT
    wanted: dict[str, _Tensor] = {
        spec.name: (into, uint8, (-1, spec.height, spec.width, 3)) for spec in expert.inputs
    }
    wanted |= {o: (out, float32, (-1, *tail)) for o, tail in output_tails(expert).items()}
    found = {name: _tensor(engine, name) for name in _tensor_names(engine)}
    problems = [
        f"{name} should be {_words(wanted.get(name))}, is {_words(found.get(name))}"
        for name in sorted(wanted.keys() | found.keys())
        if not _agree(wanted.get(name), found.get(name))
    ]
    return problems or _profile_problems(expert, engine)


def _tensor_names(engine: Any) -> list[str]:  # noqa: ANN401
    return [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]


def _tensor(engine: Any, name: str) -> _Tensor:  # noqa: ANN401
    shape = tuple(engine.get_tensor_shape(name))
    return engine.get_tensor_mode(name), engine.get_tensor_dtype(name), shape


def _agree(wanted: _Tensor | None, found: _Tensor | None) -> bool:
    """Whether a tensor is as it should be; a width that only a run tells is checked then."""
    if wanted is None or found is None or wanted[:2] != found[:2]:
        return False
    same_rank = len(wanted[2]) == len(found[2]) and found[2][0] == -1
    return same_rank and all(f in (-1, w) for w, f in zip(wanted[2], found[2], strict=True))


def _words(tensor: _Tensor | None) -> str:
    if tensor is None:
        return "absent"
    mode, dtype, shape = tensor
    return f"{mode.name} {dtype.name} {shape}"


def _profile_problems(expert: Expert, engine: Any) -> list[str]:  # noqa: ANN401
    """Which inputs cannot have every batch size from one, as short batches do, to the largest."""
    problems = []
    for spec in expert.inputs:
        low, _, high = engine.get_tensor_profile_shape(spec.name, 0)
        if low[0] > 1 or high[0] < expert.profile.largest:
            problems.append(
                f"{spec.name} takes {low[0]} to {high[0]} faces, should take 1 to "
                f"{expert.profile.largest}"
            )
    return problems
