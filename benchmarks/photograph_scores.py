"""Figures of age estimates for labeled photographs: faces found, errors, intervals, time.

An estimate counts for the labeled face of its photograph: the found face that overlaps the labeled
box most, or, where the labels hold no boxes, the largest one, as portraits show their subject.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.measuring import distribution, paired_ratio
from benchmarks.photograph_methods import AGEMOE, STAGES, FoundAge, Reading
from benchmarks.photograph_sets import Photograph
from export.calibration.metrics import Bootstrap, Rows, rate
from export.calibration.report import BAND_EDGES
from runtime.detection import area, overlap
from runtime.fusion import Floats
from runtime.results import Box

LEAST_OVERLAP = 0.3
"""Intersection over union from which on a found box is the labeled face: detectors disagree about
hair and chin, but not by that much."""
_RESAMPLES = 1000

Figures = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Record:
    """One photograph and what each method made of it."""

    photograph: Photograph
    readings: Mapping[str, Reading]
    """By method, AgeMoE first."""

    def counted(self, method: str) -> FoundAge | None:
        """Returns the face whose age counts for a method; None if it did not find it."""
        return labeled_face(self.readings[method].faces, self.photograph.box)


def labeled_face(faces: Sequence[FoundAge], box: Box | None) -> FoundAge | None:
    """Returns the found face that is the labeled one; None if there is none."""
    if box is None:
        return max(faces, key=lambda face: area(face.box), default=None)
    best = max(faces, key=lambda face: overlap(face.box, box), default=None)
    return best if best is not None and overlap(best.box, box) >= LEAST_OVERLAP else None


def figures_of(records: Sequence[Record], seed: int = 0) -> Figures:
    """Returns the figures of all photographs, of each source and of each age group.

    Args:
        records: at least one, all with the same methods.
        seed: of the bootstrap behind the intervals of the errors.
    """
    scores = _Scores(records, seed)
    ages = scores.labels
    groups = {f"{a}-{b - 1}": (ages >= a) & (ages < b) for a, b in pairwise(BAND_EDGES)}
    groups[f"{BAND_EDGES[-1]}+"] = ages >= BAND_EDGES[-1]
    names = [record.photograph.source for record in records]
    sources = {name: np.array([name == n for n in names]) for name in dict.fromkeys(names)}
    return {
        "all": scores.section(np.ones(len(records), np.bool_)),
        "sources": {name: scores.section(rows) for name, rows in sources.items()},
        "age_groups": {n: scores.accuracy(rows) for n, rows in groups.items() if rows.any()},
    }


def photograph_rows(records: Sequence[Record]) -> list[Figures]:
    """Returns every single result, ready for JSON."""
    return [_row(record) for record in records]


class _Scores:
    """Records as arrays: ages by method, with NaN where the face was not found."""

    def __init__(self, records: Sequence[Record], seed: int) -> None:
        self._records = records
        self._methods = tuple(records[0].readings)
        self.labels = np.array([record.photograph.face.age_years for record in records])
        people = [record.photograph.person for record in records]
        numbers = np.unique(people, return_inverse=True)[1]
        self._bootstrap = Bootstrap(numbers, _RESAMPLES, seed)
        self._faces = {m: [record.counted(m) for record in records] for m in self._methods}
        self._ages = {m: _ages(faces) for m, faces in self._faces.items()}
        experts = {n: None for face in self._faces[AGEMOE] if face for n in face.experts_years}
        self._experts = {name: _ages(self._faces[AGEMOE], name) for name in experts}

    def section(self, rows: Rows) -> Figures:
        """Returns accuracy and time of some photographs."""
        return {**self.accuracy(rows), **self._times(rows)}

    def accuracy(self, rows: Rows) -> Figures:
        """Returns what each method found, its errors and its intervals."""
        return {
            "photographs": int(rows.sum()),
            "methods": {name: self._method(name, rows) for name in self._methods},
            "found_by_all": self._common(rows),
        }

    def _method(self, name: str, rows: Rows) -> Figures:
        found = ~np.isnan(self._ages[name])
        readings = [
            r.readings[name] for r, counts in zip(self._records, rows, strict=True) if counts
        ]
        return {
            "found": rate(found[rows]),
            "only_wrong": sum(bool(r.faces) for r in readings) - int((found & rows).sum()),
            "several": sum(len(reading.faces) > 1 for reading in readings),
            "errors": sum(reading.error is not None for reading in readings),
            **self._errors({name: self._ages[name]}, rows & found).get(name, {}),
            **self._intervals(name, rows & found),
        }

    def _common(self, rows: Rows) -> Figures:
        """Compares all methods, and AgeMoE's experts, where all methods found the face."""
        ages = {**self._ages, **{f"{name} alone": years for name, years in self._experts.items()}}
        seen = rows & ~np.isnan(np.stack(list(ages.values()))).any(axis=0)
        result: Figures = {"photographs": int(seen.sum()), "methods": self._errors(ages, seen)}
        if seen.any():
            absolute = {name: np.abs(years - self.labels) for name, years in ages.items()}
            others = [name for name in self._methods if name != AGEMOE]
            differences = {name: absolute[AGEMOE] - absolute[name] for name in others}
            result["mae_minus"] = {
                name: {
                    "years": float(values[seen].mean()),
                    "interval": self._interval(values, seen),
                }
                for name, values in differences.items()
            }
        return result

    def _errors(self, ages: Mapping[str, Floats], rows: Rows) -> dict[str, Figures]:
        """Returns the errors of methods, by name; empty without photographs."""
        if not rows.any():
            return {}
        errors = {name: years - self.labels for name, years in ages.items()}
        return {
            name: {
                "mae": float(np.abs(error[rows]).mean()),
                "mae_interval": self._interval(np.abs(error), rows),
                "median": float(np.median(np.abs(error[rows]))),
                "bias": float(error[rows].mean()),
            }
            for name, error in errors.items()
        }

    def _interval(self, values: Floats, rows: Rows) -> list[float]:
        low, high = self._bootstrap.mean_intervals(values[:, None], rows)[0].tolist()
        return [low, high]

    def _intervals(self, name: str, rows: Rows) -> Figures:
        """Returns coverage and width of the 90 % intervals, where there are any."""
        held, widths = [], []
        for face, label, counts in zip(self._faces[name], self.labels, rows, strict=True):
            if counts and face is not None and face.interval_years is not None:
                low, high = face.interval_years
                # A label beyond the grid counts as covered where the interval reaches its end.
                held.append(bool(low <= np.clip(label, *face.age_range) <= high))
                widths.append(high - low)
        if not held:
            return {}
        return {"coverage": rate(np.array(held)), "interval_width_years": float(np.mean(widths))}

    def _times(self, rows: Rows) -> Figures:
        chosen = [r for r, counts in zip(self._records, rows, strict=True) if counts]
        seconds = {m: [r.readings[m].seconds for r in chosen] for m in self._methods}
        ours = [record.readings[AGEMOE] for record in chosen]
        return {
            "seconds": {name: distribution(own) for name, own in seconds.items()},
            "stage_seconds": {
                stage: distribution([reading.stages.get(stage, 0.0) for reading in ours])
                for stage in STAGES
            },
            "times_faster_than": {
                name: paired_ratio(own, seconds[AGEMOE])
                for name, own in seconds.items()
                if name != AGEMOE
            },
        }


def _ages(faces: Sequence[FoundAge | None], expert: str | None = None) -> NDArray[np.float64]:
    """Returns (N,) fused ages, or an expert's; NaN where there is none."""
    found = [
        None if f is None else f.age_years if expert is None else f.experts_years.get(expert)
        for f in faces
    ]
    return np.array([np.nan if age is None else age for age in found])


def _row(record: Record) -> Figures:
    photograph = record.photograph
    return {
        "source": photograph.source,
        "name": photograph.face.name,
        "age_years": photograph.face.age_years,
        "box": None if photograph.box is None else list(photograph.box),
        "methods": {name: _reading(record, name) for name in record.readings},
    }


def _reading(record: Record, method: str) -> Figures:
    reading, counted = record.readings[method], record.counted(method)
    faces = [
        {
            "box": list(face.box),
            "age_years": face.age_years,
            "interval_years": None if face.interval_years is None else list(face.interval_years),
            "experts_years": dict(face.experts_years),
            "counts": face is counted,
        }
        for face in reading.faces
    ]
    stages = dict(reading.stages)
    return {"seconds": reading.seconds, "stages": stages, "error": reading.error, "faces": faces}
