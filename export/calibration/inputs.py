"""Labeled predictions from the command line: read from a CSV, or predicted for pictures."""

from __future__ import annotations

import argparse
import logging
import sys
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

from export.calibration.csv_tables import LabelsError
from export.calibration.labeled_predictions import (
    LabeledPredictions,
    constant_problems,
    read_predictions,
)
from export.calibration.labels import read_faces
from export.calibration.raw_predictions import predict_faces
from export.errors import OptionsError

_LOGGER = logging.getLogger("agemoe")


def labeled_data(
    arguments: argparse.Namespace, experts: Sequence[str] | None, folder: Path, *, varied: bool
) -> tuple[LabeledPredictions, Mapping[str, str | None]]:
    """Returns the labeled predictions of the options, and the experts' checkpoints.

    Args:
        arguments: as defined by `command.add_inputs` and `command.add_report`.
        experts: the experts to use; None means all of the engines folder.
        folder: where predictions for pictures are kept.
        varied: refuse an expert that predicts one age for all faces.

    Returns:
        The predictions; and the SHA-256 of each expert's checkpoint, where it is known.
    """
    if arguments.predictions is not None:
        path, names = arguments.predictions, tuple(experts or ())
        return read_predictions(path, names, arguments.groups, varied=varied), {}
    faces, sources = _predict(arguments, experts, folder)
    problems = constant_problems(faces.names, faces.predictions_years) if varied else []
    if problems:
        raise LabelsError("The labeled data", problems)
    return faces, sources


def _predict(
    arguments: argparse.Namespace, experts: Sequence[str] | None, folder: Path
) -> tuple[LabeledPredictions, Mapping[str, str | None]]:
    from runtime import AgeMoE

    columns = dict(pair.partition("=")[::2] for pair in arguments.columns)
    unknown = sorted(set(columns) - {"image", "age", "subject"})
    if unknown:
        raise OptionsError([f"--columns knows image, age and subject, not {', '.join(unknown)}"])
    faces = read_faces(arguments.faces, arguments.layout, columns)
    folder.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        moe = AgeMoE(
            arguments.engines,
            device=arguments.device,
            precision=arguments.precision,
            experts=experts,
            fusion=None,
        )
    for warning in caught:
        _LOGGER.warning("%s", warning.message)
    with moe:
        run_as = f"{arguments.device}, {arguments.precision}"
        return predict_faces(moe, faces, folder, _progress, run_as=run_as), moe.sources


def _progress(done: int, total: int) -> None:
    if sys.stderr.isatty():
        end = "\n" if done == total else ""
        print(f"\r{done} of {total} faces", end=end, file=sys.stderr, flush=True)
