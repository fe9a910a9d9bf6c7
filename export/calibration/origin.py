"""Provenance of a fit, for fusion.json, the report's preface and the terminal."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from export.calibration.fitted_faces import FITTED_FACES, Overlap, fingerprints, overlap_of
from export.calibration.labeled_predictions import LabeledPredictions
from runtime.fusion import FusionTables
from runtime.manifest import Expert
from runtime.printing import printable
from runtime.startup import same_detector

_LOGGER = logging.getLogger("agemoe")


def with_origin(
    tables: FusionTables,
    experts: Mapping[str, Expert],
    detector: str | None,
    data: str,
    faces: LabeledPredictions | None = None,
) -> FusionTables:
    """Adds to tables what they were fitted for, and binds them to it.

    Args:
        tables: fresh ones, or tables whose intervals are fresh.
        experts: those that made the predictions, where they are known.
        detector: provenance of the detector that found the faces.
        data: name of the labeled data.
        faces: the labeled faces, whose fingerprints are kept; None for published tables.
    """
    bound = {
        name: table
        if name not in experts
        else replace(
            table,
            source_sha256=experts[name].source.sha256,
            fingerprint=experts[name].fingerprint,
        )
        for name, table in tables.experts.items()
    }
    provenance = {**tables.provenance, "data": tables.provenance.get("data", data)}
    seen = {} if faces is None else {FITTED_FACES: fingerprints(faces)}
    if "intervals" in provenance:
        provenance["intervals"] = {**of_faces(provenance), "data": data, **seen}
    else:
        provenance |= seen
    found = tables.detector if detector is None else detector
    return replace(tables, experts=bound, detector=found, provenance=provenance)


def warn_of_detector(tables: FusionTables, detector: str | None) -> None:
    """Warns that labeled faces were found by another detector than the tables were fitted on."""
    fitted = tables.detector
    if fitted is not None and detector is not None and not same_detector(fitted, detector):
        _LOGGER.warning(
            "The tables were fitted on faces found by another detector (%s) than these (%s): the "
            "figures hold for the latter.",
            fitted,
            detector,
        )


def fitted_faces(tables: FusionTables, faces: LabeledPredictions, data: str) -> Overlap:
    """Returns how many labeled faces tables were fitted on, and warns if there are any.

    Tables without fingerprints warn of data that has the name of the data of the fit.
    """
    found = overlap_of(tables.provenance, faces)
    if found.fitted:
        _LOGGER.warning(
            "The tables were fitted on %d of these %d faces, as their fingerprints show. Errors on "
            "faces of the fit are too small: use other faces.",
            found.fitted,
            found.faces,
        )
    named = tables.provenance.get("data"), of_faces(tables.provenance).get("data")
    if found.unknown is not None and data in named:
        _LOGGER.warning(
            "The tables were fitted on data with the same name, %s. Errors on faces of the fit are "
            "too small: use other faces.",
            printable(data),
        )
        return replace(found, same_name=True)
    return found


def sources_of(tables: FusionTables) -> list[str]:
    """Returns the sources of the photographs of a fit, where the tables name them."""
    robust = tables.provenance.get("robust")
    found = robust.get("sources") if isinstance(robust, Mapping) else None
    return [str(name) for name in found] if isinstance(found, list) else []


def of_faces(provenance: Mapping[str, Any]) -> Mapping[str, Any]:
    """Returns the figures of the labeled faces: those of the intervals for a kept fusion."""
    found: Mapping[str, Any] = provenance.get("intervals", provenance)
    return found


def print_errors(provenance: Mapping[str, Any], faces: int) -> None:
    """Prints the held-out errors."""
    errors = dict(of_faces(provenance)["cross_validated_mae_years"])
    if len(errors) == 2:  # one expert alone, and the same again as fused
        del errors["fused"]
    width = max(len(printable(name)) for name in errors)
    print(f"Held-out mean absolute error on {faces} faces, in years:")
    for name, error in errors.items():
        print(f"  {printable(name):<{width}}  {error:6.2f}")
    compared = of_faces(provenance).get("form_mae_years", {})
    if len(compared) > 1:
        listed = ", ".join(f"{name} {error:.2f}" for name, error in compared.items())
        print(f"Form: {provenance['form']} (error by form: {listed}).")
