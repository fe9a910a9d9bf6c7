"""`python -m runtime audit FILE`: verifies an audit log; exit status 1 if it has a break."""

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


def main(arguments: Sequence[str] | None = None) -> int:
    """Parses the arguments and runs the command; returns the exit status."""
    parser = Parser(prog="python -m runtime audit", description=__doc__)
    parser.add_argument("log", type=Path, metavar="FILE", help="written by serve --audit FILE")
    parser.add_argument(
        "--expect",
        nargs="+",
        type=_hash,
        default=[],
        metavar="HASH",
        help="hashes of lines that were kept elsewhere and that the log must have",
    )
    parser.add_argument("--json", action="store_true", help="one JSON object")
    return run_command(partial(_audit, parser.parse_args(arguments)))


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
