"""Trains Janus's light head on the answers of Janus itself, on unlabeled faces."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

if __package__ in (None, ""):  # run as a file: python export/distill.py
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from export.build.experts_file import DEFAULT_EXPERTS, read_experts
from export.config.architecture import ExpertConfig
from export.errors import OptionsError
from export.experts.janus.settings import JanusSettings
from runtime.commands import Parser, count, run_command, seed
from runtime.names import suggestion
from runtime.printing import printable
from runtime.program import usage_name


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; returns 0, 1 on an error, 130 when interrupted."""
    parsed = parser().parse_args(arguments)
    kept = "Interrupted. The teacher's answers are kept; a rerun resumes from there."
    return run_command(partial(_distill, parsed), interrupted=kept)


def parser() -> Parser:
    """Returns the parser of the arguments."""
    parser = Parser(
        prog=usage_name("distill", __file__),
        description="Trains Janus's light head (the student) on the answers of its prompt head "
        "(the teacher), on unlabeled faces.",
        examples=("--faces photos/ --checkpoint Janus-Pro-1B/ --output janus_light/",),
    )
    add, share = parser.add_argument, "share of the faces held back for evaluation, 0..1"
    location = "the teacher: a folder, or hf://owner/repo@revision (default: that of experts.toml)"
    pictures = "folder with pictures of one face each"
    add("--faces", type=Path, required=True, metavar="DIR", help=pictures)
    add("--experts", type=Path, metavar="FILE", help="experts.toml (default: the built-in one)")
    add("--name", default="janus", help="name of the teacher in experts.toml")
    add("--checkpoint", metavar="PATH", help=location)
    add("--output", type=Path, required=True, metavar="DIR", help="checkpoint folder to write")
    add("--epochs", type=count, default=30, metavar="N", help="passes over the faces")
    add("--held-back", type=float, default=0.1, metavar="SHARE", help=share)
    add("--seed", type=seed, default=0, metavar="N", help="random seed")
    return parser


def _distill(arguments: argparse.Namespace) -> int:
    config = _teacher_config(arguments)
    # PyTorch is imported only for valid options, so that --help is instant.
    from export.checkpoints.sources import find_checkpoint
    from export.distillation.training import Distillation, distil

    report = distil(
        Distillation(
            config=config,
            checkpoint=find_checkpoint(str(config.checkpoint), config.sha256),
            faces=arguments.faces,
            output=arguments.output,
            epochs=arguments.epochs,
            held_back=arguments.held_back,
            seed=arguments.seed,
        ),
        print,
    )
    print(
        f"On {report['held_back']} held-back faces the light head differs from its teacher by "
        f"{report['mean_years']:.2f} years on average and {report['max_years']:.2f} at most; "
        f"KL divergence {report['kl_nats']:.4f} nats."
    )
    print(
        f"Wrote {printable(arguments.output)}. In experts.toml: architecture = 'janus', "
        f"head = 'light', "
        f"checkpoint = '{printable(arguments.output)}'."
    )
    return 0


def _teacher_config(arguments: argparse.Namespace) -> ExpertConfig:
    problems: list[str] = []
    experts = read_experts(arguments.experts or DEFAULT_EXPERTS, problems)
    config = experts.get(arguments.name)
    if config is None:
        hint = suggestion(arguments.name, experts)
        known = ", ".join(experts)
        problems.append(f"--name {arguments.name}: no such expert; found {known}.{hint}")
    elif not isinstance(config.settings, JanusSettings) or config.settings.head != "prompt":
        problems.append(
            f"--name {arguments.name}: the teacher must be a Janus with head = 'prompt'"
        )
    else:
        config = replace(config, checkpoint=arguments.checkpoint or config.checkpoint)
        if config.checkpoint is None:
            problems.append("--checkpoint: missing, and experts.toml names none")
    if not arguments.faces.is_dir():
        problems.append(f"--faces {arguments.faces}: no such folder")
    if arguments.epochs < 1:
        problems.append(f"--epochs: must be at least 1, got {arguments.epochs}")
    if not 0.0 < arguments.held_back < 1.0:
        problems.append(f"--held-back: must be within (0, 1), got {arguments.held_back}")
    if problems or config is None:
        raise OptionsError(problems)
    return config


if __name__ == "__main__":
    sys.exit(main())
