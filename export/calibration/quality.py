"""Error by the quality of the faces, and the effect of limits on it, from which limits are chosen.

Inter-eye distances have fixed bins. NIST's evaluation (FATE AEV) reports by this distance as well;
its bins were not found, these are this project's. The other quantities have bins of equally many
faces.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import numpy as np

from export.calibration.csv_tables import LabelsError
from export.calibration.labeled_predictions import LabeledPredictions
from export.calibration.metrics import Rows, rate
from export.calibration.report import Report, ReportOptions, bootstrap_of, figures_of
from export.calibration.scores import Scores
from runtime.fusion import Floats
from runtime.quality import LIMITED, QUANTITIES, FaceQuality, QualityLimits

INTER_EYE = "inter_eye_pixels"
INTER_EYE_EDGES = (0.0, 16.0, 24.0, 32.0, 48.0, 64.0, 96.0, np.inf)
"""Pixels."""
BINS = 5
"""Number of bins of a quantity without fixed edges; all hold equally many faces."""
BINNED = (INTER_EYE, "sharpness", "yaw_degrees", "luminance", "contrast", "cut_off")
"""Quantities that the report has; angles count to either side."""
UNKNOWN = "unknown"
_HEADS = {
    INTER_EYE: "distance between the eyes, pixels",
    "sharpness": "sharpness",
    "yaw_degrees": "yaw to either side, degrees",
    "luminance": "luminance",
    "contrast": "contrast",
    "cut_off": "share of the box outside the picture",
}


def quality_report(scores: Scores, options: ReportOptions) -> Report:
    """Builds the figures of each bin of each quantity that is known for the faces."""
    bootstrap = bootstrap_of(scores, options)
    return {
        _HEADS[name]: {
            part: figures_of(scores, bootstrap, rows)
            for part, rows in bins_of(name, scores.faces.quality[name]).items()
        }
        for name in BINNED
        if name in scores.faces.quality
    }


def bins_of(name: str, values: Floats) -> dict[str, Rows]:
    """Returns (N,) the faces of each bin that has some, from low to high.

    Args:
        name: of the quantity.
        values: (N,), NaN where unknown.
    """
    values = np.abs(values)
    known = np.isfinite(values)
    edges = INTER_EYE_EDGES if name == INTER_EYE else _quantiles(values[known])
    last = edges[-1]
    bins = {
        _named(low, high): known & (values >= low) & ((values < high) | ((high == last) & known))
        for low, high in pairwise(edges)
    }
    bins[UNKNOWN] = ~known
    return {part: rows for part, rows in bins.items() if rows.any()}


def _quantiles(values: Floats) -> tuple[float, ...]:
    """Returns the edges of bins of equally many faces; fewer where many values are equal."""
    if len(values) == 0:
        return (0.0, np.inf)
    edges = np.unique(np.quantile(values, np.linspace(0.0, 1.0, BINS + 1)))
    return (*map(float, edges),) if len(edges) > 1 else (float(edges[0]), np.inf)


def _named(low: float, high: float) -> str:
    return f"{low:.3g} and more" if np.isinf(high) else f"{low:.3g} to {high:.3g}"


def limits_report(scores: Scores, options: ReportOptions, limits: QualityLimits) -> Report:
    """Builds the share of faces that limits refuse, and the figures of the others.

    Raises:
        LabelsError: the predictions have no quality.
    """
    faces = scores.faces
    problems = _problems(faces, limits)
    refused = np.array([bool(found) for found in problems])
    bootstrap = bootstrap_of(scores, options)
    return {
        "refused": rate(refused),
        "reasons": dict(Counter(_kind(reason) for found in problems for reason in found)),
        **{
            part: figures_of(scores, bootstrap, rows) if rows.any() else None
            for part, rows in (
                ("all", np.ones(len(faces), bool)),
                ("kept", ~refused),
                ("of_refused", refused),
            )
        },
    }


def refused_by(faces: LabeledPredictions, limits: QualityLimits | None) -> Rows:
    """Returns (N,) whether limits refuse a face; none is refused without limits.

    Raises:
        LabelsError: there are limits, but the predictions have no quality.
    """
    if limits is None:
        return np.zeros(len(faces), bool)
    return np.array([bool(found) for found in _problems(faces, limits)])


def limit_sentences(limits: QualityLimits) -> list[str]:
    """Returns what limits require, in words: `distance between the eyes at least 16 pixels`."""
    return [
        f"{text} {'at least' if name.startswith('min_') else 'at most'} {value:g}{unit}"
        for name, (_, text, unit) in LIMITED.items()
        if (value := getattr(limits, name)) is not None
    ]


def _problems(faces: LabeledPredictions, limits: QualityLimits) -> list[tuple[str, ...]]:
    if not faces.quality:
        problem = (
            "there is no quality to limit: predict the faces with --faces, or give a table with "
            "the columns quality_…, as predictions.csv of the cache has"
        )
        raise LabelsError("The labeled data", [problem])
    return [limits.problems(quality) for quality in qualities_of(faces)]


def qualities_of(faces: LabeledPredictions) -> list[FaceQuality]:
    """Returns the quality of each face; quantities without a column are unknown."""
    columns = {name: faces.quality.get(name, np.full(len(faces), np.nan)) for name in QUANTITIES}
    rows = zip(*columns.values(), strict=True)
    return [FaceQuality(**_row(dict(zip(columns, row, strict=True)))) for row in rows]


def _row(values: Mapping[str, float]) -> dict[str, Any]:
    return {name: float(v) if np.isfinite(v) else None for name, v in values.items()}


def _kind(reason: str) -> str:
    """Returns a reason without its numbers: `the sharpness is …`."""
    return reason.partition(" is ")[0].removeprefix("the ")
