"""Fusion tables from labeled predictions, with held-out errors of the whole procedure.

The models of a form are chosen and fitted, then all of that is repeated, choices included, with a
tenth of the people held out at a time (nested cross-validation). The held-out faces give the
figures of the report and the residuals for the intervals; the tables themselves are fitted on all
faces. Of two forms, the preferred one is taken unless the other is better by more than one
standard error on the held-out faces. Where the fused age is worse on them than the best corrected
expert alone, by more than one standard error too, the tables fall back to that expert, with a
warning.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from export.calibration.csv_tables import LabelsError
from export.calibration.folds import Folds, folds_of
from export.calibration.forms import FORMS, Form, TablesForm
from export.calibration.gate import BEST
from export.calibration.intervals import FEWEST_FACES, fit_spread, subsets_of
from export.calibration.labeled_predictions import LabeledPredictions
from runtime.fusion import Floats, FusionTables
from runtime.progress import Report, Steps, unreported

logger = logging.getLogger("agemoe")

ENOUGH_FACES = 200
"""With fewer, the figures are imprecise, and a warning is logged."""
_OUTER_FOLDS, _OUTER_FOLDS_MANY = 10, 5
_MANY_FACES = 2000
_SAME_YEARS = 1e-4
"""Smaller differences are rounding: one expert alone differs from itself by that much."""


@dataclass(frozen=True, slots=True, eq=False)
class HeldOut:
    """Predictions for all N faces by tables that were fitted without them."""

    folds: Folds
    """(N,) the fold in which each face was held out."""
    corrected_years: Floats
    """(N, E)"""
    fused_years: Mapping[frozenset[str], Floats]
    """(N,) by set of experts."""

    def fused_errors_years(self, age_years: Floats) -> Floats:
        """Returns (N,) absolute errors of all experts together."""
        return np.abs(self.fused_years[max(self.fused_years, key=len)] - age_years)

    def errors_years(self, age_years: Floats) -> Floats:
        """Returns (1 + E,) mean absolute errors: fused, then each corrected expert."""
        corrected = np.abs(self.corrected_years - age_years[:, None]).mean(axis=0)
        return np.concatenate([[self.fused_errors_years(age_years).mean()], corrected])


@dataclass(frozen=True, slots=True, eq=False)
class Calibration:
    """Fusion tables and their held-out predictions."""

    tables: FusionTables
    held_out: HeldOut


def fit_fusion(
    faces: LabeledPredictions,
    seed: int = 0,
    form: str = "auto",
    *,
    quiet: bool = False,
    report: Report = unreported,
) -> Calibration:
    """Fits bias, gate and intervals; deterministic for the same faces, order and seed.

    Args:
        faces: at least `FEWEST_FACES` of them.
        seed: of the splits.
        form: one of `FORMS`; `auto` chooses by the held-out errors.
        quiet: log no warning; for fits that repeat another one on some of its faces.
        report: progress callback; its items are fits.

    Raises:
        LabelsError: there are too few faces, or too few people, to hold any out.
    """
    _check_size(faces, quiet=quiet)
    names = list(FORMS) if form == "auto" else [form]
    steps = Steps(report)
    steps.expect(len(names) * _outer_folds(faces) + 1)
    held_out = {name: _hold_out(faces, seed, FORMS[name], steps) for name in names}
    name = _chosen(held_out, faces.age_years)
    chosen: Form[Any] = FORMS[name]
    compared = {n: round(float(h.errors_years(faces.age_years)[0]), 4) for n, h in held_out.items()}
    errors = held_out[name].errors_years(faces.age_years)
    found, fell_back = held_out[name], _is_worse(held_out[name], faces.age_years)
    if fell_back:
        logger.log(
            logging.DEBUG if quiet else logging.WARNING,
            "Fusing is worse on held-out faces (%.2f years) than the best corrected expert (%.2f "
            "years): the tables fall back to that expert alone.",
            errors[0],
            errors[1:].min(),
        )
        chosen = TablesForm(BEST)
        steps.expect(_outer_folds(faces))
        found = _hold_out(faces, seed, chosen, steps)
    recipe = chosen.choose(faces, seed)
    provenance = {
        **_provenance(faces, found, seed),
        **chosen.provenance(faces, recipe),
        "form_mae_years": compared,
        "fell_back": fell_back,
    }
    spread = fit_spread(found.fused_years, faces.age_years)
    tables = replace(chosen.fit(faces, recipe), spread=spread, provenance=provenance)
    steps.advance()
    return Calibration(tables, found)


def keep_fusion(
    faces: LabeledPredictions, tables: FusionTables, seed: int = 0, *, quiet: bool = False
) -> Calibration:
    """Fits the intervals of a given fusion, whose other tables stay as they are.

    Args:
        faces: at least `FEWEST_FACES`, none of which the fusion was fitted on.
        tables: of all experts of the faces.
        seed: of the splits in which the intervals are verified.
        quiet: log no warning.

    Raises:
        LabelsError: there are too few faces, or too few people, to hold any out.
    """
    _check_size(faces, quiet=quiet)
    fused = {names: fuse_subset(tables, faces, names) for names in subsets_of(faces.names)}
    folds = folds_of(faces.age_years, faces.people, _outer_folds(faces), seed + 1)
    corrected = tables.fuse(faces.names, faces.predictions_years).corrected_years
    found = HeldOut(folds, corrected, fused)
    spread = fit_spread(fused, faces.age_years, tables.age_grid)
    provenance = {**tables.provenance, "intervals": _provenance(faces, found, seed)}
    provenance.pop("robust", None)  # told of the intervals that were replaced
    return Calibration(replace(tables, spread=spread, provenance=provenance), found)


def _chosen(held_out: Mapping[str, HeldOut], age_years: Floats) -> str:
    """Returns the first form, unless another is better by more than one standard error."""
    errors = {name: found.fused_errors_years(age_years) for name, found in held_out.items()}
    first, best = next(iter(errors)), min(errors, key=lambda name: float(errors[name].mean()))
    lead = errors[first] - errors[best]
    return best if lead.mean() > lead.std() / np.sqrt(len(lead)) else first


def size_problem(faces: LabeledPredictions) -> str | None:
    """Returns why there are too few faces, or too few people, to fit anything; None if enough."""
    people = int(faces.people.max(initial=-1)) + 1
    if len(faces) >= FEWEST_FACES and people >= _OUTER_FOLDS:
        return None
    return (
        f"{len(faces)} faces of {people} people are too few: {FEWEST_FACES} faces of "
        f"{_OUTER_FOLDS} people are required, {ENOUGH_FACES} faces give useful figures"
    )


def _check_size(faces: LabeledPredictions, *, quiet: bool) -> None:
    if problem := size_problem(faces):
        raise LabelsError("The labeled data", [problem])
    if len(faces) < ENOUGH_FACES and not quiet:
        logger.warning(
            "Only %d labeled faces: the tables are shrunk toward zero bias and the figures are "
            "imprecise. %d faces or more are recommended.",
            len(faces),
            ENOUGH_FACES,
        )


def _outer_folds(faces: LabeledPredictions) -> int:
    return _OUTER_FOLDS if len(faces) <= _MANY_FACES else _OUTER_FOLDS_MANY


def _hold_out(faces: LabeledPredictions, seed: int, form: Form[Any], steps: Steps) -> HeldOut:
    """Repeats choice and fit without each fold."""
    folds = folds_of(faces.age_years, faces.people, _outer_folds(faces), seed + 1)
    fused = {names: np.zeros(len(faces)) for names in subsets_of(faces.names)}
    corrected_years = np.zeros_like(faces.predictions_years)
    for fold in np.unique(folds):
        held = folds == fold
        train, test = faces.take(~held), faces.take(held)
        tables = form.fit(train, form.choose(train, seed + 2 + int(fold)))
        for names, ages in fused.items():
            ages[held] = fuse_subset(tables, test, names)
        corrected_years[held] = tables.fuse(test.names, test.predictions_years).corrected_years
        steps.advance()
    return HeldOut(folds, corrected_years, fused)


def fuse_subset(tables: FusionTables, faces: LabeledPredictions, names: frozenset[str]) -> Floats:
    """Returns (N,) fused ages of some of the experts."""
    columns = [index for index, name in enumerate(faces.names) if name in names]
    chosen = [faces.names[index] for index in columns]
    return tables.fuse(chosen, faces.predictions_years[:, columns]).age_years


def _is_worse(held_out: HeldOut, age_years: Floats) -> bool:
    """Returns whether fusing is worse than the best corrected expert by more than chance."""
    fused = np.abs(held_out.fused_years[max(held_out.fused_years, key=len)] - age_years)
    experts = np.abs(held_out.corrected_years - age_years[:, None])
    lead = fused - experts[:, int(np.argmin(experts.mean(axis=0)))]
    return bool(lead.mean() > lead.std() / np.sqrt(len(lead)) + _SAME_YEARS)


def _provenance(faces: LabeledPredictions, held_out: HeldOut, seed: int) -> dict[str, object]:
    ages, errors = faces.age_years, held_out.errors_years(faces.age_years)
    return {
        "faces": len(faces),
        "people": int(faces.people.max()) + 1,
        "age_range_years": [float(ages.min()), float(ages.max())],
        "seed": seed,
        "cross_validated_mae_years": {
            name: round(float(error), 4)
            for name, error in zip(("fused", *faces.names), errors, strict=True)
        },
    }
