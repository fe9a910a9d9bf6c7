"""Reads parsed JSON into annotated dataclasses and collects every problem with its path.

`read_dataclass` derives the expected document from the annotations of a dataclass: `str`, `int`,
`float`, `bool`, `tuple`, `NDArray[np.float64]` (N,), `Mapping[str, …]`, `X | None`, `Any` and other
dataclasses. Limits on a value stand beside its type: `Annotated[int, at_least(1)]`.
"""

from __future__ import annotations

import contextlib
import functools
import math
import re
import reprlib
from collections.abc import Callable, Iterable, Mapping, Sequence, Sized
from dataclasses import MISSING, fields, is_dataclass
from types import NoneType, UnionType
from typing import (
    Annotated,
    Any,
    TypeVar,
    Union,
    get_args,
    get_origin,
    get_type_hints,
)

import numpy as np
from numpy.typing import NDArray

from runtime.names import suggestion
from runtime.printing import MOST_LISTED, printable

T = TypeVar("T")
Check = Callable[[Any], str | None]
"""Returns what is wrong with a value of the right type; None if nothing is."""
_MOST_PROBLEMS = MOST_LISTED - 1
"""Noted of a document."""
_SHOWN_KEYS = 10
_NAMES = {dict: "an object", list: "a list", str: "a string", bool: "true or false"}


def at_least(low: float) -> Check:
    """Accepts numbers from `low`."""
    return lambda value: None if value >= low else f"must be at least {low:g}"


def within(low: float, high: float) -> Check:
    """Accepts numbers from `low` to `high`."""
    return lambda value: None if low <= value <= high else f"must be within {low:g}..{high:g}"


def one_of(choices: Iterable[str]) -> Check:
    """Accepts one of a few strings."""
    known = tuple(choices)

    def problem(value: str) -> str | None:
        if value in known:
            return None
        return f"must be one of {', '.join(known)}{suggestion(value, known, '; did')}"

    return problem


def not_empty(value: Sized) -> str | None:
    """Accepts lists and objects that hold something."""
    return None if len(value) else "must not be empty"


def hex_problem(text: str) -> str | None:
    """Accepts a SHA-256 in lower-case hex."""
    return None if re.fullmatch("[0-9a-f]{64}", text) else "must be 64 hex digits"


SHA256 = Annotated[str, hex_problem]
"""A SHA-256 in lower-case hex."""


def read_dataclass(cls: type[T], entry: JsonReader, default: T | None = None) -> T:
    """Reads a JSON object as a dataclass.

    Missing keys take their value from `default`, or from the field's own default; a key without
    either is required, unless it may be null. Unknown keys are problems. A dataclass may validate
    its fields together in a method `problems`, which yields pairs of a path relative to the object
    ("" is the object itself) and what is wrong there; a pair is dropped if there is a problem at or
    below its path already.

    Returns:
        The object; meaningless if a problem was noted.
    """
    hints = _hints(cls)  # type: ignore[arg-type]  # mypy takes no type[T] for hashable
    entry.only(tuple(hints))
    keys = entry.value if isinstance(entry.value, dict) else {}
    values: dict[str, Any] = {}
    for field in fields(cls):  # type: ignore[arg-type]  # typing has no bound for dataclasses
        hint = hints[field.name]
        if field.name in keys:
            values[field.name] = _read(hint, entry.child(field.name))
        elif default is not None:
            values[field.name] = getattr(default, field.name)
        elif field.default is MISSING and field.default_factory is MISSING:
            optional = NoneType in get_args(hint)
            values[field.name] = None if optional else _read(hint, entry.child(field.name))
    found = cls(**values)
    for path, problem in getattr(found, "problems", tuple)():
        entry.problem_below(path, problem)
    return found


@functools.cache
def _hints(cls: Any) -> dict[str, Any]:  # noqa: ANN401 - any dataclass
    return get_type_hints(cls, include_extras=True)


def _read(kind: Any, entry: JsonReader) -> Any:  # noqa: ANN401 - any type, and a value of it
    """Reads a value of an annotated type."""
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return _checked(arguments[0], arguments[1:], entry)
    if origin in (Union, UnionType):
        (inner,) = set(arguments) - {NoneType}
        return None if entry.value is None else _read(inner, entry)
    if origin in (np.ndarray, NDArray):  # from NumPy 2.5 on, NDArray is the origin of its types
        return np.array(entry.numbers())
    if origin is tuple:
        return _tuple(arguments, entry)
    if origin is Mapping:
        return {key: _read(arguments[1], value) for key, value in entry.items()}
    if is_dataclass(kind):
        return read_dataclass(kind, entry)  # type: ignore[arg-type]  # a class, no instance
    return entry.value if kind is Any else _SCALARS[kind](entry)


def _checked(kind: Any, checks: Iterable[Check], entry: JsonReader) -> Any:  # noqa: ANN401
    before = len(entry.problems)
    value = _read(kind, entry)
    if len(entry.problems) == before:
        for problem in filter(None, (check(value) for check in checks)):
            entry.problem(f"{problem}, got {shown(entry.value)}")
    return value


def _tuple(kinds: Sequence[Any], entry: JsonReader) -> tuple[Any, ...]:
    elements = entry.elements()
    if kinds[-1] is Ellipsis:
        return tuple(_read(kinds[0], element) for element in elements)
    if isinstance(entry.value, list) and len(elements) != len(kinds):
        entry.problem(f"must hold {len(kinds)} values, got {len(elements)}")
    return tuple(_read(kind, element) for kind, element in zip(kinds, elements, strict=False))


class JsonReader:
    """One value of a JSON document and its path.

    A getter that finds another type notes a problem and returns an empty value of the right type,
    so that reading continues and all problems are reported at once.
    """

    def __init__(self, value: object, path: str, problems: list[str]) -> None:
        """Wraps a value at a path; `problems` is shared by all readers of a document."""
        self.value = value
        self.path = path
        self.problems = problems

    def problem(self, text: str) -> None:
        """Notes a problem with this value."""
        problem = f"{self.path}: {text}" if self.path else text
        if len(self.problems) == _MOST_PROBLEMS:
            problem = "further problems are not listed"
        if len(self.problems) <= _MOST_PROBLEMS and problem not in self.problems:
            self.problems.append(problem)

    def problem_below(self, path: str, text: str) -> None:
        """Notes a problem at a path within this value, unless there is one at or below it."""
        whole = ".".join(filter(None, (self.path, path)))
        known = (f"{whole}:", f"{whole}.", f"{whole}[") if whole else ""
        if not any(problem.startswith(known) for problem in self.problems):
            JsonReader(None, whole, self.problems).problem(text)

    def only(self, known: Sequence[str]) -> None:
        """Notes every unknown key of this object."""
        unknown = sorted(set(self._as(dict)) - set(known))
        if unknown:
            listed = ", ".join(map(printable, unknown[:_SHOWN_KEYS]))
            more = ", …" if len(unknown) > _SHOWN_KEYS else ""
            hint = suggestion(unknown[0], known, "; did")
            self.problem(f"unknown key {listed}{more}; known: {', '.join(known)}{hint}")

    def has(self, key: str) -> bool:
        """Returns whether this object holds a key with a value other than null."""
        return isinstance(self.value, dict) and self.value.get(key) is not None

    def child(self, key: str) -> JsonReader:
        """Returns the value of a required key."""
        shown_key = printable(key)
        path = f"{self.path}.{shown_key}" if self.path else shown_key
        values = self._as(dict)
        if key not in values:
            if isinstance(self.value, dict):
                JsonReader(None, path, self.problems).problem("missing")
            return _Absent(None, path, [])
        return JsonReader(values[key], path, self.problems)

    def items(self) -> list[tuple[str, JsonReader]]:
        """Returns the keys and values of this object."""
        return [(key, self.child(key)) for key in self._as(dict)]

    def elements(self) -> list[JsonReader]:
        """Returns the elements of this list."""
        return [
            JsonReader(value, f"{self.path}[{index}]", self.problems)
            for index, value in enumerate(self._as(list))
        ]

    def string(self) -> str:
        """Returns this value as a string."""
        return str(self._as(str))

    def boolean(self) -> bool:
        """Returns this value as a bool."""
        return bool(self._as(bool))

    def choice(self, choices: Sequence[str]) -> str:
        """Returns this value as one of a few strings."""
        text = self._as(str)
        if isinstance(self.value, str) and text not in choices:
            hint = suggestion(text, choices, "; did")
            self.problem(f"must be one of {', '.join(choices)}, got {shown(text)}{hint}")
        return text if text in choices else choices[0]

    def whole_number(self) -> int:
        """Returns this value as a whole number."""
        if isinstance(self.value, int) and not isinstance(self.value, bool):
            return self.value
        self.problem(f"must be a whole number, got {shown(self.value)}")
        return 0

    def integer(self, *, low: int = 0) -> int:
        """Returns this value as a whole number of at least `low`."""
        if isinstance(self.value, bool) or not isinstance(self.value, int) or self.value < low:
            self.problem(f"must be a whole number of at least {low}, got {shown(self.value)}")
            return low
        return self.value

    def number(self) -> float:
        """Returns this value as a finite number."""
        if isinstance(self.value, int | float) and not isinstance(self.value, bool):
            with contextlib.suppress(OverflowError):  # whole numbers in JSON are unbounded
                number = float(self.value)
                if math.isfinite(number):
                    return number
        self.problem(f"must be a finite number, got {shown(self.value)}")
        return 0.0

    def numbers(self, *, count: int | None = None) -> list[float]:
        """Returns this value as a list of finite numbers, `count` of them if given."""
        numbers = [element.number() for element in self.elements()]
        if count is not None and isinstance(self.value, list) and len(numbers) != count:
            self.problem(f"must hold {count} numbers, got {len(numbers)}")
        return numbers

    def _as(self, kind: type[T]) -> T:
        if isinstance(self.value, kind):
            return self.value
        self.problem(f"must be {_NAMES[kind]}, got {shown(self.value)}")
        return kind()


class _Absent(JsonReader):
    """A missing value, which is noted already: nothing below it is a new problem."""


_SCALARS: Mapping[Any, Callable[[JsonReader], Any]] = {
    str: JsonReader.string,
    bool: JsonReader.boolean,
    int: JsonReader.whole_number,
    float: JsonReader.number,
}


def shown(value: object) -> str:
    """Formats a value, shortened for a message."""
    try:
        text = reprlib.repr(value)
    except ValueError:  # whole numbers of more than 4,300 digits have no decimal text
        text = f"a {type(value).__name__} with a number of thousands of digits"
    return text if len(text) <= 40 else f"{text[:37]}…"
