"""`hammer`: the dispatcher. Each verb lives in a `cmd_` module that adds its parser and a `run` function.

Exit codes: 0, 1 for an error (one line on stderr that names the place), 2 for a wrong call, 130 for an interrupt.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from hammerfs.errors import HammerError

USAGE = 2
INTERRUPTED = 130


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(USAGE, f"{self.prog}: {message}\n")


def build_parser() -> argparse.ArgumentParser:
    """The parser of `hammer` with all its verbs."""
    from tools import cmd_copy, cmd_info, cmd_raw, cmd_tree

    parser = _Parser(prog="hammer", description="Look at HAMMER volumes offline, at any point of their history.")
    parser.add_argument(
        "-f",
        dest="volumes",
        action="append",
        default=[],
        metavar="VOL[:VOL...]",
        help="the volumes, in any order; may be repeated; VOL@s1d names a slice of a disk image, VOL@offset=N a place",
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of text")
    verbs: argparse._SubParsersAction[argparse.ArgumentParser] = parser.add_subparsers(
        dest="verb", required=True, metavar="VERB", parser_class=_Parser
    )
    cmd_info.add_parsers(verbs)
    cmd_tree.add_parsers(verbs)
    cmd_copy.add_parsers(verbs)
    cmd_raw.add_parsers(verbs)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run `hammer`; return its exit code."""
    args = build_parser().parse_args(argv)
    try:
        code: int = args.run(args)
        sys.stdout.flush()
    except HammerError as err:
        print(f"hammer: {args.verb}: {err}", file=sys.stderr)
        return err.exit_code
    except BrokenPipeError:
        # Whoever read our output has seen enough. Nothing more may reach the closed pipe at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        return INTERRUPTED
    return code


if __name__ == "__main__":
    sys.exit(main())
