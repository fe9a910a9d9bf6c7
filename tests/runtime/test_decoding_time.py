"""Limits on the time for decoding: of a picture, of several together, and deadlines."""

from __future__ import annotations

import io
import os
import signal
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from PIL import Image

from runtime import DeadlineError, ImageError
from runtime.deadline import Deadline
from runtime.decoding import DecoderPool, pool
from runtime.decoding.job import Allowance
from runtime.images import picture_cost
from tests.runtime.decoders import LIMITS, READ, children, encoded, hanging, wait_until

SOON = 0.01
"""Seconds that a decoder which does nothing is given."""


def test_a_picture_that_takes_too_long_is_refused(
    fake: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool, "_CLOCK_SPARE_SECONDS", 0.0)
    fake(READ + "time.sleep(600)")
    with DecoderPool(1, max_seconds=SOON) as decoders:
        with pytest.raises(ImageError, match=r"takes longer than 0\.01 s to decode"):
            decoders.decode(encoded(), LIMITS)
        decoders.max_seconds = 60.0
        assert decoders.decode(encoded(), LIMITS).shape == (16, 24, 3)
        assert decoders.ended == {"time": 1, "deadline": 0, "crash": 0}


def test_pictures_share_an_allowance(fake: Callable[..., None]) -> None:
    used = "i.read(struct.unpack('<IQ', i.read(12))[0] + len(data)); "
    reply = "o.write(struct.pack('<III', 1, 1, 0) + bytes(3) + struct.pack('<?d', 0, SECONDS)); "
    answers = (reply + "o.flush(); " + used).replace("SECONDS", "2.0") + reply + "o.flush(); "
    fake(READ + answers.replace("SECONDS", "2.5") + "time.sleep(600)")
    data, cost = encoded(), picture_cost(encoded(), LIMITS)
    allowance = Allowance(4.0)
    with DecoderPool(1) as decoders:
        decoders.start()
        decoders.decode_costed(data, LIMITS, cost, allowance=allowance)
        assert allowance.left == 2.0
        decoders.decode_costed(data, LIMITS, cost, allowance=allowance)
        assert allowance.left == 0.0, "2.5 s of the 2 s that were left"
        with pytest.raises(ImageError, match="request's pictures together take longer than 4"):
            decoders.decode_costed(data, LIMITS, cost, allowance=allowance)
        assert decoders.ended == {"time": 0, "deadline": 0, "crash": 0}, "it was not begun"


@pytest.mark.parametrize("seconds", ["float('nan')", "-1.0", "1e300"])
def test_nonsense_about_the_time_counts_as_all_of_it(
    fake: Callable[..., None], seconds: str
) -> None:
    end = f"struct.pack('<?d', 0, {seconds})"
    fake(READ + f"o.write(struct.pack('<III', 1, 1, 0) + bytes(3) + {end}); o.flush(); i.read()")
    allowance = Allowance(4.0)
    with DecoderPool(1) as decoders:
        cost = picture_cost(encoded(), LIMITS)
        decoders.decode_costed(encoded(), LIMITS, cost, allowance=allowance)
    assert allowance.left == 0.0


def test_a_picture_that_ends_its_process_uses_up_the_allowance(fake: Callable[..., None]) -> None:
    fake(READ + "os._exit(3)")
    allowance = Allowance(4.0)
    with DecoderPool(1) as decoders:
        cost = picture_cost(encoded(), LIMITS)
        with pytest.raises(ImageError, match="ended its decoder"):
            decoders.decode_costed(encoded(), LIMITS, cost, allowance=allowance)
    assert allowance.left == 0.0, "what it has used is not known"


def test_a_picture_that_waits_is_given_up_with_its_allowance(
    fake: Callable[..., None], tmp_path: Path
) -> None:
    begun, others = tmp_path / "begun", children()
    fake(hanging(begun))
    data, cost, allowance = encoded(), picture_cost(encoded(), LIMITS), Allowance(600.0)
    with DecoderPool(1, max_seconds=600.0) as decoders, ThreadPoolExecutor(2) as threads:
        first = threads.submit(decoders.decode, data, LIMITS)
        wait_until(begun.exists)
        second = threads.submit(decoders.decode_costed, data, LIMITS, cost, None, allowance)
        wait_until(lambda: decoders._slots.waiting)
        allowance.end()
        (decoder,) = children() - others
        os.kill(decoder, signal.SIGKILL)
        assert isinstance(first.exception(30.0), ImageError)
        assert "take longer than 600 s" in str(second.exception(30.0))


def test_the_processor_time_of_a_picture_is_reported(shared: DecoderPool) -> None:
    allowance, data = Allowance(60.0), encoded(size=(500, 500))
    shared.decode_costed(data, LIMITS, picture_cost(data, LIMITS), allowance=allowance)
    assert 0.0 < 60.0 - allowance.left < 60.0


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="no limit on processor time")
def test_processor_time_ends_a_picture_whatever_the_clock_says() -> None:
    picture = io.BytesIO()
    Image.new("L", (7000, 7000)).save(picture, "PNG")
    with DecoderPool(1, max_seconds=1e-6) as decoders:
        decoders.start()
        pool_factor = pytest.MonkeyPatch()
        pool_factor.setattr(pool, "_CLOCK_FACTOR", 6e7)
        with pool_factor.context(), pytest.raises(ImageError, match="takes longer than 1e-06 s"):
            decoders.decode(picture.getvalue(), LIMITS)
        pool_factor.undo()
        assert decoders.ended["time"] == 1


def test_a_deadline_ends_the_decoding(
    fake: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool, "_GRACE", 0.0)
    fake(READ + "time.sleep(600)")
    with DecoderPool(1, max_seconds=600.0) as decoders:
        decoders.start()
        with pytest.raises(DeadlineError, match="decoding: deadline of 100 ms passed"):
            decoders.decode(encoded(), LIMITS, Deadline.of(100))
        assert decoders.ended == {"time": 0, "deadline": 1, "crash": 0}
        assert decoders.decode(encoded(), LIMITS, Deadline.of(60_000)).shape == (16, 24, 3)


def test_a_deadline_ends_the_wait_for_a_process(fake: Callable[..., None], tmp_path: Path) -> None:
    begun, others = tmp_path / "begun", children()
    fake(hanging(begun))
    with DecoderPool(1, max_seconds=600.0) as decoders, ThreadPoolExecutor(1) as threads:
        held = threads.submit(decoders.decode, encoded(), LIMITS)
        wait_until(begun.exists)
        with pytest.raises(DeadlineError):
            decoders.decode(encoded(), LIMITS, Deadline.of(1))
        assert decoders.ended["deadline"] == 0, "the other picture goes on"
        (decoder,) = children() - others
        os.kill(decoder, signal.SIGKILL)
        assert isinstance(held.exception(30.0), ImageError)
