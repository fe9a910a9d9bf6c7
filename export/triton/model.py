"""The fusion as a model of Triton's Python backend, copied into the repository.

Triton runs it in a separate process with NumPy and the few files of `runtime` next to it. Its
inputs are the experts' predictions, not pictures; its output is the estimate.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import triton_python_backend_utils as pb_utils

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from runtime.fusion import Floats, FusionTables


class TritonPythonModel:
    """Triton's interface: `initialize` once, then `execute`."""

    def initialize(self, args: Mapping[str, str]) -> None:
        """Reads the tables next to this file.

        The parameter `experts` of `model_config`, which is JSON, holds each expert's indices into
        `visible`.
        """
        folder = Path(__file__).parent
        sys.path.insert(0, str(folder))  # for the files of runtime
        from runtime.fusion import FusionTables
        from runtime.fusion_file import FILE_NAME, read_fusion

        parameters = json.loads(args["model_config"])["parameters"]
        self._inputs_of: dict[str, list[int]] = json.loads(parameters["experts"]["string_value"])
        path = folder / FILE_NAME
        self._tables = (
            read_fusion(path) if path.exists() else FusionTables.identity(self._inputs_of)
        )

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Fuses the faces of each request."""
        return [self._response(request) for request in requests]

    def _response(self, request: Any) -> Any:  # noqa: ANN401 - Triton's types exist only there
        def values(name: str) -> NDArray[Any]:
            return np.asarray(pb_utils.get_input_tensor_by_name(request, name).as_numpy())

        visible = values("visible").astype(bool)
        columns = [values(f"age_years.{name}").astype(np.float64) for name in self._inputs_of]
        ages = np.concatenate(columns, axis=1)
        for column, indices in enumerate(self._inputs_of.values()):
            ages[~visible[:, indices].any(axis=1), column] = np.nan
        outputs = fused_outputs(self._tables, tuple(self._inputs_of), ages)
        return pb_utils.InferenceResponse(
            [pb_utils.Tensor(name, array) for name, array in outputs.items()]
        )


def fused_outputs(
    tables: FusionTables, names: Sequence[str], ages_years: Floats
) -> dict[str, Floats]:
    """Returns the outputs of the model.

    `ages_years` holds raw predictions, (N, E), a column per name; a missing one is not finite.

    Returns:
        float64: `age_years`, `low_years` and `high_years` (N, 1), `expert_years`,
        `corrected_years` and `weights` (N, E). Missing values are NaN: all ages of a face without
        predictions, the interval without calibration.
    """
    ages = np.where(np.isfinite(ages_years), ages_years, np.nan)
    seen = np.isfinite(ages).any(axis=1)
    fused = tables.fuse(names, ages[seen])
    outputs = {name: np.full((len(ages), 1), np.nan) for name in _PER_FACE}
    outputs |= {"expert_years": ages, "corrected_years": np.full_like(ages, np.nan)}
    outputs["weights"] = np.zeros_like(ages)
    outputs["age_years"][seen, 0] = fused.age_years
    outputs["corrected_years"][seen] = fused.corrected_years
    outputs["weights"][seen] = fused.weights
    for face in np.flatnonzero(seen):
        answered = frozenset(
            name for name, age in zip(names, ages[face], strict=True) if np.isfinite(age)
        )
        ends = _interval(tables, answered, float(outputs["age_years"][face, 0]))
        outputs["low_years"][face, 0], outputs["high_years"][face, 0] = ends
    return outputs


_PER_FACE = ("age_years", "low_years", "high_years")


def _interval(
    tables: FusionTables, answered: frozenset[str], age_years: float
) -> tuple[float, float]:
    from runtime.results import INTERVAL_LEVEL, AgeEstimate

    residuals = tables.residuals_at(answered, age_years)
    if residuals is None:
        return np.nan, np.nan
    age_range = float(tables.age_grid[0]), float(tables.age_grid[-1])
    estimate = AgeEstimate(age_years, {}, age_range=age_range, residuals=residuals)
    return estimate.interval(INTERVAL_LEVEL)
