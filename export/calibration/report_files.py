"""The files of a report: `report.json`, `report.md` and its plots."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from export.calibration.markdown import markdown
from export.calibration.plots import plots
from export.calibration.report import Report
from runtime.files import write_json, write_whole
from runtime.fusion import FusionTables

REPORT_JSON, REPORT_PAGE = "report.json", "report.md"


def write_report(
    folder: Path,
    report: Report,
    tables: FusionTables,
    title: str,
    preface: Sequence[str],
    appendix: str = "",
) -> None:
    """Writes plots, page and figures, each of them atomically; creates the folder.

    The preface, paragraphs on the origin of the figures, and the appendix go into the page.
    """
    folder.mkdir(parents=True, exist_ok=True)
    images = plots(tables, report)
    for name, data in images.items():
        write_whole(folder / name, data)
    page = markdown(report, title, preface, list(images)) + appendix
    write_whole(folder / REPORT_PAGE, page.encode())
    write_json(folder / REPORT_JSON, report)
