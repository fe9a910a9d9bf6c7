"""Results as a data frame of pandas, with the columns of `label`'s tables."""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from runtime.columns import ENGINE, ERROR, FACE, PATH
from runtime.errors import AgeMoEError
from runtime.label_tables import NO_FACE, Row, ages_of, position_of, table_columns
from runtime.person import PersonEstimate
from runtime.photographs import PhotoFace
from runtime.results import AgeEstimate

if TYPE_CHECKING:
    import pandas as pd

    Result: TypeAlias = AgeEstimate | PersonEstimate | AgeMoEError | PhotoFace
    """What was predicted for one face, or the error instead of it."""

_KINDS = (AgeEstimate, PersonEstimate, AgeMoEError, PhotoFace)
_DTYPES = {str: "string", int: "Int32", float: "float64"}
"""Of pandas, by the type of a column. Missing values are NA, and NaN where they are float64."""


def to_pandas(
    results: Sequence[Result | Sequence[PhotoFace]],
    paths: Sequence[str | os.PathLike[str]] | None = None,
) -> pd.DataFrame:
    """Returns results as a data frame: a row for each face, and for each picture without one.

    The columns are those of `label`'s table but `engine`: `path`, `missing`, `notes`, `error` of
    dtype `string`; `face`, `turn` of `Int32`; all others of `float64`. The table of `label` in
    docs/labeling.md explains them.

    Args:
        results: of `predict`, `predict_photo` or `predict_person`, mixed as you like, errors too:
            an entry is one result, or the list of a photograph's faces. The faces of only one
            photograph may be given as they are.
        paths: names of the pictures, one for each entry; None leaves the column empty.

    Raises:
        ImportError: pandas is not installed.
        ValueError: there are more or fewer paths than entries.
        TypeError: something else than a list of results was given.
        LabelingError: the column of an expert has the name of another one.
    """
    try:
        pandas: Any = importlib.import_module("pandas")
    except ImportError as error:
        raise ImportError(
            "to_pandas needs pandas, which is not installed. Install agemoe-runtime[pandas].",
            name="pandas",
        ) from error
    if not _is_list(results) or not all(isinstance(e, _KINDS) or _is_list(e) for e in results):
        raise TypeError("to_pandas takes a list of results, of lists of faces, or of both.")
    faces = [result for result in results if isinstance(result, PhotoFace)]
    entries = [faces] if faces and len(faces) == len(results) else list(results)
    if paths is not None and len(paths) != len(entries):
        raise ValueError(
            f"{len(paths)} paths were given for {len(entries)} results. Give one for each."
        )
    names = [None] * len(entries) if paths is None else [os.fspath(path) for path in paths]
    columns = {n: t for n, t in table_columns(_experts_of(entries)).items() if n != ENGINE}
    rows = [
        {PATH: name, **row}
        for name, entry in zip(names, entries, strict=True)
        for row in _rows_of(entry)
    ]
    values = {
        name: pandas.array([row.get(name) for row in rows], dtype=_DTYPES[kind])
        for name, kind in columns.items()
    }
    frame: pd.DataFrame = pandas.DataFrame(values)
    return frame


def _is_list(value: object) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str | bytes)


def _rows_of(entry: Result | Sequence[PhotoFace]) -> Iterator[Row]:
    """Yields the rows of an entry; an error in the place of a whole picture is no face."""
    if isinstance(entry, AgeMoEError):
        yield ages_of(entry)
    elif isinstance(entry, AgeEstimate | PersonEstimate):
        yield {FACE: 0, **ages_of(_estimate_of(entry))}
    elif isinstance(entry, PhotoFace):
        yield {FACE: 0, **position_of(entry), **ages_of(entry.result)}
    elif entry:
        for number, face in enumerate(entry):
            yield {FACE: number, **position_of(face), **ages_of(face.result)}
    else:
        yield {ERROR: NO_FACE}


def _experts_of(entries: Sequence[Result | Sequence[PhotoFace]]) -> list[str]:
    """Returns the experts of all results, in the order in which they come first."""
    found: dict[str, None] = {}
    for entry in entries:
        for result in [entry] if not isinstance(entry, Sequence) else entry:
            one = result.result if isinstance(result, PhotoFace) else result
            if not isinstance(one, AgeMoEError):
                estimate = _estimate_of(one)
                found |= dict.fromkeys((*estimate.experts, *estimate.missing))
    return list(found)


def _estimate_of(result: AgeEstimate | PersonEstimate) -> AgeEstimate:
    return result.estimate if isinstance(result, PersonEstimate) else result
