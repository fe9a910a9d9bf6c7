"""Prometheus metrics."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from runtime.decisions import Decision
from runtime.serving.generation import Generation
from runtime.serving.pictures import Pictures
from runtime.stats import BUCKETS_SECONDS, Durations, Stats

_FACES = (1, 2, 4, 8, 16, 32, 64)


class Metrics:
    """Counters and histograms of a service."""

    def __init__(self, current: Callable[[], Generation | None]) -> None:
        """Creates a registry of its own, so that several services can share a process."""
        self._registry = registry = CollectorRegistry()
        counter = partial(Counter, registry=registry)
        timer = partial(Histogram, buckets=BUCKETS_SECONDS, registry=registry)
        self.requests = counter(
            "agemoe_requests", "Responses, by route and status.", ("route", "status")
        )
        self._request_seconds = timer(
            "agemoe_request_seconds", "Time from a request's head to its response.", ("route",)
        )
        self._stage_seconds = timer(
            "agemoe_stage_seconds", "Time of requests with pictures, by stage.", ("stage",)
        )
        self._queue_seconds = timer(
            "agemoe_queue_seconds", "Waiting time of each batch's oldest face."
        )
        self._batch_faces = Histogram(
            "agemoe_batch_faces", "Faces per batch.", buckets=_FACES, registry=registry
        )
        self.concurrent_requests = Gauge(
            "agemoe_requests_under_way", "Concurrent requests with pictures.", registry=registry
        )
        self.problems = counter("agemoe_refused", "Problem responses, by type.", ("problem",))
        self.reloads = counter("agemoe_reloads", "Reloads, by outcome.", ("outcome",))
        self._decisions = counter(
            "agemoe_decisions", "Decisions, by outcome and first reason.", ("outcome", "reason")
        )
        registry.register(_EngineCollector(current))

    def watch(self, pictures: Pictures) -> None:
        """Adds the state of a service's decoders."""
        self._registry.register(_PictureCollector(pictures))

    def exposition(self) -> bytes:
        """Returns all metrics in Prometheus' text format."""
        return generate_latest(self._registry)

    def on_batch(self, faces: int, waited_seconds: float) -> None:
        """Records a batch that is about to run."""
        self._batch_faces.observe(faces)
        self._queue_seconds.observe(waited_seconds)

    def record_request(self, route: str, status: int, seconds: float) -> None:
        """Records a response."""
        self.requests.labels(route, str(status)).inc()
        self._request_seconds.labels(route).observe(seconds)

    def record_decision(self, decision: Decision) -> None:
        """Records a decision that is about to be given."""
        self._decisions.labels(decision.outcome, decision.reasons[0].code).inc()

    @contextmanager
    def timed(self, stage: str, times_ms: dict[str, float]) -> Iterator[None]:
        """Times a stage for the metrics and the response."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self.observe(stage, time.perf_counter() - started, times_ms)

    def observe(self, stage: str, seconds: float, times_ms: dict[str, float]) -> None:
        """Records the duration of a stage for the metrics and the response."""
        self._stage_seconds.labels(stage).observe(seconds)
        times_ms[stage] = seconds * 1000.0


class _PictureCollector(Collector):
    """Decoders and the memory for decoding."""

    def __init__(self, pictures: Pictures) -> None:
        self._pictures = pictures

    def describe(self) -> Iterable[Metric]:
        return []

    def collect(self) -> Iterator[Metric]:
        ended = CounterMetricFamily(
            "agemoe_decoders_ended", "Decoders that were ended, by reason.", labels=("reason",)
        )
        for reason, count in self._pictures.pool.ended.items():
            ended.add_metric((reason,), count)
        yield ended
        budget = self._pictures.budget
        family = GaugeMetricFamily(
            "agemoe_decode_bytes", "Memory for decoding and pictures.", labels=("kind",)
        )
        for kind, size_bytes in (("used", budget.used), ("total", budget.total)):
            family.add_metric((kind,), size_bytes)
        yield family


class _EngineCollector(Collector):
    """Statistics of the engines in use; a reload resets them."""

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
            "agemoe_queue_faces", "Faces in the queue.", generation.batcher.waiting
        )
        yield from _stats_metrics(generation.moe.stats())
        yield from _gpu_metrics(generation)


def _stats_metrics(stats: Stats) -> Iterator[Metric]:
    faces = CounterMetricFamily("agemoe_faces", "Faces, by outcome.", labels=("outcome",))
    for outcome in ("estimates", "degraded", "refused"):
        faces.add_metric((outcome,), getattr(stats, outcome))
    yield faces
    by_expert = CounterMetricFamily(
        "agemoe_expert_faces", "Faces, by expert and outcome.", labels=("expert", "outcome")
    )
    for name, expert in stats.experts.items():
        for outcome in ("answers", "late", "failed"):
            by_expert.add_metric((name, outcome), getattr(expert, outcome))
    yield by_expert
    yield from _duration_metric(
        "agemoe_predict_seconds",
        "stage",
        {(name,): duration for name, duration in stats.stages.items()},
    )
    parts: dict[tuple[str, ...], Durations] = {
        (name, part): getattr(expert, part)
        for name, expert in stats.experts.items()
        for part in ("queue", "copy", "execute")
    }
    yield from _duration_metric("agemoe_expert_seconds", "expert part", parts)


def _duration_metric(
    name: str, labels: str, durations: Mapping[tuple[str, ...], Durations]
) -> Iterator[Metric]:
    family = HistogramMetricFamily(name, "Time of each batch.", labels=labels.split())
    for values, duration in durations.items():
        bounds = [str(bound) for bound in BUCKETS_SECONDS]
        buckets = [*zip(bounds, duration.at_most, strict=True), ("+Inf", duration.count)]
        family.add_metric(values, buckets, duration.total_seconds)
    yield family


def _gpu_metrics(generation: Generation) -> Iterator[Metric]:
    if (memory := generation.gpu.read()) is not None:
        family = GaugeMetricFamily(
            "agemoe_gpu_memory_bytes", "GPU memory, over all processes.", labels=("kind",)
        )
        for kind, size_bytes in zip(("used", "total"), memory, strict=True):
            family.add_metric((kind,), size_bytes)
        yield family
