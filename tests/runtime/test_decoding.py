"""Decoding in processes: equal pixels, order, memory, interrupts, and closing."""

from __future__ import annotations

import io
import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from runtime import AgeMoE, ClosedError, DeadlineError, Face, ImageError, ImageLimits
from runtime.deadline import Deadline
from runtime.decoding import DecoderPool, job
from runtime.errors import ImageTooLargeError
from runtime.images import load_rgb, picture_cost
from runtime.labeling import LabelJob
from runtime.photographs import predict_photo
from tests.runtime.decoders import LIMITS, READ, children, encoded, hanging, open_files, wait_until
from tests.runtime.tiny_engines import Tiny, write_engines


def in_modes() -> Iterator[tuple[str, bytes]]:
    """Yields a picture in every mode and format."""
    picture = Image.open(io.BytesIO(encoded()))
    saved = {
        "PNG": ("1", "L", "LA", "P", "RGB", "RGBA", "I;16"),
        "JPEG": ("L", "RGB", "CMYK", "YCbCr"),
        "WEBP": ("RGB", "RGBA"),
    }
    for kind, modes in saved.items():
        for mode in modes:
            for orientation in (1, 6):
                buffer, exif = io.BytesIO(), Image.Exif()
                exif[0x0112] = orientation
                made = picture.convert("I").convert(mode) if "16" in mode else picture.convert(mode)
                made.save(buffer, kind, exif=exif)
                yield f"{kind} {mode} {orientation}", buffer.getvalue()


@pytest.mark.parametrize(("name", "data"), list(in_modes()), ids=lambda value: str(value)[:14])
def test_pixels_are_those_of_load_rgb(shared: DecoderPool, name: str, data: bytes) -> None:
    decoded = shared.decode(data, LIMITS)
    expected = load_rgb(data, LIMITS)
    assert decoded.dtype == np.uint8
    assert np.array_equal(decoded, expected), name
    decoded[0, 0] = 7  # it is the caller's own


def test_all_sources_are_taken(shared: DecoderPool, tmp_path: Path) -> None:
    data = encoded()
    expected = load_rgb(data, LIMITS)
    (tmp_path / "a.png").write_bytes(data)
    sources: list[Any] = [tmp_path / "a.png", str(tmp_path / "a.png"), io.BytesIO(data), data]
    for source in sources:
        assert np.array_equal(shared.decode(source, LIMITS), expected)
    assert shared.decode(expected, LIMITS) is expected
    assert np.array_equal(shared.decode(Image.fromarray(expected), LIMITS), expected)


@pytest.mark.parametrize(
    ("source", "limits"),
    [
        (b"no picture", LIMITS),
        (encoded()[:200], LIMITS),
        (encoded("JPEG")[:200], LIMITS),
        (encoded(), ImageLimits(max_pixels=100)),
        (encoded(), ImageLimits(max_bytes=100)),
        (Path("nowhere.png"), LIMITS),
        (encoded().replace(b"IDAT", b"IDAX"), LIMITS),
    ],
)
def test_errors_are_those_of_load_rgb(
    shared: DecoderPool, source: bytes | Path, limits: ImageLimits
) -> None:
    with pytest.raises((ImageError, ImageTooLargeError)) as expected:
        load_rgb(source, limits)
    with pytest.raises(type(expected.value)) as found:
        shared.decode(source, limits)
    assert str(found.value) == str(expected.value)


def test_two_processes_serve_many_threads(shared: DecoderPool) -> None:
    pictures = [encoded(size=(20 + seed % 9, 11), seed=seed) for seed in range(200)]
    files, processes = open_files(), children()
    with ThreadPoolExecutor(32) as threads:
        found = list(threads.map(lambda data: shared.decode(data, LIMITS), pictures))
    for data, pixels in zip(pictures, found, strict=True):
        assert np.array_equal(pixels, load_rgb(data, LIMITS))
    assert (open_files(), children()) == (files, processes)
    assert set(shared.ended.values()) == {0}


def test_long_pictures_leave_a_process_to_the_others(
    fake: Callable[..., None], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    begun, others = tmp_path / "begun", children()
    fake(hanging(begun))
    long, short = encoded(size=(60, 60)), encoded(size=(9, 9))
    monkeypatch.setattr(job, "_LONG_BYTES", picture_cost(long, LIMITS).peak_bytes)
    with DecoderPool(2, max_seconds=600.0) as decoders, ThreadPoolExecutor(3) as threads:
        first = threads.submit(decoders.decode, long, LIMITS)
        wait_until(begun.exists)
        stuck = children() - others
        second = threads.submit(decoders.decode, long, LIMITS)
        assert decoders.decode(short, LIMITS).shape == (9, 9, 3)
        assert not second.done()
        os.kill(stuck.pop(), signal.SIGKILL)
        assert isinstance(first.exception(30.0), ImageError)
        assert second.result(30.0).shape == (60, 60, 3)


def test_closing_waits_for_the_pictures_under_way(
    fake: Callable[..., None], tmp_path: Path
) -> None:
    begun, others = tmp_path / "begun", children()
    fake(hanging(begun))
    decoders = DecoderPool(1, max_seconds=600.0)
    with ThreadPoolExecutor(2) as threads:
        held = threads.submit(decoders.decode, encoded(), LIMITS)
        wait_until(begun.exists)
        closing = threads.submit(decoders.close)
        wait_until(lambda: not decoders._calls._open)
        with pytest.raises(ClosedError, match="This DecoderPool was closed"):
            decoders.decode(encoded(), LIMITS)
        assert not closing.done()
        (decoder,) = children() - others
        os.kill(decoder, signal.SIGKILL)
        closing.result(30.0)
        assert isinstance(held.exception(), ImageError)
    decoders.close()
    assert children() == others


def test_the_budget_is_held_while_a_picture_is_decoded(
    fake: Callable[..., None], tmp_path: Path
) -> None:
    begun, others = tmp_path / "begun", children()
    fake(hanging(begun))
    needed = job.memory_bytes(picture_cost(encoded(), LIMITS))
    with (
        DecoderPool(2, max_seconds=600.0, budget_bytes=needed) as decoders,
        ThreadPoolExecutor(1) as threads,
    ):
        held = threads.submit(decoders.decode, encoded(), LIMITS)
        wait_until(begun.exists)
        with pytest.raises(DeadlineError):
            decoders.decode(encoded(), LIMITS, Deadline.of(20))
        (decoder,) = children() - others
        os.kill(decoder, signal.SIGKILL)
        assert isinstance(held.exception(30.0), ImageError)
        assert decoders.decode(encoded(size=(99, 99)), LIMITS).shape == (99, 99, 3)
        assert decoders._memory is not None
        assert decoders._memory.used == 0


@pytest.mark.parametrize("options", [{"processes": 0}, {"max_seconds": 0.0}, {"budget_bytes": -1}])
def test_options_are_positive(options: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="positive"):
        DecoderPool(**options)


def test_agemoe_and_photographs_use_the_decoder(shared: DecoderPool, tmp_path: Path) -> None:
    seen: list[object] = []

    def decode(source: Any, limits: ImageLimits, deadline: Deadline | None) -> Any:
        seen.append(deadline)
        return shared.decode(source, limits, deadline)

    engines, data, deadline = write_engines(tmp_path, {"a": Tiny()}), encoded(), Deadline.of(60_000)
    with AgeMoE(engines, device="cpu") as moe:
        expected = moe.predict(data)
        assert predict_photo(moe, data, decoder=decode) == []
    with AgeMoE(engines, device="cpu", detector="haar", decoder=decode) as moe:
        assert moe.predict(data) == expected
        assert moe.predict([Face(data), Face(data)], deadline_ms=deadline) == [expected] * 2
        assert moe.predict_photo(data) == []
        with pytest.raises(ImageError, match="is not JPEG"):
            moe.predict(b"no picture")
    assert seen == [None, None, deadline, None, None]


def test_a_photograph_that_stops_its_decoder_does_not_stop_a_job(
    fake: Callable[..., None], tmp_path: Path
) -> None:
    fake(READ + "os._exit(1)")
    paths = [str(tmp_path / f"{name}.png") for name in "ab"]
    for path in paths:
        Path(path).write_bytes(encoded())
    job = LabelJob(str(write_engines(tmp_path, {"a": Tiny()})), faces="whole", device="cpu")
    with job.opened() as labeler:
        (_, (bad,)), (_, (good,)) = labeler.label(paths)
    assert "ended its decoder" in str(bad["error"])
    assert good["age_years"] is not None


def test_an_interrupt_ends_the_picture_and_leaves_the_pool_usable(
    fake: Callable[..., None], tmp_path: Path
) -> None:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    begun = tmp_path / "begun"
    fake(hanging(begun))

    def interrupting() -> None:
        wait_until(begun.exists)
        os.kill(os.getpid(), signal.SIGINT)

    interrupt = threading.Thread(target=interrupting)
    with DecoderPool(1, max_seconds=600.0) as decoders:
        interrupt.start()
        with pytest.raises(KeyboardInterrupt):
            decoders.decode(encoded(), LIMITS)
        interrupt.join()
        signal.signal(signal.SIGINT, before)
        assert decoders.decode(encoded(), LIMITS).shape == (16, 24, 3)
