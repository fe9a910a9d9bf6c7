"""The forms of a fusion that calibration can fit: choice of models, and the fit itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

import numpy as np

from export.calibration.agemoe import AgemoeModel, choose_agemoe, fit_agemoe
from export.calibration.bias import BiasModel, choose_bias, fit_bias
from export.calibration.folds import folds_of
from export.calibration.gate import GATE_MODELS, GateModel, choose_gate, fit_gate
from export.calibration.labeled_predictions import LabeledPredictions
from export.calibration.tables import corrected, thinned
from runtime.fusion import AGE_GRID, ExpertTable, Floats, FusionTables, PivotGate

INNER_FOLDS = 5
_REPEATS = 2
"""The gate is chosen on the average of several splits; one alone is too random."""
_CHOICE_FACES = 3000
"""Models are chosen on at most this many faces; more hardly change the choice."""

Recipe = TypeVar("Recipe")


class Form(Protocol, Generic[Recipe]):
    """A form of fusion."""

    def choose(self, faces: LabeledPredictions, seed: int) -> Recipe:
        """Chooses the models by cross-validation."""
        ...

    def fit(self, faces: LabeledPredictions, recipe: Recipe) -> FusionTables:
        """Fits the chosen models, without intervals."""
        ...

    def provenance(self, faces: LabeledPredictions, recipe: Recipe) -> dict[str, object]:
        """Returns the chosen models, for fusion.json and the report."""
        ...


@dataclass(frozen=True, slots=True)
class TablesRecipe:
    """The models of the pivot tables."""

    bias: tuple[BiasModel, ...]
    """By expert."""
    gate: GateModel
    gate_mae_years: Mapping[str, float]
    """Held-out error of every gate model, by its name."""


@dataclass(frozen=True, slots=True)
class TablesForm:
    """Bias tables and a gate that depends on the pivot age."""

    gate: GateModel | None = None
    """None chooses it by cross-validation."""

    def choose(self, faces: LabeledPredictions, seed: int) -> TablesRecipe:
        """Chooses bias and gate models by cross-validation."""
        some = faces.take(thinned(len(faces), _CHOICE_FACES, seed))
        folds = folds_of(some.age_years, some.people, INNER_FOLDS, seed)
        columns = some.predictions_years.T
        bias = tuple(choose_bias(column, some.age_years, folds) for column in columns)
        repeats = [_gate_errors(some, bias, seed + repeat) for repeat in range(_REPEATS)]
        errors = np.mean(repeats, axis=0)
        means = zip(GATE_MODELS, errors.mean(axis=0).tolist(), strict=True)
        gate = self.gate or choose_gate(errors)
        return TablesRecipe(bias, gate, {str(model): mean for model, mean in means})

    def fit(self, faces: LabeledPredictions, recipe: TablesRecipe) -> FusionTables:
        """Fits bias and gate tables."""
        return _pivot_fusion(faces, _bias_tables(faces, recipe.bias), recipe.gate)

    def provenance(self, faces: LabeledPredictions, recipe: TablesRecipe) -> dict[str, object]:
        """Returns the chosen models."""
        errors = recipe.gate_mae_years
        return {
            "form": "tables",
            "bias": {n: str(model) for n, model in zip(faces.names, recipe.bias, strict=True)},
            "gate": str(recipe.gate),
            "gate_mae_years": {name: round(mae, 4) for name, mae in errors.items()},
        }


class AgemoeForm:
    """Correctors and linear gate, as AgeMoE's authors published."""

    def choose(self, faces: LabeledPredictions, seed: int) -> AgemoeModel:
        """Chooses the penalties by cross-validation."""
        some = faces.take(thinned(len(faces), _CHOICE_FACES, seed))
        folds = folds_of(some.age_years, some.people, INNER_FOLDS, seed)
        return choose_agemoe(some.predictions_years, some.age_years, folds)

    def fit(self, faces: LabeledPredictions, recipe: AgemoeModel) -> FusionTables:
        """Fits correctors and gate together."""
        return fit_agemoe(faces.names, faces.predictions_years, faces.age_years, recipe)

    def provenance(self, faces: LabeledPredictions, recipe: AgemoeModel) -> dict[str, object]:
        """Returns the chosen penalties."""
        bias = dict.fromkeys(faces.names, "ReLU network of 16 units")
        return {"form": "agemoe", "bias": bias, "gate": str(recipe)}


FORMS: Mapping[str, Form[Any]] = {"tables": TablesForm(), "agemoe": AgemoeForm()}
"""By the name that `--form` takes; the first is preferred."""


def _gate_errors(faces: LabeledPredictions, bias: tuple[BiasModel, ...], seed: int) -> Floats:
    """Returns (N, F) absolute errors of each gate model on held-out faces."""
    folds = folds_of(faces.age_years, faces.people, INNER_FOLDS, seed)
    errors = np.zeros((len(faces), len(GATE_MODELS)))
    for fold in np.unique(folds):
        train, test = faces.take(folds != fold), faces.take(folds == fold)
        tables = _bias_tables(train, bias)
        for index, model in enumerate(GATE_MODELS):
            fused = _pivot_fusion(train, tables, model).fuse(test.names, test.predictions_years)
            errors[folds == fold, index] = np.abs(fused.age_years - test.age_years)
    return errors


def _bias_tables(faces: LabeledPredictions, models: tuple[BiasModel, ...]) -> Floats:
    """Returns (E, 101) years to add, by expert and raw prediction."""
    columns = zip(faces.predictions_years.T, models, strict=True)
    return np.stack([fit_bias(column, faces.age_years, model) for column, model in columns])


def _pivot_fusion(faces: LabeledPredictions, bias_years: Floats, model: GateModel) -> FusionTables:
    gate = fit_gate(corrected(faces.predictions_years, bias_years), faces.age_years, model)
    # Rounded: machines differ in the last bits.
    bias, logits = np.round(bias_years, 4), np.round(gate.gate_logit, 5)
    bases = np.round(gate.base_logit, 5)
    tables = {n: ExpertTable(AGE_GRID, b) for n, b in zip(faces.names, bias, strict=True)}
    return FusionTables(AGE_GRID, tables, PivotGate(tuple(faces.names), AGE_GRID, logits, bases))
