"""`agemoe audit FILE`: verifies an audit log; exit status 1 if it has a break."""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from runtime.audit import report_text, verify
from runtime.commands import Parser, run_command
from runtime.json_reader import shown
from runtime.program import command_line

_EXAMPLE_HASH = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"


def main(arguments: Sequence[str] | None = None) -> int:
    """Parses the arguments and runs the command; returns the exit status."""
    return run_command(partial(_audit, parser().parse_args(arguments)))


def parser() -> Parser:
    """Returns the parser of the arguments."""
    parser = Parser(
        prog=command_line("audit"),
        description="Verifies the hash chain of an audit log. The exit status is 1 if lines were "
        "changed, removed, inserted or reordered.",
        examples=("decisions.log", f"decisions.log --json --expect {_EXAMPLE_HASH}"),
    )
    parser.add_argument(
        "log", type=Path, metavar="FILE", help="audit log written by serve --audit FILE"
    )
    parser.add_argument(
        "--expect",
        nargs="+",
        type=_hash,
        default=[],
        metavar="HASH",
        help="SHA-256 hashes of lines, kept elsewhere, that the log must contain",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    return parser


def _audit(options: argparse.Namespace) -> int:
    report = verify(options.log, options.expect)
    lines = (
        [json.dumps(report.to_dict())]
        if options.json
        else report_text(str(options.log), report, compared=bool(options.expect))
    )
    sys.stdout.writelines(f"{line}\n" for line in lines)
    return int(report.break_count > 0)


def _hash(text: str) -> str:
    if not re.fullmatch("[0-9a-fA-F]{64}", text):
        raise argparse.ArgumentTypeError(f"expected 64 hex digits, got {shown(text)}")
    return text.lower()
