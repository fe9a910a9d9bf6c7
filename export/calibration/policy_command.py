"""Options of `agemoe evaluate --policy`."""

from __future__ import annotations

import argparse
from collections.abc import Iterator

from export.calibration.challenge import ChallengeOptions
from export.errors import OptionsError

DEFAULT_LIMIT = 0.01


def add_policy(parser: argparse.ArgumentParser) -> None:
    """Adds the options of a policy; threshold, challenge age and groups are those of the report."""
    policy = parser.add_argument_group(
        "policy",
        "--policy finds the smallest challenge age at which the false positive rate stays below a "
        "limit with 95 % confidence, over all faces and in every group of --groups; or takes the "
        "one of --challenge. The false positive rate is the share of people under the threshold "
        "who pass.",
    )
    write = "write policy.json into the engines folder, in place of a report"
    policy.add_argument("--policy", action="store_true", help=write)
    limit = (
        f"maximum false positive rate, 0.000001..0.5 (default: {DEFAULT_LIMIT:g}; none with "
        "--challenge, whose rate is then only measured)"
    )
    policy.add_argument("--max-false-positive", type=float, metavar="RATE", help=limit)
    youngest = "leave out people younger than this, in years: they dilute the rate (default: 0)"
    policy.add_argument("--youngest", type=float, metavar="YEARS", help=youngest)
    floor = "estimated age in years below which a person fails (default: no floor, so no one fails)"
    policy.add_argument("--floor", type=float, metavar="YEARS", help=floor)
    claim = "write the policy even if the faces do not support the limit; the policy then says so"
    policy.add_argument("--without-claim", action="store_true", help=claim)


def challenge_options(arguments: argparse.Namespace) -> ChallengeOptions | None:
    """Validates the options of a policy; returns None without --policy.

    Raises:
        OptionsError: options contradict each other, or a value is out of range.
    """
    if problems := list(_problems(arguments)):
        raise OptionsError(problems)
    if not arguments.policy:
        return None
    challenge = arguments.challenge[0] if arguments.challenge else None
    limit = arguments.max_false_positive
    if limit is None and challenge is None:
        limit = DEFAULT_LIMIT
    return ChallengeOptions(
        arguments.thresholds[0],
        challenge,
        limit,
        arguments.youngest or 0.0,
        arguments.floor,
        tuple(dict.fromkeys(arguments.groups)),
    )


def _problems(arguments: argparse.Namespace) -> Iterator[str]:
    limit, youngest, floor = arguments.max_false_positive, arguments.youngest, arguments.floor
    if not arguments.policy:
        given = {"max-false-positive": limit, "youngest": youngest, "floor": floor}
        names = [f"--{name}" for name, value in given.items() if value is not None]
        names += ["--without-claim"] if arguments.without_claim else []
        if names:
            yield f"{', '.join(names)} belong to --policy"
        return
    for name in ("compare", "output", "correlation"):
        if getattr(arguments, name) is not None:
            yield f"--{name} belongs to a report: leave it out with --policy"
    if len(arguments.thresholds) != 1 or len(arguments.challenge) > 1:
        yield "--policy takes one --thresholds and at most one --challenge"
        return
    threshold = arguments.thresholds[0]
    if arguments.challenge and not arguments.challenge[0] >= threshold:
        yield f"--challenge {arguments.challenge[0]:g} must be at least the threshold {threshold:g}"
    if limit is not None and not 1e-6 <= limit <= 0.5:
        yield f"--max-false-positive {limit:g} must lie within 0.000001..0.5"
    if youngest is not None and not 0.0 <= youngest < threshold:
        yield f"--youngest {youngest:g} must lie within 0..{threshold:g}, below the threshold"
    if floor is not None and not 0.0 <= floor <= threshold:
        yield f"--floor {floor:g} must lie within 0..{threshold:g}, the threshold"
