"""Which layers have to stay in FP32, tried out on the CPU."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from export.diagnosis.layers import OnnxLayers, Values
from export.diagnosis.verdict import Verdict

_STEPS = 4
"""Attempts, each with the layers before those of the last."""


def layers_to_keep(
    verdict: Verdict,
    variant: OnnxLayers,
    outputs: Sequence[str],
    is_right: Callable[[Values], bool],
) -> list[str]:
    """Returns the names of the layers that make the ages right if they stay in FP32.

    These are the verdict's culprits, and where that is too little, the layers before them, whose
    rounding they magnify, as a difference of large numbers does. Where no attempt helps, they are
    the culprits alone: in FP32 a layer's weights are exact, too, which is not tried.

    Args:
        verdict: on the variant.
        variant: in half precision.
        outputs: names of the outputs.
        is_right: whether these outputs are within the tolerance.
    """
    halves = {e.layer.name: e.layer for e in verdict.errors if e.dtype == "float16"}
    culprits = [error.layer.name for error in verdict.culprits]
    kept = set(culprits)
    for _ in range(_STEPS):
        if is_right(variant.outputs_kept(kept, outputs)):
            return [error.layer.name for error in verdict.errors if error.layer.name in kept]
        before = {name for layer in kept & halves.keys() for name in halves[layer].sources}
        if before <= kept:
            break
        kept |= before & halves.keys()
    return culprits
