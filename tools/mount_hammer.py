"""`mount_hammer`: mount a HAMMER volume set by FUSE.

Exit codes are those of mount(8): 0, 1 for a wrong call, 4 for a bug, 32 when it can't be mounted.
"""

from __future__ import annotations

import argparse
import importlib.util
import logging
import sys
from collections.abc import Callable, Sequence

from hammerfs.errors import HammerError, UsageError
from tools.output import complain
from tools.parser import LineParser

WRONG_CALL = 1
FAILED = 32
_PROG = "mount_hammer"


class MountParser(LineParser):
    """With mount(8)'s exit code."""

    usage_code = WRONG_CALL


def build_parser() -> argparse.ArgumentParser:
    """The parser of `mount_hammer`."""
    parser = MountParser(
        prog=_PROG,
        description="Mount a HAMMER volume set by FUSE.",
        epilog="Unmount with umount (root) or fusermount3 -u. Options of HAMMER: ro, pfs=N|LABEL, "
        "asof=TID|TIME|LABEL, snapdir=hidden|visible|disabled, snapdirname=NAME, snapfmt=STRFTIME, uid=, gid=, "
        "umask=, cache=SIZE, skip_redo, norecovery.",
    )
    parser.add_argument("-o", dest="options", action="append", default=[], metavar="OPTIONS", help="a,b=c,...")
    parser.add_argument("-T", dest="tid", metavar="TID", help="mount as of this transaction id (as -o asof=TID)")
    parser.add_argument("-f", "--foreground", action="store_true", help="stay in the foreground, log to stderr")
    parser.add_argument("-d", "--debug", action="store_true", help="as -f, and log more")
    parser.add_argument("--log-json", action="store_true", help="log lines of JSON to the terminal")
    parser.add_argument("volumes", nargs="+", metavar="VOL", help="the volumes, in any order, or one colon list")
    parser.add_argument("directory", metavar="DIR", help="where to mount")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run `mount_hammer`; return its exit code."""
    args = build_parser().parse_args(argv)
    for name in ("trio", "pyfuse3"):
        if importlib.util.find_spec(name) is None:
            print(f"{_PROG}: mounting needs the package {name}: pip install 'hammerfs[mount]'", file=sys.stderr)
            return FAILED
    from hammerfs.fuse.background import in_background, log_to_terminal, notify_ready

    log_to_terminal(logging.DEBUG if args.debug else logging.INFO, as_json=args.log_json)

    def work(ready: Callable[[], None]) -> int:
        return _mount(args, ready)

    return work(notify_ready) if args.foreground or args.debug else in_background(work)


def _mount(args: argparse.Namespace, ready: Callable[[], None]) -> int:
    from hammerfs.fuse.daemon import serve
    from hammerfs.fuse.options import parse_options

    lists = [*args.options, f"asof={_tid(args.tid)}"] if args.tid is not None else args.options
    try:
        serve(args.volumes, args.directory, parse_options(lists), ready)
    except UsageError as err:
        complain(_PROG, err)
        return WRONG_CALL
    except HammerError as err:
        complain(_PROG, err)
        return FAILED
    return 0


def _tid(text: str) -> str:
    return text if text[:2].lower() == "0x" else f"0x{text}"


if __name__ == "__main__":
    sys.exit(main())
