"""Names of devices and precisions, and the errors of wrong ones."""

from __future__ import annotations

from runtime.errors import BackendError
from runtime.manifest import PRECISIONS
from runtime.names import nearest, one_expected
from runtime.program import command_line

AUTO = "auto"
DEVICES = (AUTO, "cpu", "cuda", "tensorrt")
"""Kinds of devices; a number after `cuda:` and `tensorrt:` chooses one of several GPUs."""
_NUMBERED = ("cuda", "tensorrt")
_MOST_DIGITS = 4


def parse_device(device: str) -> tuple[str, int]:
    """Splits `auto`, `cpu`, `cuda`, `cuda:1`, `tensorrt` or `tensorrt:1` into kind and ordinal.

    Raises:
        BackendError: the text names no device.
    """
    kind, colon, ordinal = str(device).partition(":")
    if isinstance(device, str) and kind in DEVICES:
        if not colon:
            return kind, 0
        short = ordinal.isascii() and ordinal.isdecimal() and len(ordinal) <= _MOST_DIGITS
        if kind in _NUMBERED and short:
            return kind, int(ordinal)
    raise BackendError(
        f"device={device!r} was requested; there are auto, cpu, cuda, cuda:N, tensorrt and "
        f"tensorrt:N. {_hint(kind, colon)} {_devices_here()}"
    )


def check_precision(precision: str) -> None:
    """Raises `BackendError` if this is the name of no precision."""
    if precision not in (AUTO, *PRECISIONS):
        raise BackendError(one_expected("precision", precision, (AUTO, *PRECISIONS)))


def _hint(kind: str, colon: str) -> str:
    name = nearest(kind, DEVICES)
    if name is None:
        return "Use device='auto'."
    return f"Did you mean {f'{name}:0' if colon and name in _NUMBERED else name!r}?"


def _devices_here() -> str:
    from runtime.backends.gpu.cuda_library import cuda_devices, devices_found

    found = cuda_devices()
    if found.devices:
        return f"The driver finds {devices_found(len(found.devices))}."
    return f"There is no usable CUDA device: {command_line('doctor')} tells why."
