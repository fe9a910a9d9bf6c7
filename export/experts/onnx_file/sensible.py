"""Whether the values of a given file are what the settings say: probabilities, logits, ages.

A wrapped graph that equals its file can still read it wrongly: a softmax of probabilities gives
everybody the mean age, sigmoids read as class probabilities thousands of years. Each of these shows
in the values on the verification faces.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from export.errors import GraphError
from export.experts.onnx_file.readouts import Readout, Values

_SUM = 0.02
"""Largest distance from 1 of a sum of probabilities; FP16 with hundreds of classes stays within."""
_RANGE = 0.001
"""Room around 0..1 for probabilities, for rounding."""


def check_values(path: Path, output: str, readout: Readout, values: Values) -> None:
    """Validates the values of several faces.

    Raises:
        GraphError: they cannot be what the settings read.
    """
    settings = readout.settings
    where = f"{path}: output {output!r}"
    if not np.isfinite(values).all():
        raise GraphError(f"{where} is NaN or infinite for a verification face. Check the weights.")
    if settings.head.kind == "regression":
        return
    within = bool((values >= -_RANGE).all() and (values <= 1 + _RANGE).all())
    pairs_or_rows = values.sum(axis=-1)
    add_up = within and bool((np.abs(pairs_or_rows - 1) <= _SUM).all())
    shown = f"{pairs_or_rows.min():.4g} to {pairs_or_rows.max():.4g}"
    if settings.head.kind == "expectation":
        _check_classes(where, shown, within=within, add_up=add_up, given=settings.probabilities)
        if not settings.probabilities:
            _check_logits(where, shown, values, within=within)
    elif settings.pairs:
        _check_pairs(where, shown, add_up=add_up, given=settings.probabilities)
    else:
        _check_thresholds(where, values, within=within, add_up=add_up, given=settings.probabilities)


def _check_classes(where: str, shown: str, *, within: bool, add_up: bool, given: bool) -> None:
    if given and not add_up:
        cure = (
            "If each value is a probability of its own, as from sigmoids, give head = 'ordinal'."
            if within
            else "If they are logits, leave `probabilities` out."
        )
        raise GraphError(
            f"{where} does not hold probabilities: each face's should add up to 1, they add up to "
            f"{shown}. {cure}"
        )
    if add_up and not given:
        raise GraphError(
            f"{where} already holds probabilities: each face's values lie within 0..1 and add up "
            f"to 1. A second softmax would give every face the same age. Give probabilities = true."
        )


def _check_logits(where: str, shown: str, values: Values, *, within: bool) -> None:
    """Refuses sigmoids, and probabilities in percent, where logits of classes are expected."""
    if within:
        raise GraphError(
            f"{where} does not hold logits: all values lie within 0..1, so that a softmax would "
            f"give every face about the same age, and each face's add up to {shown}. If each value "
            f"is a probability of its own, as from sigmoids, give head = 'ordinal' and "
            f"probabilities = true."
        )
    sums = values.sum(axis=-1)
    if (values >= 0).all() and sums.max() - sums.min() <= _SUM * sums.max():
        raise GraphError(
            f"{where} does not hold logits: no value is negative, and each face's add up to "
            f"{sums.mean():.4g}, as scaled probabilities do. Give a file that ends with logits, or "
            f"with probabilities that add up to 1."
        )


def _check_pairs(where: str, shown: str, *, add_up: bool, given: bool) -> None:
    if given and not add_up:
        raise GraphError(
            f"{where} does not hold pairs of probabilities: they add up to {shown}, not to 1. "
            f"If they are logits, leave `probabilities` out."
        )
    if add_up and not given:
        raise GraphError(
            f"{where} already holds probabilities: each pair adds up to 1. Give "
            f"probabilities = true."
        )


def _check_thresholds(
    where: str, values: Values, *, within: bool, add_up: bool, given: bool
) -> None:
    shown = f"{values.min():.4g} to {values.max():.4g}"
    if add_up and values.shape[1] > 1:
        raise GraphError(
            f"{where} holds class probabilities, which add up to 1, instead of one probability per "
            f"threshold. Give head = 'expectation' and probabilities = true."
        )
    if given and not within:
        raise GraphError(
            f"{where} does not hold probabilities: its values reach from {shown}. If they are "
            f"logits, leave `probabilities` out."
        )
    if within and not given:
        raise GraphError(
            f"{where} already holds probabilities: all values lie within 0..1, from {shown}. Give "
            f"probabilities = true."
        )
