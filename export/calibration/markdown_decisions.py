"""Sections of the report on age limits: wrong decisions, and probabilities that come true."""

from __future__ import annotations

from collections.abc import Sequence

from export.calibration.markdown_tables import Report, percent, rate
from export.calibration.markdown_text import table

_POLICY = """\
A person passes whose estimated age reaches the **challenge age**; all others are asked for another
proof of age. A **false positive** is a person under {limit} who passes, a **false negative** a
person of {limit} or older who does not. The rates are shares of the faces in the head of each
column; ages near the limit are the hardest to tell apart."""

_NO_CERTIFICATION = """\
These rates follow the definitions of NIST's Face Analysis Technology Evaluation, Age Estimation and
Verification (FATE AEV). They describe these faces only; they are no result of NIST and
no certification."""


def policy(threshold: str, rows: Sequence[Report]) -> list[str]:
    """Returns the section on the wrong decisions at one age limit; columns without faces go."""
    low, high = rows[0]["near_ages"]
    columns = {
        "false_positive": f"false positives, of {{}} under {threshold}",
        "false_positive_near": f"false positives, of {{}} aged {low:g} to {float(threshold) - 1:g}",
        "false_negative": f"false negatives, of {{}} of {threshold} or older",
        "false_negative_near": f"false negatives, of {{}} aged {threshold} to {high:g}",
    }
    faces = {key: rows[0][key]["faces"] for key in columns}
    kept = [key for key, count in faces.items() if count]
    heads = ["challenge age, years", *(columns[key].format(f"{faces[key]:,}") for key in kept)]
    cells = [[f"{row['challenge_age']:g}", *(rate(row[key]) for key in kept)] for row in rows]
    sides = {"false_positive": f"under {threshold}", "false_negative": f"of {threshold} or older"}
    absent = [
        f"No face is {side}, so {key.replace('_', ' ')}s are unknown."
        for key, side in sides.items()
        if not faces[key]
    ]
    return [
        f"## Wrong decisions: is this person {threshold} or older?",
        _POLICY.format(limit=threshold),
        table(heads, cells),
        " ".join(absent),
        _NO_CERTIFICATION,
    ]


def reliability(threshold: str, found: Report | None) -> list[str]:
    """Returns the section on the probability of an age limit; empty without intervals."""
    if found is None:
        return []
    rows = [
        [percent(b["claimed"]), str(b["came_true"]["faces"]), rate(b["came_true"])]
        for b in found["bins"]
    ]
    claimed, observed = percent(found["claimed_mean"]), percent(found["came_true_mean"])
    return [
        f"## Whether `probability_at_least({threshold})` comes true (reliability)",
        (
            f"The runtime states for each face the probability of being {threshold} or older. "
            "Faces are sorted into ten bins by it. **Stated** is its average in the bin, **came "
            f"true** the share of the bin's faces that are {threshold} or older: reliable "
            "probabilities have about equal numbers in both columns."
        ),
        table(["stated", "faces", "came true"], rows),
        (
            f"Over all faces {claimed} were stated and {observed} came true. The Brier score, the "
            "mean squared difference between the probability and what is true (0 or 1), is "
            f"{found['brier']:.4f}; 0 is perfect, and stating 50 % for every face gives 0.25."
        ),
    ]
