"""Devices behind one small protocol: a batch of uint8 views in, float32 arrays out, later.

A `Device` runs some of the experts. It hands out a `Batch`, which carries the views there, once
each; every expert is then started on it and returns a `Pending` at once. On the CPU an expert is a
`Session` with a thread of its own; on a GPU it is a lane with a stream of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from runtime.manifest import Artifact, Expert, InputSpec

Views = Mapping[InputSpec, NDArray[np.uint8]]
"""By input: uint8 (N, height, width, 3), RGB, the same N for all."""
Inputs = Mapping[str, NDArray[np.uint8]]
"""One expert's views, by the name of its input."""
Outputs = Mapping[str, NDArray[np.float32]]
"""By output name: float32 with first dimension N."""


@dataclass(frozen=True, slots=True)
class Times:
    """Where the time of one answer went, in seconds."""

    queue: float = 0.0
    """Between being enqueued and being started."""
    copy: float = 0.0
    """To the device and back."""
    execute: float = 0.0


@dataclass(frozen=True, slots=True)
class Answer:
    """What one expert said of one batch."""

    outputs: Outputs
    times: Times = Times()


class Pending(Protocol):
    """An answer under way; `concurrent.futures.Future` is one."""

    def result(self, timeout: float | None = None) -> Answer:
        """Waits for the answer.

        Raises:
            TimeoutError: it is not there after `timeout` seconds.
        """
        ...

    def cancel(self) -> bool:
        """Gives the answer up: what has not started will not be computed."""
        ...


class Session(Protocol):
    """One expert on the CPU, ready to run."""

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


class Batch(Protocol):
    """Views on a device, ready for its experts."""

    def enqueue(self, expert: str) -> Pending:
        """Starts an expert and returns at once."""
        ...

    def release(self) -> None:
        """Gives the batch's place on the device back, at the latest when what was started ends."""
        ...


class Device(Protocol):
    """Where some of the experts run."""

    @property
    def backends(self) -> Mapping[str, str]:
        """What each of its experts runs on, by name."""
        ...

    def take(self, views: Views, timeout: float | None = None) -> Batch:
        """Finds a place for a batch and starts to bring it there.

        Args:
            views: at most the smallest `largest` of the experts' profiles; they must not be
                changed until every answer is there.
            timeout: in seconds; None waits as long as it takes.

        Raises:
            TimeoutError: no place became free in time.
        """
        ...

    def close(self) -> None:
        """Waits for what is under way and frees everything; harmless when repeated."""
        ...


def backend_kind(backend: str) -> str:
    """Returns the kind of a backend, `cpu`, `cuda` or `tensorrt`, from its name.

    Names begin with library and processor, `onnx-cpu` or `tensorrt_rtx`; details may follow.
    """
    if "-cpu" in backend:
        return "cpu"
    return "cuda" if backend.startswith("onnx") else "tensorrt"


def all_on_cpu(backends: Iterable[str]) -> bool:
    """Returns True if none of the named backends uses a GPU."""
    return all(backend_kind(backend) == "cpu" for backend in backends)


SessionFactory = Callable[[str, Expert, Artifact, Path], Session]
"""From an expert's name, entry, chosen artifact and the engines folder to a session."""
