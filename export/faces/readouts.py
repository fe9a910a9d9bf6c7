"""Readouts fitted on fixed features: convex, deterministic, in float64."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_LABEL_STD_YEARS = 4.0
"""Standard deviation of the Gaussian soft label around an age, over the classes."""


class Standardizer:
    """Standardizes features, and converts readouts of them to readouts of raw features."""

    def __init__(self, features: NDArray[np.float64]) -> None:
        """Measures mean and scale of the fitting faces' features, (N, F)."""
        self.mean = features.mean(axis=0)
        std = features.std(axis=0)
        # A ReLU that hardly ever fires would get a huge weight and dominate where it does fire.
        alive = std > 0.2 * np.median(std[std > 0])
        self._inverse = np.where(alive, 1.0 / np.where(alive, std, 1.0), 0.0)

    def __call__(self, features: NDArray[np.float64]) -> NDArray[np.float64]:
        """Returns standardized features, (N, F)."""
        return np.asarray((features - self.mean) * self._inverse)

    def folded(
        self, weight: NDArray[np.float64], bias: NDArray[np.float64]
    ) -> tuple[Tensor, Tensor]:
        """Converts a readout of standardized features, (K, F) and (K,), to one of raw features."""
        raw = weight * self._inverse
        return torch.tensor(raw).float(), torch.tensor(bias - raw @ self.mean).float()


def fit_regression(
    features: NDArray[np.float64], ages_years: NDArray[np.float64], penalty: float
) -> tuple[Tensor, Tensor]:
    """Fits a ridge regression of ages (N,) on standardized features (N, F).

    Returns:
        Weight (1, F) and bias (1,), float32.
    """
    standardize = Standardizer(features)
    x = standardize(features)
    mean = ages_years.mean()
    gram = x.T @ x + penalty * np.eye(x.shape[1])
    weight = np.linalg.solve(gram, x.T @ (ages_years - mean))
    return standardize.folded(weight[None], np.array([mean]))


def fit_classes(
    features: NDArray[np.float64],
    ages_years: NDArray[np.float64],
    age_grid: tuple[float, ...],
    penalty: float,
) -> tuple[Tensor, Tensor]:
    """Fits a softmax regression on standardized features (N, F), by L-BFGS.

    The A classes are ages in years; labels are soft, Gaussian around each age (N,).

    Returns:
        Weight (A, F) and bias (A,), float32.
    """
    standardize = Standardizer(features)
    x = torch.tensor(standardize(features))
    distance = torch.tensor(np.asarray(age_grid) - ages_years[:, None]) / _LABEL_STD_YEARS
    wanted = torch.softmax(-0.5 * distance**2, dim=1)
    weight = torch.zeros(len(age_grid), x.shape[1], dtype=torch.float64, requires_grad=True)
    bias = torch.zeros(len(age_grid), dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=40, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        log_probabilities = torch.log_softmax(x @ weight.T + bias, dim=1)
        value = -(wanted * log_probabilities).sum() + 0.5 * penalty * weight.square().sum()
        (value / len(x)).backward()  # type: ignore[no-untyped-call]
        return value / len(x)

    optimizer.step(loss)  # type: ignore[no-untyped-call]
    return standardize.folded(weight.detach().numpy(), bias.detach().numpy())
