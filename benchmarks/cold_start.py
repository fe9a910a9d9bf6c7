"""Startup time of a service: a fresh process that opens engines and predicts one picture.

python benchmarks/cold_start.py '{"engines": "engines"}' photo.jpg
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

_HERE = Path(__file__).resolve()


def cold_start(arguments: Mapping[str, object], picture: Path) -> dict[str, float]:
    """Starts a process that opens an `AgeMoE` of these arguments and predicts one encoded picture.

    Returns:
        Seconds of `import`, `open`, `first_answer` (the prediction alone) and `second_answer`;
        `whole`, from the start of the process to the first prediction; `peak_bytes`.

    Raises:
        RuntimeError: the process failed.
    """
    command = [sys.executable, "-W", "ignore", str(_HERE), json.dumps(arguments), str(picture)]
    started = time.time()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"A fresh process cannot open the engines:\n{done.stderr[-2000:]}")
    found: dict[str, float] = json.loads(done.stdout)
    answered_at = found.pop("answered_at")
    return {**found, "whole": answered_at - started}


def _measure(arguments: Mapping[str, object], picture: Path) -> dict[str, float]:
    times = [time.perf_counter()]
    from runtime import AgeMoE

    data = picture.read_bytes()
    times.append(time.perf_counter())
    with AgeMoE(**arguments) as moe:  # type: ignore[arg-type]
        times.append(time.perf_counter())
        moe.predict(data)
        times.append(time.perf_counter())
        answered_at = time.time()
        moe.predict(data)
        times.append(time.perf_counter())
    names = ("import", "open", "first_answer", "second_answer")
    seconds = {name: end - start for name, start, end in zip(names, times, times[1:], strict=False)}
    peak_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024.0
    return {**seconds, "answered_at": answered_at, "peak_bytes": peak_bytes}


if __name__ == "__main__":
    sys.path[0] = str(_HERE.parent.parent)
    print(json.dumps(_measure(json.loads(sys.argv[1]), Path(sys.argv[2]))))
