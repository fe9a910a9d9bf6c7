"""Options of the command lines from which quality limits are made."""

from __future__ import annotations

import argparse

from runtime.commands import not_negative, share
from runtime.quality import LIMITED, SHARES, QualityLimits

_OPTIONS = {
    "min_face_pixels": "--min-face-pixels",
    "min_inter_eye_pixels": "--min-inter-eye",
    "min_sharpness": "--min-sharpness",
    "min_contrast": "--min-contrast",
    "max_yaw_degrees": "--max-yaw",
    "max_cut_off": "--max-cut-off",
}
"""By limit; the others have none."""
_SCALES = {" pixels": ", in pixels", "°": " to either side, in degrees"}
_PLAIN = {
    "sharpness": ": variance of the Laplacian of the luminance",
    "contrast": ": standard deviation of the luminance, 0..128",
    "cut_off": ", 0..1",
}
"""By quantity without a unit."""


def add_quality_options(parser: argparse._ActionsContainer) -> None:
    """Adds the options from which `quality_limits` makes limits."""
    section = parser.add_argument_group(
        "quality limits",
        "A face beyond a limit is refused. No limit is set by default.",
    )
    for name, option in _OPTIONS.items():
        quantity, text, unit = LIMITED[name]
        kind = "minimum" if name.startswith("min_") else "maximum"
        section.add_argument(
            option,
            dest=f"quality.{name}",
            type=share if quantity in SHARES else not_negative,
            metavar="N",
            help=f"{kind} {text}{_SCALES.get(unit) or _PLAIN[quantity]}",
        )


def add_no_face_option(parser: argparse._ActionsContainer) -> None:
    """Adds the option that accepts pictures and boxes without a face."""
    parser.add_argument(
        "--accept-no-face",
        action="store_true",
        help="estimate an age even if the detector finds no face in a given box or whole picture",
    )


def quality_limits(parsed: argparse.Namespace, *, require_face: bool) -> QualityLimits:
    """Returns the limits of parsed options."""
    values = vars(parsed)
    return QualityLimits(require_face, **{name: values[f"quality.{name}"] for name in _OPTIONS})
