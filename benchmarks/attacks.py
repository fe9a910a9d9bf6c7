"""Measures processor time and memory of hostile pictures and requests, in library and service.

Normal requests are timed alone and while hostile ones are being served.

Exit status 1: a picture or request takes more processor time or memory than permitted, raises an
error that is not the library's, or slows a normal request down.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

if __package__ in (None, ""):
    # Run as a script: the repository's root must be on the path, benchmarks/ must not.
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

import numpy as np

from benchmarks import environment
from benchmarks import options as shared
from benchmarks.hostile import Hostile, corpus, costs
from benchmarks.hostile.costs import Cost, library_cost
from benchmarks.hostile.parts import LIMIT_SIDE
from benchmarks.hostile.png_files import RGBA, png
from benchmarks.hostile.requests import body, hostile_requests, slow_picture
from benchmarks.hostile.service import Answer, Service, serving
from benchmarks.reports import markdown_table
from runtime.commands import MOST_COUNT, Parser, positive, whole
from runtime.manifest_file import read_manifest
from runtime.shared_options import add_engines

MAX_CPU_SECONDS = 2.0
"""Limit for one picture or request."""
MAX_REQUEST_MB = 1000.0
"""Limit for one request, above what the service holds at rest. docs/serving.md: three times its
body, the memory for decoding, and that of the face detector."""
MAX_SLOWDOWN = 2.0
"""Limit for a normal request while hostile ones are served, relative to its usual time and without
the time of the batch ahead of it."""
WRONG = 1
_PER_KIND = 3
"""Large pictures measured per kind, unless `--all` is given."""
_AT_ONCE = 32
_NORMAL = 5
"""Normal requests per round; their median is the round's time."""
_WARM_UP_SECONDS = 0.3
_DEADLINE_MS = 1000.0
_TITLES = (
    "kind",
    "tried",
    "library: CPU s",
    "MB",
    "service: CPU s",
    "MB",
    "normal request ×",
    "the worst",
)


@dataclass(slots=True)
class Kind:
    """Measured costs of the pictures or requests of one kind, by name."""

    library: dict[str, Cost] = field(default_factory=dict)
    service: dict[str, Cost] = field(default_factory=dict)
    ahead_seconds: dict[str, float] = field(default_factory=dict)
    """Time that the experts spend on its faces."""
    slowdown: float | None = None
    """Time of a normal request during a stream of the most expensive one of this kind, without the
    time of the batch ahead of it, relative to its usual time; the median over rounds."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; returns its exit status."""
    options = parser().parse_args(arguments)
    return shared.exit_status(lambda: run(options))


def run(options: argparse.Namespace) -> int:
    """Measures, prints a report in Markdown, and returns the exit status."""
    started, load = time.monotonic(), environment.load_average()
    read_manifest(options.engines)  # its error says more than a service that does not start
    pictures = chosen(corpus(), options.kind, everything=options.all)
    kinds: defaultdict[str, Kind] = defaultdict(Kind)
    found: list[str] = []
    with serving(options.engines, options.serve) as service:
        normal = _normal_body()
        service.cost(normal, normal)
        _measure_pictures(service, pictures, kinds)
        if options.requests:
            _measure_requests(service, options.kind, kinds)
        if options.rounds:
            _measure_slowdowns(service, normal, pictures, kinds, options.rounds)
        if options.requests and not options.kind:
            found += [_deadlines(service, normal), _flood(service)]
    problems = wrong(
        kinds,
        max_cpu_seconds=options.max_cpu_seconds,
        max_mb=options.max_mb,
        max_slowdown=options.max_slowdown,
    )
    machine, seconds = environment.machine(), time.monotonic() - started
    system = f"{machine['processor']}, {machine['cores']} cores, load {load[0]}"
    print(f"{len(pictures)} pictures in {seconds:.0f} s; {system}.\n")
    print(table(kinds))
    print("\n".join(["", *found, "", f"Beyond the bounds: {len(problems)}.", *problems]))
    return WRONG if problems else 0


def chosen(pictures: Iterable[Hostile], word: str, *, everything: bool = False) -> list[Hostile]:
    """Returns the pictures to measure: all small ones, and some of the large ones of each kind.

    Args:
        pictures: to choose from.
        word: part of the kinds to measure; empty for all.
        everything: whether to choose all of them.
    """
    by_kind: defaultdict[str, list[Hostile]] = defaultdict(list)
    for picture in pictures:
        if word.lower() in picture.kind.lower():
            by_kind[picture.kind].append(picture)
    found: list[Hostile] = []
    for own in by_kind.values():
        large = [one for one in own if not one.small]
        places = np.linspace(0, len(large) - 1, min(_PER_KIND, len(large))).round().astype(int)
        picked = {large[place].name for place in places}
        found += [one for one in own if everything or one.small or one.name in picked]
    return found


def _measure_pictures(
    service: Service, pictures: Sequence[Hostile], kinds: Mapping[str, Kind]
) -> None:
    for number, picture in enumerate(pictures):
        data, kind = picture.make(), kinds[picture.kind]
        kind.library[picture.name] = library_cost(data)
        _ask(service, body([data]), kind, picture.name)
        _progress(number, len(pictures), picture.kind, picture.name)


def _measure_requests(service: Service, word: str, kinds: Mapping[str, Kind]) -> None:
    for request in hostile_requests():
        if word.lower() in request.kind.lower():
            _ask(service, request.make(), kinds[request.kind], request.name)
            _progress(0, 0, request.kind, request.name)


def _ask(service: Service, request: bytes, kind: Kind, name: str) -> None:
    kind.service[name], answers = service.cost(request)
    kind.ahead_seconds[name] = answers[0].estimate_seconds


def _measure_slowdowns(
    service: Service,
    normal: bytes,
    pictures: Sequence[Hostile],
    kinds: Mapping[str, Kind],
    rounds: int,
) -> None:
    """Times normal requests alone and during a stream of the most expensive one of each kind."""
    makers = {(one.kind, one.name): one.make for one in pictures}
    requests = {(one.kind, one.name): one.make for one in hostile_requests()}
    for name, kind in kinds.items():
        worst = _worst(kind.service)
        key = (name, worst)
        hostile = body([makers[key]()]) if key in makers else requests[key]()
        ratios = []
        for _ in range(rounds):
            usual = _median_seconds(service, normal)
            with service.stream(hostile):
                time.sleep(_WARM_UP_SECONDS)
                beside = _median_seconds(service, normal)
            costs.settle(service.process)
            ratios.append((beside - kind.ahead_seconds[worst]) / usual)
        kind.slowdown = float(np.median(ratios))
        _progress(0, 0, name, f"normal request × {kind.slowdown:.2f}")


def _median_seconds(service: Service, body_: bytes) -> float:
    return float(np.median([service.post(body_).seconds for _ in range(_NORMAL)]))


def _deadlines(service: Service, normal: bytes) -> str:
    """Measures three slow pictures with a deadline at once, and a normal request beside them."""
    hostile = body([slow_picture()], deadline_ms=_DEADLINE_MS)
    usual = _median_seconds(service, normal)
    cost, answers = service.cost(*[hostile] * 3)
    with service.stream(hostile), service.stream(hostile), service.stream(hostile):
        time.sleep(2 * _DEADLINE_MS / 1000.0)
        beside = service.post(normal).seconds
    costs.settle(service.process)
    return (
        f"Three slow pictures with a deadline of {_DEADLINE_MS:.0f} ms at once: answered "
        f"({_counted(answers)}) after {max(a.seconds for a in answers):.1f} s, "
        f"{cost.cpu_seconds:.1f} s of processor time in all; a normal request beside streams of "
        f"them took {beside:.2f} s, usually {usual:.3f} s."
    )


def _flood(service: Service) -> str:
    """Measures many requests at once, each with a picture at the limit, and the memory after."""
    before = costs.resident(service.process)
    cost, answers = service.cost(*[body([png(LIMIT_SIDE, LIMIT_SIDE, RGBA)])] * _AT_ONCE)
    after = costs.resident(service.process)
    return (
        f"{_AT_ONCE} RGBA pictures at the limit at once: {_counted(answers)}; peak "
        f"{cost.peak_bytes / 1e6:,.0f} MB above {before / 1e6:,.0f} MB, "
        f"{after / 1e6:,.0f} MB after; "
        f"{cost.cpu_seconds:.1f} s of processor time, {cost.wall_seconds:.1f} s."
    )


def _counted(answers: Sequence[Answer]) -> str:
    outcomes = [answer.outcome for answer in answers]
    return ", ".join(f"{outcomes.count(one)} × {one}" for one in sorted(set(outcomes)))


def _worst(measured: Mapping[str, Cost]) -> str:
    return max(measured, key=lambda name: measured[name].cpu_seconds)


def wrong(
    kinds: Mapping[str, Kind], *, max_cpu_seconds: float, max_mb: float, max_slowdown: float
) -> list[str]:
    """Returns what lies beyond the bounds, one line each."""
    found = []
    for name, kind in kinds.items():
        for place, measured in (("library", kind.library), ("service", kind.service)):
            for one, cost in measured.items():
                reasons = [
                    f"{cost.cpu_seconds:.1f} s" * (cost.cpu_seconds > max_cpu_seconds),
                    f"{cost.peak_bytes / 1e6:,.0f} MB" * (cost.peak_bytes > max_mb * 1e6),
                    cost.outcome * cost.outcome.startswith(("FOREIGN", "the process", "500", "0 ")),
                ]
                if any(reasons):
                    found.append(f"- {name}, {one}, {place}: {', '.join(filter(None, reasons))}")
        if kind.slowdown is not None and kind.slowdown > max_slowdown:
            found.append(f"- {name}: a normal request takes {kind.slowdown:.1f} × its usual time")
    return found


def table(kinds: Mapping[str, Kind]) -> str:
    """Returns the largest cost of each kind as a table in Markdown."""
    rows = []
    for name, kind in kinds.items():
        both = [_most(measured) for measured in (kind.library, kind.service)]
        slowdown = "-" if kind.slowdown is None else f"{kind.slowdown:.1f}"
        worst = _worst(kind.service)
        label = f"{worst}: {kind.service[worst].outcome}"
        rows.append((name, str(len(kind.service)), *both[0], *both[1], slowdown, label))
    return markdown_table(_TITLES, rows, ("---", *["---:"] * 6, "---"))


def _most(measured: Mapping[str, Cost]) -> tuple[str, str]:
    if not measured:
        return "-", "-"
    seconds = max(cost.cpu_seconds for cost in measured.values())
    peak = max(cost.peak_bytes for cost in measured.values())
    return f"{seconds:.2f}", f"{peak / 1e6:,.0f}"


def _normal_body() -> bytes:
    face = shared.drawn_face(3)
    boxes = {"boxes": [[face.box]], "person_boxes": [[face.person_box]]}
    return body([cast(bytes, face.image)], **boxes)


def _progress(number: int, count: int, *words: str) -> None:
    if sys.stderr.isatty():
        start = f"{number + 1}/{count} " if count else ""
        sys.stderr.write(f"\r\033[K{start}{', '.join(words)}"[:120])


def parser() -> Parser:
    """Returns the parser of the arguments."""
    parser = Parser(
        prog="python benchmarks/attacks.py",
        description="Measures the cost of hostile pictures and requests, and how far they slow "
        "normal requests down.",
        examples=("--engines engines --all", "--kind PNG --no-requests", "--serve=--decoders=2"),
    )
    add = parser.add_argument
    add_engines(parser)
    add("--all", action="store_true", help="send all large pictures, not some of each kind")
    kind = "only kinds of pictures whose name contains this word (default: all)"
    add("--kind", default="", metavar="WORD", help=kind)
    only = "send no hostile requests, only pictures"
    add("--no-requests", dest="requests", action="store_false", help=only)
    rounds = "rounds of normal requests per kind of picture; 0: none"
    add("--rounds", type=whole(0, MOST_COUNT), default=1, metavar="N", help=rounds)
    serve = "an option for the service, as in --serve=--decoders=2; may be repeated"
    add("--serve", action="append", default=[], metavar="OPTION", help=serve)
    for name, default, unit, bound in (
        ("max-cpu-seconds", MAX_CPU_SECONDS, "S", "CPU time per request in seconds"),
        ("max-mb", MAX_REQUEST_MB, "MB", "memory per request in MB"),
        ("max-slowdown", MAX_SLOWDOWN, "X", "slowdown of normal requests, as a factor"),
    ):
        text = f"accepted bound: {bound}"
        add(f"--{name}", type=positive, default=default, metavar=unit, help=text)
    return parser


if __name__ == "__main__":
    sys.exit(main())
