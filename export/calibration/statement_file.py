"""Writes the page of a statement for the engines, tables and policy in use."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import runtime
from export.calibration.command import data_name
from export.calibration.inputs import LabeledData, experts_of
from export.calibration.origin import fitted_faces, sources_of
from export.calibration.policy_fit import binding_in_use
from export.calibration.report import ReportOptions
from export.calibration.scores import Scores
from export.calibration.statement import figures_of_statement
from export.calibration.statement_about import About
from export.calibration.statement_gaps import not_tested
from export.calibration.statement_page import statement_page
from export.errors import OptionsError
from runtime.decisions import Policy
from runtime.files import write_whole
from runtime.fusion import FusionTables
from runtime.policy_file import FILE_NAME, check_policy_fits, read_policy
from runtime.policy_terms import Binding
from runtime.printing import printable
from runtime.quality import QualityLimits


def write_statement(
    arguments: argparse.Namespace,
    options: ReportOptions,
    data: LabeledData,
    scores: Scores,
    tables: FusionTables,
    given: QualityLimits | None,
) -> None:
    """Measures, writes the page whole, and says where it is.

    Raises:
        OptionsError: the engines folder holds other fusion tables than those that were evaluated,
            or the policy contradicts the options.
        PolicyError: policy.json is invalid or does not fit the engines or the detector.
    """
    faces, engines = data.faces, arguments.engines
    binding = binding_in_use(engines, data, tables)
    policy = _policy(engines, binding, options)
    limits = given if policy is None else _limits(policy, given)
    name = data_name(arguments)
    overlap = fitted_faces(tables, faces, name)
    figures = figures_of_statement(scores, options, policy, limits)
    youngest = 0.0 if policy is None or policy.evidence is None else policy.evidence.youngest
    thresholds = dict.fromkeys(one.threshold for one in figures.rates)
    about = About(
        name,
        arguments.date,
        runtime.__version__,
        data.experts or experts_of(engines, faces.names),
        tables,
        binding.detector,
        policy,
        limits,
        (float(faces.age_years.min()), float(faces.age_years.max())),
        not_tested(
            faces,
            tuple(thresholds),
            detector=binding.detector,
            youngest=youngest,
            fitted=sources_of(tables),
        ),
        overlap,
    )
    page: Path = arguments.statement
    write_whole(page, statement_page(about, figures).encode())
    print(f"Wrote {printable(page)}.")


def _policy(engines: Path, binding: Binding, options: ReportOptions) -> Policy | None:
    """Returns the policy in the engines folder, verified for what was evaluated."""
    if not (engines / FILE_NAME).exists():
        return None
    policy = read_policy(engines)
    check_policy_fits(policy, replace(binding, detector=None), detector=binding.detector)
    if other := [t for t in options.thresholds_years if t != policy.threshold]:
        named = ", ".join(f"{threshold:g}" for threshold in other)
        problem = (
            f"the policy is for the threshold {policy.threshold:g}: --thresholds {named} is not"
        )
        raise OptionsError([problem])
    return policy


def _limits(policy: Policy, given: QualityLimits | None) -> QualityLimits | None:
    """Returns the limits on quality of a policy, which the options may only repeat."""
    limits = policy.quality
    if given is not None and given != (limits and replace(limits, require_face=False)):
        problem = (
            "the policy has other limits on quality than these options: leave them out, or fit the "
            "policy with them"
        )
        raise OptionsError([problem])
    return limits
