"""Lists what a statement does not test: gaps in the labels, and what no labels can show."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from export.calibration.challenge import ALL, rows_by_group
from export.calibration.labeled_predictions import LabeledPredictions
from export.calibration.markdown_text import plain
from export.calibration.metrics import Rows
from export.calibration.quality import INTER_EYE
from export.calibration.report import ENOUGH_IN_GROUP, bands_of
from runtime.columns import SOURCE
from runtime.fusion import Floats

_OLDEST_LISTED = 90
_LABELS = {
    "sex": frozenset({"sex", "gender"}),
    "region of birth": frozenset({"region", "country", "region_of_birth", "country_of_birth"}),
    "ethnicity or skin tone": frozenset({"ethnicity", "race", "skin", "skin_tone"}),
}
"""Names of columns, in lower case and without `group_`, by what a statement should have."""
_MOST_NAMED = 8
NEVER = (
    ("Whether the networks were trained on some of these photographs: the software cannot know."),
    (
        "Attacks: pictures of a screen or a print, masks, make-up to look older, generated or "
        "altered faces, pictures fed in past the camera. No check for a living person is "
        "shipped."
    ),
    "Several pictures of one person taken together, and videos.",
    ("The camera, the light, the distance and the app or terminal of the service that uses this."),
    "Effects of glasses, beards, face coverings, make-up, illness or disability.",
    (
        "Speed, load and failures of the service; other hardware and precisions than made the "
        "predictions."
    ),
    "What people experience who are referred, and whether the other proof of age is right.",
)
"""Sentences on what labeled photographs cannot show."""


def not_tested(
    faces: LabeledPredictions,
    thresholds: Sequence[float],
    *,
    detector: str | None,
    youngest: float,
    fitted: Sequence[str],
) -> list[str]:
    """Returns what was not tested, as sentences in Markdown.

    Args:
        faces: the labeled faces.
        thresholds: ages in years whose decisions the statement shows.
        detector: provenance of the detector; None where it is not known.
        youngest: people below this age in years do not count as younger ones.
        fitted: sources of the photographs that the fusion tables were fitted on.
    """
    return [
        *_labels(faces),
        *_ages(faces.age_years),
        *(s for threshold in thresholds for s in _few(faces, threshold, youngest)),
        *_sources(faces, fitted),
        *_people(faces),
        *_pictures(faces, detector),
        *NEVER,
    ]


def _labels(faces: LabeledPredictions) -> Iterator[str]:
    present = {c.lower().removeprefix("group_"): c for c in faces.groups if c != SOURCE}
    for text, names in _LABELS.items():
        if not names & present.keys():
            yield f"Differences by {text}: the labels do not state it."
    for column, values in faces.groups.items():
        if empty := int((values == "").sum()):
            yield f"{plain(column)}: not labeled for {empty:,} of {len(faces):,} faces."


def _ages(ages: Floats) -> Iterator[str]:
    bands = {n.replace("-", "–"): int(rows.sum()) for n, rows in bands_of(ages).items()}
    if empty := [name for name, count in bands.items() if count == 0]:
        yield f"People of these ages: {', '.join(empty)}. There are no faces of them."
    if few := [f"{n} ({c} faces)" for n, c in bands.items() if 0 < c < ENOUGH_IN_GROUP]:
        yield f"Few faces, so that figures of these ages are vague: {', '.join(few)}."
    missing = [y for y in range(_OLDEST_LISTED + 1) if not (np.floor(ages) == y).any()]
    if spans := _spans(missing):
        yield (
            f"Single years of age without a face, of 0 to {_OLDEST_LISTED}: "
            f"{_named(spans, 'years or spans')}."
        )


def _spans(years: Sequence[int]) -> list[str]:
    """Returns sorted years as spans: `3`, `7–9`."""
    spans: list[list[int]] = []
    for year in years:
        if spans and spans[-1][1] == year - 1:
            spans[-1][1] = year
        else:
            spans.append([year, year])
    return [f"{a}" if a == b else f"{a}–{b}" for a, b in spans]


def _few(faces: LabeledPredictions, threshold: float, youngest: float) -> Iterator[str]:
    """Yields the groups with too few people on one side of a threshold."""
    ages, groups = faces.age_years, {ALL: np.ones(len(faces), bool)}
    groups |= {name.replace("=", " ", 1): rows for name, rows in rows_by_group(faces)}
    younger = (ages < threshold) & (ages >= youngest)
    for side, rows in (
        (f"younger than {threshold:g}", younger),
        (f"of {threshold:g} or older", ages >= threshold),
    ):
        counts = {name: _count(faces, rows & group) for name, group in groups.items()}
        if counts[ALL] == 0:
            counts = {ALL: 0}  # and so has no group any
        if none := [plain(name) for name, count in counts.items() if count == 0]:
            yield f"Decisions on people {side}, for lack of faces: {_named(none, 'groups')}."
        few = [f"{plain(n)} ({c})" for n, c in counts.items() if 0 < c < ENOUGH_IN_GROUP]
        if few:
            yield f"Fewer than {ENOUGH_IN_GROUP} people {side}: {_named(few, 'groups')}."


def _count(faces: LabeledPredictions, rows: Rows) -> int:
    return len(np.unique(faces.people[rows]))


def _sources(faces: LabeledPredictions, fitted: Sequence[str]) -> Iterator[str]:
    if faces.sources is None or not (known := np.unique(faces.sources[faces.sources != ""])).size:
        yield "Differences between cameras or data sets: the labels name no sources."
        return
    names = ", ".join(map(plain, known))
    yield f"Photographs of other origin than {len(known)}: {names}. A new camera can differ."
    if both := [plain(name) for name in known if name in fitted]:
        yield (
            "How the error grows on sources that the fusion tables do not know: they were fitted "
            f"on photographs of {', '.join(both)}, too."
        )


def _people(faces: LabeledPredictions) -> Iterator[str]:
    pictures = np.bincount(faces.people)
    several = int((pictures > 1).sum())
    if several == 0:
        yield "Repeated tries of one person: no person is labeled with several photographs."
    elif several < len(pictures):
        yield (
            f"Repeated tries, except by the {several:,} of {len(pictures):,} people who have "
            "several photographs."
        )


def _pictures(faces: LabeledPredictions, detector: str | None) -> Iterator[str]:
    if INTER_EYE not in faces.quality:
        yield "Effects of the picture's quality: it was not measured."
    found = "photographs in which no face was found are not counted; those people are referred"
    yield f"How often a face is overlooked: {found}."
    if detector is None:
        yield "The detector of faces: it is not stated which one found these."


def _named(names: Sequence[str], what: str) -> str:
    rest = len(names) - _MOST_NAMED
    return ", ".join(names[:_MOST_NAMED]) + (f" and {rest} more {what}" if rest > 0 else "")
