"""A limit on what face detectors look at, which several pictures share."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from runtime.errors import InputError

D = TypeVar("D")


class SearchLimit:
    """Pixels that a detector's network may look at, over several pictures."""

    def __init__(self, pixels: int) -> None:
        """Takes the pixels for all pictures together."""
        self.pixels = pixels
        self.left = pixels

    def take(self, pixels: int) -> None:
        """Counts the pixels that the network is going to look at.

        Raises:
            InputError: they are more than are left.
        """
        if pixels > self.left:
            self.left = 0
            raise self.error()
        self.left -= pixels

    def error(self) -> InputError:
        """Returns the error of a picture for which too little is left."""
        return InputError(
            f"To find the faces of these pictures, the detector would look at more than "
            f"{self.pixels:,} pixels. Send fewer pictures at a time, or the boxes of the faces."
        )


def limited(detector: D, limit: SearchLimit) -> D:
    """Returns a detector that counts what its network looks at; itself if it does not count."""
    limited_to: Callable[[SearchLimit], D] | None = getattr(detector, "limited_to", None)
    return detector if limited_to is None else limited_to(limit)
