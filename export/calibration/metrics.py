"""Figures of merit for age estimates, with bootstrap intervals.

Error means estimate minus true age, in years, everywhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from export.calibration.labeled_predictions import Strings
from runtime.fusion import Floats

CONFIDENCE_Z = 1.96
"""Two-sided 95 %."""
_CLOSE_YEARS = 5.0
_RESAMPLED_ROWS = 20_000_000
_CHUNK_ROWS = 4_000_000

Rows = NDArray[np.bool_]


@dataclass(frozen=True, slots=True, eq=False)
class Resamples:
    """Bootstrap weights: how often each face was drawn, resample by resample."""

    counts: NDArray[np.uint8]
    """(B, N); all faces of one person are drawn together."""

    @classmethod
    def draw(cls, faces: int, subjects: Strings | None, most: int, seed: int) -> Resamples:
        """Poisson bootstrap of people: each is drawn 0, 1, 2 … times, once on average.

        Args:
            faces: N.
            subjects: (N,) who is in the picture; None when every face is its own subject.
            most: number of resamples; fewer for very many faces, whose intervals are narrow.
            seed: of the draws.
        """
        count = max(100, min(most, _RESAMPLED_ROWS // max(faces, 1)))
        person = np.arange(faces)
        if subjects is not None:
            person = np.unique(subjects, return_inverse=True)[1]
        rng = np.random.default_rng(seed)
        drawn = rng.poisson(1.0, (count, int(person.max(initial=-1)) + 1)).astype(np.uint8)
        return cls(drawn[:, person])

    def mean_intervals(self, values: Floats, rows: Rows) -> Floats:
        """(M, 2) 95 % intervals of the means of (N, M) values over some rows."""
        numbers = np.flatnonzero(rows)
        chosen = values[numbers]
        per_chunk = max(1, _CHUNK_ROWS // len(numbers))
        means = [
            _weighted_means(self.counts[at : at + per_chunk, numbers], chosen)
            for at in range(0, len(self.counts), per_chunk)
        ]
        return np.asarray(np.quantile(np.concatenate(means), (0.025, 0.975), axis=0).T)


def _weighted_means(counts: NDArray[np.uint8], values: Floats) -> Floats:
    """(B, M) means of (N, M) values; a resample that drew nobody counts everybody once."""
    weights = counts.astype(np.float64)
    weights[~counts.any(axis=1)] = 1.0
    return np.asarray((weights @ values) / weights.sum(axis=1, keepdims=True))


def error_figures(errors_years: Floats, rows: Rows, resamples: Resamples) -> dict[str, Floats]:
    """Figures of M methods over some rows, as (M,), and their 95 % intervals, as (M, 2).

    Args:
        errors_years: (N, M) errors.
        rows: (N,) which faces count; at least one.
        resamples: of the N faces.

    Returns:
        mae, median, bias, rmse, cs5 (share within 5 years) and spread (standard deviation of the
        error); each but the last also as `<figure>_interval`.
    """
    absolute = np.abs(errors_years)
    close = (absolute <= _CLOSE_YEARS).astype(np.float64)
    columns = np.concatenate([absolute, errors_years, errors_years**2, close], axis=1)
    mae, bias, square, cs5 = np.split(columns[rows].mean(axis=0), 4)
    intervals = np.split(resamples.mean_intervals(columns, rows), 4)
    return {
        "mae": mae,
        "mae_interval": intervals[0],
        "median": np.median(absolute[rows], axis=0),
        "median_interval": _median_interval(absolute[rows]),
        "bias": bias,
        "bias_interval": intervals[1],
        "rmse": np.sqrt(square),
        "rmse_interval": np.sqrt(intervals[2]),
        "cs5": cs5,
        "cs5_interval": intervals[3],
        "spread": errors_years[rows].std(axis=0),
    }


def _median_interval(values: Floats) -> Floats:
    """(M, 2) 95 % intervals of the medians of (N, M), from order statistics."""
    ordered, count = np.sort(values, axis=0), len(values)
    reach = CONFIDENCE_Z * np.sqrt(count) / 2.0
    low = max(0, int(np.floor(count / 2.0 - reach)) - 1)
    high = min(count - 1, int(np.ceil(count / 2.0 + reach)))
    return np.stack([ordered[low], ordered[high]], axis=1)


def rate(hits: Rows) -> dict[str, object]:
    """A share with its 95 % interval (Wilson's score interval); None where nothing was counted."""
    count = len(hits)
    if count == 0:
        return {"rate": None, "interval": None, "faces": 0}
    share, z2 = float(hits.mean()), CONFIDENCE_Z**2
    center = (share + z2 / (2 * count)) / (1 + z2 / count)
    spread = np.sqrt(share * (1 - share) / count + z2 / (4 * count**2)) / (1 + z2 / count)
    reach = CONFIDENCE_Z * float(spread)
    interval = [max(0.0, center - reach), min(1.0, center + reach)]
    return {"rate": share, "interval": interval, "faces": count}


def reliability(probability: Floats, happened: Rows, bins: int = 10) -> list[dict[str, object]]:
    """What was claimed and what came true, in bins of claimed probability that hold faces."""
    index = np.minimum((probability * bins).astype(int), bins - 1)
    return [
        {
            "claimed": float(probability[index == number].mean()),
            "came_true": rate(happened[index == number]),
        }
        for number in range(bins)
        if (index == number).any()
    ]


def largest_gap(mae_years: Mapping[str, float]) -> dict[str, object] | None:
    """The two groups whose mean absolute errors lie farthest apart; None for fewer than two."""
    if len(mae_years) < 2:
        return None
    worst = max(mae_years, key=lambda name: mae_years[name])
    best = min(mae_years, key=lambda name: mae_years[name])
    return {"years": mae_years[worst] - mae_years[best], "worst": worst, "best": best}
