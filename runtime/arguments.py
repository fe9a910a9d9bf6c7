"""Options of `agemoe predict`, `label` and `doctor`, and what contradicts itself in them."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

from runtime.commands import Parser
from runtime.drawing import drawing_format
from runtime.files import resolved
from runtime.labeling import FACES
from runtime.liveness_model import LIVENESS
from runtime.program import command_line
from runtime.progress import add_progress_option
from runtime.quality_options import add_no_face_option, add_quality_options
from runtime.results import Box
from runtime.shared_options import add_backend, add_detector, add_engines
from runtime.video_command import add_video_options, video_misuse

JSON_LINES = "print one JSON object per line"


def parsed_arguments(command: str, arguments: Sequence[str]) -> argparse.Namespace:
    """Parses the options of a command; exits with status 2 if they are wrong."""
    parser = PARSERS[command]()
    parsed = parser.parse_args(arguments)
    if command == "predict" and (misuse := _misuse(parsed)):
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


def predict_parser() -> Parser:
    """Returns the parser of `agemoe predict`."""
    parser = Parser(
        prog=command_line("predict"),
        description="Estimates the age of every face in photographs, or of one person in a video.",
        examples=(
            "family.jpg",
            "--json *.jpg",
            "family.jpg --draw ages.png",
            "--whole face.png",
            "portrait.jpg --box 120,80,200,220",
            "--video person.mp4 --policy",
        ),
    )
    add = parser.add_argument
    add("photos", nargs="*", metavar="PHOTO", help="photographs: JPEG, PNG or WebP files")
    faces = parser.add_argument_group("faces")
    whole = "treat each picture as one cropped face instead of detecting faces"
    box = "the only face in the photograph: left, top, width, height in pixels"
    person_box = "the whole person, in pixels, for experts that also see the body"
    faces.add_argument("--whole", action="store_true", help=whole)
    faces.add_argument("--box", type=_box, metavar="X,Y,W,H", help=box)
    faces.add_argument("--person-box", type=_box, metavar="X,Y,W,H", help=person_box)
    faces.add_argument("--photo", action="store_true", help=argparse.SUPPRESS)
    add_detector(faces)
    add_no_face_option(faces)
    add_video_options(parser)
    checks = parser.add_argument_group("decisions")
    policy = "also print a decision (pass, refer or fail) by policy.json in the engines folder"
    checks.add_argument("--policy", action="store_true", help=policy)
    checks.add_argument("--liveness", type=Path, metavar="FILE", help=LIVENESS)
    output = parser.add_argument_group("output")
    draw = "save a copy of the photograph with boxes and ages; .jpg, .png or .webp sets the format"
    output.add_argument("--json", action="store_true", help=JSON_LINES)
    output.add_argument("--draw", type=Path, metavar="FILE", help=draw)
    add_progress_option(output)
    _add_experts(parser)
    add_quality_options(parser)
    return parser


def label_parser() -> Parser:
    """Returns the parser of `agemoe label`."""
    parser = Parser(
        prog=command_line("label"),
        description="Writes the ages in many photographs to a table. An interrupted job resumes "
        "when the same command is run again.",
        examples=(
            "photos/ --output ages.csv",
            "'photos/**/*.jpg' --output ages.parquet --overwrite",
            "crops/ --faces whole --output ages.csv",
        ),
    )
    photos = "folders, photographs, quoted patterns, or lists (.csv, .parquet) with a column path"
    faces = "how faces are found: detected in each photograph, or each picture is one cropped face"
    ray = "run on the Ray cluster at this address, auto or HOST:6379; or on this machine: local"
    parser.add_argument("photos", nargs="+", metavar="PHOTOS", help=photos)
    parser.add_argument(
        "--output",
        type=Path,
        required=True,
        metavar="FILE",
        help="table to write: .csv or .parquet",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace an existing table")
    parser.add_argument("--faces", choices=FACES, default=FACES[0], help=faces)
    add_detector(parser)
    parser.add_argument("--ray", metavar="ADDRESS", help=ray)
    add_progress_option(parser)
    _add_experts(parser)
    return parser


def doctor_parser() -> Parser:
    """Returns the parser of `agemoe doctor`."""
    parser = Parser(
        prog=command_line("doctor"),
        description="Reports what is installed, which backends work, and whether the engines are "
        "usable. Findings that need attention are marked with an exclamation mark; the exit status "
        "is then 1.",
        examples=("--engines engines", "--json"),
    )
    add_engines(parser)
    parser.add_argument("--json", action="store_true", help=JSON_LINES)
    return parser


def _add_experts(parser: Parser) -> None:
    experts = parser.add_argument_group("experts")
    add_engines(experts)
    add_backend(experts)


PARSERS = {"predict": predict_parser, "label": label_parser, "doctor": doctor_parser}
"""By command."""
