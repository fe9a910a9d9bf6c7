"""Everything a GPU has to prove, in one call: `make gpu-check`.

Doctor, build, parity, lanes against a sequence, CUDA graphs, a soak and the benchmark, into one
report of two files that can be pasted into an issue. What cannot run here says why, and what was
not run is not claimed. Without a GPU the sections that need none still run.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import platform
import statistics
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

if __package__ in (None, ""):  # run as a file: python benchmarks/gpu_check.py
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

import numpy as np

from runtime import AgeEstimate, AgeMoE, AgeMoEError, DeadlineError, StandInWarning
from runtime.files import write_json, write_whole
from runtime.geometry import Pixels
from runtime.manifest import ENGINE_BACKENDS
from runtime.manifest_file import read_manifest
from runtime.sessions.cuda_choice import cuda_devices

ROOT = Path(__file__).resolve().parent.parent
_DRIFT_YEARS = 0.5
"""What a GPU may say otherwise than the CPU of one face: the tolerance of FP16."""
_ROUNDS = 30
_CALLERS = 8


@dataclass
class Section:
    """One part of the report."""

    title: str
    status: str
    """`ok`, `failed` or `not run`."""
    text: str
    figures: dict[str, Any] = field(default_factory=dict)


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
    warnings.simplefilter("ignore", StandInWarning)  # said in the report
    sections = []
    for title, run in _SECTIONS.items():
        sections.append(_ran(title, run, check))
        print(f"{sections[-1].status:<8} {title}", flush=True)
    facts = _facts(check)
    report = {"facts": facts, "sections": [asdict(section) for section in sections]}
    write_json(check.output / "report.json", report)
    write_whole(check.output / "report.md", _markdown(facts, sections).encode())
    print(f"Report: {check.output / 'report.md'}")
    return int(any(section.status == "failed" for section in sections))


def _ran(title: str, run: Callable[[Check], Section], check: Check) -> Section:
    try:
        section = run(check)
    except NotRunError as error:
        section = Section(title, "not run", str(error))
    except Exception as error:  # noqa: BLE001 - a report with one failed section is still one
        section = Section(title, "failed", f"{type(error).__name__}: {error}")
    section.title = title
    return section


def _doctor(check: Check) -> Section:
    status, text = _command("-m", "runtime", "doctor", "--engines", str(check.engines))
    return Section("", "ok" if status == 0 else "failed", _fenced(text))


def _build(check: Check) -> Section:
    if not check.build:
        raise NotRunError(f"The engines in {check.engines} were given.")
    started = time.monotonic()
    flags = ["--fp16", "--weights", check.build, "--output", str(check.engines)]
    status, text = _command("export/build_engines.py", *flags)
    seconds = time.monotonic() - started
    figures = {"seconds": round(seconds, 1)}
    return Section("", "ok" if status == 0 else "failed", _fenced(text), figures)


def _parity(check: Check) -> Section:
    """What each expert says on the device, against the same expert in FP32 on the CPU."""
    _need_gpu()
    faces = _faces(12)
    with _opened(check, device="cpu", precision="fp32") as reference, _opened(check) as found:
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
    text = _table(("expert", "runs on", "mean years", "max years"), rows)
    return Section("", "ok" if fine else "failed", text, figures)


def _concurrency(check: Check) -> Section:
    """All experts at once against one after the other, interleaved."""
    _need_gpu()
    return _compared(check, "concurrency", ("lanes", "sequence"))


def _graphs(check: Check) -> Section:
    """CUDA graphs against plain launches, interleaved."""
    _need_gpu()
    if not any(
        a.backend in ENGINE_BACKENDS
        for e in read_manifest(check.engines).experts.values()
        for a in e.artifacts
    ):
        raise NotRunError("No TensorRT engine is in the folder, and only these use CUDA graphs.")
    return _compared(check, "graphs", (True, False))


def _compared(check: Check, option: str, values: tuple[Any, Any]) -> Section:
    rows, figures = [], {}
    with _opened(check, **{option: values[0]}) as one, _opened(check, **{option: values[1]}) as two:
        for batch in (1, 8):
            faces = _faces(batch)
            seconds: tuple[list[float], list[float]] = ([], [])
            for _ in range(_ROUNDS):
                for moe, taken in zip((one, two), seconds, strict=True):
                    started = time.perf_counter()
                    moe.predict(faces)
                    taken.append(time.perf_counter() - started)
            first, second = (1e3 * statistics.median(taken[3:]) for taken in seconds)
            figures[f"batch {batch}"] = {
                f"{option}={values[0]} ms": first,
                f"{option}={values[1]} ms": second,
                "ratio": first / second,
            }
            rows.append((batch, f"{first:.2f}", f"{second:.2f}", f"{first / second:.2f}"))
    head = ("batch", f"{option}={values[0]} (ms)", f"{option}={values[1]} (ms)", "ratio")
    return Section("", "ok", _table(head, rows), figures)


def _soak(check: Check) -> Section:
    """Many callers, batches of all sizes, some deadlines; every answer against a serial one."""
    faces = _faces(16)
    with _opened(check) as moe:
        serial = _readings(moe, faces)
        counts = {"answers": 0, "late": 0, "wrong": 0}
        lock = threading.Lock()
        until = time.monotonic() + check.seconds

        def caller(seed: int) -> None:
            rng = np.random.default_rng(seed)
            while time.monotonic() < until:
                chosen = rng.integers(0, len(faces), rng.integers(1, 9))
                deadline = float(rng.uniform(1, 50)) if rng.random() < 0.2 else None
                found = _answers(moe, [faces[i] for i in chosen], deadline)
                wrong = sum(_differs(e, serial, i) for e, i in zip(found, chosen, strict=False))
                with lock:
                    counts["answers"] += len(found)
                    counts["late"] += len(chosen) - len(found)
                    counts["wrong"] += wrong

        callers = [threading.Thread(target=caller, args=(seed,)) for seed in range(_CALLERS)]
        for thread in callers:
            thread.start()
        for thread in callers:
            thread.join()
        on = ", ".join(sorted(set(moe.backends.values())))
    text = (
        f"{_CALLERS} callers for {check.seconds:g} s on {on}: {counts['answers']} answers, "
        f"{counts['late']} faces late, {counts['wrong']} answers off by more than "
        f"{_DRIFT_YEARS} years."
    )
    return Section("", "failed" if counts["wrong"] else "ok", text, counts)


def _answers(moe: AgeMoE, faces: list[Pixels], deadline: float | None) -> list[AgeEstimate]:
    try:
        found = moe.predict(faces, deadline_ms=deadline)
    except DeadlineError:
        return []
    return [estimate for estimate in found if isinstance(estimate, AgeEstimate)]


def _differs(estimate: AgeEstimate, serial: dict[str, list[float]], face: int) -> bool:
    return any(
        abs(said.age_years - serial[name][face]) > _DRIFT_YEARS
        for name, said in estimate.experts.items()
    )


def _benchmark(check: Check) -> Section:
    target = check.output / "latency.json"
    status, text = _command(
        "benchmarks/latency.py", "--engines", str(check.engines), "--device", check.device,
        "--json", str(target),
    )  # fmt: skip
    figures = json.loads(target.read_text()) if status == 0 else {}
    return Section("", "ok" if status == 0 else "failed", _fenced(text), figures)


_SECTIONS: dict[str, Callable[[Check], Section]] = {
    "Build": _build,
    "Doctor": _doctor,
    "Parity with the CPU": _parity,
    "Lanes against a sequence": _concurrency,
    "CUDA graphs against plain launches": _graphs,
    "Soak": _soak,
    "Benchmark": _benchmark,
}


def _need_gpu() -> None:
    found = cuda_devices()
    if not found.devices:
        raise NotRunError(found.reason or "There is no GPU.")


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


def _facts(check: Check) -> dict[str, str]:
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    found = cuda_devices()
    return {
        "when": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        "commit": commit.stdout.strip() or "unknown",
        "machine": f"{platform.platform()}, Python {platform.python_version()}",
        "gpu": "; ".join(f"{f.name}, driver for CUDA {f.driver}" for f in found.devices)
        or (found.reason or "none"),
        "device": check.device,
        "weights": check.build or "given",
    }


def _markdown(facts: dict[str, str], sections: Sequence[Section]) -> str:
    lines = ["# GPU check", "", _table(("fact", ""), list(facts.items()))]
    for section in sections:
        lines += ["", f"## {section.title}: {section.status}", "", section.text]
    return "\n".join(lines) + "\n"


def _table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    lines = [" | ".join(head), " | ".join("---" for _ in head)]
    lines += [" | ".join(str(cell) for cell in row) for row in rows]
    return "\n".join(f"| {line} |" for line in lines)


def _fenced(text: str) -> str:
    return f"```\n{text}\n```"


def _parsed(arguments: Sequence[str] | None) -> Check:
    parser = argparse.ArgumentParser(prog="python benchmarks/gpu_check.py", description=__doc__)
    parser.add_argument("--engines", type=Path, help="engines that are there; default: build some")
    parser.add_argument("--weights", choices=("demo", "random"), default="demo", help="to build")
    parser.add_argument("--device", default="auto", help="auto, cuda, cuda:N or tensorrt")
    parser.add_argument("--seconds", type=float, default=20.0, help="of the soak")
    parser.add_argument("--output", type=Path, default=Path("build/gpu-check"), metavar="DIR")
    parsed = parser.parse_args(arguments)
    return Check(
        engines=parsed.engines or parsed.output / "engines",
        output=parsed.output,
        device=parsed.device,
        build="" if parsed.engines else parsed.weights,
        seconds=parsed.seconds,
    )


if __name__ == "__main__":
    sys.exit(main())
