"""The tutorials: their Python runs, and their commands exist with the options that they use."""

from __future__ import annotations

import contextlib
import io
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.material import write_material
from tests.docs.pages import ROOT, blocks, page

PAGES = ("integrator", "researcher", "operator")
SCRIPTS = {name: ROOT / "export" / f"{name}.py" for name in ("calibrate", "evaluate", "distill")}
SCRIPTS["build"] = ROOT / "export" / "build_engines.py"


@pytest.mark.haar
@pytest.mark.filterwarnings("ignore::runtime.DetectorFallbackWarning")
@pytest.mark.parametrize("name", PAGES)
def test_the_python_runs(name: str, empty_folder: Path) -> None:
    write_material(empty_folder)
    for block in blocks(page(f"tutorials/{name}.md"), "python"):
        with contextlib.redirect_stdout(io.StringIO()) as out:
            exec(compile(block, name, "exec"), {"__name__": name})  # noqa: S102
        assert out.getvalue() or "print(" not in block or "DeadlineError" in block
