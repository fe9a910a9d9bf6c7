"""Loading an engine: mismatched, damaged or wrong ones are rejected."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from runtime.backends.gpu.tensorrt import TensorRTExpert
from runtime.backends.gpu.tensorrt_engine import check_binding, tensorrt_logger
from runtime.errors import BackendError, ContractError, EngineMismatchError
from runtime.manifest import Artifact, BatchProfile, Expert
from tests.gpu.simulator import simulated_gpu
from tests.gpu.small_experts import THREE, experts_on, open_expert


def _other_capability(_: Expert, engine: Artifact) -> Artifact:
    assert engine.binding is not None
    return replace(engine, binding=replace(engine.binding, compute_capability="8.6"))


def _other_version(_: Expert, engine: Artifact) -> Artifact:
    assert engine.binding is not None
    return replace(engine, binding=replace(engine.binding, tensorrt="11.4.0.105"))


def _other_graph(_: Expert, engine: Artifact) -> Artifact:
    assert engine.binding is not None
    return replace(engine, binding=replace(engine.binding, onnx_sha256="00" * 32))


def _no_binding(_: Expert, engine: Artifact) -> Artifact:
    return replace(engine, binding=None)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_other_capability, "compute capability 8.6, Simulated GPU 0 has 9.0"),
        (_other_version, "TensorRT 11.4.0.105, installed is 11.4.0.106"),
        (_other_graph, "another graph than alpha/alpha.fp32.onnx"),
        (_no_binding, "does not state what the engine of 'alpha' was built for"),
    ],
)
def test_a_mismatched_engine_is_rejected_before_it_is_loaded(
    tmp_path: Path, change: Callable[[Expert, Artifact], Artifact], message: str
) -> None:
    with experts_on(tmp_path) as (gpu, built, cuda):
        expert = built.experts["alpha"]
        engine = change(expert, built.engine("alpha"))
        with pytest.raises(EngineMismatchError) as caught:
            TensorRTExpert(built.variant("alpha", engine), cuda, graphs=False)
        assert message in str(caught.value)
        assert "runtime build --only alpha" in str(caught.value)
        assert gpu.calls["deserialize_cuda_engine"] == 0


def test_all_mismatches_are_reported_at_once_with_the_command(tmp_path: Path) -> None:
    with experts_on(tmp_path) as (_, built, cuda):
        expert = built.experts["alpha"]
        engine = _other_version(expert, _other_capability(expert, built.engine("alpha")))
        with pytest.raises(EngineMismatchError, match=r"8\.6.*--only alpha --fp16") as caught:
            check_binding(
                built.variant("alpha", replace(engine, precision="fp16")), cuda.properties
            )
        assert "11.4.0.105" in str(caught.value)


def test_the_graph_of_another_precision_is_not_compared(tmp_path: Path) -> None:
    with experts_on(tmp_path) as (_, built, cuda):
        expert = built.experts["alpha"]
        half = replace(_other_graph(expert, built.engine("alpha")), precision="fp16")
        check_binding(built.variant("alpha", half), cuda.properties)


def test_an_rtx_engine_is_bound_to_no_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with experts_on(tmp_path) as (_, built, cuda):
        engine = built.engine("alpha")
        assert engine.binding is not None
        binding = replace(engine.binding, compute_capability=None)
        portable = replace(engine, backend="tensorrt_rtx", binding=binding)
        with pytest.raises(BackendError, match="tensorrt_rtx cannot be imported"):
            check_binding(built.variant("alpha", portable), cuda.properties)
        monkeypatch.setitem(sys.modules, "tensorrt_rtx", sys.modules["tensorrt"])
        expert = TensorRTExpert(built.variant("alpha", portable), cuda, graphs=False)
        assert expert.backend == "tensorrt_rtx"
        expert.close()


def test_without_tensorrt_the_error_names_the_package(tmp_path: Path) -> None:
    with (
        experts_on(tmp_path, tensorrt=None) as (_, built, cuda),
        pytest.raises(BackendError, match=r"agemoe-runtime\[tensorrt\]"),
    ):
        open_expert(built, "alpha", cuda)


@pytest.mark.parametrize("damage", [b"no plan", b""])
def test_an_unreadable_engine_reports_the_log_of_tensorrt(tmp_path: Path, damage: bytes) -> None:
    with experts_on(tmp_path) as (_, built, cuda):
        (tmp_path / built.engine("alpha").files[0].path).write_bytes(damage)
        with pytest.raises(ContractError, match="the plan is damaged"):
            open_expert(built, "alpha", cuda)


def _wants(**changes: Any) -> Callable[[Expert], Expert]:
    return lambda expert: replace(expert, **changes)


def _taller(expert: Expert) -> Expert:
    return replace(expert, inputs=tuple(replace(spec, height=9) for spec in expert.inputs))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_taller, "face should be INPUT UINT8 (-1, 9, 8, 3), is INPUT UINT8 (-1, 8, 8, 3)"),
        (_wants(outputs=("age_years",)), "age_probs should be absent, is OUTPUT FLOAT (-1, 5)"),
        (_wants(age_grid=(0.0, 50.0, 100.0)), "should be OUTPUT FLOAT (-1, 3), is OUTPUT FLOAT"),
        (_wants(inputs=()), "face should be absent"),
        (_wants(profile=BatchProfile(1, 8, 16)), "face takes 1 to 8 faces, should take 1 to 16"),
    ],
)
def test_an_engine_that_breaks_the_contract_is_rejected(
    tmp_path: Path, change: Callable[[Expert], Expert], message: str
) -> None:
    with experts_on(tmp_path) as (_, built, cuda):
        variant = replace(built.variant("beta"), expert=change(built.experts["beta"]))
        with pytest.raises(ContractError) as caught:
            TensorRTExpert(variant, cuda, graphs=False)
        assert message in str(caught.value)


def test_a_profile_that_starts_above_one_face_is_rejected(tmp_path: Path) -> None:
    tinies, plan = {"alpha": THREE["alpha"]}, {"profile": (2, 4, 6)}
    with (
        experts_on(tmp_path, tinies, plan=plan) as (_, built, cuda),
        pytest.raises(ContractError, match="takes 2 to 6 faces"),
    ):
        open_expert(built, "alpha", cuda)


def test_warnings_of_tensorrt_reach_the_log(caplog: pytest.LogCaptureFixture) -> None:
    with simulated_gpu():
        library: ModuleType = sys.modules["tensorrt"]
        log = tensorrt_logger(library)
        assert tensorrt_logger(library) is log  # TensorRT supports one per process
        log.log(library.ILogger.WARNING, "a slow tactic")
        log.log(library.ILogger.VERBOSE, "a detail")
        log.log(library.ILogger.ERROR, "a fault")
        assert [r.message for r in caplog.records] == ["TensorRT: a slow tactic"]
        assert log.errors() == "a fault"
        log.clear()
        assert log.errors() == "no reason was logged"
