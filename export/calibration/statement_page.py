"""A statement as one Markdown page for people who buy or supervise age checks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from export.calibration.challenge import upper_bound
from export.calibration.markdown_tables import coverage
from export.calibration.markdown_text import plain
from export.calibration.quality import limit_sentences
from export.calibration.statement import FEWEST_PEOPLE, Cell, Figures, Rates, overall
from export.calibration.statement_about import About, versions
from export.calibration.statement_tables import (
    bins_table,
    errors_table,
    limits_table,
    mae,
    percent,
    rates_table,
    share,
)
from export.calibration.statement_words import (
    ACCEPTABILITY,
    INTERVALS,
    NATURE,
    PEOPLE,
    PLACEHOLDERS,
    PRIVACY,
    SECURITY,
    VERSIONS,
)
from runtime.manifest import PLACEHOLDER_KINDS
from runtime.printing import MOST_LINE


def statement_page(about: About, figures: Figures) -> str:
    """Returns the page."""
    parts = [
        "# What this age estimation does, and how well",
        *_opening(about, figures),
        "## 1. Functionality",
        *_functionality(about),
        "## 2. Performance",
        *_tested_on(about, figures),
        "### Error of the estimated age",
        *_errors(about, figures),
        *_decisions(about, figures),
        *_quality(about, figures),
        "## 3. Privacy",
        PRIVACY,
        "## 4. Security",
        SECURITY,
        "## 5. Acceptability",
        ACCEPTABILITY,
        "## 6. What was not tested",
        "\n".join(f"- {sentence}" for sentence in about.not_tested),
        "## 7. Versions and hashes",
        VERSIONS,
        "\n".join(f"- {line}" for line in versions(about)),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _opening(about: About, figures: Figures) -> Iterator[str]:
    if any(expert.source.kind in PLACEHOLDER_KINDS for expert in about.experts.values()):
        yield PLACEHOLDERS
    if about.overlap.fitted or about.overlap.same_name:
        yield f"**Warning: {plain(about.overlap.sentence(), MOST_LINE)}**"
    date = [] if about.date is None else [f"Date: {plain(about.date)}."]
    policy = (
        "No policy was fitted"
        if about.policy is None
        else f"Policy: challenge age {about.policy.challenge:g} for the threshold "
        f"{about.policy.threshold:g}, id `{about.policy.id}`"
    )
    yield " ".join([*date, f"AgeMoE runtime {plain(about.version)}. {policy}."])
    yield NATURE
    error = mae(figures.groups["all"][0]).partition(" (")[0]
    lines = [
        f"The estimated age is wrong by {error} years on average.",
        *(line for one in figures.rates for line in _summary(one)),
        "What was not tested is listed in section 6. It matters as much as the figures.",
    ]
    yield "**In short**"
    yield "\n".join(f"- {line}" for line in lines)


def _summary(rates: Rates) -> Iterator[str]:
    younger, older, worst = overall(rates.younger), overall(rates.older), rates.worst
    threshold, at = f"{rates.threshold:g}", f"at the challenge age {rates.challenge:g}"
    none = "unknown, as there are no photographs of them"
    wrong = none if younger is None else share(younger)
    yield f"People younger than {threshold} who wrongly pass {at}: {wrong}."
    sent = none if older is None else share(older)
    yield f"People of {threshold} or older who are sent to another proof of age {at}: {sent}."
    if worst is not None:
        column, _, value = worst.group.partition("=")
        yield (
            f"Worst group, by the upper end of the interval: {plain(column)} {plain(value)}, where "
            f"{worst.events:,} of {worst.people:,} younger people pass, {share(worst)}."
        )


def _functionality(about: About) -> Iterator[str]:
    names = ", ".join(map(plain, about.experts))
    count = len(about.experts)
    how = (
        f"{count} networks (*experts*: {names}) each estimate the person's age; tables that were "
        "fitted on photographs of known age correct and combine them into one"
        if count > 1
        else f"A network ({names}) estimates the person's age; tables that were fitted on "
        "photographs of known age correct it"
    )
    spread = "" if about.tables.spread is None else " and a range that should hold it in 90 %"
    yield (
        f"A photograph is searched for a face. {how}. The result is an estimated age in "
        f"years{spread}. This is an estimate from appearance: it is not proof of an age."
    )
    policy = about.policy
    fail = "nobody **fails** outright"
    if policy is not None and policy.floor is not None:
        fail = f"who is estimated younger than {policy.floor:g} **fails**"
    yield (
        "For a check of a required age, the **threshold**, a person **passes** whose estimated age "
        "reaches the **challenge age**, which is set higher to leave room for errors. All others "
        f"are **referred** to another proof of age, such as a document; {fail}. Any doubt (no "
        "face, a network that failed) also refers. Only doubts about the quality of the picture "
        "are counted in the tables below, so that more people are referred in practice."
    )
    if policy is None:
        yield (
            "**No policy was fitted:** nobody has chosen a challenge age from measured error rates "
            "yet. The challenge ages on this page are examples."
        )


def _tested_on(about: About, figures: Figures) -> Iterator[str]:
    low, high = about.ages
    sources = [
        (name.partition("=")[2], cells[0].people)
        for name, cells in figures.groups.items()
        if name.startswith("source=")
    ]
    listed = ", ".join(f"{plain(name)} ({people:,})" for name, people in sources)
    yield (
        f"Tested on {figures.overall['faces']:,} photographs of {figures.people:,} people aged "
        f"{low:g} to {high:g}, from the labeled data {plain(about.data)}"
        + (f", of these sources (number of people): {listed}." if listed else ".")
        + f" The true ages are those of the labels. {plain(about.overlap.sentence(), MOST_LINE)}"
    )
    yield INTERVALS


def _errors(about: About, figures: Figures) -> Iterator[str]:
    found = figures.overall
    error, bias = found["mae"]["fused"], found["bias"]["fused"]
    side = "too old" if bias > 0 else "too young"
    text = (
        "The mean absolute error (MAE) is the average distance, in years, between estimated and "
        f"true age. Over all photographs it is {error:.2f} years; on average, people are estimated "
        f"{abs(bias):.2f} years {side}."
    )
    if "90" in found["coverage"]:
        text += f" The 90 % range holds the true age in {coverage(found, 1)} of faces."
    yield text
    yield (
        "Each cell: MAE ± its uncertainty (number of people). A number alone in brackets: fewer "
        f"than {FEWEST_PEOPLE} people, too few for a figure."
    )
    yield errors_table("people", figures.bands, _named(figures.groups))
    if figures.combined:
        columns = [name.partition("=")[0] for name in figures.groups if "=" in name]
        heads = [plain(c) for c in dict.fromkeys(columns) if c != "source"]
        yield f"By {' × '.join(heads)} × age:"
        yield errors_table(" × ".join(heads), figures.bands, figures.combined)
    if figures.left_out:
        yield f"{figures.left_out:,} more combinations are not shown."
    if about.limits is not None:
        yield "These tables count all faces, also those that the limits on quality refuse."


def _named(groups: Mapping[str, Sequence[Cell]]) -> Mapping[str, Sequence[Cell]]:
    return {name.replace("=", ": ", 1): cells for name, cells in groups.items()}


def _decisions(about: About, figures: Figures) -> Iterator[str]:
    for threshold in dict.fromkeys(one.threshold for one in figures.rates):
        rates = [one for one in figures.rates if one.threshold == threshold]
        yield f"### Wrong decisions: is this person {threshold:g} or older?"
        yield f"A **false positive** is a person younger than {threshold:g} who passes. {PEOPLE}"
        yield from _claim(about, rates)
        youngest = 0.0
        if about.policy is not None and about.policy.evidence is not None:
            youngest = about.policy.evidence.youngest
        if youngest:
            yield f"People below {youngest:g} are not counted here; they would flatter the rate."
        yield rates_table("pass", rates, younger=True) or "There are no such people."
        yield (
            f"A **false negative** is a person of {threshold:g} or older who does not pass and has "
            "to prove the age in another way:"
        )
        yield rates_table("do not pass", rates, younger=False) or "There are no such people."
        for one in rates:
            if one.failed is not None and one.failed.people:
                yield f"Of them, wrongly **fail**: {share(one.failed)}."


def _claim(about: About, rates: Sequence[Rates]) -> Iterator[str]:
    """Yields whether the policy's limit holds on these faces, for all and in every group."""
    policy = about.policy
    if policy is None:
        return
    one = next((r for r in rates if r.challenge == policy.challenge), None)
    if one is None or one.threshold != policy.threshold:
        return
    limit = policy.max_false_positive
    if limit is None:
        yield "The policy's challenge age was chosen without a limit on false positives."
        return
    holds = "is shown to be kept" if one.bound <= limit else "is **not** shown to be kept"
    missed = [
        rate
        for rate in one.younger
        if "=" in rate.group and upper_bound(rate.events, rate.people) > limit
    ]
    groups = ", ".join(plain(rate.group).replace("=", " ", 1) for rate in missed)
    text = (
        f"The policy's limit on false positives is {100.0 * limit:g} %. On these people, all "
        f"together, it {holds}: with 95 % confidence, the true rate is below {percent(one.bound)}."
    )
    if missed:
        text += f" It is **not** shown for these groups by themselves: {groups}."
    yield text
    if policy.evidence is not None and policy.evidence.data == about.overlap.named(about.data):
        yield (
            "The challenge age was chosen or verified on data of the same name. The bound allows "
            "for that choice; the intervals in the table do not."
        )


def _quality(about: About, figures: Figures) -> Iterator[str]:
    if figures.bins:
        yield "### By size of the face"
        yield (
            "The distance between the eyes, in pixels, says how large the face is in the picture. "
            "**Bias** is the average of estimated minus true age. Sizes differ between sources and "
            "ages too, so a difference between rows need not come from the size."
        )
        yield bins_table(figures)
    yield "### Limits on the quality of a picture"
    if about.limits is None:
        yield "No limits are set: every face that is found is decided on."
        return
    words = "; ".join(limit_sentences(about.limits)) or "a face must be found"
    faces = figures.overall["faces"]
    accepted = "" if figures.accepted_mae is None else mae(figures.accepted_mae).partition(" (")[0]
    yield (
        f"Required: {words}. Pictures that miss a limit are referred: {figures.refused:,} of "
        f"{faces:,} of these."
        + (f" The error of the others is {accepted} years." if accepted else "")
    )
    yield limits_table(figures)
