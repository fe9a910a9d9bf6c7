"""The same faces through PyTorch and through what was built; the difference in years."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from export.config.contract import Images, Outputs
from export.errors import ParityError
from export.faces.verification import PROBES, in_batches, verification_images
from export.graph.weights import has_data_file
from export.variants.fp16 import LARGEST_HALF, tensor_types
from runtime.manifest import ENGINE_BACKENDS, Artifact, Expert, Parity

REVISION = 1
"""To be raised with every change of the tolerances or of what is compared."""


@dataclass(frozen=True, slots=True)
class Tolerance:
    """What a built file may differ from PyTorch by."""

    mean_years: float
    max_years: float
    probability: float
    """Largest difference of any probability."""


TOLERANCES = {
    "fp32": Tolerance(mean_years=0.001, max_years=0.001, probability=1e-4),
    "fp16": Tolerance(mean_years=0.1, max_years=0.5, probability=0.02),
    # What Janus's INT8 weights are worth only labeled faces can tell; the difference is reported.
    "int8": Tolerance(mean_years=math.inf, max_years=math.inf, probability=math.inf),
}
OPENVINO_TOLERANCE = Tolerance(mean_years=0.3, max_years=1.5, probability=0.1)
"""Of forms on OpenVINO, which were made to stay within it on other faces."""


def check_parity(
    path: Path, precision: str, images: Images, reference: Outputs, exact: Path | None = None
) -> Parity:
    """Runs a built file on the verification faces and compares it with the reference.

    Args:
        path: of the ONNX file.
        precision: whose tolerance holds.
        images: the verification faces.
        reference: what PyTorch makes of them.
        exact: the FP32 file a half-precision one was made from, to find where they part.

    Returns:
        The differences in years.

    Raises:
        ParityError: they are over the tolerance, or a half-precision tensor overflows.
    """
    names = list(reference)
    found = _outputs(path, names, images, frugal=precision == "fp16" and has_data_file(path))
    if exact is not None:
        _check_range(path, exact, images)
    parity, problem = _compared(found, reference, TOLERANCES[precision])
    if problem:
        where = ""
        if exact is not None and not has_data_file(exact):  # else memory would not hold them all
            where = f" They part at {_divergence(path, exact, images)}."
        raise ParityError(f"{path.name} differs from PyTorch by {problem}.{where}")
    return parity


ArtifactRun = Callable[[str, Expert, Artifact, Path, Images], Outputs]
"""From an expert's name, entry, artifact, engines folder and pictures to what the artifact says."""


def runtime_outputs(
    name: str, expert: Expert, artifact: Artifact, folder: Path, images: Images
) -> Outputs:
    """What an artifact says of pictures, run by the runtime itself; engines on the first GPU."""
    from runtime.backends.fallback import DeviceRequest, open_devices

    kind = "tensorrt" if artifact.backend in ENGINE_BACKENDS else "cpu"
    request = DeviceRequest(kind, precision=artifact.precision, lanes=1, graphs=False)
    (device,) = open_devices({name: replace(expert, artifacts=(artifact,))}, folder, request)
    answers = []
    try:
        for views in _parts(images, expert.profile.largest):
            batch = device.take({spec: views[spec.name] for spec in expert.inputs})
            try:
                answers.append(batch.enqueue(name).result().outputs)
            finally:
                batch.release()
    finally:
        device.close()
    return {output: np.concatenate([a[output] for a in answers]) for output in expert.outputs}


def check_engine(
    name: str, expert: Expert, engine: Artifact, folder: Path, run: ArtifactRun = runtime_outputs
) -> Parity:
    """Runs an engine on the verification faces and compares it with the FP32 ONNX file.

    That file has proven to be what PyTorch computes, and is here also when PyTorch's weights are
    not loaded because only the engine is built.

    Args:
        name: of the expert.
        expert: with its ONNX files.
        engine: built for the GPU that is here.
        folder: the engines folder.
        run: the engine.

    Returns:
        The differences in years.

    Raises:
        ParityError: they are over the tolerance of the engine's precision.
    """
    forms = {(a.backend, a.precision): a for a in expert.artifacts}
    single = forms["onnx", "fp32"]
    images = verification_images(
        expert.inputs, few=single.parity is not None and single.parity.faces <= len(PROBES)
    )
    path = folder / single.files[0].path
    reference = _outputs(path, list(expert.outputs), images, frugal=has_data_file(path))
    found = run(name, expert, engine, folder, images)
    parity, problem = _compared(found, reference, TOLERANCES[engine.precision])
    if problem:
        raise ParityError(f"The engine of {name!r} differs from {path.name} by {problem}.")
    return parity


def check_openvino(
    name: str,
    expert: Expert,
    form: Artifact,
    folder: Path,
    images: Images,
    reference: Outputs,
    run: ArtifactRun = runtime_outputs,
) -> Parity:
    """Runs a form on the verification faces, on OpenVINO, and compares it with the reference.

    Args:
        name: of the expert.
        expert: its inputs and outputs.
        form: for OpenVINO.
        folder: the engines folder.
        images: the verification faces.
        reference: what PyTorch makes of them.
        run: the form.

    Returns:
        The differences in years.

    Raises:
        ParityError: they are over the tolerance.
    """
    found = run(name, expert, form, folder, images)
    parity, problem = _compared(found, reference, OPENVINO_TOLERANCE)
    if problem:
        raise ParityError(
            f"The {form.precision} form of {name!r} differs from PyTorch by {problem}. It was left "
            f"out; to spare the search next time, build {name!r} without --{form.precision}."
        )
    return parity


def _compared(found: Outputs, reference: Outputs, tolerance: Tolerance) -> tuple[Parity, str]:
    """The differences, and in words if they are over the tolerance; empty if they are within."""
    years = np.abs(found["age_years"] - reference["age_years"])
    probabilities = max(
        (float(np.abs(found[n] - reference[n]).max()) for n in reference if n != "age_years"),
        default=0.0,
    )
    parity = Parity(float(years.mean()), float(years.max()), len(years))
    within = (
        parity.mean_years <= tolerance.mean_years
        and parity.max_years <= tolerance.max_years
        and probabilities <= tolerance.probability
    )
    problem = (
        f"{parity.mean_years:.4g} years on average, {parity.max_years:.4g} at most and "
        f"{probabilities:.2g} in a probability; allowed are {tolerance.mean_years}, "
        f"{tolerance.max_years} and {tolerance.probability}"
    )
    return parity, "" if within else problem


def _parts(images: Images, largest: int) -> Iterator[Images]:
    """The pictures in batches of odd sizes that an engine can take."""
    for batch in in_batches(images):
        for start in range(0, min(map(len, batch.values())), largest):
            yield {name: array[start : start + largest] for name, array in batch.items()}


def _outputs(path: Path, names: list[str], images: Images, *, frugal: bool) -> Outputs:
    session = _session(path, frugal=frugal)
    batches = [session.run(names, dict(batch)) for batch in in_batches(images)]
    return {
        name: np.concatenate([batch[index] for batch in batches])
        for index, name in enumerate(names)
    }


def _check_range(half: Path, exact: Path, images: Images) -> None:
    """Refuses a half-precision graph in which a tensor would overflow.

    ONNX Runtime computes FP16 through FP32 on a CPU and so hides overflow; the FP32 graph shows
    how large each tensor really becomes.
    """
    halves = {name for name, kind in tensor_types(half).items() if kind == "fp16"}
    sizes = _sizes(exact, halves, images)
    over = {name: size for name, size in sizes.items() if not size <= LARGEST_HALF}
    if over:
        name, size = next(iter(over.items()))
        raise ParityError(
            f"{half.name}: {len(over)} half-precision tensors overflow, the first is {name!r} "
            f"with {size:.3g} (at most {LARGEST_HALF:.0f}). Keep what computes it in FP32."
        )


def _sizes(path: Path, wanted: set[str], images: Images) -> dict[str, float]:
    """Largest sizes of some activations of an FP32 graph on a few faces, one at a time.

    They are taken within the graph, right after each activation, so that none has to be kept.
    """
    model = onnx.load(str(path), load_external_data=False)
    nodes, names = [], []
    for node in model.graph.node:
        nodes.append(node)
        for name in wanted.intersection(node.output):
            names.append(name)
            sizes, largest = f"{name}.sizes", f"{name}.largest"
            nodes.append(onnx.helper.make_node("Abs", [name], [sizes]))
            nodes.append(onnx.helper.make_node("ReduceMax", [sizes], [largest], keepdims=0))
    del model.graph.node[:], model.graph.output[:]
    model.graph.node.extend(nodes)
    model.graph.output.extend(
        onnx.helper.make_tensor_value_info(f"{name}.largest", onnx.TensorProto.FLOAT, [])
        for name in names
    )
    session = _session(model.SerializeToString(), path.parent, frugal=has_data_file(path))
    probes = _probes(images)
    rows = [
        session.run(None, {name: array[i : i + 1] for name, array in probes.items()})
        for i in range(min(map(len, probes.values())))
    ]
    return dict(zip(names, np.max(rows, axis=0).tolist(), strict=True))


def _divergence(half: Path, exact: Path, images: Images) -> str:
    """Name of the first tensor that is off by more than a tenth of its own size."""
    wanted = _trace(exact, images)
    found = _trace(half, images)
    worst, worst_error = "the output", 0.0
    for name, value in wanted.items():
        if name not in found:
            continue
        scale = float(np.abs(value).max()) or 1.0
        error = float(np.abs(found[name].astype(np.float32) - value).max()) / scale
        if not error <= 0.1:
            return f"{name!r} (off by {error:.2g} of its largest value)"
        if error > worst_error:
            worst, worst_error = name, error
    return f"{worst!r} most (off by {worst_error:.2g} of its largest value)"


def _trace(path: Path, images: Images) -> Mapping[str, NDArray[Any]]:
    """Every floating-point activation of a graph on a few faces, in the order of computing."""
    model = onnx.load(str(path))
    kinds = {"fp32": onnx.TensorProto.FLOAT, "fp16": onnx.TensorProto.FLOAT16}
    types = tensor_types(path)
    outputs = {value.name for value in model.graph.output}
    names = [out for node in model.graph.node for out in node.output if out in types]
    model.graph.output.extend(
        onnx.helper.make_tensor_value_info(name, kinds[types[name]], None)
        for name in names
        if name not in outputs
    )
    values = _session(model.SerializeToString(), path.parent).run(names, dict(_probes(images)))
    return dict(zip(names, values, strict=True))


def _probes(images: Images) -> Images:
    return {n: a if len(a) <= len(PROBES) else a[list(PROBES)] for n, a in images.items()}


def _session(model: Path | bytes, folder: Path | None = None, *, frugal: bool = False) -> Any:  # noqa: ANN401 - onnxruntime has no types
    """A session on a file, or on a graph whose large weights lie in a folder.

    A frugal one leaves weights where they lie; ONNX Runtime would lay them out anew, and keep an
    FP32 copy of all that are half precision.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    if frugal:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.add_session_config_entry("session.disable_prepacking", "1")
        options.execution_order = onnxruntime.ExecutionOrder.PRIORITY_BASED
        options.enable_mem_pattern = False  # or all that is ever needed is taken at once
    options.log_severity_level = 3  # what the graph optimizer could not fold is no news
    if folder is not None:
        key = "session.model_external_initializers_file_folder_path"
        options.add_session_config_entry(key, str(folder))
    source = model if isinstance(model, bytes) else str(model)
    return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
