"""Janus as ONNX: outputs, operators, FP16 without overflow, TensorRT."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from onnx.reference import ReferenceEvaluator

from export.experts.janus.expert import JANUS_FP32_OPERATORS
from export.experts.janus.prompt_head import JanusAgeExpert
from export.graph import weights
from export.graph.checks import check_graph
from export.graph.weights import data_path, model_files, weight_array
from export.variants import fp16
from tests.export.janus_fixtures import (
    export_onnx,
    faces,
    signature,
    tiny_expert,
    tiny_prompt,
    write_tokenizer,
)
from tests.trt_cpu import trt_report

pytestmark = pytest.mark.conversion

OUTPUTS = ["age_years", "age_probs", "answer_mass"]


@pytest.fixture(scope="module")
def expert(tmp_path_factory: pytest.TempPathFactory) -> JanusAgeExpert:
    """A tiny Janus with outlier channels, as large transformers have them, and a sharp head."""
    tokenizer = write_tokenizer(tmp_path_factory.mktemp("tokenizer"), merged=False)
    expert = tiny_expert(tiny_prompt(tokenizer))
    with torch.no_grad():
        expert.vision_model.position_embedding[:, 3] += 400.0
        expert.get_parameter("aligner.hidden_layers.0.bias")[5] += 400.0  # 400² is beyond FP16
        expert.embeddings[:, :, 5] += 400.0 * (expert.embeddings[:, :, 5] != 0)
        expert.lm_head.weight *= 4.0
    return expert.requires_grad_(requires_grad=False)


@pytest.fixture(scope="module")
def graph(expert: JanusAgeExpert, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_onnx(expert, OUTPUTS, tmp_path_factory.mktemp("graph") / "janus.onnx")


def _torch(expert: JanusAgeExpert, face: torch.Tensor) -> list[NDArray[np.float32]]:
    with torch.no_grad():
        return [output.numpy() for output in expert(face)]


def _run(path: Path, face: torch.Tensor) -> list[NDArray[np.float32]]:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return list(session.run(OUTPUTS, {"face": face.numpy()}))


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_onnx_runtime_agrees_with_torch(expert: JanusAgeExpert, graph: Path, batch: int) -> None:
    face = faces(batch)
    for ours, expected in zip(_run(graph, face), _torch(expert, face), strict=True):
        np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-5)


def test_graph_needs_no_shape_arithmetic(graph: Path) -> None:
    check_graph(graph, signature(OUTPUTS))
    nodes = onnx.load(str(graph)).graph.node
    types = Counter(node.op_type for node in nodes)
    assert not types.keys() & {"Shape", "Expand", "Range", "Where", "If", "ReduceLogSumExp"}
    assert nodes[0].op_type == "Cast"  # TensorRT supports UINT8 only in a Cast
    assert types["Gemm"] == 1  # the output layer, which stays in FP32 by this type


def test_fp16_overflows_without_its_fp32_operators_only(
    expert: JanusAgeExpert, graph: Path, tmp_path: Path
) -> None:
    # ONNX Runtime's CPU provider computes FP16 in FP32; only the reference evaluator overflows.
    fp16.fp16_from_fp32(graph, tmp_path / "safe.onnx", JANUS_FP32_OPERATORS)
    fp16.fp16_from_fp32(graph, tmp_path / "plain.onnx", ())
    assert not _reference_error(expert, tmp_path / "plain.onnx") <= 0.1
    assert _reference_error(expert, tmp_path / "safe.onnx") < 1e-3


def _reference_error(expert: JanusAgeExpert, path: Path) -> float:
    """Returns the largest difference of a probability, computed in true FP16."""
    face = faces(3)
    with np.errstate(all="ignore"):
        outputs = list(ReferenceEvaluator(onnx.load(str(path))).run(None, {"face": face.numpy()}))
    return float(np.abs(np.asarray(outputs[1]) - _torch(expert, face)[1]).max())


def test_streamed_weights_give_the_same_outputs(
    expert: JanusAgeExpert, graph: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fp16.fp16_from_fp32(graph, tmp_path / "small.fp16.onnx", JANUS_FP32_OPERATORS)
    monkeypatch.setattr(weights, "LARGEST_INLINE_BYTES", 1)
    fp32 = export_onnx(expert, OUTPUTS, tmp_path / "large.onnx")
    half = tmp_path / "large.fp16.onnx"
    fp16.fp16_from_fp32(fp32, half, JANUS_FP32_OPERATORS)
    assert model_files(half) == [half, data_path(half)]
    check_graph(fp32, signature(OUTPUTS))
    check_graph(half, signature(OUTPUTS))
    assert fp32.stat().st_size < data_path(fp32).stat().st_size
    assert data_path(half).stat().st_size < 0.7 * data_path(fp32).stat().st_size
    face = faces(2)
    for streamed, whole in ((fp32, graph), (half, tmp_path / "small.fp16.onnx")):
        for ours, expected in zip(_run(streamed, face), _run(whole, face), strict=True):
            np.testing.assert_array_equal(ours, expected)


def test_a_weight_is_read_from_external_data(
    expert: JanusAgeExpert, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(weights, "LARGEST_INLINE_BYTES", 1)
    path = export_onnx(expert, OUTPUTS, tmp_path / "large.onnx")
    model = onnx.load(str(path), load_external_data=False)
    read = {tensor.name: weight_array(tensor, tmp_path) for tensor in model.graph.initializer}
    head = expert.lm_head.weight.numpy()
    assert any(array.shape == head.shape and (array == head).all() for array in read.values())


@pytest.mark.tensorrt
@pytest.mark.parametrize("half", [False, True], ids=["fp32", "fp16"])
def test_tensorrt_builds_the_graph(graph: Path, tmp_path: Path, *, half: bool) -> None:
    path = graph
    if half:
        path = tmp_path / "half.onnx"
        fp16.fp16_from_fp32(graph, path, JANUS_FP32_OPERATORS)
    report = trt_report(path)
    assert report.errors == ()
    assert report.plan_bytes > 0
    types = report.dtype_counts
    assert (types.get("HALF", 0) > types["FLOAT"]) == half
