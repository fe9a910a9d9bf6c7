"""The first paragraphs of a report: where its figures are from, and which models were chosen."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from export.calibration.fitted_faces import Overlap
from export.calibration.markdown_text import plain
from export.calibration.origin import of_faces
from runtime.fusion import FusionTables
from runtime.printing import MOST_LINE
from runtime.startup import WHOLE

_HELD_OUT = """\
Every figure on this page is of faces held out of the fit (nested cross-validation): the people are
split into parts, and each part is tested with models that were chosen and fitted on the other parts
alone. The tables in `fusion.json` were then fitted on all faces. `fusion.json` holds a fingerprint
of each face, from which `agemoe evaluate` recognizes faces of the fit, and from which no picture
can be computed."""

_KEPT = """\
Bias correction and gate are those of a fusion that was given; only its intervals were fitted, on
these faces. Coverage and probabilities on this page are of faces held out of that fit."""

_BIAS = """\
**Bias correction**, the years added to an expert's raw prediction, was chosen for each expert by
cross-validation: {models}. {kinds} The higher the penalty, the flatter the curve."""

_BIAS_KINDS = {
    "piecewise": (
        "*Piecewise* is a line with a node every five years of the prediction, with a penalty on "
        "bends."
    ),
    "mlp": (
        "*mlp* is a small neural network of one number (the paper's mini-MLP), with a penalty on "
        "its weights."
    ),
    "ReLU": (
        "*ReLU network* is the published form: a small neural network of one number, in effect a "
        "line with up to 16 bends."
    ),
}
"""Explanations of models, by the first word of their names."""

_GATE_KINDS = {
    "gated": "the weights depend on the face's age; the penalty keeps them from changing quickly",
    "constant": "the weights are the same at all ages",
    "equal": "plain average: all weights are equal",
    "best": "the best expert alone has all the weight",
    "linear": "the weights depend on all raw predictions; the penalties keep bias and gate smooth",
}

_FORMS = """\
**Form**, the kind of tables: `{form}` (MAE on held-out faces: {errors}). In `tables`, {tables}; in
`agemoe`, the form that AgeMoE's authors published, {agemoe}. `tables` is kept unless the other is
better by more than one standard error. This one choice used the faces that it is reported on."""


def preface(tables: FusionTables, overlap: Overlap | None = None) -> list[str]:
    """Returns the first paragraphs of a calibration's report.

    Args:
        tables: the finished ones.
        overlap: how many of the faces a given fusion had been fitted on; None without one.
    """
    provenance: Mapping[str, Any] = tables.provenance
    origin = _origin(of_faces(provenance), tables.detector)
    if "intervals" in provenance:
        seen = [] if overlap is None else [_found(overlap, "The tables of the given fusion")]
        return [f"{origin} {_KEPT}", *seen]
    alone = len(tables.experts) == 1
    bias = dict(provenance["bias"])
    models = "; ".join(f"{plain(name)}: {plain(model)}" for name, model in bias.items())
    used = [t for k, t in _BIAS_KINDS.items() if any(str(m).startswith(k) for m in bias.values())]
    paragraphs = [f"{origin} {_HELD_OUT}", _BIAS.format(models=models, kinds=" ".join(used))]
    if provenance["form"] == "agemoe":
        paragraphs[-1] = f"**Bias correction** of each expert: {models}. {' '.join(used)}"
    if not alone:
        gate = str(provenance["gate"])
        kind = _GATE_KINDS[gate.replace(",", " ").split()[0]]
        paragraphs.append(
            "**Gate**, the weights of the experts in the fused age, chosen by cross-validation: "
            f"{plain(gate)} ({kind})."
        )
    compared = provenance["form_mae_years"]
    if len(compared) > 1:
        listed = ", ".join(f"`{name}` {error:.2f} years" for name, error in compared.items())
        paragraphs.append(
            _FORMS.format(
                form=provenance["form"],
                errors=listed,
                tables="the correction is a curve as above"
                if alone
                else "the gate depends on one age alone",
                agemoe="it is a small neural network"
                if alone
                else "it is a linear function of all raw predictions",
            )
        )
    if provenance["fell_back"] and not alone:
        paragraphs.append(
            "**Fusing was worse than the best corrected expert, so the tables fall back to that "
            "expert alone.** More labeled faces, or other experts, may help."
        )
    return paragraphs


def preface_of_evaluation(tables: str, data: str, overlap: Overlap) -> list[str]:
    """Returns the first paragraphs of an evaluation's report.

    Args:
        tables: name of the tables' file.
        data: name of the labeled data.
        overlap: how many of the faces the tables were fitted on.
    """
    tested = f"The fusion tables {plain(tables)}, tested on {overlap.faces:,} labeled faces of"
    return [f"{tested} {plain(data)}.", _found(overlap, "The tables")]


def _origin(faces: Mapping[str, Any], detector: str | None) -> str:
    count, people = int(faces["faces"]), int(faces["people"])
    whose = f" of {people:,} people" if people < count else ", each counted as another person"
    text = f"From {count:,} labeled faces{whose}, in {plain(faces['data'])}."
    if detector == WHOLE:
        return f"{text} Each picture was taken as one face."
    if detector is None:
        return text
    name = plain(detector.partition(" (")[0].split(" ")[0])
    return f"{text} Faces found by the detector {name}, whose settings are in `fusion.json`."


def _found(overlap: Overlap, tables: str) -> str:
    text = plain(overlap.sentence(tables), MOST_LINE)
    return f"**{text}**" if overlap.fitted or overlap.same_name else text
