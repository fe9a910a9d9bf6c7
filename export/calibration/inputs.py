"""Labeled predictions from the command line: read from a CSV, or predicted for pictures."""

from __future__ import annotations

import argparse
import logging
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from export.calibration.csv_tables import LabelsError
from export.calibration.finding import Finder, detector_of
from export.calibration.label_tables import join_labels
from export.calibration.labeled_predictions import (
    LabeledPredictions,
    constant_problems,
    read_predictions,
)
from export.calibration.labels import KEYS, LabeledFace, read_faces
from export.calibration.raw_predictions import predict_faces
from export.errors import OptionsError
from runtime.backends import backend_kind
from runtime.backends.variants import choose_variant
from runtime.columns import IMAGE, PATH, SOURCE
from runtime.detectors.names import AUTO
from runtime.geometry import ALIGN
from runtime.manifest import Expert
from runtime.manifest_file import read_manifest
from runtime.names import suggestion
from runtime.progress import Progress

if TYPE_CHECKING:
    from runtime import AgeMoE

_LOGGER = logging.getLogger("agemoe")


@dataclass(frozen=True, slots=True, eq=False)
class LabeledData:
    """Labeled predictions, and what they are from."""

    faces: LabeledPredictions
    experts: Mapping[str, Expert] = field(default_factory=dict)
    """The experts of the engines folder that made the predictions; empty where it is unknown."""
    detector: str | None = None
    """Provenance of the detector that found the faces; None where no face was looked for."""


def labeled_data(
    arguments: argparse.Namespace, experts: Sequence[str] | None, *, varied: bool
) -> LabeledData:
    """Returns the labeled predictions of the options.

    Args:
        arguments: as defined by `command.add_inputs` and `command.add_report`.
        experts: the experts to use; None means all of the engines folder.
        varied: refuse an expert that predicts one age for all faces.
    """
    columns = _columns(arguments)
    if arguments.predictions is None:
        data = _predict(arguments, experts, columns)
        names, years = data.faces.names, data.faces.predictions_years
        if varied and (problems := constant_problems(names, years)):
            raise LabelsError("The labeled data", problems)
        return data
    faces = _read(arguments, experts, columns, varied=varied)
    bound = experts_of(arguments.engines, faces.names) if getattr(arguments, "bind", False) else {}
    name, engines = arguments.detector, arguments.engines
    return LabeledData(
        faces, bound, None if name is None else detector_of(name, engines).provenance
    )


def experts_of(engines: Path, names: Sequence[str]) -> dict[str, Expert]:
    """Returns some experts of an engines folder.

    Raises:
        OptionsError: the folder lacks an expert.
        ManifestError: there is no valid manifest.
    """
    experts = read_manifest(engines).experts
    if absent := [name for name in names if name not in experts]:
        found = ", ".join(experts)
        raise OptionsError([f"{engines} has no expert {', '.join(absent)}; it has {found}"])
    return {name: experts[name] for name in names}


def _read(
    arguments: argparse.Namespace,
    experts: Sequence[str] | None,
    columns: Mapping[str, str],
    *,
    varied: bool,
) -> LabeledPredictions:
    table, truth, groups = arguments.predictions, arguments.truth, arguments.groups
    if truth is not None:
        return join_labels(table, truth, experts, groups, columns, varied=varied)
    sources = getattr(arguments, "sources", None)
    return read_predictions(table, tuple(experts or ()), groups, sources=sources, varied=varied)


def _columns(arguments: argparse.Namespace) -> dict[str, str]:
    """Returns the names of columns that differ from their keys.

    Raises:
        OptionsError: a key is unknown.
    """
    columns = dict(pair.partition("=")[::2] for pair in arguments.columns)
    if IMAGE in columns:  # the other name of the same column
        columns = {PATH: columns.pop(IMAGE)} | columns
    if unknown := sorted(set(columns) - set(KEYS)):
        known = ", ".join(KEYS)
        hint = suggestion(unknown[0], KEYS)
        raise OptionsError([f"--columns knows {known}; not {', '.join(unknown)}.{hint}"])
    if getattr(arguments, "sources", None) is not None:
        columns[SOURCE] = arguments.sources
    return columns


def _predict(
    arguments: argparse.Namespace, experts: Sequence[str] | None, columns: Mapping[str, str]
) -> LabeledData:
    from runtime import AgeMoE

    faces = read_faces(arguments.faces, arguments.layout, columns, arguments.groups)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        searched = not arguments.whole and any(face.place.box is None for face in faces)
        name = arguments.detector or AUTO
        needed = searched or _lack_landmarks(faces, arguments.engines, experts)
        detector = detector_of(name, arguments.engines) if needed else None
        moe = AgeMoE(
            arguments.engines,
            device=arguments.device,
            precision=arguments.precision,
            experts=experts,
            fusion=None,
            detector=detector or name,  # finds the landmarks as in `predict`
        )
    for warning in caught:
        _LOGGER.warning("%s", warning.message)
    finder = Finder(detector if searched else None)
    arguments.cache.mkdir(parents=True, exist_ok=True)
    with moe:
        chosen = experts_of(arguments.engines, moe.experts)
        settings = {
            "files": _files(arguments.engines, moe, chosen, arguments.precision),
            "landmarks": None if detector is None else detector.provenance,
        }
        with Progress("faces", quiet=arguments.no_progress) as progress:
            report = progress.report
            found = predict_faces(moe, faces, finder, arguments.cache, settings, report)
    _LOGGER.info("The raw predictions are in %s.", arguments.cache)
    boxes = all(face.place.box is not None for face in faces)
    return LabeledData(found, chosen, None if boxes else finder.provenance)


def _lack_landmarks(
    faces: Sequence[LabeledFace], engines: Path, names: Sequence[str] | None
) -> bool:
    """Returns whether an expert needs landmarks that the labels do not give."""
    experts = read_manifest(engines).experts
    used = [expert for name, expert in experts.items() if names is None or name in names]
    aligned = any(spec.geometry.fit == ALIGN for expert in used for spec in expert.inputs)
    return aligned and any(face.place.landmarks is None for face in faces)


def _files(
    engines: Path, moe: AgeMoE, experts: Mapping[str, Expert], precision: str
) -> dict[str, object]:
    """Returns what raw predictions depend on, by expert: the files in use, and the geometry."""
    found: dict[str, object] = {}
    for name, expert in experts.items():
        kind = backend_kind(moe.backends[name])
        variant = choose_variant(engines, name, expert, kind, precision)
        found[name] = {
            "files": [file.sha256 for file in variant.artifact.files],
            "inputs": [asdict(spec) for spec in expert.inputs],
        }
    return found
