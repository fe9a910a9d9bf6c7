"""The figures of a statement: what a buyer of age checks asks, measured on labeled faces.

The tables have the shape of NIST's FATE AEV: errors by group and age, false positives by age at a
challenge age, and both by the distance between the eyes. People are counted as in `challenge`: each
by the least favorable picture.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np

from export.calibration.challenge import (
    ALL,
    Challenge,
    ChallengeOptions,
    fit_challenge,
    rows_by_group,
    upper_bound,
)
from export.calibration.labeled_predictions import LabeledPredictions
from export.calibration.metrics import Bootstrap, Rows
from export.calibration.quality import INTER_EYE, bins_of, refused_by
from export.calibration.report import (
    Report,
    ReportOptions,
    all_rows,
    bands_of,
    bootstrap_of,
    figures_of,
)
from export.calibration.scores import Scores
from runtime.columns import SOURCE
from runtime.decisions import Policy
from runtime.fusion import Floats
from runtime.policy_terms import Rate
from runtime.quality import QualityLimits

FEWEST_PEOPLE = 10
"""A mean of fewer people is not shown."""
MOST_ROWS = 60
"""Rows of the table of combined groups; the others are counted."""
BUFFER_YEARS = 7.0
"""From the threshold to the challenge age if neither a policy nor an option states it: 18 and 25,
the practice called Challenge 25."""
NOT_LABELED = "not labeled"


@dataclass(frozen=True, slots=True)
class Cell:
    """Mean absolute error of a part of the faces."""

    people: int
    mae_years: float | None = None
    """None for fewer than `FEWEST_PEOPLE` people."""
    reach_years: float = 0.0
    """Half the width of its 95 % interval, by resampling people."""


@dataclass(frozen=True, slots=True)
class Rates:
    """Wrong decisions at one threshold and challenge age."""

    threshold: float
    challenge: float
    younger: tuple[Rate, ...]
    """People younger than the threshold who pass: all, then by group and age."""
    older: tuple[Rate, ...]
    """People of at least the threshold who do not pass."""
    failed: Rate | None
    """People of at least the threshold who fail; None without a floor."""
    worst: Rate | None
    """The group of younger people with the highest upper end; None without groups."""
    bound: float
    """One-sided upper 95 % bound on the rate of all younger people who pass."""
    without_limits: tuple[Rate | None, Rate | None] | None
    """Younger people who pass and older who do not, had no face been refused for its quality; None
    without limits."""


@dataclass(frozen=True, slots=True)
class Bin:
    """Faces with eyes at about the same distance."""

    name: str
    """In pixels: `16 to 24`."""
    faces: int
    error: Cell
    bias_years: float
    younger: Rate | None
    """As in `Rates`, of the first challenge age; None without such people."""
    older: Rate | None


@dataclass(frozen=True, slots=True, eq=False)
class Figures:
    """Everything that a statement shows of labeled faces."""

    overall: Report
    """As at the top of a report: `mae.fused` and so on."""
    people: int
    bands: tuple[str, ...]
    """Age bands that hold faces: the columns of the next two."""
    groups: Mapping[str, tuple[Cell, ...]]
    """Errors of `all` and of every group, `sex=female`; first of all ages, then by band."""
    combined: Mapping[str, tuple[Cell, ...]]
    """The same of each combination of groups, `female, Asia`; empty with fewer than two columns."""
    left_out: int
    """Combinations that are not shown, as there are more than `MOST_ROWS`."""
    rates: tuple[Rates, ...]
    bins: tuple[Bin, ...]
    """By distance between the eyes; empty where it is not known."""
    refused: int
    """Faces that limits on quality refuse."""
    accepted_mae: Cell | None
    """Error of the faces that limits accept; None without limits, or if they accept none."""


def figures_of_statement(
    scores: Scores,
    options: ReportOptions,
    policy: Policy | None = None,
    limits: QualityLimits | None = None,
) -> Figures:
    """Measures everything that a statement shows.

    Args:
        scores: of faces that neither fusion nor policy was fitted on.
        options: thresholds and challenge ages; those of a policy come first.
        policy: the policy in use; None if there is none.
        limits: on quality; faces that miss them count as referred.

    Raises:
        LabelsError: there are limits, but the quality of the faces is not known.
    """
    faces, bootstrap = scores.faces, bootstrap_of(scores, options)
    refused = refused_by(faces, limits)
    cells = _Cells(scores, bootstrap)
    parts = {ALL: all_rows(scores), **dict(rows_by_group(faces))}
    combined = list(_combined(faces))
    pairs = list(_asked(options, policy))
    decided = np.where(refused, np.nan, scores.fused_years)
    limited = limits is not None
    return Figures(
        figures_of(scores, bootstrap, all_rows(scores)),
        int(faces.people.max()) + 1,
        cells.bands,
        {name: cells.row(rows) for name, rows in parts.items()},
        {name: cells.row(rows) for name, rows in combined[:MOST_ROWS]},
        len(combined[MOST_ROWS:]),
        tuple(_rates(scores, decided, pair, policy, limited=limited) for pair in pairs),
        tuple(_bins(scores, decided, pairs[0], cells, policy)),
        int(refused.sum()),
        cells.cell(~refused) if limited and not refused.all() else None,
    )


class _Cells:
    """Cells of tables of errors: rows by group, columns by age."""

    def __init__(self, scores: Scores, bootstrap: Bootstrap) -> None:
        self._errors = np.abs(scores.fused_years - scores.faces.age_years)
        self._bootstrap = bootstrap
        bands = bands_of(scores.faces.age_years)
        self._bands = {name: rows for name, rows in bands.items() if rows.any()}
        self.bands = tuple(self._bands)

    def row(self, rows: Rows) -> tuple[Cell, ...]:
        return self.cell(rows), *(self.cell(rows & band) for band in self._bands.values())

    def cell(self, rows: Rows) -> Cell:
        people = len(np.unique(self._bootstrap.people[rows]))
        if people < FEWEST_PEOPLE:
            return Cell(people)
        low, high = self._bootstrap.mean_intervals(self._errors[:, None], rows)[0]
        return Cell(people, float(self._errors[rows].mean()), float(high - low) / 2.0)


def _combined(faces: LabeledPredictions) -> Iterator[tuple[str, Rows]]:
    """Yields each combination of groups that has faces; sources are no property of people."""
    columns = [values for column, values in faces.groups.items() if column != SOURCE]
    if len(columns) < 2:
        return
    present = np.unique(np.stack(columns, axis=1), axis=0)
    for combination in present:
        rows = np.all([c == v for c, v in zip(columns, combination, strict=True)], axis=0)
        yield ", ".join(str(value) or NOT_LABELED for value in combination), rows


def _asked(options: ReportOptions, policy: Policy | None) -> Iterator[tuple[float, float]]:
    """Yields thresholds and challenge ages, without repetition, those of the policy first."""
    if policy is not None:
        yield policy.threshold, policy.challenge
    for threshold in options.thresholds_years:
        given = [c for c in options.challenges_years if c >= threshold]
        default = [] if policy is not None else [threshold + BUFFER_YEARS]
        for pair in product([threshold], dict.fromkeys(given or default)):
            if policy is None or pair != (policy.threshold, policy.challenge):
                yield pair


def _measured(
    faces: LabeledPredictions, decided: Floats, pair: tuple[float, float], policy: Policy | None
) -> Challenge:
    """Measures one challenge age; people who do not count for the policy do not count here."""
    evidence = None if policy is None else policy.evidence
    youngest = 0.0 if evidence is None else evidence.youngest
    floor = None if policy is None else policy.floor
    options = ChallengeOptions(pair[0], pair[1], None, youngest, floor)
    found = fit_challenge(faces, decided, options)
    if found is None:
        raise AssertionError("a given challenge age is always measured")
    return found


def _rates(
    scores: Scores,
    decided: Floats,
    pair: tuple[float, float],
    policy: Policy | None,
    *,
    limited: bool,
) -> Rates:
    found = _measured(scores.faces, decided, pair, policy)
    grouped = [rate for rate in found.younger if "=" in rate.group]
    before = None
    if limited:
        free = _measured(scores.faces, scores.fused_years, pair, policy)
        before = overall(free.younger), overall(free.older)
    first = overall(found.younger)
    return Rates(
        *pair,
        found.younger,
        found.older,
        found.failed,
        max(grouped, key=lambda rate: rate.high, default=None),
        1.0 if first is None else upper_bound(first.events, first.people),
        before,
    )


def overall(rates: Sequence[Rate]) -> Rate | None:
    """Returns the rate of all people; None without people."""
    return next((rate for rate in rates if rate.group == ALL and rate.people), None)


def _bins(
    scores: Scores,
    decided: Floats,
    pair: tuple[float, float],
    cells: _Cells,
    policy: Policy | None,
) -> Iterator[Bin]:
    faces = scores.faces
    if INTER_EYE not in faces.quality:
        return
    errors = scores.fused_years - faces.age_years
    for name, rows in bins_of(INTER_EYE, faces.quality[INTER_EYE]).items():
        found = _measured(faces.take(rows), decided[rows], pair, policy)
        yield Bin(
            name,
            int(rows.sum()),
            cells.cell(rows),
            float(errors[rows].mean()),
            overall(found.younger),
            overall(found.older),
        )
