"""Fingerprints of values, and the versions of the packages that shape what is built."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from functools import cache
from importlib.metadata import PackageNotFoundError, version

TOOLS = ("numpy", "onnx", "onnxruntime", "onnxscript", "openvino", "timm", "tokenizers", "torch")
"""Packages whose versions may change what is built."""


def fingerprint(value: object) -> str:
    """Returns 16 hex digits for any value that can be written as JSON."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


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
