"""Sections of the report on parts of the faces: ages, groups, sources, quality, missing experts."""

from __future__ import annotations

from export.calibration.markdown_tables import (
    FEWEST_IN_PART,
    Report,
    coverage,
    interval,
    parts_table,
    percent,
)
from export.calibration.markdown_text import plain, table
from export.calibration.report import ENOUGH_IN_GROUP

_COLUMNS = """\
**MAE** and **bias** are those of the {age} age, as above. **Spread** is the standard deviation of
its errors: what would remain without bias. """

_BEST = """\
**Best expert** is the corrected expert with the smallest MAE in the row. """

_COVERED = """\
**Covered** is the share of faces whose 90 % interval contains the labeled age. """

_FEW = f"""\
**Few** means fewer than {ENOUGH_IN_GROUP} faces; figures of fewer than {FEWEST_IN_PART} are left
out."""

_BY_ESTIMATE = """\
Intervals are calibrated by estimated age, so about 90 % should be covered in every row of the
second table, whose faces are sorted by the estimate. In the first, sorted by the label, coverage
also depends on how well faces of that age can be told apart from others."""

_LEFT_OUT = """\
A **source** is a data set, a camera or a place that photographs are from. Photographs of one source
are alike, so the held-out faces above, which have faces of their own sources among those that were
fitted on, say little about a source that is new. Here everything was fitted again without each
source (except the choice between the forms `tables` and `agemoe`) and tested on that source alone.
**Covered** is the share of its faces whose 90 % interval contains the labeled age, **width** the
average width of that interval."""

_ROBUST = """\
**Robust** intervals (`--robust source`) are wider, so that they cover sources that were left out.
They are in `fusion.json`, and in all other tables of this page. Each end lies {share:.0f} % of the
way from that of the ordinary interval to the outermost one that any left-out source would have
needed at this age: the smallest share with which every left-out source is covered. The last two
columns show them for the same estimates; that these sources are covered is by construction. A
further source is covered as well if it differs from these no more than these differ from one
another, and {count} sources are a small sample."""

_NOT_ROBUST = """\
The intervals in `fusion.json` are the ordinary ones. Where a left-out source is covered clearly
less than 90 %, faces of a new source probably are, too: `--robust source` widens the intervals."""

_QUALITY = """\
What each quantity measures is in docs/quality.md. Each table sorts the faces into bins by one of
them; the bins of all but the distance between the eyes hold about equally many faces. The columns
are those of the tables by age. Faces of one quality differ in other ways too, as in age and source:
a difference between rows need not be caused by the quality."""

_LIMITED = {"all faces": "all", "accepted": "kept", "refused": "of_refused"}
"""Rows of the table of limits, and their keys in the report."""


def ages(report: Report) -> list[str]:
    """Returns the section on the error by age."""
    alone = len(report["experts"]) == 1
    return [
        "## How the error depends on age",
        parts_table("labeled age, years", report["age_bands"]),
        parts_table("estimated age, years", report["estimated_age_bands"]),
        "".join(
            [
                _COLUMNS.format(age="corrected" if alone else "fused"),
                "" if alone else _BEST,
                _COVERED if report["coverage"] else "",
                _FEW,
            ]
        ),
        _BY_ESTIMATE if report["coverage"] else "",
    ]


def groups(report: Report) -> list[str]:
    """Returns the section on groups; empty without groups."""
    if not report["groups"]:
        return []
    tables, same = [], []
    for column, sections in report["groups"].items():
        first = next(iter(sections))
        if sections[first]["faces"] == report["faces"]:
            same.append(f"By {plain(column)} there is nothing to compare: all are {plain(first)}.")
        else:
            tables.append(parts_table(column, sections))
    text = "Faces sorted by columns of the labels; the figures are those of the tables by age."
    parts = [text, *tables] if tables else []
    return ["## How the error differs between groups", *parts, *same]


def left_out(found: Report | None) -> list[str]:
    """Returns the section on sources that were left out of the fit, if there are sources."""
    if found is None:
        return []
    sources = found["sources"]
    robust = any("robust" in section for section in sources.values())
    heads = ["source left out", "faces", "MAE, years", "bias, years", "covered", "width, years"]
    more = ["covered, robust", "width, robust, years"] if robust else []
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
    widened = _ROBUST.format(count=len(sources), share=100.0 * found.get("robust_share", 0.0))
    return [
        "## When a source is new",
        _LEFT_OUT,
        table([*heads, *more], rows) if rows else "",
        "\n".join(skipped),
        widened if robust else _NOT_ROBUST if rows else "",
    ]


def _covered(section: Report) -> list[str]:
    if "90" not in section["coverage"]:
        return ["–", "–"]
    return [coverage(section, 0), f"{section['interval_width_years']['90']:.1f}"]


def quality(report: Report) -> list[str]:
    """Returns the sections on the quality of the faces, if it is known, and on limits."""
    found, limits = report.get("quality"), report.get("limits")
    tables = [
        parts_table(h, sections) for h, sections in (found or {}).items() if len(sections) > 1
    ]
    title = "## How the error depends on the quality of the picture"
    parts = [title, _QUALITY, *tables] if tables else []
    if limits is None:
        return parts
    shown = {name: limits[key] for name, key in _LIMITED.items() if limits[key] is not None}
    refused, reasons = limits["refused"], limits["reasons"]
    share = f"{percent(refused['rate'])} {interval(refused['interval'], 100, 1)}"
    because = "; ".join(f"{reason} of {count}" for reason, count in reasons.items())
    return [
        *parts,
        "## What the quality limits change",
        (
            f"The limits of the command line refuse {share} of the faces. Faces that miss a limit, "
            f"by limit: {because or 'none'}."
        ),
        parts_table("which", shown),
    ]


def fairness(report: Report) -> list[str]:
    """Returns the section on the largest differences between parts; empty without any."""
    gaps = {"age bands": report["fairness"]["age_bands"], **report["fairness"]["groups"]}
    lines = [
        f"- {plain(name)}: {gap['years']:.2f} years, between {plain(gap['worst'])} (largest) and "
        f"{plain(gap['best'])} (smallest)."
        for name, gap in gaps.items()
        if gap is not None
    ]
    if not lines:
        return []
    few = ", ".join(plain(name) for name, gap in gaps.items() if gap is None)
    if few:
        lines.append(f"- Not compared: {few}, with fewer than two parts of enough faces.")
    text = (
        "Difference between the largest and the smallest MAE of the parts of a table above that "
        f"have at least {ENOUGH_IN_GROUP} faces:"
    )
    return ["## Largest differences between parts (fairness)", text, "\n".join(lines)]


def missing(without: Report) -> list[str]:
    """Returns the section on single experts that give no prediction; empty for one expert."""
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
    text = (
        "If an expert gives no prediction, as when its network fails, the others are fused with "
        "what remains of the weights. **Change** is the MAE without it minus that of all experts: "
        "an expert whose removal changes nothing, or improves the MAE, may be left out."
    )
    heads = ["without", "MAE, years", "change, years"]
    return ["## When one expert is missing", table(heads, rows), text]
