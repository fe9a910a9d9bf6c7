"""Reads and validates the bodies of requests with pictures, in memory only."""

from __future__ import annotations

import asyncio
import codecs
import json
import time
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import TypeVar

from pydantic import BaseModel, ValidationError
from python_multipart.multipart import parse_options_header
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import FormData, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request

from runtime.alignment import landmarks_from
from runtime.deadline import Deadline
from runtime.printing import bullets, printable
from runtime.results import Box, Landmarks
from runtime.serving.problems import (
    BodySlowError,
    BodyTooLargeError,
    ClientGoneError,
    InvalidError,
    MalformedError,
    MediaTypeError,
    TooManyError,
)
from runtime.serving.schemas import AgesOptions, Options, PictureDocument, Schemas
from runtime.serving.settings import Limits

M = TypeVar("M", bound=BaseModel)
T = TypeVar("T")

JSON, FORM = "application/json", "multipart/form-data"
IMAGE_FIELD = "image"
_JSON_FIELDS = ("boxes", "landmarks", "person_boxes")
_CHARSETS = (b"utf-8", b"utf8", b"us-ascii")
"""Python's other codecs may take time that grows with the square of a text (punycode), or fail."""
_SHOWN_PROBLEMS = 10
_STEP = 1 << 18
"""Bytes of a form parsed at a time."""
_VALUES_PER_ITEM = 1_000
"""JSON values per picture or face that a request may have; a face with landmarks needs about 30."""


@dataclass(frozen=True, slots=True)
class Photo:
    """An encoded picture and the boxes given for it."""

    data: bytes
    boxes: tuple[Box, ...] | None
    """Of the faces; None if none were given."""
    person_boxes: tuple[Box, ...]
    landmarks: tuple[Landmarks | None, ...] = ()
    """Of the faces, one for each box; empty if none were given."""
    sole_face: bool = False
    """Whether the picture is refused unless it shows exactly one face."""


@dataclass(frozen=True, slots=True)
class ParsedRequest:
    """A validated request for ages or for a decision."""

    photos: tuple[Photo, ...]
    detect: bool
    deadline: Deadline | None
    """The client's, if it gave one; starts once the whole request has arrived."""
    limit: Deadline
    """After it there is no answer: the client's deadline, or the service's limit."""
    threshold: float | None


class _MemoryParser(MultiPartParser):
    """Starlette's parser, except that large files stay in memory."""

    spool_max_size = 0  # SpooledTemporaryFile never rolls over

    def close(self) -> None:
        """Closes all files, those of incomplete parts too."""
        for file in self._files_to_close_on_error:
            file.close()


async def read_request(request: Request, limits: Limits, schemas: Schemas) -> ParsedRequest:
    """Reads and validates the body of a request; raises `ServiceError` to reject it."""
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type not in (JSON, FORM):
        raise MediaTypeError(
            f"Expected {JSON} or {FORM}, got {media_type or 'no content type'}. "
            f"See /openapi.json for both formats."
        )
    coding = request.headers.get("content-encoding", "identity")
    if coding.strip().lower() != "identity":
        raise MediaTypeError(f"The body is compressed ({coding}). Send it uncompressed.")
    body, arrived_seconds = await read_body(request, limits), time.monotonic()
    if media_type == FORM:
        images, options = await _parse_form(request, body, limits, schemas)
    else:
        parsed = await run_in_threadpool(_parse_json, body, limits, schemas)
        images, options = parsed.images, parsed
    return _parsed_request(images, options, limits, arrived_seconds)


async def read_body(request: Request, limits: Limits) -> bytearray:
    """Returns the body of a request.

    Raises:
        BodyTooLargeError: it has more bytes than allowed.
        BodySlowError: it did not arrive in time.
        ClientGoneError: the client disconnected before sending all of it.
    """
    declared = request.headers.get("content-length", "")
    too_large = BodyTooLargeError(
        f"The request has more than {limits.body_bytes:,} bytes. Send fewer or smaller pictures."
    )
    if declared.isdecimal() and int(declared) > limits.body_bytes:
        raise too_large
    body = bytearray()
    try:
        async with asyncio.timeout(limits.body_seconds):
            async for chunk in request.stream():
                body += chunk
                if len(body) > limits.body_bytes:
                    raise too_large
    except TimeoutError:
        raise BodySlowError(
            f"After {limits.body_seconds:g} s only {len(body):,} bytes of the request had arrived. "
            f"Send smaller pictures, or use a faster connection."
        ) from None
    except ClientDisconnect:
        raise ClientGoneError("The client disconnected before sending its whole request.") from None
    return body


def _parse_json(document: bytearray, limits: Limits, schemas: Schemas) -> PictureDocument:
    if document.startswith(codecs.BOM_UTF8):
        del document[: len(codecs.BOM_UTF8)]
    most = _VALUES_PER_ITEM * (limits.images + limits.faces)
    if document.count(b",") + document.count(b":") > most:  # neither is in base64
        raise TooManyError(
            f"The request has more than {most:,} values, more than its pictures and faces need."
        )
    return _validate(schemas.document, document, strict=True)


async def _parse_form(
    request: Request, body: bytearray, limits: Limits, schemas: Schemas
) -> tuple[list[bytes], Options]:
    async def stream() -> AsyncGenerator[bytes, None]:
        for place in range(0, len(body), _STEP):
            yield bytes(body[place : place + _STEP])

    _, parameters = parse_options_header(request.headers["content-type"])
    charset = parameters.get(b"charset", b"utf-8")
    if charset.lower() not in _CHARSETS:
        raise MediaTypeError(f"The form's charset is {charset.decode('latin-1')!r}. Send UTF-8.")
    most = len(schemas.options.model_fields)
    parser = _MemoryParser(request.headers, stream(), max_files=limits.images, max_fields=most)
    try:
        images, options = await _form_fields(await parser.parse())
        return images, _validate(schemas.options, options)
    except MultiPartException as error:
        if error.message.startswith("Too many files"):
            raise _too_many_images(limits, "more pictures") from None
        raise MalformedError(f"The form cannot be parsed: {error.message}") from None
    finally:
        parser.close()


async def _form_fields(form: FormData) -> tuple[list[bytes], bytes]:
    """Returns the pictures, and the other fields as a JSON object; fields with lists hold JSON."""
    images: list[bytes] = []
    options: dict[str, object] = {}
    for name, value in form.multi_items():
        if isinstance(value, UploadFile):
            if name != IMAGE_FIELD:
                raise InvalidError(
                    f"Pictures are files in the field {IMAGE_FIELD!r}, got {name!r}."
                )
            images.append(await value.read())
        elif name == IMAGE_FIELD:
            raise InvalidError(
                f"The field {name!r} holds text. Send a file, which has a file name."
            )
        elif name in options:
            raise InvalidError(f"The field {name!r} occurs more than once.")
        else:
            options[name] = _field_value(name, value)
    if not images:
        raise InvalidError(f"The request has no picture. Send files in the field {IMAGE_FIELD!r}.")
    return images, json.dumps(options).encode()


def _field_value(name: str, text: str) -> object:
    if name not in _JSON_FIELDS:
        return text
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidError(f"The field {name!r} is not JSON: {error}") from None


def _validate(model: type[M], document: bytes | bytearray, *, strict: bool | None = None) -> M:
    try:
        return model.model_validate_json(document, strict=strict)
    except ValidationError as error:
        problems = error.errors(include_url=False, include_context=False, include_input=False)
        if problems[0]["type"] == "json_invalid":
            raise MalformedError(f"The request is not JSON: {problems[0]['msg']}.") from None
        listed = [
            f"{printable('.'.join(map(str, problem['loc']))) or 'request'}: {problem['msg']}"
            for problem in problems[:_SHOWN_PROBLEMS]
        ]
        count = f"{len(problems)} problem{'s' if len(problems) != 1 else ''}"
        raise InvalidError(f"The request has {count}:", *bullets(listed)) from None


def _parsed_request(
    images: list[bytes], options: Options, limits: Limits, arrived_seconds: float
) -> ParsedRequest:
    if len(images) > limits.images:
        raise _too_many_images(limits, f"{len(images)} pictures, more")
    boxes = _per_image("boxes", options.boxes, len(images))
    persons = _per_image("person_boxes", options.person_boxes, len(images))
    landmarks = _per_image("landmarks", options.landmarks, len(images))
    for name, given in (("boxes", boxes), ("person_boxes", persons)):
        _check_count(name, sum(len(own or ()) for own in given), limits)
    ages = options if isinstance(options, AgesOptions) else None
    photos = tuple(
        Photo(
            data,
            None if own is None else _boxes(own),
            _boxes(others or []),
            _landmarks(own, at),
            sole_face=ages is None,
        )
        for data, own, others, at in zip(images, boxes, persons, landmarks, strict=True)
    )
    budget_ms = min(options.deadline_ms or limits.deadline_ms, limits.deadline_ms)
    limit = Deadline(arrived_seconds + budget_ms / 1000.0, budget_ms)
    deadline = None if options.deadline_ms is None else limit
    if ages is None:
        return ParsedRequest(photos, detect=True, deadline=deadline, limit=limit, threshold=None)
    return ParsedRequest(photos, ages.detect, deadline, limit, ages.threshold)


def _check_count(name: str, given: int, limits: Limits) -> None:
    """Rejects requests over the limit before any work is done for them."""
    if given > limits.faces:
        raise TooManyError(
            f"The request has {given:,} {name}, more than {limits.faces}. Send fewer at a time."
        )


def _too_many_images(limits: Limits, found: str) -> TooManyError:
    return TooManyError(f"The request has {found} than {limits.images}. Send several requests.")


def _per_image(name: str, given: list[T | None] | None, images: int) -> list[T | None]:
    if given is None:
        return [None] * images
    if len(given) != images:
        raise InvalidError(
            f"{name} has {len(given)} entries for {images} pictures. Give one list, or null, for "
            f"each."
        )
    return given


def _landmarks(
    boxes: list[list[float]] | None, lists: list[list[list[float]] | None] | None
) -> tuple[Landmarks | None, ...]:
    if lists is None:
        return ()
    if len(lists) != len(boxes or ()):
        raise InvalidError(
            f"A picture has landmarks for {len(lists)} faces and {len(boxes or ())} boxes. Give "
            f"landmarks, or null, for each box."
        )
    return tuple(None if points is None else landmarks_from(points) for points in lists)


def _boxes(lists: list[list[float]]) -> tuple[Box, ...]:
    return tuple((x, y, width, height) for x, y, width, height in lists)
