"""Records the revision and a golden output of every producer in `golden_revisions.json`.

    python -m tests.export.golden

A producer is code whose output ends up in built files. Its revision is part of their build keys, so
a changed output with the same revision would keep outdated files. Outputs are described by
structure, which is the same on every CPU: no floating-point weights.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, replace
from functools import cache, partial
from pathlib import Path
from unittest.mock import patch

import numpy as np
import onnx
from numpy.typing import NDArray

from export.build import parity, tensorrt
from export.build.experts_file import DEMO_EXPERTS, read_experts
from export.build.tensorrt_target import EngineOptions, EngineTarget
from export.config.architecture import ExpertConfig
from export.config.fingerprints import fingerprint, tool_versions
from export.config.settings import AgeHead, Normalization
from export.experts.onnx_file.settings import OnnxSettings
from export.experts.registry import ARCHITECTURES, build_expert
from export.faces import drawn, quantization, verification
from export.faces.quantization import quantization_faces
from export.faces.verification import verification_images
from export.graph import conversion, views
from export.variants import fp16, int8_dynamic, registry
from runtime.geometry import Geometry
from runtime.manifest import BatchProfile, InputSpec
from tests.export.fake_builder import fake_tensorrt
from tests.export.small import SIDE

RECORD = Path(__file__).with_name("golden_revisions.json")
GRAPH_TOOLS = ("numpy", "onnx", "onnxscript", "timm", "torch")
"""Packages whose versions shape graphs; their outputs are comparable only with the same ones."""
INPUTS = tuple(InputSpec(name, SIDE, SIDE, Geometry()) for name in ("face", "person"))
TOLERANCE = 0.05
"""Largest difference between statistics of pictures, in values of 0..255."""

Golden = str | list[float]
"""A digest, or statistics that are compared within `TOLERANCE`."""


Producer = tuple[list[int], Callable[[], Golden]]
"""The revisions that an output depends on, and the function that makes the output."""


def producers() -> dict[str, Producer]:
    """By name."""
    verifying, quantizing, drawing = verification.REVISION, quantization.REVISION, drawn.REVISION
    janus = [ARCHITECTURES["janus"].revision, conversion.REVISION]
    return {
        **{
            f"graph of {name}": ([record.revision, conversion.REVISION], partial(graph, name))
            for name, record in ARCHITECTURES.items()
        },
        "views": ([views.REVISION, conversion.REVISION], views_graph),
        # Those for OpenVINO are searched for by running them on the CPU, and differ between CPUs.
        "fp16 variant": ([fp16.REVISION, *janus], partial(variant, "fp16")),
        "dynamic int8 variant": ([int8_dynamic.REVISION, *janus], partial(variant, "int8")),
        "verification faces": ([verifying], lambda: statistics(verification_images(INPUTS))),
        "quantization faces": ([quantizing], lambda: statistics(quantization_faces(INPUTS, 8))),
        "drawn faces": ([drawing], drawn_statistics),
        "tolerances": ([parity.REVISION], tolerances),
        "engines": ([tensorrt.REVISION], engine_settings),
    }


def current_tools() -> dict[str, str]:
    return {name: tool_versions()[name] for name in GRAPH_TOOLS}


@cache
def folder() -> Path:
    return Path(tempfile.mkdtemp())


def demo_config(name: str) -> ExpertConfig:
    """The demo expert of an architecture; face-api.js's network has one size, and no demo."""
    experts = read_experts(DEMO_EXPERTS, [])
    if name in experts:
        return experts[name]
    if name == "faceapi":
        return ExpertConfig(name, name, None, ARCHITECTURES[name].geometry, None)
    settings = OnnxSettings(
        SIDE, SIDE, Normalization(), AgeHead("regression"), "NCHW", None, probabilities=False
    )
    return ExpertConfig(name, name, None, Geometry(), settings)


@cache
def fp32_graph(name: str) -> Path:
    """The FP32 graph of an architecture's demo network with random weights."""
    path = folder() / f"{name}.fp32.onnx"
    checkpoint = given_file() if name == "onnx" else None
    build_expert(demo_config(name), checkpoint).write_onnx(path)
    return path


@cache
def given_file() -> Path:
    path = folder() / "given.onnx"
    value = onnx.helper.make_tensor_value_info
    nodes = [onnx.helper.make_node("ReduceMean", ["image", "axes"], ["mean"], keepdims=0)]
    axes = onnx.numpy_helper.from_array(np.array([1, 2, 3], np.int64), "axes")
    graph = onnx.helper.make_graph(
        nodes,
        "mean",
        [value("image", onnx.TensorProto.FLOAT, ["batch", 3, SIDE, SIDE])],
        [value("mean", onnx.TensorProto.FLOAT, ["batch"])],
        [axes],
    )
    opset = [onnx.helper.make_opsetid("", 20)]
    onnx.save(onnx.helper.make_model(graph, opset_imports=opset, ir_version=10), path)
    return path


def graph(name: str) -> str:
    return structure_digest(fp32_graph(name))


def views_graph() -> str:
    path = folder() / "views.onnx"
    build_expert(replace(demo_config("vgg16"), views=("flip",)), None).write_onnx(path)
    return structure_digest(path)


def variant(precision: str) -> str:
    """Of Janus, the one architecture with all variants that ONNX Runtime runs."""
    signature = build_expert(demo_config("janus"), None).signature
    path = folder() / f"janus.{precision}.onnx"
    registry.write_variant(precision, "onnx", fp32_graph("janus"), path, signature)
    return structure_digest(path)


def structure_digest(path: Path) -> str:
    written = onnx.load(str(path)).graph
    nodes = [[node.op_type, *sorted(_attributes(node))] for node in written.node]
    weights = [[list(weight.dims), weight.data_type] for weight in written.initializer]
    ends = (*written.input, *written.output)
    values = [value.SerializeToString(deterministic=True).hex() for value in ends]
    return fingerprint([nodes, weights, values])


def _attributes(node: onnx.NodeProto) -> Iterator[str]:
    """Attributes without floating-point tensors, which are weights."""
    for attribute in node.attribute:
        if attribute.HasField("t"):
            yield f"{attribute.name}: {list(attribute.t.dims)} {attribute.t.data_type}"
        else:
            yield str(attribute)


def statistics(images: Mapping[str, NDArray[np.uint8]]) -> list[float]:
    """Mean and standard deviation of every picture."""
    rows = [picture for pictures in images.values() for picture in pictures]
    return [round(float(value), 2) for row in rows for value in (row.mean(), row.std())]


def drawn_statistics() -> list[float]:
    return statistics({"": np.stack([f.image for f in drawn.drawn_faces(6, seed=1, size=96)])})


def tolerances() -> str:
    by_precision = {name: asdict(value) for name, value in parity.TOLERANCES.items()}
    return fingerprint([by_precision, asdict(parity.OPENVINO_TOLERANCE)])


def engine_settings() -> str:
    """Configurations of the builders of TensorRT and TensorRT for RTX."""
    configured = []
    for backend in ("tensorrt", "tensorrt_rtx"):
        library = fake_tensorrt(name=backend)
        with patch.dict(sys.modules, {backend: library}):
            tensorrt.build_engine(
                fp32_graph("vgg16"),
                folder() / f"{backend}.engine",
                "fp32",
                BatchProfile(),
                EngineOptions(EngineTarget(backend, "11.4.0", None, can_run=False), 1.0, 2),
                folder() / f"{backend}.cache",
                lambda _: None,
            )
        (config,) = library.Builder.built
        pools = {pool.name: size for pool, size in config.pools.items()}
        profiles = [profile.shapes for profile in config.profiles]
        level = config.builder_optimization_level
        configured.append([sorted(config.flags), pools, level, profiles])
    return fingerprint(configured)


def record() -> None:
    """Writes the file, unless an output changed while its revision did not."""
    former = json.loads(RECORD.read_text()) if RECORD.exists() else {}
    entries = {}
    for name, (revisions, make) in producers().items():
        golden = make()
        old = former.get("producers", {}).get(name)
        same = old and former["tools"] == current_tools() and old["revisions"] == revisions
        if same and not alike(old["golden"], golden):
            raise SystemExit(f"The output of {name!r} changed; raise its revision first.")
        entries[name] = {"revisions": revisions, "golden": golden}
    text = json.dumps({"tools": current_tools(), "producers": entries}, indent=1)
    RECORD.write_text(text + "\n")


def alike(one: Golden, other: Golden) -> bool:
    if isinstance(one, str) or isinstance(other, str):
        return one == other
    return len(one) == len(other) and np.allclose(one, other, rtol=0.0, atol=TOLERANCE)


if __name__ == "__main__":
    record()
