"""Decoding of the requests' pictures, within the budget of memory that all requests share."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import copy_context
from typing import TypeVar

from runtime.deadline import Deadline
from runtime.decoding import Allowance, Budget, DecoderPool, Hold
from runtime.decoding.job import pixel_bytes
from runtime.errors import InputError
from runtime.geometry import Pixels
from runtime.image_costs import PictureCost
from runtime.images import ImageLimits, picture_cost
from runtime.serving.prediction import Predictions, decode_photo
from runtime.serving.problems import BusyError
from runtime.serving.request_body import Photo
from runtime.serving.settings import Settings

T = TypeVar("T")

_SMALL = 8
"""A request that needs at most this part of the memory is small; by default 64 MiB, six
megapixels."""


class Budgets:
    """The memory for decoding, of which an eighth is kept for small requests.

    They would otherwise wait behind large ones.
    """

    def __init__(self, total_bytes: int) -> None:
        """Takes the bytes of all requests together."""
        self.total = total_bytes
        self.small = Budget(total_bytes // _SMALL)
        self.large = Budget(total_bytes - self.small.total)

    @property
    def used(self) -> int:
        """The bytes that are held."""
        return self.small.used + self.large.used

    @property
    def waiting(self) -> int:
        """Number of requests that wait."""
        return self.small.waiting + self.large.waiting

    def budget_for(self, amount_bytes: int) -> Budget:
        """Returns the budget that a request of this size uses."""
        return self.small if amount_bytes <= self.small.total else self.large


class Share:
    """A request's share of the budget, given back when the last of its users leaves it.

    Users are the request and its work in other threads, which goes on when a request is cancelled.
    """

    def __init__(self, budgets: Budgets, request: object) -> None:
        """Holds nothing yet; the first user is the request itself."""
        self._budgets = budgets
        self._budget = budgets.large
        self._hold = Hold(0)
        self._request = request
        self._users = {request}

    def enter(self, amount_bytes: int, limit: Deadline) -> None:
        """Waits for memory.

        Raises:
            BusyError: there is none before the limit.
        """
        self._hold.amount = amount_bytes
        self._budget = self._budgets.budget_for(amount_bytes)
        if not self._budget.enter(self._hold, limit):
            raise BusyError(
                f"Other requests use the memory for decoding, {self._budgets.total:,} bytes. Try "
                f"again in a moment."
            )

    def shrink(self, amount_bytes: int) -> None:
        """Gives a part back."""
        self._budget.shrink(self._hold, amount_bytes)

    def join(self, user: object) -> None:
        """Adds a user."""
        self._users.add(user)

    def leave(self, user: object) -> None:
        """Removes a user; the last one gives everything back."""
        self._users.discard(user)
        if user is self._request:
            self._hold.given_up = True
        if not self._users:
            self._budget.leave(self._hold)
            self._budget.wake()


class Pictures:
    """Decodes the pictures of a service in processes of their own."""

    def __init__(self, settings: Settings) -> None:
        """Takes the limits; `open` starts the processes."""
        limits = settings.limits
        self.pool = DecoderPool(settings.decoders, max_seconds=limits.decode_seconds)
        self.budget = Budgets(limits.decode_bytes)
        self._limits = limits
        self._threads = ThreadPoolExecutor(limits.requests, thread_name_prefix="agemoe-decode")

    def open(self) -> None:
        """Starts the processes; raises `BackendError` if they cannot decode."""
        self.pool.start()

    def close(self) -> None:
        """Ends the threads and the processes."""
        self._threads.shutdown()
        self.pool.close()

    @contextmanager
    def share(self) -> Iterator[Share]:
        """Yields a request's share of the budget, empty at first."""
        request = object()
        share = Share(self.budget, request)
        try:
            yield share
        finally:
            share.leave(request)

    async def admit(
        self, share: Share, photos: Sequence[Photo], limit: Deadline
    ) -> list[PictureCost | InputError]:
        """Waits for the memory of all pictures of a request at once.

        Two requests that hold a part of what they need would wait for each other.

        Returns:
            What each picture costs, or why it is refused.

        Raises:
            BusyError: there is no memory before the limit.
        """
        return await run_sharing(share, self._threads, self._admit, share, photos, limit)

    async def decode(
        self,
        share: Share,
        photo: Photo,
        cost: PictureCost | InputError,
        limit: Deadline,
        allowance: Allowance,
    ) -> tuple[Predictions, Pixels | None]:
        """Decodes a picture within the request's allowance; an error is recorded, not raised."""

        def pixels() -> Pixels:
            if isinstance(cost, InputError):
                raise cost
            limits = ImageLimits(self._limits.image_bytes, self._limits.pixels)
            return self.pool.decode_costed(photo.data, limits, cost, limit, allowance)

        return await run_sharing(share, self._threads, decode_photo, pixels)

    def _admit(
        self, share: Share, photos: Sequence[Photo], limit: Deadline
    ) -> list[PictureCost | InputError]:
        costs: list[PictureCost | InputError] = []
        pixels_left = self._limits.pixels
        for photo in photos:
            cost = _cost(photo.data, ImageLimits(self._limits.image_bytes, pixels_left))
            costs.append(cost)
            if not isinstance(cost, InputError):
                pixels_left -= cost.width * cost.height
        known = [cost for cost in costs if not isinstance(cost, InputError)]
        if known:  # decoded one by one
            peak_bytes = max(cost.peak_bytes for cost in known)
            share.enter(sum(map(pixel_bytes, known)) + peak_bytes, limit)
        return costs


async def run_sharing(
    share: Share, threads: ThreadPoolExecutor, function: Callable[..., T], *arguments: object
) -> T:
    """Runs a function in a thread that uses the share until it ends, also if cancelled."""
    future = threads.submit(copy_context().run, function, *arguments)
    share.join(future)
    future.add_done_callback(share.leave)
    return await asyncio.wrap_future(future)


def _cost(data: bytes, limits: ImageLimits) -> PictureCost | InputError:
    try:
        return picture_cost(data, limits)
    except InputError as error:
        return error.with_traceback(None)
