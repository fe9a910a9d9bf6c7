"""Decoding in processes: equal pixels, and what happens when a process does not answer."""

from __future__ import annotations

import gc
import io
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from runtime import AgeMoE, ClosedError, DeadlineError, Face, ImageError, ImageLimits
from runtime.deadline import Deadline
from runtime.decoding import DecoderPool, job, pool, process
from runtime.decoding.job import Allowance
from runtime.decoding.process import Decoder
from runtime.errors import BackendError, ImageTooLargeError
from runtime.images import load_rgb, picture_cost
from runtime.labeling import LabelJob
from runtime.photographs import predict_photo
from tests.runtime.tiny_engines import Tiny, write_engines

ROOT = Path(__file__).parents[2]
LIMITS = ImageLimits()
SOON = 0.01
"""Seconds that a decoder which does nothing is given."""
READ = "import struct, sys, os, time; print('ready', flush=True); i, o = sys.stdin.buffer, "
READ += "sys.stdout.buffer; a, b = struct.unpack('<IQ', i.read(12)); data = i.read(a + b)[a:]\n"
"""Start of a fake decoder, which has read its first request."""


def encoded(kind: str = "PNG", size: tuple[int, int] = (24, 16), seed: int = 0) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


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


@pytest.fixture(scope="module")
def shared() -> Iterator[DecoderPool]:
    """Two processes."""
    with DecoderPool(2) as decoders:
        decoders.start()
        yield decoders


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Makes the next processes that start run other code."""
    real = process.command

    def replace(code: str, *, times: int = 1) -> None:
        left = [times]

        def command() -> list[str]:
            left[0] -= 1
            return [sys.executable, "-c", code] if left[0] >= 0 else real()

        monkeypatch.setattr(process, "command", command)

    return replace


def open_files() -> int:
    gc.collect()
    return len(list(Path("/proc/self/fd").iterdir()))


def children() -> set[int]:
    """Returns the processes that this one has started and not awaited, zombies included."""
    lists = [task / "children" for task in Path("/proc/self/task").iterdir()]
    return {int(number) for path in lists for number in path.read_text().split()}


def wait_until(condition: Callable[[], object]) -> None:
    limit = time.monotonic() + 30.0
    while not condition():
        assert time.monotonic() < limit
        time.sleep(0.005)


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
    fake(READ + f"open({str(begun)!r}, 'w'); time.sleep(600)")
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


@pytest.mark.parametrize(
    ("rest", "reason"),
    [
        ("os._exit(3)", "status 3"),
        ("os.kill(os.getpid(), 11)", "SIGSEGV"),
        (
            "o.write(struct.pack('<III', 16, 24, 0)); o.write(bytes(99)); o.flush(); os._exit(4)",
            "4",
        ),
        ("o.write(struct.pack('<III', 70000, 70000, 0)); o.flush(); time.sleep(600)", "SIGKILL"),
        ("o.write(struct.pack('<III', 0, 0, 0)); o.flush(); time.sleep(600)", "SIGKILL"),
        ("o.write(struct.pack('<III', 0, 0, 1 << 31)); o.flush(); time.sleep(600)", "SIGKILL"),
        ("o.write(struct.pack('<III', 9, 9, 9) + b'ImageError'); o.flush(); time.sleep(600)", ""),
        ("os.close(1); time.sleep(600)", "SIGKILL"),
    ],
)
def test_a_process_that_ends_or_answers_nonsense_spoils_its_picture_only(
    fake: Callable[..., None], rest: str, reason: str
) -> None:
    fake(READ + rest)
    files, processes = open_files(), children()
    with DecoderPool(1) as decoders:
        with pytest.raises(ImageError, match=rf"ended its decoder \(.*{reason}\)"):
            decoders.decode(encoded(), LIMITS)
        assert np.array_equal(decoders.decode(encoded(), LIMITS), load_rgb(encoded(), LIMITS))
        assert decoders.ended == {"time": 0, "deadline": 0, "crash": 1}
    assert (open_files(), children()) == (files, processes)


def test_a_process_that_was_killed_while_it_was_idle_spoils_no_picture() -> None:
    before = children()
    with DecoderPool(2) as decoders:
        decoders.start()
        for pid in children() - before:
            os.kill(pid, signal.SIGKILL)
            os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        assert decoders.decode(encoded(), LIMITS).shape
        assert not sum(decoders.ended.values())


def test_an_interrupt_while_a_process_starts_leaves_no_process(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def interrupted(decoder: Decoder) -> None:
        started.append(decoder.pid)
        raise KeyboardInterrupt

    started: list[int] = []
    with DecoderPool(1) as decoders:
        with monkeypatch.context() as patched:
            patched.setattr(Decoder, "wait_ready", interrupted)
            with pytest.raises(KeyboardInterrupt) as caught:  # which holds the frame, as a shell
                decoders.decode(encoded(), LIMITS)
        assert caught
        assert not children().intersection(started)
        assert decoders.decode(encoded(), LIMITS).shape


def test_a_process_imports_nothing_from_the_working_directory(tmp_path: Path) -> None:
    folder = tmp_path / "strangers"
    folder.mkdir()
    code = "import os, runtime.images\nfrom runtime.decoding.process import Decoder\n"
    code += f"os.chdir({str(folder)!r})\nDecoder().wait_ready(); print('decodes')"
    for name in ("numpy", "runtime", "PIL", "json"):
        path = folder / f"{name}.py"
        path.write_text(f"open({str(tmp_path / name)!r}, 'w').close()", encoding="utf-8")
    command = [sys.executable, "-c", code]  # whose search path begins with ""
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stdout == "decodes\n", done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["strangers"]


def test_an_unknown_error_is_an_image_error(fake: Callable[..., None]) -> None:
    text = "SystemExit\\nodd"
    fake(
        READ + f"o.write(struct.pack('<III', 0, 0, 14) + b'{text}' + bytes(9)); o.flush(); i.read()"
    )
    with DecoderPool(1) as decoders, pytest.raises(ImageError, match="odd"):
        decoders.decode(encoded(), LIMITS)


def test_a_process_that_does_not_start_is_an_error_of_the_machine(
    fake: Callable[..., None],
) -> None:
    fake("print('ImportError: no numpy')", times=2)
    with DecoderPool(1) as decoders:
        with pytest.raises(BackendError, match="does not start: ImportError: no numpy"):
            decoders.start()
        with pytest.raises(BackendError, match="does not start"):
            decoders.decode(encoded(), LIMITS)
        assert decoders.decode(encoded(), LIMITS).shape == (16, 24, 3)


def test_no_process_can_be_started(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "command", lambda: ["/nowhere/python"])
    with DecoderPool(1) as decoders, pytest.raises(BackendError, match="can be started"):
        decoders.decode(encoded(), LIMITS)


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
    fake(READ + f"open({str(begun)!r}, 'w'); time.sleep(600)")
    with DecoderPool(1, max_seconds=600.0) as decoders, ThreadPoolExecutor(1) as threads:
        held = threads.submit(decoders.decode, encoded(), LIMITS)
        wait_until(begun.exists)
        with pytest.raises(DeadlineError):
            decoders.decode(encoded(), LIMITS, Deadline.of(1))
        assert decoders.ended["deadline"] == 0, "the other picture goes on"
        (decoder,) = children() - others
        os.kill(decoder, signal.SIGKILL)
        assert isinstance(held.exception(30.0), ImageError)


def test_long_pictures_leave_a_process_to_the_others(
    fake: Callable[..., None], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    begun, others = tmp_path / "begun", children()
    fake(READ + f"open({str(begun)!r}, 'w'); time.sleep(600)")
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


def test_memory_is_bounded_by_what_the_header_explains(monkeypatch: pytest.MonkeyPatch) -> None:
    if not Path("/proc/self/statm").exists():
        pytest.skip("the memory of a process cannot be limited here")
    data = encoded(size=(3000, 3000))
    with DecoderPool(1) as decoders:
        assert decoders.decode(data, LIMITS).shape == (3000, 3000, 3)
        monkeypatch.setattr(job, "_SPARE_BYTES", -2 * picture_cost(data, LIMITS).peak_bytes)
        with pytest.raises(ImageError, match="MemoryError"):
            decoders.decode(data, LIMITS)
        assert decoders.decode(encoded(), ImageLimits()).shape == (16, 24, 3)
        assert decoders.ended["crash"] == 0


def test_a_process_that_kept_memory_is_replaced(fake: Callable[..., None]) -> None:
    reply = "struct.pack('<III', 1, 1, 0) + bytes([1, 2, 3])"
    fake(READ + f"o.write({reply} + bytes([1] * 9)); o.flush(); time.sleep(600)")
    with DecoderPool(1) as decoders:
        assert decoders.decode(encoded(), LIMITS).tolist() == [[[1, 2, 3]]]
        assert decoders.decode(encoded(), LIMITS).shape == (16, 24, 3)
        assert set(decoders.ended.values()) == {0}


def test_closing_waits_for_the_pictures_under_way(
    fake: Callable[..., None], tmp_path: Path
) -> None:
    begun, others = tmp_path / "begun", children()
    fake(READ + f"open({str(begun)!r}, 'w'); time.sleep(600)")
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


def test_a_process_ends_with_its_parent_even_if_that_is_killed() -> None:
    code = (
        "import os, signal\nfrom runtime.decoding.process import Decoder\n"
        "one = Decoder(); one.wait_ready(); print(one.pid, flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, check=False)
    folder = Path(f"/proc/{int(done.stdout)}")

    def ended() -> bool:
        try:
            return (folder / "stat").read_text().rpartition(")")[2].split()[0] == "Z"
        except OSError:
            return True

    wait_until(ended)


def test_a_process_has_no_secrets_no_files_and_imports_little(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("SECRET", "x")
    monkeypatch.setenv("PYTHONPATH", "elsewhere")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "numpy.py").write_text("raise SystemExit")
    secret = os.open(tmp_path / "numpy.py", os.O_RDONLY)
    os.set_inheritable(secret, True)
    decoder = Decoder()
    try:
        decoder.wait_ready()
        folder = Path(f"/proc/{decoder.pid}")
        variables = (folder / "environ").read_bytes()
        assert b"SECRET" not in variables
        assert b"PYTHON" not in variables
        targets = {str(file.readlink()) for file in (folder / "fd").iterdir()}
        assert {target.partition(":")[0] for target in targets} == {"/dev/null", "pipe"}
        maps = (folder / "maps").read_text()
        assert "numpy" in maps
        assert "onnxruntime" not in maps
        assert "cv2" not in maps
        os.kill(decoder.pid, signal.SIGINT)  # ignored
        data = encoded()
        task = process.Task(data, LIMITS, 60.0, 1 << 30)
        pixels = decoder.decode(task)
        assert isinstance(pixels, np.ndarray)
        assert np.array_equal(pixels, load_rgb(data, LIMITS))
    finally:
        decoder.end()
        os.close(secret)


def test_the_budget_is_held_while_a_picture_is_decoded(
    fake: Callable[..., None], tmp_path: Path
) -> None:
    begun, others = tmp_path / "begun", children()
    fake(READ + f"open({str(begun)!r}, 'w'); time.sleep(600)")
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
    assert good["age"] is not None


def test_an_interrupt_ends_the_picture_and_leaves_the_pool_usable(
    fake: Callable[..., None], tmp_path: Path
) -> None:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    begun = tmp_path / "begun"
    fake(READ + f"open({str(begun)!r}, 'w'); time.sleep(600)")

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
