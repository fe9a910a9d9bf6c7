"""What runs in the process that decodes a video: its path comes in, evenly spaced frames go out.

The request is JSON, up to the end of standard input. The reply is READY, then for each frame a
`REPLY` and its pixels, and last a `REPLY` without either; an error has text instead of pixels.
"""

from __future__ import annotations

import json
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from runtime.decoding.limits import bounded
from runtime.decoding.worker import MOST_TEXT, READY, REPLY, own_streams, write_all

MOST_FRAMES = 36_000
"""Twenty minutes at 30 frames per second."""


class _VideoError(Exception):
    """The video cannot be used."""


def serve() -> None:
    """Decodes one video."""
    requests, replies = own_streams()
    options = json.loads(requests.read())
    write_all(replies, READY)
    with bounded(options["seconds"], options["memory_bytes"]):
        try:
            frames = _frames(options["path"], options["frames"], options["max_pixels"])
        except (_VideoError, MemoryError) as error:
            _send_text(replies, str(error) or "Its frames take too much memory.")
            return
        except Exception as error:  # noqa: BLE001 - of OpenCV, whatever a file makes it do
            _send_text(replies, f"It cannot be decoded ({type(error).__name__}: {error}).")
            return
        for frame in frames:
            pixels = np.ascontiguousarray(frame[:, :, ::-1])  # OpenCV's order is BGR
            write_all(replies, REPLY.pack(*pixels.shape[:2], 0))
            write_all(replies, pixels.data.cast("B"))
        write_all(replies, REPLY.pack(0, 0, 0))


def _send_text(replies: IO[bytes], text: str) -> None:
    data = text.encode("utf-8", "backslashreplace")[:MOST_TEXT]
    write_all(replies, REPLY.pack(0, 0, len(data)) + data)


def _frames(path: str, count: int, max_pixels: int) -> list[NDArray[np.uint8]]:
    """Returns at most `count` evenly spaced frames, uint8 BGR (H, W, 3).

    What a video says about its length is not used. At first all frames are kept; whenever there are
    twice as many as wanted, every second one is dropped, and half as many are kept from there on.
    """
    import cv2

    capture = cv2.VideoCapture(path, cv2.CAP_FFMPEG, [cv2.CAP_PROP_N_THREADS, 1])
    try:
        if not capture.isOpened():
            raise _VideoError("It is no video that OpenCV's FFmpeg can read.")
        width, height = cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT
        _check_size(int(capture.get(width)), int(capture.get(height)), count, max_pixels)
        return evenly(_kept(capture, count, max_pixels), count)
    finally:
        capture.release()


def _kept(capture: Any, count: int, max_pixels: int) -> list[NDArray[np.uint8]]:  # noqa: ANN401
    kept: list[NDArray[np.uint8]] = []
    stride, number = 1, 0
    while capture.grab():
        if number == MOST_FRAMES:
            raise _VideoError(f"It has more than {MOST_FRAMES:,} frames. Cut it.")
        if number % stride == 0:
            fine, frame = capture.retrieve()
            if fine and frame is not None:
                _check_size(frame.shape[1], frame.shape[0], count, max_pixels)
                kept.append(frame)
            if len(kept) == 2 * count:
                kept, stride = kept[::2], 2 * stride
        number += 1
    return kept


def _check_size(width: int, height: int, count: int, max_pixels: int) -> None:
    if 2 * count * width * height > max_pixels:
        most = max_pixels // max(2 * width * height, 1)
        cure = f"At most {most} fit: --frames {most}." if most else "Make it smaller."
        raise _VideoError(f"{count} frames of {width}×{height} are too many pixels. {cure}")


def evenly(items: list[Any], count: int) -> list[Any]:
    """Returns at most `count` evenly spaced items, the first and the last among them."""
    if len(items) <= count:
        return items
    places = np.linspace(0, len(items) - 1, count) if count > 1 else [(len(items) - 1) / 2]
    return [items[round(float(place))] for place in places]
