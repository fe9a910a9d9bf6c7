"""Options of the command line `python -m runtime`, and what contradicts itself in them."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

from runtime.commands import Parser
from runtime.detectors.names import AUTO, NAMES, parse_detector
from runtime.drawing import drawing_format
from runtime.files import resolved
from runtime.labeling import FACES
from runtime.liveness_model import LIVENESS
from runtime.progress import add_progress_option
from runtime.quality_options import add_no_face_option, add_quality_options
from runtime.results import Box
from runtime.video_command import add_video_options, video_misuse

SERVE = "serve"
"""A command parsed by the service, whose packages are optional."""
AUDIT = "audit"
"""A command parsed by its own module, which needs no engines."""
_DESCRIPTION = "The command line: `python -m runtime predict | label | serve | doctor | audit`."


def parsed_arguments(arguments: Sequence[str]) -> argparse.Namespace:
    """Parses a command and its options; exits with status 2 if they are wrong."""
    parser = _parser()
    parsed = parser.parse_args(arguments)
    if parsed.command == "predict" and (misuse := _misuse(parsed)):
        parser.error(misuse)
    return parsed


def is_one_face(parsed: argparse.Namespace) -> bool:
    """Returns whether no face has to be found: each picture is one, or its box is given."""
    return parsed.whole or parsed.box is not None


def _misuse(parsed: argparse.Namespace) -> str | None:
    if parsed.photo:
        return "--photo is now the default, so leave it out; --whole takes a picture as one face"
    if misuse := video_misuse(parsed):
        return misuse
    if parsed.box and (parsed.whole or len(parsed.photos) != 1):
        return "--box needs exactly one picture and no --whole"
    if parsed.person_box and (len(parsed.photos) != 1 or not (parsed.box or parsed.whole)):
        return "--person-box needs exactly one picture, and --box or --whole"
    if parsed.draw is None:
        return None
    if is_one_face(parsed) or len(parsed.photos) != 1:
        return "--draw needs exactly one photograph, without --whole and --box"
    draw: Path = parsed.draw
    if not os.path.isdir(draw.parent):  # noqa: PTH112 - false for a name that is too long
        return f"--draw {draw}: there is no folder {draw.parent}"
    if resolved(draw) == resolved(Path(parsed.photos[0])):
        return f"--draw {draw} would replace the photograph; give another name"
    try:
        drawing_format(draw)
    except ValueError as error:
        return str(error)
    return None


def _box(text: str) -> Box:
    try:
        x, y, width, height = (float(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected x,y,w,h in pixels, got {text!r}") from None
    return x, y, width, height


def _detector(text: str) -> str:
    try:
        parse_detector(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return text


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="python -m runtime", description=_DESCRIPTION)
    commands = parser.add_subparsers(dest="command", required=True)
    predict = commands.add_parser("predict", help="estimate the age of every face")
    predict.add_argument("photos", nargs="*", metavar="PHOTO", help="JPEG, PNG or WebP")
    add_video_options(predict)
    predict.add_argument("--json", action="store_true", help="one JSON object per line")
    predict.add_argument("--box", type=_box, metavar="X,Y,W,H", help="the only face, in pixels")
    predict.add_argument("--person-box", type=_box, metavar="X,Y,W,H", help="the whole person")
    predict.add_argument("--whole", action="store_true", help="take each picture as one face")
    predict.add_argument("--photo", action="store_true", help=argparse.SUPPRESS)
    policy = "decide by policy.json of the engines folder: pass, refer or fail"
    predict.add_argument("--policy", action="store_true", help=policy)
    predict.add_argument("--draw", type=Path, metavar="PNG", help="save a copy with boxes and ages")
    predict.add_argument("--liveness", type=Path, metavar="FILE", help=LIVENESS)
    add_no_face_option(predict)
    add_quality_options(predict)
    bulk = commands.add_parser("label", help="write the ages in many photographs to a table")
    bulk.add_argument("photos", nargs="+", metavar="PHOTOS", help="folders, files, patterns, lists")
    bulk.add_argument("--output", type=Path, required=True, help="a .csv or .parquet file")
    bulk.add_argument("--overwrite", action="store_true", help="replace an existing table")
    bulk.add_argument(
        "--faces", choices=FACES, default=FACES[0], help="detect faces, or take each picture as one"
    )
    bulk.add_argument("--ray", metavar="ADDRESS", help="address of a Ray cluster, or local")
    for command in (predict, bulk):
        add_progress_option(command)
        command.add_argument("--detector", type=_detector, default=AUTO, help=NAMES)
        command.add_argument("--device", default="auto", help="auto, cpu, cuda or tensorrt")
        command.add_argument("--precision", default="auto", help="auto, fp32, fp16, bf16 or int8")
    commands.add_parser(SERVE, add_help=False, help="start the HTTP service: see serve --help")
    commands.add_parser(AUDIT, add_help=False, help="verify an audit log: see audit --help")
    doctor = commands.add_parser("doctor", help="report what is installed and what works")
    doctor.add_argument("--json", action="store_true", help="one JSON object per line")
    for command in (predict, bulk, doctor):
        command.add_argument(
            "--engines", type=Path, default=Path("engines"), help="the engines folder"
        )
    return parser
