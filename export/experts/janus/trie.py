"""The trie of answers: its nodes, and the steps that lead to each answer."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeVar

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

_Item = TypeVar("_Item")

Termination = Literal["where_extended", "all"]
Answer = tuple[int, ...]
"""Token ids of an answer, or of its beginning."""


@dataclass(frozen=True, slots=True)
class AgeTree:
    """The trie of answers, and the steps whose probabilities multiply to that of each age.

    Row 0 is the last prompt token, row i + 1 is node i; parents come before their children.
    """

    node_ids: tuple[int, ...]
    """Token of each node."""
    parents: tuple[int, ...]
    """Row of each node's parent."""
    depths: tuple[int, ...]
    """1 for the first token of an answer."""
    edges: tuple[tuple[int, int], ...]
    """Row and next token of every step of an answer."""
    ends: tuple[int, ...]
    """Rows at which the probability that the number ends is needed."""
    paths: NDArray[np.int64]
    """(A, L): the steps of each age, indices into edges + ends + one step of probability 1."""

    @property
    def rows(self) -> int:
        """Number of rows that steps start from; they come first."""
        return 1 + max((*(row for row, _ in self.edges), *self.ends))


def tree_of(
    answers: Sequence[Answer],
    termination: Termination,
    rows: Mapping[Answer, int],
) -> AgeTree:
    """Returns the trie of answers whose nodes have these rows, from `tree_rows`."""
    ending = _ending(answers, termination)
    edges = _numbered((rows[a[:i]], a[i]) for a in answers for i in range(len(a)))
    ends = _numbered(rows[answer] for answer in answers if answer in ending)
    steps = [
        [edges[rows[a[:i]], a[i]] for i in range(len(a))]
        + ([len(edges) + ends[rows[a]]] if a in ending else [])
        for a in answers
    ]
    certain = len(edges) + len(ends)
    longest = max(len(path) for path in steps)
    inner = [prefix for prefix in rows if prefix]
    return AgeTree(
        node_ids=tuple(node[-1] for node in inner),
        parents=tuple(rows[node[:-1]] for node in inner),
        depths=tuple(len(node) for node in inner),
        edges=tuple(edges),
        ends=tuple(ends),
        paths=np.array([path + [certain] * (longest - len(path)) for path in steps], np.int64),
    )


def _prefixes(answers: Iterable[Answer]) -> set[Answer]:
    return {answer[:length] for answer in answers for length in range(len(answer))}


def _ending(answers: Sequence[Answer], termination: Termination) -> set[Answer]:
    return set(answers) if termination == "all" else set(answers) & _prefixes(answers)


def nodes(answers: Sequence[Answer], termination: Termination) -> set[Answer]:
    """Returns the prefixes after which logits are needed."""
    return _prefixes(answers) | _ending(answers, termination)


def tree_rows(first: Collection[Answer], others: Collection[Answer] = ()) -> dict[Answer, int]:
    """Numbers prefixes; each has a greater number than its own prefixes."""
    parts = (sorted(part, key=lambda p: (len(p), p)) for part in (first, others))
    return _numbered(prefix for part in parts for prefix in part)


def _numbered(items: Iterable[_Item]) -> dict[_Item, int]:
    return {item: number for number, item in enumerate(dict.fromkeys(items))}
