"""Names that a user gives, of devices, precisions, experts and the like, and errors of wrong ones.

A name is accepted exactly as it is documented, in no other case and by no synonym, so that a
configuration means the same everywhere. The error of another one suggests the name that was meant.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence

_MOST = 40
"""Characters of a name that are compared."""
_SYNONYMS: Mapping[str, tuple[str, ...]] = {
    "auto": ("automatic", "best", "default"),
    "bf16": ("bfloat16", "brainfloat16"),
    "cpu": ("processor", "onnxcpu"),
    "cuda": ("gpu", "nvidia", "cudagpu"),
    "fp16": ("half", "float16", "f16", "16"),
    "fp32": ("single", "full", "float", "float32", "f32", "32"),
    "int8": ("i8", "uint8", "8", "quantized"),
    "tensorrt": ("trt", "nvidiatensorrt"),
}
"""By name: what other tools call it, in lower-case letters and digits. For suggestions only."""
_MEANT = {synonym: name for name, synonyms in _SYNONYMS.items() for synonym in synonyms}


def nearest(given: object, known: Iterable[str]) -> str | None:
    """Returns the known name that was probably meant; None if none is near."""
    plain = _plain(str(given))
    names = {_plain(name): name for name in known}
    meant = _MEANT.get(plain, plain)
    if meant in names:
        return names[meant]
    close = difflib.get_close_matches(plain, names, 1)
    return names[close[0]] if close else None


def suggestion(given: object, known: Iterable[str], lead: str = " Did") -> str:
    """Returns the question whether the nearest name was meant; empty if no name is near."""
    name = nearest(given, known)
    return "" if name is None else f"{lead} you mean {name!r}?"


def one_expected(option: str, given: object, known: Sequence[str]) -> str:
    """Returns the error of a name that is none of a few."""
    return f"{option}={given!r} was requested; there are {listed(known)}.{suggestion(given, known)}"


def listed(names: Sequence[str]) -> str:
    """Returns names as a list in a sentence."""
    *most, last = names
    return f"{', '.join(most)} and {last}" if most else last


def _plain(name: str) -> str:
    return "".join(filter(str.isalnum, name[:_MOST].casefold()))
