"""Fusion tables from labeled predictions, with held-out errors of the whole procedure.

Each expert's bias model and the gate's model are chosen and fitted, then all of that is repeated,
choices included, with a tenth of the people held out at a time (nested cross-validation). The
held-out faces give the figures of the report and the residuals for the intervals; the tables
themselves are fitted on all faces. Where the fused age is worse on the held-out faces than the
best corrected expert alone, the tables fall back to that expert, with a warning.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from export.calibration.bias import BiasModel, choose_bias, fit_bias
from export.calibration.folds import Folds, folds_of
from export.calibration.gate import BEST, GATE_MODELS, GateModel, choose_gate, fit_gate
from export.calibration.intervals import FEWEST_FACES, fit_spread, subsets_of
from export.calibration.labeled_predictions import LabeledPredictions, LabelsError
from export.calibration.tables import corrected, thinned
from runtime.fusion import AGE_GRID, ExpertTable, Floats, FusionTables, PivotGate

logger = logging.getLogger("agemoe")

ENOUGH_FACES = 200
"""With fewer, the figures are imprecise, and a warning is logged."""
_OUTER_FOLDS, _OUTER_FOLDS_MANY = 10, 5
_MANY_FACES = 2000
_INNER_FOLDS = 5
_REPEATS = 2
"""The gate is chosen on the average of several splits; one alone is too random."""
_SAME_YEARS = 1e-4
"""Smaller differences are rounding: one expert alone differs from itself by that much."""
_CHOICE_FACES = 3000
"""Models are chosen on at most this many faces; more hardly change the choice."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """The models chosen by cross-validation."""

    bias: tuple[BiasModel, ...]
    """By expert."""
    gate: GateModel
    gate_mae_years: Mapping[str, float]
    """Held-out error of every gate model, by its name."""


@dataclass(frozen=True, slots=True, eq=False)
class HeldOut:
    """Predictions for all N faces by tables that were fitted without them."""

    folds: Folds
    """(N,) the fold in which each face was held out."""
    corrected_years: Floats
    """(N, E)"""
    fused_years: Mapping[frozenset[str], Floats]
    """(N,) by set of experts."""

    def errors_years(self, age_years: Floats) -> Floats:
        """Returns (1 + E,) mean absolute errors: fused, then each corrected expert."""
        all_experts = max(self.fused_years, key=len)
        ages = np.column_stack([self.fused_years[all_experts], self.corrected_years])
        return np.asarray(np.abs(ages - age_years[:, None]).mean(axis=0))


@dataclass(frozen=True, slots=True, eq=False)
class Calibration:
    """Fusion tables and their held-out predictions."""

    tables: FusionTables
    held_out: HeldOut


def fit_fusion(faces: LabeledPredictions, seed: int = 0) -> Calibration:
    """Fits bias, gate and intervals; deterministic for the same faces, order and seed.

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
            "Fusing is worse on held-out faces (%.2f years) than the best corrected expert (%.2f "
            "years): the tables fall back to that expert alone.",
            errors[0],
            errors[1:].min(),
        )
        recipe, held_out = replace(recipe, gate=BEST), _hold_out(faces, seed, BEST)
    spread = fit_spread(held_out.fused_years, faces.age_years)
    provenance = _provenance(faces, recipe, held_out, seed) | {"fell_back": fell_back}
    tables = replace(_fit(faces, recipe), spread=spread, provenance=provenance)
    return Calibration(tables, held_out)


def _check_size(faces: LabeledPredictions) -> None:
    people = int(faces.people.max(initial=-1)) + 1
    if len(faces) < FEWEST_FACES or people < _OUTER_FOLDS:
        problem = (
            f"{len(faces)} faces of {people} people are too few: {FEWEST_FACES} faces of "
            f"{_OUTER_FOLDS} people are required, {ENOUGH_FACES} faces give useful figures"
        )
        raise LabelsError("The labeled data", [problem])
    if len(faces) < ENOUGH_FACES:
        logger.warning(
            "Only %d labeled faces: the tables are shrunk toward zero bias and the figures are "
            "imprecise. %d faces or more are recommended.",
            len(faces),
            ENOUGH_FACES,
        )


def _choose(faces: LabeledPredictions, seed: int) -> Recipe:
    some = faces.take(thinned(len(faces), _CHOICE_FACES, seed))
    folds = folds_of(some.age_years, some.people, _INNER_FOLDS, seed)
    bias = tuple(choose_bias(column, some.age_years, folds) for column in some.predictions_years.T)
    repeats = [_gate_errors(some, bias, seed + repeat) for repeat in range(_REPEATS)]
    errors = np.mean(repeats, axis=0)
    means = zip(GATE_MODELS, errors.mean(axis=0).tolist(), strict=True)
    return Recipe(bias, choose_gate(errors), {str(model): mean for model, mean in means})


def _gate_errors(faces: LabeledPredictions, bias: tuple[BiasModel, ...], seed: int) -> Floats:
    """Returns (N, F) absolute errors of each gate model on held-out faces."""
    folds = folds_of(faces.age_years, faces.people, _INNER_FOLDS, seed)
    errors = np.zeros((len(faces), len(GATE_MODELS)))
    for fold in np.unique(folds):
        train, test = faces.take(folds != fold), faces.take(folds == fold)
        tables = _bias_tables(train, bias)
        for index, model in enumerate(GATE_MODELS):
            fused = _fusion(train, tables, model).fuse(test.names, test.predictions_years)
            errors[folds == fold, index] = np.abs(fused.age_years - test.age_years)
    return errors


def _fit(faces: LabeledPredictions, recipe: Recipe) -> FusionTables:
    """Fits bias and gate tables, without intervals."""
    return _fusion(faces, _bias_tables(faces, recipe.bias), recipe.gate)


def _bias_tables(faces: LabeledPredictions, models: tuple[BiasModel, ...]) -> Floats:
    """Returns (E, 101) years to add, by expert and raw prediction."""
    columns = zip(faces.predictions_years.T, models, strict=True)
    return np.stack([fit_bias(column, faces.age_years, model) for column, model in columns])


def _fusion(faces: LabeledPredictions, bias_years: Floats, model: GateModel) -> FusionTables:
    gate = fit_gate(corrected(faces.predictions_years, bias_years), faces.age_years, model)
    # Rounded: machines differ in the last bits.
    bias, logits = np.round(bias_years, 4), np.round(gate.gate_logit, 5)
    bases = np.round(gate.base_logit, 5)
    tables = {n: ExpertTable(AGE_GRID, b) for n, b in zip(faces.names, bias, strict=True)}
    return FusionTables(AGE_GRID, tables, PivotGate(tuple(faces.names), AGE_GRID, logits, bases))


def _hold_out(faces: LabeledPredictions, seed: int, gate: GateModel | None = None) -> HeldOut:
    """Repeats choice and fit without each fold; a gate model that is given is not chosen."""
    count = _OUTER_FOLDS if len(faces) <= _MANY_FACES else _OUTER_FOLDS_MANY
    folds = folds_of(faces.age_years, faces.people, count, seed + 1)
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
    """Returns (N,) fused ages of some of the experts."""
    columns = [index for index, name in enumerate(faces.names) if name in names]
    chosen = [faces.names[index] for index in columns]
    return tables.fuse(chosen, faces.predictions_years[:, columns]).age_years


def _provenance(
    faces: LabeledPredictions, recipe: Recipe, held_out: HeldOut, seed: int
) -> dict[str, object]:
    ages, errors = faces.age_years, held_out.errors_years(faces.age_years)
    return {
        "faces": len(faces),
        "people": int(faces.people.max()) + 1,
        "age_range_years": [float(ages.min()), float(ages.max())],
        "seed": seed,
        "bias": {n: str(model) for n, model in zip(faces.names, recipe.bias, strict=True)},
        "gate": str(recipe.gate),
        "gate_mae_years": {name: round(mae, 4) for name, mae in recipe.gate_mae_years.items()},
        "cross_validated_mae_years": {
            name: round(float(error), 4)
            for name, error in zip(("fused", *faces.names), errors, strict=True)
        },
    }
