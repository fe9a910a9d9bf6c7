"""`agemoe serve`: the HTTP service in one process."""

from __future__ import annotations

import argparse
import ipaddress
import logging
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from runtime.commands import (
    Parser,
    count,
    not_negative,
    positive,
    print_error,
    run_command,
    size,
    whole,
)
from runtime.json_reader import shown
from runtime.liveness_model import LIVENESS
from runtime.printing import printable_lines
from runtime.program import command_line
from runtime.quality_options import add_no_face_option, add_quality_options, quality_limits
from runtime.serving.logs import FORMATS, LEVELS, logging_started
from runtime.serving.origins import ANY
from runtime.serving.process_memory import return_large_blocks
from runtime.serving.settings import Batching, Limits, Settings
from runtime.shared_options import add_backend, add_detector, add_engines

_log = logging.getLogger("agemoe")
_Options = dict[str, tuple[Callable[[str], float], str]]
_NOTICE = "after SIGTERM, keep serving for this many seconds while reporting not ready"
_HOSTS = (
    "host names accepted in the Host header (default: any; without keys on a loopback address, "
    "only the names of this machine)"
)
_ORIGINS = (
    "origins of other sites whose scripts may use the service, such as https://shop.example "
    "(default: none); * allows any, with --keys or --without-keys"
)
_ACCESS_LOG = "log each request: method, path, status, time, and name of the key (default: on)"
_AUDIT = "append every decision to this audit log"
_AUDIT_KEY = "file with the secret key of the picture digests in the audit log"
_POLICY = "also serve decisions (pass, refer or fail) by policy.json in the engines folder"
_DECODERS = "processes that decode pictures (default: cores + 1, at most 8)"
_KEYS = "file with the accepted API keys; the page and /health stay open"
_LOOPBACK_NAMES = ("localhost", "127.0.0.1", "[::1]")
_LIMITS: _Options = {
    "body_bytes": (size, "maximum size of a request body in bytes"),
    "image_bytes": (size, "maximum size of an encoded picture in bytes"),
    "pixels": (size, "maximum pixels of all pictures of a request"),
    "decode_bytes": (size, "maximum memory for decoding, over all requests, in bytes"),
    "decode_seconds": (
        positive,
        "maximum CPU time to decode the pictures of a request, in seconds",
    ),
    "search_pixels": (size, "maximum pixels that the face detector searches for a request"),
    "images": (count, "maximum pictures per request"),
    "faces": (count, "maximum faces, and given persons, per request"),
    "requests": (count, "maximum concurrent requests for ages and decisions"),
    "connections": (count, "maximum open connections"),
    "header_seconds": (positive, "maximum time to receive the head of a request, in seconds"),
    "body_seconds": (
        positive,
        "maximum time to receive the body of a request, and to send its response, in seconds",
    ),
    "deadline_ms": (positive, "maximum time to answer a request that has arrived, in milliseconds"),
}
_BATCHING: _Options = {
    "max_batch": (count, "maximum faces per batch (default: 8 on a GPU, 1 on a CPU)"),
    "max_wait_ms": (not_negative, "maximum batching delay in milliseconds"),
    "queue_limit": (count, "maximum faces waiting for a batch; more are rejected"),
    "workers": (count, "number of concurrent batches"),
}
_LAST_PORT = 65535
"""The system would wrap a larger one around."""
_EXTRA = "The service needs packages that are not installed ({}). Install agemoe-runtime[serve]."


def main(arguments: Sequence[str] | None = None) -> int:
    """Parses the arguments and runs the command; returns the exit status."""
    return serve(parser().parse_args(arguments))


def parser() -> Parser:
    """Returns the parser of the arguments."""
    parser = Parser(
        prog=command_line("serve"),
        description="Runs the HTTP service and its web page in one process.",
        notes="The page is at http://127.0.0.1:8000, the description of the API at /openapi.json.",
        examples=(
            "--engines engines",
            "--new-key NAME",
            "--host 0.0.0.0 --keys keys.txt",
            "--policy --audit decisions.log",
        ),
    )
    add_arguments(parser)
    return parser


def serve(parsed: argparse.Namespace) -> int:
    """Serves, or makes a key, as parsed from `add_arguments`; returns the exit status."""
    if parsed.new_key is not None:
        return _print_new_key(parsed.new_key, "admin" if parsed.admin else "user")
    tell = _log.error if parsed.log_format == "json" else None  # no line may be anything else
    try:
        with logging_started(parsed.log_level, parsed.log_format, access=parsed.access_log):
            return run_command(partial(_serve, parsed), tell=tell)
    except ImportError as error:
        (tell or print_error)(_EXTRA.format(error))
    except ValueError as error:
        (tell or print_error)(printable_lines(str(error)))
    return 1


def _serve(parsed: argparse.Namespace) -> int:
    _require_access_control(parsed)
    from runtime.serving.server import Shutdown, run

    return_large_blocks()
    shutdown = Shutdown(parsed.notice_seconds, parsed.drain_seconds)
    return run(_settings(parsed), parsed.host, parsed.port, shutdown)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `serve`."""
    add = parser.add_argument
    add_engines(parser)
    add("--host", type=_host, default="127.0.0.1", help="address to listen on")
    add(
        "--port",
        type=whole(0, _LAST_PORT),
        default=8000,
        metavar="PORT",
        help="port to listen on; 0 selects a free one",
    )
    add_backend(parser)
    add_detector(parser)
    add("--liveness", type=Path, metavar="FILE", help=LIVENESS)
    add("--policy", action="store_true", help=_POLICY)
    add("--decoders", type=count, metavar="N", help=_DECODERS)
    add("--audit", type=Path, metavar="FILE", help=_AUDIT)
    add("--audit-key", type=Path, metavar="FILE", help=_AUDIT_KEY)
    add("--keys", type=Path, metavar="FILE", help=_KEYS)
    add("--allowed-hosts", nargs="+", metavar="NAME", help=_HOSTS)
    add("--allowed-origins", nargs="+", metavar="ORIGIN", default=(), help=_ORIGINS)
    add(
        "--without-keys",
        action="store_true",
        help="accept requests from other machines without a key",
    )
    new_key = "make an API key, print it and its line for the file of --keys, and exit"
    add("--new-key", type=_name, metavar="NAME", help=new_key)
    add(
        "--admin",
        action="store_true",
        help="with --new-key: make a key that also permits reloading the engines",
    )
    add("--notice-seconds", type=not_negative, default=0.0, metavar="S", help=_NOTICE)
    add(
        "--drain-seconds",
        type=not_negative,
        default=30.0,
        metavar="S",
        help="at shutdown, wait at most this many seconds for requests in progress",
    )
    add("--log-level", choices=LEVELS, default="info", help="least severe level that is logged")
    add(
        "--log-format",
        choices=FORMATS,
        default="text",
        help="lines of the log: text, or one JSON object each",
    )
    add("--access-log", action=argparse.BooleanOptionalAction, default=True, help=_ACCESS_LOG)
    add_no_face_option(parser)
    add_quality_options(parser)
    _add_section(parser, "limits", Limits(), _LIMITS, "--max-")
    _add_section(parser, "batching", Batching(), _BATCHING, "--")


def _host(text: str) -> str:
    name, colon, port = text.rpartition(":")
    if colon and ":" not in name and port.isdecimal():
        raise argparse.ArgumentTypeError(
            f"expected an address without a port, got {shown(text)}: give the port as --port"
        )
    return text


def _name(text: str) -> str:
    if text.split() != [text] or "#" in text or not text.isprintable():
        raise argparse.ArgumentTypeError(f"expected a word without #, got {shown(text)}")
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
        default = getattr(defaults, name)
        section.add_argument(
            f"{prefix}{name.replace('_', '-')}",
            dest=f"{group}.{name}",
            type=kind,
            default=default,
            metavar="N",
            help=text,
        )


def _settings(parsed: argparse.Namespace) -> Settings:
    given = vars(parsed)
    names = ("engines", "device", "precision", "detector", "policy", "decoders", "keys")
    files = ("audit", "audit_key", "liveness")
    return Settings(
        **{name: given[name] for name in (*names, *files)},
        quality=quality_limits(parsed, require_face=not parsed.accept_no_face),
        allowed_hosts=_allowed_hosts(parsed),
        allowed_origins=tuple(parsed.allowed_origins),
        limits=Limits(**{name: given[f"limits.{name}"] for name in _LIMITS}),
        batching=Batching(**{name: given[f"batching.{name}"] for name in _BATCHING}),
    )


def _allowed_hosts(parsed: argparse.Namespace) -> tuple[str, ...] | None:
    if parsed.allowed_hosts is not None:
        return tuple(name.lower() for name in parsed.allowed_hosts)
    if parsed.keys is not None or not _is_loopback(parsed.host):
        return None
    return tuple(dict.fromkeys((*_LOOPBACK_NAMES, parsed.host.lower())))


def _require_access_control(parsed: argparse.Namespace) -> None:
    if parsed.keys is None and not parsed.without_keys and not _is_loopback(parsed.host):
        raise ValueError(
            f"--host {parsed.host} accepts connections from other machines, and there are no API "
            f"keys. Give --keys FILE, or --without-keys behind a proxy that controls access."
        )
    if ANY in parsed.allowed_origins and parsed.keys is None and not parsed.without_keys:
        raise ValueError(
            "--allowed-origins * lets the scripts of every web page that is open on this machine "
            "use the service, and there are no API keys. Give the origins, or --keys FILE, or "
            "--without-keys to accept that."
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
    sys.stdout.write(f"key, shown only once: {secret}\nline for --keys: {key.line()}\n")
    return 0
