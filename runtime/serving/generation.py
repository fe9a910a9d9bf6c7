"""A generation of engines: opened, verified by a canary request, used, and closed when unused."""

from __future__ import annotations

import logging
import math
import threading
import time
import warnings
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from runtime import policy_file
from runtime.active_calls import ActiveCalls
from runtime.agemoe import AgeMoE
from runtime.detection import finds_landmarks
from runtime.errors import ContractError, DeadlineError, PredictionError
from runtime.images import ImageLimits, load_rgb
from runtime.liveness_model import OnnxLiveness
from runtime.manifest import PLACEHOLDER_KINDS
from runtime.manifest_file import engines_fingerprint, read_manifest
from runtime.program import build_command
from runtime.results import AgeEstimate, Face
from runtime.serving.batching import Batcher
from runtime.serving.gpu_memory import GpuGauge
from runtime.serving.settings import Settings

log = logging.getLogger("agemoe")

PAGE = Path(str(files("runtime.serving"))) / "page"
CANARY_IMAGE = PAGE / "examples" / "woman.jpg"
CANARY_INTERVAL_SECONDS = 15.0
"""No canary request is made if an estimate succeeded this recently."""
_GPU_BATCH = 8
_MEDIANS_INTERVAL_SECONDS = 1.0
_VERSION_CHARACTERS = 12


class Generation:
    """An `AgeMoE` and its `Batcher`, from one version of the engines folder."""

    def __init__(self, settings: Settings, on_batch: Callable[[int, float], None]) -> None:
        """Opens, verifies and warms up the engines, then makes a canary request.

        Raises:
            AgeMoEError: the engines cannot be used or the canary request failed.
            ValueError: an option is out of range.
        """
        others = (policy_file.FILE_NAME,) if settings.policy else ()
        self.fingerprint = engines_fingerprint(settings.engines, *others)
        """SHA-256 of the manifest, the fusion tables and the policy in use, 64 hex digits."""
        self.version = self.fingerprint[:_VERSION_CHARACTERS]
        self.opened = datetime.now(UTC).isoformat(timespec="seconds")
        self._folder = settings.engines
        self._manifest = read_manifest(settings.engines)
        self.policy = policy_file.read_policy(settings.engines) if settings.policy else None
        """Decides on persons; None where the service does not."""
        self.moe = _open_engines(settings)
        self._last_success = -math.inf
        self._medians: tuple[float, dict[str, float]] = (-math.inf, {})
        self._checking = threading.Lock()
        self._calls = ActiveCalls()
        try:
            if self.policy is not None:
                detector = self.moe.detector.provenance
                policy_file.check_policy_fits(self.policy, self.moe.binding, detector=detector)
            self.check()
            self.gpu = GpuGauge(settings.device, self.moe.backends.values())
            default_batch = 1 if self.gpu.read() is None else _GPU_BATCH
            self.batcher = Batcher(
                self.moe.predict,
                max_batch=settings.batching.max_batch or default_batch,
                max_wait_ms=settings.batching.max_wait_ms,
                queue_limit=settings.batching.queue_limit,
                workers=settings.batching.workers,
                on_batch=on_batch,
            )
        except BaseException:
            self.moe.close()
            raise

    @property
    def placeholders(self) -> dict[str, str]:
        """Experts with placeholder weights, and the kind of each."""
        kinds = {name: self._manifest.experts[name].source.kind for name in self.moe.experts}
        return {name: kind for name, kind in kinds.items() if kind in PLACEHOLDER_KINDS}

    @property
    def no_answers(self) -> frozenset[str]:
        """Reasons of working experts that have no age for a face."""
        return frozenset(e.no_answer for e in self._manifest.experts.values() if e.no_answer)

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Keeps the engines open for a request; raises `ClosedError` if they have been replaced."""
        call = object()
        try:
            self._calls.enter(call)
            yield
        finally:
            self._calls.leave(call)

    def record_results(self, results: Sequence[AgeEstimate | BaseException]) -> None:
        """Updates the health from results: an estimate proves it, a failure prompts a check."""
        if any(isinstance(result, AgeEstimate) for result in results):
            self._last_success = time.monotonic()
        elif any(
            isinstance(result, PredictionError) and not isinstance(result, DeadlineError)
            for result in results
        ):
            self._last_success = -math.inf

    def median_ms(self) -> dict[str, float]:
        """Returns the median of each expert's latest batches, computed at most once a second."""
        computed, medians = self._medians
        if time.monotonic() - computed > _MEDIANS_INTERVAL_SECONDS:
            experts = self.moe.stats().experts
            medians = {name: stats.execute.p50_seconds * 1000.0 for name, stats in experts.items()}
            self._medians = time.monotonic(), medians
        return medians

    def check(self) -> None:
        """Raises `AgeMoEError` unless a recent estimate or a canary request succeeds."""
        with self._checking:
            if time.monotonic() - self._last_success > CANARY_INTERVAL_SECONDS:
                _request_canary(self.moe, self.no_answers, self._folder)
                self._last_success = time.monotonic()

    def describe(self) -> list[dict[str, Any]]:
        """Returns a description of each expert, ready for JSON."""
        return [self._describe(name, backend) for name, backend in self.moe.backends.items()]

    def close(self) -> None:
        """Waits for the requests in progress, then frees everything."""
        self._calls.close()
        self.batcher.close()
        self.gpu.close()
        self.moe.close()

    def _describe(self, name: str, backend: str) -> dict[str, Any]:
        expert = self._manifest.experts[name]
        return {
            "name": name,
            "architecture": expert.architecture,
            "source": expert.source.kind,
            "source_sha256": expert.source.sha256,
            "location": _public_address(expert.source.location),
            "license": expert.source.license,
            "backend": backend,
            "inputs": [spec.name for spec in expert.inputs],
        }


def _public_address(location: str) -> str | None:
    """Returns where weights can be had, without passwords and tokens; None for a path."""
    scheme, separator, _ = location.partition("://")
    if not separator:
        return None
    if scheme != "https":  # a package or a repository
        return location
    parts = urlsplit(location)
    return f"https://{parts.netloc.rpartition('@')[2]}{parts.path}"


def _open_engines(settings: Settings) -> AgeMoE:
    """Opens the engines and their detector; their warnings are logged."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        moe = AgeMoE(
            settings.engines,
            device=settings.device,
            precision=settings.precision,
            limits=ImageLimits(max_pixels=max(settings.limits.pixels, ImageLimits().max_pixels)),
            quality=settings.quality,
            liveness=None if settings.liveness is None else OnnxLiveness(settings.liveness),
            detector=settings.detector,
        )
        _open_detector(moe, verify_faces=settings.quality.require_face)
    for warning in caught:
        log.warning("%s", warning.message)
    return moe


def _open_detector(moe: AgeMoE, *, verify_faces: bool) -> None:
    """Opens the detector now rather than with the first request; on failure, closes the engines."""
    try:
        log.info("detector: %s", moe.detector.provenance)
        if verify_faces and not finds_landmarks(moe.detector):
            log.warning(
                "This detector misses too many faces to verify given ones: a box, or a picture "
                "given as one face, may hold anything. Use one that finds landmarks."
            )
    except BaseException:
        moe.close()
        raise


def _request_canary(moe: AgeMoE, no_answers: Collection[str], folder: Path) -> None:
    """Estimates the age of the canary image and validates the result.

    An expert may be missing for one of the reasons `no_answers`.
    """
    pixels = load_rgb(CANARY_IMAGE, ImageLimits())
    height, width = pixels.shape[:2]
    whole = (0.0, 0.0, float(width), float(height))
    try:
        estimate = moe.predict(Face(pixels, whole, whole, limited=False))
    except PredictionError as error:
        if set(error.missing.values()) <= set(no_answers):
            return
        raise
    if not set(estimate.missing.values()) <= set(no_answers) or not _is_plausible(estimate):
        raise ContractError(
            f"The engines failed the canary request, a drawn face: {estimate.to_dict()}. "
            f"Rebuild them: {build_command(folder)}"
        )


def _is_plausible(estimate: AgeEstimate) -> bool:
    low, high = estimate.age_range
    return math.isfinite(estimate.age_years) and low <= estimate.age_years <= high
