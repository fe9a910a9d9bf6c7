"""The command `agemoe`, also started by `python -m runtime`."""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import warnings
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TextIO

from runtime.agemoe import AgeMoE
from runtime.arguments import is_one_face, parsed_arguments
from runtime.commands import INTERRUPTED, run_command
from runtime.console import (
    decision_lines,
    face_line,
    face_text,
    photo_line,
    photo_text,
    summary_text,
)
from runtime.decisions import Policy
from runtime.detection import Detector
from runtime.doctor import examine
from runtime.drawing import draw_faces, save_drawing
from runtime.errors import AgeMoEError, InputError
from runtime.images import ImageLimits, load_rgb
from runtime.label_lists import listed_faces, photographs_in
from runtime.label_tables import LabelingError, check_output, journal_of
from runtime.labeling import LabelJob, Stream, label
from runtime.liveness_model import OnnxLiveness
from runtime.photographs import PhotoFace, predict_photo
from runtime.policy_file import check_policy_fits, read_policy
from runtime.printing import MOST_LINE, printable, printable_lines
from runtime.program_help import without_command
from runtime.progress import Progress
from runtime.quality_options import quality_limits
from runtime.results import AgeEstimate, Face
from runtime.startup import WHOLE
from runtime.subcommands import added_commands, runtime_command
from runtime.video_command import estimate_video, video_line, video_text

_BATCH = 32
"""Pictures per batch."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command and returns the exit status; 1 if anything failed."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given[:1] == ["help"]:
        given = [*given[1:2], "--help"]
    name = given[0] if given else ""
    if name in _COMMANDS:
        parsed = parsed_arguments(name, given[1:])
        with warnings.catch_warnings():
            warnings.showwarning = _show_warning
            return run_command(partial(_COMMANDS[name], parsed))
    if (command := runtime_command(name)) is not None:
        return command.main(given[1:])
    added = added_commands()
    if name in added:
        return run_command(partial(added[name].run, given[1:]))
    return without_command(given, added)


def _predict(parsed: argparse.Namespace) -> int:
    with AgeMoE(
        parsed.engines,
        device=parsed.device,
        precision=parsed.precision,
        quality=quality_limits(parsed, require_face=not parsed.accept_no_face),
        liveness=None if parsed.liveness is None else OnnxLiveness(parsed.liveness),
        detector=parsed.detector,
    ) as moe:
        if parsed.video is not None:
            return _predict_video(moe, parsed)
        with Progress("photographs", quiet=parsed.no_progress) as progress:
            predict = _predict_faces if is_one_face(parsed) else _predict_photos
            return predict(moe, parsed, progress)


def _policy(moe: AgeMoE, parsed: argparse.Namespace, detector: str | None) -> Policy | None:
    """Returns the policy of the engines folder, if it was asked for and fits what is in use."""
    if not parsed.policy:
        return None
    policy = read_policy(parsed.engines)
    check_policy_fits(policy, moe.binding, detector=detector)
    return policy


def _predict_faces(moe: AgeMoE, parsed: argparse.Namespace, progress: Progress) -> int:
    policy = _policy(moe, parsed, WHOLE if parsed.box is None else None)
    failed = False
    for path, result in _results(moe, parsed, progress):
        progress.hide()
        failed |= not isinstance(result, AgeEstimate)
        if parsed.json:
            print(face_line(path, parsed.box, result, policy), flush=True)
        elif isinstance(result, AgeEstimate):
            print(face_text(path, parsed.box, result, policy), flush=True)
        else:
            _print_error(path, result, policy)
    return int(failed)


def _results(
    moe: AgeMoE, parsed: argparse.Namespace, progress: Progress
) -> Iterator[tuple[str, AgeEstimate | AgeMoEError]]:
    photos: list[str] = parsed.photos
    for start in range(0, len(photos), _BATCH):
        progress.report(start, len(photos))
        paths = photos[start : start + _BATCH]
        faces = [Face(path, parsed.box, parsed.person_box) for path in paths]
        yield from zip(paths, moe.predict(faces), strict=True)


def _predict_photos(moe: AgeMoE, parsed: argparse.Namespace, progress: Progress) -> int:
    detector = moe.detector
    policy = _policy(moe, parsed, detector.provenance)
    if not parsed.json:
        print(f"detector: {printable(detector.provenance, MOST_LINE)}", file=sys.stderr)
    failed = False
    for path in progress.over(parsed.photos):
        found: list[PhotoFace] | AgeMoEError
        try:
            image = load_rgb(path, ImageLimits())
            found = predict_photo(moe, image, detector=detector)
        except InputError as error:
            found = error
        else:
            if parsed.draw is not None:
                save_drawing(parsed.draw, draw_faces(image, found))
        progress.hide()
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
        print("\n".join([printable(path), *decision_lines(error, policy)]), flush=True)


def _label(parsed: argparse.Namespace) -> int:
    output: Path = parsed.output
    check_output(output, parsed.photos, overwrite=parsed.overwrite)
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
        progress = Progress("photographs", quiet=parsed.no_progress)
        overwrite, report = parsed.overwrite, progress.report
        with _stream(job, parsed.ray) as (stream, detector), progress:
            summary = label(
                *(stream, paths, output, job),
                overwrite=overwrite,
                report=report,
                detector=detector,
            )
    except KeyboardInterrupt:
        kept = f"finished photographs are kept in {printable(journal_of(output))}"
        print(
            f"stopped; {kept}: the same command resumes the job",
            file=sys.stderr,
        )
        return INTERRUPTED
    print(summary_text(summary, str(output)), file=sys.stderr)
    return int(bool(summary.bad))


@contextlib.contextmanager
def _stream(job: LabelJob, ray: str | None) -> Iterator[tuple[Stream, Detector | None]]:
    """Yields the stream that makes the rows, and its detector, if that is in this process."""
    if ray is None:
        with job.opened() as labeler:
            yield labeler.stream, labeler.detector
        return
    try:
        from runtime.serving.ray_labeling import ray_stream
    except ImportError as error:
        raise LabelingError(
            f"--ray needs Ray, which cannot be imported ({error}). Install agemoe-runtime[ray], "
            f"or leave --ray out to label in this process."
        ) from error
    with ray_stream(job, ray) as stream:
        yield stream, None


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


if __name__ == "__main__":
    sys.exit(main())
