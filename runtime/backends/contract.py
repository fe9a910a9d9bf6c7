"""Comparison of a loaded graph's inputs and outputs with the manifest."""

from __future__ import annotations

from collections.abc import Mapping

from runtime.backends import ExpertVariant
from runtime.errors import ContractError
from runtime.manifest import OUTPUT_RANKS


def check_inputs(variant: ExpertVariant, found: Mapping[str, object], uint8: str) -> None:
    """Raises `ContractError` if a graph's inputs differ from the manifest.

    `found` holds data type and dimensions after the first; `uint8` is the library's name of it.
    """
    wanted = {spec.name: (uint8, (spec.height, spec.width, 3)) for spec in variant.expert.inputs}
    _compare(variant, "inputs", found, wanted)


def check_outputs(variant: ExpertVariant, found: Mapping[str, object], float32: str) -> None:
    """Raises `ContractError` if a graph's outputs differ from the manifest; it may have more.

    `found` holds data type and rank; `float32` is the library's name of it.
    """
    wanted = {output: (float32, OUTPUT_RANKS[output]) for output in variant.expert.outputs}
    _compare(variant, "outputs", {key: found[key] for key in wanted if key in found}, wanted)


def _compare(
    variant: ExpertVariant, kind: str, found: Mapping[str, object], wanted: Mapping[str, object]
) -> None:
    if found != wanted:
        raise ContractError(
            f"The graph of expert {variant.name!r} has {kind} {found}, its manifest entry promises "
            f"{wanted}. {variant.rebuild}"
        )
