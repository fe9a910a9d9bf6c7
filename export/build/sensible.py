"""Checks that the reference model's outputs can be ages, on the verification faces.

A graph may equal its reference model and yet give no ages: a wrong scale, wrong units, a wrong
output. What cannot be ages is refused; what hardly can is a warning, which stays in the manifest.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from export.build.reference import ReferenceModel
from export.errors import GraphError
from export.faces.verification import missing_photographs, shows_face

WARNINGS = "warnings"
"""Key of an expert's details in the manifest."""
USUAL_YEARS = (-10.0, 130.0)
"""Ages outside are a warning: drawn faces are unusual to some networks."""
_FARTHEST_YEARS = 500.0
"""Ages farther from 0 for most faces are refused: they are no ages."""
_SAME_YEARS = 1.0
"""The faces are of all ages; a network whose ages differ by less does not tell them apart."""
_REAL_WEIGHTS = ("checkpoint", "onnx")
_CHECK = (
    "Check `head`, `output`, `years_per_unit` and `years_offset`, and `scale`, `mean`, `std` and "
    "`color_order`, which have to be those of training"
)
_SHOWN = 3


def age_warnings(source: str, model: ReferenceModel) -> list[str]:
    """Validates a reference model's ages; returns what is suspicious about them.

    Args:
        source: kind of the weights; those of placeholders give no ages.
        model: the reference model.

    Raises:
        GraphError: they are not ages in years.
    """
    if source not in _REAL_WEIGHTS:
        return []
    face = shows_face(few=model.signature.few_faces)
    ages = model.reference["age_years"][face]
    ages = ages[np.isfinite(ages)]
    warnings = []
    if not len(ages):
        return ["no verification face got an age"]
    low, high = USUAL_YEARS
    far = ages[np.abs(ages) > _FARTHEST_YEARS]
    outside = ages[(ages < low) | (ages > high)]
    found = f"from {ages.min():.4g} to {ages.max():.4g} years"
    if len(far) > len(ages) / 2:
        raise GraphError(
            f"The ages of {len(far)} of {len(ages)} verification faces are not ages: they reach "
            f"{found}. {_CHECK}."
        )
    if len(outside):
        warnings.append(
            f"{len(outside)} of {len(ages)} verification faces get ages outside "
            f"{low:g}..{high:g}; they reach {found}. {_CHECK}"
        )
    if len(ages) > 1 and np.ptp(ages) < _SAME_YEARS:
        warnings.append(
            f"every verification face gets the same age, {found}, though they are of all ages. "
            f"{_CHECK}"
        )
    if missing := missing_photographs():
        warnings.append(
            f"verified on drawn faces and noise only, without the photographs in "
            f"{' and '.join(missing)}"
        )
    return warnings


def tensorrt_warnings(unsupported: Sequence[str]) -> list[str]:
    """Returns one line about the nodes that TensorRT does not support; none without any."""
    if not unsupported:
        return []
    more = f", and {len(unsupported) - _SHOWN} more" if len(unsupported) > _SHOWN else ""
    return [f"no TensorRT engine can be built of it: {'; '.join(unsupported[:_SHOWN])}{more}"]
