"""The argument parser of all commands: says what is wrong in one line."""

from __future__ import annotations

import argparse
import re
from typing import Final, NoReturn

from tools.output import safe_line

USAGE = 2
"""Exit code of a wrong call."""
_COUNT = re.compile(r"([0-9]{1,19})([kmgt]?)\Z", re.ASCII | re.IGNORECASE)
_SHIFT: Final = {"": 0, "k": 10, "m": 20, "g": 30, "t": 40}


class LineParser(argparse.ArgumentParser):
    """An argument parser whose errors are one line, with an exit code of the command's own."""

    usage_code = USAGE

    def error(self, message: str) -> NoReturn:
        """Say it, and exit with `usage_code`."""
        self.exit(self.usage_code, f"{safe_line(f'{self.prog}: {message}')}\n")


def byte_count(text: str) -> int:
    """A positive number of bytes; k, m, g or t may stand behind it.

    Raises:
        ArgumentTypeError: It is none.
    """
    match = _COUNT.match(text)
    if match is None:
        raise argparse.ArgumentTypeError(f"'{text}' is no number of bytes: 500000, 512k, 64m, 4g")
    return bytes_of(text, match[1], match[2])


def bytes_of(text: str, number: str, unit: str) -> int:
    """The bytes of a number and its unit, which stand in a text.

    Raises:
        ArgumentTypeError: None, or too many for a file.
    """
    size = int(number) << _SHIFT[unit.lower()]
    if not 0 < size < 1 << 63:
        raise argparse.ArgumentTypeError(f"'{text}' is no possible size")
    return size
