"""The demo of real portraits: photographs of known people, and your own, with their ages.

Both portraits are in the public domain and come with packages that the exporter needs anyway, so
that nothing is downloaded and no photograph is part of this repository.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import date
from importlib.util import find_spec
from pathlib import Path
from typing import Protocol

from export.demo.chart import Entry
from export.errors import ExportError
from runtime import AgeEstimate, AgeMoEError
from runtime.geometry import Pixels
from runtime.images import ImageLimits, load_rgb
from runtime.photographs import PhotoFace

_YEAR_DAYS = 365.2425


@dataclass(frozen=True, slots=True)
class Portrait:
    """A portrait that comes with an installed package."""

    person: str
    born: date
    taken: date
    package: str
    file: str
    """Path within the package."""
    credit: str
    about: bool = False
    """The day on which it was taken is not known."""

    @property
    def age_years(self) -> float:
        """The age on the day of the portrait."""
        return (self.taken - self.born).days / _YEAR_DAYS

    def path(self) -> Path:
        """Returns the path of the picture; raises ExportError if its package is not installed."""
        spec = find_spec(self.package)  # finds it without importing it
        places = [] if spec is None else spec.submodule_search_locations or []
        for place in places:
            if (path := Path(place) / self.file).is_file():
                return path
        raise ExportError(
            f"The portrait of {self.person} is not there: {self.package} is not installed, or "
            f"without {self.file}. Install the exporter's packages: pip install '.[export]'."
        )


PORTRAITS = (
    # NASA's photograph GPN-2000-001177, "Commander Eileen Collins": she was named commander of
    # STS-93 on 5 March 1998 and flew it in July 1999. Its day is not recorded with the file; the
    # last of 1998 is in the middle, so she was 41 or 42. Born on 19 November 1956.
    Portrait(
        "Eileen Collins",
        date(1956, 11, 19),
        date(1998, 11, 1),
        "skimage",
        "data/astronaut.png",
        "NASA, 1998 or 1999",
        about=True,
    ),
    # The US Navy's official portrait DN-SC-84-05971 by James S. Davis, dated 20 January 1984 by the
    # Naval History and Heritage Command. Born on 9 December 1906.
    Portrait(
        "Grace Hopper",
        date(1906, 12, 9),
        date(1984, 1, 20),
        "matplotlib",
        "mpl-data/sample_data/grace_hopper.jpg",
        "US Navy, 20 January 1984",
    ),
)


@dataclass(frozen=True, slots=True)
class Card:
    """A photograph and what was found in it."""

    path: Path
    title: str
    image: Pixels = field(repr=False)
    """uint8 RGB (H, W, 3)."""
    faces: tuple[PhotoFace, ...]
    """From left to right."""
    credit: str = ""
    true_years: float | None = None
    about: bool = False

    @property
    def entries(self) -> list[Entry]:
        """The faces with an estimate. Only the age of a single face is known."""
        found = [face.estimate for face in self.faces if face.estimate is not None]
        truth = self.true_years if len(self.faces) == 1 else None
        return [Entry(Path(self.title), e.to_dict(), truth, about=self.about) for e in found]


class PhotoPredictor(Protocol):
    """An `AgeMoE`, or a replacement for one."""

    def predict_photo(self, image: Pixels) -> Sequence[PhotoFace]:
        """Returns the faces of a photograph with their ages."""


def portrait_cards(moe: PhotoPredictor, photographs: Sequence[Path]) -> list[Card]:
    """Estimates the ages in the portraits, and in further photographs.

    Raises:
        ExportError: a portrait is not installed.
        InputError: a photograph cannot be read.
    """
    cards = [
        Card(
            path,
            portrait.person,
            *_estimated(moe, path),
            credit=portrait.credit,
            true_years=portrait.age_years,
            about=portrait.about,
        )
        for portrait in PORTRAITS
        for path in [portrait.path()]
    ]
    return [*cards, *(Card(path, path.name, *_estimated(moe, path)) for path in photographs)]


def problems(cards: Sequence[Card]) -> Iterator[str]:
    """Yields what a photograph has no age for."""
    for card in cards:
        if not card.faces:
            yield f"{card.title}: no face was found"
        for face in card.faces:
            if isinstance(face.result, AgeMoEError):
                yield f"{card.title}: {face.result}"
            elif isinstance(face.result, AgeEstimate):
                yield from (f"{card.title}: {note}" for note in face.result.notes)


def summary(cards: Sequence[Card]) -> str:
    """Returns how far the portraits' ages are off, in one line."""
    known = [entry for card in cards for entry in card.entries if entry.true_years is not None]
    errors = [
        abs(e.estimate["age_years"] - e.true_years) for e in known if e.true_years is not None
    ]
    held = [
        e.estimate["low_years"] <= e.true_years <= e.estimate["high_years"]
        for e in known
        if e.true_years is not None and e.estimate["low_years"] is not None
    ]
    if not errors:
        return "No age is known of these faces."
    text = f"{len(errors)} faces of known age: {_listed(errors)} years off"
    return f"{text}; the 90 % interval holds {sum(held)} of {len(held)}." if held else f"{text}."


def _listed(years: Sequence[float]) -> str:
    return " and ".join(f"{error:.1f}" for error in years)


def _estimated(moe: PhotoPredictor, path: Path) -> tuple[Pixels, tuple[PhotoFace, ...]]:
    image = load_rgb(path, ImageLimits())
    return image, tuple(moe.predict_photo(image))
