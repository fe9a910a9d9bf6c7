"""The notebook runs from top to bottom, without a warning, and is stored without outputs."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

from tests.docs.material import write_material
from tests.docs.pages import DOCS, ROOT

NOTEBOOK: Any = nbformat.read(  # type: ignore[no-untyped-call]
    DOCS / "tutorials" / "first_look.ipynb", as_version=4
)
STRICT = f"""import sys, warnings
warnings.simplefilter("error")
sys.path.insert(0, {str(ROOT)!r})
engines, photo, detector = "engines", "photo.jpg", "haar"
"""


def test_no_output_is_stored() -> None:
    nbformat.validate(NOTEBOOK)
    for cell in NOTEBOOK.cells:
        assert not cell.get("outputs")
        assert not cell.get("execution_count")
        assert "attachments" not in cell


@pytest.mark.haar
def test_it_runs(empty_folder: Path) -> None:
    write_material(empty_folder)
    notebook = copy.deepcopy(NOTEBOOK)
    (parameters,) = (c for c in notebook.cells if "parameters" in c.metadata.get("tags", ()))
    parameters.source = STRICT
    NotebookClient(notebook, timeout=120, kernel_name="python3").execute()
    shown = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    kinds = {kind for output in shown for kind in output.get("data", ())}
    assert "image/png" in kinds
    text = "".join(output.get("text", "") for output in shown)
    assert "a third of the size" in text
    assert "warning" not in text.lower()
