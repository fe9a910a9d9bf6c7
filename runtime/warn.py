"""Warnings that name the line of the program that uses this package."""

from __future__ import annotations

import inspect
import warnings
from types import FrameType
from typing import cast

_PACKAGE = __name__.partition(".")[0]


def warn(message: str, category: type[Warning]) -> None:
    """Issues a warning as `warnings.warn` does, at the innermost line outside this package.

    A `stacklevel`, which depends on who calls whom within the package, is not needed.

    Args:
        message: of the warning.
        category: one of `runtime.errors`.
    """
    frame = cast("FrameType", inspect.currentframe())
    while frame.f_back is not None and _is_inside(frame.f_globals.get("__package__")):
        frame = frame.f_back
    warnings.warn_explicit(
        message,
        category,
        filename=frame.f_code.co_filename,
        lineno=frame.f_lineno,
        module=frame.f_globals.get("__name__"),
        registry=frame.f_globals.setdefault("__warningregistry__", {}),
    )


def _is_inside(package: str | None) -> bool:
    return package is not None and package.partition(".")[0] == _PACKAGE
