"""`hammer mirror-read mirror-write mirror-copy mirror-dump`: a PFS brought elsewhere, whole or what is new of it."""

from __future__ import annotations

import argparse
import base64
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from hammerfs.errors import CorruptError, HammerError, InvalidError, NotFound, UsageError
from hammerfs.maint.verb import tid_of
from hammerfs.maint.verbs_mirror import MOST_BYTES
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
from hammerfs.ondisk.records import PfsData
from tools.cmd_pfs import make_pfs
from tools.mirrorstream import Found, Sink, opened, records, round_end, round_head
from tools.output import print_json
from tools.session import Session, open_session

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


def add_parsers(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the verbs of this module."""
    read = verbs.add_parser("mirror-read", help="write what is new in a PFS to standard output, as a stream")
    read.add_argument("path", metavar="PFS", help="anything in it")
    read.add_argument("begin", nargs="?", type=_tid, default=0, metavar="TID", help="new since then (default: all)")
    read.add_argument("--compress", choices=["lz4"], help="compress the stream")
    read.set_defaults(run=run_read)
    write = verbs.add_parser(
        "mirror-write", help="apply a stream on standard input, which may be compressed, to a slave"
    )
    write.add_argument("path", metavar="SLAVE", help="its softlink; a slave that does not exist is made")
    write.set_defaults(run=run_write)
    both = verbs.add_parser("mirror-copy", help="bring a slave up to date")
    both.add_argument("source", metavar="PFS", help="anything in the PFS to be copied")
    both.add_argument("path", metavar="SLAVE", help="the softlink of the slave; one that does not exist is made")
    both.add_argument("--to", action="append", default=[], metavar="VOL[:VOL...]", help="the volumes of the slave")
    both.set_defaults(run=run_copy)
    dump = verbs.add_parser("mirror-dump", help="print the records of a stream on standard input")
    dump.set_defaults(run=run_dump)


def _tid(text: str) -> int:
    try:
        return tid_of(text)
    except UsageError as err:
        raise argparse.ArgumentTypeError(str(err)) from None


class _Round(NamedTuple):
    """What a source is about to send."""

    pfs_id: int
    pfs: PfsData
    """With the end of the round as its synchronisation point."""
    tid_beg: int


def run_read(args: argparse.Namespace) -> int:
    """Write a stream."""
    if sys.stdout.isatty():
        raise UsageError("a stream is not for terminals: redirect standard output")
    with open_session(args, args.path) as session, _output(args.compress) as out:
        planned = _plan(session, args.path, args.begin)
        out.write(round_head(planned.pfs))
        for data in _pieces(session, planned):
            out.write(data)
        out.write(round_end(has_work=_has_work(planned)))
    return 0


@contextmanager
def _output(compress: str | None) -> Iterator[Sink]:
    if compress is None:
        yield sys.stdout.buffer
        return
    import lz4.frame

    with lz4.frame.LZ4FrameFile(sys.stdout.buffer, mode="wb") as out:
        yield out


def run_write(args: argparse.Namespace) -> int:
    """Apply a stream."""
    found = records(opened(sys.stdin.buffer))
    first = next(found, None)
    if first is None or first.record.pfsd is None:
        raise CorruptError("no mirror stream: it does not begin with a PFS record", offset=0)
    with _slave_session(args, args.path) as session:
        target = _Target(session, args, args.path, first.record.pfsd)
        for one in found:
            target.take(one)
        target.flush()
    if args.json:
        print_json(target.report())
    if not target.is_complete:
        raise CorruptError("the stream ended before its end was told: the slave stays as it was")
    return 0


def run_copy(args: argparse.Namespace) -> int:
    """Bring a slave up to date."""
    same = bool(args.volumes) and not args.to
    with open_session(args, args.source) as source:
        if same:
            target = _copy(args, source, source)
        else:
            there = argparse.Namespace(**{**vars(args), "volumes": args.to})
            with _slave_session(there, args.path) as session:
                target = _copy(there, source, session)
    if args.json:
        print_json(target.report())
    else:
        print(f"mirror-copy of {target.report()['records']} records to PFS#{target.pfs_id} succeeded")
    return 0


def _copy(args: argparse.Namespace, source: Session, session: Session) -> _Target:
    what = source.run("mirror-source", args.source)
    master = PfsData.decode(bytes.fromhex(what["data"]))
    target = _Target(session, args, args.path, master)
    if not target.pfs.is_slave:
        raise InvalidError(f"PFS {target.pfs_id} is a master: it takes no stream")
    planned = _plan(source, args.source, target.pfs.sync_end_tid + 1)
    target.begin(planned.pfs)
    for data in _pieces(source, planned):
        target.add(data)
    target.flush()
    if _has_work(planned):
        target.synced()
    return target


@contextmanager
def _slave_session(args: argparse.Namespace, path: str) -> Iterator[Session]:
    """Where a softlink is, or is to be."""
    with open_session(args, path if args.volumes else os.path.dirname(path.rstrip("/")) or ".") as session:
        yield session


class _Target:
    """A slave that takes a stream.

    Args:
        session: Where it is.
        args: With `volumes`.
        path: Its softlink.
        master: The record of the source.
    """

    def __init__(self, session: Session, args: argparse.Namespace, path: str, master: PfsData) -> None:
        self._session = session
        self._shared = master.shared_uuid
        reply = self._found(args, path, master)
        self.pfs_id: int = reply["pfs"]
        self.pfs = PfsData.decode(bytes.fromhex(reply["data"]))
        self._round = master
        self._waiting = bytearray()
        self._at: str | None = None
        self._stats: dict[str, int] = {"records": 0, "created": 0, "deleted": 0, "nbytes": 0}
        self.is_complete = False

    def _found(self, args: argparse.Namespace, path: str, master: PfsData) -> dict[str, Any]:
        try:
            found: dict[str, Any] = self._session.run("pfs-status", path)
        except HammerError as err:
            if err.errno != NotFound.errno:
                raise
        else:
            return found
        return make_pfs(self._session, path, [f"shared-uuid={master.shared}"], slave=True, on_image=bool(args.volumes))

    def begin(self, pfs: PfsData) -> None:
        """A round begins."""
        self._round = pfs
        self._at = None

    def take(self, one: Found) -> None:
        """A record of a stream with everything that frames it."""
        record = one.record
        if record.pfsd is not None:
            self.begin(record.pfsd)
            self._shared = record.pfsd.shared_uuid
        elif record.type == MREC_SYNC:
            self.flush()
            self.synced()
        elif record.type in {MREC_IDLE, MREC_TERM}:
            self.is_complete = True
        else:
            if len(self._waiting) + len(one.raw) > MOST_BYTES:
                self.flush()
            self.add(one.raw)

    def add(self, data: bytes) -> None:
        """Whole records."""
        self._waiting += data
        if len(self._waiting) >= MOST_BYTES:
            self.flush()

    def flush(self) -> None:
        """Apply what is waiting."""
        if not self._waiting:
            return
        data = base64.b64encode(self._waiting).decode("ascii")
        self._waiting.clear()
        reply = self._session.run("mirror-write", data=data, start=self._at, **self._words())
        self._at = reply["next"]
        for name, value in reply["stats"].items():
            self._stats[name] += value

    def synced(self) -> None:
        """The round is complete."""
        tid = f"0x{self._round.sync_end_tid:016x}"
        self._session.run("mirror-synced", pfs=self.pfs_id, shared_uuid=self._shared.hex(), tid=tid)
        self.is_complete = True

    def report(self) -> dict[str, Any]:
        """What has been done."""
        return {"pfs": self.pfs_id, "sync_end_tid": f"0x{self._round.sync_end_tid:016x}", **self._stats}

    def _words(self) -> dict[str, Any]:
        return {
            "pfs": self.pfs_id,
            "shared_uuid": self._shared.hex(),
            "tid_beg": f"0x{self._round.sync_beg_tid:016x}",
            "tid_end": f"0x{self._round.sync_end_tid:016x}",
        }


def _plan(session: Session, path: str, begin: int) -> _Round:
    reply = session.run("mirror-source", path)
    pfs = PfsData.decode(bytes.fromhex(reply["data"]))
    return _Round(reply["pfs"], pfs, max(begin, pfs.sync_beg_tid))


def _has_work(planned: _Round) -> bool:
    return planned.tid_beg < planned.pfs.sync_end_tid


def _pieces(session: Session, planned: _Round) -> Iterator[bytes]:
    """The records of a round."""
    start: str | None = None
    while _has_work(planned):
        reply = session.run(
            "mirror-read",
            pfs=planned.pfs_id,
            tid_beg=f"0x{planned.tid_beg:016x}",
            tid_end=f"0x{planned.pfs.sync_end_tid:016x}",
            start=start,
            nbytes=MOST_BYTES // 2,
        )
        yield base64.b64decode(reply["data"])
        start = reply["next"]
        if start is None:
            return


def run_dump(args: argparse.Namespace) -> int:
    """Print a stream."""
    rows = []
    for one in records(opened(sys.stdin.buffer)):
        if args.json:
            rows.append({"offset": one.at, "type": _NAMES[one.record.type], "text": _text(one.record)})
        else:
            print(f"{one.at:010x} {_NAMES[one.record.type]:<6} {_text(one.record)}".rstrip())
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
