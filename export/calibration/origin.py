"""Provenance of a fit, for fusion.json, the report's preface and the terminal."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from export.calibration.markdown_text import plain
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
) -> FusionTables:
    """Adds to tables what they were fitted for, and binds them to it.

    Args:
        tables: fresh ones, or tables whose intervals are fresh.
        experts: those that made the predictions, where they are known.
        detector: provenance of the detector that found the faces.
        data: name of the labeled data.
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
    if "intervals" in provenance:
        provenance["intervals"] = {**of_faces(provenance), "data": data}
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


def warn_of_fitted_faces(tables: FusionTables, data: str) -> None:
    """Warns that the labeled data has the name of the data that the tables were fitted on."""
    if fitted_on(tables, data):
        _LOGGER.warning(
            "The tables were fitted on data with the same name, %s. Error rates on faces of the "
            "fit are too low: use other faces.",
            printable(data),
        )


def fitted_on(tables: FusionTables, data: str) -> bool:
    """Returns whether tables were fitted on data of a name; other overlap is not recognized."""
    return data in (tables.provenance.get("data"), of_faces(tables.provenance).get("data"))


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
    errors = of_faces(provenance)["cross_validated_mae_years"]
    width = max(len(printable(name)) for name in errors)
    print(f"Held-out mean absolute error on {faces} faces, in years:")
    for name, error in errors.items():
        print(f"  {printable(name):<{width}}  {error:6.2f}")
    compared = of_faces(provenance).get("form_mae_years", {})
    if len(compared) > 1:
        listed = ", ".join(f"{name} {error:.2f}" for name, error in compared.items())
        print(f"Form: {provenance['form']} (fused error by form: {listed}).")


def preface(tables: FusionTables) -> list[str]:
    """Returns the first paragraphs of a calibration's report."""
    provenance: Mapping[str, Any] = tables.provenance
    faces = of_faces(provenance)
    origin = f"From {faces['faces']} labeled faces of {faces['people']} people in "
    origin += f"{plain(faces['data'])}. "
    if tables.detector is not None:
        origin += f"Faces found by: {plain(tables.detector)}. "
    if "intervals" in provenance:
        kept = (
            "Bias and gate are those of a fusion that was given; only the intervals were fitted. "
            "The figures hold for new faces if the fusion was not fitted on these ones; the "
            "intervals are verified on faces held out of their fit."
        )
        return [origin + kept]
    bias = "; ".join(f"{plain(name)}: {plain(model)}" for name, model in provenance["bias"].items())
    paragraphs = [
        (
            f"{origin}Every figure on this page is of faces held out of the fit, including the "
            "choice of models (nested cross-validation); the tables themselves were then fitted "
            "on all faces."
        ),
        f"Models chosen by cross-validation: bias {bias}. Gate: {plain(provenance['gate'])}.",
    ]
    compared = provenance["form_mae_years"]
    if len(compared) > 1:
        listed = ", ".join(f"{name} {error:.2f} years" for name, error in compared.items())
        paragraphs.append(
            f"Form of the fusion: {provenance['form']}, chosen by the fused error on held-out "
            f"faces ({listed}). `tables`: bias and gate are tables over one age. `agemoe`: the "
            "form that AgeMoE's authors published, in which the gate is a linear function of all "
            "raw predictions. `tables` is preferred unless the other is better by more than one "
            "standard error. The choice between the two used the same held-out faces."
        )
    if provenance["fell_back"]:
        paragraphs.append(
            "**Fusing was worse than the best corrected expert, so the tables fall back to that "
            "expert alone.** More labeled faces, or other experts, may help."
        )
    return paragraphs
