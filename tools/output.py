"""What the tools print: terminal-safe names, sizes as DragonFly prints them, times, JSON."""

from __future__ import annotations

import io
import json
import os
import sys
import time
from typing import Any, Final

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
        char if char.isprintable() else "".join(f"\\x{byte:02x}" for byte in char.encode("utf-8", "surrogateescape"))
        for char in text
    )


def json_name(name: bytes) -> str:
    """A name for JSON: UTF-8 where it is, undecodable bytes (and ``%`` itself then) as ``%XX``."""
    try:
        return name.decode("utf-8")
    except UnicodeDecodeError:
        chars = name.decode("utf-8", "surrogateescape")
        return "".join(
            f"%{ord(c) - 0xDC00:02X}" if 0xDC80 <= ord(c) <= 0xDCFF else "%25" if c == "%" else c for c in chars
        )


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
    print(safe_line(f"{prog}: {err.filename or 'standard output'}: {err.strerror}"), file=sys.stderr)
    return True


def print_json(value: Any) -> None:
    """One JSON value and a newline on stdout; what is not ASCII as escapes unless stdout is UTF-8."""
    json.dump(value, sys.stdout, indent=1, ensure_ascii=sys.stdout.encoding.lower() != "utf-8")
    sys.stdout.write("\n")
