"""Devices behind one small protocol: a batch of uint8 views in, float32 arrays out, asynchronously.

A `Device` runs some of the experts. `take` copies the views there, once each, and returns a
`Batch`; every expert is then enqueued on it and returns a `Pending` at once. On the CPU an expert
is a `Session` with its own thread; on a GPU it is a lane with its own stream.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from runtime.manifest import Artifact, Expert, InputSpec
from runtime.program import build_command

Views = Mapping[InputSpec, NDArray[np.uint8]]
"""By input: uint8 (N, height, width, 3), RGB, the same N for all."""
Inputs = Mapping[str, NDArray[np.uint8]]
"""One expert's views, by input name."""
Outputs = Mapping[str, NDArray[np.float32]]
"""By output name: float32 with first dimension N."""


@dataclass(frozen=True, slots=True)
class Times:
    """Durations of the stages of one answer, in seconds."""

    queue: float = 0.0
    """From being enqueued to being started."""
    copy: float = 0.0
    """To the device and back."""
    execute: float = 0.0


@dataclass(frozen=True, slots=True)
class Answer:
    """One expert's outputs for one batch."""

    outputs: Outputs
    times: Times = Times()


class Pending(Protocol):
    """An answer in progress; `concurrent.futures.Future` is one."""

    def result(self, timeout: float | None = None) -> Answer:
        """Returns the answer; raises TimeoutError if it takes more than `timeout` seconds."""

    def cancel(self) -> bool:
        """Cancels the computation if it has not started; returns True if it was cancelled."""


@dataclass(frozen=True, slots=True)
class ExpertVariant:
    """An expert in one of its variants, as files in an engines folder."""

    name: str
    expert: Expert
    artifact: Artifact
    folder: Path
    """The engines folder."""

    @property
    def path(self) -> Path:
        """The graph or engine, to which further files belong."""
        return self.folder / self.artifact.files[0].path

    @property
    def rebuild(self) -> str:
        """The command that builds the variant again, as an error's remedy."""
        precision = self.artifact.precision
        return f"Rebuild: {build_command(self.folder, only=self.name, precision=precision)}"


class Session(Protocol):
    """One loaded expert on the CPU."""

    @property
    def backend(self) -> str:
        """Name of the backend, for example `onnx-cpu`; see `backend_kind`."""

    def enqueue(self, inputs: Inputs) -> Pending:
        """Starts a batch, at most the profile's largest, and returns at once.

        The inputs must not be changed until the answer is complete.
        """

    def close(self) -> None:
        """Frees everything; idempotent."""


class Batch(Protocol):
    """Views on a device, ready for its experts."""

    def enqueue(self, expert: str) -> Pending:
        """Starts an expert and returns at once."""

    def release(self) -> None:
        """Releases the batch's slot, which becomes free when the work in it has ended."""


class Device(Protocol):
    """Hardware that runs some of the experts."""

    @property
    def backends(self) -> Mapping[str, str]:
        """Backend of each of its experts, by name."""

    def take(self, views: Views, timeout: float | None = None) -> Batch:
        """Reserves a slot for a batch and starts copying the views there.

        A batch is at most the smallest `largest` of the experts' profiles; its views must not be
        changed until every answer is complete. The timeout is in seconds; None waits indefinitely.

        Raises:
            TimeoutError: no slot became free in time.
        """

    def close(self) -> None:
        """Waits for the work in progress and frees everything; idempotent."""


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


SessionFactory = Callable[[ExpertVariant], Session]
"""Opens an expert on the CPU."""
