"""What is under way on a GPU, and whether the GPU is still there."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from runtime.backends.gpu.cuda import Cuda, Event, Stream
from runtime.errors import CudaError


class Health:
    """Whether a device can still be used, noticed by whoever touches it."""

    def __init__(self) -> None:
        """As far as is known it can."""
        self.lost: CudaError | None = None

    def check(self) -> None:
        """Raises the error with which the device was lost, if it was."""
        if self.lost is not None:
            raise self.lost.with_traceback(None)  # or it would grow with every raise

    @contextlib.contextmanager
    def watch(self) -> Iterator[None]:
        """Notices the loss of the device within."""
        try:
            yield
        except CudaError as error:
            if error.lost:
                self.lost = error
            raise


class Mark:
    """The end of what a batch enqueued in one stream, also if enqueuing failed half-way."""

    def __init__(self, cuda: Cuda, event: Event, stream: Stream) -> None:
        """Nothing was enqueued yet."""
        self.event = event
        self._cuda = cuda
        self._stream = stream
        self._stands = True

    @contextlib.contextmanager
    def behind(self) -> Iterator[None]:
        """Sets the mark behind what is enqueued within, or later if that fails."""
        self._stands = False
        yield
        self._set()

    def reached(self) -> bool:
        """Whether the device has come to it."""
        if not self._stands:
            self._set()
        return self._cuda.reached(self.event)

    def _set(self) -> None:
        self._cuda.record(self.event, self._stream)
        self._stands = True
