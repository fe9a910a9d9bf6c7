"""Opening an engine: one for something else, or that is not what it should be, is refused."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from runtime.backends.gpu.cuda_library import open_cuda
from runtime.backends.gpu.tensorrt import TensorRTExpert
from runtime.backends.gpu.tensorrt_engine import check_binding, tensorrt_logger
from runtime.errors import BackendError, ContractError, EngineMismatchError
from runtime.manifest import Artifact, BatchProfile, Expert
from tests.gpu.simulator import simulated_gpu
from tests.gpu.small_experts import THREE, open_expert, stock


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
    ("change", "words"),
    [
        (_other_capability, "compute capability 8.6, Simulated GPU 0 has 9.0"),
        (_other_version, "TensorRT 11.4.0.105, installed is 11.4.0.106"),
        (_other_graph, "another graph than alpha/alpha.fp32.onnx"),
        (_no_binding, "does not say what the engine of 'alpha' was built for"),
    ],
)
def test_an_engine_for_something_else_is_refused_before_it_is_read(
    tmp_path: Path, change: Callable[[Expert, Artifact], Artifact], words: str
) -> None:
    with simulated_gpu() as gpu:
        shelf = stock(gpu, tmp_path)
        expert = shelf.experts["alpha"]
        engine = change(expert, shelf.engine("alpha"))
        cuda = open_cuda(0)
        with pytest.raises(EngineMismatchError) as caught:
            TensorRTExpert("alpha", expert, engine, tmp_path, cuda, graphs=False)
        cuda.close()
        assert words in str(caught.value)
        assert "build_engines.py --only alpha" in str(caught.value)
        assert gpu.calls["deserialize_cuda_engine"] == 0


def test_all_differences_are_told_at_once_and_the_cure_keeps_the_precision(tmp_path: Path) -> None:
    with simulated_gpu() as gpu:
        shelf = stock(gpu, tmp_path)
        cuda = open_cuda(0)
        expert = shelf.experts["alpha"]
        engine = _other_version(expert, _other_capability(expert, shelf.engine("alpha")))
        with pytest.raises(EngineMismatchError, match=r"8\.6.*--only alpha --fp16") as caught:
            check_binding("alpha", expert, replace(engine, precision="fp16"), cuda.properties)
        assert "11.4.0.105" in str(caught.value)
        cuda.close()


def test_the_graph_of_another_precision_is_no_twin(tmp_path: Path) -> None:
    with simulated_gpu() as gpu:
        shelf = stock(gpu, tmp_path)
        cuda = open_cuda(0)
        expert = shelf.experts["alpha"]
        half = replace(_other_graph(expert, shelf.engine("alpha")), precision="fp16")
        check_binding("alpha", expert, half, cuda.properties)
        cuda.close()


def test_an_engine_of_tensorrt_for_rtx_is_bound_to_no_gpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with simulated_gpu() as gpu:
        shelf = stock(gpu, tmp_path)
        engine = shelf.engine("alpha")
        assert engine.binding is not None
        binding = replace(engine.binding, compute_capability=None)
        portable = replace(engine, backend="tensorrt_rtx", binding=binding)
        cuda = open_cuda(0)
        with pytest.raises(BackendError, match="tensorrt_rtx cannot be imported"):
            check_binding("alpha", shelf.experts["alpha"], portable, cuda.properties)
        monkeypatch.setitem(sys.modules, "tensorrt_rtx", sys.modules["tensorrt"])
        expert = TensorRTExpert(
            "alpha", shelf.experts["alpha"], portable, tmp_path, cuda, graphs=False
        )
        assert expert.backend == "tensorrt_rtx"
        expert.close()
        cuda.close()


def test_without_tensorrt_the_cure_is_told(tmp_path: Path) -> None:
    with simulated_gpu(tensorrt=None) as gpu:
        shelf = stock(gpu, tmp_path)
        cuda = open_cuda(0)
        with pytest.raises(BackendError, match=r"agemoe-runtime\[tensorrt\]"):
            open_expert(shelf, "alpha", cuda)
        cuda.close()


@pytest.mark.parametrize("damage", [b"no plan", b""])
def test_an_engine_that_cannot_be_read_says_what_tensorrt_logged(
    tmp_path: Path, damage: bytes
) -> None:
    with simulated_gpu() as gpu:
        shelf = stock(gpu, tmp_path)
        (tmp_path / shelf.engine("alpha").files[0].path).write_bytes(damage)
        cuda = open_cuda(0)
        with pytest.raises(ContractError, match="the plan is damaged"):
            open_expert(shelf, "alpha", cuda)
        cuda.close()
        assert gpu.leaks() == []


def _wants(**changes: Any) -> Callable[[Expert], Expert]:
    return lambda expert: replace(expert, **changes)


def _taller(expert: Expert) -> Expert:
    return replace(expert, inputs=tuple(replace(spec, height=9) for spec in expert.inputs))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (_taller, "face should be INPUT UINT8 (-1, 9, 8, 3), is INPUT UINT8 (-1, 8, 8, 3)"),
        (_wants(outputs=("age_years",)), "age_probs should be absent, is OUTPUT FLOAT (-1, 5)"),
        (_wants(age_grid=(0.0, 50.0, 100.0)), "should be OUTPUT FLOAT (-1, 3), is OUTPUT FLOAT"),
        (_wants(inputs=()), "face should be absent"),
        (_wants(profile=BatchProfile(1, 8, 16)), "face takes 1 to 8 faces, should take 1 to 16"),
    ],
)
def test_an_engine_that_breaks_the_contract_is_refused(
    tmp_path: Path, change: Callable[[Expert], Expert], words: str
) -> None:
    with simulated_gpu() as gpu:
        shelf = stock(gpu, tmp_path)
        cuda = open_cuda(0)
        expert = change(shelf.experts["beta"])
        with pytest.raises(ContractError) as caught:
            TensorRTExpert("beta", expert, shelf.engine("beta"), tmp_path, cuda, graphs=False)
        assert words in str(caught.value)
        cuda.close()


def test_a_profile_that_starts_above_one_face_is_refused(tmp_path: Path) -> None:
    with simulated_gpu() as gpu:
        shelf = stock(gpu, tmp_path, {"alpha": THREE["alpha"]}, profile=(2, 4, 6))
        cuda = open_cuda(0)
        with pytest.raises(ContractError, match="takes 2 to 6 faces"):
            open_expert(shelf, "alpha", cuda)
        cuda.close()


def test_warnings_of_tensorrt_reach_the_log(caplog: pytest.LogCaptureFixture) -> None:
    with simulated_gpu():
        library: ModuleType = sys.modules["tensorrt"]
        log = tensorrt_logger(library)
        assert tensorrt_logger(library) is log  # TensorRT wants one per process
        log.log(library.ILogger.WARNING, "a slow tactic")
        log.log(library.ILogger.VERBOSE, "a detail")
        log.log(library.ILogger.ERROR, "a fault")
        assert [r.message for r in caplog.records] == ["TensorRT: a slow tactic"]
        assert log.errors() == "a fault"
        log.clear()
        assert log.errors() == "no reason was logged"
