"""How near each way of running an expert comes to what this CPU can multiply.

python benchmarks/cpu_limit.py --engines engines

Per expert, interleaved and one face at a time: PyTorch eager, ONNX Runtime and OpenVINO, in every
precision that is built; beside each its years of difference from FP32 and its share of the matrix
products per second that the machine reaches in that precision. `--baseline pytorch` runs
the same experts as their authors publish them.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

if __package__ in (None, ""):
    # Run as a script: the repository's root must be on the path, benchmarks/ must not.
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

import numpy as np
import onnx
from numpy.typing import NDArray

from benchmarks.machine import load_average, machine
from benchmarks.measuring import interleaved, timed
from export.config.contract import Images
from export.faces.verification import verification_images
from runtime import Face
from runtime.backends import Session
from runtime.backends.onnx import OnnxCpuSession
from runtime.backends.openvino import OpenVinoSession
from runtime.cores import usable_cores
from runtime.errors import BackendError
from runtime.manifest import Expert
from runtime.manifest_file import read_manifest

_SESSIONS = (
    ("ONNX Runtime", OnnxCpuSession, ("fp32", "int8")),
    ("OpenVINO", OpenVinoSession, ("fp32", "bf16", "int8")),
)
_PEAK_SIDE = 1536
_PEAK_BATCHES = 12


@dataclass(frozen=True, slots=True)
class Way:
    """One way of running an expert."""

    run: Callable[[], float]
    """One face; gives its seconds."""
    unit: str
    """What multiplies: `fp32`, `bf16` or `int8`."""
    error_years: tuple[float, float] | None
    """Mean and largest difference from FP32 on the verification faces."""


def ways(name: str, expert: Expert, folder: Path, cores: int, *, pytorch: bool) -> dict[str, Way]:
    """Every way there is on this machine, PyTorch first."""
    images = verification_images(expert.inputs)
    built = {a.precision: a for a in expert.artifacts if a.backend in ("onnx", "openvino")}
    wanted = _ages(OnnxCpuSession(name, expert, built["fp32"], folder, threads=cores), images)
    found: dict[str, Way] = _pytorch(name, expert, folder, cores) if pytorch else {}

    for kind, session, precisions in _SESSIONS:
        for precision in precisions:
            if precision in built:
                with contextlib.suppress(BackendError):  # OpenVINO or bfloat16 is not here
                    opened = session(name, expert, built[precision], folder, threads=cores)
                    found[f"{kind} {precision}"] = _way(opened, images, wanted, precision)
    return found


def gigaflops(path: Path) -> float:
    """10⁹ multiplications and additions that the products of a graph take for one face."""
    model = onnx.load(str(path), load_external_data=False)
    for value in model.graph.input:
        value.type.tensor_type.shape.dim[0].dim_value = 1
    inferred = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    shapes = {t.name: list(t.dims) for t in inferred.initializer}
    for value in (*inferred.input, *inferred.value_info, *inferred.output):
        shapes[value.name] = [d.dim_value or 1 for d in value.type.tensor_type.shape.dim]
    total = 0
    for node in model.graph.node:
        if node.op_type in ("Conv", "Gemm", "MatMul"):
            weight, out = shapes[node.input[1]], shapes[node.output[0]]
            left = shapes[node.input[0]]
            depth = math.prod(weight[1:]) if node.op_type == "Conv" else left[-1]
            total += 2 * depth * math.prod(out)
    return total / 1e9


def peaks(cores: int) -> dict[str, Callable[[], object]]:
    """Large square products by the precision they are computed in; PyTorch's own kernels."""
    import torch

    torch.set_num_threads(cores)
    single = torch.rand(_PEAK_SIDE, _PEAK_SIDE)
    half = single.bfloat16()
    integers = (single * 100).to(torch.int8)
    return {
        "fp32": lambda: single @ single,
        "bf16": lambda: half @ half,
        "int8": lambda: torch._int_mm(integers, integers),  # noqa: SLF001 - the only public way
    }


def main() -> None:
    """Measures and prints one table."""
    parser = argparse.ArgumentParser(description="Experts against what this CPU can multiply.")
    parser.add_argument("--engines", type=Path, default=Path("engines"))
    parser.add_argument("--experts", nargs="+", metavar="NAME")
    parser.add_argument("--seconds", type=float, default=20.0, help="per expert")
    parser.add_argument("--baseline", choices=["pytorch"])
    options = parser.parse_args()
    cores = usable_cores()
    print(f"{machine()['processor']}, {cores} cores, load {load_average()}")
    reached = _peaks(cores)
    names = options.experts or list(read_manifest(options.engines).experts)
    print("| expert | run by | ms | × PyTorch | GFLOP/s | % of peak | years, mean / max |")
    print("|---|---|---:|---:|---:|---:|---|")
    for name in names:
        _measure(name, options.engines, cores, reached, options.seconds, options.baseline)
    print(f"load {load_average()}")


def _peaks(cores: int) -> dict[str, float]:
    """GFLOP/s, by precision: the fastest of some products."""
    runs = {unit: timed(product) for unit, product in peaks(cores).items()}
    laps = interleaved(runs, seconds=0.0, least_rounds=_PEAK_BATCHES)
    reached = {unit: 2e-9 * _PEAK_SIDE**3 / min(times) for unit, times in laps.items()}
    print(", ".join(f"{unit} {speed:,.0f} GFLOP/s" for unit, speed in reached.items()))
    return reached


def _measure(
    name: str,
    folder: Path,
    cores: int,
    reached: Mapping[str, float],
    seconds: float,
    baseline: str | None,
) -> None:
    expert = read_manifest(folder).experts[name]
    work = gigaflops(folder / expert.artifacts[0].files[0].path)
    found = ways(name, expert, folder, cores, pytorch=baseline == "pytorch")
    laps = interleaved({key: way.run for key, way in found.items()}, seconds=seconds)
    eager = laps.get("PyTorch fp32")
    for key, way in found.items():
        time = float(np.median(laps[key]))
        ratio = f"{np.median(np.divide(eager, laps[key])):.1f}" if eager else "-"
        speed = work / time
        years = "-" if way.error_years is None else "{:.3f} / {:.3f}".format(*way.error_years)
        print(
            f"| {name} | {key} | {1e3 * time:.1f} | {ratio} | {speed:,.0f} "
            f"| {100 * speed / reached[way.unit]:.0f} | {years} |",
            flush=True,
        )


def _way(session: Session, images: Images, wanted: NDArray[np.float32], unit: str) -> Way:
    errors = np.abs(_ages(session, images) - wanted)
    one = {key: array[:1] for key, array in images.items()}
    error_years = float(errors.mean()), float(errors.max())
    return Way(timed(lambda: session.enqueue(one).result()), unit, error_years)


def _ages(session: Session, images: Images) -> NDArray[np.float32]:
    return np.asarray(session.enqueue(images).result().outputs["age_years"])


def _pytorch(name: str, expert: Expert, folder: Path, cores: int) -> dict[str, Way]:
    """The network as it is published, in FP32 and under bfloat16's autocast."""
    import torch

    from benchmarks.baseline_pytorch import PyTorchExperts

    spec = expert.inputs[0]
    face = Face(np.zeros((spec.height, spec.width, 3), np.uint8))
    lap = PyTorchExperts(folder, {name: expert}, device="cpu", threads=cores).on([face])

    def single() -> float:
        return lap().execute[name]

    def half() -> float:
        with torch.autocast("cpu", torch.bfloat16):
            return single()

    return {"PyTorch fp32": Way(single, "fp32", None), "PyTorch bf16": Way(half, "bf16", None)}


if __name__ == "__main__":
    main()
