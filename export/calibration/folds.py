"""Splits for cross-validation: repeatable, balanced by age, and never through one person."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from runtime.fusion import Floats

Folds = NDArray[np.intp]


def folds_of(age_years: Floats, subjects: NDArray[np.str_] | None, count: int, seed: int) -> Folds:
    """Deals the faces into folds.

    People are sorted by age and dealt out in hands of `count`, one to each fold, so that every
    fold holds all ages; all faces of one person go together.

    Args:
        age_years: (N,) true ages.
        subjects: (N,) who is in the picture; None when every face is its own subject.
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
    hands = -(-people // count)
    deal = np.concatenate([rng.permutation(count) for _ in range(hands)])[:people]
    fold_of_person = np.empty(people, dtype=np.intp)
    fold_of_person[order] = deal
    return np.asarray(fold_of_person[person])


def people_count(subjects: NDArray[np.str_] | None, faces: int) -> int:
    """How many different people there are."""
    return faces if subjects is None else len(np.unique(subjects))


def _people(age_years: Floats, subjects: NDArray[np.str_] | None) -> tuple[Folds, int]:
    if subjects is None:
        return np.arange(len(age_years), dtype=np.intp), len(age_years)
    names, person = np.unique(subjects, return_inverse=True)
    return person.astype(np.intp), len(names)
