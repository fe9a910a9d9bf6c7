"""One picture to decode, and the processor time that several may share."""

from __future__ import annotations

import threading
from dataclasses import dataclass

from runtime.deadline import Deadline
from runtime.errors import ImageError
from runtime.image_costs import PictureCost
from runtime.image_files import JPEG, JPEG_SCAN
from runtime.images import ImageLimits

_LONG_BYTES = 256 << 20
"""Peak memory times scans of a picture whose decoding takes long: 0.3 s."""
_SCAN = bytes([0xFF, JPEG_SCAN])
"""Starts a scan of a JPEG, each of which takes a pass over all pixels."""
_SPARE_BYTES = 64 << 20
"""Memory that a decoder may take beside twice the expected peak, before it gets a MemoryError."""


class Allowance:
    """Processor time for the decoding of several pictures together."""

    def __init__(self, seconds: float) -> None:
        """Takes the time for all of them."""
        self.seconds = seconds
        self._left = seconds
        self._lock = threading.Lock()

    @property
    def left(self) -> float:
        """What is left, in seconds; 0 if nothing is."""
        return max(self._left, 0.0)

    def error(self) -> ImageError:
        """Returns the error of a picture for which too little is left."""
        if self._left == self.seconds:
            found, cure = "The picture takes", "Save it again, or send a smaller one."
        else:
            found, cure = "The request's pictures together take", "Send fewer or smaller ones."
        return ImageError(f"{found} longer than {self.seconds:g} s to decode. {cure}")

    def take(self, seconds: float) -> None:
        """Counts what a picture has used."""
        with self._lock:
            self._left -= seconds

    def end(self) -> None:
        """Takes everything: pictures that wait for a process are not decoded."""
        self.take(self.seconds)


@dataclass(frozen=True, slots=True)
class Job:
    """One picture to decode."""

    data: bytes
    limits: ImageLimits
    cost: PictureCost
    deadline: Deadline | None
    allowance: Allowance
    """Of the picture, and of those that share it."""

    @property
    def takes_long(self) -> bool:
        """Whether its header announces much work."""
        scans = max(self.data.count(_SCAN), 1) if self.cost.format == JPEG else 1
        return scans * self.cost.peak_bytes >= _LONG_BYTES

    @property
    def memory_limit(self) -> int:
        """Bytes that decoding may take, far more than expected."""
        return 2 * self.cost.peak_bytes + 3 * len(self.data) + _SPARE_BYTES


def memory_bytes(cost: PictureCost) -> int:
    """Returns the memory that decoding takes in a decoder and, for the pixels, in this process."""
    return cost.peak_bytes + pixel_bytes(cost)


def pixel_bytes(cost: PictureCost) -> int:
    """Returns the memory of a decoded picture."""
    return 3 * cost.width * cost.height
