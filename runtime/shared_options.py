"""Options that several commands share: the engines folder, the device, the detector."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

from runtime.backends.names import parse_device
from runtime.detectors.names import AUTO, NAMES, parse_detector
from runtime.errors import BackendError
from runtime.manifest import PRECISIONS

DEVICES = "auto, cpu, cuda, cuda:N (GPU number N), tensorrt or tensorrt:N"


def add_engines(options: argparse._ActionsContainer) -> None:
    """Adds the option for the engines folder."""
    options.add_argument(
        "--engines",
        type=Path,
        default=Path("engines"),
        metavar="DIR",
        help="engines folder: the experts and their manifest.json",
    )


def add_backend(options: argparse._ActionsContainer) -> None:
    """Adds the options for the device and the precision of the experts."""
    device = f"device to run the experts on: {DEVICES}"
    options.add_argument(
        "--device", type=_checked_by(parse_device), default=AUTO, metavar="NAME", help=device
    )
    names = (AUTO, *PRECISIONS)
    options.add_argument(
        "--precision", choices=names, default=AUTO, help="precision of the experts"
    )


def add_detector(options: argparse._ActionsContainer) -> None:
    """Adds the option for the face detector."""
    options.add_argument(
        "--detector",
        type=_checked_by(parse_detector),
        default=AUTO,
        metavar="NAME",
        help=f"face detector: {NAMES}",
    )


def _checked_by(parse: Callable[[str], object]) -> Callable[[str], str]:
    """Returns a type of options that keeps the text and reports errors of `parse` as usage."""

    def check(text: str) -> str:
        try:
            parse(text)
        except (BackendError, ValueError) as error:
            raise argparse.ArgumentTypeError(str(error)) from None
        return text

    return check
