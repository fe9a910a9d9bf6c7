"""Every error survives pickling: one that does not would kill a pool of processes."""

from __future__ import annotations

import pickle
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

import pytest

import export.calibration.csv_tables
import export.errors
import runtime.label_tables
import runtime.resume_log
import runtime.serving.batching
import runtime.serving.keys
import runtime.serving.problems
import runtime.serving.request_queue
from runtime import errors
from runtime.deadline import Deadline
from runtime.errors import PicklableError

_DEADLINE = Deadline.of(30.0)
assert _DEADLINE is not None
CASES = [
    errors.ManifestError("manifest.json", ["one", "two"], "Rebuild."),
    errors.FusionTableError("fusion.json", ["one"], "Fit it again."),
    errors.EngineFileError("a.onnx is missing."),
    errors.CudaError("copying", "CUDA_ERROR_ILLEGAL_ADDRESS", "illegal", lost=True),
    errors.BoxError("The box lies outside."),
    errors.PredictionError({"vgg16": "no memory"}),
    errors.DeadlineError({"vgg16": "late", "janus": "late"}),
    runtime.serving.batching.QueueFullError(3),
    runtime.serving.request_queue.TooLateError(_DEADLINE),
    runtime.serving.problems.BusyError("busy"),
    runtime.serving.keys.KeyFileError("no key"),
    export.errors.OptionsError(["--fp16: no", "--int8: no"]),
    export.calibration.csv_tables.LabelsError("a.csv", ["row 2"]),
]


def sent(error: PicklableError) -> Any:
    return pickle.loads(pickle.dumps(error))  # noqa: S301 - our own bytes


@pytest.mark.parametrize("error", CASES, ids=lambda error: type(error).__name__)
def test_an_error_is_the_same_after_pickling(error: PicklableError) -> None:
    copy = sent(error)
    assert type(copy) is type(error)
    assert str(copy) == str(error)
    assert copy.args == error.args
    assert vars(copy) == vars(error)


def all_kinds(kind: type[PicklableError]) -> list[type[PicklableError]]:
    return [kind, *(each for child in kind.__subclasses__() for each in all_kinds(child))]


@pytest.mark.parametrize("kind", all_kinds(PicklableError), ids=lambda kind: kind.__name__)
def test_every_kind_survives(kind: type[PicklableError]) -> None:
    error = errors._restored(kind, ("what is wrong",), {"missing": {"a": "late"}})
    copy = sent(error)
    assert (type(copy), str(copy), copy.args) == (kind, "what is wrong", ("what is wrong",))
    assert copy.missing == {"a": "late"}


def miss() -> None:
    raise errors.DeadlineError({"slow": "deadline of 5 ms passed"})


def test_a_miss_in_a_pool_of_processes_is_raised_in_the_caller() -> None:
    with (
        ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool,
        pytest.raises(errors.DeadlineError, match="deadline of 5 ms passed"),
    ):
        pool.submit(miss).result(60.0)
