"""Console output of a build: progress on a terminal, plain lines in a log, tables at the end."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import Self

from export.build.detector import BuiltDetector
from export.build.pipeline import BuildReport, BuiltRow
from export.build.plan import Planned
from export.build.sensible import WARNINGS
from export.build.terminal import Console, Status, Table, status_text
from export.config.detector import DETECTOR
from runtime.manifest import Artifact

_LOG_WIDTH = 124
"""Columns of a log, where no terminal gives a width."""
_LOG_SECONDS = 30.0
"""Least time between two lines about the same stage in a log."""


def make_console() -> Console:
    """Returns a console on standard output, wide enough for the tables."""
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = _LOG_WIDTH
    return console


_DESCRIBED = {
    "from_config_json": "taken from the checkpoint's config.json:",
    "overruled": "experts.toml overrules the checkpoint's config.json, which has",
    "weights": "the checkpoint holds several sets of weights (weights_key chooses):",
}
"""By key of an expert's details."""


class BuildDisplay:
    """A spinner on a terminal, a line per stage anywhere else."""

    def __init__(self, console: Console) -> None:
        """Writes to the given console."""
        self._console = console
        self._status: Status | None = None
        self._started = time.monotonic()
        self._stage = ("", "")
        self._shown = 0.0

    def stage(self, expert: str, what: str) -> None:
        """Shows that a stage of an expert begins."""
        self._stage = (expert, what)
        self._show(expert, what)

    def advance(self, share: float) -> None:
        """Shows the completed share of the stage, from 0 to 1; in a log only now and then."""
        due = time.monotonic() - self._shown >= _LOG_SECONDS
        if self._console.is_terminal or due:
            expert, what = self._stage
            self._show(expert, f"{what}, {share:.0%}")

    def _show(self, expert: str, what: str) -> None:
        self._shown = time.monotonic()
        seconds = self._shown - self._started
        if not self._console.is_terminal:
            self._console.print(f"[{seconds:6.1f} s] {expert}: {what}", soft_wrap=True)
            return
        if self._status is None:
            self._status = self._console.status("")
            self._status.start()
        self._status.update(status_text(f"{expert}: {what}"))

    def __enter__(self) -> Self:
        """Returns the display itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Stops the spinner."""
        if self._status is not None:
            self._status.stop()


def built_table(report: BuildReport) -> Table:
    """Returns a table of experts, weights, files with sizes, parity in years and time."""
    table = Table(title="Engines", title_justify="left")
    for heading in ("expert", "weights", "license", "file"):
        table.add_column(heading)
    for heading in ("size", "below FP32", "parity mean", "max (years)", "time"):
        table.add_column(heading, justify="right")
    for row in report.rows:
        for index, artifact in enumerate(row.expert.artifacts):
            first = index == 0
            table.add_row(
                row.name if first else "",
                row.expert.source.kind if first else "",
                row.expert.source.license or "" if first else "",
                PurePosixPath(artifact.files[0].path).name,
                shown_size(sum(file.size_bytes for file in artifact.files)),
                f"{artifact.reduced_share:.0%}",
                *_shown_parity(artifact),
                _shown_time(row) if first else "",
            )
    if report.detector is not None:
        source, files = report.detector.record.source, report.detector.record.files
        name, size = PurePosixPath(files[0].path).name, sum(file.size_bytes for file in files)
        cells = (DETECTOR, source.kind, source.license or "", name, shown_size(size), "", "", "")
        table.add_row(*cells, _shown_time(report.detector))
    return table


def described_lines(rows: Sequence[BuiltRow]) -> list[str]:
    """Returns what was taken from checkpoints, and what experts.toml overruled."""
    lines = []
    for row in rows:
        for key, what in _DESCRIBED.items():
            values = row.expert.details.get(key)
            if isinstance(values, dict) and values:
                shown = ", ".join(f"{name} = {_shown_value(v)}" for name, v in values.items())
                lines.append(f"{row.name}: {what} {shown}.")
    return lines


def warning_lines(rows: Sequence[BuiltRow]) -> list[str]:
    """Returns what was noticed about experts when they were built."""
    return [
        f"warning: {row.name}: {text}"
        for row in rows
        for text in row.expert.details.get(WARNINGS, ())
    ]


def plan_table(planned: Sequence[Planned]) -> Table:
    """Returns a table of files, licenses, sizes, and the planned action with its reason."""
    table = Table(title="Plan: nothing was built", title_justify="left")
    for heading in ("expert", "license", "file", "size", "action"):
        table.add_column(heading, justify="right" if heading == "size" else "left")
    for row in planned:
        about = "≈ " if row.reason else ""
        size = "?" if row.size_bytes is None else about + shown_size(row.size_bytes)
        what = f"build ({row.reason})" if row.reason else "keep (up to date)"
        table.add_row(row.expert, row.license, row.path, size, what)
    return table


def fetching_lines(planned: Sequence[Planned]) -> list[str]:
    """Returns what a build would fetch first, a line per expert."""
    located = {row.expert: row.to_fetch for row in planned if row.to_fetch}
    return [f"{expert}: to be fetched: {location}" for expert, location in located.items()]


def shown_size(size_bytes: int) -> str:
    """Formats a size for display."""
    return f"{size_bytes / 1e6:,.1f} MB"


def _shown_time(built: BuiltRow | BuiltDetector) -> str:
    return "up to date" if built.reused else f"{built.seconds:.1f} s"


def _shown_parity(artifact: Artifact) -> tuple[str, str]:
    if artifact.parity is None:
        return "not run", "-"
    return f"{artifact.parity.mean_years:.1e}", f"{artifact.parity.max_years:.1e}"


def _shown_value(value: object) -> str:
    return str(list(value)) if isinstance(value, tuple) else str(value)
