"""Fuses the experts' outputs into one estimate per face."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from runtime.backends import Outputs
from runtime.errors import AgeMoEError, PredictionError
from runtime.executor import Answers
from runtime.fusion import Floats, Fused, FusionTables
from runtime.quality import FaceQuality
from runtime.results import AgeEstimate, ExpertAge

Origin = tuple[tuple[str, ...], FaceQuality | None]
"""Notes and quality of a face, as in `AgeEstimate`."""


def estimates_from(
    answers: Answers,
    unseen: Sequence[Mapping[str, str]],
    tables: FusionTables,
    origins: Sequence[Origin],
) -> list[AgeEstimate | AgeMoEError]:
    """Fuses a batch.

    Args:
        answers: the experts' outputs for N faces.
        unseen: for each face, the experts whose answer is ignored, with the reason.
        tables: of all experts.
        origins: for each face, its notes and quality.

    Returns:
        One entry per face; an error for a face without any usable answer.
    """
    names = list(answers.outputs)
    ages = np.stack([answers.outputs[n]["age_years"] for n in names], axis=1).astype(np.float64)
    reasons = [
        {
            **answers.missing,
            **_unusable(names, row, tables),
            **_unanswered(answers, face),
            **of_face,
        }
        for face, (row, of_face) in enumerate(zip(ages, unseen, strict=True))
    ]
    for row, missing in zip(ages, reasons, strict=True):
        row[[name in missing for name in names]] = np.nan
    usable = [bool(np.isfinite(row).any()) for row in ages]
    fused = tables.fuse(names, ages[usable])
    rows = iter(range(len(fused.age_years)))
    outputs = [_outputs_of(answers, face) for face in range(len(ages))]
    found: list[AgeEstimate | AgeMoEError] = [
        _estimate(names, ages[face], next(rows), fused, reasons[face], tables, outputs[face])
        if usable[face]
        else PredictionError(reasons[face])
        for face in range(len(ages))
    ]
    return [
        replace(result, notes=notes, quality=quality) if isinstance(result, AgeEstimate) else result
        for result, (notes, quality) in zip(found, origins, strict=True)
    ]


def _unusable(names: Sequence[str], raw_years: Floats, tables: FusionTables) -> dict[str, str]:
    """Returns why predictions of one face do not take part, by expert."""
    limit = tables.largest_raw_years
    return {
        name: f"predicted {age:g} years, more than the {limit:g} that the fusion accepts"
        if np.isfinite(age)
        else f"predicted {age} years"
        for name, age, usable in zip(names, raw_years, tables.usable(raw_years), strict=True)
        if not usable
    }


def _unanswered(answers: Answers, face: int) -> dict[str, str]:
    """Returns the experts whose networks have no age for a face, with the reason.

    Only the age is NaN then; after an overflow the other outputs are, too.
    """
    return {
        name: reason
        for name, reason in answers.no_answer.items()
        if name in answers.outputs
        and all(
            np.isnan(array[face]) if key == "age_years" else np.isfinite(array[face]).all()
            for key, array in answers.outputs[name].items()
        )
    }


def _outputs_of(answers: Answers, face: int) -> dict[str, Outputs]:
    """Returns each expert's outputs for one face."""
    return {
        name: {key: array[face] for key, array in outputs.items()}
        for name, outputs in answers.outputs.items()
    }


def _expert_age(outputs: Outputs, corrected_years: float, weight: float) -> ExpertAge:
    mass, genders = outputs.get("answer_mass"), outputs.get("gender_probs")
    return ExpertAge(
        float(outputs["age_years"]),
        corrected_years,
        weight,
        answer_mass=None if mass is None else float(mass),
        gender_probs=None if genders is None else (float(genders[0]), float(genders[1])),
    )


def _estimate(
    names: Sequence[str],
    ages: Floats,
    row: int,
    fused: Fused,
    missing: Mapping[str, str],
    tables: FusionTables,
    outputs: Mapping[str, Outputs],
) -> AgeEstimate:
    experts = {
        name: _expert_age(
            outputs[name],
            float(fused.corrected_years[row, column]),
            float(fused.weights[row, column]),
        )
        for column, name in enumerate(names)
        if np.isfinite(ages[column])
    }
    age_years = float(fused.age_years[row])
    return AgeEstimate(
        age_years=age_years,
        experts=experts,
        missing=dict(missing),
        age_range=(float(tables.age_grid[0]), float(tables.age_grid[-1])),
        residuals=tables.residuals_at(frozenset(experts), age_years),
    )
