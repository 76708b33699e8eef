"""What the tools print: terminal-safe names, sizes as DragonFly prints them, times, JSON."""

from __future__ import annotations

import io
import json
import os
import sys
import time
from typing import Any, Final

from hammerfs.nametext import name_text

_UNITS: Final = ("B", "KB", "MB", "GB", "TB", "PB")


def safe_name(name: bytes) -> str:
    r"""A name for a terminal: UTF-8 where it is, control characters and undecodable bytes as ``\xNN``.

    A backslash is doubled, so that two different names never print alike.
    """
    out = []
    for char in name.decode("utf-8", "surrogateescape"):
        code = ord(char)
        if 0xDC80 <= code <= 0xDCFF:
            out.append(f"\\x{code - 0xDC00:02x}")
        elif char == "\\":
            out.append("\\\\")
        elif char.isprintable():
            out.append(char)
        else:
            out.extend(f"\\x{byte:02x}" for byte in char.encode())
    return "".join(out)


def safe_line(text: str) -> str:
    r"""A message for a terminal, which may hold what a user or an image has put in: control characters as ``\xNN``."""
    return "".join(
        char if char.isprintable() else "".join(f"\\x{byte:02x}" for byte in _bytes_of(char)) for char in text
    )


def _bytes_of(char: str) -> bytes:
    """A character as bytes; a surrogate that stands for none as UTF-8 would have it."""
    return char.encode("utf-8", "surrogateescape" if "\udc80" <= char <= "\udcff" else "surrogatepass")


def json_name(name: bytes | str) -> str:
    """A name for JSON, from which its bytes can be made again: see `name_text`.

    Args:
        name: The name, as bytes or as `os.fsdecode` makes text of it.
    """
    return name_text(os.fsencode(name))


def complain(prog: str, what: object) -> None:
    """An error or a warning: one line on stderr, safe for a terminal whatever it holds.

    Args:
        prog: Who says it.
        what: The place and the fact.
    """
    print(safe_line(f"{prog}: {what}"), file=sys.stderr)


def size_text(nbytes: int) -> str:
    """A size with two decimals and its unit, as ``hammer info`` prints it (``512.00MB``, ``1.00GB``)."""
    value, unit = _scaled(nbytes, 1024)
    return f"{value:.2f}{unit}"


def size_column(nbytes: int) -> str:
    """A size as newfs_hammer(8) and ``hammer show`` print it: six columns, the next unit from half of one on.

    So 64 MiB are `` 64.00MB``, and 512 MiB are ``  0.50GB``.
    """
    value, unit = _scaled(nbytes, 512)
    return f"{value:6.2f}{unit}"


def _scaled(nbytes: int, next_unit: int) -> tuple[float, str]:
    value = float(nbytes)
    unit = 0
    while value >= next_unit and unit < len(_UNITS) - 1:
        value /= 1024
        unit += 1
    return value, _UNITS[unit]


def time_text(seconds: float, form: str = "%Y-%m-%d %H:%M:%S %Z") -> str:
    """A time in the local zone; a bare number where the host's calendar does not reach."""
    try:
        return time.strftime(form, time.localtime(seconds))
    except (OverflowError, ValueError, OSError):
        return str(int(seconds))


def prepare_output() -> None:
    """Let characters that the terminal's character set lacks be printed as escapes, not stop the command."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def output_failed(prog: str, err: OSError) -> bool:
    """What a command does about an output that takes no more: tell why, unless its reader has merely seen enough.

    Nothing more reaches standard output after that, so that the end of the process can't fail on it again.

    Args:
        prog: The command's name, and its verb if it has some.
        err: What a write raised.

    Returns:
        Whether it is an error.
    """
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    if isinstance(err, BrokenPipeError):
        return False
    complain(prog, f"{err.filename or 'standard output'}: {err.strerror}")
    return True


def print_json(value: Any) -> None:
    """One JSON value and a newline on stdout."""
    for piece in json.JSONEncoder(indent=1, ensure_ascii=False).iterencode(value):
        sys.stdout.write(_printable_json(piece))
    sys.stdout.write("\n")


def json_line(value: Any) -> str:
    """One JSON value as a line for stdout."""
    return _printable_json(json.dumps(value, ensure_ascii=False))


def _printable_json(text: str) -> str:
    """JSON in which everything that could steer a terminal, or that stdout can't encode, is an escape."""
    if text.isascii() and all(line.isprintable() for line in text.split("\n")):
        return text
    is_utf8 = sys.stdout.encoding.lower() == "utf-8"
    return "".join(
        char if char == "\n" or (char.isprintable() and (is_utf8 or char.isascii())) else json.dumps(char)[1:-1]
        for char in text
    )
