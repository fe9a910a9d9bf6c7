"""Which names of TensorRT a source file uses, read from its syntax tree.

TensorRT's objects have no types in our code, but they have names: a variable called `engine`, an
attribute `_engine` and an item of `_engines` are all taken to be an `ICudaEngine`.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from pathlib import Path

MODULES = ("library", "tensorrt", "trt")
OWNERS = {
    "batches": "IOptimizationProfile",
    "builder": "Builder",
    "cache": "ITimingCache",
    "config": "IBuilderConfig",
    "context": "IExecutionContext",
    "engine": "ICudaEngine",
    "layer": "ILayer",
    "network": "INetworkDefinition",
    "parser": "OnnxParser",
    "tensor": "ITensor",
}
"""Class of what is called so, with or without a leading underscore."""
PARSER_ERROR = {"error": "ParserError"}


def used_names(path: Path, owners: Mapping[str, str] = OWNERS) -> set[str]:
    """Dotted names below the module `tensorrt`, as `DataType.HALF` or `Builder.create_network`."""
    return set(_names(ast.parse(path.read_text()), owners))


def _names(tree: ast.AST, owners: Mapping[str, str]) -> Iterator[str]:
    for node in ast.walk(tree):
        if not isinstance(node, ast.Attribute):
            continue
        if owner := owners.get(_called(node.value).lstrip("_")):
            yield f"{owner}.{node.attr}"
        elif chain := _below_module(node):
            yield ".".join(chain)


def _called(node: ast.AST) -> str:
    """What an expression is called: the last name of it; an item of `contexts` is a `context`."""
    if isinstance(node, ast.Subscript):
        return _called(node.value).removesuffix("s")
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.id if isinstance(node, ast.Name) else ""


def _below_module(node: ast.AST) -> list[str]:
    """Names from the module down to an attribute; none where it does not lead to the module."""
    if not isinstance(node, ast.Attribute):
        return []
    if _called(node.value) in MODULES:
        return [node.attr]
    above = _below_module(node.value)
    return [*above, node.attr] if above else []
