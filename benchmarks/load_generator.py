"""Load generator: closed and open loops of requests to one `AgeMoE`, with every answer checked."""

from __future__ import annotations

import itertools
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field, fields
from functools import partial

import numpy as np

from benchmarks.measuring import distribution
from runtime import AgeEstimate, AgeMoE, AgeMoEError, DeadlineError, Face
from runtime.backends import all_on_cpu
from runtime.geometry import Pixels

GPU_TOLERANCE_YEARS = 0.05
"""On a GPU, other batch sizes and streams may use other kernels; on a CPU answers are exact."""
OUTCOMES = ("right", "degraded", "late", "wrong", "failed")
"""Equal to the serial answer; equal, but without experts that missed the deadline; no expert within
the deadline; another age; an error."""
_BACKLOG_SHARE = 0.05
_BACKLOG_LEAST = 4

Result = AgeEstimate | Exception
Request = tuple[Sequence[int], float | None]
"""Numbers of the faces of one call, and its deadline in milliseconds."""
Submit = Callable[..., Future[AgeEstimate]]


@dataclass(slots=True)
class Tally:
    """Outcomes and latencies of the faces of one run, or of several."""

    seconds: float
    """From the first request to the end of requests, or to the last answer if that is later."""
    latencies: list[float] = field(default_factory=list)
    """Seconds, of every answer."""
    right: int = 0
    degraded: int = 0
    late: int = 0
    wrong: int = 0
    failed: int = 0
    backlog: int = 0
    """Requests without an answer when the last one arrived; the largest of several runs."""
    abandoned: int = 0
    """Requests without an answer long after the last one arrived."""
    batches: int = 0
    """Batches in which a `Batcher` ran the requests."""
    errors: Counter[str] = field(default_factory=Counter)
    """Number of occurrences of each error, by its message."""

    @property
    def answers(self) -> int:
        """Requests with an age."""
        return self.right + self.degraded + self.wrong

    @property
    def requests(self) -> int:
        """All requests."""
        return self.answers + self.late + self.failed + self.abandoned

    @property
    def answers_per_second(self) -> float:
        """Throughput."""
        return self.answers / self.seconds

    @property
    def kept_up(self) -> bool:
        """True if answers came as fast as requests: few pile up, few are too late."""
        most = max(_BACKLOG_LEAST, _BACKLOG_SHARE * self.requests)
        return self.backlog <= most and self.late + self.abandoned <= _BACKLOG_SHARE * self.requests

    def count(self, outcome: str, latency: float, result: Result | None = None) -> None:
        """Counts the end of one request; `result` explains a failure."""
        setattr(self, outcome, getattr(self, outcome) + 1)
        if outcome in ("right", "degraded", "wrong"):
            self.latencies.append(latency)
        if outcome == "failed" and isinstance(result, Exception):
            self.errors[f"{type(result).__name__}: {result}"] += 1
        elif outcome == "failed" and isinstance(result, AgeEstimate):
            self.errors[f"missing: {dict(result.missing)}"] += 1

    def __add__(self, other: Tally) -> Tally:
        """Adds two runs."""
        added = {f.name: getattr(self, f.name) + getattr(other, f.name) for f in fields(self)}
        return Tally(**{**added, "backlog": max(self.backlog, other.backlog)})

    def as_json(self) -> dict[str, object]:
        """Returns plain values; the latency is None where nothing was answered."""
        counts = {name: getattr(self, name) for name in (*OUTCOMES, "backlog", "abandoned")}
        return {
            "seconds": self.seconds,
            "requests": self.requests,
            "answers_per_second": self.answers_per_second,
            "kept_up": self.kept_up,
            **counts,
            "latency": distribution(self.latencies) if self.latencies else None,
        }


class Target:
    """The `AgeMoE` that requests go to, its faces, and the answers they should get."""

    def __init__(
        self,
        moe: AgeMoE,
        faces: Sequence[Face | Pixels],
        *,
        deadline_ms: float | None = None,
        tolerance_years: float | None = None,
    ) -> None:
        """Predicts every face once, serially.

        Distinct faces reveal an answer that was given to the wrong caller. The tolerance is the
        allowed difference from the serial answer; by default, an answer on a CPU must be exact.
        """
        self.moe = moe
        self.faces = faces
        self.deadline_ms = deadline_ms
        if tolerance_years is None:
            tolerance_years = 0.0 if all_on_cpu(moe.backends.values()) else GPU_TOLERANCE_YEARS
        self._tolerance_years = tolerance_years
        self._serial = [moe.predict(face) for face in faces]

    def face(self, number: int) -> Face | Pixels:
        """Returns the face of the n-th request."""
        return self.faces[number % len(self.faces)]

    def predict(self, numbers: Sequence[int], deadline_ms: float | None) -> Sequence[Result]:
        """Predicts faces in one call; an exception becomes the result of each of them."""
        try:
            return self.moe.predict([self.face(n) for n in numbers], deadline_ms=deadline_ms)
        except Exception as error:  # noqa: BLE001 - counted and reported
            return [error] * len(numbers)

    def outcome(self, number: int, result: Result, deadline_ms: float | None) -> str:
        """Returns the outcome of the n-th request; nothing can be late without a deadline."""
        serial = self._serial[number % len(self.faces)]
        outcome = outcome_of(result, serial, self._tolerance_years)
        return "failed" if deadline_ms is None and outcome in ("late", "degraded") else outcome

    def one_at_a_time(self, caller: int) -> Iterator[Request]:
        """Yields requests for one face after the other, beginning with a different one each."""
        return (([number], self.deadline_ms) for number in itertools.count(7 * caller))

    def mixed(self, caller: int) -> Iterator[Request]:
        """Yields requests for 1 to 8 random faces, a fifth with a deadline of 1 to 50 ms."""
        rng = np.random.default_rng(caller)
        while True:
            numbers = rng.integers(0, len(self.faces), rng.integers(1, 9)).tolist()
            yield numbers, float(rng.uniform(1, 50)) if rng.random() < 0.2 else None


def closed_loop(
    target: Target,
    callers: int,
    seconds: float,
    requests: Callable[[int], Iterator[Request]] | None = None,
) -> Tally:
    """Runs callers that each send the next request as soon as they have an answer.

    `requests` yields those of a caller, by its number; by default, one face at a time.
    """
    of_caller = requests or target.one_at_a_time
    tallies = [Tally(0.0) for _ in range(callers)]
    start = threading.Barrier(callers)

    def call(caller: int) -> None:
        start.wait()
        end = time.perf_counter() + seconds
        for numbers, deadline_ms in of_caller(caller):
            if (sent := time.perf_counter()) >= end:
                break
            results = target.predict(numbers, deadline_ms)
            latency = time.perf_counter() - sent
            for number, result in zip(numbers, results, strict=True):
                outcome = target.outcome(number, result, deadline_ms)
                tallies[caller].count(outcome, latency, result)

    began = time.perf_counter()
    with ThreadPoolExecutor(callers, thread_name_prefix="caller") as pool:
        list(pool.map(call, range(callers)))
    return sum(tallies, Tally(time.perf_counter() - began))


def open_loop(
    target: Target, rate: float, seconds: float, *, seed: int, submit: Submit | None = None
) -> Tally:
    """Sends requests at random times, as many independent users do, without waiting for answers.

    A latency counts from the arrival of the request, not from the moment it was sent.

    Args:
        target: receives the requests.
        rate: of a Poisson process, per second.
        seconds: how long requests arrive; answers are awaited for as long again, then abandoned.
        seed: of the arrivals.
        submit: accepts a request; default: `AgeMoE.submit`.
    """
    arrivals = poisson(rate, seconds, seed)
    ends: dict[int, float] = {}
    futures: dict[int, Future[AgeEstimate]] = {}
    began = time.perf_counter()
    for number, arrival in enumerate(arrivals):
        time.sleep(max(began + arrival - time.perf_counter(), 0.0))
        future = _submitted(target, number, submit or target.moe.submit)
        future.add_done_callback(partial(_note_end, ends, number))
        futures[number] = future
    time.sleep(max(began + seconds - time.perf_counter(), 0.0))
    backlog = sum(not future.done() for future in futures.values())
    wait(futures.values(), timeout=seconds)
    abandoned = {number for number, future in futures.items() if future.cancel()}
    while len(ends) < len(futures):  # callbacks run just after the future is done
        time.sleep(0.001)
    until = max([seconds, *(end - began for end in ends.values())])
    tally = Tally(until, backlog=backlog, abandoned=len(abandoned))
    for number in futures.keys() - abandoned:
        error = futures[number].exception()
        result = error if isinstance(error, Exception) else futures[number].result()
        latency = ends[number] - (began + arrivals[number])
        tally.count(target.outcome(number, result, target.deadline_ms), latency, result)
    return tally


def poisson(rate: float, seconds: float, seed: int) -> list[float]:
    """Returns arrival times within the seconds, ascending, exactly as many as the rate gives.

    Given their number, the arrivals of a Poisson process are independent and uniform. The number is
    fixed because latency depends on the rate that was actually reached.
    """
    count = max(round(rate * seconds), 1)
    times: list[float] = np.random.default_rng(seed).uniform(0.0, seconds, count).tolist()
    return sorted(times)


def outcome_of(result: Result, serial: AgeEstimate, tolerance_years: float) -> str:
    """Returns one of `OUTCOMES`, from an estimate or the error raised instead of it.

    `serial` is the estimate of the same face when nothing else was running.
    """
    if isinstance(result, DeadlineError):
        return "late"
    if isinstance(result, Exception):
        return "failed"
    pairs = [(e.age_years, serial.experts[n].age_years) for n, e in result.experts.items()]
    if not result.missing:
        pairs.append((result.age_years, serial.age_years))
    if float(np.abs(np.subtract(*np.array(pairs).T)).max()) > tolerance_years:
        return "wrong"
    if not all(reason.startswith("deadline") for reason in result.missing.values()):
        return "failed"
    return "degraded" if result.missing else "right"


def _submitted(target: Target, number: int, submit: Submit) -> Future[AgeEstimate]:
    try:
        return submit(target.face(number), deadline_ms=target.deadline_ms)
    except AgeMoEError as error:  # a full queue
        refused: Future[AgeEstimate] = Future()
        refused.set_exception(error)
        return refused


def _note_end(ends: dict[int, float], number: int, _: object) -> None:
    ends[number] = time.perf_counter()
