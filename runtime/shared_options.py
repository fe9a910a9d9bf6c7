"""Options that several commands share: the engines folder, the device, the detector."""

from __future__ import annotations

import argparse
from pathlib import Path

from runtime.detectors.names import AUTO, NAMES, parse_detector

DEVICES = "auto, cpu, cuda, cuda:N (GPU number N), tensorrt or tensorrt:N"
PRECISIONS = "auto, fp32, fp16, bf16 or int8"


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
    options.add_argument(
        "--device", default="auto", help=f"device to run the experts on: {DEVICES}"
    )
    options.add_argument(
        "--precision", default="auto", help=f"precision of the experts: {PRECISIONS}"
    )


def add_detector(options: argparse._ActionsContainer) -> None:
    """Adds the option for the face detector."""
    options.add_argument(
        "--detector", type=_detector, default=AUTO, metavar="NAME", help=f"face detector: {NAMES}"
    )


def _detector(text: str) -> str:
    try:
        parse_detector(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return text
