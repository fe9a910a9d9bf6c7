"""One version of the engines at work: opened, rehearsed, batching, and closed when nobody is in."""

from __future__ import annotations

import logging
import math
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path
from typing import Any

from runtime.active_calls import ActiveCalls
from runtime.agemoe import AgeMoE
from runtime.errors import ContractError, DeadlineError, PredictionError
from runtime.images import ImageLimits, load_rgb
from runtime.manifest import PLACEHOLDER_KINDS
from runtime.manifest_file import engines_fingerprint, read_manifest
from runtime.results import AgeEstimate, Face
from runtime.serving.batching import Batcher
from runtime.serving.gpu_memory import GpuGauge
from runtime.serving.settings import Settings

log = logging.getLogger("agemoe")

PAGE = Path(str(files("runtime.serving"))) / "page"
CANARY = PAGE / "examples" / "woman.jpg"
CANARY_SECONDS = 15.0
"""An answer that is younger says that the engines still work."""
_GPU_BATCH = 8
_TYPICAL_SECONDS = 1.0
_VERSION_CHARACTERS = 12


class Generation:
    """An `AgeMoE` with the batcher before it."""

    def __init__(self, settings: Settings, on_batch: Callable[[int, float], None]) -> None:
        """Opens the engines, which verifies and warms them, and lets them answer for a face.

        Args:
            settings: which engines, and how.
            on_batch: as for `Batcher`.

        Raises:
            AgeMoEError: the engines are not in order or do not answer.
            ValueError: an option is out of range.
        """
        self.version = engines_fingerprint(settings.engines)[:_VERSION_CHARACTERS]
        self.opened = datetime.now(UTC).isoformat(timespec="seconds")
        self._manifest = read_manifest(settings.engines)
        self.moe = _opened(settings)
        self._answered = -math.inf
        self._typical: tuple[float, dict[str, float]] = (-math.inf, {})
        self._checking = threading.Lock()
        self._gate = ActiveCalls()
        try:
            self.check()
            self.gpu = GpuGauge(settings.device, self.moe.backends.values())
            self.batcher = Batcher(
                self.moe.predict,
                max_batch=settings.batching.max_batch or self._best_batch(),
                max_wait_ms=settings.batching.max_wait_ms,
                queue_limit=settings.batching.queue_limit,
                workers=settings.batching.workers,
                on_batch=on_batch,
            )
        except BaseException:
            self.moe.close()
            raise

    @property
    def stand_ins(self) -> dict[str, str]:
        """Experts whose ages mean nothing, and of which kind they are."""
        kinds = {name: self._manifest.experts[name].source.kind for name in self.moe.experts}
        return {name: kind for name, kind in kinds.items() if kind in PLACEHOLDER_KINDS}

    @contextmanager
    def entered(self) -> Iterator[None]:
        """Keeps the engines open for one request.

        Raises:
            ClosedError: others have taken their place.
        """
        with self._gate.entered():
            yield

    def note_results(self, results: Sequence[AgeEstimate | BaseException]) -> None:
        """Learns from answers: one says that the engines work, a failure that they may not."""
        if any(isinstance(result, AgeEstimate) for result in results):
            self._answered = time.monotonic()
        elif any(_engines_fault(result) for result in results):
            self._answered = -math.inf

    def typical_ms(self) -> dict[str, float]:
        """Median of each expert's latest batches, looked up once a second: it takes sorting."""
        looked_up, typical = self._typical
        if time.monotonic() - looked_up > _TYPICAL_SECONDS:
            experts = self.moe.stats().experts
            typical = {name: stats.execute.p50_seconds * 1000.0 for name, stats in experts.items()}
            self._typical = time.monotonic(), typical
        return typical

    def check(self) -> None:
        """Makes sure that the engines answer, by an answer of late or by a face for them.

        Raises:
            AgeMoEError: they do not.
        """
        with self._checking:
            if time.monotonic() - self._answered > CANARY_SECONDS:
                _answer_canary(self.moe)
                self._answered = time.monotonic()

    def describe(self) -> list[dict[str, Any]]:
        """The experts, ready for JSON."""
        return [self._describe(name, backend) for name, backend in self.moe.backends.items()]

    def close(self) -> None:
        """Waits until nobody is in, finishes what was accepted, frees everything."""
        self._gate.shut()
        self.batcher.close()
        self.gpu.close()
        self.moe.close()

    def _best_batch(self) -> int:
        return 1 if self.gpu.read() is None else _GPU_BATCH

    def _describe(self, name: str, backend: str) -> dict[str, Any]:
        expert = self._manifest.experts[name]
        return {
            "name": name,
            "architecture": expert.architecture,
            "source": expert.source.kind,
            "source_sha256": expert.source.sha256,
            "backend": backend,
            "inputs": [spec.name for spec in expert.inputs],
        }


def _opened(settings: Settings) -> AgeMoE:
    """Opens the engines; what they warn of goes to the log."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        moe = AgeMoE(
            settings.engines,
            device=settings.device,
            precision=settings.precision,
            limits=ImageLimits(max_pixels=max(settings.limits.pixels, ImageLimits().max_pixels)),
        )
    for warning in caught:
        log.warning("%s", warning.message)
    return moe


def _answer_canary(moe: AgeMoE) -> None:
    pixels = load_rgb(CANARY, ImageLimits())
    height, width = pixels.shape[:2]
    whole = (0.0, 0.0, float(width), float(height))
    estimate = moe.predict(Face(pixels, whole, whole))
    if estimate.missing or not _sound(estimate):
        raise ContractError(
            f"The engines do not answer for a drawn face as they should: {estimate.to_dict()}. "
            f"Rebuild them: python export/build_engines.py"
        )


def _sound(estimate: AgeEstimate) -> bool:
    low, high = estimate.age_range
    return math.isfinite(estimate.age_years) and low <= estimate.age_years <= high


def _engines_fault(result: object) -> bool:
    return isinstance(result, PredictionError) and not isinstance(result, DeadlineError)
