"""Options that several commands share: the engines folder, the device, the detector."""

from __future__ import annotations

import argparse
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
    options.add_argument("--device", type=_device, default=AUTO, metavar="NAME", help=device)
    names = (AUTO, *PRECISIONS)
    options.add_argument(
        "--precision", choices=names, default=AUTO, help="precision of the experts"
    )


def add_detector(options: argparse._ActionsContainer) -> None:
    """Adds the option for the face detector."""
    options.add_argument(
        "--detector", type=_detector, default=AUTO, metavar="NAME", help=f"face detector: {NAMES}"
    )


def _device(text: str) -> str:
    try:
        parse_device(text)
    except BackendError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return text


def _detector(text: str) -> str:
    try:
        parse_detector(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return text
