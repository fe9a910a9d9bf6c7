"""The report as a self-explanatory page: `report.md`. A term is explained where it stands first."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from export.calibration.markdown_decisions import policy, reliability
from export.calibration.markdown_parts import (
    ages,
    fairness,
    groups,
    left_out,
    missing,
    quality,
)
from export.calibration.markdown_tables import Report, coverage, image, interval, percent
from export.calibration.markdown_text import plain, table

_BRACKETS = """\
Square brackets hold 95 % confidence intervals, which show how far a figure would vary with other
people of the same kind. Those of means are bootstrap intervals: the figure is computed again for
many random draws of the people, with replacement and with all pictures of a person together. Those
of shares are Wilson's score intervals, those of medians are from order statistics."""

_FIGURES = """\
An error is the estimated minus the labeled age. **MAE**, the mean absolute error, is the average of
the errors without their signs. **Median**: half of the errors without sign are smaller. **Bias** is
the average of the errors with their signs; above 0, people are estimated too old. **RMSE**, the
root of the mean squared error, counts large errors more. **CS@5**, the cumulative score, is the
share of faces estimated within 5 years of the labeled age."""

_ROWS = """\
An **expert** is one network. **Raw** is its own prediction; **corrected** is the same after the
bias correction, which adds a number of years that depends on the prediction. **Mean** is the plain
average of all experts, for comparison. **Fused** is the age that the runtime returns: the average
of the corrected predictions with the gate's weights."""

_ONE_ROW = """\
There is one expert (network) alone, so nothing is fused and there is no gate. **Raw** is its own
prediction; **corrected**, the age that the runtime returns, is the same after the bias correction,
which adds a number of years that depends on the prediction."""

_NO_INTERVALS = """\
The tables have no intervals, so coverage and probabilities are not reported. `agemoe
calibrate --keep-fusion` fits intervals on labeled faces."""

_PLOTS = {
    "bias.png": "Years that are added to each expert's raw prediction",
    "gate.png": "Weight of each expert in the fused age, by pivot age",
}
_BIAS_PLOT = """\
The bias correction that is added to an expert's raw prediction. It is smaller where predictions are
rare, and constant beyond the outermost ones of the fit."""
_GATE_PLOT = """\
The **pivot age** is a first estimate of a face's age: an average of the corrected predictions with
weights that are the same for every face. The experts' weights in the fused age depend on it."""


def markdown(report: Report, title: str, preface: Sequence[str], files: Sequence[str]) -> str:
    """Returns the report as Markdown, with a preface of paragraphs and links to plot files."""
    caption = "Mean absolute error by labeled age, with 95 % confidence intervals"
    parts = [
        f"# {title}",
        *preface,
        "\n".join(f"- {line}" for line in _headline(report)),
        _BRACKETS,
        "" if report["coverage"] else _NO_INTERVALS,
        "## How large the errors are",
        _accuracy(report),
        _FIGURES,
        _ROWS if len(report["experts"]) > 1 else _ONE_ROW,
        *ages(report),
        image(files, "error_by_age.png", caption),
        *groups(report),
        *left_out(report.get("left_out")),
        *quality(report),
        *fairness(report),
        *missing(report["without"]),
        *(part for item in report["policy"].items() for part in policy(*item)),
        *(part for item in report["reliability"].items() for part in reliability(*item)),
        image(files, "reliability.png", "Probabilities that were stated and what came true"),
        *_tables(files),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _headline(report: Report) -> Iterator[str]:
    best, gain, alone = report["gain"]["over"], report["gain"], len(report["experts"]) == 1
    error, limits = report["mae"]["fused"], interval(report["mae_interval"]["fused"], 1, 2)
    kind = "corrected" if alone else "fused"
    yield (
        f"**Error:** on {report['faces']:,} faces, the {kind} age is wrong by {error:.2f} years "
        f"{limits} on average (mean absolute error)."
    )
    if not alone:
        single = report["mae"][best]["corrected"]
        yield (
            f"**Gain by fusing:** {gain['years']:+.2f} years {interval(gain['interval'], 1, 2)} "
            f"against the best expert alone, {plain(best)}, which after correction is wrong by "
            f"{single:.2f} years. Above 0, fusing is better; if the interval contains 0, the faces "
            "do not show which is better."
        )
    if "90" in report["coverage"]:
        width = report["interval_width_years"]["90"]
        yield (
            f"**Intervals:** the 90 % interval, which should contain the true age of 90 % of all "
            f"faces, contains that of {coverage(report, 1)}. It is {width:.1f} years wide on "
            "average."
        )


def _accuracy(report: Report) -> str:
    names = report["experts"]
    if len(names) == 1:
        rows = [[kind, *_row(report, (names[0], kind))] for kind in ("corrected", "raw")]
    else:
        kinds = ("corrected", "raw")
        rows = [["**fused**", *_row(report, ("fused",))]]
        rows += [[f"mean of {kind}", *_row(report, ("mean", kind))] for kind in kinds]
        rows += [
            [f"{plain(name)}, {kind}", *_row(report, (name, kind))]
            for kind in kinds
            for name in names
        ]
    heads = ["age", "MAE, years", "median, years", "bias, years", "RMSE, years", "CS@5"]
    return table(heads, rows)


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


def _tables(files: Sequence[str]) -> list[str]:
    """Returns the section on the fitted tables; none without their plots."""
    texts = {"bias.png": _BIAS_PLOT, "gate.png": _GATE_PLOT}
    plots = [
        part
        for name, caption in _PLOTS.items()
        if name in files
        for part in (texts[name], image(files, name, caption))
    ]
    return ["## What the tables do to a prediction", *plots] if plots else []
