"""Splits for cross-validation: reproducible, balanced by age, each person in one fold."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from runtime.fusion import Floats

Folds = NDArray[np.intp]


def folds_of(age_years: Floats, subjects: NDArray[np.str_] | None, count: int, seed: int) -> Folds:
    """Assigns faces to folds.

    People are sorted by age and each `count` neighbors are spread over all folds, so that every
    fold covers all ages. All faces of one person are in the same fold.

    Args:
        age_years: (N,) true ages.
        subjects: (N,) the person in each picture; None when every face is one of its own.
        count: number of folds; fewer are used when there are fewer people.
        seed: of the shuffles.

    Returns:
        (N,) the fold of each face, 0 to count - 1.
    """
    rng = np.random.default_rng(seed)
    person, people = _people(age_years, subjects)
    totals = np.bincount(person, weights=age_years, minlength=people)
    ages = totals / np.bincount(person, minlength=people)
    order = np.lexsort((rng.random(people), ages))
    rounds = -(-people // count)
    fold_of_person = np.empty(people, dtype=np.intp)
    fold_of_person[order] = np.concatenate([rng.permutation(count) for _ in range(rounds)])[:people]
    return np.asarray(fold_of_person[person])


def people_count(subjects: NDArray[np.str_] | None, faces: int) -> int:
    """Returns the number of different people."""
    return faces if subjects is None else len(np.unique(subjects))


def _people(age_years: Floats, subjects: NDArray[np.str_] | None) -> tuple[Folds, int]:
    if subjects is None:
        return np.arange(len(age_years), dtype=np.intp), len(age_years)
    names, person = np.unique(subjects, return_inverse=True)
    return person.astype(np.intp), len(names)
