"""`agemoe evaluate --statement`: gathers what a statement needs and writes the page."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from datetime import date
from pathlib import Path

from export.errors import OptionsError


def add_statement(parser: argparse.ArgumentParser) -> None:
    """Adds the options of a statement."""
    section = parser.add_argument_group("statement")
    page = (
        "write a Markdown page for buyers and regulators to this file, in place of a report: the "
        "accuracy of the engines with their policy.json, if any, and what was not tested"
    )
    section.add_argument("--statement", type=Path, metavar="FILE", help=page)
    day = "date shown on the page (default: none, so that equal figures give an equal page)"
    section.add_argument("--date", metavar="YYYY-MM-DD", help=day)


def check_statement(arguments: argparse.Namespace) -> None:
    """Validates the options of a statement.

    Raises:
        OptionsError: options contradict each other, or the date is none.
    """
    if problems := list(_problems(arguments)):
        raise OptionsError(problems)


def _problems(arguments: argparse.Namespace) -> Iterator[str]:
    if arguments.statement is None:
        if arguments.date is not None:
            yield "--date belongs to --statement"
        return
    if arguments.policy:
        yield "--policy fits a policy: write the --statement afterwards, in a run of its own"
    for name in ("compare", "output", "correlation", "json"):
        if getattr(arguments, name) not in (None, False):
            yield f"--{name} belongs to a report: leave it out with --statement"
    if arguments.date is not None and not _is_date(arguments.date):
        yield f"--date {arguments.date!r} must be a day, YYYY-MM-DD"
    for threshold in arguments.thresholds:
        if arguments.challenge and max(arguments.challenge) < threshold:
            yield f"no --challenge reaches the threshold {threshold:g}"


def _is_date(text: str) -> bool:
    try:
        return date.fromisoformat(text).isoformat() == text
    except ValueError:
        return False
