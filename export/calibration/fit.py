"""From labeled predictions to fusion tables, with honest errors of the whole procedure.

The order: choose and fit each expert's bias, choose and fit the gate, then repeat all of that,
choices included, with a tenth of the people held out at a time (nested cross-validation). The
held-out faces give the figures of the report and the residuals that the intervals are made of;
the tables themselves are fitted on all faces. Should the fused age do worse on the held-out faces
than the best corrected expert alone, the tables fall back to that expert and say so.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from export.calibration.bias import BiasModel, choose_bias, fit_bias
from export.calibration.folds import Folds, folds_of, people_count
from export.calibration.gate import BEST, GATE_MODELS, GateModel, fit_gate, preferred_gate
from export.calibration.intervals import FEWEST_FACES, fit_spread, subsets_of
from export.calibration.labeled_predictions import LabeledPredictions, LabelsError
from export.calibration.tables import AGE_GRID, corrected, thinned
from runtime.fusion import ExpertTable, Floats, FusionTables

logger = logging.getLogger("agemoe")

ENOUGH_FACES = 200
"""Below, the fit is sane but its figures are vague, and a warning says so."""
_OUTER_FOLDS, _OUTER_FOLDS_MANY = 10, 5
_MANY_FACES = 2000
_INNER_FOLDS = 5
_REPEATS = 2
"""The gate is chosen on the average of so many splits: one alone is a matter of luck."""
_SAME_YEARS = 1e-4
"""Errors nearer than this are equal: one expert alone differs from itself by rounding."""
_CHOICE_FACES = 3000
"""Forms are chosen on at most so many faces; more hardly change the choice."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """What cross-validation chose."""

    bias: tuple[BiasModel, ...]
    """By expert."""
    gate: GateModel
    """The gate that won."""
    gate_mae_years: Mapping[str, float]
    """Held-out error of every gate that competed, by its name."""


@dataclass(frozen=True, slots=True, eq=False)
class HeldOut:
    """What tables that never saw a face say of it, for all N faces."""

    folds: Folds
    """(N,) which tenth each face was held out with."""
    corrected_years: Floats
    """(N, E)"""
    fused_years: Mapping[frozenset[str], Floats]
    """(N,) by the set of experts that answer."""

    def errors_years(self, age_years: Floats) -> Floats:
        """(1 + E,) mean absolute errors: fused, then each corrected expert."""
        everyone = max(self.fused_years, key=len)
        ages = np.column_stack([self.fused_years[everyone], self.corrected_years])
        return np.asarray(np.abs(ages - age_years[:, None]).mean(axis=0))


@dataclass(frozen=True, slots=True, eq=False)
class Calibration:
    """Fusion tables and how well they do."""

    tables: FusionTables
    held_out: HeldOut
    fell_back: bool
    """Whether fusing did worse than the best expert, which then speaks alone."""


def fit_fusion(faces: LabeledPredictions, seed: int = 0) -> Calibration:
    """Fits everything; the same for the same faces in the same order and the same seed.

    Args:
        faces: at least `FEWEST_FACES` of them.
        seed: of the splits.

    Raises:
        LabelsError: there are too few faces, or too few people, to hold any out.
    """
    _check_size(faces)
    recipe, held_out = _choose(faces, seed), _hold_out(faces, seed)
    errors = held_out.errors_years(faces.age_years)
    fell_back = bool(errors[0] > errors[1:].min() + _SAME_YEARS)
    if fell_back:
        logger.warning(
            "Fusing did worse on held-out faces (%.2f years) than the best corrected expert "
            "(%.2f years): the tables fall back to that expert alone.",
            errors[0],
            errors[1:].min(),
        )
        recipe, held_out = replace(recipe, gate=BEST), _hold_out(faces, seed, BEST)
    spread = fit_spread(held_out.fused_years, faces.age_years)
    provenance = _provenance(faces, recipe, held_out, seed) | {"fell_back": fell_back}
    tables = replace(_fit(faces, recipe), spread=spread, provenance=provenance)
    return Calibration(tables, held_out, fell_back)


def _check_size(faces: LabeledPredictions) -> None:
    people = people_count(faces.subjects, len(faces))
    if len(faces) < FEWEST_FACES or people < _OUTER_FOLDS:
        problem = (
            f"{len(faces)} faces of {people} people are too few: {FEWEST_FACES} faces of "
            f"{_OUTER_FOLDS} people are the least, {ENOUGH_FACES} faces give useful figures"
        )
        raise LabelsError("The labeled data", [problem])
    if len(faces) < ENOUGH_FACES:
        logger.warning(
            "Only %d labeled faces: the tables are drawn towards zero bias and the figures are "
            "vague. %d faces or more are recommended.",
            len(faces),
            ENOUGH_FACES,
        )


def _choose(faces: LabeledPredictions, seed: int) -> Recipe:
    some = faces.take(thinned(len(faces), _CHOICE_FACES, seed))
    folds = folds_of(some.age_years, some.subjects, _INNER_FOLDS, seed)
    bias = tuple(choose_bias(column, some.age_years, folds) for column in some.predictions_years.T)
    errors = np.mean(
        [_gate_errors(some, bias, seed + repeat) for repeat in range(_REPEATS)], axis=0
    )
    means = errors.mean(axis=0)
    named = {str(form): float(mean) for form, mean in zip(GATE_MODELS, means, strict=True)}
    return Recipe(bias, preferred_gate(errors), named)


def _gate_errors(faces: LabeledPredictions, bias: tuple[BiasModel, ...], seed: int) -> Floats:
    """(N, F) absolute errors of each form of gate on held-out faces."""
    folds = folds_of(faces.age_years, faces.subjects, _INNER_FOLDS, seed)
    errors = np.zeros((len(faces), len(GATE_MODELS)))
    for fold in np.unique(folds):
        train, test = faces.take(folds != fold), faces.take(folds == fold)
        tables = _bias_tables(train, bias)
        for index, form in enumerate(GATE_MODELS):
            fusion = _fusion(train, tables, form)
            fused = fusion.fuse(test.names, test.predictions_years).age_years
            errors[folds == fold, index] = np.abs(fused - test.age_years)
    return errors


def _fit(faces: LabeledPredictions, recipe: Recipe) -> FusionTables:
    """Bias and gate tables, without intervals."""
    return _fusion(faces, _bias_tables(faces, recipe.bias), recipe.gate)


def _bias_tables(faces: LabeledPredictions, forms: tuple[BiasModel, ...]) -> Floats:
    """(E, 101) years to add, by expert and reading."""
    columns = zip(faces.predictions_years.T, forms, strict=True)
    return np.stack([fit_bias(column, faces.age_years, form) for column, form in columns])


def _fusion(faces: LabeledPredictions, bias_years: Floats, form: GateModel) -> FusionTables:
    gate = fit_gate(corrected(faces.predictions_years, bias_years), faces.age_years, form)
    # Rounded, so that a difference in the last bit between machines does not show.
    bias, logits = np.round(bias_years, 4), np.round(gate.gate_logit, 5)
    bases = np.round(gate.base_logit, 5).tolist()
    pairs = zip(faces.names, bias, logits, bases, strict=True)
    return FusionTables(AGE_GRID, {name: ExpertTable(b, g, v) for name, b, g, v in pairs})


def _hold_out(faces: LabeledPredictions, seed: int, gate: GateModel | None = None) -> HeldOut:
    """Repeats choice and fit without each fold; with a gate given, that one is not chosen."""
    count = _OUTER_FOLDS if len(faces) <= _MANY_FACES else _OUTER_FOLDS_MANY
    folds = folds_of(faces.age_years, faces.subjects, count, seed + 1)
    fused = {names: np.zeros(len(faces)) for names in subsets_of(faces.names)}
    corrected_years = np.zeros_like(faces.predictions_years)
    for fold in np.unique(folds):
        held = folds == fold
        train, test = faces.take(~held), faces.take(held)
        recipe = _choose(train, seed + 2 + int(fold))
        tables = _fit(train, recipe if gate is None else replace(recipe, gate=gate))
        for names, ages in fused.items():
            ages[held] = fuse_subset(tables, test, names)
        corrected_years[held] = tables.fuse(test.names, test.predictions_years).corrected_years
    return HeldOut(folds, corrected_years, fused)


def fuse_subset(tables: FusionTables, faces: LabeledPredictions, names: frozenset[str]) -> Floats:
    """(N,) fused ages when only some experts answer."""
    columns = [index for index, name in enumerate(faces.names) if name in names]
    chosen = [faces.names[index] for index in columns]
    return tables.fuse(chosen, faces.predictions_years[:, columns]).age_years


def _provenance(
    faces: LabeledPredictions, recipe: Recipe, held_out: HeldOut, seed: int
) -> dict[str, object]:
    ages, errors = faces.age_years, held_out.errors_years(faces.age_years)
    return {
        "faces": len(faces),
        "people": people_count(faces.subjects, len(faces)),
        "age_range_years": [float(ages.min()), float(ages.max())],
        "seed": seed,
        "bias": {n: str(form) for n, form in zip(faces.names, recipe.bias, strict=True)},
        "gate": str(recipe.gate),
        "gate_mae_years": {name: round(mae, 4) for name, mae in recipe.gate_mae_years.items()},
        "cross_validated_mae_years": {
            name: round(float(error), 4)
            for name, error in zip(("fused", *faces.names), errors, strict=True)
        },
    }
