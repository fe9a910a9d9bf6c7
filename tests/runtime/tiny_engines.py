"""Engines of a kilobyte that fulfill the contract, or violate it in one chosen way.

An expert predicts `slope * brightness + offset` years, where brightness is the mean of all its
pixels within 0..1. Different pictures thus have different ages, and a mix-up is detected.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import onnx
from onnx.parser import parse_model

from runtime.files import sha256_of
from runtime.geometry import Geometry
from runtime.manifest import (
    Artifact,
    BatchProfile,
    Expert,
    FileRecord,
    InputSpec,
    Manifest,
    Source,
)
from runtime.manifest_file import write_manifest

GRID = (0.0, 25.0, 50.0, 75.0, 100.0)
HALF_OFFSET_YEARS = 1.0
"""Added by the FP16 variant, to tell which file was opened."""
SHA = "ab" * 32


@dataclass(frozen=True, slots=True)
class Tiny:
    """Parameters of a tiny expert."""

    slope: float = 100.0
    offset: float = 0.0
    inputs: tuple[str, ...] = ("face",)
    outputs: tuple[str, ...] = ("age_years",)
    side: int = 8
    geometry: Geometry = field(default_factory=Geometry)
    precisions: tuple[str, ...] = ("fp32",)
    largest: int = 32
    kind: str = "checkpoint"
    nan_above: float = 2.0
    """Brightness above which the age is NaN."""
    no_answer: str | None = None
    """What such a NaN means."""
    broken: str = ""
    """`wide_probs`, `doubled`, `raises`: faults found by a run;
    `rank`, `no_output`, `size`: faults found when opening the graph."""


def write_engines(folder: Path, experts: Mapping[str, Tiny]) -> Path:
    """Writes graphs and a manifest to a folder and returns it."""
    entries = {name: _entry(folder, name, tiny) for name, tiny in experts.items()}
    write_manifest(folder, Manifest("2026-11-23T00:00:00Z", {"onnx": onnx.__version__}, entries))
    return folder


def _entry(folder: Path, name: str, tiny: Tiny) -> Expert:
    return Expert(
        architecture="tiny",
        source=Source(tiny.kind, f"{name}.pth", None if tiny.kind == "random" else SHA),
        inputs=tuple(InputSpec(i, tiny.side, tiny.side, tiny.geometry) for i in tiny.inputs),
        outputs=tiny.outputs,
        age_grid=GRID if "age_probs" in tiny.outputs else None,
        profile=BatchProfile(1, min(8, tiny.largest), tiny.largest),
        artifacts=tuple(_artifact(folder, name, tiny, p) for p in tiny.precisions),
        no_answer=tiny.no_answer,
        fingerprint=hashlib.sha256(repr(tiny).encode()).hexdigest(),
    )


def _artifact(folder: Path, name: str, tiny: Tiny, precision: str) -> Artifact:
    path = folder / name / f"{name}.{precision}.onnx"
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(graph(tiny, half=precision == "fp16"), path)
    record = FileRecord(f"{name}/{path.name}", sha256_of(path), path.stat().st_size)
    backend = "openvino" if precision in ("bf16", "int8") else "onnx"
    return Artifact(backend, precision, (record,), {"options": "00"}, 0.0, None)


def graph(tiny: Tiny, *, half: bool = False) -> onnx.ModelProto:
    """Builds the graph of a tiny expert."""
    side = tiny.side + (tiny.broken == "size")
    inputs = ", ".join(f"uint8[N,{side},{side},3] {name}" for name in tiny.inputs)
    outputs = ", ".join(f"float{_DIMS[o]} {o}" for o in tiny.outputs if o != _dropped(tiny))
    if tiny.broken == "rank":
        outputs = outputs.replace("float[N] age_years", "float[N,1] age_years")
    grid = (*GRID, 125.0) if tiny.broken == "wide_probs" else GRID
    text = f"""<ir_version: 10, opset_import: ["" : 18]>
    tiny ({inputs}) => ({outputs})
    <float slope = {{{tiny.slope}}}, float zero = {{0.0}}, float limit = {{{tiny.nan_above}}},
     float offset = {{{tiny.offset + HALF_OFFSET_YEARS * half}}}, float white = {{255.0}},
     float[1, {len(grid)}] grid = {{{", ".join(map(str, grid))}}},
     int64[3] pixels = {{1, 2, 3}}, int64[1] last = {{1}}, int64[1] seven = {{7}}>
    {{
       {_summed(tiny)}
       {_SPOILED.get(tiny.broken, "age_years = Identity (age)")}
       {" ".join(_EXTRAS[o] for o in tiny.outputs if o in _EXTRAS)} }}"""
    model = parse_model(text)
    used = {name for node in model.graph.node for name in node.input}
    needed = [tensor for tensor in model.graph.initializer if tensor.name in used]
    del model.graph.initializer[:]
    model.graph.initializer.extend(needed)
    return model


def _dropped(tiny: Tiny) -> str:
    return tiny.outputs[-1] if tiny.broken == "no_output" else ""


def _summed(tiny: Tiny) -> str:
    """Returns the nodes for the mean over the inputs of their mean over the pixels."""
    lines = [
        f"{n}_f = Cast <to = 1> ({n}) {n}_m = ReduceMean <keepdims = 0> ({n}_f, pixels)"
        for n in tiny.inputs
    ]
    joined = ", ".join(f"{name}_m" for name in tiny.inputs)
    return (
        " ".join(lines)
        + f""" level = Mean ({joined})
        bright = Div (level, white)
        margin = Sub (limit, bright) root = Sqrt (margin) nothing = Mul (root, zero)
        steep = Mul (bright, slope) raised = Add (steep, offset) age = Add (raised, nothing)"""
    )


_DIMS = {
    "age_years": "[N]",
    "age_probs": "[N,A]",
    "gender_probs": "[N,2]",
    "answer_mass": "[N]",
}
_SPOILED = {
    "rank": "age_years = Unsqueeze (age, last)",
    "doubled": "age_years = Concat <axis = 0> (age, age)",
    "raises": "age_years = Reshape (age, seven)",
}
_EXTRAS = {
    "age_probs": "tall = Unsqueeze (age, last) off = Sub (tall, grid) far = Abs (off) "
    "near = Neg (far) age_probs = Softmax <axis = 1> (near)",
    "gender_probs": "man = Unsqueeze (bright, last) two = Concat <axis = 1> (man, man) "
    "gender_probs = Softmax <axis = 1> (two)",
    "answer_mass": "answer_mass = Identity (bright)",
}
