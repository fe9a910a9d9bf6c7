"""Comparison of a loaded graph's inputs and outputs with the manifest."""

from __future__ import annotations

from collections.abc import Mapping

from runtime.errors import ContractError
from runtime.manifest import REBUILD


def compare_tensors(
    name: str, kind: str, found: Mapping[str, object], wanted: Mapping[str, object]
) -> None:
    """Compares the tensors of an expert's graph, by name, with those of its manifest entry.

    Args:
        name: of the expert.
        kind: `inputs` or `outputs`, for the message.
        found: data type and shape or rank of each tensor of the graph.
        wanted: the same, from the manifest.

    Raises:
        ContractError: they differ.
    """
    if found != wanted:
        raise ContractError(
            f"The graph of expert {name!r} has {kind} {found}, its manifest entry promises "
            f"{wanted}. {REBUILD} --only {name}"
        )
