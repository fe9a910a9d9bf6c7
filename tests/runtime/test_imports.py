"""Imports between the packages, and the modules that `import runtime` loads."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ALLOWED = {"runtime", "numpy", "PIL", "cv2", "onnxruntime", "tensorrt", "tensorrt_rtx", "cuda"}
ALLOWED |= {"pycuda", "huggingface_hub", "pandas", "pyarrow", "shtab"}
LAZY = ALLOWED - {"runtime", "numpy", "PIL"}
OPTIONAL = {"serving"}
"""Folders of runtime for optional extras, which the rest of it does not import."""


def modules(package: str) -> dict[str, Path]:
    """Returns the files of a package by the module's dotted name."""
    return {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
        for path in sorted((ROOT / package).rglob("*.py"))
    }


RUNTIME, EXPORT = modules("runtime"), modules("export")
CORE = {name: path for name, path in RUNTIME.items() if not OPTIONAL & set(name.split("."))}


def imports(path: Path, *, lazy: bool = True) -> Iterator[str]:
    """Yields the dotted names a file imports; without `lazy`, only those at import time."""
    pending: list[ast.AST] = [ast.parse(path.read_bytes())]
    while pending:
        node = pending.pop()
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            assert node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        if isinstance(node, ast.FunctionDef) and not lazy:
            continue
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING" and not lazy:
            continue
        pending.extend(ast.iter_child_nodes(node))


@pytest.mark.parametrize("name", CORE)
def test_runtime_imports_only_allowed_packages(name: str) -> None:
    found = {imported.partition(".")[0] for imported in imports(CORE[name])}
    assert found - sys.stdlib_module_names - ALLOWED == set()
    at_import = {imported.partition(".")[0] for imported in imports(CORE[name], lazy=False)}
    assert at_import & LAZY == set()


@pytest.mark.parametrize("name", RUNTIME)
def test_runtime_imports_neither_export_nor_serving_from_outside(name: str) -> None:
    for imported in imports(RUNTIME[name]):
        assert imported.partition(".")[0] not in ("export", "torch", "timm", "transformers")
        if name in CORE and name != "runtime.__main__":
            assert not imported.startswith("runtime.serving")


def test_modules_form_no_cycle() -> None:
    known = RUNTIME | EXPORT
    graph = {
        name: {_module(imported, known) for imported in imports(path, lazy=False)} - {"", name}
        for name, path in known.items()
    }
    list(TopologicalSorter(graph).static_order())  # raises CycleError, which names the cycle


@pytest.mark.parametrize("level", ["modules", "folders"])
def test_export_forms_no_cycle_even_with_lazy_imports(level: str) -> None:
    graph: dict[str, set[str]] = {}
    for name, path in EXPORT.items():
        own = name if level == "modules" else _folder(name)
        for imported in imports(path):
            target = _module(imported, EXPORT)
            if target not in ("", "export"):
                graph.setdefault(own, set()).add(target if level == "modules" else _folder(target))
    for name, targets in graph.items():
        targets.discard(name)
    list(TopologicalSorter(graph).static_order())


def _folder(module: str) -> str:
    """Returns a module's unit: its folder, or the module itself at the top of the package."""
    path = EXPORT[module]
    return module if path.parent == ROOT / "export" else str(path.parent.relative_to(ROOT))


def _module(imported: str, known: dict[str, Path]) -> str:
    """Returns the project's module that defines an imported name, or an empty string."""
    parts = imported.split(".")
    candidates = (".".join(parts[:end]) for end in range(len(parts), 0, -1))
    return next((name for name in candidates if name in known), "")


def loaded_after(statement: str, tmp_path: Path) -> set[str]:
    """Returns the top-level modules loaded in a fresh process after a statement."""
    script = f"{statement}\nimport json, sys\nprint(json.dumps(sorted(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script],
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT)},
        capture_output=True,
        check=True,
        text=True,
        timeout=60,
    )
    return {name.partition(".")[0] for name in json.loads(done.stdout.splitlines()[-1])}


@pytest.mark.parametrize(
    "statement", ["import runtime", "import runtime.__main__", "import runtime.manifest_file"]
)
def test_importing_loads_nothing_heavy(statement: str, tmp_path: Path) -> None:
    loaded = loaded_after(statement, tmp_path)
    assert "runtime" in loaded
    forbidden = {"torch", "timm", "transformers", "onnx", "export", "scipy", "matplotlib"}
    assert loaded & (forbidden | LAZY) == set()


def test_the_library_loads_the_processes_for_decoding_on_demand(tmp_path: Path) -> None:
    assert "subprocess" not in loaded_after("import runtime", tmp_path)
    assert "subprocess" in loaded_after("import runtime.decoding", tmp_path)


def test_a_prediction_needs_no_framework(tmp_path: Path) -> None:
    from tests.runtime.tiny_engines import Tiny, write_engines

    write_engines(tmp_path / "engines", {"a": Tiny()})
    statement = (
        "import numpy as np; from runtime import AgeMoE\n"
        "with AgeMoE() as moe: moe.predict(np.zeros((9, 9, 3), np.uint8))"
    )
    loaded = loaded_after(statement, tmp_path)
    assert "onnxruntime" in loaded
    assert loaded & {"torch", "timm", "transformers", "onnx", "export"} == set()
