"""What tests of audit logs share: records, and what a file holds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from runtime.audit import verify


def decided(number: int = 0, outcome: str = "pass") -> dict[str, Any]:
    return {"outcome": outcome, "policy": f"{number:016x}", "reasons": ["challenge_met"]}


def records_in(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_bytes().splitlines()]


def assert_sound(path: Path, lines: int) -> None:
    report = verify(path)
    assert (report.breaks, report.lines) == ([], lines)
