"""Compilation of graphs by OpenVINO's CPU plugin, and the precisions that the CPU supports."""

from __future__ import annotations

import importlib
import sys
import threading
from collections.abc import Mapping
from functools import cache
from types import ModuleType
from typing import Any

import numpy as np

from runtime.errors import BackendError

Model = Any
CompiledModel = Any
"""Types of OpenVINO, which is imported lazily."""
_FIRST_ARRAY = threading.Lock()
_PRODUCTS = ("Convolution", "GroupConvolution", "FullyConnected", "MatMul")


def import_openvino() -> ModuleType:
    """Imports OpenVINO with its telemetry off; raises `BackendError` if not installed."""
    # OpenVINO reports its use through this package; it does not where the package is missing.
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    try:
        openvino = importlib.import_module("openvino")
    except ImportError as error:
        raise BackendError(
            f"OpenVINO cannot be imported ({error}); it runs bf16 and most of INT8. Install "
            f"agemoe-runtime[openvino], or choose another precision."
        ) from error
    with _FIRST_ARRAY:
        # The first access to a tensor as an array sets up OpenVINO's bindings (2026.4). Two threads
        # that do so at the same time, as experts would, deadlock.
        np.asarray(openvino.Tensor(np.zeros(1, np.uint8)).data)
    return openvino


def has_bfloat16() -> bool:
    """Returns True if this CPU multiplies bfloat16; raises what `import_openvino` raises."""
    capabilities = import_openvino().Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    return "BF16" in capabilities


@cache
def has_exact_int8() -> bool:
    """Returns True if this CPU adds INT8 products exactly; tested with the largest ones.

    x86 CPUs without VNNI add two of them in 16 bits, where the sum saturates at 32,767.

    Raises:
        BackendError: OpenVINO is not installed.
    """
    openvino = import_openvino()
    op, least, largest = openvino.opset1, np.float32(0), np.float32(255)
    pair = op.parameter([1, 2], np.float32, name="pair")
    rounded = op.fake_quantize(pair, least, largest, least, largest, 256)
    weights = op.multiply(op.convert(np.full((2, 1), 127, np.int8), "f32"), np.float32(1))
    model = openvino.Model(
        [op.matmul(rounded, weights, transpose_a=False, transpose_b=False)], [pair]
    )
    compiled = compile_graph(model, {"pair": (1, 2)}, 1, bfloat16=False)
    (total,) = compiled({"pair": np.full((1, 2), largest)}).to_tuple()
    return bool(total.item() == 2 * 255 * 127)


def compile_graph(
    model: Model,
    shapes: Mapping[str, tuple[int, ...]],
    threads: int,
    batches: int = 1,
    *,
    bfloat16: bool,
) -> CompiledModel:
    """Compiles an `openvino.Model` for inputs of given shapes; reshapes it in place.

    So many threads compute each of the batches that run at the same time. With `bfloat16`,
    everything that is not marked to stay in FP32 is computed in bfloat16.

    Raises:
        RuntimeError: OpenVINO cannot compile the model.
    """
    openvino = import_openvino()
    options: dict[str, object] = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": threads * batches,
        **({"NUM_STREAMS": batches} if batches > 1 else {}),
        "INFERENCE_PRECISION_HINT": "bf16" if bfloat16 else "f32",
        "ENABLE_CPU_PINNING": False,  # experts run side by side and share the cores
    }
    if bfloat16:
        # In small graphs, the fused attention kernels of 2026.4 are not deterministic.
        options["SNIPPETS_MODE"] = "DISABLE"
    model.reshape({name: openvino.PartialShape(shape) for name, shape in shapes.items()})
    return openvino.Core().compile_model(model, "CPU", options)


def bfloat16_share(compiled: CompiledModel) -> float:
    """Returns the share of a compiled model's products that are computed in bfloat16."""
    facts = [node.get_rt_info() for node in compiled.get_runtime_model().get_ops()]
    kinds = [
        fact["runtimePrecision"].value for fact in facts if fact["layerType"].value in _PRODUCTS
    ]
    return kinds.count("bf16") / max(len(kinds), 1)
