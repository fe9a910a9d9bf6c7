"""Concurrent callers get the results of a serial run; a forked process gets a clear error."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from runtime import AgeMoE, ClosedError
from runtime.active_calls import ActiveCalls
from runtime.backends import Inputs, Outputs
from runtime.backends.single_face import SingleFaceSession
from tests.runtime.tiny_engines import Tiny, write_engines

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.usefixtures("no_thread_left")


def pictures() -> list[NDArray[np.uint8]]:
    rng = np.random.default_rng(11)
    return [rng.integers(0, 256, (10 + i % 7, 25 - i % 5, 3), dtype=np.uint8) for i in range(24)]


@pytest.fixture
def moe(tmp_path: Path) -> Iterator[AgeMoE]:
    experts = {"a": Tiny(largest=3), "b": Tiny(slope=70.0, side=12), "c": Tiny(offset=3.0)}
    with AgeMoE(write_engines(tmp_path, experts)) as opened:
        yield opened


def test_every_caller_gets_the_results_of_a_serial_run(moe: AgeMoE) -> None:
    faces = pictures()
    serial = [moe.predict(face) for face in faces]
    assert len({estimate.age_years for estimate in serial}) == len(faces)
    start = threading.Barrier(8)

    def caller(seed: int) -> bool:
        rng = np.random.default_rng(seed)
        start.wait()
        for _ in range(12):
            chosen = rng.permutation(len(faces))[: rng.integers(1, 8)]
            singles = [moe.submit(faces[index]) for index in chosen]
            found = moe.predict([faces[index] for index in chosen])
            if found != [serial[index] for index in chosen]:
                return False
            if [single.result() for single in singles] != found:
                return False
        return True

    with ThreadPoolExecutor(8) as callers:
        assert all(callers.map(caller, range(8)))


class Meeting(SingleFaceSession):
    """Answers each face when another batch has come as far."""

    backend = "fake"

    def __init__(self, batches: int) -> None:
        super().__init__("meeting", batches)
        self.together = threading.Barrier(2, timeout=20.0)

    def _infer(self, inputs: Inputs) -> Outputs:
        self.together.wait()
        return {"age_years": inputs["face"].astype(np.float32)}


def test_an_expert_runs_as_many_batches_at_a_time_as_wanted() -> None:
    session = Meeting(batches=2)
    batches = [np.array([[1], [2]], np.uint8), np.array([[3], [4]], np.uint8)]
    started = [session.enqueue({"face": batch}) for batch in batches]
    found = [pending.result(timeout=20.0).outputs["age_years"].tolist() for pending in started]
    assert found == [batch.tolist() for batch in batches]
    session.close()


def test_calls_during_close_get_a_result_or_a_clear_error(moe: AgeMoE) -> None:
    faces = pictures()
    serial = [moe.predict(face) for face in faces]
    begun = threading.Barrier(5)

    def caller(seed: int) -> int:
        rng, right = np.random.default_rng(seed), 0
        begun.wait()
        while True:
            index = int(rng.integers(len(faces)))
            try:
                future = moe.submit(faces[index])
                assert moe.predict(faces[index]) == serial[index]
            except ClosedError:
                return right
            assert future.result() == serial[index]
            right += 1

    with ThreadPoolExecutor(4) as callers:
        counts = [callers.submit(caller, seed) for seed in range(4)]
        begun.wait()
        for _ in range(20):
            moe.predict(faces[:4])
        moe.close()
        assert all(count.result(timeout=30) >= 0 for count in counts)


def test_closing_rejects_new_calls_and_waits_for_those_in_progress() -> None:
    calls = ActiveCalls()
    calls.enter("first")
    closer = threading.Thread(target=calls.close)
    closer.start()
    while calls._open:
        pass
    with pytest.raises(ClosedError):
        calls.enter("second")
    assert closer.is_alive()
    calls.leave("first")
    closer.join(30.0)
    assert not closer.is_alive()
    calls.leave("first")


def test_interrupts_leave_no_call_entered() -> None:
    """Interrupts calls at arbitrary places; afterwards the object closes at once."""
    script = """
        import signal
        from runtime.active_calls import ActiveCalls

        calls, interrupted = ActiveCalls(), 0
        def interrupt(*_):
            raise KeyboardInterrupt
        signal.signal(signal.SIGALRM, interrupt)
        for attempt in range(3_000):
            try:
                signal.setitimer(signal.ITIMER_REAL, 1e-6 * (1 + attempt % 60))
                while True:
                    call = object()
                    try:
                        calls.enter(call)
                    finally:
                        calls.leave(call)
            except KeyboardInterrupt:
                interrupted += 1
        signal.setitimer(signal.ITIMER_REAL, 0)
        assert interrupted == 3_000
        print(len(calls._calls))
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        cwd=ROOT,
        check=True,
        timeout=60,
        capture_output=True,
    )
    assert done.stdout.strip() == b"0"


def test_a_forked_process_has_to_open_its_own(tmp_path: Path) -> None:
    folder = write_engines(tmp_path, {"a": Tiny()})
    script = f"""
        import os, warnings
        import numpy as np
        from runtime import AgeMoE, ClosedError

        warnings.simplefilter("ignore")  # Python itself warns of forks beside threads
        face = np.full((8, 8, 3), 51, np.uint8)
        with AgeMoE({str(folder)!r}) as moe:
            before = moe.predict(face)
            child = os.fork()
            if child == 0:
                errors = 0
                for use in (moe.predict, moe.submit):
                    try:
                        use(face)
                    except ClosedError as error:
                        errors += "does not survive a fork" in str(error)
                moe.close()
                os._exit(10 + errors)
            status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            assert moe.predict(face) == before
            raise SystemExit(status)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], cwd=ROOT, check=False, timeout=60
    )
    assert done.returncode == 12
