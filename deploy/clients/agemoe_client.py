"""A client of the AgeMoE service in one file: copy it. It needs Python 3.11 and httpx.

    with AgeMoEClient("https://ages.example", key="…") as client:
        answer = client.ages("photo.jpg", threshold=18)
        print(answer["images"][0]["faces"][0]["estimate"])

`AsyncAgeMoEClient` has the same methods, as coroutines. Every error of the service is a
`ProblemError`; what prevents an answer, such as a refused connection or a timeout, is an
`httpx.TransportError`. Answers are dictionaries as in /openapi.json, with their types below.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO, Literal, Self, TypedDict, Unpack, cast

import httpx

_RETRIED = (429, 503)
_LISTS = ("boxes", "landmarks", "person_boxes")  # JSON within a form

Picture = bytes | str | os.PathLike[str] | BinaryIO
"""An encoded JPEG, PNG or WebP, the path of one, or one opened for reading bytes."""
Box = Sequence[float]
"""x, y, width and height in pixels of the upright picture."""
Point = Sequence[float]  # x and y


class DecisionOptions(TypedDict, total=False):
    """Options of a decision; the lists have one entry for each picture."""

    boxes: Sequence[Sequence[Box] | None]
    """Of the faces; None: they are detected."""
    landmarks: Sequence[Sequence[Sequence[Point] | None] | None]
    """Five points for each box: eyes, nose, corners of the mouth, from left to right."""
    person_boxes: Sequence[Sequence[Box] | None]
    deadline_ms: float
    request_id: str
    """Id of the request in the service's log; the service makes one otherwise."""


class AgesOptions(DecisionOptions, total=False):
    """Options of an estimate."""

    detect: bool
    """False: a picture without boxes is one face."""
    threshold: float
    """Adds the probability of being at least this many years old."""


class Problem(TypedDict):
    """The error in place of an estimate, as problem details (RFC 9457)."""

    type: str
    title: str
    status: int
    detail: str


class AtLeast(TypedDict):
    """The probability of being at least `threshold` years old, and its bounds."""

    threshold: float
    probability: float
    low: float
    high: float


class Estimate(TypedDict):
    """The age of a face; the interval is None without calibration."""

    age_years: float
    low_years: float | None
    high_years: float | None
    missing: dict[str, str]
    notes: list[str]


class FaceEstimate(Estimate, total=False):
    """The age of one face of an answer."""

    at_least: AtLeast  # with a threshold


class Face(TypedDict):
    """A face, with either `estimate` or `problem`."""

    box: list[float] | None
    landmarks: list[list[float]] | None
    estimate: FaceEstimate | None
    problem: Problem | None


class Image(TypedDict):
    """A picture and its faces from left to right, or its problem."""

    width: int | None
    height: int | None
    faces: list[Face]
    problem: Problem | None


class Ages(TypedDict):
    """One entry for each picture, in the order of the request."""

    images: list[Image]
    version: str
    calibrated: bool
    stand_ins: dict[str, str]
    """Experts with placeholder weights, whose ages are meaningless; empty in production."""


class Outcome(TypedDict):
    """Old enough, ask for another proof of age, or too young."""

    outcome: Literal["pass", "refer", "fail"]
    reasons: list[dict[str, str]]
    """Each with a `code` for programs and a `sentence` for people."""
    policy: str
    threshold: float


class Decision(TypedDict):
    """A decision about the one person in all pictures."""

    decision: Outcome
    estimate: Estimate | None
    images: list[Image]
    version: str


class Health(TypedDict):
    """State of a service that is ready."""

    status: str
    version: str


class ProblemError(Exception):
    """The service, or a proxy before it, answered with an error."""

    def __init__(self, response: httpx.Response) -> None:
        """Reads problem details (RFC 9457), or makes them of another answer."""
        found: dict[str, Any] = {}
        with suppress(ValueError, TypeError):  # no JSON, or no object
            found = {**response.json()}
        self.status = response.status_code
        self.type: str = found.get("type", "about:blank")
        self.title: str = found.get("title", response.reason_phrase)
        self.detail: str = found.get("detail", response.text[:200])
        self.request_id: str | None = response.headers.get("X-Request-ID")
        super().__init__(f"{self.status} {self.title}: {self.detail}")


class _Settings:
    """Settings, requests and retries, shared by both clients."""

    def __init__(
        self,
        base_url: str = "http://127.0.0.1:8000",
        *,
        key: str | None = None,
        timeout_seconds: float = 60.0,
        retries: int = 3,
        most_pause_seconds: float = 10.0,
    ) -> None:
        """Stores the address of a service; nothing is sent yet.

        Args:
            base_url: of the service, without a path.
            key: API key; by default that of the environment variable AGEMOE_KEY, if any.
            timeout_seconds: limit on connecting, and on each wait for data.
            retries: retries of a request when the service is busy (503, or 429 of a proxy), if it
                says when (`Retry-After`).
            most_pause_seconds: a longer `Retry-After` is an error at once.
        """
        key = (key or os.environ.get("AGEMOE_KEY", "")).strip()  # files end with a line end
        self._retries = retries
        self._most_pause_seconds = most_pause_seconds
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._open({"base_url": base_url, "timeout": timeout_seconds, "headers": headers})

    def _open(self, options: dict[str, Any]) -> None:
        """Opens the client of httpx with these options."""
        raise NotImplementedError

    def _pause_seconds(self, response: httpx.Response, tries: int) -> float | None:
        """Returns when to ask again; None: this answer counts."""
        after = response.headers.get("Retry-After", "")
        if response.status_code not in _RETRIED or tries > self._retries or not after.isdecimal():
            return None
        return float(after) if float(after) <= self._most_pause_seconds else None


class AgeMoEClient(_Settings):
    """A client; close it, or use it as a context manager. Threads may share it."""

    def _open(self, options: dict[str, Any]) -> None:
        self._http = httpx.Client(**options)

    def ages(self, pictures: Picture | Sequence[Picture], **options: Unpack[AgesOptions]) -> Ages:
        """Estimates the age of every face; raises `ProblemError`."""
        return cast(Ages, self._send("/v1/ages", _form(pictures, options)))

    def decision(
        self, pictures: Picture | Sequence[Picture], **options: Unpack[DecisionOptions]
    ) -> Decision:
        """Decides whether the one person in all pictures is old enough; raises `ProblemError`."""
        return cast(Decision, self._send("/v1/decisions", _form(pictures, options)))

    def health(self) -> Health:
        """Returns the state of a ready service; raises `ProblemError` at once if it is not."""
        return cast(Health, _answer(self._http.get("/health/ready")))

    def _send(self, path: str, form: dict[str, Any]) -> object:
        tries = 1
        while True:
            response = self._http.post(path, **form)
            pause_seconds = self._pause_seconds(response, tries)
            if pause_seconds is None:
                return _answer(response)
            time.sleep(pause_seconds)
            tries += 1

    def close(self) -> None:
        """Closes the connections."""
        self._http.close()

    def __enter__(self) -> Self:
        """Returns the client itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Closes the client."""
        self.close()


class AsyncAgeMoEClient(_Settings):
    """The same client for asyncio; use it as `async with`, or call `aclose`."""

    def _open(self, options: dict[str, Any]) -> None:
        self._http = httpx.AsyncClient(**options)

    async def ages(
        self, pictures: Picture | Sequence[Picture], **options: Unpack[AgesOptions]
    ) -> Ages:
        """Estimates the age of every face; raises `ProblemError`."""
        form = await asyncio.to_thread(_form, pictures, options)
        return cast(Ages, await self._send("/v1/ages", form))

    async def decision(
        self, pictures: Picture | Sequence[Picture], **options: Unpack[DecisionOptions]
    ) -> Decision:
        """Decides whether the one person in all pictures is old enough; raises `ProblemError`."""
        form = await asyncio.to_thread(_form, pictures, options)
        return cast(Decision, await self._send("/v1/decisions", form))

    async def health(self) -> Health:
        """Returns the state of a ready service; raises `ProblemError` at once if it is not."""
        return cast(Health, _answer(await self._http.get("/health/ready")))

    async def _send(self, path: str, form: dict[str, Any]) -> object:
        tries = 1
        while True:
            response = await self._http.post(path, **form)
            pause_seconds = self._pause_seconds(response, tries)
            if pause_seconds is None:
                return _answer(response)
            await asyncio.sleep(pause_seconds)
            tries += 1

    async def aclose(self) -> None:
        """Closes the connections."""
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        """Returns the client itself."""
        return self

    async def __aexit__(self, *_: object) -> None:
        """Closes the client."""
        await self.aclose()


def _form(
    pictures: Picture | Sequence[Picture], options: AgesOptions | DecisionOptions
) -> dict[str, Any]:
    """Returns httpx's arguments for a form; names of files are not sent."""
    alone = isinstance(pictures, bytes | str | os.PathLike) or hasattr(pictures, "read")
    many = cast(Sequence[Picture], [pictures] if alone else pictures)
    fields: dict[str, Any] = dict(options)
    request_id = fields.pop("request_id", None)
    return {
        "files": [("image", ("image", _encoded(one))) for one in many],
        "data": {
            name: json.dumps(value) if name in _LISTS else value
            for name, value in fields.items()
            if value is not None
        },
        "headers": {"X-Request-ID": request_id} if request_id else {},
    }


def _encoded(picture: Picture) -> bytes:
    if isinstance(picture, str | os.PathLike):
        return Path(picture).read_bytes()
    return picture if isinstance(picture, bytes) else picture.read()


def _answer(response: httpx.Response) -> object:
    with suppress(ValueError):
        if response.is_success:
            return response.json()
    raise ProblemError(response)
