"""Fits a policy on labeled faces, prints its error rates and writes `policy.json`."""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from export.calibration.challenge import (
    CONFIDENCE,
    Challenge,
    ChallengeOptions,
    candidates,
    fewest_people,
    fit_challenge,
    people_counted,
)
from export.calibration.command import data_name
from export.calibration.inputs import LabeledData, experts_of
from export.calibration.markdown_text import plain, table
from export.calibration.origin import fitted_faces
from export.calibration.quality import limit_sentences, refused_by
from export.calibration.scores import Scores
from export.errors import ClaimError, OptionsError
from runtime.decisions import Policy
from runtime.fusion import FusionTables
from runtime.fusion_file import FILE_NAME as FUSION_NAME
from runtime.fusion_file import read_fusion
from runtime.policy_file import FILE_NAME, write_policy
from runtime.policy_terms import Binding, Evidence, Rate
from runtime.printing import MOST_LINE, printable
from runtime.quality import QualityLimits

_LOGGER = logging.getLogger("agemoe")
_NOTE = (
    "Square brackets hold two-sided 95 % Clopper–Pearson intervals. People are counted, each by "
    "the least favorable picture. The bound holds for people like those in"
)
_FEW = "Add labeled faces of people younger than the threshold, or leave groups out of --groups."
_FORCE = "--without-claim writes the policy and records that the claim is not made."


def write_fitted_policy(
    arguments: argparse.Namespace,
    options: ChallengeOptions,
    data: LabeledData,
    scores: Scores,
    tables: FusionTables,
    limits: QualityLimits | None = None,
) -> None:
    """Fits a policy, prints it, and writes it into the engines folder if its claim holds.

    Faces that miss the limits on quality count as referred; the policy records the limits.

    Raises:
        OptionsError: the engines folder holds other fusion tables than those that were evaluated.
        ClaimError: the labeled faces do not support the claim, and it is not waived.
    """
    engines: Path = arguments.engines
    binding = binding_in_use(engines, data, tables)
    name = data_name(arguments)
    overlap = fitted_faces(tables, data.faces, name)
    refused = refused_by(data.faces, limits)
    ages = np.where(refused, np.nan, scores.fused_years)
    found = fit_challenge(data.faces, ages, options)
    counted = people_counted(data.faces, ages, options)
    if found is None:
        highest = candidates(options.threshold)[0]
        raise ClaimError(
            f"No challenge age up to {highest:g} will do. {_not_shown(options, counted)} "
            f"{_FEW} Or choose a --challenge. Nothing was written."
        )
    policy = _policy(options, found, binding, overlap.named(name), limits)
    if limits is not None:
        missed = "%d of %d faces miss the quality limits and count as referred."
        _LOGGER.info(missed, refused.sum(), len(refused))
    if arguments.json:
        print(json.dumps({"id": policy.id, **policy.to_dict()}, indent=1, sort_keys=True))
    else:
        print(f"{policy_text(policy)}\n\n{plain(overlap.sentence(), MOST_LINE)}")
    unmet = options.max_false_positive is not None and not found.claimed
    if unmet and not arguments.without_claim:
        raise ClaimError(f"{_not_shown(options, counted)} {_FEW} {_FORCE} Nothing was written.")
    write_policy(engines / FILE_NAME, policy)
    if not arguments.json:
        print(f"\nWrote {printable(engines / FILE_NAME)}, policy {policy.id}.")


def binding_in_use(engines: Path, data: LabeledData, tables: FusionTables) -> Binding:
    """Returns what a policy is bound to: experts and tables of the engines folder.

    Raises:
        OptionsError: the folder holds other fusion tables than these.
    """
    path = engines / FUSION_NAME
    if not path.exists() or read_fusion(path).sha256 != tables.sha256:
        raise OptionsError(
            [f"--fusion must be the tables in use, {path}: a policy holds for no other tables"]
        )
    experts = data.experts or experts_of(engines, data.faces.names)
    return replace(Binding.of(experts, tables), detector=data.detector or tables.detector)


def _policy(
    options: ChallengeOptions,
    found: Challenge,
    binding: Binding,
    data: str,
    quality: QualityLimits | None,
) -> Policy:
    limit = options.max_false_positive
    evidence = Evidence(
        data,
        options.threshold,
        found.challenge,
        found.claimed,
        found.bound,
        found.worst,
        found.younger,
        found.older,
        options.youngest,
        found.failed,
    )
    return Policy(
        threshold=options.threshold,
        challenge=found.challenge,
        floor=options.floor,
        max_false_positive=limit,
        confidence=None if limit is None else CONFIDENCE,
        quality=quality,
        binding=binding,
        evidence=evidence,
    )


def _not_shown(options: ChallengeOptions, counted: Mapping[str, int]) -> str:
    """Returns what these faces do not show, and which groups have too few people for it."""
    limit = options.max_false_positive or 0.0
    fewest = fewest_people(limit)
    few = [f"{name} has {count}" for name, count in counted.items() if count < fewest]
    text = (
        f"These faces do not show with {CONFIDENCE:.0%} confidence that the rate of false "
        f"positives is under {_percent(limit)} in each of: {', '.join(counted)}."
    )
    if few:
        text += (
            f" Too few people {_whom(options.youngest)} {options.threshold:g}: "
            f"{', '.join(few)}; at least {fewest} are needed even if none "
            "of them passes."
        )
    return text


def policy_text(policy: Policy) -> str:
    """Formats a fitted policy and its error rates as Markdown."""
    evidence = policy.evidence
    if evidence is None:
        return f"Policy {policy.id}: challenge age {policy.challenge:g}, not measured."
    bound = (
        f"The upper {CONFIDENCE:.0%} confidence bound on the rate of false positives is "
        f"{_percent(evidence.bound)}, in {plain(evidence.worst)}."
    )
    if policy.max_false_positive is not None:
        limit = _percent(policy.max_false_positive)
        claim = "under the limit of" if evidence.claimed else "NOT under the limit of"
        bound += f" That is {claim} {limit}."
    parts = [
        f"## Policy: challenge age {policy.challenge:g} for the threshold {policy.threshold:g}",
        bound,
        f"False positives: people {_whom(evidence.youngest)} {policy.threshold:g} who pass.",
        _table("pass", evidence.younger),
        f"False negatives: people of {policy.threshold:g} and older who are referred or fail.",
        _table("do not pass", evidence.older),
    ]
    if evidence.failed is not None:
        parts += [f"Of those, estimated below the floor of {policy.floor:g}, who fail:"]
        parts += [_table("fail", [evidence.failed])]
    if policy.quality is not None:
        limits = "; ".join(limit_sentences(policy.quality))
        parts += [f"Faces that miss a limit on quality count as referred: {limits}."]
    parts += [f"{_NOTE} {plain(evidence.data)}: same ages, cameras and groups."]
    return "\n\n".join(parts)


def _whom(youngest: float) -> str:
    return f"of {youngest:g} or more years, but younger than" if youngest else "younger than"


def _table(event: str, rates: Sequence[Rate]) -> str:
    rows = [
        (
            plain(r.group),
            f"{r.people}",
            f"{r.events}",
            f"{_percent(r.events / r.people)} [{100 * r.low:.2f}, {100 * r.high:.2f}]",
        )
        for r in rates
        if r.people
    ]
    return table(["people", "number", event, "rate"], rows)


def _percent(share: float) -> str:
    return f"{100.0 * share:.3g} %"
