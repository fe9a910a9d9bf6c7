"""Parity of built files with the reference model, in years, on the verification faces."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from export.build.differences import AgeGrid, Tolerance, compared, whole_years_of
from export.config.contract import Images, Outputs
from export.diagnosis.half import own_name
from export.diagnosis.layers import OnnxLayers
from export.errors import ParityError
from export.faces.verification import PROBES, in_batches, verification_images
from export.graph.sessions import open_session
from export.graph.weights import is_large
from export.variants.fp16 import LARGEST_HALF, tensor_types
from runtime.backends import ExpertVariant
from runtime.manifest import ENGINE_BACKENDS, Parity
from runtime.printing import counted

REVISION = 3
"""To be raised with every change of the tolerances or of what is compared."""


TOLERANCES = {
    "fp32": Tolerance(mean_years=0.001, max_years=0.001, probability=1e-4, differing_share=0.05),
    "fp16": Tolerance(mean_years=0.1, max_years=0.5, probability=0.02),
    # Only labeled faces can judge Janus's INT8 variant; the difference is reported, not limited.
    "int8": Tolerance(mean_years=math.inf, max_years=math.inf, probability=math.inf),
}
OPENVINO_TOLERANCE = Tolerance(mean_years=0.3, max_years=1.5, probability=0.1)
"""Of variants for OpenVINO, whose conversion stays within tighter limits on other faces."""


def check_parity(
    path: Path,
    precision: str,
    images: Images,
    reference: Outputs,
    exact: Path | None = None,
    age_grid: AgeGrid = None,
    origin: str = "PyTorch",
) -> Parity:
    """Compares an ONNX file with the reference's outputs on the verification faces.

    Args:
        path: of the file.
        precision: selects the tolerance.
        images: the verification faces.
        reference: the reference model's outputs.
        exact: the FP32 file of a half-precision one, which shows where that would overflow.
        age_grid: ages of the columns of `age_probs`, if `age_years` are whole numbers.
        origin: what the reference model is, for the message.

    Raises:
        ParityError: they exceed the tolerance, also with half precision rounded as on a GPU, or a
            half-precision tensor overflows.
    """
    names = list(reference)
    found = _outputs(path, names, images, frugal=precision == "fp16" and is_large(path))
    if exact is not None:
        _check_range(path, exact, images)
    parity, problem = compared(found, reference, TOLERANCES[precision], age_grid)
    if problem:
        raise ParityError(f"{path.name} differs from {origin} by {problem}.")
    if exact is not None:
        _check_rounded(path, images, reference, age_grid, origin)
    return parity


VariantRun = Callable[[ExpertVariant, Images], Outputs]
"""From a variant and images to its outputs."""


def runtime_outputs(variant: ExpertVariant, images: Images) -> Outputs:
    """Runs a variant on images with the runtime itself; engines on the first GPU."""
    from runtime.backends.fallback import DeviceRequest, open_devices
    from runtime.options import GpuOptions

    name, artifact = variant.name, variant.artifact
    kind = "tensorrt" if artifact.backend in ENGINE_BACKENDS else "cpu"
    gpu = GpuOptions(slots=1, graphs=False)
    request = DeviceRequest(kind, 0, artifact.precision, hashes=True, threads=None, gpu=gpu)
    expert = replace(variant.expert, artifacts=(artifact,))
    (device,) = open_devices({name: expert}, variant.folder, request)
    results = []
    try:
        for views in _batches(images, expert.profile.largest):
            batch = device.take({spec: views[spec.name] for spec in expert.inputs})
            try:
                results.append(batch.enqueue(name).result().outputs)
            finally:
                batch.release()
    finally:
        device.close()
    return {output: np.concatenate([r[output] for r in results]) for output in expert.outputs}


def check_engine(engine: ExpertVariant, run: VariantRun = runtime_outputs) -> Parity:
    """Compares an engine with the FP32 ONNX file on the verification faces; returns differences.

    That file has been compared with the reference model, and is available even where that is not
    loaded because only the engine is built.

    Raises:
        ParityError: they exceed the tolerance of the engine's precision.
    """
    expert = engine.expert
    fp32 = next(a for a in expert.artifacts if (a.backend, a.precision) == ("onnx", "fp32"))
    few = fp32.parity is not None and fp32.parity.faces <= len(PROBES)
    images = verification_images(expert.inputs, few=few)
    path = engine.folder / fp32.files[0].path
    reference = _outputs(path, list(expert.outputs), images, frugal=is_large(path))
    tolerance = TOLERANCES[engine.artifact.precision]
    parity, problem = compared(run(engine, images), reference, tolerance, whole_years_of(expert))
    if problem:
        raise ParityError(f"The engine of {engine.name!r} differs from {path.name} by {problem}.")
    return parity


def check_openvino(
    variant: ExpertVariant, images: Images, reference: Outputs, origin: str = "PyTorch"
) -> Parity:
    """Compares a variant for OpenVINO with the reference's outputs on the verification faces.

    Raises:
        ParityError: they exceed the tolerance.
    """
    found = runtime_outputs(variant, images)
    parity, problem = compared(found, reference, OPENVINO_TOLERANCE, whole_years_of(variant.expert))
    if problem:
        precision = variant.artifact.precision
        raise ParityError(
            f"The {precision} variant of {variant.name!r} differs from {origin} by {problem}. It "
            f"was left out; to skip the search next time, build it without --{precision}."
        )
    return parity


def _batches(images: Images, largest: int) -> Iterator[Images]:
    """Yields the images in batches of odd sizes, at most `largest`."""
    for batch in in_batches(images):
        for start in range(0, min(map(len, batch.values())), largest):
            yield {name: array[start : start + largest] for name, array in batch.items()}


def _outputs(path: Path, names: list[str], images: Images, *, frugal: bool) -> Outputs:
    session = open_session(path, frugal=frugal)
    batches = [session.run(names, dict(batch)) for batch in in_batches(images)]
    return {
        name: np.concatenate([batch[index] for batch in batches])
        for index, name in enumerate(names)
    }


def _check_range(half: Path, exact: Path, images: Images) -> None:
    """Raises if a tensor of a half-precision graph would overflow.

    On a CPU ONNX Runtime computes FP16 in FP32, which hides overflow; the FP32 graph shows the true
    magnitude of each tensor.
    """
    halves = {name for name, kind in tensor_types(half).items() if kind == "fp16"}
    sizes = _sizes(exact, halves, images)
    over = {name: size for name, size in sizes.items() if not size <= LARGEST_HALF}
    if over:
        name, size = next(iter(over.items()))
        number = counted(len(over), "half-precision tensor")
        raise ParityError(
            f"{half.name}: {number} overflow{'' if len(over) > 1 else 's'}, the first is {name!r} "
            f"with {size:.3g} (at most {LARGEST_HALF:.0f}). Keep what computes it in FP32."
        )


def _check_rounded(
    path: Path, images: Images, reference: Outputs, age_grid: AgeGrid, origin: str
) -> None:
    """Raises if rounding to half precision, as on a GPU, spoils the ages.

    ONNX Runtime on a CPU hides it, as where large numbers cancel. Only the largest difference is
    limited: a GPU that fuses nodes rounds less often.
    """
    if is_large(path):
        images, reference = _probes(images), _probes(reference)
    batches = [OnnxLayers(path, batch).values(list(reference)) for batch in in_batches(images)]
    found = {name: np.concatenate([batch[name] for batch in batches]) for name in reference}
    limit = TOLERANCES["fp16"]
    limit = replace(limit, mean_years=limit.max_years)
    with np.errstate(invalid="ignore"):  # lost values
        _, problem = compared(found, reference, limit, age_grid)
    if problem:
        raise ParityError(
            f"{path.name}, with every result rounded to half precision as on a GPU, differs from "
            f"{origin} by {problem}. ONNX Runtime on a CPU computes it in FP32, which hides that."
        )


def _sizes(path: Path, wanted: set[str], images: Images) -> dict[str, float]:
    """Returns the largest magnitudes of some activations of an FP32 graph on a few faces.

    They are computed within the graph, right after each activation, so that none has to be kept.
    """
    model = onnx.load(str(path), load_external_data=False)
    nodes, names = [], []
    for node in model.graph.node:
        nodes.append(node)
        for name in wanted.intersection(node.output):
            names.append(name)
            sizes, largest = own_name(name, "sizes"), own_name(name, "largest")
            nodes.append(onnx.helper.make_node("Abs", [name], [sizes]))
            nodes.append(onnx.helper.make_node("ReduceMax", [sizes], [largest], keepdims=0))
    if not names:
        return {}
    del model.graph.node[:], model.graph.output[:]
    model.graph.node.extend(nodes)
    model.graph.output.extend(
        onnx.helper.make_tensor_value_info(own_name(name, "largest"), onnx.TensorProto.FLOAT, [])
        for name in names
    )
    session = open_session(model.SerializeToString(), path.parent, frugal=is_large(path))
    probes = _probes(images)
    rows = [
        session.run(None, {name: array[i : i + 1] for name, array in probes.items()})
        for i in range(min(map(len, probes.values())))
    ]
    return dict(zip(names, np.max(rows, axis=0).tolist(), strict=True))


def _probes(images: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    return {n: a if len(a) <= len(PROBES) else a[list(PROBES)] for n, a in images.items()}
