"""The first and last nodes of the graphs: normalization of pixels, age from the last layer."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from export.config.settings import AgeHead, Normalization


class Normalize(nn.Module):
    """Normalization of uint8 (N, H, W, 3) RGB to float32 (N, 3, H, W).

    The cast comes first: TensorRT supports UINT8 only as a network's input.
    """

    factor: Tensor
    offset: Tensor

    def __init__(self, normalization: Normalization) -> None:
        """Folds scale, mean and standard deviation into one factor and one offset per channel."""
        super().__init__()
        std = torch.tensor(normalization.std, dtype=torch.float64)
        mean = torch.tensor(normalization.mean, dtype=torch.float64)
        factor = (normalization.scale / std).float().reshape(1, 3, 1, 1)
        self.register_buffer("factor", factor, persistent=False)
        self.register_buffer("offset", (-mean / std).float().reshape(1, 3, 1, 1), persistent=False)
        self._flipped = normalization.color_order == "BGR"

    def forward(self, pixels: Tensor) -> Tensor:
        """Casts, transposes, orders the channels and normalizes."""
        image = pixels.float().permute(0, 3, 1, 2)
        if self._flipped:
            image = torch.cat([image[:, 2:3], image[:, 1:2], image[:, 0:1]], dim=1)
        return image * self.factor + self.offset


class Readout(nn.Module):
    """A network's last layer to `age_years` (N,) and, with classes, `age_probs` (N, A).

    Rounding affects `age_years` alone; the expectation of `age_probs` stays unrounded.
    """

    ages: Tensor
    order: Tensor | None

    def __init__(self, head: AgeHead, *, probabilities: bool = False) -> None:
        """Creates the readout of a head; `probabilities`: the last layer is a softmax already."""
        super().__init__()
        self._head = head
        self._probabilities = probabilities
        ages = torch.tensor(head.increasing)
        self.register_buffer("ages", ages, persistent=False)
        order = None if head.order is None else torch.tensor(head.order)
        self.register_buffer("order", order, persistent=False)

    @property
    def classes(self) -> int:
        """Width of the last layer."""
        return len(self._head.age_grid) if self._head.kind == "expectation" else 1

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the outputs."""
        return ("age_years", "age_probs") if self._head.kind == "expectation" else ("age_years",)

    @property
    def age_grid(self) -> tuple[float, ...] | None:
        """Ages of the columns of `age_probs`, in years: increasing, whatever the classes' order."""
        return self._head.increasing if self._head.kind == "expectation" else None

    def forward(self, last: Tensor) -> tuple[Tensor, ...]:
        """Computes the outputs from the last layer (N, classes)."""
        if self._head.kind == "regression":
            return (last.reshape(-1) * self._head.years_per_unit + self._head.years_offset,)
        probabilities = last if self._probabilities else torch.softmax(last, dim=1)
        if self.order is not None:
            probabilities = probabilities.index_select(1, self.order)
        years = (probabilities * self.ages).sum(dim=1)
        return years.round() if self._head.round_years else years, probabilities
