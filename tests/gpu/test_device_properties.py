"""Random jobs, faults and orders on a GPU: outputs are exact or errors, and nothing leaks."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from runtime.backends import Outputs
from runtime.backends.gpu.device import CudaDevice
from runtime.errors import BackendError, CudaError
from tests.gpu.simulator import SimulatedGpu
from tests.gpu.small_experts import LARGEST, NAMES, BuiltExperts, device_on

Result = tuple[dict[str, Outputs], list[Exception]]
"""Outputs by expert, and the errors of the others."""
_SERIAL: dict[tuple[str, int, int], dict[str, bytes]] = {}
QUICK = settings(
    derandomize=True,
    database=None,
    max_examples=40,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
CALLS = (
    "cuMemcpyHtoDAsync",
    "cuMemcpyDtoHAsync",
    "cuEventRecord",
    "cuEventQuery",
    "cuStreamWaitEvent",
    "cuEventElapsedTime",
    "cuGraphLaunch",
    "execute_async_v3",
    "run_with_iobinding",
)


@dataclass(frozen=True)
class Job:
    """One batch."""

    faces: int
    seed: int
    experts: tuple[str, ...]
    timeout_seconds: float
    """For each answer."""


@dataclass(frozen=True)
class Setup:
    """Device, backends and options."""

    seed: int
    library: str
    backends: tuple[str, ...]
    graphs: bool
    threaded: bool
    slots: int
    callers: int


JOBS = st.lists(
    st.builds(
        Job,
        faces=st.integers(1, LARGEST),
        seed=st.integers(0, 3),
        experts=st.lists(st.sampled_from(NAMES), min_size=1, max_size=3, unique=True).map(tuple),
        timeout_seconds=st.sampled_from([20.0, 20.0, 0.0, 0.002]),
    ),
    min_size=1,
    max_size=12,
)
SETUPS = st.builds(
    Setup,
    seed=st.integers(0, 1 << 16),
    library=st.sampled_from(["cuda-python", "pycuda"]),
    backends=st.tuples(*[st.sampled_from(["tensorrt", "onnx"])] * len(NAMES)),
    graphs=st.booleans(),
    threaded=st.booleans(),
    slots=st.integers(1, 3),
    callers=st.integers(1, 4),
)
FAULTS = st.lists(st.tuples(st.sampled_from(CALLS), st.integers(1, 60)), max_size=4)


@QUICK
@given(setup=SETUPS, jobs=JOBS)
def test_every_answer_in_time_is_exact(setup: Setup, jobs: list[Job]) -> None:
    with _opened(setup) as (_, built, device):
        for job, (found, errors) in zip(jobs, _run_all(setup, built, device, jobs), strict=True):
            assert all(isinstance(error, TimeoutError) for error in errors)
            if job.timeout_seconds > 1:
                assert found.keys() == set(job.experts)
        _assert_all_slots_are_free(setup, built, device)


@QUICK
@given(setup=SETUPS, jobs=JOBS, faults=FAULTS)
def test_faults_become_errors_and_leak_no_slot(
    setup: Setup, jobs: list[Job], faults: list[tuple[str, int]]
) -> None:
    with _opened(setup) as (gpu, built, device):
        for call, nth in faults:
            gpu.fail(call, nth=nth, error="CUDA_ERROR_INVALID_VALUE")
        errors = [e for _, failed in _run_all(setup, built, device, jobs) for e in failed]
        assert all(isinstance(error, BackendError | TimeoutError) for error in errors)
        event(f"{min(len(errors), 3)} errors")
        gpu._failures.clear()
        _assert_all_slots_are_free(setup, built, device)


@QUICK
@given(setup=SETUPS, jobs=JOBS, after=st.integers(1, 400), victim=st.sampled_from(NAMES))
def test_a_lost_device_ends_everything_with_errors(
    setup: Setup, jobs: list[Job], after: int, victim: str
) -> None:
    with _opened(setup) as (gpu, built, device):
        _lose(gpu, after, victim)
        for found, errors in _run_all(setup, built, device, jobs):
            assert all(isinstance(error, BackendError | TimeoutError) for error in errors)
            event(f"{len(found)} answers")
        if gpu.lost:
            with pytest.raises(CudaError, match="lost"):
                device.take(built.views(1), 20.0)


def _lose(gpu: SimulatedGpu, after: int, victim: str) -> None:
    if after % 2:
        gpu.crash(f"execute {victim}")
    else:
        gpu.fail("cuEventQuery", nth=after, error="CUDA_ERROR_ECC_UNCORRECTABLE")


@contextlib.contextmanager
def _opened(setup: Setup) -> Iterator[tuple[SimulatedGpu, BuiltExperts, CudaDevice]]:
    with (
        tempfile.TemporaryDirectory() as folder,
        device_on(
            Path(folder),
            dict(zip(NAMES, setup.backends, strict=True)),
            seed=setup.seed,
            library=setup.library,
            threaded=setup.threaded,
            slots=setup.slots,
            graphs=setup.graphs and setup.library == "cuda-python",
            aux_streams=setup.seed % 2,
        ) as opened,
    ):
        yield opened


def _run_all(
    setup: Setup, built: BuiltExperts, device: CudaDevice, jobs: list[Job]
) -> list[Result]:
    """Runs jobs from several threads and compares the outputs with a serial run."""
    with ThreadPoolExecutor(setup.callers) as callers:
        results = list(callers.map(lambda job: _run(built, device, job), jobs))
    for job, (found, _) in zip(jobs, results, strict=True):
        for name, outputs in found.items():
            assert {k: a.tobytes() for k, a in outputs.items()} == _expected(built, name, job)
    return results


def _run(built: BuiltExperts, device: CudaDevice, job: Job) -> Result:
    found: dict[str, Outputs] = {}
    errors: list[Exception] = []
    try:
        batch = device.take(built.views(job.faces, job.seed), 20.0)
    except BackendError as error:
        return found, [error]
    try:
        pending = {name: batch.enqueue(name) for name in job.experts}
        for name, started in pending.items():
            try:
                found[name] = started.result(job.timeout_seconds).outputs
            except (BackendError, TimeoutError) as error:
                errors.append(error)
            started.cancel()
    finally:
        batch.release()
    return found, errors


def _expected(built: BuiltExperts, name: str, job: Job) -> dict[str, bytes]:
    """Returns an expert's outputs for a job on the CPU, the same in all setups."""
    key = (name, job.faces, job.seed)
    if key not in _SERIAL:
        outputs = built.expected(name, built.views(job.faces, job.seed))
        _SERIAL[key] = {output: array.tobytes() for output, array in outputs.items()}
    return _SERIAL[key]


def _assert_all_slots_are_free(setup: Setup, built: BuiltExperts, device: CudaDevice) -> None:
    job = Job(faces=2, seed=1, experts=NAMES, timeout_seconds=20.0)
    batches = [device.take(built.views(2, 1), 20.0) for _ in range(setup.slots)]
    for batch in batches:
        for name in NAMES:
            outputs = batch.enqueue(name).result(20.0).outputs
            assert {k: a.tobytes() for k, a in outputs.items()} == _expected(built, name, job)
        batch.release()
