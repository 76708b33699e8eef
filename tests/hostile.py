"""Names that mean harm to terminals, shells, parsers of paths and of JSON; and what may be printed of them."""

from __future__ import annotations

import json
from typing import Any

from hammerfs.nametext import text_name

NAMES = (
    b"plain",
    b"line\nbreak",
    b"\ttab\r",
    b"\x1b[31mred\x1b]0;title\x07",
    b"\x01\x08\x7f",
    "c1 \x9b31m".encode(),
    "right \u202e to left".encode(),
    "lone \u2028 separator".encode(),
    b"\xff\xfe",
    b"half \xe2\x82",
    b"n" * 255,
    b"\xc3\xbc" * 127,
    b"a@@b",
    b"@@",
    b"x@@0x12",
    b"-rf",
    b"--force",
    b"..x",
    b"...",
    b" ",
    b"*",
    b"%s%n",
    b"100%25%FE",
    b"100%25\xfe",
    b"\\x41\\",
    b"; touch pwned",
    b"$(touch pwned)",
    b"`touch pwned`",
    b"|touch pwned",
    b"\"quoted\" 'twice'",
    b"{json}",
    b"[a-z]",
)
"""For files, directories, and (cut) labels."""
TARGETS = (*NAMES, b"../" * 40 + b"etc/passwd", b"/etc/passwd", b"/", b"..", b"@@-1", b"\n" * 900)
"""For symbolic links."""


def label_of(name: bytes) -> bytes:
    """A name as a label, which has 63 bytes at most."""
    return name[:63]


def assert_safe(text: str) -> None:
    """Text can be shown on any terminal: it holds nothing but characters that print, blanks and ends of lines."""
    wrong = sorted({char for char in text if not char.isprintable() and char not in "\n\t"})
    assert not wrong, (wrong, text[:300])


def assert_one_line(text: str) -> None:
    """An error: one line, safe."""
    assert text.count("\n") == 1
    assert text.endswith("\n")
    assert_safe(text)


def parsed(text: str) -> Any:
    """JSON that is safe to print."""
    assert_safe(text)
    return json.loads(text)


def name_of(text: str) -> bytes:
    """The bytes of a name in JSON."""
    return text_name(text)
