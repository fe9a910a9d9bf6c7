"""policy.json: round trips, every problem of a file, and policies of other engines."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from runtime import (
    AgeMoE,
    Binding,
    FusionTableError,
    ManifestError,
    Policy,
    PolicyError,
    check_policy_fits,
    read_policy,
    write_policy,
)
from runtime.fusion_file import read_fusion, write_fusion
from runtime.manifest_file import read_manifest
from runtime.policy_terms import Evidence, Rate
from runtime.quality import QualityLimits
from tests.runtime.fusion_tables import Row, pivot_tables
from tests.runtime.tiny_engines import Tiny, write_engines

RATE = Rate("all", 400, 1, 0.001, 0.008)
EVIDENCE = Evidence("new.csv", 16.0, 24.0, True, 0.009, "all", (RATE,), (RATE, RATE), 13.0, RATE)
EXPERTS = {"a": Tiny(), "b": Tiny(slope=50.0)}


@pytest.fixture
def engines(tmp_path: Path) -> Path:
    folder = tmp_path / "engines"
    write_engines(folder, EXPERTS)
    write_fusion(folder / "fusion.json", pivot_tables({"a": Row(), "b": Row(1.0)}))
    return folder


def policy_of(engines: Path) -> Policy:
    tables = read_fusion(engines / "fusion.json")
    binding = Binding.of(read_manifest(engines).experts, tables)
    return Policy(
        threshold=16.0,
        challenge=24.0,
        floor=10.0,
        max_false_positive=0.01,
        confidence=0.95,
        min_experts=1,
        max_width=30.0,
        binding=replace(binding, detector="centerface x.onnx (sha256 ab) on ONNX Runtime 1.2.3"),
        evidence=EVIDENCE,
    )


@pytest.fixture
def path(engines: Path) -> Path:
    write_policy(engines / "policy.json", policy_of(engines))
    return engines / "policy.json"


def broken(path: Path, *changes: Callable[[dict[str, Any]], object]) -> list[str]:
    document = json.loads(path.read_bytes())
    for change in changes:
        change(document)
    path.write_text(json.dumps(document))
    with pytest.raises(PolicyError) as caught:
        read_policy(path.parent)
    assert "python -m runtime evaluate --policy" in str(caught.value)
    return list(caught.value.problems)


def test_round_trip(path: Path) -> None:
    found, wanted = read_policy(path.parent), policy_of(path.parent)
    assert found == wanted
    assert found.id == wanted.id
    assert found.evidence == EVIDENCE


def test_a_plain_policy_round_trips_through_another_file(engines: Path) -> None:
    tables = read_fusion(engines / "fusion.json")
    wanted = Policy(binding=Binding.of(read_manifest(engines).experts, tables))
    write_policy(str(engines / "strict.json"), wanted)
    assert read_policy(engines, policy="strict.json") == wanted


def test_a_policy_without_binding_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"moe\.binding"):
        write_policy(tmp_path / "policy.json", Policy())
    assert not (tmp_path / "policy.json").exists()


def leaves(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, inner in items:
        if isinstance(inner, dict | list):
            yield from leaves(inner, (*path, key))
        yield (*path, key)


def test_every_mutant_is_refused(path: Path) -> None:
    """Each value deleted, or replaced by another type or number: the id or a check finds it."""
    text = path.read_text()
    count = 0
    for place in leaves(json.loads(text)):
        values: tuple[Any, ...] = (None, -1, 0.123, "x", [], {}, True, 1e999, float("nan"))
        for value in values:
            document = json.loads(text)
            inner = document
            for key in place[:-1]:
                inner = inner[key]
            if inner[place[-1]] == value and type(inner[place[-1]]) is type(value):
                continue
            inner[place[-1]] = value
            path.write_text(json.dumps(document))
            with pytest.raises(PolicyError):
                read_policy(path.parent)
            count += 1
        document = json.loads(text)
        inner = document
        for key in place[:-1]:
            inner = inner[key]
        del inner[place[-1]]
        path.write_text(json.dumps(document))
        if place[-1] not in ("noted", "uncalibrated"):  # false is the default
            with pytest.raises(PolicyError):
                read_policy(path.parent)
    assert count > 300


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"7", b"null", b"\xff\xfe\x00", b"[" * 100_000, b'{"id": 1}']
)
def test_any_other_content_is_a_policy_error(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with pytest.raises(PolicyError):
        read_policy(path.parent)


def test_no_file_is_a_policy_error(engines: Path) -> None:
    with pytest.raises(PolicyError, match="cannot be read"):
        read_policy(engines)


def test_a_file_of_another_version(path: Path) -> None:
    (problem,) = broken(path, lambda d: d.update(schema_version=2))
    assert problem == "schema_version: this runtime reads version 1, got 2"


def test_a_challenge_age_that_was_changed_by_hand(path: Path) -> None:
    (problem,) = broken(path, lambda d: d.update(challenge=29.0))
    assert problem.startswith("id: the content has the id ")
    assert "it was changed" in problem


def test_all_problems_at_once(path: Path) -> None:
    problems = broken(
        path,
        lambda d: d.update(challenge=3.0, floor="x", surplus=1),
        lambda d: d["evidence"]["younger"][0].update(events=500),
    )
    assert [problem.split(" ")[0] for problem in problems] == [
        "unknown",
        "floor:",
        "evidence.younger[0].events:",
        "challenge:",
        "evidence.challenge:",
    ]


def test_a_claim_that_the_evidence_does_not_support(path: Path) -> None:
    assert broken(path, lambda d: d["evidence"].update(bound=0.02)) == [
        "evidence.bound: is above max_false_positive, which is claimed"
    ]
    assert broken(path, lambda d: d["evidence"].update(bound=0.009, threshold=15.0)) == [
        "evidence.threshold: is not the policy's, for which the rate is claimed"
    ]


def test_a_claim_does_not_survive_a_lower_challenge_age(engines: Path) -> None:
    with pytest.raises(ValueError, match="for which the rate is claimed"):
        replace(policy_of(engines), challenge=18.0)
    assert replace(policy_of(engines), challenge=30.0).evidence == EVIDENCE


def test_limits_on_quality_are_plain_numbers(path: Path) -> None:
    assert broken(path, lambda d: d.update(quality=[1]))[0].startswith("quality: must be an object")
    assert broken(path, lambda d: d.update(quality={"no such limit": 1}))[0].startswith("quality: ")


def test_limits_on_quality_round_trip(engines: Path) -> None:
    wanted = replace(policy_of(engines), quality=QualityLimits(min_score=0.5))
    write_policy(engines / "policy.json", wanted)
    found = read_policy(engines)
    assert found == wanted
    assert found.id == wanted.id != policy_of(engines).id
    assert found.quality == QualityLimits(min_score=0.5)


def other_weights(engines: Path) -> None:
    write_engines(engines, {**EXPERTS, "b": Tiny(slope=51.0)})
    document = json.loads((engines / "manifest.json").read_text())
    document["experts"]["b"]["fingerprint"] = "ee" * 32
    (engines / "manifest.json").write_text(json.dumps(document))


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (other_weights, "binding.experts.b: the policy was fitted for other weights"),
        (
            lambda e: write_engines(e, {"a": Tiny()}),
            "binding.experts.b: the policy was fitted with",
        ),
        (
            lambda e: write_engines(e, {"z": Tiny()}),
            "binding.experts.a: the policy was fitted with",
        ),
        (
            lambda e: write_fusion(e / "fusion.json", pivot_tables({"a": Row(), "b": Row(2.0)})),
            "binding.fusion_sha256: the policy was fitted with other fusion tables",
        ),
        (lambda e: (e / "fusion.json").unlink(), "binding.fusion_sha256: "),
    ],
)
def test_a_policy_of_other_engines_is_refused(
    path: Path, change: Callable[[Path], object], problem: str
) -> None:
    change(path.parent)
    with pytest.raises(PolicyError) as caught:
        read_policy(path.parent)
    assert any(found.startswith(problem) for found in caught.value.problems), caught.value


def test_without_a_valid_folder_its_own_error_is_raised(path: Path) -> None:
    (path.parent / "fusion.json").write_text("{}")
    with pytest.raises(FusionTableError):
        read_policy(path.parent)
    (path.parent / "manifest.json").unlink()
    with pytest.raises(ManifestError):
        read_policy(path.parent)


def test_a_policy_and_an_agemoe_belong_together(path: Path) -> None:
    engines = path.parent
    policy = read_policy(engines)
    assert policy.binding is not None
    fitted = str(policy.binding.detector)
    with AgeMoE(engines) as moe:
        check_policy_fits(policy, moe.binding)
        check_policy_fits(policy, moe.binding, detector=fitted)
        check_policy_fits(policy, moe.binding, detector=fitted.replace("1.2.3", "2.0.0"))
        with pytest.raises(PolicyError, match="faces were found by centerface"):
            check_policy_fits(policy, moe.binding, detector="haar")
    with AgeMoE(engines, fusion=None) as plain, pytest.raises(PolicyError, match="other fusion"):
        check_policy_fits(policy, plain.binding)
    with AgeMoE(engines, experts=["a"]) as alone, pytest.raises(PolicyError, match=r"experts\.b"):
        check_policy_fits(policy, alone.binding)
    check_policy_fits(Policy(), alone.binding)


def test_a_folder_that_identifies_no_expert_is_refused(engines: Path) -> None:
    experts = read_manifest(engines).experts
    bare = {
        n: replace(e, fingerprint=None, source=replace(e.source, kind="random", sha256=None))
        for n, e in experts.items()
    }
    with pytest.raises(PolicyError, match="no fingerprint of a, b"):
        Binding.of(bare, None)
