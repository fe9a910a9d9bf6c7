"""From an HTTP body to pictures and options. Bodies stay in memory: no picture touches a disk."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import TypeVar

from pydantic import BaseModel, ValidationError
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import FormData, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request

from runtime.deadline import Deadline
from runtime.results import Box
from runtime.serving.problems import (
    BodySlowError,
    BodyTooLargeError,
    ClientGoneError,
    InvalidError,
    MalformedError,
    MediaTypeError,
    TooManyError,
)
from runtime.serving.schemas import AgesRequest, Options
from runtime.serving.settings import Limits

M = TypeVar("M", bound=BaseModel)

JSON, FORM = "application/json", "multipart/form-data"
IMAGE_FIELD = "image"
_JSON_FIELDS = ("boxes", "person_boxes")
_SHOWN_PROBLEMS = 10


@dataclass(frozen=True, slots=True)
class Photo:
    """One picture as it was sent."""

    data: bytes
    boxes: tuple[Box, ...] | None
    """Of the faces; None where none were given."""
    person_boxes: tuple[Box, ...]


@dataclass(frozen=True, slots=True)
class Asked:
    """A request for ages."""

    photos: tuple[Photo, ...]
    detect: bool
    deadline: Deadline | None
    """Started when the whole request had arrived."""
    threshold: float | None


class _MemoryParser(MultiPartParser):
    """Starlette's parser, without its habit of moving large files to the disk."""

    spool_max_size = 0  # SpooledTemporaryFile's word for never


async def read_request(request: Request, limits: Limits) -> Asked:
    """Reads and checks the body of a request for ages.

    Raises:
        ServiceError: it is too large, too slow, of another type, or does not say what it has to.
    """
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type not in (JSON, FORM):
        raise MediaTypeError(
            f"Expected {JSON} or {FORM}, got {media_type or 'no content type'}. "
            f"See /openapi.json for both."
        )
    coding = request.headers.get("content-encoding", "identity")
    if coding.strip().lower() != "identity":
        raise MediaTypeError(f"The body is compressed ({coding}). Send it as it is.")
    body = await read_body(request, limits)
    if media_type == FORM:
        images, options = await _of_form(request, body, limits)
    else:
        asked = await run_in_threadpool(_validated, AgesRequest, body, strict=True)
        images, options = asked.images, asked
    return _asked(images, options, limits)


async def read_body(request: Request, limits: Limits) -> bytes:
    """Returns the body of a request, kept in memory.

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
            f"Send smaller pictures, or over a faster line."
        ) from None
    except ClientDisconnect:
        raise ClientGoneError("The client disconnected before sending its whole request.") from None
    return bytes(body)


async def _of_form(request: Request, body: bytes, limits: Limits) -> tuple[list[bytes], Options]:
    async def stream() -> AsyncGenerator[bytes, None]:
        yield body

    parser = _MemoryParser(
        request.headers,
        stream(),
        max_files=limits.images,
        max_fields=len(Options.model_fields),
    )
    try:
        form = await parser.parse()
    except MultiPartException as error:
        if error.message.startswith("Too many files"):
            raise _too_many_images(limits, "more pictures") from None
        raise MalformedError(f"The form cannot be read: {error.message}") from None
    try:
        return await _images_of(form), _validated(Options, _options_of(form))
    finally:
        await form.close()


async def _images_of(form: FormData) -> list[bytes]:
    images = []
    for name, value in form.multi_items():
        if isinstance(value, UploadFile) and name == IMAGE_FIELD:
            images.append(await value.read())
        elif isinstance(value, UploadFile):
            raise InvalidError(f"Pictures are files in the field {IMAGE_FIELD!r}, got {name!r}.")
        elif name == IMAGE_FIELD:
            raise InvalidError(
                f"The field {IMAGE_FIELD!r} holds text: a file has a file name, even if nobody "
                f"reads it."
            )
    if not images:
        raise InvalidError(f"There is no picture: send files in the field {IMAGE_FIELD!r}.")
    return images


def _options_of(form: FormData) -> bytes:
    """The other fields as JSON, which they are where they are lists."""
    options: dict[str, object] = {}
    for name, value in form.multi_items():
        if isinstance(value, UploadFile):
            continue
        if name in options:
            raise InvalidError(f"The field {name!r} is there more than once.")
        options[name] = _parsed(name, value)
    return json.dumps(options).encode()


def _parsed(name: str, text: str) -> object:
    if name not in _JSON_FIELDS:
        return text
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidError(f"The field {name!r} is not JSON: {error}") from None


def _validated(model: type[M], document: bytes, *, strict: bool | None = None) -> M:
    try:
        return model.model_validate_json(document, strict=strict)
    except ValidationError as error:
        problems = error.errors(include_url=False, include_context=False, include_input=False)
        if problems[0]["type"] == "json_invalid":
            raise MalformedError(f"The request is not JSON: {problems[0]['msg']}.") from None
        listed = "".join(
            f"\n- {'.'.join(map(str, problem['loc'])) or 'request'}: {problem['msg']}"
            for problem in problems[:_SHOWN_PROBLEMS]
        )
        count = f"{len(problems)} problem{'s' if len(problems) != 1 else ''}"
        raise InvalidError(f"The request has {count}:{listed}") from None


def _asked(images: list[bytes], options: Options, limits: Limits) -> Asked:
    if len(images) > limits.images:
        raise _too_many_images(limits, f"{len(images)} pictures, more")
    boxes = _per_image("boxes", options.boxes, len(images))
    persons = _per_image("person_boxes", options.person_boxes, len(images))
    for name, given in (("boxes", boxes), ("person_boxes", persons)):
        _check_count(name, sum(len(own or ()) for own in given), limits)
    photos = tuple(
        Photo(data, None if own is None else _boxes(own), _boxes(others or []))
        for data, own, others in zip(images, boxes, persons, strict=True)
    )
    return Asked(photos, options.detect, Deadline.of(options.deadline_ms), options.threshold)


def _check_count(name: str, given: int, limits: Limits) -> None:
    """Refuses more than can be answered before any work is done for it."""
    if given > limits.faces:
        raise TooManyError(
            f"The request has {given:,} {name}, more than {limits.faces}. Send fewer at a time."
        )


def _too_many_images(limits: Limits, found: str) -> TooManyError:
    return TooManyError(f"The request has {found} than {limits.images}. Send several requests.")


def _per_image(
    name: str, given: list[list[list[float]] | None] | None, images: int
) -> list[list[list[float]] | None]:
    if given is None:
        return [None] * images
    if len(given) != images:
        raise InvalidError(
            f"{name} has {len(given)} entries for {images} pictures. Give one list, or null, for "
            f"each."
        )
    return given


def _boxes(lists: list[list[float]]) -> tuple[Box, ...]:
    return tuple((x, y, width, height) for x, y, width, height in lists)
