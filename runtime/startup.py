"""Steps of opening an `AgeMoE`: choice of experts, fusion tables, warm-up."""

from __future__ import annotations

import os
import re
import statistics
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from runtime import fusion_file
from runtime.backends import Views
from runtime.detection import Detector, GivenBoxes
from runtime.detectors.names import Detectors
from runtime.errors import ContractError, PredictionError
from runtime.executor import MODES, Executor
from runtime.fusion import FusionTables
from runtime.manifest import Expert
from runtime.manifest_file import read_manifest
from runtime.names import suggestion
from runtime.policy_terms import Binding
from runtime.printing import bullets
from runtime.program import build_command, command_line
from runtime.results import Face
from runtime.warn import warn

CONCURRENCY = ("auto", *MODES)
_PLACEHOLDERS = {
    "demo": "demo experts, fitted on drawn faces; their ages of photographs are meaningless",
    "random": "random weights, for measuring speed; their ages are meaningless",
}
_LIBRARY = re.compile(r"(OpenCV|ONNX Runtime) [^\s,]+")
"""Name and version of a library in the provenance of a detector."""
_TRIAL_SECONDS = 1.0
"""Limit on the time spent on measuring the modes."""
_SHORT_SECONDS = 0.1
"""Measured this long in any case; beyond it, only while a sequence looks clearly faster."""
_TRIALS = 9
_CLEARLY_FASTER = 0.95
"""A sequence is chosen only below this ratio of its time to that of lanes: trials are noisy."""


class PlaceholderWeightsWarning(UserWarning):
    """Experts have placeholder weights: fitted on drawn faces, or random."""


class DetectorWarning(UserWarning):
    """Faces come from another detector than those that the fusion was calibrated on."""


def chosen_experts(
    available: Mapping[str, Expert], names: Sequence[str] | None
) -> dict[str, Expert]:
    """Returns the experts of the given names; None means all.

    Raises:
        ValueError: a name is unknown, or there are none.
    """
    if names is None:
        return dict(available)
    unknown = [name for name in names if name not in available]
    if unknown or not names or isinstance(names, str):
        text = isinstance(names, str)
        asked: object = names if text else list(names)
        hint = "".join(suggestion(name, available) for name in unknown[:1])
        cure = " Give a list of names." if text else hint
        raise ValueError(
            f"experts={asked!r} was requested; the engines folder holds {', '.join(available)}."
            f"{cure}"
        )
    return {name: available[name] for name in names}


def read_calibration(
    folder: Path, fusion: str | os.PathLike[str] | None, experts: Mapping[str, Expert]
) -> FusionTables | None:
    """Reads the fusion tables and verifies that they belong to these experts.

    Args:
        folder: the engines folder.
        fusion: file within it; None, or the default name without such a file, means no tables.
        experts: by name.

    Raises:
        FusionTableError: the file is invalid, or belongs to other experts.
    """
    if fusion is None:
        return None
    path = folder / fusion
    if fusion == fusion_file.FILE_NAME and not path.exists():
        return None
    tables = fusion_file.read_fusion(path)
    fusion_file.check_fusion_fits(path, tables, experts)
    return tables


@dataclass(frozen=True, slots=True)
class Contents:
    """What an engines folder holds, as far as it is used; no engine is open yet."""

    experts: Mapping[str, Expert]
    """Those in use, by name."""
    calibration: FusionTables | None
    """Their fusion tables; None: the experts are averaged."""
    detectors: Detectors

    @property
    def tables(self) -> FusionTables:
        """The fusion tables, or those that average the experts."""
        return self.calibration or FusionTables.identity(self.experts)

    @property
    def binding(self) -> Binding:
        """What a `Policy` must have been fitted for."""
        return Binding.of(self.experts, self.calibration)


def read_contents(
    folder: Path,
    names: Sequence[str] | None,
    fusion: str | os.PathLike[str] | None,
    detector: str | Detector,
    threads: int | None,
) -> Contents:
    """Reads an engines folder; the parameters are those of `AgeMoE`.

    Raises:
        EngineError: the folder, its manifest or the fusion tables are invalid.
        ValueError: an expert or the detector is unknown.
    """
    manifest = read_manifest(folder)
    detectors = Detectors(folder, manifest.detector, detector, threads)
    chosen = chosen_experts(manifest.experts, names)
    return Contents(chosen, read_calibration(folder, fusion, chosen), detectors)


def same_detector(provenance: str, other: str) -> bool:
    """Returns whether two provenances differ in nothing but versions of libraries."""
    return _LIBRARY.sub(r"\1", provenance) == _LIBRARY.sub(r"\1", other)


WHOLE = "none: each picture is one face"
"""In place of the provenance of a detector."""
WHOLE_NOTE = "the whole picture is taken as the face, but the fusion was calibrated on found faces"
"""People appear older so: 52 of 80 of 10 to 17 years passed a policy of 25 (All-Age-Faces), of whom
5 pass with the face found."""


class DetectorCheck:
    """Warns of faces found in another way than those that the fusion was calibrated on."""

    def __init__(self, tables: FusionTables | None) -> None:
        """Stores the fusion; None, or one without a known detector, fits every detector."""
        self._fitted = None if tables is None else tables.detector
        self._seen: set[str] = set()

    def __call__(self, detector: Detector) -> Detector:
        """Returns the detector, after a warning once for each.

        Boxes given by the caller may be from any detector, and versions of libraries make no other
        detector.
        """
        if not isinstance(detector, GivenBoxes):
            self._warn_of(detector.provenance, "--detector …")
        return detector

    def check_boxes(self, faces: Iterable[object]) -> None:
        """Warns once if a face is a whole picture, without any box."""
        if self._fitted is not None and any(_is_whole(face) for face in faces):
            self._warn_of(WHOLE, "--whole")

    def notes_on(self, face: object) -> tuple[str, ...]:
        """Returns the note of a whole picture, on which the fusion was not calibrated."""
        fitted = self._fitted
        if fitted is None or same_detector(fitted, WHOLE) or not _is_whole(face):
            return ()
        return (WHOLE_NOTE,)

    def _warn_of(self, name: str, option: str) -> None:
        fitted = self._fitted
        if fitted is None or name in self._seen:
            return
        self._seen.add(name)
        if same_detector(fitted, name):
            return
        warn(
            f"The fusion was calibrated on faces found by another detector ({fitted}) than the "
            f"one in use ({name}). Other boxes shift the ages, and the intervals may be too "
            f"narrow. Use that detector, or calibrate with this one: "
            f"{command_line('calibrate')} {option}",
            DetectorWarning,
        )


def _is_whole(face: object) -> bool:
    return not isinstance(face, Face) or (face.box is None and face.person_box is None)


def warn_of_placeholders(experts: Mapping[str, Expert]) -> None:
    """Warns once per kind of placeholder weights."""
    for kind, meaning in _PLACEHOLDERS.items():
        names = [name for name, expert in experts.items() if expert.source.kind == kind]
        if names:
            warn(
                f"{', '.join(names)}: {meaning}. Build from checkpoints to estimate ages: "
                f"{command_line('build --help')}",
                PlaceholderWeightsWarning,
            )


def start(executor: Executor, views: Views, concurrency: str, folder: Path) -> None:
    """Runs every expert once and chooses the mode, one of `CONCURRENCY`; raises as `warm_up`."""
    warm_up(executor, views, folder)
    executor.mode = fastest_mode(executor, views) if concurrency == "auto" else concurrency


def warm_up(executor: Executor, views: Views, folder: Path) -> None:
    """Runs every expert of an engines folder once, to find broken graphs and to grow buffers.

    Raises:
        ContractError: an expert fails.
    """
    try:
        missing = executor.run(views).missing
    except PredictionError as error:
        missing = error.missing
    if missing:
        reasons = bullets([f"{name}: {reason}" for name, reason in missing.items()])
        raise ContractError(
            "These experts fail on a black picture:", *reasons, f"Rebuild: {build_command(folder)}"
        )


def fastest_mode(executor: Executor, views: Views) -> str:
    """Measures which mode is faster on this machine: `lanes` or `sequence`.

    Both are tried in turn, at most for a second and no longer than it takes to tell that a sequence
    is not clearly faster; without two rounds, it is `lanes`.

    Args:
        executor: warmed up.
        views: the batch to measure with.
    """
    seconds: dict[str, list[float]] = {mode: [] for mode in MODES}
    started = time.perf_counter()
    for mode in MODES * _TRIALS:
        executor.mode = mode
        before = time.perf_counter()
        executor.run(views)
        now = time.perf_counter()
        seconds[mode].append(now - before)
        even = mode == MODES[-1]
        if even and now - started > _SHORT_SECONDS and not _sequence_is_faster(seconds):
            return "lanes"
        if now - started > _TRIAL_SECONDS:
            break
    told = len(seconds["sequence"]) >= 2
    return "sequence" if told and _sequence_is_faster(seconds) else "lanes"


def _sequence_is_faster(seconds: Mapping[str, Sequence[float]]) -> bool:
    lanes, sequence = (statistics.median(seconds[mode]) for mode in MODES)
    return sequence < _CLEARLY_FASTER * lanes
