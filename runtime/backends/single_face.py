"""Base of the experts on the CPU: threads that each run one face at a time."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np

from runtime.backends import Answer, Inputs, Outputs, Times


class SingleFaceSession(ABC):
    """One expert on the CPU.

    Convolutions gain next to nothing from a batch on a CPU, and face by face a result cannot depend
    on the other faces of its batch.
    """

    backend: str
    """Name of the backend, for example `onnx-cpu`."""

    def __init__(self, name: str, batches: int = 1) -> None:
        """Prepares a thread for each of the batches that run at the same time."""
        self._threads = ThreadPoolExecutor(batches, thread_name_prefix=f"agemoe-{name}")

    def enqueue(self, inputs: Inputs) -> Future[Answer]:
        """Starts a batch on a thread of this expert and returns at once."""
        return self._threads.submit(self._answer, inputs, time.perf_counter())

    def close(self) -> None:
        """Finishes the batches accepted so far and ends the threads."""
        self._threads.shutdown(wait=True)

    @abstractmethod
    def _infer(self, inputs: Inputs) -> Outputs:
        """Runs the expert on a batch of one face; every thread calls it."""

    def _answer(self, inputs: Inputs, enqueued: float) -> Answer:
        started = time.perf_counter()
        count = len(next(iter(inputs.values())))
        rows = [
            self._infer({name: array[i : i + 1] for name, array in inputs.items()})
            for i in range(count)
        ]
        outputs = {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}
        times = Times(queue=started - enqueued, execute=time.perf_counter() - started)
        return Answer(outputs, times)
