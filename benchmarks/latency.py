"""Latency of the engines in a folder on this machine, by stage, expert and batch size."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import median

if __package__ in (None, ""):
    # Run as a script: the repository's root must be on the path, benchmarks/ must not.
    sys.path[0] = str(Path(__file__).resolve().parent.parent)
    # NumPy's own threads would take the cores that the experts are timed on.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

from benchmarks import breakdown, comparison, environment, reports
from benchmarks import options as shared
from benchmarks.breakdown import LANES, REFERENCE, SEQUENCE, Figures, Measurement, timed_model
from benchmarks.cold_start import cold_start
from benchmarks.measuring import ReferenceWorkload, interleaved
from benchmarks.plots import latency_plot
from runtime import AgeMoE, Face, commands
from runtime.backends import all_on_cpu, backend_kind
from runtime.cores import usable_cores
from runtime.manifest import Expert
from runtime.manifest_file import read_manifest

SLOWER = 3
BASELINES = ("pytorch", "onnx")
_COLD_STARTS = 3
Run = Callable[[], Measurement]


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; returns its exit status.

    0: measured, and not slower than `--compare`. 2: refused. 3: slower. 130: interrupted.
    """
    options = parser().parse_args(arguments)

    def run() -> int:
        base = comparison.read_report(options.compare) if options.compare else None
        report = measure(options)
        print(reports.latency(report))
        shared.write_outputs(options, report, latency_plot)
        if base is None:
            return 0
        found = comparison.compare(base, report, options.tolerance)
        print(reports.comparison(found))
        return SLOWER if found.slower else 0

    return shared.exit_status(run)


def measure(options: argparse.Namespace) -> Figures:
    """Runs all measurements; returns the report for `--json`."""
    before = environment.load_average()
    faces = shared.input_faces(max(options.batch), options.pictures)
    with contextlib.ExitStack() as stack:
        memory = stack.enter_context(environment.gpu_memory(options.device))
        moe = stack.enter_context(AgeMoE(**shared.agemoe_options(options), concurrency="auto"))  # type: ignore[arg-type]
        chosen = moe.concurrency
        experts = {name: read_manifest(options.engines).experts[name] for name in moe.experts}
        baseline, what_runs = _baseline(options, moe, experts, stack)
        reference = ReferenceWorkload(usable_cores())
        stack.callback(reference.close)
        batches: Figures = {}
        for size in options.batch:
            batch = faces[:size]
            runs: dict[str, Run] = {
                REFERENCE: lambda: Measurement(reference(), {}, {}),
                SEQUENCE: timed_model(moe, SEQUENCE, batch),
                LANES: timed_model(moe, LANES, batch),
                **{name: make(batch) for name, make in baseline.items()},
            }
            rounds = interleaved(runs, seconds=options.seconds)
            architectures = {name: expert.architecture for name, expert in experts.items()}
            batches[str(size)] = breakdown.batch_figures(rounds, size, architectures)
        described = environment.described_experts(moe, options.engines, options.precision)
        gpu_bytes, after = memory(), environment.load_average()
    return {
        **environment.report_header("latency", comparison.SCHEMA_VERSION),
        "load_average": {"before": before, "after": after},
        "settings": {
            "device": options.device,
            "precision": options.precision,
            "threads": options.threads or usable_cores(),
            "concurrency": chosen,
            "seconds": options.seconds,
            "input": f"{len(options.pictures)} given pictures, each a face"
            if options.pictures
            else f"{shared.DRAWN}, one in each, with boxes of face and person",
        },
        "experts": described,
        "baselines": what_runs,
        "opening": _cold_starts(options, faces[0]),
        "peak_bytes": environment.peak_bytes(),
        "gpu_bytes": gpu_bytes,
        "batches": batches,
    }


def _cold_starts(options: argparse.Namespace, face: Face) -> Figures:
    with tempfile.TemporaryDirectory() as folder:
        picture = Path(folder) / "face.jpg"
        picture.write_bytes(face.image)  # type: ignore[arg-type]
        found = [cold_start(shared.agemoe_options(options), picture) for _ in range(_COLD_STARTS)]
    peak = max(start.pop("peak_bytes") for start in found)
    seconds = {n: median([s[n] for s in found]) for n in found[0]}
    return {"processes": _COLD_STARTS, "median_seconds": seconds, "peak_bytes": int(peak)}


def _baseline(
    options: argparse.Namespace,
    moe: AgeMoE,
    experts: dict[str, Expert],
    stack: contextlib.ExitStack,
) -> tuple[dict[str, Callable[[Sequence[Face]], Run]], Figures]:
    """Returns the baseline to measure in the same rounds, and a description of it, by name."""
    if options.baseline is None:
        return {}, {}
    if options.baseline == "onnx":
        other = stack.enter_context(_onnx(options, moe))
        return {"onnx": lambda batch: timed_model(other, SEQUENCE, batch)}, {"onnx": other.backends}
    from benchmarks.baseline_pytorch import PyTorchExperts

    networks = PyTorchExperts(
        options.engines,
        experts,
        device="cpu" if all_on_cpu(moe.backends.values()) else "cuda",
        threads=options.threads or usable_cores(),
        experts_file=options.experts_file,
    )
    return {"pytorch": networks.timed}, {"pytorch": networks.described()}


@contextlib.contextmanager
def _onnx(options: argparse.Namespace, moe: AgeMoE) -> Iterator[AgeMoE]:
    """Opens the same experts on ONNX Runtime, on the GPU that runs TensorRT."""
    if "tensorrt" not in map(backend_kind, moe.backends.values()):
        found = ", ".join(sorted(set(moe.backends.values())))
        raise ValueError(
            f"--baseline onnx compares TensorRT with ONNX Runtime, and these experts run on "
            f"{found}. Use --baseline pytorch."
        )
    ordinal = options.device.partition(":")[2]
    device = f"cuda:{ordinal}" if ordinal else "cuda"
    with environment.onnx_only(options.engines) as folder:
        arguments = {**shared.agemoe_options(options), "engines": str(folder), "device": device}
        with AgeMoE(**arguments, concurrency="sequence") as other:  # type: ignore[arg-type]
            yield other


def parser() -> commands.Parser:
    """Returns the parser of the arguments."""
    parser = shared.parser_of(
        "latency.py",
        "Measures the latency of the engines in a folder on this machine. The exit status is 3 if "
        "it is slower than an earlier report.",
        (
            "--batch 1 2 4 8 --baseline pytorch --json now.json --plot now.png",
            "--compare before.json",
        ),
        seconds=20.0,
        per="batch size",
    )
    add, pictures = parser.add_argument, "pictures of one face each (default: drawn people)"
    add(
        "--batch",
        type=commands.count,
        nargs="+",
        default=[1],
        metavar="N",
        help="numbers of faces per call",
    )
    add("--pictures", type=Path, nargs="+", default=[], metavar="FILE", help=pictures)
    baseline = "also measure this, in the same rounds"
    file, earlier = "experts.toml of the build, for --baseline pytorch", "report of an earlier run"
    add("--baseline", choices=BASELINES, help=baseline)
    add("--experts-file", type=Path, metavar="TOML", help=file)
    add("--compare", type=Path, metavar="JSON", help=earlier)
    tolerance, ignored = comparison.TOLERANCE, "relative change to ignore, 0.05 for 5 %%"
    add("--tolerance", type=commands.positive, default=tolerance, metavar="SHARE", help=ignored)
    return parser


if __name__ == "__main__":
    sys.exit(main())
