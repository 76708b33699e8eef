"""`hammer mirror-read mirror-write mirror-copy mirror-stream mirror-dump`: a PFS brought elsewhere, once or always."""

from __future__ import annotations

import argparse
import io
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TextIO

from hammerfs.addr import tid_text
from hammerfs.errors import HammerError, UsageError
from hammerfs.maint.verb import tid_of
from hammerfs.ondisk.mirror import (
    MREC_IDLE,
    MREC_PASS,
    MREC_PFSD,
    MREC_REC,
    MREC_SKIP,
    MREC_SYNC,
    MREC_TERM,
    MREC_UPDATE,
    MirrorRecord,
)
from hammerfs.ondisk.node import BaseElm, LeafElm
from tools.mirrorlink import Link, Remote, join, linked, parse_remote, remote_command
from tools.mirrorsource import DELAY_S, SPLIT, MirrorSource, Round, Sending, send
from tools.mirrorstream import Sink, Source, opened, records
from tools.mirrortarget import LocalTarget, OneWay, Target, TwoWay, receive
from tools.output import json_name, print_json, safe_line, size_text
from tools.passes import read_cycle, write_cycle
from tools.session import Session, open_session
from tools.stop import Stop, Stopped

_NAMES = {
    MREC_REC: "REC",
    MREC_PFSD: "PFSD",
    MREC_UPDATE: "UPDATE",
    MREC_SYNC: "SYNC",
    MREC_SKIP: "SKIP",
    MREC_PASS: "PASS",
    MREC_TERM: "TERM",
    MREC_IDLE: "IDLE",
}

_STDIN, _STDOUT = 0, 1


def add_parsers(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the verbs of this module."""
    for verb, text, goes_on in (
        ("mirror-read", "write what is new in a PFS to standard output, as a stream", False),
        ("mirror-read-stream", "the same, going on with what comes later", True),
    ):
        read = verbs.add_parser(verb, help=text)
        read.add_argument("path", metavar="PFS", help="anything in it")
        read.add_argument("begin", nargs="?", type=_tid, metavar="TID", help="new since then (default: all)")
        read.add_argument("--compress", choices=["lz4"], help="compress the stream")
        read.set_defaults(run=run_read, goes_on=goes_on)
    write = verbs.add_parser(
        "mirror-write", help="apply a stream on standard input, which may be compressed, to a slave"
    )
    write.add_argument("path", metavar="SLAVE", help="its softlink; a slave that does not exist is made")
    write.set_defaults(run=run_write)
    for verb, text, goes_on in (
        ("mirror-copy", "bring a slave up to date", False),
        ("mirror-stream", "bring a slave up to date and keep it so, until interrupted", True),
    ):
        both = verbs.add_parser(verb, help=text)
        both.add_argument("source", metavar="[[USER@]HOST:]PFS", help="anything in the PFS to be copied")
        both.add_argument(
            "path", metavar="[[USER@]HOST:]SLAVE", help="the softlink of the slave; one that does not exist is made"
        )
        both.add_argument("--to", action="append", default=[], metavar="VOL[:VOL...]", help="the volumes of the slave")
        both.set_defaults(run=run_copy, goes_on=goes_on)
    dump = verbs.add_parser("mirror-dump", help="print the records of a stream on standard input")
    dump.set_defaults(run=run_dump)


def _tid(text: str) -> int:
    try:
        return tid_of(text)
    except UsageError as err:
        raise argparse.ArgumentTypeError(str(err)) from None


def run_read(args: argparse.Namespace) -> int:
    """Write a stream."""
    if not args.two_way and sys.stdout.isatty():
        raise UsageError("a stream is not for terminals: redirect standard output")
    if args.two_way and args.compress:
        raise UsageError("--compress is for streams in one direction")
    begin = tid_of(read_cycle(args.cycle) or "0") if args.begin is None else args.begin
    with Stop(args.seconds) as stop, open_session(args, args.path) as session:
        if args.two_way:
            _send(args, session, args.path, TwoWay(_standard_link(stop)), stop, begin)
        else:
            with _output(args.compress, stop) as out:
                _send(args, session, args.path, OneWay(out, stop.pause), stop, begin)
    return 0


def run_write(args: argparse.Namespace) -> int:
    """Apply a stream."""
    with Stop(args.seconds) as stop, _slave_session(args, args.path) as session:
        target = LocalTarget(session, args.path, stop, on_image=bool(args.volumes))
        if args.two_way:
            link = _standard_link(stop)
            _receive(args, link, target, link, stop)
            return 0
        _receive(args, _input(stop), target, None, stop)
    if args.json:
        print_json(target.report())
    return 0


def run_copy(args: argparse.Namespace) -> int:
    """Bring a slave up to date."""
    source, slave = parse_remote(args.source), parse_remote(args.path)
    if args.to and slave is not None:
        raise UsageError("--to names volumes here, but the slave is on another host")
    with Stop(args.seconds) as stop:
        if source is None and slave is None:
            target: Target = _copy(args, stop)
        elif slave is None:
            assert source is not None
            target = _copy_from(args, source, stop)
        elif source is None:
            target = _copy_to(args, slave, stop)
        else:
            join([(source.host, _reader(args, source)), (slave.host, _writer(args, slave))], stop, _sayer(args))
            if args.json:
                print_json({"source": _json_path(args.source), "slave": _json_path(args.path)})
            else:
                print(f"{args.verb} from {safe_line(args.source)} to {safe_line(args.path)} succeeded")
            return 0
    report = target.report()
    if args.json:
        print_json(report)
    elif report["pfs"] is None:
        print(f"{args.verb} of {size_text(report['nbytes'])} to {safe_line(args.path)} succeeded")
    else:
        print(f"{args.verb} of {report['records']} records to PFS#{report['pfs']} succeeded")
    return 0


def _json_path(path: str) -> str:
    return json_name(os.fsencode(path))


def _copy(args: argparse.Namespace, stop: Stop) -> Target:
    """Both ends are here."""
    with open_session(args, args.source) as source:
        if args.volumes and not args.to:
            return _copy_between(args, source, source, stop)
        there = argparse.Namespace(**{**vars(args), "volumes": args.to})
        with _slave_session(there, args.path) as session:
            return _copy_between(args, source, session, stop)


def _copy_between(args: argparse.Namespace, source: Session, session: Session, stop: Stop) -> Target:
    target = LocalTarget(session, args.path, stop, on_image=bool(args.volumes or args.to))
    _send(args, source, args.source, target, stop)
    return target


def _copy_from(args: argparse.Namespace, source: Remote, stop: Stop) -> Target:
    """The source is on another host."""
    there = argparse.Namespace(**{**vars(args), "volumes": args.to or args.volumes})
    with (
        _slave_session(there, args.path) as session,
        linked(source.host, _reader(args, source), stop, _sayer(args)) as (link, program),
    ):
        target = LocalTarget(session, args.path, stop, on_image=bool(there.volumes))
        _receive(args, link, target, link, stop)
        program.finish()
    return target


def _copy_to(args: argparse.Namespace, slave: Remote, stop: Stop) -> Target:
    """The slave is on another host."""
    with (
        open_session(args, args.source) as session,
        linked(slave.host, _writer(args, slave), stop, _sayer(args)) as (link, program),
    ):
        target = TwoWay(link)
        _send(args, session, args.source, target, stop)
        program.finish()
    return target


def _reader(args: argparse.Namespace, source: Remote) -> list[str]:
    """The command that reads a PFS on another host."""
    words = ["-2"]
    if args.bulk:
        words.append("-B")
    for option, value in (("-S", args.split), ("-b", args.bandwidth), ("-i", args.delay)):
        if value is not None:
            words += [option, f"{value:g}" if option == "-i" else str(value)]
    verb = "mirror-read-stream" if args.goes_on else "mirror-read"
    return remote_command(source.host, _shell_options(args), [*words, verb, source.path])


def _writer(args: argparse.Namespace, slave: Remote) -> list[str]:
    """The command that writes a slave on another host."""
    words = ["-2", "-y"] if args.yes else ["-2"]
    return remote_command(slave.host, _shell_options(args), [*words, "mirror-write", slave.path])


def _shell_options(args: argparse.Namespace) -> Sequence[str]:
    port = [] if args.port is None else ["-p", str(args.port)]
    return [*port, "-C"] if args.compressed else port


def _send(args: argparse.Namespace, session: Session, path: str, target: Target, stop: Stop, begin: int = 0) -> None:
    """Send what a target lacks."""
    delay = DELAY_S if args.delay is None else args.delay
    how = Sending(begin, None if args.bulk else args.split or SPLIT, args.bandwidth, delay if args.goes_on else None)

    say = _sayer(args)

    def told(done: Round) -> None:
        if args.verbose and done.tid_beg < done.tid_end:
            say(f"{tid_text(done.tid_beg)} to {tid_text(done.tid_end)}: {size_text(done.nbytes)}")
        _keep_cycle(args, target)

    with _ending(stop, target):
        send(MirrorSource(session, path), target, how, stop.check, told)


def _receive(args: argparse.Namespace, source: Source, target: LocalTarget, link: Link | None, stop: Stop) -> None:
    """Take what a source sends."""
    say = _sayer(args)

    def told() -> None:
        if args.verbose:
            say(f"complete up to {tid_text(target.synced or 0)}")
        _keep_cycle(args, target)

    with _ending(stop, target):
        receive(source, target, link, told)


@contextmanager
def _ending(stop: Stop, target: Target) -> Iterator[None]:
    """What an interrupt is told with; also when it took the other end along first."""
    try:
        yield
    except HammerError as err:
        stopped = err if isinstance(err, Stopped) else stop.reason()
        if stopped is None:
            raise
        state = "" if target.synced is None else f"; the slave is complete up to {tid_text(target.synced)}"
        raise Stopped(f"{stopped.what}{state}", stopped.exit_code) from None


def _keep_cycle(args: argparse.Namespace, target: Target) -> None:
    """The file of ``-c`` holds how far a slave has confirmed to be."""
    if target.synced is not None:
        write_cycle(args.cycle, tid_text(target.synced))


def _sayer(args: argparse.Namespace) -> Callable[[str], None]:
    """Prints what is no result."""

    def say(text: str) -> None:
        print(f"hammer: {args.verb}: {safe_line(text)}", file=sys.stderr, flush=True)

    return say


def _standard_link(stop: Stop) -> Link:
    """Standard input and output of a program that another one has started to talk to."""
    return Link("standard input and output", stop, _STDIN, _STDOUT)


def _input(stop: Stop) -> Source:
    fd = _descriptor(sys.stdin)
    return sys.stdin.buffer if fd is None else Link("standard input", stop, fd, None)


@contextmanager
def _output(compress: str | None, stop: Stop) -> Iterator[Sink]:
    fd = _descriptor(sys.stdout)
    out: Sink = sys.stdout.buffer if fd is None else Link("standard output", stop, None, fd)
    if compress is None:
        yield out
        return
    import lz4.frame

    with lz4.frame.LZ4FrameFile(out, mode="wb") as packed:
        yield packed


def _descriptor(stream: TextIO) -> int | None:
    """The descriptor of a stream, unless it is one within this process."""
    try:
        return stream.fileno()
    except (AttributeError, io.UnsupportedOperation):
        return None


@contextmanager
def _slave_session(args: argparse.Namespace, path: str) -> Iterator[Session]:
    """Where a softlink is, or is to be."""
    with open_session(args, path if args.volumes else os.path.dirname(path.rstrip("/")) or ".") as session:
        yield session


def run_dump(args: argparse.Namespace) -> int:
    """Print a stream."""
    rows = []
    for one in records(opened(sys.stdin.buffer)):
        if args.json:
            rows.append({"offset": one.at, "type": _NAMES[one.type], "text": _text(one.record)})
        else:
            print(f"{one.at:010x} {_NAMES[one.type]:<6} {_text(one.record)}".rstrip())
    if args.json:
        print_json(rows)
    return 0


def _text(record: MirrorRecord) -> str:
    if record.pfsd is not None:
        pfs = record.pfsd
        return f"beg={pfs.sync_beg_tid:016x} end={pfs.sync_end_tid:016x} shared={pfs.shared}"
    if record.skip_beg is not None and record.skip_end is not None:
        return f"{_key_text(record.skip_beg)} to {_key_text(record.skip_end)}"
    if record.leaf is not None:
        bad = " bad" if record.flags else ""
        return f"{_key_text(record.leaf)} del={record.leaf.delete_tid:016x} len={record.leaf.data_len}{bad}"
    return f"{record.tid:016x}" if record.type == MREC_UPDATE else ""


def _key_text(elm: BaseElm | LeafElm) -> str:
    """A key as `hammer show` prints it."""
    mask = (1 << 64) - 1
    return (
        f"lo={elm.localization:08x} objid={elm.obj_id & mask:016x} rt={elm.rec_type:02x} "
        f"key={elm.key & mask:016x} tid={elm.create_tid:016x}"
    )
