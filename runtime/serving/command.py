"""`python -m runtime serve`: the HTTP service in one process."""

from __future__ import annotations

import argparse
import ipaddress
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
from runtime.detectors.names import AUTO, NAMES
from runtime.json_reader import shown
from runtime.liveness_model import LIVENESS
from runtime.printing import printable_lines
from runtime.quality_options import add_no_face_option, add_quality_options, quality_limits
from runtime.serving.logs import FORMATS, LEVELS, logging_started
from runtime.serving.origins import ANY
from runtime.serving.process_memory import return_large_blocks
from runtime.serving.settings import Batching, Limits, Settings

_Options = dict[str, tuple[Callable[[str], float], str]]
_NOTICE = "on SIGTERM, keep serving this long while reporting not ready, for load balancers"
_HOSTS = (
    "names that requests may be addressed to, as in the header Host; by default only this "
    "machine's own when listening on it without keys, else any"
)
_ORIGINS = (
    "origins of other sites' pages whose scripts may use the service, as in https://shop.example; "
    "* allows any, with --keys or --without-keys; by default none"
)
_ACCESS_LOG = "log each request: method, path, status, time, and name of the key (on)"
_AUDIT = "record every decision in this file, see docs/audit.md"
_AUDIT_KEY = "file of a secret that pictures are digested with in --audit"
_POLICY = "decide by policy.json of the engines folder (POST /v1/decisions): pass, refer or fail"
_DECODERS = "processes that decode pictures; by default one more than the cores, at most 8"
_LOOPBACK_NAMES = ("localhost", "127.0.0.1", "[::1]")
_LIMITS: _Options = {
    "body_bytes": (size, "maximum bytes of a request"),
    "image_bytes": (size, "maximum bytes of an encoded picture"),
    "pixels": (size, "maximum total pixels of a request's pictures"),
    "decode_bytes": (size, "maximum bytes of memory for decoding, over all requests"),
    "decode_seconds": (positive, "maximum processor seconds to decode a request's pictures"),
    "search_pixels": (size, "maximum pixels that the face detector looks at for a request"),
    "images": (count, "maximum pictures of a request"),
    "faces": (count, "maximum faces, and given persons, of a request"),
    "requests": (count, "maximum concurrent requests for ages and decisions"),
    "connections": (count, "maximum open connections"),
    "header_seconds": (positive, "time limit for a request's head"),
    "body_seconds": (positive, "time limit for a request's body, and for receiving its response"),
    "deadline_ms": (positive, "time limit for the answer to a request that has arrived"),
}
_BATCHING: _Options = {
    "max_batch": (count, "maximum faces per batch; by default 8 on a GPU and 1 on a CPU"),
    "max_wait_ms": (not_negative, "maximum batching delay"),
    "queue_limit": (count, "maximum waiting faces; more are rejected"),
    "workers": (count, "concurrent batches"),
}
_LAST_PORT = 65535
"""The system would wrap a larger one around."""
_EXTRA = "The service needs packages that are not installed ({}). Install agemoe-runtime[serve]."


def main(arguments: Sequence[str] | None = None) -> int:
    """Parses the arguments and runs the command; returns the exit status."""
    parser = Parser(prog="python -m runtime serve", description=__doc__)
    add_arguments(parser)
    return serve(parser.parse_args(arguments))


def serve(parsed: argparse.Namespace) -> int:
    """Serves, or makes a key, as parsed from `add_arguments`; returns the exit status."""
    if parsed.new_key is not None:
        return _print_new_key(parsed.new_key, "admin" if parsed.admin else "user")
    try:
        with logging_started(parsed.log_level, parsed.log_format, access=parsed.access_log):
            return run_command(partial(_serve, parsed))
    except ImportError as error:
        print_error(_EXTRA.format(error))
    except ValueError as error:
        print_error(printable_lines(str(error)))
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
    add("--engines", type=Path, default=Path("engines"), help="the engines folder")
    add("--host", default="127.0.0.1", help="address to listen on")
    add(
        "--port",
        type=whole(0, _LAST_PORT),
        default=8000,
        help="port to listen on; 0 selects a free one",
    )
    add("--device", default="auto", help="auto, cpu, cuda, cuda:N or tensorrt")
    add("--precision", default="auto", help="auto, fp32, fp16, bf16 or int8")
    add("--detector", default=AUTO, help=f"face detector: {NAMES}")
    add("--liveness", type=Path, metavar="FILE", help=LIVENESS)
    add("--policy", action="store_true", help=_POLICY)
    add("--decoders", type=count, metavar="N", help=_DECODERS)
    add("--audit", type=Path, metavar="FILE", help=_AUDIT)
    add("--audit-key", type=Path, metavar="FILE", help=_AUDIT_KEY)
    add("--keys", type=Path, help="file of accepted API keys; the page and /health stay open")
    add("--allowed-hosts", nargs="+", metavar="NAME", help=_HOSTS)
    add("--allowed-origins", nargs="+", metavar="ORIGIN", default=(), help=_ORIGINS)
    add("--without-keys", action="store_true", help="accept requests from any host without a key")
    new_key = "make a key, print it and its line for --keys, and exit"
    add("--new-key", type=_name, metavar="NAME", help=new_key)
    add("--admin", action="store_true", help="with --new-key: a key that also permits reloading")
    add("--notice-seconds", type=not_negative, default=0.0, help=_NOTICE)
    add(
        "--drain-seconds",
        type=not_negative,
        default=30.0,
        help="time for requests in progress to finish",
    )
    add("--log-level", choices=LEVELS, default="info", help="least level of what is logged (info)")
    add("--log-format", choices=FORMATS, default="text", help="lines of text, or of JSON (text)")
    add("--access-log", action=argparse.BooleanOptionalAction, default=True, help=_ACCESS_LOG)
    add_no_face_option(parser)
    add_quality_options(parser)
    _add_section(parser, "limits", Limits(), _LIMITS, "--max-")
    _add_section(parser, "batching", Batching(), _BATCHING, "--")


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
            help=text if default is None else f"{text} (%(default)s)",
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
