"""The service: the engines in use, their reload, and the processing of requests."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict

from starlette.concurrency import run_in_threadpool

from runtime.detectors import parse_detector
from runtime.errors import ClosedError
from runtime.serving.audit import AuditLog, opened_log
from runtime.serving.decisions import decide, policy_json, record_decision
from runtime.serving.generation import Generation
from runtime.serving.keys import Key, read_keys
from runtime.serving.metrics import Metrics
from runtime.serving.pipeline import Pipeline
from runtime.serving.prediction import (
    JsonObject,
    Predictions,
    photo_json,
    sole_error,
)
from runtime.serving.problems import (
    BusyError,
    NoPolicyError,
    NotReadyError,
    ReloadError,
)
from runtime.serving.request_body import ParsedRequest
from runtime.serving.request_queue import TooLateError
from runtime.serving.settings import Settings

log = logging.getLogger("agemoe")


class Service:
    """The engines in use and everything that a request passes through before them."""

    def __init__(self, settings: Settings) -> None:
        """Reads the keys; `open` opens the engines and their detector.

        Raises:
            KeyFileError: the file of API keys cannot be used.
            ValueError: the detector is unknown.
        """
        self.settings = settings
        self.keys = _keys_for(settings)
        """Accepted API keys; None accepts requests without one."""
        self.metrics = Metrics(lambda: self._current)
        self.audit: AuditLog | None = None
        """Records decisions before they are given; None without a record, or if not open."""
        self.draining = False
        """True while the service is shutting down and reports itself as not ready."""
        self.last_reload: str | None = None
        parse_detector(settings.detector)
        self._current: Generation | None = None
        self._reloading = threading.Lock()
        self._retiring: list[threading.Thread] = []
        self._pipeline = Pipeline(settings, self.metrics)
        self._concurrent_requests = 0

    def open(self) -> None:
        """Opens the audit log and the engines unless they are open.

        Raises what `AuditLog` and `Generation` raise.
        """
        with self._reloading, ExitStack() as undo:  # a requested reload comes afterwards
            if self._current is not None:
                return
            audit = opened_log(self.settings)
            if audit is not None:
                undo.callback(audit.close)
            opened = Generation(self.settings, self.metrics.on_batch)
            undo.callback(opened.close)
            self._pipeline.open()
            undo.pop_all()
            self.audit, self._current = audit, opened

    def close(self) -> None:
        """Completes the accepted requests and frees everything."""
        with self._reloading:
            generation, self._current = self._current, None
            if generation is not None:
                generation.close()
            for thread in self._retiring:
                thread.join()
            self._pipeline.close()
            if self.audit is not None:
                self.audit.close()

    def reload(self, *, wait: bool = False) -> Generation:
        """Reopens the engines folder and the file of API keys, and switches to their content.

        Requests in progress finish on the old engines, which are closed after the last of them.
        Both generations are in memory meanwhile. On any failure the old engines keep serving. With
        `wait`, a concurrent reload is waited for instead of raising an error.

        Raises:
            ReloadError: the new engines or keys cannot be used, or another reload is in progress.
        """
        if not self._reloading.acquire(blocking=wait):
            raise ReloadError("Another reload is in progress. Try again when it is done.")
        try:
            old = self.current()
            new = self._open_replacement(old)
            self._current = new
            self._retire(old)
        finally:
            self._reloading.release()
        self._record_reload("taken", f"version {new.version} replaced {old.version}")
        return new

    def current(self) -> Generation:
        """Returns the engines in use; raises `NotReadyError` before `open` and after `close`."""
        if self._current is None:
            raise NotReadyError("The engines are not open. Try again in a moment.")
        return self._current

    def describe(self) -> JsonObject:
        """Returns a description of the engines in use and the limits, ready for JSON."""
        generation, limits = self.current(), self.settings.limits
        return {
            "version": generation.version,
            "opened": generation.opened,
            "calibrated": generation.moe.calibrated,
            "concurrency": generation.moe.concurrency,
            "stand_ins": generation.placeholders,
            "experts": generation.describe(),
            "detector": generation.moe.detector.provenance,
            "policy": None if generation.policy is None else policy_json(generation.policy),
            "limits": asdict(limits),
            "quality_limits": asdict(self.settings.quality),
        }

    @contextmanager
    def admitted(self) -> Iterator[None]:
        """Counts a concurrent request with pictures; must be called on the event loop's thread.

        Raises:
            BusyError: the limit is reached.
        """
        limit = self.settings.limits.requests
        if self._concurrent_requests >= limit:
            raise BusyError(f"{limit} requests are in progress, the limit. Try again in a moment.")
        self._concurrent_requests += 1
        self.metrics.concurrent_requests.set(self._concurrent_requests)
        try:
            yield
        finally:
            self._concurrent_requests -= 1
            self.metrics.concurrent_requests.set(self._concurrent_requests)

    def check_ready(self) -> Generation:
        """Returns the engines in use.

        Raises:
            AgeMoEError: they fail, decisions cannot be recorded, or the service is shutting down.
        """
        if self.draining:
            raise NotReadyError("The service is shutting down.")
        generation = self.current()
        if self.audit is not None:
            self.audit.check()
        generation.check()
        return generation

    def require_policy(self) -> None:
        """Raises `NoPolicyError` if the service makes no decisions."""
        if not self.settings.policy:
            raise NoPolicyError(
                "This service has no policy and makes no decisions. Start it with --policy, which "
                "reads policy.json of the engines folder; see docs/decisions.md for how to fit it."
            )

    async def ages(self, request: ParsedRequest, times_ms: dict[str, float]) -> JsonObject:
        """Detects the faces, estimates their ages and returns the response.

        `times_ms` receives the duration of each stage.

        Raises:
            AgeMoEError: the whole request failed, or its only picture or only face did.
        """
        with ExitStack() as stack:
            generation = self._hold_engines(stack)
            photos = await self._pipeline.predictions(stack, request, generation, times_ms)
            if (error := sole_error(photos)) is not None:
                raise error
            images = [photo_json(photo, request.threshold) for photo in photos]
            return {"images": images, **_versions(generation, times_ms)}

    async def decision(self, request: ParsedRequest, times_ms: dict[str, float]) -> JsonObject:
        """Decides on the one person in all pictures and returns the response.

        The decision is recorded before it is returned. `times_ms` is as in `ages`.

        Raises:
            NoPolicyError: the service has no policy.
            NotRecordedError: the decision could not be recorded.
            AgeMoEError: the service failed; an error of the pictures is a decision.
        """
        with ExitStack() as stack:
            generation = self._hold_engines(stack)
            if generation.policy is None:
                raise NoPolicyError("The engines in use have no policy.")
            try:
                photos = await self._pipeline.predictions(stack, request, generation, times_ms)
            except TooLateError as error:
                photos = [Predictions(error=error) for _ in request.photos]
            person = decide(generation.policy, photos, generation.no_answers)
            if self.audit is not None:
                arguments = self.audit, person, request.photos, generation
                await run_in_threadpool(record_decision, *arguments)
            self.metrics.record_decision(person.decision)
            return {**person.to_dict(), **_versions(generation, times_ms)}

    def _hold_engines(self, stack: ExitStack) -> Generation:
        """Returns the engines in use, kept open until the stack is closed, also after a reload."""
        while True:
            generation = self.current()
            with suppress(ClosedError):  # replaced in the meantime
                stack.enter_context(generation.in_use())
                return generation

    def _open_replacement(self, old: Generation) -> Generation:
        try:
            keys = _keys_for(self.settings)
            new = Generation(self.settings, self.metrics.on_batch)
        except Exception as error:  # on any failure the old engines keep serving
            self._record_reload("refused", f"version {old.version} keeps serving", str(error))
            first, *rest = str(error).splitlines() or [type(error).__name__]
            raise ReloadError(
                f"The reload failed, version {old.version} keeps serving: {first}", *rest
            ) from error
        self.keys = keys
        return new

    def _retire(self, old: Generation) -> None:
        thread = threading.Thread(target=old.close, name="agemoe-retire", daemon=True)
        thread.start()
        self._retiring = [t for t in self._retiring if t.is_alive()] + [thread]

    def _record_reload(self, outcome: str, text: str, reason: str = "") -> None:
        self.last_reload = f"{outcome}: {text}"
        self.metrics.reloads.labels(outcome).inc()
        if reason:  # it may name files, so it is logged only: health is public
            log.error("reload %s: %s", self.last_reload, reason)
        else:
            log.info("reload %s", self.last_reload)


def _versions(generation: Generation, times_ms: dict[str, float]) -> JsonObject:
    """Returns the part of an answer that is about the service."""
    return {
        "version": generation.version,
        "calibrated": generation.moe.calibrated,
        "stand_ins": generation.placeholders,
        "times_ms": times_ms,
        "experts_ms": generation.median_ms(),
    }


def _keys_for(settings: Settings) -> tuple[Key, ...] | None:
    return None if settings.keys is None else read_keys(settings.keys)
