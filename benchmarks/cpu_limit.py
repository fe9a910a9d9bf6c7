"""Speed of each expert by library and precision, relative to the matrix products of this CPU.

Per expert, interleaved and one face at a time: ONNX Runtime and OpenVINO in every precision that
was built, with the difference from FP32 in years and the share of the matrix products per second
that the machine reaches in that precision. `--baseline pytorch` adds the experts as their authors
publish them, in PyTorch eager.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

if __package__ in (None, ""):
    # Run as a script: the repository's root must be on the path, benchmarks/ must not.
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

import numpy as np
import onnx
from numpy.typing import NDArray

from benchmarks.environment import load_average, machine
from benchmarks.measuring import interleaved, paired_ratio, timed
from benchmarks.options import exit_status
from benchmarks.reports import markdown_table
from export.config.contract import Images
from export.faces.verification import verification_images
from runtime import Face
from runtime.backends import ExpertVariant, Session
from runtime.backends.onnx import OnnxCpuSession
from runtime.backends.openvino import OpenVinoSession
from runtime.commands import Parser, positive
from runtime.cores import usable_cores
from runtime.errors import BackendError
from runtime.json_reader import shown
from runtime.manifest import Expert
from runtime.manifest_file import read_manifest
from runtime.shared_options import add_engines

_SESSIONS = (
    ("ONNX Runtime", OnnxCpuSession, ("fp32", "int8")),
    ("OpenVINO", OpenVinoSession, ("fp32", "bf16", "int8")),
)
_PEAK_SIDE = 1536
_PEAK_ROUNDS = 12
_SUMMARY = "Measures the experts' speed relative to the matrix products of this CPU."
_TITLES = (*("expert", "run by", "ms", "× PyTorch"), *("GFLOP/s", "% of peak", "years, mean / max"))


@dataclass(frozen=True, slots=True)
class Configuration:
    """One library and precision that runs an expert."""

    run: Callable[[], float]
    """Predicts one face and returns its seconds."""
    unit: str
    """Precision of the products: `fp32`, `bf16` or `int8`."""
    error_years: tuple[float, float] | None
    """Mean and largest difference from FP32 on the verification faces."""


def configurations(
    name: str, expert: Expert, folder: Path, cores: int, *, pytorch: bool
) -> dict[str, Configuration]:
    """Returns all configurations available on this machine, PyTorch first."""
    images = verification_images(expert.inputs)
    built = {a.precision: a for a in expert.artifacts if a.backend in ("onnx", "openvino")}
    variants = {key: ExpertVariant(name, expert, one, folder) for key, one in built.items()}
    expected = _ages(OnnxCpuSession(variants["fp32"], threads=cores), images)
    found = _pytorch(name, expert, folder, cores) if pytorch else {}

    for kind, session, precisions in _SESSIONS:
        for precision in precisions:
            if precision in variants:
                with contextlib.suppress(BackendError):  # OpenVINO or bfloat16 is not available
                    opened = session(variants[precision], threads=cores)
                    found[f"{kind} {precision}"] = _configuration(
                        opened, images, expected, precision
                    )
    return found


def gigaflops(path: Path) -> float:
    """Returns the 10⁹ multiplications and additions of a graph's products for one face."""
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


def _peaks(cores: int) -> dict[str, float]:
    """Returns GFLOP/s by precision: PyTorch's fastest of several large square products."""
    import torch

    torch.set_num_threads(cores)
    single = torch.rand(_PEAK_SIDE, _PEAK_SIDE)
    half = single.bfloat16()
    integers = (single * 100).to(torch.int8)
    products: dict[str, Callable[[], object]] = {
        "fp32": lambda: single @ single,
        "bf16": lambda: half @ half,
        "int8": lambda: torch._int_mm(integers, integers),  # noqa: SLF001 - has no public name
    }
    runs = {unit: timed(product) for unit, product in products.items()}
    seconds = interleaved(runs, seconds=0.0, min_rounds=_PEAK_ROUNDS)
    reached = {unit: 2e-9 * _PEAK_SIDE**3 / min(times) for unit, times in seconds.items()}
    print(", ".join(f"{unit} {speed:,.0f} GFLOP/s" for unit, speed in reached.items()))
    return reached


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures and prints one table."""
    return exit_status(partial(_measure, parser().parse_args(arguments)))


def parser() -> Parser:
    """Returns the parser of the arguments."""
    parser = Parser(
        prog="python benchmarks/cpu_limit.py",
        description=_SUMMARY,
        examples=("--engines engines", "--experts vgg16 --seconds 60 --baseline pytorch"),
    )
    add, experts = parser.add_argument, "measure only these experts (default: all)"
    seconds, baseline = "duration in seconds per expert", "also measure this, in the same rounds"
    add_engines(parser)
    add("--experts", nargs="+", metavar="NAME", help=experts)
    add("--seconds", type=positive, default=20.0, metavar="S", help=seconds)
    add("--baseline", choices=["pytorch"], help=baseline)
    return parser


def _measure(options: argparse.Namespace) -> int:
    experts = read_manifest(options.engines).experts
    if unknown := [name for name in options.experts or () if name not in experts]:
        raise ValueError(f"There is no expert {shown(unknown[0])}; found {', '.join(experts)}.")
    cores = usable_cores()
    print(f"{machine()['processor']}, {cores} cores, load {load_average()}")
    reached = _peaks(cores)
    print(markdown_table(_TITLES, [], ("---", "---", *["---:"] * 4, "---")))
    for name in options.experts or experts:
        for row in _rows(name, experts[name], options, cores, reached):
            print(f"| {' | '.join(row)} |", flush=True)
    print(f"load {load_average()}")
    return 0


def _rows(
    name: str, expert: Expert, options: argparse.Namespace, cores: int, reached: Mapping[str, float]
) -> Iterator[tuple[str, ...]]:
    work = gigaflops(options.engines / expert.artifacts[0].files[0].path)
    pytorch = options.baseline == "pytorch"
    found = configurations(name, expert, options.engines, cores, pytorch=pytorch)
    seconds = interleaved({key: one.run for key, one in found.items()}, seconds=options.seconds)
    eager = seconds.get("PyTorch fp32")
    for key, one in found.items():
        time = float(np.median(seconds[key]))
        ratio = f"{paired_ratio(eager, seconds[key])['median']:.1f}" if eager else "-"
        speed = work / time
        share = f"{100 * speed / reached[one.unit]:.0f}"
        years = "-" if one.error_years is None else "{:.3f} / {:.3f}".format(*one.error_years)
        yield name, key, f"{1e3 * time:.1f}", ratio, f"{speed:,.0f}", share, years


def _configuration(
    session: Session, images: Images, expected: NDArray[np.float32], unit: str
) -> Configuration:
    errors = np.abs(_ages(session, images) - expected)
    one = {key: array[:1] for key, array in images.items()}
    error_years = float(errors.mean()), float(errors.max())
    return Configuration(timed(lambda: session.enqueue(one).result()), unit, error_years)


def _ages(session: Session, images: Images) -> NDArray[np.float32]:
    return np.asarray(session.enqueue(images).result().outputs["age_years"])


def _pytorch(name: str, expert: Expert, folder: Path, cores: int) -> dict[str, Configuration]:
    """Returns the network as published, in FP32 and under bfloat16 autocast."""
    import torch

    from benchmarks.baseline_pytorch import PyTorchExperts

    spec = expert.inputs[0]
    face = Face(np.zeros((spec.height, spec.width, 3), np.uint8))
    predict = PyTorchExperts(folder, {name: expert}, device="cpu", threads=cores).timed([face])

    def single() -> float:
        return predict().execute[name]

    def half() -> float:
        with torch.autocast("cpu", torch.bfloat16):
            return single()

    return {
        "PyTorch fp32": Configuration(single, "fp32", None),
        "PyTorch bf16": Configuration(half, "bf16", None),
    }


if __name__ == "__main__":
    sys.exit(main())
