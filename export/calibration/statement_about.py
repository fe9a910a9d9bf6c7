"""Subject of a statement: data, experts, tables, policy, and their versions and hashes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from export.calibration.fitted_faces import Overlap
from export.calibration.markdown_text import plain
from runtime.decisions import Policy
from runtime.fusion import FusionTables
from runtime.manifest import Expert
from runtime.printing import MOST_LINE
from runtime.quality import QualityLimits


@dataclass(frozen=True, slots=True, eq=False)
class About:
    """Everything that a statement names besides its figures."""

    data: str
    """Name of the labeled data."""
    date: str | None
    """As given; None leaves it out."""
    version: str
    """Version of the runtime."""
    experts: Mapping[str, Expert]
    tables: FusionTables
    detector: str | None
    policy: Policy | None
    limits: QualityLimits | None
    ages: tuple[float, float]
    """The youngest and the oldest person."""
    not_tested: Sequence[str]
    """Sentences in Markdown."""
    overlap: Overlap
    """How many of the photographs the fusion tables were fitted on."""


def versions(about: About) -> Iterator[str]:
    """Yields the versions and hashes of everything that the figures depend on, in Markdown."""
    yield f"runtime: AgeMoE runtime {plain(about.version)}"
    for name, expert in about.experts.items():
        source = expert.source
        license_ = (
            "license not stated" if source.license is None else f"license {plain(source.license)}"
        )
        yield (
            f"expert {plain(name)}: architecture {plain(expert.architecture)}, weights from: "
            f"{source.kind}, {license_}; SHA-256 of the weights `{source.sha256 or 'none'}`, "
            f"fingerprint `{expert.fingerprint or 'none'}`"
        )
    provenance = about.tables.provenance
    fitted = provenance.get("data")
    yield (
        f"fusion tables: `{about.tables.sha256 or 'not from a file'}`"
        + ("" if fitted is None else f", fitted on {plain(fitted)}")
        + ("" if "faces" not in provenance else f", {plain(provenance['faces'])} faces")
    )
    yield (
        "detector of faces: "
        + ("not stated" if about.detector is None else plain(about.detector, MOST_LINE))
    )
    policy = about.policy
    if policy is None:
        yield "policy: none"
        return
    evidence = policy.evidence
    yield f"policy: `{policy.id}`" + (
        ", challenge age not measured" if evidence is None else f", from {plain(evidence.data)}"
    )
