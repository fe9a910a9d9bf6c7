"""All checks that need a GPU, in one command and one report: `make gpu-check`.

Doctor, build, parity, concurrency, CUDA graphs, a soak test and the latency benchmark. The report
(report.md, report.json) is rewritten after each section. A section that cannot run here states the
reason, and sections about the GPU accept no expert on the CPU.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

if __package__ in (None, ""):  # run as a file: python benchmarks/gpu_check.py
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

import numpy as np

from benchmarks.breakdown import MODES, estimates_of, timed_model
from benchmarks.environment import gpu_memory, machine
from benchmarks.load_generator import Target, closed_loop
from benchmarks.measuring import interleaved, paired_ratio
from benchmarks.options import exit_status, noise_faces
from benchmarks.reports import interval, listed, markdown_table
from runtime import AgeMoE, AgeMoEError, BackendError, FallbackWarning, PlaceholderWeightsWarning
from runtime.backends import backend_kind
from runtime.backends.gpu.cuda_library import cuda_devices
from runtime.backends.gpu.tensorrt_engine import import_tensorrt
from runtime.backends.names import parse_device
from runtime.backends.onnx import cuda_provider_problem
from runtime.commands import Parser, positive
from runtime.files import resolved, write_json, write_whole
from runtime.geometry import Pixels
from runtime.manifest import ENGINE_BACKENDS
from runtime.options import GpuOptions
from runtime.printing import printable

ROOT = Path(__file__).resolve().parent.parent
_TOLERANCE_YEARS = 0.5
"""Allowed difference between GPU and CPU, and between concurrent and serial: FP16's tolerance."""
_ROUNDS = 30
_CALLERS = 8
Options = argparse.Namespace


class NotRunError(Exception):
    """A section cannot run on this machine."""


@dataclass
class Section:
    """One section of the report."""

    status: str
    """`ok`, `failed` or `not run`."""
    text: str
    figures: dict[str, Any] = field(default_factory=dict)
    title: str = ""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs every section and writes the report; returns 1 if a section failed."""
    return exit_status(partial(_check, _parsed(arguments)))


def _check(options: Options) -> int:
    options.output.mkdir(parents=True, exist_ok=True)
    facts = _facts(options)
    sections: list[Section] = []
    for title, run in _SECTIONS.items():
        sections.append(_ran(title, run, options))
        print(f"{sections[-1].status:<8} {title}", flush=True)
        report = {"facts": facts, "sections": [asdict(section) for section in sections]}
        write_json(options.output / "report.json", report)
        write_whole(options.output / "report.md", _markdown(facts, sections).encode())
    print(f"Report: {printable(options.output / 'report.md')}")
    return int(any(section.status == "failed" for section in sections))


def _facts(options: Options) -> dict[str, Any]:
    status, commit = _command("git", "rev-parse", "--short", "HEAD")
    found = cuda_devices()
    devices = [f"{device.name}, driver for CUDA {device.driver}" for device in found.devices]
    return {
        "when": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        "commit": "unknown" if status else commit,
        "gpu": "; ".join(devices) or found.reason or "none",
        "device": options.device,
        "weights": options.build or "given",
        "machine": machine(),
    }


def _ran(title: str, run: Callable[[Options], Section], options: Options) -> Section:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("ignore", PlaceholderWeightsWarning)  # the report names the weights
        warnings.simplefilter("always", FallbackWarning)
        try:
            section = run(options)
        except NotRunError as error:
            section = Section("not run", str(error))
        except Exception as error:  # noqa: BLE001 - a failed section must not end the report
            section = Section("failed", f"{type(error).__name__}: {error}")
    section.title = title
    section.text += "".join(f"\n\n{warning.message}" for warning in caught)
    return section


def _build(options: Options) -> Section:
    if not options.build:
        raise NotRunError(f"The engines in {options.engines} were given.")
    started = time.monotonic()
    flags = ["--fp16", "--weights", options.build, "--output", str(options.engines)]
    section = _command_section("export/build_engines.py", *flags)
    section.figures = {"seconds": round(time.monotonic() - started, 1)}
    return section


def _parity(options: Options) -> Section:
    """Compares each expert on the device with the same expert in FP32 on the CPU."""
    device = _gpu(options)
    faces = noise_faces(12)
    with (
        _opened(options, device="cpu", precision="fp32") as reference,
        _opened(options, device=device) as tested,
    ):
        expected, found = _expert_ages(reference, faces), _expert_ages(tested, faces)
        backends = tested.backends
    figures: dict[str, Any] = {}
    rows = []
    for name, ages in expected.items():
        difference = np.abs(np.subtract(ages, found[name]))
        mean, largest = float(difference.mean()), float(difference.max())
        figures[name] = {"backend": backends[name], "mean_years": mean, "max_years": largest}
        rows.append((name, backends[name], f"{mean:.4f}", f"{largest:.4f}"))
    within = all(f["max_years"] <= _TOLERANCE_YEARS for f in figures.values())
    text = markdown_table(("expert", "runs on", "mean years", "max years"), rows)
    return Section("ok" if within else "failed", text, figures)


def _concurrency(options: Options) -> Section:
    with _opened(options, device=_gpu(options)) as moe:
        return _compared({mode: (moe, mode) for mode in reversed(MODES)})


def _graphs(options: Options) -> Section:
    device = _gpu(options)
    with (
        _opened(options, device=device) as recorded,
        _opened(options, device=device, gpu=GpuOptions(graphs=False)) as plain,
    ):
        if "tensorrt" not in map(backend_kind, recorded.backends.values()):
            raise NotRunError("No expert runs on TensorRT, the only backend with CUDA graphs.")
        models = {"graphs": recorded, "plain": plain}
        section = _compared({name: (moe, moe.concurrency) for name, moe in models.items()})
        if any("no graphs" in backend for backend in recorded.backends.values()):
            section.status = "failed"
        return section


def _compared(models: Mapping[str, tuple[AgeMoE, str]]) -> Section:
    """Compares two models, each in one mode, in interleaved rounds, by the ratio of their times."""
    one, two = models
    backends = models[one][0].backends
    rows, figures = [], {}
    for batch in (1, 8):
        faces = noise_faces(batch)
        runs = {name: timed_model(moe, mode, faces) for name, (moe, mode) in models.items()}
        rounds = interleaved(runs, seconds=0.0, min_rounds=_ROUNDS, warm_up=3)
        seconds = {name: [one.seconds for one in own] for name, own in rounds.items()}
        first, second = (1e3 * float(np.median(own)) for own in seconds.values())
        ratio = paired_ratio(seconds[one], seconds[two])
        figures[f"batch {batch}"] = {
            f"{one} ms": first,
            f"{two} ms": second,
            "ratio": ratio["median"],
        }
        rows.append((batch, f"{first:.2f}", f"{second:.2f}", interval(ratio)))
    times = markdown_table(("batch", f"{one} (ms)", f"{two} (ms)", "ratio"), rows)
    return Section("ok", f"{listed(backends)}\n\n{times}", figures)


def _soak(options: Options) -> Section:
    """Many callers, batches of all sizes, some deadlines; every answer is compared."""
    with gpu_memory(options.device) as taken, _opened(options) as moe:
        target = Target(moe, noise_faces(16), tolerance_years=_TOLERANCE_YEARS)
        before = taken()
        found = closed_loop(target, _CALLERS, options.seconds, target.mixed)
        grown = None if before is None else (taken() or 0) - before
        backends = listed(moe.backends)
    right = found.right + found.degraded
    text = (
        f"{_CALLERS} callers for {options.seconds:g} s. {backends}. {right} right answers, "
        f"{found.late} faces late, {found.wrong} answers off by more than "
        f"{_TOLERANCE_YEARS} years, {found.failed} errors."
    )
    if grown is not None:
        text += f" GPU memory grew by {grown / 2**20:.1f} MiB meanwhile."
    text += "".join(f"\n- {times} times: {error}" for error, times in found.errors.most_common(5))
    figures: dict[str, Any] = {"answers": right, "late": found.late, "wrong": found.wrong}
    figures |= {"errors": dict(found.errors), "gpu_bytes_grown": grown}
    return Section("failed" if found.wrong or found.failed else "ok", text, figures)


def _benchmark(options: Options) -> Section:
    target = options.output / "latency.json"
    engines, device = ("--engines", str(options.engines)), ("--device", options.device)
    section = _command_section("benchmarks/latency.py", *engines, *device, "--json", str(target))
    section.figures = json.loads(target.read_text()) if section.status == "ok" else {}
    return section


_SECTIONS: dict[str, Callable[[Options], Section]] = {
    "Build": _build,
    "Doctor": lambda options: _command_section(
        "-m", "runtime", "doctor", "--engines", str(options.engines)
    ),
    "Parity with the CPU": _parity,
    "Lanes against a sequence": _concurrency,
    "CUDA graphs against plain launches": _graphs,
    "Soak": _soak,
    "Benchmark": _benchmark,
}


def _gpu(options: Options) -> str:
    """Returns the GPU to open where no expert may run on the CPU; raises `NotRunError` without."""
    found = cuda_devices()
    if not found.devices:
        raise NotRunError(found.reason or "There is no GPU.")
    problems = [cuda_provider_problem(), *map(_tensorrt_problem, ENGINE_BACKENDS)]
    if all(problems):
        raise NotRunError("Nothing installed here runs on the GPU. " + " ".join(map(str, problems)))
    return "cuda" if options.device == "auto" else options.device


def _tensorrt_problem(backend: str) -> str | None:
    try:
        import_tensorrt(backend)
    except BackendError as error:
        return str(error)
    return None


def _opened(options: Options, **changed: Any) -> AgeMoE:  # noqa: ANN401 - passed on
    return AgeMoE(options.engines, **{"device": options.device, "fusion": None} | changed)


def _expert_ages(moe: AgeMoE, faces: Sequence[Pixels]) -> dict[str, list[float]]:
    estimates = estimates_of([moe.predict(face) for face in faces])
    if missing := next((dict(e.missing) for e in estimates if e.missing), None):
        raise AgeMoEError(f"Experts are missing without a deadline: {missing}.")
    return {name: [e.experts[name].age_years for e in estimates] for name in moe.experts}


def _command_section(*arguments: str) -> Section:
    status, text = _command(sys.executable, *arguments)
    return Section("ok" if status == 0 else "failed", f"```\n{text}\n```")


def _command(*command: str) -> tuple[int, str]:
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    return done.returncode, (done.stdout + done.stderr).strip("\n")


def _markdown(facts: Mapping[str, Any], sections: Sequence[Section]) -> str:
    flat = {name: fact for name, fact in facts.items() if name != "machine"} | facts["machine"]
    rows = [(name, listed(fact)) for name, fact in flat.items()]
    lines = ["# GPU check", "", markdown_table(("fact", ""), rows)]
    for section in sections:
        lines += ["", f"## {section.title}: {section.status}", "", section.text]
    return "\n".join(lines) + "\n"


def parser() -> Parser:
    """Returns the parser of the arguments."""
    parser = Parser(
        prog="python benchmarks/gpu_check.py",
        description="Runs every check that needs a GPU and writes one report.",
        examples=("", "--engines engines --device cuda:1 --seconds 60"),
    )
    add, output = parser.add_argument, "folder for the report and the engines that are built"
    device = "device to check: auto, cuda, cuda:N, tensorrt or tensorrt:N"
    soak, built = "duration of the soak test in seconds", "weights of the engines that are built"
    add("--engines", type=Path, metavar="DIR", help="engines folder to check (default: build one)")
    add("--weights", choices=("demo", "random"), default="demo", help=built)
    add("--device", default="auto", help=device)
    add("--seconds", type=positive, default=20.0, metavar="S", help=soak)
    add("--output", type=Path, default=Path("build/gpu-check"), metavar="DIR", help=output)
    return parser


def _parsed(arguments: Sequence[str] | None) -> Options:
    """Parses the options; `build` becomes the weights to build from, empty for given engines."""
    chosen = parser()
    options = chosen.parse_args(arguments)
    try:
        kind, _ = parse_device(options.device)
    except BackendError as error:
        chosen.error(str(error))
    if kind == "cpu":
        chosen.error("--device cpu: this command checks a GPU.")
    options.build = "" if options.engines else options.weights
    options.output = resolved(options.output)  # commands run in another folder
    options.engines = resolved(options.engines or options.output / "engines")
    return options


if __name__ == "__main__":
    sys.exit(main())
