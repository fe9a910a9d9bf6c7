"""Assigns faces to persons, with the greatest total overlap."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from runtime.detection import area, shared_area
from runtime.results import Box

MIN_AFFINITY = 1e-4
"""MiVOLO's `iou_thresh`: a face and a person that share less are not matched."""

Floats = NDArray[np.float64]


def persons_of(faces: Sequence[Box], persons: Sequence[Box]) -> list[int | None]:
    """Returns, for each face, the index of its person, or None.

    As in MiVOLO (`assign_faces` in WildChlamydia/MiVOLO, mivolo/data/misc.py): no person has two
    faces, and the sum over all pairs of (share of the face within the person + intersection over
    union) / 2 is maximal.
    """
    if not faces or not persons:
        return [None] * len(faces)
    gain = np.array([[affinity(face, person) for person in persons] for face in faces])
    gain = np.nan_to_num(
        gain, posinf=0.0, neginf=0.0
    )  # invalid boxes, which the prediction rejects
    pairs = best_pairs(gain)
    return [p if p is not None and gain[f, p] > MIN_AFFINITY else None for f, p in enumerate(pairs)]


def affinity(face: Box, person: Box) -> float:
    """Returns the mean of the share of a face within a person and their IoU."""
    shared = shared_area(face, person)
    if shared == 0.0:
        return 0.0
    return (shared / area(face) + shared / (area(face) + area(person) - shared)) / 2.0


def best_pairs(gain: Floats) -> list[int | None]:
    """Returns the assignment of rows to columns with the greatest total gain.

    Args:
        gain: float64 (rows, columns), finite.

    Returns:
        For each row its column; None for unassigned rows, if there are more rows than columns.
    """
    rows, columns = gain.shape
    if rows > columns:
        owners: list[int | None] = [None] * rows
        for column, row in enumerate(_cheapest_columns(-gain.T)):
            owners[row] = column
        return owners
    return list(_cheapest_columns(-gain))


def _cheapest_columns(cost: Floats) -> list[int]:
    """Returns for each row its column, at minimal total cost; no more rows than columns.

    Shortest augmenting paths over reduced costs (R. Jonker and A. Volgenant, A shortest augmenting
    path algorithm for dense and sparse linear assignment problems, Computing 38, 1987): rows are
    added one by one, each by the cheapest chain of reassignments that ends in a free column.
    """
    rows, columns = cost.shape
    owner = np.full(columns, -1)
    row_price, column_price = np.zeros(rows), np.zeros(columns)
    for added in range(rows):
        distance = np.full(columns, np.inf)
        before = np.full(columns, -1)
        done = np.zeros(columns, np.bool_)
        row, column, reached = added, -1, 0.0
        while row >= 0:
            through = reached + cost[row] - row_price[row] - column_price
            shorter = ~done & (through < distance)
            distance[shorter] = through[shorter]
            before[shorter] = column
            column = int(np.argmin(np.where(done, np.inf, distance)))
            reached, row = float(distance[column]), int(owner[column])
            done[column] = True
        gained = reached - distance[done]
        row_price[added] += reached
        held = owner[done]
        row_price[held[held >= 0]] += gained[held >= 0]
        column_price[done] -= gained
        while column >= 0:
            previous = int(before[column])
            owner[column] = owner[previous] if previous >= 0 else added
            column = previous
    chosen = np.empty(rows, np.int64)
    taken = owner >= 0
    chosen[owner[taken]] = np.flatnonzero(taken)
    return [int(column) for column in chosen]
