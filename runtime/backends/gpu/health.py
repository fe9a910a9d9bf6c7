"""Record of the loss of a GPU."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from runtime.errors import CudaError


class DeviceHealth:
    """The error with which a device was lost, shared by all that uses the device."""

    def __init__(self) -> None:
        """Starts with a working device."""
        self.lost: CudaError | None = None

    def check(self) -> None:
        """Raises the error with which the device was lost, if it was."""
        if self.lost is not None:
            raise self.lost.with_traceback(None)  # else the traceback grows with every raise

    @contextlib.contextmanager
    def watch(self) -> Iterator[None]:
        """Records the loss of the device inside the `with` block."""
        try:
            yield
        except CudaError as error:
            if error.lost:
                self.lost = error
            raise
