"""The engines in use, their replacement by new ones, and the way from pictures to ages."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import AsyncIterator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import asdict
from typing import Any

from runtime.backends.onnx import usable_cores
from runtime.deadline import Deadline
from runtime.detectors import detector_named
from runtime.errors import ClosedError
from runtime.images import ImageLimits
from runtime.serving.decoding import Asked
from runtime.serving.generation import Generation
from runtime.serving.keys import Key, read_keys
from runtime.serving.metrics import Metrics
from runtime.serving.prediction import LOOKING, Looked, image_answer, look, sole_problem, useful
from runtime.serving.problems import BusyError, NotReadyError, ReloadError, TooManyError
from runtime.serving.request_queue import TooLateError
from runtime.serving.settings import Settings

log = logging.getLogger("agemoe")

Answer = dict[str, Any]


class Service:
    """One set of engines and everything that stands before it."""

    def __init__(self, settings: Settings) -> None:
        """Opens nothing yet: see `open`.

        Raises:
            KeyFileError: the file of API keys is not in order.
            ValueError: there is no such detector.
            BackendError: the detector's model cannot be used.
        """
        self.settings = settings
        self.keys = _keys_for(settings)
        """Who may come in; None lets everybody in."""
        self.metrics = Metrics(lambda: self._current)
        self.draining = False
        """Whether the service is about to stop, and says so when asked whether it is ready."""
        self.last_reload: str | None = None
        self._detector = detector_named(settings.detector)
        self._current: Generation | None = None
        self._reloading = threading.Lock()
        self._retiring: list[threading.Thread] = []
        self._photo_pool = ThreadPoolExecutor(usable_cores() + 1, thread_name_prefix="agemoe-photo")
        self._under_way = 0

    def open(self) -> None:
        """Opens the engines, if they are not open.

        Raises:
            AgeMoEError: they are not in order or do not answer.
        """
        if self._current is None:
            self._current = Generation(self.settings, self.metrics.on_batch)

    def close(self) -> None:
        """Finishes what was accepted and frees everything."""
        with self._reloading:
            generation, self._current = self._current, None
            if generation is not None:
                generation.close()
            for thread in self._retiring:
                thread.join()
            self._photo_pool.shutdown()

    def reload(self, *, wait: bool = False) -> Generation:
        """Opens the engines folder anew, and changes over if what is there answers.

        The file of API keys is read anew too.

        Requests under way finish on the old engines, which are closed after the last of them.
        Both sets are in memory meanwhile.

        Args:
            wait: for another reload that is under way, instead of being refused.

        Raises:
            ReloadError: the new ones are not in order, or another reload is under way; the old
                ones go on.
        """
        if not self._reloading.acquire(blocking=wait):
            raise ReloadError("Another reload is under way. Wait for it.")
        try:
            old = self.current()
            new = self._opened_anew(old)
            self._current = new
            self._retire(old)
        finally:
            self._reloading.release()
        self._note_reload("taken", f"version {new.version} took the place of {old.version}")
        return new

    def current(self) -> Generation:
        """The engines in use.

        Raises:
            NotReadyError: there are none, before `open` and after `close`.
        """
        if self._current is None:
            raise NotReadyError("The engines are not open. Try again in a moment.")
        return self._current

    def describe(self) -> Answer:
        """The engines in use, and the limits, ready for JSON."""
        generation, limits = self.current(), self.settings.limits
        return {
            "version": generation.version,
            "opened": generation.opened,
            "calibrated": generation.moe.calibrated,
            "concurrency": generation.moe.concurrency,
            "stand_ins": generation.stand_ins,
            "experts": generation.describe(),
            "detector": self._detector.provenance,
            "limits": asdict(limits),
        }

    @contextmanager
    def admitted(self) -> Iterator[None]:
        """Counts a request for ages; for the event loop's thread only.

        Raises:
            BusyError: as many as may be are under way.
        """
        limit = self.settings.limits.requests
        if self._under_way >= limit:
            raise BusyError(f"{limit} requests are under way, the most there may be. Try again.")
        self._under_way += 1
        self.metrics.under_way.set(self._under_way)
        try:
            yield
        finally:
            self._under_way -= 1
            self.metrics.under_way.set(self._under_way)

    def check_ready(self) -> Generation:
        """The engines in use, after making sure that they answer.

        Raises:
            AgeMoEError: they do not, or the service is about to stop.
        """
        if self.draining:
            raise NotReadyError("The service is about to stop.")
        generation = self.current()
        generation.check()
        return generation

    async def ages(self, asked: Asked, times_ms: dict[str, float]) -> Answer:
        """Finds the faces, has their ages estimated and says so.

        Args:
            asked: the pictures and options.
            times_ms: by stage; filled.

        Raises:
            AgeMoEError: nothing can be answered at all, or the one picture or face there is.
        """
        with ExitStack() as stack:
            generation = self._enter(stack)
            async with _in_time(asked.deadline):
                photos = await self._looked(asked)
            for stage in LOOKING:
                seconds = sum(photo.seconds[stage] for photo in photos)
                self.metrics.observe(stage, seconds, times_ms)
            with self.metrics.timed("estimate", times_ms):
                await self._estimate(generation, photos, asked.deadline, asked.threshold)
            if (problem := sole_problem(photos)) is not None:
                raise problem
            return {
                "images": [image_answer(photo, asked.threshold) for photo in photos],
                "version": generation.version,
                "calibrated": generation.moe.calibrated,
                "stand_ins": generation.stand_ins,
                "times_ms": times_ms,
                "experts_ms": generation.typical_ms(),
            }

    def _enter(self, stack: ExitStack) -> Generation:
        """The engines in use, kept open until the stack is left, even if others come."""
        while True:
            generation = self.current()
            with suppress(ClosedError):  # others came this very moment
                stack.enter_context(generation.entered())
                return generation

    async def _looked(self, asked: Asked) -> list[Looked]:
        """Decodes the pictures one by one, as long as there is room for their pixels."""
        loop, detector = asyncio.get_running_loop(), self._detector if asked.detect else None
        photos: list[Looked] = []
        room = self.settings.limits.pixels
        for photo in asked.photos:
            limits = ImageLimits(self.settings.limits.image_bytes, room)
            looked = await loop.run_in_executor(self._photo_pool, look, photo, limits, detector)
            room -= looked.pixels
            photos.append(looked)
        faces = sum(len(photo.faces) for photo in photos)
        if faces > self.settings.limits.faces:
            raise TooManyError(
                f"The pictures have {faces} faces, more than {self.settings.limits.faces}. Send "
                f"fewer at a time, or the boxes of those that matter."
            )
        return photos

    async def _estimate(
        self,
        generation: Generation,
        photos: Sequence[Looked],
        deadline: Deadline | None,
        threshold: float | None,
    ) -> None:
        if deadline is not None and deadline.passed:
            raise TooLateError(deadline)
        faces = [face for photo in photos for face in photo.faces]
        futures = generation.batcher.submit_all(faces, deadline_ms=deadline)
        results = iter(
            await asyncio.gather(*map(asyncio.wrap_future, futures), return_exceptions=True)
        )
        for photo in photos:
            answers = [next(results) for _ in photo.faces]
            generation.note_results(answers)
            photo.results = [useful(answer, threshold) for answer in answers]

    def _opened_anew(self, old: Generation) -> Generation:
        try:
            keys = _keys_for(self.settings)
            new = Generation(self.settings, self.metrics.on_batch)
        except Exception as error:  # whatever ails the new ones, the old ones are well
            self._note_reload("refused", f"version {old.version} goes on", str(error))
            raise ReloadError(
                f"The new engines are not taken, version {old.version} goes on: {error}"
            ) from error
        self.keys = keys
        return new

    def _retire(self, old: Generation) -> None:
        thread = threading.Thread(target=old.close, name="agemoe-retire", daemon=True)
        thread.start()
        self._retiring = [t for t in self._retiring if t.is_alive()] + [thread]

    def _note_reload(self, outcome: str, text: str, reason: str = "") -> None:
        self.last_reload = f"{outcome}: {text}"
        self.metrics.reloads.labels(outcome).inc()
        if reason:  # it may name files, which is for the log only: anybody may ask for health
            log.error("reload %s: %s", self.last_reload, reason)
        else:
            log.info("reload %s", self.last_reload)


def _keys_for(settings: Settings) -> tuple[Key, ...] | None:
    return None if settings.keys is None else read_keys(settings.keys)


@asynccontextmanager
async def _in_time(deadline: Deadline | None) -> AsyncIterator[None]:
    """Gives up what is under way when the deadline passes; what was not begun is not done."""
    if deadline is None:
        yield
        return
    try:
        async with asyncio.timeout(deadline.remaining_seconds()):
            yield
    except TimeoutError:
        raise TooLateError(deadline) from None
