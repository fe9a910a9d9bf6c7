"""Backends behind one small protocol: named uint8 arrays in, named float32 arrays out, later."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from runtime.manifest import Artifact, Expert

Inputs = Mapping[str, NDArray[np.uint8]]
"""By input name: uint8 (N, H, W, 3), RGB, the same N for all."""
Outputs = Mapping[str, NDArray[np.float32]]
"""By output name: float32 with first dimension N."""


class Pending(Protocol):
    """An answer under way; `concurrent.futures.Future` is one."""

    def result(self, timeout: float | None = None) -> Outputs:
        """Waits for the answer.

        Raises:
            TimeoutError: it is not there after `timeout` seconds.
        """
        ...

    def cancel(self) -> bool:
        """Gives the answer up: what has not started will not be computed."""
        ...


class Session(Protocol):
    """One expert on one backend, ready to run."""

    @property
    def backend(self) -> str:
        """What it runs on, for example `onnx-cpu`."""
        ...

    def enqueue(self, inputs: Inputs) -> Pending:
        """Starts a batch and returns at once.

        Args:
            inputs: all of the expert's inputs; at most the profile's largest batch. They must not
                be changed until the answer is there.
        """
        ...

    def close(self) -> None:
        """Frees everything; harmless when repeated."""
        ...


SessionFactory = Callable[[str, Expert, Artifact, Path], Session]
"""From an expert's name, entry, chosen artifact and the engines folder to a session."""
