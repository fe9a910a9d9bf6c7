"""Formats estimates, photographs and summaries for the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from runtime.decisions import Policy
from runtime.errors import AgeMoEError, FaceCountError
from runtime.labeling import Summary
from runtime.person import PersonEstimate
from runtime.photographs import NO_FACE, PhotoFace
from runtime.printing import MOST_LINE, counted, json_line, printable
from runtime.results import AgeEstimate, Box, box_text, result_dict

_LISTED = 20
"""Maximum number of bad photographs in a summary."""


def face_line(
    path: str, box: Box | None, result: AgeEstimate | AgeMoEError, policy: Policy | None = None
) -> str:
    """Formats a picture of one face as JSON; without a box the whole picture is the face."""
    values = {**result_dict(result), **decision_values(result, policy)}
    return json_line({"path": path, "box": box, **values})


def photo_line(
    path: str,
    found: Sequence[PhotoFace] | AgeMoEError,
    detector: str,
    policy: Policy | None = None,
) -> str:
    """Formats a photograph as JSON."""
    if isinstance(found, AgeMoEError):
        values = {"error": str(found), **decision_values(found, policy)}
        return json_line({"path": path, "detector": detector, **values})
    faces = [{**face.to_dict(), **decision_values(face.result, policy)} for face in found]
    no_face = {} if faces else decision_values(FaceCountError(NO_FACE), policy)
    return json_line({"path": path, "detector": detector, "faces": faces, **no_face})


def face_text(
    path: str, box: Box | None, estimate: AgeEstimate, policy: Policy | None = None
) -> str:
    """Formats a picture of one face as text; without a box the whole picture is the face."""
    place = "the whole picture as one face" if box is None else f"1 face, {box_text(box)} as given"
    lines = [*estimate_lines(estimate), *decision_lines(estimate, policy)]
    return "\n".join([f"{printable(path)}: {place}", *lines])


def photo_text(path: str, faces: Sequence[PhotoFace], policy: Policy | None = None) -> str:
    """Formats a photograph as text."""
    if not faces:
        line = f"{printable(path)}: no face found (--whole takes the picture as one face)"
        return "\n".join([line, *decision_lines(FaceCountError(NO_FACE), policy)])
    count = f"{len(faces)} faces, from left to right" if faces[1:] else "1 face"
    lines = [f"{printable(path)}: {count}"]
    for number, face in enumerate(faces, 1):
        turned = f", turned by {face.turn * 90}°" if face.turn else ""
        lines.append(f"{number:3}. {box_text(face.box)}{turned}")
        if isinstance(face.result, AgeEstimate):
            lines += [f"   {line}" for line in estimate_lines(face.result)]
        else:
            lines.append(f"     error: {face.result}")
        lines += [f"   {line}" for line in decision_lines(face.result, policy)]
    return "\n".join(lines)


def summary_text(summary: Summary, output: str) -> str:
    """Formats the totals of a table and its bad photographs."""
    bad = list(summary.bad.items())
    faces, photographs = counted(summary.faces, "face"), counted(summary.photographs, "photograph")
    without = counted(summary.without_face, "photograph")
    lines = [f"{printable(output)}: {faces} in {photographs}"]
    lines += [f"  {without} without a face, {len(bad):,} bad"]
    lines += [f"  {printable(path)}: {printable(why, MOST_LINE)}" for path, why in bad[:_LISTED]]
    if len(bad) > _LISTED:
        lines.append(f"  … and {len(bad) - _LISTED:,} more: see the column 'error'")
    return "\n".join(lines)


def estimate_lines(estimate: AgeEstimate) -> list[str]:
    """Formats an estimate, one line for the age and one for each expert and note."""
    width = max(len(printable(name)) for name in (*estimate.experts, *estimate.missing))
    return [
        f"  {estimate.age_years:5.1f} years{_interval(estimate)}",
        *(
            f"    {printable(name):<{width}}  raw {expert.age_years:5.1f}, corrected "
            f"{expert.corrected_years:5.1f}, weight {expert.weight:.2f}"
            for name, expert in estimate.experts.items()
        ),
        *(
            f"    {printable(name):<{width}}  missing: {printable(why, MOST_LINE)}"
            for name, why in estimate.missing.items()
        ),
        *(f"    note: {printable(note, MOST_LINE)}" for note in estimate.notes),
    ]


def decision_values(
    result: AgeEstimate | PersonEstimate | AgeMoEError, policy: Policy | None
) -> dict[str, Any]:
    """Returns the decision on a result, ready for JSON; nothing without a policy."""
    return {} if policy is None else {"decision": policy.decide(result).to_dict()}


def decision_lines(
    result: AgeEstimate | PersonEstimate | AgeMoEError, policy: Policy | None
) -> list[str]:
    """Formats the decision on a result; nothing without a policy."""
    return [] if policy is None else [f"  {printable(str(policy.decide(result)), MOST_LINE)}"]


def _interval(estimate: AgeEstimate) -> str:
    if estimate.residuals is None:
        return "   (not calibrated: no interval)"
    return f"   (90 % within {estimate.low_years:.1f} … {estimate.high_years:.1f})"
