"""What a user does, in a process that imitates another system: `python -m … SYSTEM FOLDER`.

The folder holds `engines`, `faces` with pictures, `clip.avi` and `audit.log`.
"""

from __future__ import annotations

import base64
import contextlib
import io
import json
import os
import sys
import threading
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import fastapi
import httpx
import numpy as np
import onnxruntime
import pytest
import uvicorn
from PIL import Image

from tests.runtime import other_systems

assert not any(name.partition(".")[0] == "runtime" for name in sys.modules)
for _name in ("openvino", "cuda", "pycuda"):  # their imports look at sys.platform
    sys.modules[_name] = None  # type: ignore[assignment]
_LOADED = (cv2, fastapi, np, onnxruntime, uvicorn, Image)


def work(system: str, folder: Path) -> None:
    """Does everything, and raises where anything is not as on Linux."""
    other_systems.imitate(system)
    _imitate_in_decoders(system)
    os.chdir(folder)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        sys.platform = system
        _predict()
        _label()
        _commands(system)
        if system == "win32":
            _video()
            sys.platform = "linux"  # uvicorn would take Windows's event loop
            _serve()
        _audit(system)
    kinds = {str(warning.message) for warning in caught}
    (missing,) = kinds
    assert missing.startswith(
        "The processor time and memory of" if system == "win32" else "The memory of"
    )
    blocked = {"fcntl", "resource", "pwd", "grp"} & set(sys.modules)
    assert not (blocked and system == "win32"), blocked


def _imitate_in_decoders(system: str) -> None:
    from runtime.decoding import pool, process

    pool.MAX_DECODERS = 1
    file = other_systems.__file__
    first = f"IMITATED_SYSTEM = {system!r}\nexec(compile(open({file!r}).read(), {file!r}, 'exec'))"
    process._START = f"{first}\n{process._START}"


def _predict() -> None:
    from runtime import AgeMoE, ImageError
    from runtime.decoding import DecoderPool

    picture = Path("faces/0.png").read_bytes()
    with DecoderPool(1) as decoders, AgeMoE(decoder=decoders.decode) as moe:
        good, bad = moe.predict([picture, picture[:60]])
        assert moe.predict(picture) == good
    assert isinstance(bad, ImageError), bad


def _label() -> None:
    """Labels, is interrupted after the first batch, and resumes."""
    from runtime import label_tables, labeler, labeling
    from runtime.label_lists import photographs_in
    from runtime.resume_log import ResumeLog, ResumeLogError

    labeler.BATCH_SIZE = 1
    job, table = labeling.LabelJob(faces="whole"), Path("ages.csv")
    paths = photographs_in(["faces"])
    with job.opened() as opened:

        def stopped(waiting: Sequence[str]) -> Iterator[Sequence[labeler.Labeled]]:
            yield next(opened.stream(waiting))
            raise KeyboardInterrupt

        with contextlib.suppress(KeyboardInterrupt):
            labeling.label(stopped, paths, table, job)
        journal = label_tables.journal_of(table)
        assert (journal.exists(), table.exists()) == (True, False)
        with ResumeLog.open(journal, job.settings()) as log:
            assert len(log) == 1
            second = ResumeLog.open(journal, job.settings())
            with pytest.raises(ResumeLogError, match="Another process is writing"), second:
                pass
        done: list[int] = []
        labeling.label(opened.stream, paths, table, job, report=lambda *n: done.append(n[0]))
        labeling.label(opened.stream, paths, table, job, overwrite=True)
    assert done == [1, len(paths)], done
    assert not journal.exists()
    assert table.read_bytes().count(b"\n") == len(paths) + 1


def _commands(system: str) -> None:
    status, lines = _run("predict", "--whole", "--json", "faces/0.png")
    assert (status, len(lines)) == (0, 1)
    status, lines = _run("doctor", "--json")
    texts = {line["topic"]: line["text"] for line in map(json.loads, lines)}
    assert "cannot be limited on this system" in texts["decoders"]
    assert ("processor time" in texts["decoders"]) == (system == "win32")
    assert texts["opening"].startswith("works: a on onnx-cpu")
    assert _run("audit", "audit.log")[0] == 0


def _run(*arguments: str) -> tuple[int, list[str]]:
    from runtime.__main__ import main

    with contextlib.redirect_stdout(io.StringIO()) as output:
        status = main(arguments)
    return status, output.getvalue().splitlines()


def _video() -> None:
    from runtime.decoding.video import video_frames

    assert len(video_frames("clip.avi", 2)) == 2


def _serve() -> None:
    """Serves a request in the main thread, where signals are handled."""
    from runtime.serving.server import Shutdown, make_server
    from runtime.serving.settings import Settings

    server = make_server(Settings(decoders=1), "127.0.0.1", 0, Shutdown())
    answers: list[Any] = []

    def client() -> None:
        try:
            while not server.started:
                threading.Event().wait(0.01)
            port = server.servers[0].sockets[0].getsockname()[1]
            picture = base64.b64encode(Path("faces/0.png").read_bytes()).decode()
            body = {"images": [picture], "detect": False}
            answers.append(httpx.post(f"http://127.0.0.1:{port}/v1/ages", json=body))
        finally:
            server.should_exit = True

    thread = threading.Thread(target=client)
    with server.opening():
        server.service.open()
        thread.start()
        server.run()
    thread.join()
    assert answers[0].status_code == 200, answers[0].text


def _audit(system: str) -> None:
    from runtime.audit import AuditError
    from runtime.serving.audit import AuditLog

    if system == "win32":
        with pytest.raises(AuditError, match="Serve on Linux or macOS"):
            AuditLog(Path("audit.log"))
    else:
        AuditLog(Path("audit.log")).close()


if __name__ == "__main__":
    work(sys.argv[1], Path(sys.argv[2]))
