"""Everything a GPU has to prove, in one call: `make gpu-check`.

Doctor, build, parity, lanes against a sequence, CUDA graphs, a soak and the benchmark, into one
report of two files that can be pasted into an issue, which are written anew after each section.
What cannot run here says why, and what was not run is not claimed: a section about the GPU takes no
expert on the CPU. Without a GPU the sections that need none still run.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

if __package__ in (None, ""):  # run as a file: python benchmarks/gpu_check.py
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

import numpy as np

from benchmarks.gpu_report import Section, facts, fenced, listed, table, write_report
from benchmarks.gpu_soak import soak
from benchmarks.machine import gpu_memory
from runtime import AgeMoE, AgeMoEError, BackendError, FallbackWarning, PlaceholderWeightsWarning
from runtime.backends import backend_kind
from runtime.backends.fallback import parse_device
from runtime.backends.gpu.cuda_library import cuda_devices
from runtime.backends.gpu.tensorrt_engine import import_tensorrt
from runtime.backends.onnx import cuda_provider_problem
from runtime.executor import MODES
from runtime.geometry import Pixels
from runtime.manifest import ENGINE_BACKENDS
from runtime.options import GpuOptions

ROOT = Path(__file__).resolve().parent.parent
_DRIFT_YEARS = 0.5
"""What a GPU may say otherwise than the CPU of one face: the tolerance of FP16."""
_ROUNDS = 30
_WARM = 3
"""Of these rounds, the first are not counted."""
_CALLERS = 8
Run = Callable[[list[Pixels]], object]


class NotRunError(Exception):
    """A section needs something that is not here."""


@dataclass(frozen=True)
class Check:
    """What the sections work with."""

    engines: Path
    output: Path
    device: str
    build: str
    """Weights to build engines from: `demo` or `random`; empty: the engines are there."""
    seconds: float


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs every section and writes the report; returns 1 if one failed."""
    check = _parsed(arguments)
    check.output.mkdir(parents=True, exist_ok=True)
    about = facts(device=check.device, weights=check.build or "given")
    sections: list[Section] = []
    for title, run in _SECTIONS.items():
        sections.append(_ran(title, run, check))
        print(f"{sections[-1].status:<8} {title}", flush=True)
        write_report(check.output, about, sections)
    print(f"Report: {check.output / 'report.md'}")
    return int(any(section.status == "failed" for section in sections))


def _ran(title: str, run: Callable[[Check], Section], check: Check) -> Section:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("ignore", PlaceholderWeightsWarning)  # said in the report
        warnings.simplefilter("always", FallbackWarning)
        try:
            section = run(check)
        except NotRunError as error:
            section = Section(title, "not run", str(error))
        except Exception as error:  # noqa: BLE001 - a report with one failed section is still one
            section = Section(title, "failed", f"{type(error).__name__}: {error}")
    section.title = title
    section.text += "".join(f"\n\n{warning.message}" for warning in caught)
    return section


def _doctor(check: Check) -> Section:
    status, text = _command("-m", "runtime", "doctor", "--engines", str(check.engines))
    return Section("", "ok" if status == 0 else "failed", fenced(text))


def _build(check: Check) -> Section:
    if not check.build:
        raise NotRunError(f"The engines in {check.engines} were given.")
    started = time.monotonic()
    flags = ["--fp16", "--weights", check.build, "--output", str(check.engines)]
    status, text = _command("export/build_engines.py", *flags)
    seconds = time.monotonic() - started
    figures = {"seconds": round(seconds, 1)}
    return Section("", "ok" if status == 0 else "failed", fenced(text), figures)


def _parity(check: Check) -> Section:
    """What each expert says on the device, against the same expert in FP32 on the CPU."""
    device = _gpu(check)
    faces = _faces(12)
    with (
        _opened(check, device="cpu", precision="fp32") as reference,
        _opened(check, device=device) as found,
    ):
        wanted, said = _readings(reference, faces), _readings(found, faces)
        backends = found.backends
    figures: dict[str, Any] = {}
    for name, ages in wanted.items():
        apart = np.abs(np.array(ages) - np.array(said[name]))
        figures[name] = {
            "backend": backends[name],
            "mean_years": float(apart.mean()),
            "max_years": float(apart.max()),
        }
    rows = [
        (n, f["backend"], f"{f['mean_years']:.4f}", f"{f['max_years']:.4f}")
        for n, f in figures.items()
    ]
    fine = all(f["max_years"] <= _DRIFT_YEARS for f in figures.values())
    text = table(("expert", "runs on", "mean years", "max years"), rows)
    return Section("", "ok" if fine else "failed", text, figures)


def _concurrency(check: Check) -> Section:
    """All experts at once against one after the other, interleaved."""
    with _opened(check, device=_gpu(check)) as moe:

        def in_mode(mode: str) -> Run:
            def run(faces: list[Pixels]) -> None:
                moe.concurrency = mode
                moe.predict(faces)

            return run

        return _compared({mode: in_mode(mode) for mode in MODES}, moe.backends)


def _graphs(check: Check) -> Section:
    """CUDA graphs against plain launches, interleaved."""
    device = _gpu(check)
    with (
        _opened(check, device=device) as recorded,
        _opened(check, device=device, gpu=GpuOptions(graphs=False)) as plain,
    ):
        if "tensorrt" not in map(backend_kind, recorded.backends.values()):
            raise NotRunError("No expert runs on TensorRT, and only there are CUDA graphs used.")
        runs: dict[str, Run] = {"graphs": recorded.predict, "plain": plain.predict}
        section = _compared(runs, recorded.backends)
        if any("no graphs" in backend for backend in recorded.backends.values()):
            section.status = "failed"
        return section


def _compared(runs: Mapping[str, Run], backends: Mapping[str, str]) -> Section:
    """Median times of two ways to run, first and second in turn."""
    one, two = runs
    rows, figures = [], {}
    for batch in (1, 8):
        faces = _faces(batch)
        seconds: dict[str, list[float]] = {name: [] for name in runs}
        for _ in range(_ROUNDS):
            for name, run in runs.items():
                started = time.perf_counter()
                run(faces)
                seconds[name].append(time.perf_counter() - started)
        first, second = (1e3 * statistics.median(seconds[name][_WARM:]) for name in runs)
        figures[f"batch {batch}"] = {
            f"{one} ms": first,
            f"{two} ms": second,
            "ratio": first / second,
        }
        rows.append((batch, f"{first:.2f}", f"{second:.2f}", f"{first / second:.2f}"))
    times = table(("batch", f"{one} (ms)", f"{two} (ms)", "ratio"), rows)
    return Section("", "ok", f"{listed(backends)}\n\n{times}", figures)


def _soak(check: Check) -> Section:
    """Many callers, batches of all sizes, some deadlines; every answer against a serial one."""
    faces = _faces(16)
    with gpu_memory(check.device) as taken, _opened(check) as moe:
        serial = _readings(moe, faces)
        before = taken()
        found = soak(
            moe, faces, serial, callers=_CALLERS, seconds=check.seconds, years=_DRIFT_YEARS
        )
        grown = None if before is None else (taken() or 0) - before
        on = listed(moe.backends)
    text = (
        f"{_CALLERS} callers for {check.seconds:g} s. {on}. {found.answers} right answers, "
        f"{found.late} faces late, {found.wrong} answers off by more than {_DRIFT_YEARS} years, "
        f"{sum(found.errors.values())} errors."
    )
    if grown is not None:
        text += f" GPU memory grew by {grown / 2**20:.1f} MiB meanwhile."
    text += "".join(f"\n- {times} times: {error}" for error, times in found.errors.most_common(5))
    figures = asdict(found) | {"gpu_bytes_grown": grown}
    return Section("", "failed" if found.wrong or found.errors else "ok", text, figures)


def _benchmark(check: Check) -> Section:
    target = check.output / "latency.json"
    status, text = _command(
        "benchmarks/latency.py", "--engines", str(check.engines), "--device", check.device,
        "--json", str(target),
    )  # fmt: skip
    figures = json.loads(target.read_text()) if status == 0 else {}
    return Section("", "ok" if status == 0 else "failed", fenced(text), figures)


_SECTIONS: dict[str, Callable[[Check], Section]] = {
    "Build": _build,
    "Doctor": _doctor,
    "Parity with the CPU": _parity,
    "Lanes against a sequence": _concurrency,
    "CUDA graphs against plain launches": _graphs,
    "Soak": _soak,
    "Benchmark": _benchmark,
}


def _gpu(check: Check) -> str:
    """The device to open where nothing is to run on the CPU.

    Raises:
        NotRunError: there is no GPU, or nothing installed that could run on it.
    """
    found = cuda_devices()
    if not found.devices:
        raise NotRunError(found.reason or "There is no GPU.")
    problems = [cuda_provider_problem(), *map(_tensorrt_problem, ENGINE_BACKENDS)]
    if all(problems):
        raise NotRunError("Nothing installed here runs on the GPU. " + " ".join(map(str, problems)))
    return "cuda" if check.device == "auto" else check.device


def _tensorrt_problem(backend: str) -> str | None:
    try:
        import_tensorrt(backend)
    except BackendError as error:
        return str(error)
    return None


def _opened(check: Check, **options: Any) -> AgeMoE:  # noqa: ANN401 - passed on
    return AgeMoE(check.engines, **{"device": check.device, "fusion": None} | options)


def _readings(moe: AgeMoE, faces: Sequence[Pixels]) -> dict[str, list[float]]:
    """Each expert's own ages in years, face by face."""
    said: dict[str, list[float]] = {name: [] for name in moe.experts}
    for face in faces:
        estimate = moe.predict(face)
        if estimate.missing:
            raise AgeMoEError(f"Experts are missing without a deadline: {dict(estimate.missing)}.")
        for name, expert in estimate.experts.items():
            said[name].append(expert.age_years)
    return said


def _faces(count: int) -> list[Pixels]:
    """Pictures with structure of every size, the same each time; no PyTorch is needed for them."""
    rng = np.random.default_rng(0)
    grids = rng.integers(0, 256, (count, 12, 12, 3), dtype=np.uint8)
    return [np.ascontiguousarray(np.kron(g, np.ones((20, 20, 1), np.uint8))) for g in grids]


def _command(*arguments: str) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return done.returncode, (done.stdout + done.stderr).strip("\n")


def _parsed(arguments: Sequence[str] | None) -> Check:
    parser = argparse.ArgumentParser(prog="python benchmarks/gpu_check.py", description=__doc__)
    parser.add_argument("--engines", type=Path, help="engines that are there; default: build some")
    parser.add_argument("--weights", choices=("demo", "random"), default="demo", help="to build")
    parser.add_argument("--device", default="auto", help="auto, cuda, cuda:N or tensorrt")
    parser.add_argument("--seconds", type=float, default=20.0, help="of the soak")
    parser.add_argument("--output", type=Path, default=Path("build/gpu-check"), metavar="DIR")
    parsed = parser.parse_args(arguments)
    try:
        kind, _ = parse_device(parsed.device)
    except BackendError as error:
        parser.error(str(error))
    if kind == "cpu":
        parser.error("--device cpu: there is nothing of a GPU to check.")
    output = parsed.output.resolve()  # commands are run elsewhere
    return Check(
        engines=(parsed.engines or output / "engines").resolve(),
        output=output,
        device=parsed.device,
        build="" if parsed.engines else parsed.weights,
        seconds=parsed.seconds,
    )


if __name__ == "__main__":
    sys.exit(main())
