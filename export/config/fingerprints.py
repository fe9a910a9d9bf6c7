"""Fingerprints of values, and the versions of the packages that shape what is built."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any

TOOLS = ("numpy", "onnx", "onnxruntime", "onnxscript", "openvino", "timm", "tokenizers", "torch")
"""Packages whose versions may change what is built."""


def fingerprint(value: object) -> str:
    """Returns 16 hex digits for any value that can be written as JSON."""
    return long_fingerprint(value)[:16]


def long_fingerprint(value: object) -> str:
    """Returns 64 hex digits for any value that can be written as JSON."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def without_defaults(value: Any) -> Any:  # noqa: ANN401 - a dataclass, or a value in one
    """Returns a dataclass as a dict of the fields that differ from their defaults.

    Another field with a default thus changes no fingerprint of what does not use it.
    """
    if is_dataclass(value):
        return {
            field.name: without_defaults(getattr(value, field.name))
            for field in fields(value)
            if getattr(value, field.name) != _default(field)
        }
    if isinstance(value, Mapping):
        return {key: without_defaults(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [without_defaults(inner) for inner in value]
    return value


def _default(field: Field[Any]) -> Any:  # noqa: ANN401 - of any type
    return field.default if field.default_factory is MISSING else field.default_factory()


@cache
def tool_versions() -> Mapping[str, str]:
    """Returns the installed versions of `TOOLS`, by package; absent ones are left out."""
    found = {}
    for package in TOOLS:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
