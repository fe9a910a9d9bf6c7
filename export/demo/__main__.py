"""The two demos: `make demo` and `make demo-architectures`.

python -m export.demo portraits [PHOTO ...]   estimates the ages in two portraits and in your own
                                              photographs; prints a table, draws demo.png
python -m export.demo draw FOLDER             draws faces unknown to the demo experts
python -m export.demo show FOLDER             prints their estimates, draws a contact sheet
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from runtime.commands import Parser, run_command
from runtime.files import replacing

_REFUSED = 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one of the steps; returns its exit status: 0, or 2 with the reason on stderr."""
    return run_command(partial(_run, _parser().parse_args(arguments)), _REFUSED)


def _run(parsed: argparse.Namespace) -> int:
    if parsed.step == "portraits":
        _portraits(parsed.photographs, parsed.engines, parsed.output)
    else:
        from export.demo import drawn

        if parsed.step == "draw":
            drawn.draw(parsed.folder)
        else:
            drawn.show(parsed.folder, parsed.output)
    return 0


def _portraits(photographs: Sequence[Path], engines: Path, output: Path) -> None:
    from export.build.console import make_console
    from export.demo.portrait_sheet import portrait_sheet
    from export.demo.portraits import portrait_cards, problems, summary
    from export.demo.table import estimates_table
    from runtime import AgeMoE

    with AgeMoE(engines) as moe:
        cards = portrait_cards(moe, photographs)
    console, result = make_console(), summary(cards)
    console.print(estimates_table([entry for card in cards for entry in card.entries]))
    for problem in problems(cards):
        console.print(problem, soft_wrap=True)
    console.print(result)
    with replacing(output) as temporary:
        portrait_sheet(cards, result).save(temporary, "PNG", optimize=True)
    console.print(f"Wrote the picture: {output}")
    console.print("Your own photographs: make demo PHOTO=path, or in the browser:")
    console.print(f"  {_python()} -m runtime serve --engines {engines}    # http://127.0.0.1:8000")


def _python() -> str:
    """Returns the interpreter, as briefly as it can be typed here."""
    path = Path(sys.executable)
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="python -m export.demo",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    steps = parser.add_subparsers(dest="step", required=True)
    portraits = steps.add_parser(
        "portraits", help="ages in real portraits, and in your photographs"
    )
    portraits.add_argument("photographs", type=Path, nargs="*", metavar="PHOTO", help="your own")
    portraits.add_argument("--engines", type=Path, default=Path("engines"), help="default: engines")
    portraits.add_argument("--output", type=Path, default=Path("demo.png"), help="demo.png")
    for name, what in (("draw", "draw faces"), ("show", "show their estimates")):
        step = steps.add_parser(name, help=what)
        step.add_argument("folder", type=Path)
        if name == "show":
            step.add_argument("--output", type=Path, default=Path("demo-architectures.png"))
    return parser


if __name__ == "__main__":
    sys.exit(main())
