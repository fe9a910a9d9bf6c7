"""Reads, validates and writes `policy.json`, and checks that a policy belongs to engines."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from runtime import fusion_file
from runtime.decisions import Policy
from runtime.errors import PolicyError
from runtime.files import read_json, write_json
from runtime.json_reader import JsonReader, read_dataclass
from runtime.manifest_file import read_manifest
from runtime.policy_terms import Binding, Terms
from runtime.program import command_line
from runtime.quality import QualityLimits
from runtime.startup import chosen_experts, read_calibration, same_detector

if TYPE_CHECKING:
    import os

FILE_NAME = "policy.json"
SCHEMA_VERSION = 1
"""Incremented whenever the meaning or the layout of policy.json changes."""
_MOST_BYTES = 1 << 20
_CURE = f"Fit it again: {command_line('evaluate --policy')}."


def _known_version(version: int) -> str | None:
    return None if version == SCHEMA_VERSION else f"this runtime reads version {SCHEMA_VERSION}"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Document(Terms):
    """The layout of policy.json; limits on quality are read by their own module."""

    schema_version: Annotated[int, _known_version]
    id: str
    binding: Binding
    quality: Any = None


def read_policy(
    engines: str | os.PathLike[str] = "engines",
    *,
    policy: str | os.PathLike[str] = FILE_NAME,
    fusion: str | os.PathLike[str] | None = fusion_file.FILE_NAME,
) -> Policy:
    """Reads a policy and verifies that it was fitted for an engines folder.

    Args:
        engines: the folder.
        policy: the policy's file within it.
        fusion: the fusion tables' file within it, as for `AgeMoE`.

    Raises:
        PolicyError: the file is missing, unreadable, inconsistent, changed by hand, or of other
            experts or tables; every problem is listed.
        EngineError: the manifest or the fusion tables are invalid.
    """
    folder = Path(engines)
    path = folder / policy
    found, binding = _read(path)
    experts = read_manifest(folder).experts
    known = [name for name in binding.experts if name in experts]
    tables = read_calibration(folder, fusion, chosen_experts(experts, known)) if known else None
    there = Binding.of({name: experts[name] for name in known}, tables)
    _check(str(path), binding, there)
    return found


def write_policy(path: str | os.PathLike[str], policy: Policy) -> None:
    """Writes a policy atomically.

    Raises:
        ValueError: the policy is not bound to experts.
    """
    if policy.binding is None:
        raise ValueError("The policy has no binding. Take the one of an AgeMoE, `moe.binding`.")
    values = {"schema_version": SCHEMA_VERSION, "id": policy.id, **policy.to_dict()}
    write_json(Path(path), {key: value for key, value in values.items() if value is not None})


def check_policy_fits(policy: Policy, binding: Binding, *, detector: str | None = None) -> None:
    """Verifies that a policy was fitted for the experts and fusion tables in use.

    Args:
        policy: the policy; one without a binding fits everything.
        binding: `AgeMoE.binding`.
        detector: provenance of the detector in use; None for boxes that callers give.

    Raises:
        PolicyError: it was not; every difference is listed.
    """
    if policy.binding is not None:
        _check(f"policy {policy.id}", policy.binding, replace(binding, detector=detector))


def _check(name: str, policy: Binding, there: Binding) -> None:
    problems = [f"{path}: {problem}" for path, problem in policy.differences(there)]
    fitted, used = policy.detector, there.detector
    if fitted is not None and used is not None and not same_detector(fitted, used):
        problems.append(f"binding.detector: faces were found by {fitted}, now by {used}")
    if problems:
        raise PolicyError(name, problems, f"{_CURE} Or use the engines that it was fitted for.")


def _read(path: Path) -> tuple[Policy, Binding]:
    try:
        document = read_json(path, _MOST_BYTES)
    except (OSError, ValueError) as error:
        raise PolicyError(str(path), [f"cannot be read: {error}"], _CURE) from error
    problems: list[str] = []
    read = read_dataclass(_Document, JsonReader(document, "", problems))
    quality = None if problems or read.quality is None else _quality(read.quality, problems)
    if problems:
        raise PolicyError(str(path), problems, _CURE)
    terms = {field.name: getattr(read, field.name) for field in fields(Terms)}
    policy = Policy(**{**terms, "quality": quality})
    if policy.id != read.id:
        problem = f"id: the content has the id {policy.id}, not {read.id}: it was changed"
        raise PolicyError(str(path), [problem], _CURE)
    return policy, read.binding


def _quality(values: object, problems: list[str]) -> QualityLimits | None:
    """Returns limits on quality from plain numbers."""
    if not isinstance(values, Mapping):
        problems.append("quality: must be an object")
        return None
    try:
        return QualityLimits(**values)
    except (TypeError, ValueError) as error:
        problems.append(f"quality: {error}")
        return None
