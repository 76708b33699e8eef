"""The argument parser of all commands: says what is wrong in one line."""

from __future__ import annotations

import argparse
from typing import NoReturn

USAGE = 2
"""Exit code of a wrong call."""


class LineParser(argparse.ArgumentParser):
    """An argument parser whose errors are one line, with an exit code of the command's own."""

    usage_code = USAGE

    def error(self, message: str) -> NoReturn:
        """Say it, and exit with `usage_code`."""
        self.exit(self.usage_code, f"{self.prog}: {message}\n")
