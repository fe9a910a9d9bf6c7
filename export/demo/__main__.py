"""The two demos: `make demo` and `make demo-architectures`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from runtime.commands import Parser, run_command
from runtime.files import replacing
from runtime.shared_options import add_engines

_REFUSED = 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one of the steps; returns its exit status: 0, or 2 with the reason on stderr."""
    return run_command(partial(_run, parser().parse_args(arguments)), _REFUSED)


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


def parser() -> Parser:
    """Returns the parser of the arguments."""
    parser = Parser(
        prog="python -m export.demo",
        description="Shows the experts at work: on real portraits, or on drawn faces.",
        examples=("portraits family.jpg", "draw build/demo", "show build/demo"),
    )
    steps = parser.add_subparsers(dest="step", required=True, metavar="STEP", title="steps")
    _add_portraits(steps)
    _add_drawn(steps)
    return parser


def _add_portraits(steps: argparse._SubParsersAction[Parser]) -> None:
    text = "estimates the ages in two portraits, and in your own photographs"
    step = steps.add_parser(
        "portraits",
        help=text,
        description=f"{text[0].upper()}{text[1:]}; prints a table and draws a picture.",
        examples=("--engines engines", "family.jpg --output family.png"),
    )
    photographs = "your own photographs: JPEG, PNG or WebP files"
    step.add_argument("photographs", type=Path, nargs="*", metavar="PHOTO", help=photographs)
    add_engines(step)
    step.add_argument(
        "--output", type=Path, default=Path("demo.png"), metavar="PNG", help="picture to write"
    )


def _add_drawn(steps: argparse._SubParsersAction[Parser]) -> None:
    draw, show = "draws faces that the demo experts have not seen", "shows estimates of drawn faces"
    step = steps.add_parser(
        "draw", help=draw, description=f"{draw.capitalize()}.", examples=("build/demo",)
    )
    step.add_argument("folder", type=Path, metavar="FOLDER", help="folder to write")
    step = steps.add_parser(
        "show",
        help=show,
        description="Prints the estimates of the drawn faces and draws a contact sheet.",
        examples=("build/demo --output demo-architectures.png",),
    )
    folder = "folder written by draw, with estimates.jsonl and evaluation.json beside the faces"
    step.add_argument("folder", type=Path, metavar="FOLDER", help=folder)
    sheet = Path("demo-architectures.png")
    step.add_argument("--output", type=Path, default=sheet, metavar="PNG", help="picture to write")


if __name__ == "__main__":
    sys.exit(main())
