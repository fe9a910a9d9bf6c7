"""Declares the inputs and outputs of an ONNX file anew, without the package `onnx`.

Old exporters declare the sizes they traced, which ONNX Runtime then enforces, and every weight as
an input, which keeps it from folding constants. Both are declarations only. Source of the field
numbers: onnx/onnx.proto; of the wire format: protobuf.dev/programming-guides/encoding.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

_GRAPH = 7
"""Field of ModelProto."""
_INITIALIZER, _INPUT, _OUTPUT, _VALUE_INFO = 5, 11, 12, 13
"""Fields of GraphProto."""
_TENSOR_NAME, _VALUE_NAME = 8, 1
"""Fields of TensorProto and ValueInfoProto."""
_VARINT, _EIGHT_BYTES, _MESSAGE, _FOUR_BYTES = 0, 1, 2, 5
"""Wire types."""
_FLOAT = 1
"""TensorProto.DataType."""


_Field = tuple[int, bytes, bytes]
"""Number, content and whole encoding of a field."""


def with_free_sizes(model: bytes, shape: Sequence[int | str]) -> bytes:
    """Returns a model whose single float32 input has a new shape and whose outputs have any.

    Args:
        model: an ONNX file without external data; its outputs are float32 of the input's rank.
        shape: of the input; a number, or a symbol for a size that is free.

    Raises:
        ValueError: this is no ONNX file with a single input besides its weights.
    """
    parts: list[bytes] = []
    for number, content, raw in _fields(model):
        parts.append(_message(_GRAPH, _graph(content, shape)) if number == _GRAPH else raw)
    return b"".join(parts)


def _graph(graph: bytes, shape: Sequence[int | str]) -> bytes:
    fields = list(_fields(graph))
    weights = set(_names(fields, _INITIALIZER, _TENSOR_NAME))
    inputs = [name for name in _names(fields, _INPUT, _VALUE_NAME) if name not in weights]
    if len(inputs) != 1:
        raise ValueError(f"it has {len(inputs)} inputs besides its weights")
    kept = [raw for kind, _, raw in fields if kind not in (_INPUT, _OUTPUT, _VALUE_INFO)]
    declared = [_message(_INPUT, _value(inputs[0], shape))]
    unknown = [""] * len(shape)
    outputs = _names(fields, _OUTPUT, _VALUE_NAME)
    declared += [_message(_OUTPUT, _value(name, unknown)) for name in outputs]
    return b"".join([*kept, *declared])


def _value(name: bytes, shape: Sequence[int | str]) -> bytes:
    """Encodes a ValueInfoProto of float32; a size named "" is unknown."""
    sizes = [
        _message(2, size.encode()) if isinstance(size, str) else b"\x08" + _varint(size)
        for size in shape
    ]
    shape_proto = b"".join(_message(1, size) for size in sizes)
    tensor = b"\x08" + _varint(_FLOAT) + _message(2, shape_proto)
    return _message(_VALUE_NAME, name) + _message(2, _message(1, tensor))


def _names(fields: Iterable[_Field], kind: int, name: int) -> list[bytes]:
    """Returns the field `name` of each message of a kind."""
    messages = (content for number, content, _ in fields if number == kind)
    return [text for message in messages for number, text, _ in _fields(message) if number == name]


def _fields(message: bytes) -> Iterator[_Field]:
    """Yields the fields of a message."""
    place = 0
    while place < len(message):
        start = place
        key, place = _read_varint(message, place)
        wire_type, length = key & 7, 0
        if wire_type == _VARINT:
            _, end = _read_varint(message, place)
        elif wire_type == _MESSAGE:
            length, place = _read_varint(message, place)
            end = place + length
        elif wire_type in (_EIGHT_BYTES, _FOUR_BYTES):
            end = place + (8 if wire_type == _EIGHT_BYTES else 4)
        else:
            raise ValueError("it is no ONNX file")
        if end > len(message):
            raise ValueError("it is truncated, or no ONNX file")
        yield key >> 3, message[place:end], message[start:end]
        place = end


def _read_varint(message: bytes, place: int) -> tuple[int, int]:
    """Returns a number of at most ten bytes, and the place after it."""
    value = 0
    for index, byte in enumerate(message[place : place + 10]):
        value |= (byte & 127) << (7 * index)
        if byte < 128:
            return value, place + index + 1
    raise ValueError("it is truncated, or no ONNX file")


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 127:
        encoded.append(value & 127 | 128)
        value >>= 7
    return bytes([*encoded, value])


def _message(field: int, content: bytes) -> bytes:
    return _varint(field << 3 | _MESSAGE) + _varint(len(content)) + content
