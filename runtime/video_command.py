"""`agemoe predict --video FILE`: one estimate from the frames of a video."""

from __future__ import annotations

import argparse

from runtime.agemoe import AgeMoE
from runtime.commands import count
from runtime.console import decision_lines, decision_values, estimate_lines
from runtime.decisions import Policy
from runtime.decoding.video import MOST_VIDEO_FRAMES, VIDEO_FRAMES, video_frames
from runtime.errors import AgeMoEError, InputError, PredictionError
from runtime.person import PersonEstimate
from runtime.printing import MOST_LINE, json_line, printable


def add_video_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options of a video."""
    section = parser.add_argument_group("video, in place of photographs")
    video = "video of one person (MP4, MOV, MKV, WebM, AVI): one estimate from its frames"
    section.add_argument("--video", metavar="FILE", help=video)
    frames = f"number of evenly spaced frames to use (default: {VIDEO_FRAMES})"
    section.add_argument("--frames", type=_frames, metavar="N", help=frames)


def video_misuse(parsed: argparse.Namespace) -> str | None:
    """Returns which options contradict each other."""
    if parsed.video is None:
        if parsed.frames is not None:
            return "--frames belongs to --video"
        return None if parsed.photos else "give photographs, or --video FILE"
    if parsed.photos or parsed.box or parsed.person_box or parsed.draw is not None:
        return "--video needs no photographs and no --box, --person-box or --draw"
    return None


def estimate_video(moe: AgeMoE, parsed: argparse.Namespace) -> PersonEstimate | AgeMoEError:
    """Returns the estimate from a video, or the error in its place.

    The frames are of one sitting, so the interval is that of one picture.
    """
    try:
        frames = video_frames(parsed.video, parsed.frames or VIDEO_FRAMES)
        return moe.predict_person(frames, find=not parsed.whole)
    except (InputError, PredictionError) as error:
        return error


def video_line(path: str, result: PersonEstimate | AgeMoEError, policy: Policy | None) -> str:
    """Formats the result of a video as JSON."""
    values = result.to_dict() if isinstance(result, PersonEstimate) else {"error": str(result)}
    return json_line({"video": path, **values, **decision_values(result, policy)})


def video_text(path: str, person: PersonEstimate, policy: Policy | None) -> str:
    """Formats the estimate from a video as text."""
    used = f"{len(person.used)} of {len(person.frames)} frames"
    lines = [f"{printable(path)}: {used}", *estimate_lines(person.estimate)]
    if person.stability_years is not None:
        lines.append(f"    spread between frames: {person.stability_years:.1f} years")
    if person.disagreement is not None:
        lines.append(f"    {person.disagreement}")
    for number, frame in enumerate(person.frames, 1):
        if isinstance(frame.result, AgeMoEError):
            lines.append(f"    frame {number}: error: {printable(frame.result, MOST_LINE)}")
        elif frame.left_out is not None:
            lines.append(f"    frame {number}: left out: {printable(frame.left_out, MOST_LINE)}")
    return "\n".join([*lines, *decision_lines(person, policy)])


def _frames(text: str) -> int:
    number = count(text)
    if number > MOST_VIDEO_FRAMES:
        problem = f"must be within 1..{MOST_VIDEO_FRAMES}, got {number}"
        raise argparse.ArgumentTypeError(problem)
    return number
