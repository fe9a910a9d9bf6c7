"""Positions of labeled faces in their photographs, as columns of a CSV.

All in pixels of the upright photograph. The names of boxes and landmarks are those of the tables
that `agemoe label` writes, or of MiVOLO's annotations (`face_x0` … `person_y1`), in
which four times -1 means that there is none.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

from runtime.results import Box, Landmarks

TURN = "turn"
BOX = ("x", "y", "w", "h")
BOX_CORNERS = ("face_x0", "face_y0", "face_x1", "face_y1")
PERSON = ("person_x", "person_y", "person_w", "person_h")
PERSON_CORNERS = ("person_x0", "person_y0", "person_x1", "person_y1")
LANDMARKS = tuple(
    f"{point}_{axis}"
    for point in ("left_eye", "right_eye", "nose", "left_mouth", "right_mouth")
    for axis in "xy"
)
"""Left and right as seen in the picture, as in `runtime.results.Landmarks`."""
COLUMNS = (*BOX, *BOX_CORNERS, *PERSON, *PERSON_CORNERS, *LANDMARKS, TURN)

Problem = Callable[[str], None]
"""Notes a problem of a row."""


@dataclass(frozen=True, slots=True)
class Place:
    """The labeled position of a face; None where unknown."""

    box: Box | None = None
    person_box: Box | None = None
    landmarks: Landmarks | None = None
    turn: int = 0
    """Quarter turns counter-clockwise, 0..3, that turn the face upright."""


def column_problems(header: Collection[str]) -> list[str]:
    """Returns a problem for each position of which only some columns are there."""
    problems = []
    for names in (BOX, BOX_CORNERS, PERSON, PERSON_CORNERS, LANDMARKS):
        absent = [name for name in names if name not in header]
        if 0 < len(absent) < len(names):
            problems.append(
                f"of the columns {', '.join(names)}, {', '.join(absent)} are missing: give all of "
                f"them or none, or rename others with --columns"
            )
    return problems


def place_of(row: Mapping[str, str], problem: Problem) -> Place:
    """Reads the position of a face from the cells of its row; notes what is wrong with them."""
    box = _box(_numbers(row, BOX, problem), BOX, problem)
    corners = _numbers(row, BOX_CORNERS, problem)
    person = _box(_numbers(row, PERSON, problem), PERSON, problem)
    person_corners = _numbers(row, PERSON_CORNERS, problem)
    points = _numbers(row, LANDMARKS, problem)
    found = Place(
        box or _box(_between(corners), BOX_CORNERS, problem),
        person or _box(_between(person_corners), PERSON_CORNERS, problem),
        _landmarks(points),
        _turn(row.get(TURN, ""), problem),
    )
    if found.landmarks is not None and found.box is None:
        problem("has landmarks and no box of the face")
    return found


def _numbers(
    row: Mapping[str, str], names: Sequence[str], problem: Problem
) -> Sequence[float] | None:
    """Returns the numbers of some columns; None where all of them are empty, absent or -1."""
    cells = [row.get(name, "") for name in names]
    if not any(cells):
        return None
    try:
        numbers = [float(cell) for cell in cells]
    except ValueError:
        problem(f"{', '.join(names)} must be numbers, or all empty; got {', '.join(cells)}")
        return None
    return None if all(number == -1.0 for number in numbers) else numbers


def _between(corners: Sequence[float] | None) -> Sequence[float] | None:
    if corners is None:
        return None
    left, top, right, bottom = corners
    return left, top, right - left, bottom - top


def _box(numbers: Sequence[float] | None, names: Sequence[str], problem: Problem) -> Box | None:
    if numbers is None:
        return None
    x, y, width, height = numbers
    if not (width > 0.0 and height > 0.0):
        problem(f"the box in {', '.join(names)} is {width:g} wide and {height:g} high")
        return None
    return x, y, width, height


def _landmarks(numbers: Sequence[float] | None) -> Landmarks | None:
    if numbers is None:
        return None
    left, right, nose, mouth_left, mouth_right = zip(numbers[::2], numbers[1::2], strict=True)
    return left, right, nose, mouth_left, mouth_right


def _turn(cell: str, problem: Problem) -> int:
    if cell in ("", "0", "1", "2", "3"):
        return int(cell or "0")
    problem(f"{TURN} must be 0, 1, 2 or 3, got {cell!r}")
    return 0
