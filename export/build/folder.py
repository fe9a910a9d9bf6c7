"""Changes of the content of an engines folder, each of which leaves it complete."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from export.build import publish
from export.build.detector import BuiltDetector, build_detector
from export.build.options import BuildOptions
from export.config.fingerprints import tool_versions
from runtime.manifest import Expert, Manifest
from runtime.manifest_file import read_manifest


def publish_expert(folder: Path, name: str, expert: Expert) -> Expert:
    """Publishes an expert's staged files and returns its new entry."""
    former = publish.current_manifest(folder)
    experts = {**(former.experts if former else {}), name: expert}
    detector = former.detector if former else None
    publish.publish(folder, Manifest(_now(), tool_versions(), experts, detector))
    published = read_manifest(folder)
    if former is not None:
        publish.remove_strays(folder, published, former)
    return published.experts[name]


def update_detector(
    options: BuildOptions, say: Callable[[str], None], *, keep: bool
) -> BuiltDetector | None:
    """Builds and publishes the configured detector; without one, a full build removes the former.

    Args:
        options: of the build.
        say: called with what is going on.
        keep: the former detector stays, where none is configured, in a full build too.

    Raises:
        ExportError: it cannot be built; the former stays.
    """
    manifest = read_manifest(options.output)
    built = None
    if options.detector is not None:
        built = build_detector(options.detector, options, manifest, say)
    elif options.partial or keep:
        return None
    record = built.record if built else None
    if record == manifest.detector:
        return built
    renewed = replace(manifest, created=_now(), detector=record)
    publish.publish(options.output, renewed)
    published = read_manifest(options.output)
    publish.remove_strays(options.output, published, manifest)
    if built is None or published.detector is None:
        return None
    return replace(built, record=published.detector)


def remove_others(options: BuildOptions) -> None:
    """Removes the experts of earlier builds that are not among those to build."""
    manifest = read_manifest(options.output)
    wanted = {config.name for config in options.experts}
    kept = {name: e for name, e in manifest.experts.items() if name in wanted}
    if kept and len(kept) < len(manifest.experts):
        renewed = replace(manifest, created=_now(), experts=kept)
        publish.publish(options.output, renewed)
        publish.remove_strays(options.output, renewed, manifest)


def _now() -> str:
    return dt.datetime.now(dt.UTC).isoformat(timespec="seconds")
