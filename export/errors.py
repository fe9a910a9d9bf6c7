"""Exceptions of the exporter.

ExportError
├── OptionsError      the command line or experts.toml is invalid; lists every problem
├── CheckpointError   a checkpoint is missing, unsafe, or of another architecture
├── GraphError        an ONNX graph breaks the contract or is not supported by TensorRT
├── ClaimError        labeled faces do not support the claim that a policy makes
└── ParityError       a built file differs too much from the reference model
"""

from __future__ import annotations

from collections.abc import Sequence

from runtime.errors import PicklableError
from runtime.printing import bullets


class ExportError(PicklableError):
    """Base of all exceptions that the exporter raises deliberately."""


class OptionsError(ExportError, ValueError):
    """The command line or experts.toml is invalid; `problems` lists every problem."""

    def __init__(self, problems: Sequence[str]) -> None:
        """Composes the message from all problems."""
        self.problems = tuple(problems)
        count = f"{len(problems)} problem{'s' if len(problems) != 1 else ''}"
        super().__init__(f"{count} with the options:", *bullets(problems))


class CheckpointError(ExportError, ValueError):
    """A checkpoint is missing, unsafe, or of another architecture."""


class GraphError(ExportError, ValueError):
    """An ONNX graph breaks the contract or is not supported by TensorRT."""


class ClaimError(ExportError):
    """Labeled faces do not support the claim that a policy would make."""


class ParityError(ExportError, ArithmeticError):
    """A built file differs too much from the reference model."""
