"""The command line: `python -m runtime predict | label | serve | doctor`."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Self, TextIO

from runtime.agemoe import AgeMoE
from runtime.commands import Parser, run_command
from runtime.console import (
    face_line,
    face_text,
    photo_line,
    photo_text,
    progress_text,
    summary_text,
)
from runtime.decisions import Policy
from runtime.detectors.names import AUTO, NAMES, parse_detector
from runtime.doctor import examine
from runtime.drawing import draw_faces, drawing_format, save_drawing
from runtime.errors import AgeMoEError, InputError
from runtime.files import resolved
from runtime.images import ImageLimits, load_rgb
from runtime.label_lists import listed_faces, photographs_in
from runtime.label_tables import LabelingError, check_output
from runtime.labeling import FACES, LabelJob, Stream, journal_of, label
from runtime.photographs import PhotoFace, predict_photo
from runtime.policy_file import check_policy_fits, read_policy
from runtime.printing import MOST_LINE, printable, printable_lines
from runtime.results import AgeEstimate, Box, Face
from runtime.startup import WHOLE
from runtime.video_command import (
    add_video_options,
    estimate_video,
    video_line,
    video_misuse,
    video_text,
)

_BATCH = 32
"""Pictures per batch."""
_SERVE = "serve"
"""Parsed by the service, whose packages are optional."""
_INTERRUPTED = 130
"""Exit status after Ctrl-C, by shell convention."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command and returns the exit status; 1 if anything failed."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given[:1] == [_SERVE]:
        from runtime.serving.command import main as serve

        return serve(given[1:])
    parser = _parser()
    parsed = parser.parse_args(given)
    if parsed.command == "predict" and (misuse := _misuse(parsed)):
        parser.error(misuse)
    with warnings.catch_warnings():
        warnings.showwarning = _show_warning
        return run_command(partial(_COMMANDS[parsed.command], parsed))


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
    if _is_one_face(parsed) or len(parsed.photos) != 1:
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


def _is_one_face(parsed: argparse.Namespace) -> bool:
    """Returns whether no face has to be found: each picture is one, or its box is given."""
    return parsed.whole or parsed.box is not None


def _predict(parsed: argparse.Namespace) -> int:
    with AgeMoE(
        parsed.engines, device=parsed.device, precision=parsed.precision, detector=parsed.detector
    ) as moe:
        if parsed.video is not None:
            return _predict_video(moe, parsed)
        return _predict_faces(moe, parsed) if _is_one_face(parsed) else _predict_photos(moe, parsed)


def _policy(moe: AgeMoE, parsed: argparse.Namespace, detector: str | None) -> Policy | None:
    """Returns the policy of the engines folder, if it was asked for and fits what is in use."""
    if not parsed.policy:
        return None
    policy = read_policy(parsed.engines)
    check_policy_fits(policy, moe.binding, detector=detector)
    return policy


def _predict_faces(moe: AgeMoE, parsed: argparse.Namespace) -> int:
    policy = _policy(moe, parsed, WHOLE if parsed.box is None else None)
    failed = False
    for path, result in _results(moe, parsed):
        failed |= not isinstance(result, AgeEstimate)
        if parsed.json:
            print(face_line(path, parsed.box, result, policy), flush=True)
        elif isinstance(result, AgeEstimate):
            print(face_text(path, parsed.box, result, policy), flush=True)
        else:
            _print_error(path, result, policy)
    return int(failed)


def _results(
    moe: AgeMoE, parsed: argparse.Namespace
) -> Iterator[tuple[str, AgeEstimate | AgeMoEError]]:
    photos: list[str] = parsed.photos
    for start in range(0, len(photos), _BATCH):
        paths = photos[start : start + _BATCH]
        faces = [Face(path, parsed.box, parsed.person_box) for path in paths]
        yield from zip(paths, moe.predict(faces), strict=True)


def _predict_photos(moe: AgeMoE, parsed: argparse.Namespace) -> int:
    detector = moe.detector
    policy = _policy(moe, parsed, detector.provenance)
    if not parsed.json:
        print(f"detector: {printable(detector.provenance)}", file=sys.stderr)
    failed = False
    for path in parsed.photos:
        found: list[PhotoFace] | AgeMoEError
        try:
            image = load_rgb(path, ImageLimits())
            found = predict_photo(moe, image, detector=detector)
        except InputError as error:
            found = error
        else:
            if parsed.draw is not None:
                save_drawing(parsed.draw, draw_faces(image, found))
        failed |= isinstance(found, AgeMoEError) or not found or any(f.error for f in found)
        if parsed.json:
            print(photo_line(path, found, detector.provenance, policy), flush=True)
        elif isinstance(found, AgeMoEError):
            _print_error(path, found, policy)
        else:
            print(photo_text(path, found, policy), flush=True)
    return int(failed)


def _predict_video(moe: AgeMoE, parsed: argparse.Namespace) -> int:
    policy = _policy(moe, parsed, WHOLE if parsed.whole else moe.detector.provenance)
    result = estimate_video(moe, parsed)
    if parsed.json:
        print(video_line(parsed.video, result, policy), flush=True)
    elif isinstance(result, AgeMoEError):
        _print_error(parsed.video, result, policy)
    else:
        print(video_text(parsed.video, result, policy), flush=True)
    return int(isinstance(result, AgeMoEError))


def _print_error(path: str, error: AgeMoEError, policy: Policy | None) -> None:
    print(f"{printable(path)}\n  error: {error}", file=sys.stderr)
    if policy is not None:
        print(f"{printable(path)}\n  {printable(str(policy.decide(error)), MOST_LINE)}", flush=True)


def _label(parsed: argparse.Namespace) -> int:
    output: Path = parsed.output
    check_output(output)
    paths = photographs_in(parsed.photos)
    job = LabelJob(
        str(parsed.engines),
        parsed.faces,
        parsed.detector,
        parsed.device,
        parsed.precision,
        listed_faces(parsed.photos),
    )
    try:
        with _stream(job, parsed.ray) as stream, _Progress(sys.stderr) as progress:
            summary = label(
                stream, paths, output, job, overwrite=parsed.overwrite, report=progress.report
            )
    except KeyboardInterrupt:
        kept = f"finished photographs are kept in {printable(journal_of(output))}"
        print(
            f"stopped; {kept}: the same command resumes the job",
            file=sys.stderr,
        )
        return _INTERRUPTED
    print(summary_text(summary, str(output)), file=sys.stderr)
    return int(bool(summary.bad))


@contextlib.contextmanager
def _stream(job: LabelJob, ray: str | None) -> Iterator[Stream]:
    """Yields the stream that makes the rows, in this process or on a Ray cluster."""
    if ray is None:
        with job.opened() as labeler:
            yield labeler.stream
        return
    try:
        from runtime.serving.ray_labeling import ray_stream
    except ImportError as error:
        raise LabelingError(
            f"--ray needs Ray, which cannot be imported ({error}). Install agemoe-runtime[ray], "
            f"or leave --ray out to label in this process."
        ) from error
    with ray_stream(job, ray) as stream:
        yield stream


class _Progress:
    """Prints progress: each second in place on a terminal, otherwise a line every ten seconds."""

    def __init__(self, file: TextIO) -> None:
        self._file = file
        self._terminal = file.isatty()
        self._started = self._printed = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._terminal:
            print(file=self._file)

    def report(self, done: int, total: int, fresh: int) -> None:
        """Prints the photographs finished, in total, and finished by this run."""
        now = time.monotonic()
        if done < total and now - self._printed < (1.0 if self._terminal else 10.0):
            return
        self._printed = now
        text = progress_text(done, total, fresh, now - self._started)
        end = "\x1b[K\r" if self._terminal else "\n"
        print(text, end=end, file=self._file, flush=True)


def _doctor(parsed: argparse.Namespace) -> int:
    findings = list(examine(parsed.engines))
    fine = all(finding.fine for finding in findings)
    if parsed.json:
        for finding in findings:
            print(json.dumps(finding.to_dict()))
        return int(not fine)
    width = max(len(printable(finding.topic)) for finding in findings)
    for finding in findings:
        mark = " " if finding.fine else "!"
        text = printable_lines(finding.text).replace("\n", f"\n{'':{width + 4}}")
        print(f"{mark} {printable(finding.topic):<{width}}  {text}")
    return int(not fine)


_COMMANDS = {"predict": _predict, "label": _label, "doctor": _doctor}


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """Replaces `warnings.showwarning`: prints the message without its place in the code."""
    del category, filename, lineno, file, line
    print(f"warning: {printable_lines(str(message))}", file=sys.stderr)


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
    parser = Parser(prog="python -m runtime", description=__doc__)
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
    bulk = commands.add_parser("label", help="write the ages in many photographs to a table")
    bulk.add_argument("photos", nargs="+", metavar="PHOTOS", help="folders, files, patterns, lists")
    bulk.add_argument("--output", type=Path, required=True, help="a .csv or .parquet file")
    bulk.add_argument("--overwrite", action="store_true", help="replace an existing table")
    bulk.add_argument(
        "--faces", choices=FACES, default=FACES[0], help="detect faces, or take each picture as one"
    )
    bulk.add_argument("--ray", metavar="ADDRESS", help="address of a Ray cluster, or local")
    for command in (predict, bulk):
        command.add_argument("--detector", type=_detector, default=AUTO, help=NAMES)
        command.add_argument("--device", default="auto", help="auto, cpu, cuda or tensorrt")
        command.add_argument("--precision", default="auto", help="auto, fp32, fp16, bf16 or int8")
    commands.add_parser(_SERVE, add_help=False, help="start the HTTP service: see serve --help")
    doctor = commands.add_parser("doctor", help="report what is installed and what works")
    doctor.add_argument("--json", action="store_true", help="one JSON object per line")
    for command in (predict, bulk, doctor):
        command.add_argument(
            "--engines", type=Path, default=Path("engines"), help="the engines folder"
        )
    return parser


if __name__ == "__main__":
    sys.exit(main())
