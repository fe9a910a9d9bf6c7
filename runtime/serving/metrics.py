"""What Prometheus is told."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from runtime.serving.generation import Generation
from runtime.stats import BUCKETS_SECONDS, Durations, Stats

_FACES = (1, 2, 4, 8, 16, 32, 64)


class Metrics:
    """Counts and times what the service does; `current` gives the engines in use."""

    def __init__(self, current: Callable[[], Generation | None]) -> None:
        """Makes a registry of its own, so that two services in a process do not meet."""
        self._registry = registry = CollectorRegistry()
        self.requests = Counter(
            "agemoe_requests",
            "Answered, by route and status.",
            ("route", "status"),
            registry=registry,
        )
        self._request_seconds = Histogram(
            "agemoe_request_seconds",
            "From head to answer.",
            ("route",),
            buckets=BUCKETS_SECONDS,
            registry=registry,
        )
        self._stage_seconds = Histogram(
            "agemoe_stage_seconds",
            "Of requests for ages, by stage.",
            ("stage",),
            buckets=BUCKETS_SECONDS,
            registry=registry,
        )
        self._batch_faces = Histogram(
            "agemoe_batch_faces", "Faces in a batch.", buckets=_FACES, registry=registry
        )
        self._queue_seconds = Histogram(
            "agemoe_queue_seconds",
            "Wait of each batch's oldest face.",
            buckets=BUCKETS_SECONDS,
            registry=registry,
        )
        self.under_way = Gauge(
            "agemoe_requests_under_way", "Requests for ages under way.", registry=registry
        )
        self.refused = Counter(
            "agemoe_refused",
            "Problems in answers, by their type.",
            ("problem",),
            registry=registry,
        )
        self.reloads = Counter(
            "agemoe_reloads", "Taken or refused.", ("outcome",), registry=registry
        )
        registry.register(_EngineCollector(current))

    def exposition(self) -> bytes:
        """All of it in Prometheus' text format."""
        return generate_latest(self._registry)

    def on_batch(self, faces: int, waited_seconds: float) -> None:
        """A batch is about to be computed."""
        self._batch_faces.observe(faces)
        self._queue_seconds.observe(waited_seconds)

    def answered(self, route: str, status: int, seconds: float) -> None:
        """A request was answered."""
        self.requests.labels(route, str(status)).inc()
        self._request_seconds.labels(route).observe(seconds)

    @contextmanager
    def timed(self, stage: str, times_ms: dict[str, float]) -> Iterator[None]:
        """Times a stage, for the metrics and for the answer."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self.observe(stage, time.perf_counter() - started, times_ms)

    def observe(self, stage: str, seconds: float, times_ms: dict[str, float]) -> None:
        """Notes how long a stage took, for the metrics and for the answer."""
        self._stage_seconds.labels(stage).observe(seconds)
        times_ms[stage] = seconds * 1000.0


class _EngineCollector(Collector):
    """What the engines in use say of themselves; it starts again with every reload."""

    def __init__(self, current: Callable[[], Generation | None]) -> None:
        self._current = current

    def describe(self) -> Iterable[Metric]:
        return []

    def collect(self) -> Iterator[Metric]:
        generation = self._current()
        if generation is None:
            return
        yield InfoMetricFamily(
            "agemoe_engines", "The engines in use.", {"version": generation.version}
        )
        yield GaugeMetricFamily(
            "agemoe_queue_faces", "Faces that wait.", generation.batcher.waiting
        )
        yield from _of_stats(generation.moe.stats())
        yield from _of_gpu(generation)


def _of_stats(stats: Stats) -> Iterator[Metric]:
    faces = CounterMetricFamily("agemoe_faces", "Faces, by outcome.", labels=("outcome",))
    for outcome in ("estimates", "degraded", "refused"):
        faces.add_metric((outcome,), getattr(stats, outcome))
    yield faces
    answers = CounterMetricFamily(
        "agemoe_expert_faces", "Faces, by expert and outcome.", labels=("expert", "outcome")
    )
    for name, expert in stats.experts.items():
        for outcome in ("answers", "late", "failed"):
            answers.add_metric((name, outcome), getattr(expert, outcome))
    yield answers
    yield from _of_durations(
        "agemoe_predict_seconds",
        "stage",
        {(name,): duration for name, duration in stats.stages.items()},
    )
    parts: dict[tuple[str, ...], Durations] = {
        (name, part): getattr(expert, part)
        for name, expert in stats.experts.items()
        for part in ("queue", "copy", "execute")
    }
    yield from _of_durations("agemoe_expert_seconds", "expert part", parts)


def _of_durations(
    name: str, labels: str, durations: Mapping[tuple[str, ...], Durations]
) -> Iterator[Metric]:
    family = HistogramMetricFamily(name, "Of each batch.", labels=labels.split())
    for values, duration in durations.items():
        bounds = [str(bound) for bound in BUCKETS_SECONDS]
        buckets = [*zip(bounds, duration.at_most, strict=True), ("+Inf", duration.count)]
        family.add_metric(values, buckets, duration.total_seconds)
    yield family


def _of_gpu(generation: Generation) -> Iterator[Metric]:
    memory = generation.gpu.read()
    if memory is not None:
        family = GaugeMetricFamily(
            "agemoe_gpu_memory_bytes", "Of the GPU, over all processes.", labels=("kind",)
        )
        family.add_metric(("used",), memory.used_bytes)
        family.add_metric(("total",), memory.total_bytes)
        yield family
