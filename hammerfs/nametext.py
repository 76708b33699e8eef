"""Names as text that JSON can hold, from which the very bytes can be made again."""

from __future__ import annotations

import re
from urllib.parse import unquote_to_bytes

_LOOKS_ESCAPED = re.compile("%(?=[0-9a-fA-F]{2})")


def name_text(name: bytes) -> str:
    """A name as text: bytes that are no UTF-8 as ``%XX``, and ``%25`` for a ``%`` that two hex digits follow."""
    text = _LOOKS_ESCAPED.sub("%25", name.decode("utf-8", "surrogateescape"))
    if text.isascii():
        return text
    return "".join(f"%{ord(char) - 0xDC00:02X}" if 0xDC80 <= ord(char) <= 0xDCFF else char for char in text)


def text_name(text: str) -> bytes:
    """The name that `name_text` made a text of."""
    return unquote_to_bytes(text)
