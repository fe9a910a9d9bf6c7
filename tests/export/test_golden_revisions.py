"""Build keys follow the revisions of producers, and outputs change only with them."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from export.build import keys, parity
from export.build.options import BuildOptions
from export.experts.registry import ARCHITECTURES
from export.faces import quantization, verification
from export.graph import conversion
from export.variants import fp16
from tests.export.golden import RECORD, alike, current_tools, demo_config, producers

CURE = "Record it again: python -m tests.export.golden"


@pytest.mark.conversion
def test_outputs_change_only_with_their_revision() -> None:
    recorded = json.loads(RECORD.read_text())
    found = producers()
    assert set(recorded["producers"]) == set(found), CURE
    comparable = recorded["tools"] == current_tools()
    for name, (revisions, make) in found.items():
        entry = recorded["producers"][name]
        assert revisions == entry["revisions"], f"The revision of {name!r} changed. {CURE}"
        assert not comparable or alike(make(), entry["golden"]), (
            f"The output of {name!r} changed, its revision did not: builds would keep files "
            f"with the old output. If the change is intended, raise the revision. {CURE}"
        )


def _raise_graph(patch: pytest.MonkeyPatch) -> None:
    patch.setitem(ARCHITECTURES, "vgg16", replace(ARCHITECTURES["vgg16"], revision=99))


@pytest.mark.parametrize(
    ("raised", "rebuilt"),
    [
        (_raise_graph, {"fp32", "fp16", "bf16", "int8"}),
        (lambda p: p.setattr(conversion, "REVISION", 99), {"fp32", "fp16", "bf16", "int8"}),
        (lambda p: p.setattr(verification, "REVISION", 99), {"fp32", "fp16", "bf16", "int8"}),
        (lambda p: p.setattr(parity, "REVISION", 99), {"fp32", "fp16", "bf16", "int8"}),
        (lambda p: p.setattr(quantization, "REVISION", 99), {"bf16", "int8"}),
        (lambda p: p.setattr(fp16, "REVISION", 99), {"fp16"}),
    ],
)
def test_a_raised_revision_rebuilds_what_depends_on_it(
    monkeypatch: pytest.MonkeyPatch,
    raised: Callable[[pytest.MonkeyPatch], None],
    rebuilt: set[str],
) -> None:
    def current() -> dict[str, dict[str, str]]:
        config = demo_config("vgg16")
        options = BuildOptions((config,), "random", Path())
        variants = ARCHITECTURES["vgg16"].variants
        return {kind: keys.build_key(config, options, kind, None) for kind in variants}

    before = current()
    raised(monkeypatch)
    changed = {kind: keys.changed_since(before[kind], key) for kind, key in current().items()}
    assert {kind for kind, causes in changed.items() if causes == ["exporter"]} == rebuilt
    assert all(causes in ([], ["exporter"]) for causes in changed.values())
