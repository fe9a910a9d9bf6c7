"""Tables of a statement as Markdown: errors by group and age, rates of wrong decisions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from export.calibration.markdown_text import plain, table
from export.calibration.report import ENOUGH_IN_GROUP
from export.calibration.statement import Bin, Cell, Figures, Rates, overall
from runtime.policy_terms import Rate


def share(rate: Rate) -> str:
    """Returns a rate with its interval; none and all are shown as the bound that they are."""
    if rate.events == 0:
        return f"none; at most {percent(rate.high)}"
    if rate.events == rate.people:
        return f"all; at least {percent(rate.low)}"
    low, high = (percent(end).removesuffix(" %") for end in (rate.low, rate.high))
    return f"{percent(rate.events / rate.people)} [{low}, {high}]"


def percent(part: float) -> str:
    """Returns a share, 0..1, in percent with three digits; only 0 is 0, and only 1 is 100."""
    if part in (0.0, 1.0):
        return f"{100.0 * part:g} %"
    text = ""
    for digits in range(3, 12):
        text = f"{100.0 * part:#.{digits}g}".rstrip(".")
        if float(text) < 100.0:
            break
    return f"{text} %"


def mae(cell: Cell) -> str:
    """Returns an error with half the width of its interval and the number of people."""
    if cell.people == 0:
        return "–"
    if cell.mae_years is None:
        return f"({cell.people:,})"
    return f"{cell.mae_years:.1f} ± {cell.reach_years:.1f} ({cell.people:,})"


def errors_table(head: str, bands: Sequence[str], rows: Mapping[str, Sequence[Cell]]) -> str:
    """Returns a table of errors: a row per group, a column for all ages and for each band."""
    heads = [head, "all ages", *(band.replace("-", "–") for band in bands)]
    return table(heads, [[plain(name), *map(mae, cells)] for name, cells in rows.items()])


def rates_table(event: str, rates: Sequence[Rates], *, younger: bool) -> str:
    """Returns a table of wrong decisions at one threshold: a row per group and age band."""
    heads = ["people", "number"]
    for one in rates:
        age = f"challenge {one.challenge:g}"
        heads += [f"{event}, {age}", f"rate, {age}"]
    columns = [one.younger if younger else one.older for one in rates]
    rows = []
    for same in zip(*columns, strict=True):
        if (people := same[0].people) == 0:
            continue
        few = " (few)" if people < ENOUGH_IN_GROUP else ""
        row = [_group(same[0].group), f"{people:,}{few}"]
        for rate in same:
            row += [f"{rate.events:,}", share(rate)]
        rows.append(row)
    return table(heads, rows) if rows else ""


def _group(name: str) -> str:
    """Returns the name of a group, or that of a band of ages, for a reader."""
    if "=" in name:
        return plain(name).replace("=", ": ", 1)
    return "**all**" if name == "all" else f"age {name.replace('-', '–')}"


def bins_table(figures: Figures) -> str:
    """Returns the table by the distance between the eyes."""
    rates = figures.rates[0]
    heads = [
        "distance, pixels",
        "faces",
        "average error, years",
        "bias, years",
        f"younger than {rates.threshold:g} who pass at {rates.challenge:g}",
        f"of {rates.threshold:g} or older who do not",
    ]
    return table(heads, [_bin(one) for one in figures.bins])


def _bin(one: Bin) -> list[str]:
    return [
        one.name,
        f"{one.faces:,}",
        mae(one.error),
        f"{one.bias_years:+.1f}",
        _of(one.younger),
        _of(one.older),
    ]


def _of(rate: Rate | None) -> str:
    return "no people" if rate is None else f"{rate.events:,} of {rate.people:,}: {share(rate)}"


def limits_table(figures: Figures) -> str:
    """Returns what limits on quality change; empty without limits."""
    rows = list(_limited(figures.rates))
    heads = ["people", "without the limits", "with the limits"]
    return table(heads, rows) if rows else ""


def _limited(rates: Sequence[Rates]) -> Iterator[list[str]]:
    for one in rates:
        if one.without_limits is None:
            continue
        pairs = zip(one.without_limits, (overall(one.younger), overall(one.older)), strict=True)
        who = f"younger than {one.threshold:g} who pass", f"{one.threshold:g} or older who do not"
        for name, (before, after) in zip(who, pairs, strict=True):
            yield [f"{name} at {one.challenge:g}", _of(before), _of(after)]
