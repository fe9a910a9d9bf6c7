"""Names of the columns of all tables of faces.

The tables that `label` writes, the lists that it reads, the data frames of `to_pandas`, and the
labeled data of calibration and evaluation have the same names. A true age and an estimate never
share one: `age` is the true age everywhere.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

PATH = "path"
"""The picture's file."""
IMAGE = "image"
"""Another name of `PATH` in tables that are read; where a table has both, `path` counts."""
FACE = "face"
"""The number of the face in its picture, from 0, from left to right."""
AGE = "age"
"""The true age in years, a label. Tables of `label` before this name was reserved held estimates
there: see `holds_estimates`."""
AGE_YEARS, LOW_YEARS, HIGH_YEARS = "age_years", "low_years", "high_years"
"""The fused age and the ends of its 90 % interval, as in `AgeEstimate.to_dict`."""
_EXPERT = "age_"
SCORE, TURN = "score", "turn"
MISSING, NOTES, ERROR, ENGINE = "missing", "notes", "error", "engine"
SUBJECT, SOURCE, ID = "subject", "source", "id"
"""The person in the picture; the data set or camera it is from; a unique name of the face."""

BOX = ("x", "y", "w", "h")
"""The face, in pixels of the upright picture."""
BOX_CORNERS = ("face_x0", "face_y0", "face_x1", "face_y1")
"""The same in MiVOLO's annotations, which are read too."""
PERSON = ("person_x", "person_y", "person_w", "person_h")
PERSON_CORNERS = ("person_x0", "person_y0", "person_x1", "person_y1")
LANDMARKS = tuple(
    f"{point}_{axis}"
    for point in ("left_eye", "right_eye", "nose", "left_mouth", "right_mouth")
    for axis in "xy"
)
"""In pixels of the upright picture; left and right as seen where the face is upright."""
POSITION = (*BOX, *BOX_CORNERS, *PERSON, *PERSON_CORNERS, *LANDMARKS, TURN)
"""All columns that state the position of a face."""

_OLD_TABLE = frozenset({FACE, "low", "high", MISSING, ERROR, ENGINE})
_ENOUGH_TO_TELL = 2


def expert_column(name: str) -> str:
    """Returns the column of an expert's raw prediction."""
    return f"{_EXPERT}{name}"


def experts_in(header: Sequence[str]) -> list[str]:
    """Returns the experts whose raw predictions a table holds."""
    return [
        name.removeprefix(_EXPERT)
        for name in header
        if name.startswith(_EXPERT) and name != AGE_YEARS
    ]


def picture_column(header: Collection[str]) -> str | None:
    """Returns the column that names the pictures; None if there is none."""
    return next((name for name in (PATH, IMAGE) if name in header), None)


def is_label_table(header: Collection[str]) -> bool:
    """Returns whether a table is one of `label`, or of a data frame of `to_pandas`."""
    return (FACE in header and AGE_YEARS in header) or holds_estimates(header)


def holds_estimates(header: Collection[str]) -> bool:
    """Returns whether a table is an earlier one of `label`, whose column `age` holds estimates."""
    known = len(_OLD_TABLE.intersection(header))
    return AGE in header and AGE_YEARS not in header and known >= _ENOUGH_TO_TELL
