"""Errors of the exporter.

ExportError
├── OptionsError      the command line or experts.toml is wrong; every problem at once
├── CheckpointError   a checkpoint is missing, unsafe, or of another architecture
├── GraphError        an ONNX graph breaks the contract, or TensorRT cannot take it
└── ParityError       a built file does not compute what PyTorch computes
"""

from __future__ import annotations

from collections.abc import Sequence


class ExportError(Exception):
    """Base of every error the exporter raises on purpose."""


class OptionsError(ExportError, ValueError):
    """The command line or experts.toml is wrong; `problems` lists everything found."""

    def __init__(self, problems: Sequence[str]) -> None:
        """Compose the message from all problems."""
        self.problems = tuple(problems)
        count = f"{len(problems)} problem{'s' if len(problems) != 1 else ''}"
        super().__init__(f"{count} with the options:" + "".join(f"\n- {p}" for p in problems))


class CheckpointError(ExportError, ValueError):
    """A checkpoint is missing, unsafe, or of another architecture."""


class GraphError(ExportError, ValueError):
    """An ONNX graph breaks the contract, or TensorRT cannot take it."""


class ParityError(ExportError, ArithmeticError):
    """A built file does not compute what PyTorch computes."""
