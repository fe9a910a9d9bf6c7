"""Whatever comes together on a GPU: answers are exact or errors, and nothing is left behind."""

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
from tests.gpu.small_experts import LARGEST, THREE, Shelf, device_on

NAMES = tuple(THREE)
Result = tuple[dict[str, Outputs], list[Exception]]
"""Answers by expert, and what the others ended with."""
_SERIAL: dict[tuple[str, int, int], dict[str, bytes]] = {}
QUICK = settings(
    derandomize=True,
    deadline=None,
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
    """One batch on its way."""

    faces: int
    seed: int
    experts: tuple[str, ...]
    patience_seconds: float
    """How long each answer is waited for."""


@dataclass(frozen=True)
class World:
    """Where the jobs run."""

    seed: int
    library: str
    backends: tuple[str, ...]
    graphs: bool
    threaded: bool
    lanes: int
    callers: int


JOBS = st.lists(
    st.builds(
        Job,
        faces=st.integers(1, LARGEST),
        seed=st.integers(0, 3),
        experts=st.lists(st.sampled_from(NAMES), min_size=1, max_size=3, unique=True).map(tuple),
        patience_seconds=st.sampled_from([20.0, 20.0, 0.0, 0.002]),
    ),
    min_size=1,
    max_size=12,
)
WORLDS = st.builds(
    World,
    seed=st.integers(0, 1 << 16),
    library=st.sampled_from(["cuda-python", "pycuda"]),
    backends=st.tuples(*[st.sampled_from(["tensorrt", "onnx"])] * len(NAMES)),
    graphs=st.booleans(),
    threaded=st.booleans(),
    lanes=st.integers(1, 3),
    callers=st.integers(1, 4),
)
FAULTS = st.lists(st.tuples(st.sampled_from(CALLS), st.integers(1, 60)), max_size=4)


@QUICK
@given(world=WORLDS, jobs=JOBS)
def test_every_answer_in_time_is_exact(world: World, jobs: list[Job]) -> None:
    with _opened(world) as (_, shelf, device):
        for job, (found, errors) in zip(jobs, _run_all(world, shelf, device, jobs), strict=True):
            assert all(isinstance(error, TimeoutError) for error in errors)
            if job.patience_seconds > 1:
                assert found.keys() == set(job.experts)
        _assert_all_places_are_free(world, shelf, device)


@QUICK
@given(world=WORLDS, jobs=JOBS, faults=FAULTS)
def test_faults_become_errors_and_every_place_comes_back(
    world: World, jobs: list[Job], faults: list[tuple[str, int]]
) -> None:
    with _opened(world) as (gpu, shelf, device):
        for call, nth in faults:
            gpu.fail(call, nth=nth, error="CUDA_ERROR_INVALID_VALUE")
        errors = [e for _, failed in _run_all(world, shelf, device, jobs) for e in failed]
        assert all(isinstance(error, BackendError | TimeoutError) for error in errors)
        event(f"{min(len(errors), 3)} errors")
        gpu._failures.clear()
        _assert_all_places_are_free(world, shelf, device)


@QUICK
@given(world=WORLDS, jobs=JOBS, after=st.integers(1, 400), victim=st.sampled_from(NAMES))
def test_a_lost_device_ends_everything_with_an_error(
    world: World, jobs: list[Job], after: int, victim: str
) -> None:
    with _opened(world) as (gpu, shelf, device):
        _lose(gpu, after, victim)
        for found, errors in _run_all(world, shelf, device, jobs):
            assert all(isinstance(error, BackendError | TimeoutError) for error in errors)
            event(f"{len(found)} answers")
        if gpu.lost:
            with pytest.raises(CudaError, match="lost"):
                device.take(shelf.views(1), 20.0)


def _lose(gpu: SimulatedGpu, after: int, victim: str) -> None:
    if after % 2:
        gpu.crash(f"execute {victim}")
    else:
        gpu.fail("cuEventQuery", nth=after, error="CUDA_ERROR_ECC_UNCORRECTABLE")


@contextlib.contextmanager
def _opened(world: World) -> Iterator[tuple[SimulatedGpu, Shelf, CudaDevice]]:
    with (
        tempfile.TemporaryDirectory() as folder,
        device_on(
            Path(folder),
            dict(zip(NAMES, world.backends, strict=True)),
            seed=world.seed,
            library=world.library,
            threaded=world.threaded,
            lanes=world.lanes,
            graphs=world.graphs and world.library == "cuda-python",
            aux_streams=world.seed % 2,
        ) as opened,
    ):
        yield opened


def _run_all(world: World, shelf: Shelf, device: CudaDevice, jobs: list[Job]) -> list[Result]:
    """Runs jobs from several threads; what was answered has been compared with a serial run."""
    with ThreadPoolExecutor(world.callers) as callers:
        results = list(callers.map(lambda job: _run(shelf, device, job), jobs))
    for job, (found, _) in zip(jobs, results, strict=True):
        for name, outputs in found.items():
            assert {k: a.tobytes() for k, a in outputs.items()} == _expected(shelf, name, job)
    return results


def _run(shelf: Shelf, device: CudaDevice, job: Job) -> Result:
    found: dict[str, Outputs] = {}
    errors: list[Exception] = []
    try:
        batch = device.take(shelf.views(job.faces, job.seed), 20.0)
    except BackendError as error:
        return found, [error]
    try:
        pending = {name: batch.enqueue(name) for name in job.experts}
        for name, started in pending.items():
            try:
                found[name] = started.result(job.patience_seconds).outputs
            except (BackendError, TimeoutError) as error:
                errors.append(error)
            started.cancel()
    finally:
        batch.release()
    return found, errors


def _expected(shelf: Shelf, name: str, job: Job) -> dict[str, bytes]:
    """What an expert says of a job on the CPU, which is the same in all worlds."""
    key = (name, job.faces, job.seed)
    if key not in _SERIAL:
        outputs = shelf.expected(name, shelf.views(job.faces, job.seed))
        _SERIAL[key] = {output: array.tobytes() for output, array in outputs.items()}
    return _SERIAL[key]


def _assert_all_places_are_free(world: World, shelf: Shelf, device: CudaDevice) -> None:
    job = Job(faces=2, seed=1, experts=NAMES, patience_seconds=20.0)
    batches = [device.take(shelf.views(2, 1), 20.0) for _ in range(world.lanes)]
    for batch in batches:
        for name in NAMES:
            outputs = batch.enqueue(name).result(20.0).outputs
            assert {k: a.tobytes() for k, a in outputs.items()} == _expected(shelf, name, job)
        batch.release()
