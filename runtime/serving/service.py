"""The service: the engines in use, their reload, and the processing of requests for ages."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections.abc import AsyncIterator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import asdict

from runtime.cores import usable_cores
from runtime.deadline import Deadline
from runtime.decoding import Allowance
from runtime.detectors import parse_detector
from runtime.errors import ClosedError, InputError
from runtime.image_costs import PictureCost
from runtime.images import ImageLimits
from runtime.search_limit import SearchLimit, limited
from runtime.serving.generation import Generation
from runtime.serving.keys import Key, read_keys
from runtime.serving.metrics import Metrics
from runtime.serving.pictures import Pictures, Share, run_sharing
from runtime.serving.prediction import (
    STAGES,
    JsonObject,
    Predictions,
    detect_faces,
    photo_json,
    require_probability,
    sole_error,
)
from runtime.serving.problems import BusyError, NotReadyError, ReloadError, TooManyError
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
        self.draining = False
        """True while the service is shutting down and reports itself as not ready."""
        self.last_reload: str | None = None
        parse_detector(settings.detector)
        self._current: Generation | None = None
        self._reloading = threading.Lock()
        self._retiring: list[threading.Thread] = []
        self._photo_pool = ThreadPoolExecutor(usable_cores() + 1, thread_name_prefix="agemoe-photo")
        self._pictures = Pictures(settings)
        self.metrics.watch(self._pictures)
        self._concurrent_requests = 0

    def open(self) -> None:
        """Opens the engines unless they are open; raises what `Generation` raises."""
        with self._reloading:  # a reload requested meanwhile comes afterwards
            if self._current is None:
                opened = Generation(self.settings, self.metrics.on_batch)
                try:
                    self._pictures.open()
                except BaseException:
                    opened.close()
                    raise
                self._current = opened

    def close(self) -> None:
        """Completes the accepted requests and frees everything."""
        with self._reloading:
            generation, self._current = self._current, None
            if generation is not None:
                generation.close()
            for thread in self._retiring:
                thread.join()
            self._photo_pool.shutdown()
            self._pictures.close()

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
            "limits": asdict(limits),
            "quality_limits": asdict(self.settings.quality),
        }

    @contextmanager
    def admitted(self) -> Iterator[None]:
        """Counts a concurrent request for ages; must be called on the event loop's thread.

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
        """Returns the engines in use; raises `AgeMoEError` if they fail, or while shutting down."""
        if self.draining:
            raise NotReadyError("The service is shutting down.")
        generation = self.current()
        generation.check()
        return generation

    async def ages(self, request: ParsedRequest, times_ms: dict[str, float]) -> JsonObject:
        """Detects the faces, estimates their ages and returns the response.

        `times_ms` receives the duration of each stage.

        Raises:
            AgeMoEError: the whole request failed, or its only picture or only face did.
        """
        with ExitStack() as stack:
            generation = self._hold_engines(stack)
            share = stack.enter_context(self._pictures.share())
            costs = await self._pictures.admit(share, request.photos, request.limit)
            async with _time_limit(request.limit):
                photos = await self._process(request, generation, share, costs)
            for stage in STAGES:
                seconds = sum(photo.seconds[stage] for photo in photos)
                self.metrics.observe(stage, seconds, times_ms)
            # Experts that are late by the client's own deadline are left out instead.
            own = request.deadline is not None
            async with contextlib.nullcontext() if own else _time_limit(request.limit):
                with self.metrics.timed("estimate", times_ms):
                    await self._estimate(generation, photos, request)
            if (error := sole_error(photos)) is not None:
                raise error
            return {
                "images": [photo_json(photo, request.threshold) for photo in photos],
                "version": generation.version,
                "calibrated": generation.moe.calibrated,
                "stand_ins": generation.placeholders,
                "times_ms": times_ms,
                "experts_ms": generation.median_ms(),
            }

    def _hold_engines(self, stack: ExitStack) -> Generation:
        """Returns the engines in use, kept open until the stack is closed, also after a reload."""
        while True:
            generation = self.current()
            with suppress(ClosedError):  # replaced in the meantime
                stack.enter_context(generation.in_use())
                return generation

    async def _process(
        self,
        request: ParsedRequest,
        generation: Generation,
        share: Share,
        costs: Sequence[PictureCost | InputError],
    ) -> list[Predictions]:
        """Decodes the pictures one by one and detects their faces."""
        own = self.settings.limits
        search = SearchLimit(own.search_pixels)
        detector = limited(generation.moe.detector, search) if request.detect else None
        limits, allowance = ImageLimits(max_pixels=own.pixels), Allowance(own.decode_seconds)
        photos: list[Predictions] = []
        try:
            for photo, known in zip(request.photos, costs, strict=True):
                searched = request.detect and photo.boxes is None
                cost = known if search.left or not searched else search.error()
                processed, pixels = await self._pictures.decode(
                    share, photo, cost, request.limit, allowance
                )
                photos.append(processed)
                if pixels is not None:
                    arguments = processed, pixels, photo, detector, limits
                    await run_sharing(share, self._photo_pool, detect_faces, *arguments)
        finally:
            allowance.end()  # also for what waits for a process when the client is gone
        share.shrink(3 * sum(photo.pixels for photo in photos))
        faces = sum(len(photo.scene.faces) for photo in photos)
        if faces > own.faces:
            raise TooManyError(
                f"The pictures have {faces} faces, more than {own.faces}. Send "
                f"fewer at a time, or only the boxes of the faces of interest."
            )
        return photos

    async def _estimate(
        self, generation: Generation, photos: Sequence[Predictions], request: ParsedRequest
    ) -> None:
        if request.limit.passed:
            raise TooLateError(request.limit)
        faces = [face for photo in photos for face in photo.scene.faces]
        futures = generation.batcher.submit_all(faces, deadline_ms=request.deadline)
        results = iter(
            await asyncio.gather(*map(asyncio.wrap_future, futures), return_exceptions=True)
        )
        for photo in photos:
            own = [next(results) for _ in photo.scene.faces]
            generation.record_results(own)
            photo.results = [require_probability(result, request.threshold) for result in own]

    def _open_replacement(self, old: Generation) -> Generation:
        try:
            keys = _keys_for(self.settings)
            new = Generation(self.settings, self.metrics.on_batch)
        except Exception as error:  # on any failure the old engines keep serving
            self._record_reload("refused", f"version {old.version} keeps serving", str(error))
            raise ReloadError(
                f"The reload failed, version {old.version} keeps serving: {error}"
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


def _keys_for(settings: Settings) -> tuple[Key, ...] | None:
    return None if settings.keys is None else read_keys(settings.keys)


@asynccontextmanager
async def _time_limit(deadline: Deadline) -> AsyncIterator[None]:
    """Cancels the block when the deadline passes; work that has not started is dropped."""
    try:
        async with asyncio.timeout(deadline.remaining_seconds()):
            yield
    except TimeoutError:
        raise TooLateError(deadline) from None
