"""Pictures in base64, decoded in steps."""

from __future__ import annotations

import binascii
import io

_FROM_URL_SAFE = bytes.maketrans(b"-_", b"+/")
_STEP = 1 << 18
"""Characters of base64 decoded at a time."""
_LONGEST_HEAD = 200
"""Characters of a data URI before its comma."""


def decoded_base64(value: object) -> bytes:
    """Decodes base64: plain or URL-safe, padded or not, wrapped into lines, or as a data URI.

    Raises:
        ValueError: it is no such text.
    """
    if not isinstance(value, str):
        raise ValueError("expected a base64 string")  # noqa: TRY004 - pydantic expects ValueError
    start = 0
    if value[:5].lower() == "data:":
        start = value.find(",", 0, _LONGEST_HEAD + 1) + 1
        if not value[:start].lower().endswith(";base64,"):
            raise ValueError("not a data URI in base64, as data:image/jpeg;base64,…")
    try:
        return _from_base64(value, start)
    except ValueError as error:
        raise ValueError(f"not base64: {_reason(error)}") from None


def _from_base64(text: str, start: int) -> bytes:
    """Decodes in steps: other threads can run in between, and there is no copy of the text."""
    decoded, rest, ended = io.BytesIO(), b"", False
    for place in range(start, len(text), _STEP):
        part = text[place : place + _STEP].encode("ascii").translate(_FROM_URL_SAFE, b" \t\r\n")
        symbols = part.rstrip(b"=")
        if b"=" in symbols or (ended and symbols):
            raise ValueError("padding before the end")
        ended = ended or len(symbols) < len(part)
        symbols = rest + symbols
        whole = len(symbols) // 4 * 4
        decoded.write(binascii.a2b_base64(symbols[:whole], strict_mode=True))
        rest = symbols[whole:]
    decoded.write(binascii.a2b_base64(rest + b"=" * (-len(rest) % 4), strict_mode=True))
    return decoded.getvalue()


def _reason(error: Exception) -> str:
    """Returns the reason without the text, which is a whole picture."""
    return "other than ASCII" if isinstance(error, UnicodeEncodeError) else str(error)
