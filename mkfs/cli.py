"""`newfs_hammer`, also called `mkfs.hammer`: makes a HAMMER file system.

Exit codes: 0, 1 for a refusal or an error (one line on stderr that names the place), 2 for a wrong call, 130 when it
was interrupted.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any

from hammerfs.const import BOOT_AREA_MIN, MEMORY_LOG_MIN
from hammerfs.errors import HammerError, InvalidError
from hammerfs.signatures import wipe
from mkfs import report
from mkfs.layout import Layout, Params, plan
from mkfs.options import build_parser, creation_time_us, program_name
from mkfs.targets import Targets
from mkfs.write import erase, write_layout
from tools.output import complain, print_json

INTERRUPTED = 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run `newfs_hammer`; return its exit code."""
    args = build_parser().parse_args(argv)
    try:
        with _stoppable():
            _newfs(args)
    except HammerError as err:
        complain(program_name(), err)
        return err.exit_code
    except KeyboardInterrupt:
        print(f"{program_name()}: interrupted", file=sys.stderr)
        return INTERRUPTED
    return 0


def _newfs(args: argparse.Namespace) -> None:
    warnings = _check_sizes(args)
    fsid: uuid.UUID = args.uuid or uuid.uuid4()
    now_us = creation_time_us()
    with Targets(args.volumes, size=args.size, force=args.force) as targets:
        layout = _plan(args, targets, fsid, now_us)
        out = _Output(args)
        for warning in warnings:
            out.warn(warning)
        out.lines(report.volume_lines(targets.all))
        if not args.dry_run:
            out.lines(report.progress_lines(layout))
            _write(args, targets, layout, out)
        out.lines(report.summary_lines(layout, targets.all))
        out.json(report.as_json(layout, targets.all, dry_run=args.dry_run, warnings=warnings))


def _check_sizes(args: argparse.Namespace) -> list[str]:
    """See that a small FIFO is meant; returns the warnings to be given."""
    if args.undo_size is None or args.undo_size >= report.MIN_UNDO_SIZE:
        return []
    if not args.force:
        raise InvalidError(f"an UNDO/REDO FIFO of {args.undo_size} bytes is below 512 MiB: -f allows it")
    return [report.small_fifo_warning()]


def _plan(args: argparse.Namespace, targets: Targets, fsid: uuid.UUID, now_us: int) -> Layout:
    params = Params(
        label=args.label,
        volume_sizes=targets.sizes,
        fsid=fsid,
        now_us=now_us,
        version=args.version,
        boot_area=args.boot_area or BOOT_AREA_MIN,
        memory_log=args.memory_log or MEMORY_LOG_MIN,
        undo_size=args.undo_size or 0,
    )
    try:
        layout = plan(params)
    except HammerError as err:
        if isinstance(err.volume, int):
            err.volume = targets.all[err.volume].name
        raise
    total = sum(targets.sizes)
    if total < report.SMALL and not args.force:
        raise InvalidError(f"the volumes have {total} bytes: less than 10 GiB needs -f")
    return layout


def _write(args: argparse.Namespace, targets: Targets, layout: Layout, out: _Output) -> None:
    targets.make()
    for target in targets.all:
        if args.trim:
            erase(target.device)
        if args.size is None:  # else it has been emptied
            wipe(target.device, target.found)
    write_layout(layout, targets.devices, window=args.cache.size if args.cache else None, trace=out.debug)
    targets.keep()


class _Output:
    """What is printed as --quiet, --json and -d say. Nobody reading it any more stops nothing."""

    def __init__(self, args: argparse.Namespace) -> None:
        self._text = not (args.quiet or args.json)
        self._json = args.json
        self._warnings = not args.quiet
        self._debug = args.debug

    def lines(self, lines: Iterator[str]) -> None:
        """Lines of the report."""
        if self._text:
            with _unread_pipe():
                for line in lines:
                    print(line)

    def json(self, value: dict[str, Any]) -> None:
        """The whole report."""
        if self._json:
            with _unread_pipe():
                print_json(value)

    def warn(self, text: str) -> None:
        """A warning, on stderr."""
        if self._warnings:
            complain(program_name(), text)

    def debug(self, text: str) -> None:
        """What -d asks for."""
        if self._debug:
            complain(f"{program_name()}: debug", text)


@contextmanager
def _unread_pipe() -> Iterator[None]:
    """Once whoever read our output has seen enough, the rest of it goes nowhere."""
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@contextmanager
def _stoppable() -> Iterator[None]:
    """SIGTERM and SIGHUP (unless nohup has it ignored) as SIGINT meanwhile: files that were being made are removed."""

    def stop(_signum: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = {signum: signal.getsignal(signum) for signum in (signal.SIGTERM, signal.SIGHUP)}
    for signum, handler in before.items():
        if handler is not signal.SIG_IGN:
            signal.signal(signum, stop)
    try:
        yield
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)


if __name__ == "__main__":
    sys.exit(main())
