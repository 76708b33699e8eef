"""Where a mirror stream goes: into a slave here, or to another program that has one."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator
from typing import Any, Protocol

from hammerfs.addr import tid_text
from hammerfs.errors import CorruptError, HammerError, NotFound
from hammerfs.maint.mirror_write import check_slave
from hammerfs.maint.verbs_mirror import MOST_BYTES
from hammerfs.ondisk.mirror import MREC_IDLE, MREC_PFSD, MREC_SYNC, MREC_TERM, MREC_UPDATE
from hammerfs.ondisk.records import PfsData
from tools.cmd_pfs import make_pfs
from tools.mirrorlink import Link
from tools.mirrorstream import (
    Found,
    Sink,
    Source,
    head_record,
    last_record,
    opened,
    records,
    round_end,
    update_record,
)
from tools.session import Session
from tools.stop import Stop


class Target(Protocol):
    """What takes a stream. Every call may raise `Stopped`, and HammerError for what goes wrong."""

    synced: int | None
    """The TID up to which it is complete, as far as is known."""

    def greet(self, master: PfsData) -> int | None:
        """Meet the source before a round; what the slave lacks begins with this TID (None: it does not tell)."""
        ...

    def begin(self, pfs: PfsData) -> None:
        """A round begins; the record of the source has the end of the round as its synchronisation point."""
        ...

    def add(self, data: bytes) -> None:
        """Whole records."""
        ...

    def end(self, *, has_work: bool) -> None:
        """A round is complete."""
        ...

    def close(self) -> None:
        """No more rounds."""
        ...

    def pause(self, seconds: float) -> None:
        """Wait for a while, as long as there is somebody to wait for."""
        ...

    def report(self) -> dict[str, Any]:
        """What has been done."""
        ...


class LocalTarget:
    """A slave on a file system this process can ask.

    Args:
        session: Where it is.
        path: Its softlink; a slave that does not exist is made.
        stop: What ends every wait.
        on_image: Whether the path is inside an image.
    """

    def __init__(self, session: Session, path: str, stop: Stop, *, on_image: bool) -> None:
        self._session = session
        self._path = path
        self._stop = stop
        self._on_image = on_image
        self._round = PfsData()
        self._waiting = bytearray()
        self._at: str | None = None
        self._stats = {"rounds": 0, "records": 0, "created": 0, "deleted": 0, "nbytes": 0}
        self.pfs_id: int | None = None
        self.pfs = PfsData()
        self.synced: int | None = None

    def greet(self, master: PfsData) -> int:
        """As for `Target`."""
        words = {"shared_uuid": master.shared_uuid.hex()}
        try:
            reply = self._session.run("mirror-target", self._path, **words)
        except HammerError as err:
            if err.errno != NotFound.errno:
                raise
            options = [f"shared-uuid={master.shared}"]
            reply = make_pfs(self._session, self._path, options, slave=True, on_image=self._on_image)
        self.pfs_id, self.pfs = reply["pfs"], PfsData.decode(bytes.fromhex(reply["data"]))
        self.synced = self.pfs.sync_end_tid
        return self.synced + 1

    def begin(self, pfs: PfsData) -> None:
        """As for `Target`."""
        self._round = pfs
        self._at = None
        self._waiting.clear()

    def add(self, data: bytes) -> None:
        """As for `Target`."""
        if len(self._waiting) + len(data) > MOST_BYTES:
            self._flush()
        self._waiting += data

    def end(self, *, has_work: bool) -> None:
        """As for `Target`."""
        self._flush()
        if has_work:
            self._session.run("mirror-synced", tid=tid_text(self._round.sync_end_tid), **self._slave())
            self.synced = self._round.sync_end_tid
        self._stats["rounds"] += 1

    def close(self) -> None:
        """As for `Target`."""

    def pause(self, seconds: float) -> None:
        """As for `Target`."""
        self._stop.pause(seconds)

    def report(self) -> dict[str, Any]:
        """As for `Target`."""
        return {"pfs": self.pfs_id, "sync_end_tid": tid_text(self.synced or 0), **self._stats}

    def _flush(self) -> None:
        """Apply what is waiting."""
        self._stop.check()
        if not self._waiting:
            return
        data = base64.b64encode(self._waiting).decode("ascii")
        self._waiting.clear()
        ends = {"tid_beg": tid_text(self._round.sync_beg_tid), "tid_end": tid_text(self._round.sync_end_tid)}
        reply = self._session.run("mirror-write", data=data, start=self._at, **ends, **self._slave())
        self._at = reply["next"]
        for name, value in reply["stats"].items():
            self._stats[name] += value

    def _slave(self) -> dict[str, Any]:
        return {"pfs": self.pfs_id, "shared_uuid": self._round.shared_uuid.hex()}


class OneWay:
    """Somebody who only reads: what becomes of the stream is not known.

    Args:
        out: Where it goes.
        pause: Waits for so many seconds.
    """

    def __init__(self, out: Sink, pause: Callable[[float], object]) -> None:
        self._out = out
        self._pause = pause
        self._nbytes = 0
        self.synced: int | None = None

    def greet(self, master: PfsData) -> None:
        """As for `Target`."""
        self._write(head_record(master))

    def begin(self, pfs: PfsData) -> None:
        """As for `Target`."""
        self._write(head_record(pfs))

    def add(self, data: bytes) -> None:
        """As for `Target`."""
        self._write(data)

    def end(self, *, has_work: bool) -> None:
        """As for `Target`."""
        self._write(round_end(has_work=has_work))

    def close(self) -> None:
        """As for `Target`: a stream with a single way ends when it ends."""

    def pause(self, seconds: float) -> None:
        """As for `Target`."""
        self._pause(seconds)

    def report(self) -> dict[str, Any]:
        """As for `Target`."""
        return {"nbytes": self._nbytes}

    def _write(self, data: bytes) -> None:
        self._out.write(data)
        self._nbytes += len(data)


class TwoWay:
    """A program at the other end that answers.

    Args:
        link: How it is reached.
    """

    def __init__(self, link: Link) -> None:
        self._link = link
        self._answers = _records_of(link, link.name)
        self._round = 0
        self._stats = {"rounds": 0, "nbytes": 0}
        self.synced: int | None = None

    def greet(self, master: PfsData) -> int:
        """As for `Target`."""
        self._write(head_record(master))
        pfs = self._answer().record.pfsd
        if pfs is None:
            raise CorruptError(f"{self._link.name} does not tell what the slave is")
        check_slave(pfs, master.shared_uuid, self._link.name)
        self.synced = pfs.sync_end_tid
        return self.synced + 1

    def begin(self, pfs: PfsData) -> None:
        """As for `Target`."""
        self._round = pfs.sync_end_tid
        self._write(head_record(pfs))

    def add(self, data: bytes) -> None:
        """As for `Target`."""
        self._write(data)

    def end(self, *, has_work: bool) -> None:
        """As for `Target`."""
        self._write(round_end(has_work=has_work))
        record = self._answer().record
        if record.type != MREC_UPDATE or record.tid != self._round:
            raise CorruptError(f"{self._link.name} does not confirm that the slave is complete")
        if has_work:
            self.synced = record.tid
        self._stats["rounds"] += 1

    def close(self) -> None:
        """As for `Target`."""
        self._write(last_record())

    def pause(self, seconds: float) -> None:
        """As for `Target`."""
        if self._link.pause(seconds):
            self._answer()
            raise CorruptError(f"{self._link.name} speaks before it is asked")

    def report(self) -> dict[str, Any]:
        """As for `Target`."""
        return {"pfs": None, "sync_end_tid": tid_text(self.synced or 0), **self._stats}

    def _write(self, data: bytes) -> None:
        self._link.write(data)
        self._stats["nbytes"] += len(data)

    def _answer(self) -> Found:
        answer = next(self._answers, None)
        if answer is None:
            raise self._link.gone()
        if answer.type == MREC_TERM:
            raise HammerError(f"{self._link.name} has ended the exchange")
        return answer


def receive(source: Source, target: LocalTarget, link: Link | None, told: Callable[[], None]) -> None:
    """Apply the rounds of a stream to a slave, until it ends.

    Args:
        source: The stream; without a link it may be compressed.
        target: The slave.
        link: Where answers go, if the other end waits for them.
        told: Called after each round.

    Raises:
        Stopped: The user, or the time limit, has ended it.
        CorruptError: It is no stream, it is damaged or ends too early; says where.
        HammerError: The slave takes no such stream, or its file system fails.
    """
    found = records(opened(source)) if link is None else _records_of(source, link.name)
    rounds = 0
    while (first := next(found, None)) is not None and first.type != MREC_TERM:
        pfs = first.record.pfsd
        if pfs is None:
            raise CorruptError("no mirror stream: it does not begin with a PFS record", offset=first.at)
        target.greet(pfs)
        if link is not None:
            link.write(head_record(target.pfs))
        end = _receive_round(found, target, link)
        if link is not None:
            link.write(update_record(end))
        told()
        rounds += 1
    if first is None and link is not None:
        raise link.gone()
    if first is None and not rounds:
        raise CorruptError("no mirror stream: it does not begin with a PFS record", offset=0)


def _records_of(source: Source, name: str) -> Iterator[Found]:
    """What the other end says; an error in it names that end."""
    try:
        yield from records(source)
    except CorruptError as err:
        raise CorruptError(f"{name}: {err}") from None


def _receive_round(found: Iterator[Found], target: LocalTarget, link: Link | None) -> int:
    """One round behind its first record; the TID it ends with."""
    end: int | None = None
    for one in found:
        if end is None:
            pfs = one.record.pfsd
            if pfs is None:
                break
            end = pfs.sync_end_tid
            target.begin(pfs)
        elif one.type in {MREC_SYNC, MREC_IDLE}:
            target.end(has_work=one.type == MREC_SYNC)
            return end
        elif one.type in {MREC_TERM, MREC_PFSD}:
            break
        else:
            target.add(one.raw)
    else:
        if link is not None:
            raise link.gone()
    raise CorruptError("the stream ended before its end was told: the slave stays as it was")
