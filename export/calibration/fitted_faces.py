"""Fingerprints of the faces that tables were fitted on, so that an evaluation recognizes them.

`fusion.json` holds them as `provenance.fitted_faces`, and those of the faces of the intervals alone
as `provenance.intervals.fitted_faces`. Two things identify a face: the bytes of its picture's file,
where pictures were predicted, and its age with the raw predictions of all experts. Each is kept as
the first 40 bits of a salted SHA-256: about 7 bytes of JSON per face and kind.

They reveal: somebody who has the same picture file, or the same age and predictions, can find out
that it was fitted on. A picture cannot be computed from them. Ages with the predictions of one
expert can be, by trying all of them; they name nobody. The salt depends on all faces of a fit, so
that two files of tables do not show which faces they have in common.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from export.calibration.labeled_predictions import LabeledPredictions
from export.calibration.metrics import Rows

FITTED_FACES = "fitted_faces"
"""Key in the provenance of tables and in reports."""
VERSION = 1
"""Incremented whenever the computation of fingerprints changes; others are not compared."""
_BYTES = 5
"""100,000 new faces and 100,000 fitted ones have 0.01 fingerprints in common by chance."""
_DECIMALS = 2
"""Predictions without more decimals, such as whole years, do not tell faces apart."""


@dataclass(frozen=True, slots=True)
class Overlap:
    """How many of the evaluated faces the tables were fitted on."""

    faces: int
    checked: int = 0
    """Faces that could be compared with the fingerprints."""
    fitted: int = 0
    """Of these, faces that the tables were fitted on."""
    unknown: str | None = None
    """Why no face could be compared; None if some were."""
    same_name: bool = False
    """Whether it is unknown, and the tables were fitted on data of the same name."""

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
        return (
            f"{tables} were fitted on none of {those}, as their fingerprints show. A picture that "
            "was saved anew and predicted again would not be recognized."
        )


def fingerprints(faces: LabeledPredictions) -> dict[str, object]:
    """Returns the fingerprints of the faces of a fit, for the provenance of its tables."""
    pictures, rows = set(_pictures(faces)) - {""}, set(_rows(faces)) - {""}
    salt = hashlib.sha256("\n".join(sorted(pictures | rows)).encode()).hexdigest()[:32]
    return {
        "version": VERSION,
        "salt": salt,
        "experts": len(faces.names),
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
    checked, fitted = np.zeros(count, bool), np.zeros(count, bool)
    for record in records:
        for known, keys in record.comparable(faces):
            there = np.array([key != "" for key in keys])
            checked |= there
            fitted |= there & np.array([_digest(record.salt, key) in known for key in keys])
    if not checked.any():
        reason = (
            "fingerprints are compared of pictures, or of the predictions of all experts with more "
            f"than {_DECIMALS} decimals, and the fit and these faces have neither in common"
        )
        return Overlap(count, unknown=reason)
    return Overlap(count, int(checked.sum()), int(fitted.sum()))


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
    pictures: frozenset[bytes]
    rows: frozenset[bytes]

    @classmethod
    def of(cls, record: object) -> _Record | None:
        """Returns None where there is none, or one that this version does not write."""
        if not isinstance(record, Mapping) or record.get("version") != VERSION:
            return None
        try:
            sets = _set(record["pictures"]), _set(record["rows"])
            return cls(str(record["salt"]), int(record["experts"]), *sets)
        except (KeyError, TypeError, ValueError, binascii.Error):
            return None

    def comparable(
        self, faces: LabeledPredictions
    ) -> Iterator[tuple[frozenset[bytes], Sequence[str]]]:
        """Yields the fingerprints of each kind that both sides have, and the keys of the faces."""
        if self.pictures:
            yield self.pictures, _pictures(faces)
        if self.rows and len(faces.names) == self.experts:
            yield self.rows, _rows(faces)


def _pictures(faces: LabeledPredictions) -> list[str]:
    """Returns a key of each face's picture; empty where it is not known."""
    return [""] * len(faces) if faces.pictures is None else faces.pictures.tolist()


def _rows(faces: LabeledPredictions) -> list[str]:
    """Returns a key of each face's age and predictions; empty where they tell too little."""
    years = faces.predictions_years
    telling: Rows = (np.round(years, _DECIMALS) != years).any(axis=1)
    ordered = np.sort(years, axis=1).tolist()  # so that experts may be renamed
    return [
        f"{age:.6g} {' '.join(f'{value:.6f}' for value in row)}" if tells else ""
        for age, row, tells in zip(faces.age_years.tolist(), ordered, telling, strict=True)
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
