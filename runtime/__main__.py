"""The command line: `python -m runtime predict PHOTO…` and `python -m runtime doctor`."""

from __future__ import annotations

import argparse
import json
import sys
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TextIO

from runtime.agemoe import AgeMoE
from runtime.doctor import examine
from runtime.errors import AgeMoEError
from runtime.results import AgeEstimate, Box, Face

_TOGETHER = 32
"""Photographs that are read and predicted at a time."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command; returns the exit status, which is 1 if anything went wrong."""
    parser = _parser()
    parsed = parser.parse_args(arguments)
    if parsed.command == "doctor":
        return _doctor(parsed.engines)
    if (parsed.box or parsed.person_box) and len(parsed.photos) != 1:
        parser.error("--box and --person-box belong to one photograph")
    with warnings.catch_warnings():
        warnings.showwarning = _show_warning
        try:
            return _predict(parsed)
        except AgeMoEError as error:
            print(f"error: {error}", file=sys.stderr)
            return 1


def _predict(parsed: argparse.Namespace) -> int:
    failed = False
    with AgeMoE(parsed.engines, device=parsed.device, precision=parsed.precision) as moe:
        for path, result in _results(moe, parsed):
            failed |= not isinstance(result, AgeEstimate)
            if parsed.json:
                print(_json_line(path, result), flush=True)
            elif isinstance(result, AgeEstimate):
                print(_shown(path, result), flush=True)
            else:
                print(f"{path}\n  error: {result}", file=sys.stderr)
    return int(failed)


def _results(
    moe: AgeMoE, parsed: argparse.Namespace
) -> Iterator[tuple[str, AgeEstimate | AgeMoEError]]:
    photos: list[str] = parsed.photos
    for start in range(0, len(photos), _TOGETHER):
        paths = photos[start : start + _TOGETHER]
        faces = [Face(path, parsed.box, parsed.person_box) for path in paths]
        yield from zip(paths, moe.predict(faces), strict=True)


def _json_line(path: str, result: AgeEstimate | AgeMoEError) -> str:
    said = result.to_dict() if isinstance(result, AgeEstimate) else {"error": str(result)}
    return json.dumps({"path": path, **said}, ensure_ascii=False)


def _shown(path: str, estimate: AgeEstimate) -> str:
    lines = [path, f"  {estimate.age_years:5.1f} years{_shown_interval(estimate)}"]
    width = max(len(name) for name in (*estimate.experts, *estimate.missing))
    lines += [
        f"    {name:<{width}}  says {expert.age_years:5.1f}, corrected "
        f"{expert.corrected_years:5.1f}, weight {expert.weight:.2f}"
        for name, expert in estimate.experts.items()
    ]
    lines += [f"    {name:<{width}}  missing: {why}" for name, why in estimate.missing.items()]
    return "\n".join(lines)


def _shown_interval(estimate: AgeEstimate) -> str:
    if estimate.residuals is None:
        return "   (not calibrated: no interval)"
    return f"   (90 % within {estimate.low_years:.1f} … {estimate.high_years:.1f})"


def _doctor(engines: Path) -> int:
    findings = list(examine(engines))
    width = max(len(finding.topic) for finding in findings)
    for finding in findings:
        mark = " " if finding.fine else "!"
        text = finding.text.replace("\n", f"\n{'':{width + 4}}")
        print(f"{mark} {finding.topic:<{width}}  {text}")
    return int(not all(finding.fine for finding in findings))


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """Takes the place of `warnings.showwarning`: the text is for a user, the place is not."""
    del category, filename, lineno, file, line
    print(f"warning: {message}", file=sys.stderr)


def _box(text: str) -> Box:
    try:
        x, y, width, height = (float(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected x,y,w,h in pixels, got {text!r}") from None
    return x, y, width, height


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m runtime", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    predict = commands.add_parser("predict", help="estimate ages")
    predict.add_argument("photos", nargs="+", metavar="PHOTO", help="JPEG, PNG or WebP")
    predict.add_argument("--json", action="store_true", help="one JSON object per line")
    predict.add_argument("--box", type=_box, metavar="X,Y,W,H", help="the face, in pixels")
    predict.add_argument("--person-box", type=_box, metavar="X,Y,W,H", help="the whole person")
    predict.add_argument("--device", default="auto", help="auto or cpu")
    predict.add_argument("--precision", default="auto", help="auto, fp32, fp16 or int8")
    doctor = commands.add_parser("doctor", help="say what is installed and what works")
    for command in (predict, doctor):
        command.add_argument(
            "--engines", type=Path, default=Path("engines"), help="the engines folder"
        )
    return parser


if __name__ == "__main__":
    sys.exit(main())
