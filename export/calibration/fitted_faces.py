"""Fingerprints of the faces that tables were fitted on, so that an evaluation recognizes them.

`fusion.json` holds them as `provenance.fitted_faces`, and those of the faces of the intervals alone
as `provenance.intervals.fitted_faces`. Two things identify a face: the bytes of its picture's file,
where they are known, and its age with the raw predictions of all experts. Each is kept as the first
40 bits of a salted SHA-256: about 7 bytes of JSON per face and kind.

Privacy: with an identical picture file, or the same age and predictions, one can test whether a
face was part of the fit. A picture cannot be reconstructed. Ages with the predictions of a single
expert can be recovered by exhaustive search; they do not identify a person. The salt depends on all
faces of a fit, so that two files of tables do not show which faces they have in common.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from export.calibration.labeled_predictions import LabeledPredictions

FITTED_FACES = "fitted_faces"
"""Key in the provenance of tables and in reports."""
VERSION = 1
"""Incremented whenever the computation of fingerprints changes; others are not compared."""
_BYTES = 5
"""100,000 new faces and 100,000 fitted ones have 0.01 fingerprints in common by chance."""
_FEWEST_DECIMALS, _MOST_DECIMALS = 3, 6
"""Predictions with fewer decimals, such as whole years, do not tell faces apart. More are rounded,
and those of new faces to as many as the fit has."""


@dataclass(frozen=True, slots=True)
class Overlap:
    """Number of evaluated faces that were part of the fit."""

    faces: int
    checked: int = 0
    """Faces that could be compared with the fingerprints."""
    fitted: int = 0
    """Of these, faces that the tables were fitted on."""
    unknown: str | None = None
    """Reason if no face could be compared, else None."""
    pictures: int = 0
    """Fingerprints of pictures that were compared with."""
    rows: int = 0
    """Fingerprints of ages with predictions that were compared with."""
    same_name: bool = False
    """True if no face could be compared and the data of the fit has the same name."""

    def to_dict(self) -> dict[str, object]:
        """Returns the numbers for a report."""
        return asdict(self)

    def named(self, data: str) -> str:
        """Returns the name of the labeled data, with the faces that the tables were fitted on."""
        if not self.fitted:
            return data
        return f"{data} (the tables were fitted on {self.fitted} of its {self.faces} faces)"

    def sentence(self, tables: str = "The fusion tables") -> str:
        """Returns what was found, as plain text that begins with the name of the tables."""
        if self.unknown is not None:
            same = "; the data of the fit has the same name" if self.same_name else ""
            return (
                f"{tables} may have been fitted on some of these faces, which is not known: "
                f"{self.unknown}{same}. If they were, the errors of new faces are larger."
            )
        if self.fitted:
            return (
                f"{tables} were fitted on {self.fitted:,} of these {self.faces:,} faces, as their "
                "fingerprints show: errors on faces of the fit are too small, and those of new "
                "faces are larger."
            )
        those = "these faces"
        if self.checked < self.faces:
            those = f"the {self.checked:,} of these {self.faces:,} faces that could be compared"
        compared = {"files of pictures": self.pictures, "ages with raw predictions": self.rows}
        kinds = " and ".join(f"{count:,} {kind}" for kind, count in compared.items() if count)
        again = "is in another file and was" if self.pictures else "was"
        return (
            f"{tables} were fitted on none of {those}, as far as the fingerprints of the fit show "
            f"({kinds}). A picture that {again} predicted again would not be recognized."
        )


def fingerprints(faces: LabeledPredictions) -> dict[str, object]:
    """Returns the fingerprints of the faces of a fit, for the provenance of its tables."""
    decimals = _decimals(faces)
    pictures = set(_pictures(faces)) - {""}
    # Rows that several faces have, as where an expert's ages end at 0, identify none of them.
    rows = {key for key, count in Counter(_rows(faces, decimals)).items() if count == 1}
    salt = hashlib.sha256("\n".join(sorted(pictures | rows)).encode()).hexdigest()[:32]
    return {
        "version": VERSION,
        "salt": salt,
        "experts": len(faces.names),
        "decimals": decimals,
        "pictures": _text(_digest(salt, key) for key in pictures),
        "rows": _text(_digest(salt, key) for key in rows),
    }


def overlap_of(provenance: Mapping[str, Any], faces: LabeledPredictions) -> Overlap:
    """Returns how many faces the tables of a provenance were fitted on."""
    kept = provenance.get("intervals")
    found = [provenance, *([kept] if isinstance(kept, Mapping) else [])]
    records = [r for p in found if (r := _Record.of(p.get(FITTED_FACES))) is not None]
    count = len(faces)
    if not records:
        return Overlap(count, unknown="fusion.json holds no fingerprints of the faces of its fit")
    checked, fitted, compared = np.zeros(count, bool), np.zeros(count, bool), Counter[str]()
    for record in records:
        for kind, prints, keys in record.comparable(faces):
            there = np.array([key != "" for key in keys])
            checked |= there
            fitted |= there & np.array([_digest(record.salt, key) in prints for key in keys])
            compared[kind] += len(prints)
    if not checked.any():
        reason = (
            "fingerprints are compared of pictures, or of the predictions of all experts with "
            f"{_FEWEST_DECIMALS} decimals or more, and the fit and these faces have neither in "
            "common"
        )
        return Overlap(count, unknown=reason)
    overlap = Overlap(count, int(checked.sum()), int(fitted.sum()))
    return replace(overlap, pictures=compared["pictures"], rows=compared["rows"])


def without_fingerprints(provenance: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a provenance as a report shows it."""
    return {
        key: without_fingerprints(value) if isinstance(value, Mapping) else value
        for key, value in provenance.items()
        if key != FITTED_FACES
    }


@dataclass(frozen=True, slots=True)
class _Record:
    """Fingerprints as they were read from tables."""

    salt: str
    experts: int
    decimals: int
    pictures: frozenset[bytes]
    rows: frozenset[bytes]

    @classmethod
    def of(cls, record: object) -> _Record | None:
        """Returns None where there is none, or one that this version does not write."""
        if not isinstance(record, Mapping) or record.get("version") != VERSION:
            return None
        try:
            numbers = int(record["experts"]), int(record["decimals"])
            sets = _set(record["pictures"]), _set(record["rows"])
            return cls(str(record["salt"]), *numbers, *sets)
        except (KeyError, TypeError, ValueError, binascii.Error):
            return None

    def comparable(
        self, faces: LabeledPredictions
    ) -> Iterator[tuple[str, frozenset[bytes], Sequence[str]]]:
        """Yields each kind that both sides have, its fingerprints, and the keys of the faces."""
        if self.pictures and any(pictures := _pictures(faces)):
            yield "pictures", self.pictures, pictures
        decimals = min(max(self.decimals, _FEWEST_DECIMALS), _MOST_DECIMALS)
        if self.rows and len(faces.names) == self.experts and _decimals(faces) >= decimals:
            yield "rows", self.rows, _rows(faces, decimals)


def _pictures(faces: LabeledPredictions) -> list[str]:
    """Returns a key of each face's picture; empty where it is not known."""
    return [""] * len(faces) if faces.pictures is None else faces.pictures.tolist()


def _decimals(faces: LabeledPredictions) -> int:
    """Returns how many decimals the predictions have, `_MOST_DECIMALS` at most."""
    years = faces.predictions_years
    exact = (d for d in range(_MOST_DECIMALS) if (np.round(years, d) == years).all())
    return next(exact, _MOST_DECIMALS)


def _rows(faces: LabeledPredictions, decimals: int) -> list[str]:
    """Returns a key of each face's age and predictions; none where they do not tell faces apart."""
    if decimals < _FEWEST_DECIMALS:
        return []
    ordered = np.sort(faces.predictions_years, axis=1).tolist()  # so that experts may be renamed
    return [
        f"{age:.6g} {' '.join(f'{value:.{decimals}f}' for value in row)}"
        for age, row in zip(faces.age_years.tolist(), ordered, strict=True)
    ]


def _digest(salt: str, key: str) -> bytes:
    return hashlib.sha256(f"{salt} {key}".encode()).digest()[:_BYTES]


def _text(digests: Iterable[bytes]) -> str:
    """Returns digests as Base64, sorted: their order shows nothing."""
    return base64.b64encode(b"".join(sorted(set(digests)))).decode()


def _set(text: object) -> frozenset[bytes]:
    data = base64.b64decode(str(text), validate=True)
    if len(data) % _BYTES:
        raise ValueError(text)
    return frozenset(data[start : start + _BYTES] for start in range(0, len(data), _BYTES))
