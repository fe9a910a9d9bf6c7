"""How fast the engines in a folder are on this machine.

python benchmarks/latency.py
python benchmarks/latency.py --batch 1 2 4 8 --baseline pytorch --json now.json --plot now.png
python benchmarks/latency.py --compare before.json
"""

from __future__ import annotations

import argparse
import contextlib
import datetime as dt
import os
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

if __package__ in (None, ""):
    # Run as a script: the repository's root must be on the path, benchmarks/ must not.
    sys.path[0] = str(Path(__file__).resolve().parent.parent)
    # NumPy's own threads would take the cores that the experts are timed on.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

from benchmarks import comparing, text
from benchmarks.arguments import INTERRUPTED, count, new_file, positive
from benchmarks.cold_start import cold_start
from benchmarks.figures import LANES, SEQUENCE, YARDSTICK, Figures, batch_figures
from benchmarks.machine import gpu_memory, load_average, machine, peak_bytes
from benchmarks.measuring import Yardstick, distribution, interleaved
from benchmarks.pictures import HEIGHT, WIDTH, faces
from benchmarks.subjects import (
    Lap,
    Ours,
    described_experts,
    onnx_only,
)
from export.errors import ExportError
from runtime import AgeMoE, AgeMoEError, Face, PlaceholderWeightsWarning
from runtime.backends import all_on_cpu, backend_kind
from runtime.cores import usable_cores
from runtime.files import write_json, write_whole
from runtime.manifest import Expert
from runtime.manifest_file import read_manifest

REFUSED, SLOWER = 2, 3
BASELINES = ("pytorch", "onnx")
_OPENINGS = 3
Run = Callable[[], Lap]


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; returns its exit status.

    0: measured, and not slower than `--compare`. 2: refused. 3: slower. 130: interrupted.
    """
    options = _parser().parse_args(arguments)
    try:
        base = comparing.read_report(options.compare) if options.compare else None
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", PlaceholderWeightsWarning)  # the table says it
            report = measure(options)
        print(text.latency(report))
        _write(options, report)
        if base is None:
            return 0
        comparison = comparing.compare(base, report, options.tolerance)
    except (AgeMoEError, ExportError, ValueError, OSError, RuntimeError) as error:
        print(error, file=sys.stderr)
        return REFUSED
    except KeyboardInterrupt:
        print("Interrupted; nothing was written.", file=sys.stderr)
        return INTERRUPTED
    print(text.comparison(comparison))
    return SLOWER if comparison.slower else 0


def measure(options: argparse.Namespace) -> Figures:
    """Measures everything that was asked for; the result is what `--json` writes."""
    before = load_average()
    pictures = faces(max(options.batch), options.pictures)
    with contextlib.ExitStack() as stack:
        memory = stack.enter_context(gpu_memory(options.device))
        moe = stack.enter_context(AgeMoE(**_arguments(options), concurrency="auto"))
        chosen = moe.concurrency
        baseline, stand_ins = _baseline(options, moe, stack)
        yardstick = Yardstick(usable_cores())
        stack.callback(yardstick.close)
        architectures = {n: e.architecture for n, e in _experts(options, moe).items()}
        batches: Figures = {}
        for size in options.batch:
            batch = pictures[:size]
            runs: dict[str, Run] = {
                YARDSTICK: lambda: Lap(yardstick(), {}, {}),
                SEQUENCE: Ours(moe, SEQUENCE, batch),
                LANES: Ours(moe, LANES, batch),
                **{name: make(batch) for name, make in baseline.items()},
            }
            laps = interleaved(runs, seconds=options.seconds)
            batches[str(size)] = batch_figures(laps, size, architectures)
        described = described_experts(moe, options.engines, options.precision)
        gpu_bytes, after = memory(), load_average()
    return {
        "schema_version": comparing.SCHEMA_VERSION,
        "benchmark": "latency",
        "created": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        "machine": machine(),
        "load_average": {"before": before, "after": after},
        "settings": {
            "device": options.device,
            "precision": options.precision,
            "threads": options.threads or usable_cores(),
            "concurrency": chosen,
            "seconds": options.seconds,
            "input": _input(options),
        },
        "experts": described,
        "baselines": stand_ins,
        "opening": _opening(options, pictures[0]),
        "peak_bytes": peak_bytes(),
        "gpu_bytes": gpu_bytes,
        "batches": batches,
    }


def _arguments(options: argparse.Namespace) -> dict[str, Any]:
    """What an `AgeMoE` is opened with; plain values, so that a fresh process can be told."""
    return {
        "engines": str(options.engines),
        "device": options.device,
        "precision": options.precision,
        "experts": options.experts,
        "threads": options.threads,
    }


def _opening(options: argparse.Namespace, face: Face) -> Figures:
    """Fresh processes that open the engines and answer once."""
    with tempfile.TemporaryDirectory() as folder:
        picture = Path(folder) / "face.jpg"
        picture.write_bytes(face.image)  # type: ignore[arg-type]
        found = [cold_start(_arguments(options), picture) for _ in range(_OPENINGS)]
    peak = max(start.pop("peak_bytes") for start in found)
    seconds = {n: distribution([s[n] for s in found]).median_seconds for n in found[0]}
    return {"processes": _OPENINGS, "median_seconds": seconds, "peak_bytes": int(peak)}


def _baseline(
    options: argparse.Namespace, moe: AgeMoE, stack: contextlib.ExitStack
) -> tuple[dict[str, Callable[[Sequence[Face]], Run]], Figures]:
    """What to time beside ours, by name, and what is to be known of it."""
    if options.baseline is None:
        return {}, {}
    if options.baseline == "onnx":
        other = stack.enter_context(_onnx(options, moe))
        return {"onnx": lambda batch: Ours(other, SEQUENCE, batch)}, {"onnx": other.backends}
    from benchmarks.baseline_pytorch import PyTorchExperts

    experts = PyTorchExperts(
        options.engines,
        _experts(options, moe),
        device="cpu" if all_on_cpu(moe.backends.values()) else "cuda",
        threads=options.threads or usable_cores(),
        experts_file=options.experts_file,
    )
    return {"pytorch": experts.on}, {"pytorch": experts.described()}


@contextlib.contextmanager
def _onnx(options: argparse.Namespace, moe: AgeMoE) -> Iterator[AgeMoE]:
    """The same experts on ONNX Runtime, on the device that most of them run on."""
    if "tensorrt" not in map(backend_kind, moe.backends.values()):
        found = ", ".join(sorted(set(moe.backends.values())))
        raise ValueError(
            f"--baseline onnx compares TensorRT with ONNX Runtime, and these experts run on "
            f"{found}. Use --baseline pytorch."
        )
    ordinal = options.device.partition(":")[2]
    device = f"cuda:{ordinal}" if ordinal else "cuda"
    with onnx_only(options.engines) as folder:
        arguments = {**_arguments(options), "engines": str(folder), "device": device}
        with AgeMoE(**arguments, concurrency="sequence") as other:
            yield other


def _experts(options: argparse.Namespace, moe: AgeMoE) -> dict[str, Expert]:
    experts = read_manifest(options.engines).experts
    return {name: experts[name] for name in moe.experts}


def _input(options: argparse.Namespace) -> str:
    if options.pictures:
        return f"{len(options.pictures)} given pictures, each a face"
    return f"drawn people in JPEGs of {WIDTH}×{HEIGHT}, one in each, with boxes of face and person"


def _write(options: argparse.Namespace, report: Mapping[str, object]) -> None:
    if options.json:
        write_json(options.json, report)
    if options.plot:
        from benchmarks.plots import latency_picture

        write_whole(options.plot, latency_picture(report))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python benchmarks/latency.py",
        description="Measures the engines in a folder on this machine.",
    )
    add = parser.add_argument
    add("--engines", type=Path, default=Path("engines"), metavar="DIR", help="default: engines")
    add("--device", default="auto", help="as AgeMoE takes it; default: auto")
    add("--precision", default="auto", help="as AgeMoE takes it; default: auto")
    add("--experts", nargs="+", metavar="NAME", help="only these; default: all")
    add("--threads", type=count, metavar="N", help="as AgeMoE takes it; default: all cores")
    add("--batch", type=count, nargs="+", default=[1], metavar="N", help="faces; default: 1")
    add("--seconds", type=positive, default=20.0, help="measured per batch size; default: 20")
    add("--pictures", type=Path, nargs="+", default=[], metavar="FILE", help="default: drawn ones")
    add("--baseline", choices=BASELINES, help="what to time in the same rounds")
    add(
        "--experts-file",
        type=Path,
        metavar="TOML",
        help="what the engines were built with, where --baseline pytorch needs to know",
    )
    add("--json", type=new_file, metavar="PATH", help="write everything there")
    add("--plot", type=new_file, metavar="PATH", help="write a picture (PNG) there")
    add("--compare", type=Path, metavar="JSON", help="of an earlier run; exit status 3 if slower")
    add(
        "--tolerance",
        type=positive,
        default=comparing.TOLERANCE,
        metavar="SHARE",
        help=f"change that never counts; default: {comparing.TOLERANCE}",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
