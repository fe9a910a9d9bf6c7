"""Many requests to one `AgeMoE`: callers that wait for their answers, and requests that do not."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait

import numpy as np

from benchmarks.tally import Tally, outcome_of
from runtime import AgeEstimate, AgeMoE, AgeMoEError, Face
from runtime.backends import all_on_cpu

GPU_TOLERANCE_YEARS = 0.05
"""On a GPU other batch sizes and streams may take other kernels; on a CPU answers are exact."""


class Target:
    """What requests are made to, and what they should get."""

    def __init__(self, moe: AgeMoE, faces: Sequence[Face], deadline_ms: float | None) -> None:
        """Asks for every face once, serially.

        Args:
            moe: what is measured.
            faces: different ones, so that an answer given to the wrong caller shows.
            deadline_ms: of every request; None for none.
        """
        self.moe = moe
        self.faces = faces
        self.deadline_ms = deadline_ms
        on_cpu = all_on_cpu(moe.backends.values())
        self._tolerance_years = 0.0 if on_cpu else GPU_TOLERANCE_YEARS
        self._serial = [moe.predict(face) for face in faces]

    def face(self, number: int) -> Face:
        """The face of the n-th request."""
        return self.faces[number % len(self.faces)]

    def outcome(self, number: int, result: AgeEstimate | BaseException) -> str:
        """What came of the n-th request."""
        return outcome_of(result, self._serial[number % len(self.faces)], self._tolerance_years)


def closed_loop(target: Target, callers: int, seconds: float) -> Tally:
    """Callers each of which asks again as soon as it has its answer."""
    tallies = [Tally(0.0) for _ in range(callers)]
    start = threading.Barrier(callers)

    def call(caller: int) -> None:
        start.wait()
        end, number = time.perf_counter() + seconds, 7 * caller
        while (asked := time.perf_counter()) < end:
            result = _asked(target, number)
            latency = time.perf_counter() - asked
            tallies[caller].count(target.outcome(number, result), latency)
            number += 1

    began = time.perf_counter()
    with ThreadPoolExecutor(callers, thread_name_prefix="caller") as pool:
        list(pool.map(call, range(callers)))
    return sum(tallies, Tally(time.perf_counter() - began))


def open_loop(target: Target, rate: float, seconds: float, *, seed: int) -> Tally:
    """Requests that arrive at random, as from many independent users, whatever is under way.

    A latency counts from when the request arrived, not from when there was time for it.

    Args:
        target: what is asked.
        rate: of a Poisson process, per second.
        seconds: how long requests arrive; answers are waited for as long again, the rest given up.
        seed: of the arrivals.
    """
    arrivals = poisson(rate, seconds, seed)
    ends: dict[int, float] = {}
    futures: dict[int, Future[AgeEstimate]] = {}
    began = time.perf_counter()
    for number, arrival in enumerate(arrivals):
        time.sleep(max(began + arrival - time.perf_counter(), 0.0))
        future = target.moe.submit(target.face(number), deadline_ms=target.deadline_ms)
        future.add_done_callback(_noting(ends, number))
        futures[number] = future
    time.sleep(max(began + seconds - time.perf_counter(), 0.0))
    backlog = sum(not future.done() for future in futures.values())
    wait(futures.values(), timeout=seconds)
    given_up = {number for number, future in futures.items() if future.cancel()}
    while len(ends) < len(futures):  # the last notes are made just after the last answers
        time.sleep(0.001)
    until = max([seconds, *(end - began for end in ends.values())])
    tally = Tally(until, backlog=backlog, abandoned=len(given_up))
    for number in futures.keys() - given_up:
        result = futures[number].exception() or futures[number].result()
        latency = ends[number] - (began + arrivals[number])
        tally.count(target.outcome(number, result), latency)
    return tally


def poisson(rate: float, seconds: float, seed: int) -> list[float]:
    """Times of arrival within the seconds, rising; as many as the rate promises.

    Given how many there are, the arrivals of a Poisson process are independent and uniform. Their
    number is not left to chance: a rate that is not the one asked for has another latency.
    """
    count = max(round(rate * seconds), 1)
    times: list[float] = np.random.default_rng(seed).uniform(0.0, seconds, count).tolist()
    return sorted(times)


def _asked(target: Target, number: int) -> AgeEstimate | AgeMoEError:
    try:
        return target.moe.predict(target.face(number), deadline_ms=target.deadline_ms)
    except AgeMoEError as error:
        return error


def _noting(ends: dict[int, float], number: int) -> Callable[[object], None]:
    """Notes when the n-th request was done."""
    return lambda _: ends.__setitem__(number, time.perf_counter())
