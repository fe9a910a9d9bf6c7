"""Frames of a video file, decoded by OpenCV's FFmpeg in a process that is killed when it is late.

Sound is not decoded, and nothing is stored. Of FFmpeg's many formats only the usual containers of
cameras and phones are opened, and of its protocols only files: others, such as playlists, name
further files and addresses to read.
"""

from __future__ import annotations

import contextlib
import json
import os
import stat
import subprocess
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from runtime.deadline import Deadline
from runtime.decoding.limits import warn_of_missing_limits
from runtime.decoding.process import command, environment
from runtime.decoding.worker import MOST_TEXT, READY, REPLY
from runtime.errors import BackendError, DeadlineError, ImageError
from runtime.printing import printable

if TYPE_CHECKING:
    from runtime.geometry import Pixels

VIDEO_FRAMES = 16
"""Frames that are taken by default."""
MOST_VIDEO_FRAMES = 256
VIDEO_SECONDS = 60.0
"""Of processor time; by the clock twice as long, as other work may share the cores."""
_CLOCK_FACTOR = 2.0
_HELD_PIXELS = 200_000_000
"""Of twice the wanted frames, 600 MB: 24 frames of 3840×2160, 96 of 1920×1080."""
_SPARE_BYTES = 1 << 30
"""Memory for OpenCV and FFmpeg, beside the frames."""
_MODULE = "runtime.decoding.video_worker"
_LIMITED = {
    "OPENCV_FFMPEG_CAPTURE_OPTIONS": (
        "protocol_whitelist;file|format_whitelist;mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi"
    ),
    "OPENCV_LOG_LEVEL": "OFF",
}
_HEAD_BYTES = 12
_BOXES = (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip")
"""Of MP4 and QuickTime, at byte 4."""


def video_frames(
    path: str | os.PathLike[str],
    frames: int = VIDEO_FRAMES,
    *,
    max_seconds: float = VIDEO_SECONDS,
    deadline: Deadline | None = None,
) -> list[Pixels]:
    """Returns evenly spaced frames of a video.

    Args:
        path: an MP4, MOV, MKV, WebM or AVI file; no device, pipe or address is opened.
        frames: their number; fewer if the video has no more.
        max_seconds: of processor time; where it cannot be limited (Windows), only the clock counts.
        deadline: ends the decoding.

    Returns:
        uint8 RGB (H, W, 3), in their order, upright if the video tells how it was held.

    Raises:
        ImageError: it is no such file, has no frames, or exceeds a limit.
        BackendError: no process can be started, or it lacks OpenCV.
        DeadlineError: the deadline passed.
        ValueError: the number of frames is out of range.
    """
    if not 1 <= frames <= MOST_VIDEO_FRAMES:
        raise ValueError(f"frames must be within 1..{MOST_VIDEO_FRAMES}, got {frames}.")
    warn_of_missing_limits()
    options = {
        "path": _checked(path),
        "frames": frames,
        "max_pixels": _HELD_PIXELS,
        "seconds": max_seconds,
        "memory_bytes": 4 * _HELD_PIXELS + _SPARE_BYTES,
    }
    limit_seconds = max_seconds * _CLOCK_FACTOR
    if deadline is not None:
        limit_seconds = min(limit_seconds, deadline.remaining_seconds())
    found, text, complete = _parsed(_reply_of(options, limit_seconds))
    if complete and not text and found:
        return found[:frames]
    if text or complete:
        raise ImageError(f"{printable(path)}: {text or 'the video has no frames.'}")
    if deadline is not None and deadline.passed:
        raise DeadlineError({"video": deadline.reason})
    raise ImageError(
        f"{printable(path)}: decoding takes longer than {max_seconds:g} s, or ended the decoder. "
        f"Cut the video, or save it again."
    )


def _reply_of(options: Mapping[str, object], limit_seconds: float) -> bytes:
    """Returns what the process sent until it ended, READY left out."""
    most_bytes = len(READY) + 3 * _HELD_PIXELS + MOST_VIDEO_FRAMES * REPLY.size + MOST_TEXT
    try:
        process = subprocess.Popen(  # noqa: S603 - this Python, with code of ours
            command(_MODULE),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment() | _LIMITED,
        )
    except OSError as error:
        raise BackendError(f"No process for decoding can be started ({error}).") from error
    late = threading.Event()

    def stop() -> None:
        late.set()
        process.kill()

    timer = threading.Timer(limit_seconds, stop)
    timer.daemon = True
    with process:
        try:
            timer.start()
            requests, replies = process.stdin, process.stdout
            if requests is not None:
                with contextlib.suppress(OSError), requests:
                    requests.write(json.dumps(options).encode())
            data = b"" if replies is None else replies.read(most_bytes)
        finally:
            timer.cancel()
            process.kill()
    # A killed process has a negative status, except on Windows.
    if not data.startswith(READY) and process.returncode >= 0 and not late.is_set():
        said = printable(data.decode(errors="replace").strip()) or f"status {process.returncode}"
        raise BackendError(f"The process for decoding videos does not start: {said}")
    return data[len(READY) :]


def _parsed(reply: bytes) -> tuple[list[Pixels], str, bool]:
    """Returns the frames, the error's text, and whether the reply is complete."""
    frames: list[Pixels] = []
    place = 0
    while place + REPLY.size <= len(reply):
        height, width, text_bytes = REPLY.unpack_from(reply, place)
        place += REPLY.size
        if not height * width:
            text = reply[place : place + min(text_bytes, MOST_TEXT)]
            return frames, text.decode(errors="replace"), True
        if place + 3 * height * width > len(reply):
            break
        flat = np.frombuffer(reply, np.uint8, 3 * height * width, place)
        frames.append(flat.reshape(height, width, 3))
        place += flat.size
    return frames, "", False


def _checked(path: str | os.PathLike[str]) -> str:
    """Returns the absolute path of a file that looks like a video.

    Raises:
        ImageError: it is not one.
    """
    name = os.fspath(path)
    shown = printable(name)
    if "://" in name:
        raise ImageError(f"{shown} is an address. Videos are read from files only.")
    try:
        regular = stat.S_ISREG(os.stat(name).st_mode)  # noqa: PTH116 - opening a pipe would block
        head = _head(Path(name)) if regular else b""
    except (OSError, ValueError) as error:
        raise ImageError(f"{shown} cannot be read ({printable(error)}).") from error
    if not regular:
        raise ImageError(f"{shown} is no regular file. Videos are read from files only.")
    if not (
        head[4:8] in _BOXES
        or head[:4] == b"\x1aE\xdf\xa3"  # Matroska and WebM
        or (head[:4], head[8:12]) == (b"RIFF", b"AVI ")
    ):
        raise ImageError(f"{shown} is no MP4, MOV, MKV, WebM or AVI video.")
    return str(Path(name).resolve())


def _head(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(_HEAD_BYTES)
