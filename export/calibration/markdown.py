"""The report as a page that a person reads without help: `report.md`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from export.calibration.report import ENOUGH_IN_GROUP

Report = Mapping[str, Any]

_NO_CERTIFICATION = (
    "These rates follow the definitions of NIST's Face Analysis Technology Evaluation, Age "
    "Estimation and Verification (FATE AEV): a false positive is a person outside the allowed "
    "ages who is estimated inside, a false negative a person inside who is estimated outside. "
    "They describe these faces and no others. They are no NIST result and no certification."
)


def markdown(report: Report, title: str, preface: Sequence[str], files: Sequence[str]) -> str:
    """The report as Markdown.

    Args:
        report: as `calibration.report.report_of` makes it.
        title: the first heading.
        preface: paragraphs on where the figures come from.
        files: pictures beside the page, by file name.
    """
    parts = [
        f"# {title}",
        *preface,
        _headline(report),
        "## Accuracy",
        _accuracy(report),
        _picture(files, "error_by_age.png", "Mean absolute error by age, before and after"),
        "## By age",
        _bands("Labeled age", report["age_bands"]),
        _bands("Estimated age", report["estimated_age_bands"]),
        *_groups(report["groups"]),
        "## Fairness and stability",
        _fairness(report),
        *_missing(report["without"]),
        *_policies(report["policy"]),
        *_reliabilities(report["reliability"]),
        _picture(files, "reliability.png", "Claimed against observed probability"),
        *_tables(files),
        "## How to read this page",
        _GLOSSARY,
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


_GLOSSARY = """\
- **Error** is estimate minus labeled age, in years. **MAE** is the mean of its size, **median**
  the middle one, **bias** its mean with its sign (above 0: people are estimated too old),
  **RMSE** the root of its mean square, **CS@5** the share of faces within 5 years.
- **Raw** is what an expert says, **corrected** the same after its own bias was taken out, **mean**
  the plain average of all experts, **fused** what the runtime answers.
- **Covered** is how often the 90 % interval holds the labeled age. It is promised by estimated
  age; by labeled age it varies with how well the faces of an age can be told apart.
- Square brackets hold 95 % intervals: bootstrap over people for means, Wilson for shares."""


def _headline(report: Report) -> str:
    best = report["gain"]["over"]
    text = (
        f"**{report['faces']} faces. Fused: {_years(report, 'fused')}. "
        f"Best expert alone, corrected: {best}, {report['mae'][best]['corrected']:.2f} years; "
        f"fusing gains {report['gain']['years']:+.3f} years "
        f"{_interval(report['gain']['interval'], 1, 3)}.**"
    )
    if "90" in report["coverage"]:
        width = report["interval_width_years"]["90"]
        text += (
            f" **The 90 % interval holds {_percent(report['coverage']['90'])} of the true ages "
            f"{_interval(report['coverage_interval']['90'], 100, 1)} and is {width:.1f} years "
            "wide on average.**"
        )
    return text


def _years(report: Report, method: str) -> str:
    found = _interval(report["mae_interval"][method], 1, 2)
    return f"{report['mae'][method]:.2f} years mean absolute error {found}"


def _accuracy(report: Report) -> str:
    rows = [["**fused**", *_row(report, ("fused",))]]
    kinds = ("corrected", "raw")
    rows += [[f"mean of {kind}", *_row(report, ("mean", kind))] for kind in kinds]
    for kind in kinds:
        rows += [[f"{name}, {kind}", *_row(report, (name, kind))] for name in report["experts"]]
    heads = ["", "MAE", "median", "bias", "RMSE", "CS@5"]
    return _table(heads, rows)


def _row(report: Report, place: Sequence[str]) -> list[str]:
    cells = []
    for figure in ("mae", "median", "bias", "rmse"):
        value, limits = (_at(report[key], place) for key in (figure, f"{figure}_interval"))
        sign = "+" if figure == "bias" else ""
        cells.append(f"{value:{sign}.2f} {_interval(limits, 1, 2)}")
    share, limits = _at(report["cs5"], place), _at(report["cs5_interval"], place)
    return [*cells, f"{_percent(share)} {_interval(limits, 100, 0)}"]


def _at(nested: Any, place: Sequence[str]) -> Any:  # noqa: ANN401 - JSON values
    for key in place:
        nested = nested[key]
    return nested


def _bands(head: str, sections: Report) -> str:
    heads = [head, "faces", "fused MAE", "bias", "spread of error", "best expert", "covered (90 %)"]
    return _table(heads, [_section(name, section) for name, section in sections.items()])


def _section(name: str, section: Report) -> list[str]:
    errors = section["mae"]
    experts = [key for key in errors if key not in ("fused", "mean")]
    best = min(experts, key=lambda expert: errors[expert]["corrected"])
    covered = "–"
    if "90" in section["coverage"]:
        limits = section["coverage_interval"]["90"]
        covered = f"{_percent(section['coverage']['90'])} {_interval(limits, 100, 0)}"
    few = " (few)" if section["faces"] < ENOUGH_IN_GROUP else ""
    return [
        name,
        f"{section['faces']}{few}",
        f"{errors['fused']:.2f} {_interval(section['mae_interval']['fused'], 1, 2)}",
        f"{section['bias']['fused']:+.2f}",
        f"{section['spread']['fused']:.2f}",
        f"{errors[best]['corrected']:.2f} ({best})",
        covered,
    ]


def _groups(groups: Report) -> list[str]:
    if not groups:
        return []
    return ["## By group", *(_bands(column, sections) for column, sections in groups.items())]


def _fairness(report: Report) -> str:
    gaps = {"age bands": report["fairness"]["age_bands"], **report["fairness"]["groups"]}
    lines = []
    for name, gap in gaps.items():
        if gap is None:
            lines.append(f"- {name}: fewer than two parts with {ENOUGH_IN_GROUP} faces.")
        else:
            lines.append(
                f"- {name}: the largest gap of the fused MAE is {gap['years']:.2f} years, between "
                f"{gap['worst']} and {gap['best']}."
            )
    lines.append(
        "- Stability: the spread of error in the tables above is the standard deviation of the "
        "fused error within each part."
    )
    return "\n".join(lines)


def _missing(without: Report) -> list[str]:
    if not without:
        return []
    rows = [
        [
            name,
            f"{found['mae']:.2f} {_interval(found['mae_interval'], 1, 2)}",
            f"{found['added_years']:+.2f} {_interval(found['added_interval'], 1, 2)}",
        ]
        for name, found in without.items()
    ]
    table = _table(["without", "fused MAE", "change against all experts"], rows)
    return ["## When one expert is missing", table]


def _policies(policies: Report) -> list[str]:
    return [part for item in policies.items() for part in _policy(*item)]


def _policy(threshold: str, rows: Sequence[Report]) -> list[str]:
    low, high = rows[0]["near_ages"]
    last = float(threshold) - 1
    heads = [
        "challenge age",
        f"false positives: all under {threshold}",
        f"… aged {low:g} to {last:g}",
        f"false negatives: all {threshold} or older",
        f"… aged {threshold} to {high:g}",
    ]
    keys = ("false_positive", "false_positive_near", "false_negative", "false_negative_near")
    cells = [[f"{row['challenge_age']:g}", *(_rate(row[key]) for key in keys)] for row in rows]
    counts = ", ".join(f"{rows[0][key]['faces']}" for key in keys)
    return [
        f"## Policy: is this person {threshold} or older?",
        (
            f"Whoever is estimated at least as old as the challenge age passes; everybody else is "
            f"asked for proof. Faces behind the four columns: {counts}."
        ),
        _table(heads, cells),
        _NO_CERTIFICATION,
    ]


def _rate(found: Report) -> str:
    if found["rate"] is None:
        return "no such faces"
    return f"{_percent(found['rate'])} {_interval(found['interval'], 100, 1)}"


def _reliabilities(found: Report) -> list[str]:
    parts = []
    for threshold, result in found.items():
        if result is None:
            continue
        rows = [
            [_percent(b["claimed"]), str(b["came_true"]["faces"]), _rate(b["came_true"])]
            for b in result["bins"]
        ]
        parts += [
            f"## Reliability of `probability_at_least({threshold})`",
            (
                f"Claimed on average {_percent(result['claimed_mean'])}, came true "
                f"{_percent(result['came_true_mean'])}; Brier score {result['brier']:.4f}."
            ),
            _table(["claimed", "faces", "came true"], rows),
        ]
    return parts


def _tables(files: Sequence[str]) -> list[str]:
    shown = [
        _picture(files, "bias.png", "What is added to each expert's reading"),
        _picture(files, "gate.png", "Whom the gate believes, by age"),
    ]
    return ["## The tables", *shown] if any(shown) else []


def _picture(files: Sequence[str], name: str, caption: str) -> str:
    return f"![{caption}]({name})" if name in files else ""


def _percent(share: float) -> str:
    return f"{100.0 * share:.1f} %"


def _interval(limits: Sequence[float], factor: float, digits: int) -> str:
    low, high = (factor * limit for limit in limits)
    return f"[{low:.{digits}f}, {high:.{digits}f}]"


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [heads, ["---", *["---:"] * (len(heads) - 1)], *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
