"""Error figures of age estimates, with 95 % intervals.

Error means estimate minus true age, in years, everywhere.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from runtime.fusion import Floats

CONFIDENCE = 0.95
_CONFIDENCE_Z = 1.96
_CLOSE_YEARS = 5.0
FEWEST_RESAMPLES = 100
_RESAMPLED_ROWS = 20_000_000
_CHUNK_ROWS = 4_000_000

Rows = NDArray[np.bool_]


@dataclass(frozen=True, slots=True, eq=False)
class Bootstrap:
    """Intervals of means by resampling people: all faces of one person are drawn together."""

    people: NDArray[np.intp]
    """(N,) the number of the person in each picture."""
    resamples: int
    """Fewer are drawn for very many faces, whose intervals are narrow."""
    seed: int

    def mean_intervals(self, values: Floats, rows: Rows) -> Floats:
        """Returns (M, 2) intervals of the means of (N, M) values over some rows."""
        from scipy.stats import bootstrap

        chosen, person = values[rows], np.unique(self.people[rows], return_inverse=True)[1]
        columns = np.column_stack([chosen, np.ones(len(chosen))]).T
        # (P, M + 1): the sum of each value over the faces of a person, and the number of faces.
        sums = np.stack([np.bincount(person, column) for column in columns], axis=1)
        count = min(self.resamples, max(FEWEST_RESAMPLES, _RESAMPLED_ROWS // len(self.people)))
        if len(sums) == 1:
            return np.repeat(chosen.mean(axis=0)[:, None], 2, axis=1)

        def means(drawn: NDArray[np.intp], axis: int) -> Floats:  # noqa: ARG001 - scipy's signature
            counts = np.stack([np.bincount(people, minlength=len(sums)) for people in drawn])
            totals = (counts @ sums).T
            return np.asarray(totals[:-1] / totals[-1])

        found = bootstrap(
            (np.arange(len(sums)),),
            means,
            n_resamples=count,
            batch=max(1, _CHUNK_ROWS // len(sums)),
            confidence_level=CONFIDENCE,
            method="percentile",
            rng=self.seed,
        )
        return np.stack(found.confidence_interval, axis=1)


def error_figures(errors_years: Floats, rows: Rows, bootstrap: Bootstrap) -> dict[str, Floats]:
    """Returns figures of (N, M) errors over at least one row, as (M,).

    They are mae, median, bias, rmse, cs5 (share within 5 years) and spread (standard deviation of
    the error); each but the last has an interval, `<figure>_interval`, as (M, 2).
    """
    absolute = np.abs(errors_years)
    close = (absolute <= _CLOSE_YEARS).astype(np.float64)
    columns = np.concatenate([absolute, errors_years, errors_years**2, close], axis=1)
    mae, bias, square, cs5 = np.split(columns[rows].mean(axis=0), 4)
    intervals = np.split(bootstrap.mean_intervals(columns, rows), 4)
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
    """Returns (M, 2) intervals of the medians of (N, M) values, from order statistics."""
    ordered, count = np.sort(values, axis=0), len(values)
    reach = _CONFIDENCE_Z * np.sqrt(count) / 2.0
    low = max(0, int(np.floor(count / 2.0 - reach)) - 1)
    high = min(count - 1, int(np.ceil(count / 2.0 + reach)))
    return np.stack([ordered[low], ordered[high]], axis=1)


def rate(hits: Rows) -> dict[str, object]:
    """Returns a share with Wilson's score interval; None where there are no faces."""
    from scipy.stats import binomtest

    count = len(hits)
    if count == 0:
        return {"rate": None, "interval": None, "faces": 0}
    found = binomtest(int(hits.sum()), count).proportion_ci(CONFIDENCE, method="wilson")
    return {"rate": float(hits.mean()), "interval": [*map(float, found)], "faces": count}


def reliability(probability: Floats, happened: Rows, bins: int = 10) -> list[dict[str, object]]:
    """Returns claimed and observed shares, in bins of claimed probability that hold faces."""
    index = np.minimum((probability * bins).astype(int), bins - 1)
    return [
        {
            "claimed": float(probability[index == number].mean()),
            "came_true": rate(happened[index == number]),
        }
        for number in np.unique(index)
    ]
