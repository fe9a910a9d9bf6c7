"""A decoder's process: what it holds and imports, and what happens when it does not answer."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from runtime import ImageError, ImageLimits
from runtime.decoding import DecoderPool, job, process
from runtime.decoding.process import Decoder
from runtime.errors import BackendError
from runtime.images import load_rgb, picture_cost
from tests.runtime.decoders import LIMITS, READ, children, encoded, open_files, wait_until

ROOT = Path(__file__).parents[2]


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


def test_a_process_that_is_killed_while_it_starts_spoils_no_picture(
    fake: Callable[..., None],
) -> None:
    fake("import os; os.kill(os.getpid(), 9)", times=2)
    with DecoderPool(1) as decoders:
        assert decoders.decode(encoded(), LIMITS).shape == (16, 24, 3)
        assert not sum(decoders.ended.values())
    fake("import os; os.kill(os.getpid(), 9)", times=9)
    with DecoderPool(1) as decoders, pytest.raises(BackendError, match="does not start: SIGKILL"):
        decoders.decode(encoded(), LIMITS)


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


def test_a_start_that_fails_leaves_no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    before, real = children(), process.command()
    cannot_decode = [sys.executable, "-c", "print('ImportError: no numpy')"]
    for last, reason in ((cannot_decode, "does not start"), (["/nowhere"], "can be started")):
        commands = iter([real, real, last])
        monkeypatch.setattr(process, "command", lambda commands=commands: next(commands))
        with DecoderPool(3) as decoders:
            with pytest.raises(BackendError, match=reason) as caught:  # which holds the frames
                decoders.start()
            assert caught
            assert children() == before


def test_no_process_can_be_started(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "command", lambda: ["/nowhere/python"])
    with DecoderPool(1) as decoders, pytest.raises(BackendError, match="can be started"):
        decoders.decode(encoded(), LIMITS)


def test_memory_is_bounded_by_what_the_header_explains(monkeypatch: pytest.MonkeyPatch) -> None:
    if not Path("/proc/self/statm").exists():
        pytest.skip("the memory of a process cannot be limited here")
    data = encoded(size=(3000, 3000))
    with DecoderPool(1) as decoders:
        assert decoders.decode(data, LIMITS).shape == (3000, 3000, 3)
        explained = 2 * picture_cost(data, LIMITS).peak_bytes + 3 * len(data)
        monkeypatch.setattr(job, "_SPARE_BYTES", -explained)
        with pytest.raises(ImageError, match="MemoryError"):
            decoders.decode(data, LIMITS)
        assert decoders.decode(encoded(), ImageLimits()).shape == (16, 24, 3)
        assert decoders.ended["crash"] == 0


def test_the_limit_of_one_picture_does_not_bound_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job, "_SPARE_BYTES", 16 << 20)
    buffer = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (3300, 4000, 3), np.uint8)
    Image.fromarray(pixels).save(buffer, "PNG", compress_level=0)
    with DecoderPool(1) as decoders:
        decoders.start()
        assert decoders.decode(encoded(), LIMITS).shape == (16, 24, 3)
        assert decoders.decode(buffer.getvalue(), ImageLimits(max_bytes=64 << 20)).any()


def test_a_process_that_kept_memory_is_replaced(fake: Callable[..., None]) -> None:
    reply = "struct.pack('<III', 1, 1, 0) + bytes([1, 2, 3])"
    fake(READ + f"o.write({reply} + bytes([1] * 9)); o.flush(); time.sleep(600)")
    with DecoderPool(1) as decoders:
        assert decoders.decode(encoded(), LIMITS).tolist() == [[[1, 2, 3]]]
        assert decoders.decode(encoded(), LIMITS).shape == (16, 24, 3)
        assert set(decoders.ended.values()) == {0}


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
        assert "PIL" in maps
        assert "numpy" not in maps
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
