"""`python -m runtime serve`: the HTTP service as one process."""

from __future__ import annotations

import argparse
import ipaddress
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from runtime.errors import AgeMoEError
from runtime.serving.settings import Batching, Limits, Settings

_Options = dict[str, tuple[type[int] | type[float], str]]
_NOTICE = "when told to stop: serve on so long, not ready, until a load balancer has seen it"
_LIMITS: _Options = {
    "body_bytes": (int, "of a request"),
    "image_bytes": (int, "of a picture"),
    "pixels": (int, "of all pictures of a request together"),
    "images": (int, "of a request"),
    "faces": (int, "of a request, and given persons"),
    "requests": (int, "for ages, under way at a time"),
    "connections": (int, "open at a time"),
    "header_seconds": (float, "until a request's head is there"),
    "body_seconds": (float, "until a request's body is there, and until its answer is taken"),
}
_BATCHING: _Options = {
    "max_batch": (int, "faces in a batch; else 8 on a GPU and 1 on the CPU"),
    "max_wait_ms": (float, "that a face waits for company"),
    "queue_limit": (int, "faces that wait; more are refused"),
    "workers": (int, "batches under way at a time"),
}
_LAST_PORT = 65535
_EXTRA = "The service needs more than is installed ({}). Install agemoe-runtime[serve]."


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the service until it is told to stop; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m runtime serve", description=__doc__)
    add_arguments(parser)
    return serve(parser.parse_args(arguments))


def serve(parsed: argparse.Namespace) -> int:
    """Does what was parsed of `add_arguments`; returns the exit status."""
    if parsed.new_key is not None:
        return _print_new_key(parsed.new_key, "admin" if parsed.admin else "user")
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    try:
        _refuse_open_house(parsed)
        from runtime.serving.server import Stopping, run

        stopping = Stopping(parsed.notice_seconds, parsed.drain_seconds)
        return run(_settings(parsed), parsed.host, parsed.port, stopping)
    except ImportError as error:
        return _failed(_EXTRA.format(error))
    except (AgeMoEError, ValueError) as error:
        return _failed(str(error))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `serve`."""
    add = parser.add_argument
    add("--engines", type=Path, default=Path("engines"), help="the engines folder")
    add("--host", default="127.0.0.1", help="address to listen on")
    add("--port", type=_port, default=8000, help="0 takes a free one")
    add("--device", default="auto", help="auto, cpu, cuda, cuda:N or tensorrt")
    add("--precision", default="auto", help="auto, fp32, fp16, bf16 or int8")
    add("--detector", default="haar", help="haar, or yunet:MODEL[#sha256=HEX]")
    add(
        "--keys", type=Path, help="file of API keys; makes everything but / and /health ask for one"
    )
    add("--without-keys", action="store_true", help="serve everybody who reaches --host")
    add(
        "--new-key",
        type=_name,
        metavar="NAME",
        help="make a key, print it and its line for --keys, and end",
    )
    add("--admin", action="store_true", help="with --new-key: one that may also reload")
    add("--notice-seconds", type=float, default=0.0, help=_NOTICE)
    add("--drain-seconds", type=float, default=30.0, help="for what is under way when told to stop")
    _add_section(parser, "limits", Limits(), _LIMITS, "--max-")
    _add_section(parser, "batching", Batching(), _BATCHING, "--")


def _port(text: str) -> int:
    if not text.isdecimal() or int(text) > _LAST_PORT:
        raise argparse.ArgumentTypeError(f"expected a port within 0..{_LAST_PORT}, got {text!r}")
    return int(text)  # the system would take a larger one for another


def _name(text: str) -> str:
    if text.split() != [text] or "#" in text:
        raise argparse.ArgumentTypeError(f"expected a word without # for the file, got {text!r}")
    return text


def _add_section(
    parser: argparse.ArgumentParser,
    group: str,
    defaults: Limits | Batching,
    options: _Options,
    prefix: str,
) -> None:
    section = parser.add_argument_group(group)
    for name, (kind, text) in options.items():
        section.add_argument(
            f"{prefix}{name.replace('_', '-')}",
            dest=f"{group}.{name}",
            type=kind,
            default=getattr(defaults, name),
            metavar="N",
            help=f"{text} (%(default)s)",
        )


def _settings(parsed: argparse.Namespace) -> Settings:
    given = vars(parsed)
    return Settings(
        engines=parsed.engines,
        device=parsed.device,
        precision=parsed.precision,
        detector=parsed.detector,
        keys=parsed.keys,
        limits=Limits(**{name: given[f"limits.{name}"] for name in _LIMITS}),
        batching=Batching(**{name: given[f"batching.{name}"] for name in _BATCHING}),
    )


def _refuse_open_house(parsed: argparse.Namespace) -> None:
    if parsed.keys is None and not parsed.without_keys and not _is_loopback(parsed.host):
        raise ValueError(
            f"--host {parsed.host} can be reached from elsewhere and there are no API keys. Give "
            f"--keys FILE, or --without-keys if something before the service checks who comes."
        )


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _print_new_key(name: str, role: str) -> int:
    from runtime.serving.keys import new_key

    secret, key = new_key(name, role)
    sys.stdout.write(f"key, shown only now: {secret}\nline for --keys: {key.line()}\n")
    return 0


def _failed(text: str) -> int:
    sys.stderr.write(f"error: {text}\n")
    return 1
