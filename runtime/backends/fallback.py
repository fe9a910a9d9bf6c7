"""Choice of each expert's backend: TensorRT, ONNX Runtime on CUDA, or the CPU."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from runtime.backends import Device, ExpertVariant, Session, SessionFactory
from runtime.backends.cpu import CpuDevice
from runtime.backends.names import AUTO, check_precision
from runtime.backends.onnx import OnnxCpuSession, cuda_provider_problem
from runtime.backends.variants import BACKEND_NAMES, choose_variant
from runtime.cores import usable_cores
from runtime.errors import BackendError, EngineMismatchError
from runtime.manifest import ENGINE_BACKENDS, Artifact, Expert, verify_files
from runtime.options import GpuOptions
from runtime.program import build_command
from runtime.warn import warn

if TYPE_CHECKING:  # GPU modules are imported only where there is a GPU
    from runtime.backends.gpu.cuda import Cuda
    from runtime.backends.gpu.lane import CudaExpert

_FALLBACK_ORDER: Mapping[str, Sequence[str]] = {
    "auto": ("tensorrt", "cuda", "cpu"),
    "tensorrt": ("tensorrt",),
    "cuda": ("tensorrt", "cuda"),
    "cpu": ("cpu",),
}
"""By kind of device: the backends to try, in this order."""


class FallbackWarning(UserWarning):
    """An expert runs on a slower backend than this machine and its engines allow."""


class PrecisionWarning(UserWarning):
    """Experts run in another precision than the one requested, in which they were not built."""


@dataclass(frozen=True, slots=True)
class DeviceRequest:
    """Device for the experts, and its options."""

    kind: str
    """`auto`, `cpu`, `cuda` or `tensorrt`."""
    ordinal: int
    """Of the GPU."""
    precision: str
    hashes: bool
    """The files' SHA-256 is compared with the manifest."""
    threads: int | None
    """Cores each expert may use for a batch on the CPU; None means all."""
    gpu: GpuOptions
    batches: int = 1
    """That each expert predicts at the same time on the CPU."""

    def __post_init__(self) -> None:
        """Raises BackendError for the name of no precision, ValueError for a wrong number."""
        check_precision(self.precision)
        counts = {"batches": self.batches}
        if self.threads is not None:
            counts["threads"] = self.threads
        for name, value in counts.items():
            # A bool is an int, and no comparison finds NaN, with which no thread would ever start.
            if type(value) is not int or value < 1:
                raise ValueError(f"{name} must be a whole number of at least 1, got {value!r}.")


def open_devices(
    experts: Mapping[str, Expert],
    folder: Path,
    request: DeviceRequest,
    sessions: SessionFactory | None = None,
) -> list[Device]:
    """Opens every expert on the best backend that the request allows.

    `sessions` opens an expert on the CPU, by default on ONNX Runtime or OpenVINO; several threads
    call it at the same time. The devices returned together hold all experts.

    Raises:
        EngineFileError: a file is missing or has changed.
        EngineMismatchError: an engine does not fit this machine, and the policy is `error`.
        BackendError: an expert cannot run as requested.
    """
    with contextlib.ExitStack() as opened:
        opener = _Opener(folder, request, sessions or _cpu_sessions(request), opened)
        opener.require_device()
        opener.open(experts)
        opener.warn_of_precisions()
        devices = opener.devices(experts)
        opened.pop_all()
    return devices


@dataclass(slots=True)
class _Attempt:
    """An expert, and what came of opening it."""

    name: str
    expert: Expert
    problems: dict[str, BackendError] = field(default_factory=dict)
    """By kind of backend that was tried in vain."""
    kind: str = ""
    """Of the backend that it runs on."""
    artifact: Artifact | None = None
    """That runs there; None: none runs yet."""


class _Opener:
    """Opens experts; `opened` closes all of them if one fails."""

    def __init__(
        self,
        folder: Path,
        request: DeviceRequest,
        sessions: SessionFactory,
        opened: contextlib.ExitStack,
    ) -> None:
        self._folder = folder
        self._request = request
        self._open_session = sessions
        self._opened = opened
        self._cuda: Cuda | BackendError | None = None
        self._on_gpu: dict[str, CudaExpert] = {}
        self._on_cpu: dict[str, Session] = {}
        self._other_precisions: dict[str, str] = {}

    def require_device(self) -> None:
        """Raises `BackendError` if the GPU that the request numbers cannot be used."""
        kind, ordinal = self._request.kind, self._request.ordinal
        if ordinal:
            try:
                self._gpu()
            except BackendError as error:
                asked = f"device='{kind}:{ordinal}' was requested."
                raise BackendError(f"{asked} {error}") from error

    def warn_of_precisions(self) -> None:
        """Warns of experts in another precision than the one that was requested."""
        if self._other_precisions:
            wanted = self._request.precision
            used = [f"expert {name!r} runs in {p}" for name, p in self._other_precisions.items()]
            rebuild = build_command(self._folder, precision=wanted)
            warn(
                f"precision={wanted!r} was requested, but {' and '.join(used)}: there is no "
                f"{wanted} variant for this device. Rebuild: {rebuild}",
                PrecisionWarning,
            )

    def open(self, experts: Mapping[str, Expert]) -> None:
        """Opens every expert on the first backend that can run it, on the CPU side by side."""
        attempts = [_Attempt(name, expert) for name, expert in experts.items()]
        order = _FALLBACK_ORDER[self._request.kind]
        for attempt in attempts:  # one after the other: a GPU's context belongs to this thread
            for kind in order:
                if kind != "cpu" and attempt.artifact is None:
                    self._try(attempt, kind)
        left = [attempt for attempt in attempts if attempt.artifact is None]
        if left and "cpu" in order:
            workers = min(len(left), usable_cores())
            with ThreadPoolExecutor(workers, thread_name_prefix="agemoe-open") as pool:
                for _ in pool.map(self._try, left, ["cpu"] * len(left)):
                    pass
        for attempt in attempts:
            if attempt.artifact is None:
                raise self._error(attempt)
            problems = _unexpected(attempt.expert, attempt.problems)
            _warn_of_fallback(attempt.name, attempt.kind, problems)
            if self._request.precision not in (AUTO, attempt.artifact.precision):
                self._other_precisions[attempt.name] = attempt.artifact.precision

    def _try(self, attempt: _Attempt, kind: str) -> None:
        """Opens an expert on a backend, or notes why it cannot run there."""
        name, expert = attempt.name, attempt.expert
        try:
            variant = choose_variant(self._folder, name, expert, kind, self._request.precision)
            self._open_on(kind, variant)
        except EngineMismatchError as error:
            if self._request.gpu.on_mismatch == "error":
                raise
            attempt.problems[kind] = error
        except BackendError as error:
            attempt.problems[kind] = error
        else:
            attempt.kind, attempt.artifact = kind, variant.artifact

    def _error(self, attempt: _Attempt) -> BackendError:
        """Returns the error of an expert that runs nowhere."""
        kind, problems = self._request.kind, attempt.problems
        reasons = _unexpected(attempt.expert, problems) if kind == "auto" else problems
        if len(reasons) < 2:
            return problems[_FALLBACK_ORDER[kind][-1]]
        listed = [f"- {BACKEND_NAMES[tried]}: {error}" for tried, error in reasons.items()]
        return BackendError(
            f"Expert {attempt.name!r} cannot run on device={kind!r}:",
            *"\n".join(listed).split("\n"),
        )

    def devices(self, experts: Mapping[str, Expert]) -> list[Device]:
        """Returns the devices that hold the opened experts."""
        devices: list[Device] = []
        if self._on_cpu:
            here = {name: expert for name, expert in experts.items() if name in self._on_cpu}
            devices.append(CpuDevice(here, {name: self._on_cpu[name] for name in here}))
        if self._on_gpu:
            from runtime.backends.gpu.device import CudaDevice

            slots = self._request.gpu.slots
            devices.append(CudaDevice(self._gpu(), self._on_gpu, slots=slots))
        elif self._cuda is not None and not isinstance(self._cuda, BackendError):
            self._cuda.close()
        return devices

    def _open_on(self, kind: str, variant: ExpertVariant) -> None:
        if kind == "cuda" and (problem := cuda_provider_problem()):
            raise BackendError(problem)
        cuda = None if kind == "cpu" else self._gpu()
        hashes, gpu = self._request.hashes, self._request.gpu
        verify_files(self._folder, variant.name, variant.artifact, hashes=hashes)
        opened: CudaExpert | Session
        if cuda is None:
            opened = self._on_cpu[variant.name] = self._open_session(variant)
        elif kind == "tensorrt":
            from runtime.backends.gpu.tensorrt import TensorRTExpert

            opened = self._on_gpu[variant.name] = TensorRTExpert(variant, cuda, graphs=gpu.graphs)
        else:
            from runtime.backends.gpu.onnx_cuda import OnnxCudaExpert

            limit = gpu.memory_limit_bytes
            opened = OnnxCudaExpert(variant, cuda, memory_limit_bytes=limit)
            self._on_gpu[variant.name] = opened
        self._opened.callback(opened.close)

    def _gpu(self) -> Cuda:
        """Returns the GPU, opened on first use."""
        from runtime.backends.gpu.cuda_library import open_cuda

        if self._cuda is None:
            try:
                self._cuda = open_cuda(self._request.ordinal, self._request.gpu.cuda)
                self._opened.callback(self._cuda.close)
            except BackendError as error:
                self._cuda = error
        if isinstance(self._cuda, BackendError):
            raise self._cuda
        return self._cuda


def _unexpected(expert: Expert, problems: Mapping[str, BackendError]) -> dict[str, BackendError]:
    """Returns the problems of backends that the expert's files and the installation promise."""
    expected = {
        "tensorrt": any(artifact.backend in ENGINE_BACKENDS for artifact in expert.artifacts),
        "cuda": cuda_provider_problem() is None,
        "cpu": True,
    }
    return {kind: error for kind, error in problems.items() if expected[kind]}


def _warn_of_fallback(name: str, used: str, problems: Mapping[str, BackendError]) -> None:
    if problems:
        wanted = next(iter(problems))
        reasons = " ".join(str(error) for error in problems.values())
        warn(
            f"Expert {name!r} runs on {BACKEND_NAMES[used]} instead of {BACKEND_NAMES[wanted]}: "
            f"{reasons}",
            FallbackWarning,
        )


def _cpu_sessions(request: DeviceRequest) -> SessionFactory:
    """Returns a factory for the CPU: OpenVINO for its own artifacts, else ONNX Runtime.

    Experts run side by side on all cores and without spinning, so that the slowest one can use the
    cores of those that have finished.
    """
    cores = request.threads or usable_cores()

    def open_session(variant: ExpertVariant) -> Session:
        if variant.artifact.backend == "openvino":
            from runtime.backends.openvino import OpenVinoSession

            return OpenVinoSession(variant, threads=cores, batches=request.batches)
        return OnnxCpuSession(variant, threads=cores, batches=request.batches)

    return open_session
