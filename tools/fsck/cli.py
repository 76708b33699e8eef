"""`fsck.hammer`: checks a HAMMER file system that is not mounted; never writes.

Exit codes are those of fsck(8): 0 sound, 4 errors left, 8 the volumes can't be read, 16 wrong call, 32 interrupted.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Sequence
from typing import TextIO

from hammerfs.device.open import open_devices
from hammerfs.errors import CorruptError, HammerError, UsageError
from hammerfs.recover import scan_fifo
from hammerfs.undo import UndoFifo
from hammerfs.volumes import Volumes
from tools.fsck.check import Summary, run
from tools.output import (
    complain,
    json_line,
    json_name,
    output_failed,
    prepare_output,
    print_json,
    safe_line,
    safe_name,
)
from tools.parser import LineParser

EXIT_OK = 0
EXIT_LEFT = 4
EXIT_OPERATIONAL = 8
EXIT_USAGE = 16
EXIT_CANCELLED = 32
_BAR = 40
_INTERVAL_S = 0.1


class _Parser(LineParser):
    """With fsck(8)'s exit code."""

    usage_code = EXIT_USAGE


def build_parser() -> argparse.ArgumentParser:
    """The parser of `fsck.hammer`."""
    parser = _Parser(
        prog="fsck.hammer",
        description="Check a HAMMER file system. Nothing is ever written: an image that was not closed cleanly is "
        "checked as recovery would leave it.",
        epilog="Exit code: 0 sound, 4 errors, 8 the volumes can't be read, 16 wrong call, 32 interrupted.",
    )
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("-n", dest="check", action="store_true", help="check, never write (the default)")
    for letter in "apy":
        help_text = "as boot scripts call it: look at the headers only, recovery is done by the mount"
        mode.add_argument(f"-{letter}", dest="boot", action="store_true", help=help_text)
    parser.add_argument("-f", dest="force", action="store_true", help="check everything, also with -a, -p, -y")
    parser.add_argument("--data", action="store_true", help="verify the checksums of file data, too")
    parser.add_argument("--json", action="store_true", help="print the findings as JSON")
    parser.add_argument("-q", dest="quiet", action="store_true", help="print errors only, no notes")
    parser.add_argument(
        "-C",
        dest="progress_fd",
        type=int,
        metavar="FD",
        help="write 'phase done total' lines to this file descriptor; 0: show a bar",
    )
    parser.add_argument(
        "--limit", type=int, default=1000, metavar="N", help="list at most N findings of one code (default 1000)"
    )
    parser.add_argument("volumes", nargs="+", metavar="VOL[:VOL...]", help="the volumes, in any order")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run `fsck.hammer`; return its exit code."""
    prepare_output()
    args = build_parser().parse_args(argv)
    try:
        with _Progress(args.progress_fd) as progress:
            code = _boot(args) if args.boot and not args.force else _full(args, progress)
        sys.stdout.flush()
    except UsageError as err:
        complain("fsck.hammer", err)
        return EXIT_USAGE
    except HammerError as err:
        complain("fsck.hammer", err)
        return EXIT_OPERATIONAL
    except OSError as err:
        output_failed("fsck.hammer", err)
        return EXIT_OPERATIONAL
    except KeyboardInterrupt:
        print("fsck.hammer: interrupted", file=sys.stderr)
        return EXIT_CANCELLED
    return code


def _full(args: argparse.Namespace, progress: _Progress) -> int:
    """Check everything."""
    if args.limit < 1:
        raise UsageError(f"--limit {args.limit} lists nothing")
    began = time.monotonic()
    devices = open_devices(args.volumes, readonly=True, warn=_warn)
    try:
        summary = run(devices, data=args.data, limit=args.limit, progress=progress.tell)
    finally:
        for device in devices:
            device.close()
    progress.close()
    if args.json:
        _print_json(summary)
    else:
        _print_text(args, summary, time.monotonic() - began)
    return EXIT_LEFT if summary.errors else EXIT_OK


def _boot(args: argparse.Namespace) -> int:
    """Look at the headers: is this a whole volume set, and was it closed cleanly?"""
    devices = open_devices(args.volumes, readonly=True, warn=_warn)
    try:
        volumes = Volumes(devices)
        dirty = scan_fifo(UndoFifo(volumes), volumes.version).is_dirty
        state = "not closed cleanly, the next mount recovers it" if dirty else "clean"
        label, code = volumes.superblock.label, EXIT_OK
    except CorruptError as err:
        state, label, code = str(err), b"", EXIT_LEFT
    finally:
        for device in devices:
            device.close()
    if args.json:
        print_json({"label": json_name(label), "state": state, "errors": int(code != EXIT_OK)})
    else:
        print(f"{safe_name(label or os.fsencode(args.volumes[0]))}: {safe_line(state)}")
    return code


def _print_json(summary: Summary) -> None:
    """One JSON object, written finding by finding."""
    out = sys.stdout
    out.write('{"findings": [')
    separator = "\n"
    for finding in summary.findings:
        out.write(separator + json_line(finding.as_json()))
        separator = ",\n"
    totals = {name: getattr(summary, name) for name in ("errors", "notes", "records", "nodes")}
    out.write("\n]," + json.dumps(totals)[1:] + "\n")


def _print_text(args: argparse.Namespace, summary: Summary, seconds: float) -> None:
    for finding in summary.findings:
        if finding.is_error or not args.quiet:
            print(safe_line(str(finding)))
    more = summary.errors + summary.notes - len(summary.findings)
    if more:
        print(f"{more} more findings of the same codes")
    verdict = "sound" if not summary.errors else f"{summary.errors} errors"
    notes = f", {summary.notes} notes" if summary.notes else ""
    print(f"{summary.records} records in {summary.nodes} nodes: {verdict}{notes} ({seconds:.1f} s)")


def _warn(text: str) -> None:
    complain("fsck.hammer: warning", text)


class _Progress:
    """Shows how far a check has come: a bar on a terminal, or lines on a file descriptor.

    Args:
        fd: Where to write lines; None or 0: a bar on stderr, if that is a terminal (0: in any case).

    Raises:
        UsageError: No such file descriptor.
    """

    def __init__(self, fd: int | None) -> None:
        self._lines: TextIO | None = None
        self._bar = fd == 0 or (fd is None and sys.stderr.isatty())
        self._shown = 0
        self._next = 0.0
        self._phase = ""
        if fd:
            try:
                self._lines = os.fdopen(os.dup(fd), "w", encoding="ascii")
            except OSError as err:
                raise UsageError(f"-C {fd}: {err.strerror}") from None

    def __enter__(self) -> _Progress:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    def tell(self, phase: str, done: int, total: int) -> None:
        """How far a phase has come; shown now and then."""
        now = time.monotonic()
        if phase == self._phase and now < self._next:
            return
        self._phase, self._next = phase, now + _INTERVAL_S
        if self._lines is not None:
            self._lines.write(f"{phase} {done} {total}\n")
            self._lines.flush()
        elif self._bar:
            full = _BAR * done // max(total, 1)
            text = f"\r{phase:10} [{'=' * full:{_BAR}}] {100 * done // max(total, 1):3}%"
            self._shown = len(text)
            sys.stderr.write(text)
            sys.stderr.flush()

    def close(self) -> None:
        """Remove the bar, close the lines."""
        if self._shown:
            sys.stderr.write("\r" + " " * self._shown + "\r")
            sys.stderr.flush()
            self._shown = 0
        if self._lines is not None:
            self._lines.close()
            self._lines = None


if __name__ == "__main__":
    sys.exit(main())
