"""docs/backends.md: every row of its tables against the code that chooses the backend."""

from __future__ import annotations

import importlib
import logging
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from runtime.backends import ExpertVariant, openvino
from runtime.backends.fallback import DeviceRequest, _Opener, open_devices
from runtime.backends.openvino_graph import compile_graph
from runtime.errors import BackendError
from runtime.files import sha256_of
from runtime.manifest import Artifact, EngineBinding, Expert, FileRecord
from runtime.manifest_file import read_manifest
from runtime.options import GpuOptions
from tests.docs.pages import code, matches, page, rows, section
from tests.gpu.simulator import SimulatedGpu, simulated_gpu
from tests.runtime.tiny_engines import Tiny, write_engines

TEXT = page("backends.md")
AUTO, DEVICE, PRECISION = (
    rows(section(TEXT, heading))
    for heading in (
        '## `device="auto"`, `precision="auto"`',
        "## A device of your choice",
        "## A precision of your choice",
    )
)
CASES = [
    *(("auto", "auto", *row) for row in AUTO),
    *((code(device), "auto", *row) for device, *row in DEVICE),
    *(("auto", code(precision), *row) for precision, *row in PRECISION),
]


@contextmanager
def machine(text: str, installed: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Simulates a machine with packages, as the page describes them."""
    gpu, _, lacks = text.partition(", no ")
    real = importlib.import_module("onnxruntime")
    with simulated_gpu(
        devices=0 if gpu == "no GPU" else 1,
        compute_capability=(8, 6) if gpu == "other GPU" else (9, 0),
        library="none" if installed in ("[cpu]", "[cpu,openvino]") else "cuda-python",
        tensorrt=SimulatedGpu.tensorrt if "tensorrt" in installed else None,
        onnx_cuda="broken" not in installed,
    ):
        if "[cpu" in installed:
            monkeypatch.setitem(sys.modules, "onnxruntime", real)
        if "openvino" not in installed:
            monkeypatch.setitem(sys.modules, "openvino", None)
        monkeypatch.setattr(openvino, "has_bfloat16", lambda: lacks != "bf16")
        monkeypatch.setattr(openvino, "has_exact_int8", lambda: lacks != "VNNI")

        def in_fp32(*graph: Any, bfloat16: bool) -> Any:  # the CPU of the test may have no bf16
            del bfloat16
            return compile_graph(*graph, bfloat16=False)

        monkeypatch.setattr(openvino, "compile_graph", in_fp32)
        yield
        monkeypatch.undo()


def built(folder: Path, files: str) -> Expert:
    """Builds an expert with the files that the page lists."""
    names = files.split(", ")
    graphs = tuple(name for name in names if name != "engine")
    write_engines(folder, {"alpha": Tiny(precisions=graphs, largest=8)})
    expert = read_manifest(folder).experts["alpha"]
    if "engine" not in names:
        return expert
    return replace(expert, artifacts=(*expert.artifacts, engine(folder, expert.artifacts[-1])))


def engine(folder: Path, artifact: Artifact) -> Artifact:
    graph = folder / artifact.files[0].path
    with simulated_gpu() as gpu:
        path = graph.with_suffix(".engine")
        path.write_bytes(gpu.plan(graph, profile=(1, 2, 8), name="alpha"))
        binding = EngineBinding(gpu.tensorrt, "9.0", sha256_of(graph), {})
    record = FileRecord(f"alpha/{path.name}", sha256_of(path), path.stat().st_size)
    return replace(artifact, backend="tensorrt", precision="fp16", files=(record,), binding=binding)


@pytest.mark.parametrize(
    ("device", "precision", "where", "installed", "files", "used", "says"),
    CASES,
    ids=[" ".join(case[:5]) for case in CASES],
)
def test_the_row_is_true(
    device: str, precision: str, where: str, installed: str, files: str, used: str, says: str,
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    expert, opened = built(tmp_path, files), []
    open_on = _Opener._open_on

    def recording(opener: _Opener, kind: str, variant: ExpertVariant) -> None:
        open_on(opener, kind, variant)
        opened.append(variant.artifact.precision)

    request = DeviceRequest(device, 0, precision, hashes=True, threads=1, gpu=GpuOptions())
    said: list[str] = []
    with (
        machine(where, code(installed), monkeypatch),
        warnings.catch_warnings(record=True) as caught,
        caplog.at_level(logging.WARNING, "agemoe"),
    ):
        warnings.simplefilter("always")
        monkeypatch.setattr(_Opener, "_open_on", recording)
        try:
            devices = open_devices({"alpha": expert}, tmp_path, request)
        except BackendError as error:
            found, said = "-", [f"`{type(error).__name__}`: {error}"]
        else:
            backends = [name for one in devices for name in one.backends.values()]
            found = f"`{backends[0]}` {opened[0]}"
            for one in devices:
                one.close()
    said += [f"`{one.category.__name__}`: {one.message}" for one in caught]
    said += [f"a warning: {record.getMessage()}" for record in caplog.records]
    assert found == used
    assert len(said) == bool(says)
    if says:
        told = said[0].replace("`PrecisionWarning`", "a warning")
        assert matches(told, says), said
