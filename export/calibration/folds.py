"""Splits for cross-validation: reproducible, balanced by age, each person in one fold."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from runtime.fusion import Floats

Folds = NDArray[np.intp]


def folds_of(age_years: Floats, people: NDArray[np.intp], count: int, seed: int) -> Folds:
    """Assigns faces to folds.

    People are sorted by age and each `count` neighbors are spread over all folds, so that every
    fold covers all ages. All faces of one person are in the same fold.

    Args:
        age_years: (N,) true ages.
        people: (N,) the number of the person in each picture, from 0.
        count: number of folds; fewer are used when there are fewer people.
        seed: of the shuffles.

    Returns:
        (N,) the fold of each face, 0 to count - 1.
    """
    rng = np.random.default_rng(seed)
    ages = np.bincount(people, weights=age_years) / np.bincount(people)
    order = np.lexsort((rng.random(len(ages)), ages))
    rounds = [rng.permutation(count) for _ in range(-(-len(ages) // count))]
    fold_of_person = np.empty(len(ages), dtype=np.intp)
    fold_of_person[order] = np.concatenate(rounds)[: len(ages)]
    return np.asarray(fold_of_person[people])
