"""A thread that shows an expert one face at a time."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np

from runtime.backends import Answer, Inputs, Outputs, Times


class FaceLane:
    """What experts on the CPU have in common.

    Convolutions gain next to nothing from a batch on a CPU, and so an answer cannot depend on the
    company a face arrived in.
    """

    def __init__(self, name: str, infer: Callable[[Inputs], Outputs]) -> None:
        """Starts no thread before there is work.

        Args:
            name: of the expert.
            infer: what it says of a batch of one face.
        """
        self._infer = infer
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix=f"agemoe-{name}")

    def enqueue(self, inputs: Inputs) -> Future[Answer]:
        """Starts a batch on this lane's thread."""
        return self._thread.submit(self._answer, inputs, time.perf_counter())

    def close(self) -> None:
        """Ends the thread when what it has accepted is done."""
        self._thread.shutdown(wait=True)

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
