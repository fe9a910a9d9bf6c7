"""Console, table and status line of builds: those of `rich`, or plain text where it is missing.

What they print is text: names from files are escaped, and nothing in them is markup.
"""

from __future__ import annotations

from typing import Any

from runtime.printing import MOST_LINE, printable

try:
    from rich import console as _rich
    from rich.status import Status
    from rich.table import Table
    from rich.text import Text

    class Console(_rich.Console):
        """A console that takes every string, cells of tables too, as text to be escaped."""

        def render_str(self, text: str, **options: Any) -> Text:  # noqa: ANN401 - of rich
            """Returns the text to print."""
            options.update(markup=False, emoji=False)
            return super().render_str(printable(text, MOST_LINE), **options)

    def status_text(text: str) -> Text:
        """Returns the text of a status line, which `rich` would otherwise take as markup."""
        return Text(printable(text))

except ModuleNotFoundError:  # `rich` is part of the extra `export`, not of `onnx`
    from export.build.plain import (  # type: ignore[assignment]
        Console,
        Status,
        Table,
        status_text,
    )

__all__ = ["Console", "Status", "Table", "status_text"]
