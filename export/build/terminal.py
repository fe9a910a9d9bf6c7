"""Console, table and status line of builds: those of `rich`, or plain text where it is missing."""

from __future__ import annotations

try:
    from rich.console import Console
    from rich.status import Status
    from rich.table import Table
except ModuleNotFoundError:  # `rich` is part of the extra `export`, not of `onnx`
    from export.build.plain import Console, Status, Table  # type: ignore[assignment]

__all__ = ["Console", "Status", "Table"]
