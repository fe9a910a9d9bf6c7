"""Names of TensorRT that a source file uses, from its syntax tree.

TensorRT's objects are untyped in the code but consistently named: a variable `engine`, an attribute
`_engine` and an item of `_engines` are all treated as an `ICudaEngine`.
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
"""By variable name, without leading underscore: the class of the object."""
PARSER_ERROR = {"error": "ParserError"}


def used_names(path: Path, owners: Mapping[str, str] = OWNERS) -> set[str]:
    """Returns dotted names below the module, as `DataType.HALF` or `Builder.create_network`."""
    return set(_names(ast.parse(path.read_text()), owners))


def _names(tree: ast.AST, owners: Mapping[str, str]) -> Iterator[str]:
    for node in ast.walk(tree):
        if not isinstance(node, ast.Attribute):
            continue
        if owner := owners.get(_last_name(node.value).lstrip("_")):
            yield f"{owner}.{node.attr}"
        elif chain := _below_module(node):
            yield ".".join(chain)


def _last_name(node: ast.AST) -> str:
    """Returns the last name of an expression; an item of `contexts` is a `context`."""
    if isinstance(node, ast.Subscript):
        return _last_name(node.value).removesuffix("s")
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.id if isinstance(node, ast.Name) else ""


def _below_module(node: ast.AST) -> list[str]:
    """Returns the names from the module down to an attribute; empty if it is not below it."""
    if not isinstance(node, ast.Attribute):
        return []
    if _last_name(node.value) in MODULES:
        return [node.attr]
    above = _below_module(node.value)
    return [*above, node.attr] if above else []
