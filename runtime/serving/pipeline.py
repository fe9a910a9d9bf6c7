"""The one path of all pictures of a request: decoding, face detection, estimate."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, asynccontextmanager

from runtime.cores import usable_cores
from runtime.deadline import Deadline
from runtime.decoding import Allowance
from runtime.errors import InputError
from runtime.image_costs import PictureCost
from runtime.images import ImageLimits
from runtime.search_limit import SearchLimit, limited
from runtime.serving.generation import Generation
from runtime.serving.metrics import Metrics
from runtime.serving.pictures import Pictures, Share, run_sharing
from runtime.serving.prediction import (
    STAGES,
    Predictions,
    check_request_cover,
    detect_faces,
    require_probability,
)
from runtime.serving.problems import TooManyError
from runtime.serving.request_body import ParsedRequest
from runtime.serving.request_queue import TooLateError
from runtime.serving.settings import Settings


class Pipeline:
    """Decoders and threads, which all engines share, and the order of the steps."""

    def __init__(self, settings: Settings, metrics: Metrics) -> None:
        """Takes the limits; `open` starts the decoders."""
        self._limits = settings.limits
        self._metrics = metrics
        self._photo_pool = ThreadPoolExecutor(usable_cores() + 1, thread_name_prefix="agemoe-photo")
        self._pictures = Pictures(settings)
        metrics.watch(self._pictures)

    def open(self) -> None:
        """Starts the decoders; raises `BackendError` if they cannot decode."""
        self._pictures.open()

    def close(self) -> None:
        """Ends the threads and the decoders."""
        self._photo_pool.shutdown()
        self._pictures.close()

    async def predictions(
        self,
        stack: ExitStack,
        request: ParsedRequest,
        generation: Generation,
        times_ms: dict[str, float],
    ) -> list[Predictions]:
        """Decodes the pictures, detects their faces and estimates the ages.

        The memory of the pictures is held until the stack is closed.
        """
        share = stack.enter_context(self._pictures.share())
        costs = await self._pictures.admit(share, request.photos, request.limit)
        async with _time_limit(request.limit):
            photos = await self._process(request, generation, share, costs)
        for stage in STAGES:
            seconds = sum(photo.seconds[stage] for photo in photos)
            self._metrics.observe(stage, seconds, times_ms)
        # Experts that are late by the client's own deadline are left out instead.
        own = request.deadline is not None
        async with contextlib.nullcontext() if own else _time_limit(request.limit):
            with self._metrics.timed("estimate", times_ms):
                await self._estimate(generation, photos, request)
        return photos

    async def _process(
        self,
        request: ParsedRequest,
        generation: Generation,
        share: Share,
        costs: Sequence[PictureCost | InputError],
    ) -> list[Predictions]:
        """Decodes the pictures one by one and detects their faces."""
        search = SearchLimit(self._limits.search_pixels)
        allowance = Allowance(self._limits.decode_seconds)
        detector = limited(generation.moe.detector, search) if request.detect else None
        limits = ImageLimits(max_pixels=self._limits.pixels)
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
        if faces > self._limits.faces:
            raise TooManyError(
                f"The pictures have {faces} faces, more than {self._limits.faces}. Send "
                f"fewer at a time, or only the boxes of the faces of interest."
            )
        check_request_cover(photos, limits.max_pixels)
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


@asynccontextmanager
async def _time_limit(deadline: Deadline) -> AsyncIterator[None]:
    """Cancels the block when the deadline passes; work that has not started is dropped."""
    try:
        async with asyncio.timeout(deadline.remaining_seconds()):
            yield
    except TimeoutError:
        raise TooLateError(deadline) from None
