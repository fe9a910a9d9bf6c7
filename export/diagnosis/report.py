"""The diagnosis of a variant, and its text."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from export.config.contract import Images, Outputs
from export.diagnosis.compare import MEMORY_BYTES, Sides, compare_layers
from export.diagnosis.layers import OnnxLayers
from export.diagnosis.measures import LayerError
from export.diagnosis.remedy import layers_to_keep
from export.diagnosis.toml import toml_array
from export.diagnosis.verdict import Verdict
from export.variants.fp16 import LARGEST_HALF
from runtime.manifest import Parity
from runtime.printing import counted, printable
from runtime.progress import Report, unreported

Judge = Callable[[Outputs, Outputs], tuple[Parity, str]]
"""From found and exact outputs to the difference, and why it is too large; empty if it is not."""
_AROUND = 4
"""Layers shown before and after the one to blame, and jumps listed."""
_HEADINGS = (
    *("  layer", "operator", "shape", "type", "max error", "mean error", "relative", "SNR dB"),
    *("growth", "largest", "lost", "saturated"),
)
_NUMBERS = 4
"""Columns before those aligned to the right."""
_WIDEST = 48
"""Characters of an operator's name; those of layers are shown whole, as `keep_fp32` takes them."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """The variant of a diagnosis, its tolerances and the texts of its report."""

    subject: str
    """Such as `vgg16 fp16`."""
    precision: str
    outputs: Sequence[str]
    judge: Judge
    remedy: str
    """Remedy where the ages are out of tolerance; `{layers}` is replaced by the layers' names."""
    failed: bool = False
    """Whether the parity check on all verification faces has failed."""
    judge_few: Judge | None = None
    """The same where only faces that differ most are compared, whose mean says little; None:
    `judge`."""
    innocent: str = "The difference is within the tolerance: no layer is to blame."
    """Text of the report where the ages are within the tolerance."""


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """A variant beside the FP32 graph."""

    comparison: Comparison
    verdict: Verdict
    parity: Parity
    """On the faces compared."""
    problem: str
    """Text on the exceeded tolerance; empty if the ages of these faces are within it."""
    repaired_years: float | None
    """Largest difference if the verdict's culprits were exact; None if that is not known."""
    kept: Sequence[str]
    """Names of the layers that the remedy is for: the culprits, and layers before them."""


@np.errstate(invalid="ignore")  # lost values
def diagnose(
    comparison: Comparison,
    sides: Sides,
    images: Images,
    memory_bytes: int = MEMORY_BYTES,
    report: Report = unreported,
) -> Diagnosis:
    """Compares a variant with the FP32 graph layer by layer and finds the layer to blame.

    Args:
        comparison: the variant, its tolerances and texts.
        sides: both graphs.
        images: the verification faces.
        memory_bytes: for the values of a group of layers.
        report: called with the number of layers compared, and of all.

    Raises:
        GraphError: the two have no layer in common.
        BackendError: OpenVINO cannot show the layers.
        ExportError: TensorRT cannot.
    """
    faces = sides.faces(images, memory_bytes)
    exact, variant = sides.exact(faces), sides.variant(faces)
    both = compare_layers(exact, variant, comparison.outputs, memory_bytes, report)
    judge = comparison.judge if faces is images else comparison.judge_few or comparison.judge
    parity, problem = judge(both.found, both.exact)
    wrong = comparison.failed or bool(problem)
    verdict = Verdict(both.errors, comparison.precision, wrong=wrong)
    repaired, kept = None, [error.layer.name for error in verdict.culprits]
    if kept and comparison.precision == "fp16" and isinstance(variant, OnnxLayers):
        right = lambda found: not judge(dict(found), both.exact)[1]  # noqa: E731
        kept = layers_to_keep(verdict, variant, comparison.outputs, right)
    small = sum(error.layer.size_bytes for error in verdict.culprits) <= memory_bytes
    if verdict.culprits and small and isinstance(variant, OnnxLayers):
        values = exact.values([error.layer.name for error in verdict.culprits])
        outputs = variant.outputs_given(values, comparison.outputs)
        repaired = judge(dict(outputs), both.exact)[0].max_years
    return Diagnosis(comparison, verdict, parity, problem, repaired, kept)


def summary_lines(diagnosis: Diagnosis) -> list[str]:
    """Returns the verdict: years, the first layer that diverges, and what to do."""
    verdict, parity = diagnosis.verdict, diagnosis.parity
    first = (
        f"{diagnosis.comparison.subject}: {counted(len(verdict.errors), 'layer')}, "
        f"{counted(parity.faces, 'face')}; {_years(parity)}."
    )
    if not verdict.wrong:
        return [first, diagnosis.comparison.innocent]
    lines = [first]
    if diagnosis.problem and not diagnosis.comparison.failed:  # else it has been said
        lines.append(f"Too large: {diagnosis.problem}.")
    blamed = verdict.blamed
    if blamed is None:
        return lines + _gradual(diagnosis)
    lines.append(f"First layer that diverges: {_described(blamed, verdict)}.")
    if diagnosis.repaired_years is not None:
        number = len(verdict.culprits)
        which = "this layer" if number == 1 else f"these {number} layers"
        lines.append(f"With {which} exact, {_repaired(diagnosis.repaired_years)}.")
    if len(diagnosis.kept) > len(verdict.culprits):
        lines.append("It magnifies the rounding of layers before it, which have to be exact, too.")
    remedy = diagnosis.comparison.remedy
    return [*lines, remedy.replace("{layers}", toml_array(diagnosis.kept))]


def report_lines(diagnosis: Diagnosis, *, every: bool = False) -> list[str]:
    """Returns the verdict, the layers that add most, and a table of the layers.

    Args:
        diagnosis: of a variant.
        every: all layers, not just the last ones and those around the one to blame.
    """
    verdict = diagnosis.verdict
    lines = summary_lines(diagnosis)
    jumps = verdict.jumps(_AROUND)
    if jumps:
        lines += ["", "Layers whose error grows most:", *_table(jumps, verdict)]
    errors = verdict.errors if every else _excerpt(verdict)
    title = "All layers" if len(errors) == len(verdict.errors) else "Some layers, --all shows all"
    return [*lines, "", f"{title}, in the order of computing:", *_table(errors, verdict)]


def _years(parity: Parity) -> str:
    if math.isnan(parity.max_years):
        return "ages are NaN that are numbers in FP32"
    return (
        f"the ages differ from FP32 by {parity.mean_years:.3g} years on average, "
        f"{parity.max_years:.3g} at most"
    )


def _repaired(years: float) -> str:
    return (
        "ages are still NaN"
        if math.isnan(years)
        else f"the ages differ by {years:.3g} years at most"
    )


def _described(error: LayerError, verdict: Verdict) -> str:
    layer = error.layer
    growth = verdict.growths[layer.name]
    text = (
        f"{printable(layer.name)!r} ({printable(layer.operator)}, {_shape(layer.shape)}, "
        f"{error.dtype})"
    )
    if error.lost:
        text += f" loses {counted(error.lost, 'value')} to NaN or infinity"
        if error.largest > LARGEST_HALF and error.dtype == "float16":
            return f"{text}; the exact ones reach {error.largest:.3g}, FP16 ends at 65504"
        return text
    return (
        f"{text} is off by {error.relative_error:.2g} of its norm, {growth:.3g} times what its "
        f"inputs and rounding explain (limit {verdict.limit:.3g})"
    )


def _gradual(diagnosis: Diagnosis) -> list[str]:
    verdict = diagnosis.verdict
    first = verdict.first_tenth
    text = (
        "No single layer stands out: none exceeds what its inputs and rounding explain by "
        f"{verdict.limit:.3g} times with an error that lasts."
    )
    if first is not None:
        text += f" The error first reaches a tenth at {printable(first.layer.name)!r}."
    return [text]


def _excerpt(verdict: Verdict) -> list[LayerError]:
    """Returns the layers around the one to blame, and the last."""
    errors = list(verdict.errors)
    chosen = set(range(max(0, len(errors) - _AROUND), len(errors)))
    if verdict.blamed is not None:
        at = errors.index(verdict.blamed)
        chosen |= set(range(max(0, at - _AROUND), min(len(errors), at + _AROUND + 1)))
    return [errors[index] for index in sorted(chosen)]


def _table(errors: Sequence[LayerError], verdict: Verdict) -> list[str]:
    rows = [_HEADINGS, *(_cells(error, verdict) for error in errors)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEADINGS))]
    return [
        "  ".join(
            cell.ljust(width) if column < _NUMBERS else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def _cells(error: LayerError, verdict: Verdict) -> tuple[str, ...]:
    layer = error.layer
    mark = "* " if error is verdict.blamed else "  "
    return (
        mark + printable(layer.name),
        printable(layer.operator, _WIDEST),
        _shape(layer.shape),
        error.dtype,
        f"{error.max_error:.2g}",
        f"{error.mean_error:.2g}",
        f"{error.relative_error:.2g}",
        "exact" if error.snr_db == math.inf else f"{error.snr_db:.0f}",
        "lost" if error.lost else f"{verdict.growths[layer.name]:.2g}",
        f"{error.largest:.3g}",
        str(error.lost),
        str(error.saturated),
    )


def _shape(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape)) or "scalar"
