"""Every spelling in which greedy decoding may write an age, token by token.

Greedy decoding is not bound to the tokenizer's own segmentation: "25" may be one token or "2" and
"5", and a space may come before it, alone or within the first token. The spellings form one trie.
After each of its nodes the next token is the one with the largest logit of the whole vocabulary:

- a token that continues towards an age leads to the next node;
- any token that does not start with a digit ends the number, which is the answer if it is an age;
- any other leads away from all ages: "10" followed by "7" where ages end at 100, or "0" followed
  by "5". Then, and where the first token starts no age, there is no answer.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

_SPACES = ("Ġ", "▁", " ")
"""A space in the vocabularies of byte-level BPE, SentencePiece and word tokenizers."""
_DIGITS = re.compile(r"(?P<space>[Ġ▁ ]?)(?P<digits>[0-9]+)")
_DIGIT_BYTE = re.compile(r"<0x3(?P<digits>[0-9])>")
"""A digit as UTF-8 byte; it counts where the vocabulary has no token for the digit."""


def spelled_ages(vocabulary: Mapping[str, int], ages: Sequence[int]) -> dict[tuple[int, ...], int]:
    """Returns every spelling of the ages, with or without one space before the number.

    Args:
        vocabulary: id of every token, by its spelling.
        ages: in years.

    Returns:
        The age by its token ids.
    """
    wanted = {str(age): age for age in ages}
    prefixes = {text[:length] for text in wanted for length in range(1, len(text) + 1)}
    digits = dict(_digit_tokens(vocabulary))
    spaced = {
        token: match["digits"]
        for spelling, token in vocabulary.items()
        if (match := _DIGITS.fullmatch(spelling)) and match["space"]
    }
    found: dict[tuple[int, ...], int] = {}

    def follow(ids: tuple[int, ...], text: str, tokens: Mapping[int, str]) -> None:
        for token, more in tokens.items():
            if (longer := text + more) in prefixes:
                if longer in wanted:
                    found[(*ids, token)] = wanted[longer]
                follow((*ids, token), longer, digits)

    follow((), "", digits | spaced)
    for space in _SPACES:
        if space in vocabulary:
            follow((vocabulary[space],), "", digits)
    return found


def _digit_tokens(vocabulary: Mapping[str, int]) -> Iterator[tuple[int, str]]:
    """Yields the id and the digits of every token that consists of digits."""
    for spelling, token in vocabulary.items():
        match = _DIGITS.fullmatch(spelling)
        if match and not match["space"]:
            yield token, match["digits"]
        byte = _DIGIT_BYTE.fullmatch(spelling)
        if byte and byte["digits"] not in vocabulary:
            yield token, byte["digits"]
