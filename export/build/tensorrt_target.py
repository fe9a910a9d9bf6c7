"""The TensorRT that can build engines on this machine, and the options of an engine build."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from runtime.backends.gpu.cuda_library import CudaDeviceList, cuda_devices
from runtime.backends.gpu.tensorrt_engine import import_tensorrt
from runtime.errors import BackendError
from runtime.json_reader import shown

TARGETS = ("auto", "onnx", "tensorrt", "rtx")
OPTIMIZATION_LEVELS = range(6)
_OLDEST = (10, 12)
"""The first TensorRT in which strongly typed networks support everything needed here."""
_RTX_CAPABILITIES = frozenset({"8.6", "8.9", "12.0", "12.1"})
"""Of the GPUs that run what TensorRT for RTX builds by default: its support matrices, versions 1.0
to 1.5. It supports 7.5 too, by engines of its own, which are not built here."""
_INSTALL = "pip install 'agemoe-runtime[tensorrt]'"


@dataclass(frozen=True, slots=True)
class EngineTarget:
    """A TensorRT that can build engines on this machine."""

    backend: str
    """`tensorrt` or `tensorrt_rtx`."""
    version: str
    compute_capability: str | None
    """Of the GPU the engines are for, like `9.0`; None for TensorRT for RTX, whose are portable."""
    can_run: bool
    """The engines can also run on this machine."""

    @property
    def tag(self) -> str:
        """Part of an engine's file name: `trt11.4-sm90` or `rtx1.7`."""
        version = ".".join(self.version.split(".")[:2])
        if self.compute_capability is None:
            return f"rtx{version}"
        return f"trt{version}-sm{self.compute_capability.replace('.', '')}"

    def __str__(self) -> str:
        """Returns the product's name and version."""
        if self.compute_capability is None:
            return f"TensorRT for RTX {self.version}"
        return f"TensorRT {self.version} for compute capability {self.compute_capability}"


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """Options of an engine build."""

    target: EngineTarget
    workspace_gib: float | None = None
    """Memory that a layer may use while it runs; None for TensorRT's default."""
    optimization_level: int = 3
    """Effort of TensorRT's search for the fastest kernels, 0 to 5."""

    @property
    def flags(self) -> Mapping[str, str]:
        """The options as recorded in the manifest."""
        flags = {"optimization_level": str(self.optimization_level)}
        if self.workspace_gib is not None:
            flags["workspace_gib"] = f"{self.workspace_gib:g}"
        return flags


def find_target(wanted: str) -> tuple[EngineTarget | None, str]:
    """Finds the TensorRT that can build engines on this machine.

    `auto` takes TensorRT where it is installed and there is a GPU, TensorRT for RTX where only that
    is installed, and nothing otherwise.

    Args:
        wanted: one of `TARGETS`.

    Returns:
        The target, or None and the reason.
    """
    if wanted == "onnx":
        return None, "as requested by --target onnx"
    if wanted == "tensorrt":
        return _tensorrt()
    if wanted == "rtx":
        return _rtx()
    found, reason = _tensorrt()
    if found is None and not _version_of("tensorrt")[0]:
        found, _ = _rtx()
    return found, reason


def _tensorrt() -> tuple[EngineTarget | None, str]:
    version, problem = _version_of("tensorrt")
    if not version:
        cure = f"{_INSTALL} on the machine with the GPU, and run this again there"
        return None, f"TensorRT is not installed ({problem}); {cure}"
    major, minor = (int(part) for part in version.split(".")[:2])
    if (major, minor) < _OLDEST:
        oldest = ".".join(map(str, _OLDEST))
        return None, f"TensorRT {version} is too old, {oldest} is needed; {_INSTALL} --upgrade"
    found = cuda_devices()
    if not found.devices:
        return None, (
            f"TensorRT {version} is installed, but builds engines only where there is a GPU "
            f"({found.reason}); run this again on the machine with the GPU"
        )
    capability = found.devices[0].compute_capability
    return EngineTarget("tensorrt", version, capability, can_run=True), ""


def _rtx() -> tuple[EngineTarget | None, str]:
    version, problem = _version_of("tensorrt_rtx")
    if not version:
        cure = "install its wheel from NVIDIA's TensorRT-RTX package"
        return None, f"TensorRT for RTX is not installed ({problem}); {cure}"
    can_run = _runs_rtx(cuda_devices())
    return EngineTarget("tensorrt_rtx", version, None, can_run), ""


def _runs_rtx(found: CudaDeviceList) -> bool:
    """Returns whether the GPU runs the engines that TensorRT for RTX builds here."""
    return bool(found.devices) and found.devices[0].compute_capability in _RTX_CAPABILITIES


def _version_of(package: str) -> tuple[str, str]:
    """Returns the version of a package, or an empty one and why it cannot be imported."""
    try:
        return str(import_tensorrt(package).__version__), ""
    except BackendError as error:
        return "", str(error.__cause__ or error)


def engine_options(
    wanted: str, workspace_gib: float | None, level: int, problems: list[str]
) -> tuple[EngineOptions | None, str]:
    """Returns the options of the engine build, or None and the reason for it."""
    if workspace_gib is not None and not workspace_gib > 0:
        problems.append(f"--workspace-gib: must be more than 0, got {workspace_gib:g}")
    if level not in OPTIMIZATION_LEVELS:
        problems.append(f"--optimization-level: must lie within 0..5, got {level}")
    if wanted not in TARGETS:
        problems.append(f"--target: must be one of {', '.join(TARGETS)}, got {shown(wanted)}")
        return None, ""
    target, reason = find_target(wanted)
    if target is not None:
        return EngineOptions(target, workspace_gib, level), ""
    if wanted in ("tensorrt", "rtx"):
        problems.append(f"--target {wanted}: {reason}, or leave --target out")
    return None, reason
