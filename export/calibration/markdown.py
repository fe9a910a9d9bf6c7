"""The report as a self-explanatory page: `report.md`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from export.calibration.markdown_tables import (
    Report,
    coverage,
    image,
    interval,
    parts_table,
    percent,
    rate,
)
from export.calibration.markdown_text import plain, table
from export.calibration.report import ENOUGH_IN_GROUP

_BRACKETS = """\
Square brackets hold 95 % confidence intervals: bootstrap over people for means, Wilson's score
interval for shares."""

_METHODS = """\
**Raw** is an expert's own prediction, **corrected** the same after its bias was removed, **mean**
the plain average of all experts, **fused** the age that the runtime returns. An error is the
estimate minus the labeled age, in years. **MAE** is the mean of its absolute value, **median** the
median of its absolute value, **bias** its mean (above 0: people are estimated too old), **RMSE**
the root of its mean square, **CS@5** the share of faces estimated within 5 years."""

_PARTS = f"""\
**Spread of error** is the standard deviation of the fused error, **best expert** the corrected
expert with the smallest MAE, **covered** the share of faces whose 90 % interval contains the
labeled age. The interval is calibrated by estimated age, so it should cover 90 % in every row of
the second table; by labeled age, coverage depends on how well faces of that age can be told apart.
**Few** means fewer than {ENOUGH_IN_GROUP} faces."""

_POLICY = """\
A person passes who is estimated at or above the challenge age; all others are asked for proof of
age. A **false positive** is a person below the age limit who passes, a **false negative** one at or
above it who does not. The columns of ages near the limit count the people who are hardest to tell
apart. Faces behind the four columns: """

_NO_CERTIFICATION = (
    "These rates follow the definitions of NIST's Face Analysis Technology Evaluation, Age "
    "Estimation and Verification (FATE AEV). They describe these faces only; they are no result "
    "of NIST and no certification."
)


_QUALITY = """\
Quality as in docs/quality.md. Faces of one quality differ in other ways too, as in age and source:
a difference between rows need not be caused by the quality."""

_LIMITED = {"all faces": "all", "accepted": "kept", "refused": "of_refused"}
"""Rows of the table of limits, and their keys in the report."""

_LEFT_OUT = """\
A **source** is a data set, a camera or a place that photographs are from. Photographs of one source
are alike, so the held-out faces above, which have faces of their own sources among those that were
fitted on, say little about a source that is new. Here everything was fitted again without each
source (the form of the fusion excepted) and scored on that source alone. **Covered** is the share
of its faces whose 90 % interval contains the labeled age."""

_ROBUST = """\
**Robust intervals** (`--robust source`) are in `fusion.json`, and in all other tables of this page.
Each end lies {share:.0f} % of the way from that of the ordinary interval to the outermost one that
any left-out source would have needed at this age: the smallest share with which every left-out
source is covered. The last two columns show them for the same estimates; that these sources are
covered is by construction. A further source is covered as well if it differs from these no more
than these differ from one another, and {count} sources are a small sample."""

_NOT_ROBUST = """\
The intervals in `fusion.json` are the ordinary ones. Where a left-out source is covered clearly
less than 90 %, faces of a new source probably are, too: `--robust source` widens the intervals."""


def markdown(report: Report, title: str, preface: Sequence[str], files: Sequence[str]) -> str:
    """Returns the report as Markdown, with a preface of paragraphs and links to plot files."""
    plots = [
        image(files, "bias.png", "Bias correction of each expert by its raw prediction"),
        image(files, "gate.png", "Weight of each expert by age"),
    ]
    parts = [
        f"# {title}",
        *preface,
        _headline(report),
        _BRACKETS,
        "## Accuracy",
        _METHODS,
        _accuracy(report),
        image(files, "error_by_age.png", "Mean absolute error by age, raw, corrected and fused"),
        "## By age",
        _PARTS,
        parts_table("Labeled age", report["age_bands"]),
        parts_table("Estimated age", report["estimated_age_bands"]),
        "## By group" if report["groups"] else "",
        *(parts_table(column, sections) for column, sections in report["groups"].items()),
        *_left_out(report.get("left_out")),
        *_quality(report.get("quality"), report.get("limits")),
        "## Fairness",
        _fairness(report),
        *_missing(report["without"]),
        *(part for item in report["policy"].items() for part in _policy(*item)),
        *(part for item in report["reliability"].items() for part in _reliability(*item)),
        image(files, "reliability.png", "Claimed against observed probability"),
        "## The tables" if any(plots) else "",
        *plots,
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _headline(report: Report) -> str:
    best, gain = report["gain"]["over"], report["gain"]
    fused = f"{report['mae']['fused']:.2f} years mean absolute error"
    text = (
        f"**{report['faces']} faces. Fused: {fused} "
        f"{interval(report['mae_interval']['fused'], 1, 2)}. "
        f"Best expert alone, corrected: {plain(best)}, "
        f"{report['mae'][best]['corrected']:.2f} years; "
        f"fusing gains {gain['years']:+.3f} years {interval(gain['interval'], 1, 3)}.**"
    )
    if "90" in report["coverage"]:
        width = report["interval_width_years"]["90"]
        text += (
            f" **The 90 % interval contains {coverage(report, 1)} of the true ages and is "
            f"{width:.1f} years wide on average.**"
        )
    return text


def _accuracy(report: Report) -> str:
    rows = [["**fused**", *_row(report, ("fused",))]]
    kinds = ("corrected", "raw")
    rows += [[f"mean of {kind}", *_row(report, ("mean", kind))] for kind in kinds]
    for kind in kinds:
        rows += [
            [f"{plain(name)}, {kind}", *_row(report, (name, kind))] for name in report["experts"]
        ]
    return table(["", "MAE", "median", "bias", "RMSE", "CS@5"], rows)


def _row(report: Report, place: Sequence[str]) -> list[str]:
    cells = []
    for figure in ("mae", "median", "bias", "rmse"):
        value, limits = (_at(report[key], place) for key in (figure, f"{figure}_interval"))
        sign = "+" if figure == "bias" else ""
        cells.append(f"{value:{sign}.2f} {interval(limits, 1, 2)}")
    share, limits = _at(report["cs5"], place), _at(report["cs5_interval"], place)
    return [*cells, f"{percent(share)} {interval(limits, 100, 0)}"]


def _at(nested: Any, place: Sequence[str]) -> Any:  # noqa: ANN401 - JSON values
    for key in place:
        nested = nested[key]
    return nested


def _left_out(found: Report | None) -> list[str]:
    """Returns the section on sources that were left out of the fit, if there are sources."""
    if found is None:
        return []
    sources = found["sources"]
    robust = any("robust" in section for section in sources.values())
    heads = ["source left out", "faces", "fused MAE", "bias", "covered (90 %)", "width in years"]
    more = ["covered, robust", "width in years, robust"] if robust else []
    rows = [
        [
            plain(name),
            f"{section['faces']}",
            f"{section['mae']['fused']:.2f} {interval(section['mae_interval']['fused'], 1, 2)}",
            f"{section['bias']['fused']:+.2f}",
            *_covered(section),
            *(_covered(section["robust"]) if robust else ()),
        ]
        for name, section in sources.items()
    ]
    skipped = [
        f"- {plain(name)} was not left out: {plain(why)}." for name, why in found["skipped"].items()
    ]
    return [
        "## When a source is new",
        _LEFT_OUT,
        table([*heads, *more], rows) if rows else "",
        "\n".join(skipped),
        _ROBUST.format(count=len(sources), share=100.0 * found["robust_share"])
        if robust
        else _NOT_ROBUST
        if rows
        else "",
    ]


def _covered(section: Report) -> list[str]:
    if "90" not in section["coverage"]:
        return ["–", "–"]
    return [coverage(section, 0), f"{section['interval_width_years']['90']:.1f}"]


def _quality(quality: Report | None, limits: Report | None) -> list[str]:
    """Returns the sections on the quality of the faces, if it is known, and on limits."""
    parts = ["## By quality", _QUALITY] if quality else []
    parts += [parts_table(head, sections) for head, sections in (quality or {}).items()]
    if limits is None:
        return parts
    shown = {name: limits[key] for name, key in _LIMITED.items() if limits[key] is not None}
    refused, reasons = limits["refused"], limits["reasons"]
    share = f"{percent(refused['rate'])} {interval(refused['interval'], 100, 1)}"
    because = "; ".join(f"{reason} of {count}" for reason, count in reasons.items())
    return [
        *parts,
        "## With the quality limits",
        f"Refused: {share} of the faces ({because or 'none'}).",
        parts_table("", shown),
    ]


def _fairness(report: Report) -> str:
    gaps = {"age bands": report["fairness"]["age_bands"], **report["fairness"]["groups"]}
    lines = ["The gap is the difference between the largest and the smallest fused MAE.\n"]
    for name, gap in gaps.items():
        if gap is None:
            lines.append(f"- {plain(name)}: fewer than two parts with {ENOUGH_IN_GROUP} faces.")
        else:
            lines.append(
                f"- {plain(name)}: {gap['years']:.2f} years, between {plain(gap['worst'])} and "
                f"{plain(gap['best'])}."
            )
    return "\n".join(lines)


def _missing(without: Report) -> list[str]:
    if not without:
        return []
    rows = [
        [
            plain(name),
            f"{found['mae']:.2f} {interval(found['mae_interval'], 1, 2)}",
            f"{found['added_years']:+.2f} {interval(found['added_interval'], 1, 2)}",
        ]
        for name, found in without.items()
    ]
    heads = ["without", "fused MAE", "change against all experts"]
    return ["## When one expert is missing", table(heads, rows)]


def _policy(threshold: str, rows: Sequence[Report]) -> list[str]:
    low, high = rows[0]["near_ages"]
    heads = [
        "challenge age",
        f"false positives: all under {threshold}",
        f"… aged {low:g} to {float(threshold) - 1:g}",
        f"false negatives: all {threshold} or older",
        f"… aged {threshold} to {high:g}",
    ]
    keys = ("false_positive", "false_positive_near", "false_negative", "false_negative_near")
    cells = [[f"{row['challenge_age']:g}", *(rate(row[key]) for key in keys)] for row in rows]
    counts = ", ".join(f"{rows[0][key]['faces']}" for key in keys)
    return [
        f"## Policy: is this person {threshold} or older?",
        f"{_POLICY}{counts}.",
        table(heads, cells),
        _NO_CERTIFICATION,
    ]


def _reliability(threshold: str, found: Report | None) -> list[str]:
    if found is None:
        return []
    rows = [
        [percent(b["claimed"]), str(b["came_true"]["faces"]), rate(b["came_true"])]
        for b in found["bins"]
    ]
    claimed, observed = percent(found["claimed_mean"]), percent(found["came_true_mean"])
    return [
        f"## Reliability of `probability_at_least({threshold})`",
        (
            f"Faces are sorted into bins by the **claimed** probability of being {threshold} or "
            "older; **came true** is the share that is. The mean claimed probability is "
            f"{claimed}; {observed} came true. The Brier score, the mean squared difference (0 is "
            f"perfect), is {found['brier']:.4f}."
        ),
        table(["claimed", "faces", "came true"], rows),
    ]
