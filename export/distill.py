"""The distillation command: trains Janus's light head on its own answers, on unlabeled faces.

python export/distill.py --faces photos/ --checkpoint Janus-Pro-1B/ --output janus_light/
"""

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


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; returns 0, 1 on an error, 130 when interrupted."""
    parsed = _parser().parse_args(arguments)
    try:
        return run_command(partial(_distill, parsed))
    except KeyboardInterrupt:
        print("Interrupted. The teacher's answers are kept; a rerun resumes from there.")
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="python export/distill.py",
        description="Distils Janus's light head from its prompt head, on unlabeled faces.",
    )
    add, share = parser.add_argument, "share of the faces for evaluation only (default 0.1)"
    location = "the teacher's folder or hf://owner/repo@revision"
    pictures = "folder of pictures, one face each"
    add("--faces", type=Path, required=True, metavar="DIR", help=pictures)
    add("--experts", type=Path, metavar="FILE", help="experts.toml; default: the built-in one")
    add("--name", default="janus", help="name of the teacher in that file (default janus)")
    add("--checkpoint", metavar="PATH", help=location)
    add("--output", type=Path, required=True, metavar="DIR", help="the new checkpoint folder")
    add("--epochs", type=count, default=30, metavar="N", help="default 30")
    add("--held-back", type=float, default=0.1, metavar="SHARE", help=share)
    add("--seed", type=seed, default=0, help="random seed (default 0)")
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
