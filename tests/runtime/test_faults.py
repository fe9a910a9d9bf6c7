"""Faults behind `AgeMoE`: engines, graphs, sessions, deadlines."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from runtime import (
    AgeEstimate,
    AgeMoE,
    ClosedError,
    ContractError,
    DeadlineError,
    EngineFileError,
    Face,
    GivenBoxes,
    ManifestError,
    PredictionError,
)
from runtime.backends import ExpertVariant, Inputs, Outputs, Session
from runtime.backends.onnx import OnnxCpuSession
from runtime.deadline import Deadline
from runtime.manifest_file import read_manifest, write_manifest
from tests.runtime.fakes import FakeSession, Hold, bright, factory
from tests.runtime.tiny_engines import Tiny, write_engines

pytestmark = pytest.mark.usefixtures("no_thread_left")


def gray(level: int) -> NDArray[np.uint8]:
    return np.full((8, 8, 3), level, np.uint8)


@pytest.fixture
def engines(tmp_path: Path) -> Path:
    return write_engines(tmp_path / "engines", {"a": Tiny(), "b": Tiny(), "c": Tiny()})


@pytest.fixture
def fakes() -> dict[str, FakeSession]:
    return {name: FakeSession() for name in "abc"}


def failing(reason: str) -> Callable[[Inputs], Outputs]:
    def answer(_: Inputs) -> Outputs:
        raise RuntimeError(reason)

    return answer


@pytest.mark.parametrize(
    ("fault", "names"),
    [
        ("wide_probs", r"- bad: .*age_probs must have shape \(1, 5\), got \(1, 6\)"),
        ("doubled", r"- bad: .*age_years must have shape \(1,\), got \(2,\)"),
        ("raises", "- bad: failed: Fail"),
        ("rank", "expert 'bad' has outputs"),
        ("no_output", "expert 'bad' has outputs"),
        ("size", "expert 'bad' has inputs"),
    ],
)
def test_a_graph_that_breaks_the_contract_is_found_on_opening(
    tmp_path: Path, fault: str, names: str
) -> None:
    bad = Tiny(outputs=("age_years", "age_probs"), broken=fault)
    folder = write_engines(tmp_path, {"good": Tiny(), "bad": bad})
    with pytest.raises(ContractError, match=names) as caught:
        AgeMoE(folder)
    assert "python -m runtime build" in str(caught.value)
    assert "good:" not in str(caught.value)


def test_missing_and_changed_files_are_errors(engines: Path) -> None:
    path = engines / "a/a.fp32.onnx"
    data = path.read_bytes()
    path.write_bytes(data[:-1])
    with pytest.raises(EngineFileError, match="the manifest lists"):
        AgeMoE(engines, verify=False)
    path.write_bytes(bytes(len(data)))
    with pytest.raises(EngineFileError, match="SHA-256"):
        AgeMoE(engines)
    with pytest.raises(ContractError, match=f"cannot load.* --output {engines} --force"):
        AgeMoE(engines, verify=False)
    path.rename(engines.parent / "elsewhere")
    path.symlink_to(engines.parent / "elsewhere")
    with pytest.raises(ContractError, match=r"symbolic links.* cp -rL"):
        AgeMoE(engines, verify=False)
    path.unlink()
    path.write_bytes(data)
    AgeMoE(engines, verify=False).close()
    with pytest.raises(ManifestError, match="no such file"):
        AgeMoE(engines / "a")


def test_a_failure_while_opening_closes_the_opened_sessions(
    engines: Path, fakes: dict[str, FakeSession]
) -> None:
    def open_session(variant: ExpertVariant) -> Session:
        if variant.name == "c":
            return OnnxCpuSession(replace(variant, folder=engines.parent / "gone"), threads=1)
        return fakes[variant.name]

    with pytest.raises(ContractError, match="'c'"):
        AgeMoE(engines, sessions=open_session)
    assert [fakes[name].closes for name in "ab"] == [1, 1]
    fakes["c"].close()


def test_a_failure_while_warming_up_closes_everything(
    engines: Path, fakes: dict[str, FakeSession]
) -> None:
    fakes["b"].answer = failing("no memory")
    with pytest.raises(ContractError, match="- b: failed: RuntimeError: no memory"):
        AgeMoE(engines, sessions=factory(fakes))
    assert [session.closes for session in fakes.values()] == [1, 1, 1]


def test_a_failing_expert_leaves_an_estimate_of_the_others(
    engines: Path, fakes: dict[str, FakeSession]
) -> None:
    with AgeMoE(engines, sessions=factory(fakes)) as moe:
        fakes["b"].answer = failing("out of luck")
        found = moe.predict(gray(51))
        assert found.missing == {"b": "failed: RuntimeError: out of luck"}
        assert found.age_years == pytest.approx(20.0)
        assert [expert.weight for expert in found.experts.values()] == [0.5, 0.5]
        for session in fakes.values():
            session.answer = failing("gone")
        for faces in (gray(51), [gray(51), gray(52)]):
            with pytest.raises(PredictionError, match="None of the 3 experts"):
                moe.predict(faces)
        fakes["a"].answer = bright
        assert list(moe.predict(gray(51)).experts) == ["a"]


def test_nan_for_one_face_affects_only_that_face(tmp_path: Path) -> None:
    folder = write_engines(tmp_path, {"a": Tiny(nan_above=0.5), "b": Tiny(slope=50.0)})
    with AgeMoE(folder) as moe:
        dark, light, again = moe.predict([gray(51), gray(204), gray(51)])
    assert isinstance(light, AgeEstimate)
    assert isinstance(dark, AgeEstimate)
    assert light.missing == {"a": "predicted nan years"}
    assert light.age_years == pytest.approx(40.0)
    assert dark == again
    assert dark.missing == {}


def test_a_network_without_an_age_for_a_face_gives_its_reason(tmp_path: Path) -> None:
    silent = Tiny(nan_above=0.5, no_answer="it said unknown")
    folder = write_engines(tmp_path, {"a": silent, "b": Tiny(slope=50.0)})
    with AgeMoE(folder) as moe:
        dark, light = moe.predict([gray(51), gray(204)])
    assert isinstance(light, AgeEstimate)
    assert light.missing == {"a": "it said unknown"}
    assert light.age_years == pytest.approx(40.0)
    assert isinstance(dark, AgeEstimate)
    assert dark.missing == {}
    with (
        AgeMoE(folder, experts=["a"]) as moe,
        pytest.raises(PredictionError, match="a: it said unknown"),
    ):
        moe.predict(gray(204))


def test_a_nan_beside_broken_outputs_is_a_failure(
    engines: Path, fakes: dict[str, FakeSession]
) -> None:
    manifest = read_manifest(engines)
    entry = replace(
        manifest.experts["a"], no_answer="unknown", outputs=("age_years", "answer_mass")
    )
    write_manifest(engines, replace(manifest, experts={**manifest.experts, "a": entry}))
    masses = iter([0.5, 0.5, 0.5, 0.5, np.nan])

    def answer(inputs: Inputs) -> Outputs:
        (count,) = {len(array) for array in inputs.values()}
        one = np.ones(count, np.float32)
        return {"age_years": one * np.nan, "answer_mass": one * next(masses)}

    fakes["a"].answer = answer
    with AgeMoE(engines, sessions=factory(fakes), concurrency="lanes") as moe:
        found = [moe.predict(gray(51)).missing["a"] for _ in range(4)]
    assert found == ["unknown", "unknown", "unknown", "predicted nan years"]


def test_nan_from_every_expert_is_an_error_of_that_face_alone(tmp_path: Path) -> None:
    folder = write_engines(tmp_path, {"a": Tiny(nan_above=0.5)})
    with AgeMoE(folder) as moe:
        dark, light = moe.predict([gray(51), gray(204)])
        with pytest.raises(PredictionError, match="predicted nan years"):
            moe.predict(gray(204))
    assert isinstance(dark, AgeEstimate)
    assert isinstance(light, PredictionError)


def test_face_experts_cannot_predict_from_a_person_alone(engines: Path) -> None:
    with AgeMoE(engines) as moe, pytest.raises(PredictionError, match="needs the face"):
        moe.predict(Face(gray(3), person_box=(0, 0, 4, 4)))


def test_late_experts_are_missing(engines: Path, fakes: dict[str, FakeSession]) -> None:
    hold = Hold()
    fakes["b"].answer = hold
    with AgeMoE(engines, sessions=factory(fakes)) as moe:
        assert moe.predict(gray(51), deadline_ms=60_000).missing == {}
        hold.holding = True
        late = moe.predict(gray(51), deadline_ms=400)
        assert late.missing == {"b": "deadline of 400 ms passed"}
        assert late.age_years == pytest.approx(20.0)
        assert moe.submit(gray(51), deadline_ms=400).result().missing == late.missing
        with pytest.raises(ValueError, match="deadline_ms"):
            moe.predict(gray(51), deadline_ms=0)
        hold.released.set()


def test_all_experts_late(engines: Path, fakes: dict[str, FakeSession]) -> None:
    hold = Hold()
    for session in fakes.values():
        session.answer = hold
    with AgeMoE(engines, sessions=factory(fakes)) as moe:
        hold.holding = True
        with pytest.raises(DeadlineError, match="deadline of 20 ms passed"):
            moe.predict(gray(1), deadline_ms=20)
        error = moe.submit(gray(1), deadline_ms=20).exception()
        hold.released.set()
    assert isinstance(error, TimeoutError)


DOORS: dict[str, Callable[[AgeMoE, Deadline], object]] = {
    "predict": lambda moe, late: moe.predict(gray(1), deadline_ms=late),
    "predict, a list": lambda moe, late: moe.predict([gray(1)], deadline_ms=late),
    "submit": lambda moe, late: moe.submit(gray(1), deadline_ms=late).result(),
    "predict_photo": lambda moe, late: moe.predict_photo(
        gray(1), detector=GivenBoxes([(0, 0, 4, 4)]), deadline_ms=late
    ),
}


@pytest.mark.parametrize("door", DOORS.values(), ids=DOORS)
def test_a_passed_on_deadline_keeps_the_milliseconds_of_its_caller(
    engines: Path, door: Callable[[AgeMoE, Deadline], object]
) -> None:
    late = Deadline(time.monotonic() - 0.01, budget_ms=30.0)
    with AgeMoE(engines) as moe, pytest.raises(DeadlineError, match="deadline of 30 ms passed"):
        door(moe, late)


@pytest.mark.parametrize("door", list(DOORS.values())[:3], ids=list(DOORS)[:3])
def test_an_expert_that_misses_a_passed_on_deadline_is_missing(
    engines: Path, fakes: dict[str, FakeSession], door: Callable[[AgeMoE, Deadline], object]
) -> None:
    hold = Hold()
    fakes["b"].answer = hold
    with AgeMoE(engines, sessions=factory(fakes)) as moe:
        hold.holding = True
        found = door(moe, Deadline(time.monotonic() + 0.3, budget_ms=1000.0))
        hold.released.set()
    (estimate,) = found if isinstance(found, list) else [found]
    assert isinstance(estimate, AgeEstimate)
    assert estimate.missing == {"b": "deadline of 1000 ms passed"}


def test_a_face_whose_deadline_has_passed_is_not_decoded(
    engines: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with AgeMoE(engines) as moe:
        monkeypatch.setattr(moe._preparer, "prepare", pytest.fail)
        with pytest.raises(DeadlineError):
            moe.predict(gray(1), deadline_ms=1e-9)


def test_a_closed_agemoe_rejects_calls(engines: Path, fakes: dict[str, FakeSession]) -> None:
    moe = AgeMoE(engines, sessions=factory(fakes))
    moe.close()
    moe.close()
    assert all(session.closes for session in fakes.values())
    with pytest.raises(ClosedError, match="was closed"):
        moe.predict(gray(1))
    with pytest.raises(ClosedError):
        moe.predict([])
    with pytest.raises(ClosedError):
        moe.submit(gray(1))


def test_a_context_manager_closes_after_an_error(engines: Path) -> None:
    with pytest.raises(KeyError), AgeMoE(engines) as moe:
        raise KeyError
    with pytest.raises(ClosedError):
        moe.predict(gray(1))


def test_closing_waits_for_calls_in_progress(engines: Path, fakes: dict[str, FakeSession]) -> None:
    hold = Hold()
    fakes["c"].answer = hold
    moe = AgeMoE(engines, sessions=factory(fakes))
    hold.holding = True
    submitted = [moe.submit(gray(level)) for level in range(0, 250, 10)]
    assert hold.reached.wait(30.0)
    closers = [threading.Thread(target=moe.close) for _ in range(3)]
    for closer in closers:
        closer.start()
    while moe._calls._open:
        pass
    with pytest.raises(ClosedError):
        moe.predict(gray(1))
    assert not any(session.closes for session in fakes.values())
    assert all(closer.is_alive() for closer in closers)
    hold.holding = False
    hold.released.set()
    for closer in closers:
        closer.join(30.0)
        assert not closer.is_alive()
    for level, future in zip(range(0, 250, 10), submitted, strict=True):
        assert future.result(timeout=0).age_years == pytest.approx(level / 2.55)
