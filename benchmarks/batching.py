"""Latency of one face against the rate of requests, with and without micro-batching.

    python benchmarks/batching.py --engines engines --output batching.png

Callers arrive at random (Poisson) and do not wait for one another, as users do. Without batching a
face is predicted by itself as soon as a worker is free; with it, faces that wait go together. Both
have the same workers, queue and arrivals, take turns, and are rid of the first answers' cold start.
Prints medians over the rounds; a rate that cannot be kept shows as fewer answers than requests.
"""

from __future__ import annotations

import argparse
import platform
import random
import sys
import threading
import time
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import astuple, dataclass
from pathlib import Path

if __package__ in (None, ""):
    # Run as a script: the repository's root must be on the path, benchmarks/ must not.
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

import numpy as np

from runtime import AgeEstimate, AgeMoE, Face, PlaceholderWeightsWarning
from runtime.cores import usable_cores
from runtime.serving import Batcher, QueueFullError

_SIDE = 192
_FACES = 32
_COLD = 4
"""Answers that are left out: the first of them find everything asleep."""
_SHARES = (0.25, 0.5, 0.75, 1.0, 1.5)
"""Of what one face after the other allows."""


@dataclass(frozen=True, slots=True)
class Row:
    """What was measured at one rate in one way."""

    max_batch: float
    rate: float
    """Requests per second that were made."""
    done: float
    """Answers per second."""
    p50_ms: float
    p99_ms: float
    refused: float
    mean_batch: float


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures and reports."""
    parsed = _parser().parse_args(arguments)
    warnings.simplefilter("ignore", PlaceholderWeightsWarning)
    rng = np.random.default_rng(1)
    faces = [Face(rng.integers(0, 256, (_SIDE, _SIDE, 3), dtype=np.uint8)) for _ in range(_FACES)]
    with AgeMoE(parsed.engines, device=parsed.device) as moe:
        serial_rate = _serial_rate(moe, faces, parsed.workers, parsed.seconds)
        rates = parsed.rates or [round(share * serial_rate, 1) for share in _SHARES]
        print(f"{platform.machine()}, {usable_cores()} cores, {moe.backends}")
        print(f"{parsed.workers} workers, one face at a time: {serial_rate:.1f} faces/s")
        rows = []
        for rate in rates:
            ways = (1, parsed.max_batch) * parsed.rounds
            runs = [_measured(moe, faces, rate, max_batch, parsed) for max_batch in ways]
            rows += [_median(runs[::2]), _median(runs[1::2])]
            _print(rows[-2])
            _print(rows[-1])
    if parsed.output:
        _draw(rows, parsed.output)
    return 0


def _serial_rate(moe: AgeMoE, faces: Sequence[Face], workers: int, seconds: float) -> float:
    """Faces per second of as many callers as there are workers, each one face after the other."""
    counts = [0] * workers
    end = time.perf_counter() + seconds

    def call(worker: int) -> None:
        while time.perf_counter() < end:
            moe.predict(faces[counts[worker] % len(faces)])
            counts[worker] += 1

    threads = [threading.Thread(target=call, args=(worker,)) for worker in range(workers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(counts) / seconds


def _measured(
    moe: AgeMoE, faces: Sequence[Face], rate: float, max_batch: int, parsed: argparse.Namespace
) -> Row:
    sizes: list[int] = []
    finished: list[tuple[float, float]] = []
    refused = 0
    rng = random.Random(7)
    with Batcher(
        moe.predict,
        max_batch=max_batch,
        max_wait_ms=parsed.max_wait_ms if max_batch > 1 else 0.0,
        queue_limit=parsed.queue_limit,
        workers=parsed.workers,
        on_batch=lambda size, _: sizes.append(size),
    ) as batcher:
        started = due = time.perf_counter()
        number = 0
        while due - started < parsed.seconds:
            time.sleep(max(due - time.perf_counter(), 0.0))
            try:
                future = batcher.submit(faces[number % len(faces)])
            except QueueFullError:
                refused += 1
            else:
                future.add_done_callback(_noting(due, finished))
            number += 1
            due += rng.expovariate(rate)
    latencies = [end - begun for begun, end in finished[_COLD:]]
    seconds = max(end for _, end in finished) - started
    p50, p99 = (1000 * float(np.quantile(latencies, share)) for share in (0.5, 0.99))
    return Row(max_batch, rate, len(finished) / seconds, p50, p99, refused, float(np.mean(sizes)))


def _median(rows: Sequence[Row]) -> Row:
    """Of what was measured in the same way, number by number."""
    return Row(*np.median([astuple(row) for row in rows], axis=0).tolist())


def _noting(
    due: float, finished: list[tuple[float, float]]
) -> Callable[[Future[AgeEstimate]], None]:
    return lambda _: finished.append((due, time.perf_counter()))


def _print(row: Row) -> None:
    way = "alone" if row.max_batch == 1 else f"up to {row.max_batch:.0f}"
    print(
        f"{row.rate:8.1f}/s asked  {way:>9}  {row.done:8.1f}/s done  "
        f"p50 {row.p50_ms:8.1f} ms  p99 {row.p99_ms:8.1f} ms  "
        f"mean batch {row.mean_batch:4.1f}  refused {row.refused:.0f}",
        flush=True,
    )


def _draw(rows: Sequence[Row], output: Path) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    for max_batch in sorted({row.max_batch for row in rows}):
        mine = [row for row in rows if row.max_batch == max_batch]
        label = "one by one" if max_batch == 1 else f"batches of up to {max_batch:.0f}"
        rates = [row.rate for row in mine]
        (line,) = axes.plot(rates, [row.p50_ms for row in mine], "o-", label=f"{label}, median")
        axes.plot(
            rates, [row.p99_ms for row in mine], "o:", color=line.get_color(), label="99 of 100"
        )
    axes.set(xlabel="requests per second", ylabel="latency in ms", yscale="log")
    axes.grid(visible=True, which="both", alpha=0.3)
    axes.legend()
    figure.savefig(output, dpi=120)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--engines", type=Path, default=Path("engines"))
    parser.add_argument("--device", default="auto")
    parser.add_argument("--rates", type=float, nargs="+", help="requests per second; else chosen")
    parser.add_argument("--seconds", type=float, default=5.0, help="for each rate, way and round")
    parser.add_argument("--rounds", type=int, default=3, help="in turns; medians are reported")
    parser.add_argument("--max-batch", type=int, default=8)
    parser.add_argument("--max-wait-ms", type=float, default=2.0)
    parser.add_argument("--queue-limit", type=int, default=256)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--output", type=Path, help="PNG of the figure")
    return parser


if __name__ == "__main__":
    sys.exit(main())
