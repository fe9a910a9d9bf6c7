"""The public names, their documentation and the error tree."""

from __future__ import annotations

import ast
import builtins
import inspect
from collections.abc import Iterator
from pathlib import Path

import pytest

import runtime
from runtime import errors
from runtime.backends.gpu.cuda import Cuda

FILES = sorted((Path(__file__).parents[2] / "runtime").rglob("*.py"))


def test_all_is_sorted_complete_and_real() -> None:
    assert runtime.__all__ == sorted(runtime.__all__)
    assert len(set(runtime.__all__)) == len(runtime.__all__)
    public = {
        name
        for name, value in vars(runtime).items()
        if not name.startswith("_") and not inspect.ismodule(value)
    }
    assert public == set(runtime.__all__)


def error_classes() -> dict[str, type]:
    return {
        name: value
        for name, value in vars(errors).items()
        if inspect.isclass(value)
        and issubclass(value, errors.AgeMoEError)
        and not name.startswith("_")
    }


def test_every_error_is_public_and_in_the_tree() -> None:
    assert set(error_classes()) <= set(runtime.__all__)
    assert errors.__doc__ is not None
    for name in error_classes():
        assert name in errors.__doc__


@pytest.mark.parametrize(
    ("error", "builtin"),
    [
        (errors.InputError, ValueError),
        (errors.ManifestError, ValueError),
        (errors.ContractError, ValueError),
        (errors.EngineFileError, OSError),
        (errors.BackendError, RuntimeError),
        (errors.PredictionError, RuntimeError),
        (errors.DeadlineError, TimeoutError),
        (errors.ClosedError, RuntimeError),
        (errors.NotCalibratedError, RuntimeError),
    ],
)
def test_errors_derive_from_the_matching_builtin(error: type, builtin: type) -> None:
    assert issubclass(error, builtin)
    assert getattr(builtins, builtin.__name__) is builtin


def undocumented(path: Path) -> Iterator[str]:
    tree = ast.parse(path.read_bytes())
    if ast.get_docstring(tree) is None:
        yield path.name
    for node in ast.walk(tree):
        if not isinstance(node, ast.Module | ast.ClassDef):
            continue
        for child in node.body:
            if not isinstance(child, ast.FunctionDef | ast.ClassDef):
                continue
            private = child.name.startswith("_") and not child.name.startswith("__")
            inside_private = isinstance(node, ast.ClassDef) and node.name.startswith("_")
            overload = any("overload" in ast.unparse(d) for d in child.decorator_list)
            bases = map(ast.unparse, node.bases) if isinstance(node, ast.ClassDef) else ()
            inherited = "Cuda" in bases and bool(getattr(vars(Cuda).get(child.name), "__doc__", ""))
            exempt = private or inside_private or overload or inherited
            if not exempt and ast.get_docstring(child) is None:
                yield f"{path.name}: {child.name}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_public_name_is_documented(path: Path) -> None:
    assert list(undocumented(path)) == []


@pytest.mark.parametrize("name", runtime.__all__)
def test_public_methods_are_documented(name: str) -> None:
    for member, value in vars(getattr(runtime, name)).items():
        if inspect.isfunction(value) and not member.startswith("_"):
            assert inspect.getdoc(value), f"{name}.{member}"
