"""Hostile pictures reach decoders within the stated bounds or not at all."""

from __future__ import annotations

import base64
import json
import struct
from collections import Counter
from collections.abc import Iterator

import pytest

from benchmarks.attacks import Kind, chosen, table, wrong
from benchmarks.hostile import Hostile, corpus
from benchmarks.hostile.costs import Cost
from benchmarks.hostile.requests import hostile_requests
from runtime.errors import ImageError, InputError
from runtime.image_files import (
    MAX_CHUNKS,
    MAX_SCANNED_PIXELS,
    MAX_SCANS,
    MAX_SEGMENTS,
    MAX_TABLE_BYTES,
    read_picture_file,
)
from runtime.images import ImageLimits, load_rgb

LIMITS = ImageLimits()
SMALL = [one for one in corpus() if one.small]
REFUSED_UNREAD = {
    ("JPEG with many segments", "16000000 second starts"),
    ("JPEG with many segments", "8000000 comments"),
    ("JPEG with many tables", "quantization"),
    ("JPEG with many tables", "empty codes"),
    ("JPEG with many scans", "13 of AC, gray, 7071×7071"),
    ("PNG with many chunks", "2700000 empty IDAT"),
    ("WebP animations", "400000 of 8 on 8"),
    ("WebP with many chunks", "3900000 empty ANMF"),
}


def jpeg_segments(data: bytes) -> Iterator[tuple[int, bytes]]:
    """A twin of the parser that looks at every byte."""
    place = 2
    while place < len(data) - 1:
        if data[place] == 0xFF and data[place + 1] not in (0, 1, 0xFF, *range(0xD0, 0xD8)):
            marker = data[place + 1]
            if marker == 0xD9:
                return
            size = int.from_bytes(data[place + 2 : place + 4], "big")
            yield marker, data[place + 4 : place + 2 + size]
            place += 2 + size
        else:
            place += 1


def check_jpeg(data: bytes) -> None:
    counts: Counter[int] = Counter()
    pixels, table_bytes = 0, 0
    for marker, content in jpeg_segments(data):
        counts[marker] += 1
        table_bytes += 4 + len(content)
        assert marker not in (0xE1, 0xE2, 0xED, 0xFE), "metadata"
        assert marker != 0xD8
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC) and len(content) > 6:
            assert marker < 0xC8, "arithmetic coding"
            height, width = struct.unpack_from(">HH", content, 1)
            pixels = pixels or width * height
    assert counts.total() <= MAX_SEGMENTS
    assert counts[0xDA] <= MAX_SCANS
    assert counts[0xDA] * pixels <= MAX_SCANNED_PIXELS
    assert table_bytes <= MAX_TABLE_BYTES


def check_png(data: bytes) -> None:
    place, chunks = 8, 0
    while place + 8 <= len(data):
        size, kind = struct.unpack_from(">I4s", data, place)
        assert kind == b"tRNS" or kind[:1].isupper() or not kind.isalpha(), "metadata"
        place, chunks = place + 12 + size, chunks + 1
    assert chunks <= MAX_CHUNKS + 1


def check_webp(data: bytes) -> None:
    place, kinds = 12, []
    while place + 8 <= len(data):
        kind, size = struct.unpack_from("<4sI", data, place)
        kinds.append(kind)
        place += 8 + size + size % 2
    assert max(Counter(kinds).values(), default=0) <= 1
    assert not {b"EXIF", b"XMP ", b"ICCP"} & set(kinds)


CHECKS = {"JPEG": check_jpeg, "PNG": check_png, "WEBP": check_webp}


def load(picture: Hostile) -> bool:
    """Loads a picture as users do and checks what reached the decoder; tells if it was read."""
    data = picture.make()
    try:
        file = read_picture_file(data)
    except ImageError:
        file = None
    if file is not None:
        assert len(file.data) <= len(data) + 1_000, "the decoder gets no more than was sent"
        CHECKS[file.format](file.data)
    try:
        pixels = load_rgb(data, LIMITS)
    except InputError:  # any other error fails the test
        return False
    assert pixels.shape[0] * pixels.shape[1] <= LIMITS.max_pixels
    return True


@pytest.mark.parametrize("kind", sorted({one.kind for one in SMALL}))
def test_small_hostile_pictures_are_within_the_bounds(kind: str) -> None:
    read = [load(one) for one in SMALL if one.kind == kind]
    if kind in ("other formats", "garbage"):
        readable = [one.name for one, found in zip(_of(kind), read, strict=True) if found]
        assert set(readable) <= {"MPO"}, "a JPEG with further pictures"


def _of(kind: str) -> list[Hostile]:
    return [one for one in SMALL if one.kind == kind]


@pytest.mark.parametrize(
    "picture", [one for one in corpus() if (one.kind, one.name) in REFUSED_UNREAD]
)
def test_large_ones_are_refused_before_a_decoder_sees_them(picture: Hostile) -> None:
    with pytest.raises(ImageError, match=r"take too long to decode|starts a second time"):
        read_picture_file(picture.make())


def test_the_corpus_is_the_same_in_every_run() -> None:
    pictures = corpus()
    assert len(pictures) > 400
    assert len({(one.kind, one.name) for one in pictures}) == len(pictures)
    assert {(one.kind, one.name) for one in pictures} >= REFUSED_UNREAD
    for one in SMALL[::20]:
        assert one.make() == one.make()
    names = [(one.kind, one.name) for one in hostile_requests()]
    assert len(set(names)) == len(names)


def test_the_choice_holds_every_kind_and_all_small_pictures() -> None:
    picked = chosen(corpus(), "")
    assert len(picked) > 400
    assert {one.kind for one in picked} == {one.kind for one in corpus()}
    assert {(one.kind, one.name) for one in SMALL} <= {(one.kind, one.name) for one in picked}
    assert Counter(chosen(corpus(), "", everything=True)) == Counter(corpus())
    assert {one.kind for one in chosen(corpus(), "apng")} == {"APNG"}


def test_what_lies_beyond_the_bounds_is_reported() -> None:
    fine, slow = Cost(0.1, 5_000_000, "200"), Cost(2.5, 5_000_000, "200")
    large, foreign = Cost(0.1, 250_000_000, "200"), Cost(0.1, 0, "FOREIGN KeyError: 1")
    kinds = {
        "a": Kind({"x": fine}, {"x": fine}, slowdown=1.9),
        "b": Kind({"x": foreign}, {"x": slow, "y": large}, slowdown=2.1),
    }
    bounds = {"max_cpu_seconds": 2.0, "max_mb": 200.0, "max_slowdown": 2.0}
    lines = wrong(kinds, **bounds)
    assert lines == [
        "- b, x, library: FOREIGN KeyError: 1",
        "- b, x, service: 2.5 s",
        "- b, y, service: 250 MB",
        "- b: a normal request takes 2.1 × its usual time",
    ]
    assert "| b | 2 | 0.10 | 0 | 2.50 | 250 | 2.1 | x: 200 |" in table(kinds)
    assert not wrong({"a": kinds["a"]}, **bounds)


def test_the_turned_pictures_of_a_request_can_be_decoded() -> None:
    (one,) = [
        one for one in hostile_requests() if (one.kind, one.name) == ("16 pictures", "turned")
    ]
    data = base64.b64decode(json.loads(one.make())["images"][0])
    file = read_picture_file(data)
    assert file is not None
    assert file.orientation == 6
    assert load_rgb(data, LIMITS).shape
