"""Reads parsed JSON against an expected shape and collects every problem with its place."""

from __future__ import annotations

import contextlib
import math
import reprlib
from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")
_NAMES = {dict: "an object", list: "a list", str: "a string", bool: "true or false"}


class JsonReader:
    """One value of a JSON document and where it stands in it.

    A getter that finds something else than it wants notes a problem and returns an empty value of
    the right type, so that reading goes on and all problems can be reported at once.
    """

    def __init__(self, value: object, place: str, problems: list[str]) -> None:
        """Wraps a parsed value; `problems` is shared by all readers of a document."""
        self.value = value
        self.place = place
        self.problems = problems

    def problem(self, text: str) -> None:
        """Notes a problem at this place."""
        problem = f"{self.place}: {text}" if self.place else text
        if problem not in self.problems:
            self.problems.append(problem)

    def only(self, known: Sequence[str]) -> None:
        """Notes every key of this object that is not known."""
        unknown = sorted(set(self._as(dict)) - set(known))
        if unknown:
            self.problem(f"unknown key {', '.join(unknown)}; known: {', '.join(known)}")

    def has(self, key: str) -> bool:
        """Whether this object holds a key with a value other than null."""
        return isinstance(self.value, dict) and self.value.get(key) is not None

    def child(self, key: str) -> JsonReader:
        """The value of a key, which has to be there."""
        place = f"{self.place}.{key}" if self.place else key
        values = self._as(dict)
        if key not in values:
            if isinstance(self.value, dict):
                JsonReader(None, place, self.problems).problem("missing")
            return _Absent(None, place, [])
        return JsonReader(values[key], place, self.problems)

    def items(self) -> list[tuple[str, JsonReader]]:
        """Keys and values of this object."""
        return [(key, self.child(key)) for key in self._as(dict)]

    def elements(self) -> list[JsonReader]:
        """Elements of this list."""
        return [
            JsonReader(value, f"{self.place}[{index}]", self.problems)
            for index, value in enumerate(self._as(list))
        ]

    def string(self) -> str:
        """This value as a string."""
        return str(self._as(str))

    def boolean(self) -> bool:
        """This value as true or false."""
        return bool(self._as(bool))

    def choice(self, choices: Sequence[str]) -> str:
        """This value as one of a few strings."""
        text = self._as(str)
        if isinstance(self.value, str) and text not in choices:
            self.problem(f"must be one of {', '.join(choices)}, got {text!r}")
        return text if text in choices else choices[0]

    def integer(self, *, low: int = 0) -> int:
        """This value as a whole number of at least `low`."""
        if isinstance(self.value, bool) or not isinstance(self.value, int) or self.value < low:
            self.problem(f"must be a whole number of at least {low}, got {shown(self.value)}")
            return low
        return self.value

    def number(self) -> float:
        """This value as a finite number."""
        if isinstance(self.value, int | float) and not isinstance(self.value, bool):
            with contextlib.suppress(OverflowError):  # JSON's whole numbers know no limit
                number = float(self.value)
                if math.isfinite(number):
                    return number
        self.problem(f"must be a finite number, got {shown(self.value)}")
        return 0.0

    def numbers(self, *, count: int | None = None) -> list[float]:
        """This value as a list of finite numbers, `count` of them if given."""
        numbers = [element.number() for element in self.elements()]
        if count is not None and isinstance(self.value, list) and len(numbers) != count:
            self.problem(f"must hold {count} numbers, got {len(numbers)}")
        return numbers

    def sha256(self) -> str:
        """This value as a SHA-256 in lower-case hex."""
        text = self._as(str)
        if isinstance(self.value, str) and (len(text) != 64 or set(text) - set("0123456789abcdef")):
            self.problem("must be 64 hex digits")
        return str(text)

    def _as(self, kind: type[T]) -> T:
        if isinstance(self.value, kind):
            return self.value
        self.problem(f"must be {_NAMES[kind]}, got {shown(self.value)}")
        return kind()


class _Absent(JsonReader):
    """A value that is missing, which is noted already: nothing below it is a new problem."""


def shown(value: object) -> str:
    """A value, short enough for a message."""
    text = reprlib.repr(value)
    return text if len(text) <= 40 else f"{text[:37]}…"
