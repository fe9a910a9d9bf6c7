"""Which layer is to blame: the first whose error its inputs and rounding do not explain.

A layer inherits the errors of the layers it is computed from and adds its own rounding. Its growth
is its relative error by the larger of both: the largest relative error among its sources, and the
rounding of its precision. Growth is near 1 where nothing is wrong. A layer is conspicuous if its
growth is `CONSPICUOUS` times the network's median growth, or if it has lost values. That happens
harmlessly too, where large numbers cancel or a later node clips, so that a layer is blamed only if
the ages are wrong and a layer computed from it is wrong as well.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from export.diagnosis.measures import LayerError
from export.variants.fp16 import LARGEST_HALF

CONSPICUOUS = 8.0
"""Growth, by the median, from which a layer is conspicuous."""
ROUNDING = {"fp32": 2.0**-17, "fp16": 2.0**-9, "bf16": 2.0**-6, "int8": 2.0**-6}
"""Relative error of a layer that rounding alone may cause: four roundings of fp16 and bf16, one
step of an INT8 scale; in FP32, sums in another order."""
_LOST = 1e6
"""Relative error that stands for lost values in ratios."""

_HALF = "float16"


@dataclass(frozen=True)
class Verdict:
    """The layers of a variant, in the order of computing, and the one to blame."""

    errors: Sequence[LayerError]
    precision: str
    wrong: bool
    """Whether the ages are out of tolerance."""

    @cached_property
    def growths(self) -> Mapping[str, float]:
        """Growth of every layer, by name."""
        relative = self._relative
        floor = ROUNDING[self.precision]
        return {
            error.layer.name: relative[error.layer.name]
            / max(floor, *(relative[name] for name in error.layer.sources), 0.0)
            for error in self.errors
        }

    @cached_property
    def usual(self) -> float:
        """The median growth, at least 1."""
        return max(1.0, float(np.median(list(self.growths.values())))) if self.errors else 1.0

    @property
    def limit(self) -> float:
        """Growth from which a layer is conspicuous."""
        return CONSPICUOUS * self.usual

    def jumps(self, most: int) -> list[LayerError]:
        """Returns the layers that add most, the largest growth first."""
        added = [e for e in self.errors if self.growths[e.layer.name] > 1.0]
        return sorted(added, key=lambda e: -self.growths[e.layer.name])[:most]

    @cached_property
    def blamed(self) -> LayerError | None:
        """The first conspicuous layer whose error lasts; None where ages are right, or none is."""
        if not self.wrong:
            return None
        return next((e for e in self.errors if self._conspicuous(e) and self._lasts(e)), None)

    @cached_property
    def culprits(self) -> list[LayerError]:
        """The blamed layer; if it overflows, all that do and the layers that read them.

        What is too large and stays in FP32 already overflows where a layer in FP16 reads it.
        """
        blamed = self.blamed
        if blamed is None:
            return []
        if not (blamed.lost and blamed.dtype == _HALF and _too_large(blamed)):
            return [blamed]
        over = {error.layer.name for error in self.errors if _too_large(error)}
        return [
            error
            for error in self.errors
            if error.dtype == _HALF and over.intersection((error.layer.name, *error.layer.sources))
        ]

    @cached_property
    def first_tenth(self) -> LayerError | None:
        """The first layer that differs by a tenth or more."""
        return next((e for e in self.errors if e.relative_error >= 0.1), None)

    @cached_property
    def _relative(self) -> Mapping[str, float]:
        return {e.layer.name: min(e.relative_error, _LOST) for e in self.errors}

    @cached_property
    def _readers(self) -> Mapping[str, Sequence[str]]:
        readers = defaultdict(list)
        for error in self.errors:
            for name in error.layer.sources:
                readers[name].append(error.layer.name)
        return readers

    def _conspicuous(self, error: LayerError) -> bool:
        return self.growths[error.layer.name] >= self.limit

    def _lasts(self, error: LayerError) -> bool:
        """Returns whether the error shows in a layer computed from this one, or in the result."""
        readers = self._readers.get(error.layer.name, ())
        return not readers or any(self._relative[name] >= self._lasting for name in readers)

    @cached_property
    def _lasting(self) -> float:
        """The relative error from which a reader is wrong, too; less where the result is."""
        rounding = ROUNDING[self.precision]
        results = [e.layer.name for e in self.errors if e.layer.name not in self._readers]
        wrong = max((self._relative[name] for name in results), default=0.0)
        return max(rounding, min(CONSPICUOUS * rounding, wrong / 2))


def _too_large(error: LayerError) -> bool:
    return error.largest > LARGEST_HALF
