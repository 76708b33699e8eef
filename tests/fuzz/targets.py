"""What is done with a mutant: each reader in turn. It may refuse, in one line that says where, and nothing else."""

from __future__ import annotations

import io
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import IO, Any, TypeVar, cast

from hammerfs.cache import Fill
from hammerfs.errors import BufferMiss, CorruptError, HammerError
from hammerfs.flushpoints import FlushPoints
from hammerfs.fs import HammerFS, Recover
from hammerfs.maint.verbs_history import Past, diff, log, versions
from hammerfs.manifest import manifest
from hammerfs.vfs.node import Node, ObjectNode, VirtualDir
from hammerfs.vfs.vfs import Look, Vfs
from tests.fuzz.mutate import Mutant, Strict
from tools.cmd_history import Asker, walk_past
from tools.fsck import CODES
from tools.fsck import check as fsck
from tools.rawview import blockmap, checkmap, fifo
from tools.rawview.show import Shower
from tools.rawview.summary import summary
from tools.tarstream import TarStream
from tools.walk import walk

T = TypeVar("T")
SECONDS = 30
"""Longest that one reader may take with one small image."""
_PATIENCE = 1000
"""Most times a call is run."""
_ENOUGH = 1 << 20
"""Bytes of one file that are read: a damaged size may claim any number of zeros."""


def run_manifest(fs: HammerFS) -> None:
    """`hammer manifest`."""
    manifest(fs, None)


def run_facts(fs: HammerFS) -> None:
    """`hammer info`, `pfs-status`, `snapls`, `config`, and `history` of every file."""
    fs.statfs()
    for pfs_id, _ in fs.pfs_list():
        fs.snapshots(pfs_id)
        fs.config(pfs_id)
    FlushPoints(fs.records, 0).load()
    for found in walk(fs, fs.root(), _ignore):
        try:
            fs.history(found.inode)
        except HammerError as err:
            check_error(err)


def run_past(fs: HammerFS) -> None:
    """`hammer log`, `diff`, `deleted -r`, `find` and `versions` of every file."""
    past = Past(fs, fs.root())
    asks: list[Callable[[], object]] = [
        lambda: log(past, "/", 1000),
        lambda: diff(past, "/", "0x100000010", "now"),
        lambda: list(walk_past(Asker(None, past), "deleted", "/", recursive=True)),
        lambda: list(walk_past(Asker(None, past), "held", "/", recursive=True, first="0x100000010", last="now")),
    ]
    for ask in asks:
        try:
            ask()
        except HammerError as err:
            check_error(err)
    for found in walk(fs, fs.root(), _ignore):
        try:
            if found.path:
                versions(past, os.fsdecode(found.path))
        except HammerError as err:
            check_error(err)


def run_cat(fs: HammerFS) -> None:
    """`hammer cat` of every file."""
    buf = memoryview(bytearray(_ENOUGH))
    for found in walk(fs, fs.root(), _ignore):
        if found.inode.is_file:
            try:
                fs.readinto(found.inode, 0, buf)
                fs.readinto(found.inode, max(found.inode.size - 100, 0), buf[:200])
            except HammerError as err:
                check_error(err)


def run_tar(fs: HammerFS) -> None:
    """`hammer tar`; a file without holes stops at a limit, as a full disk would."""
    stream = TarStream(fs, cast("IO[bytes]", _Sink()), _ignore)
    try:
        stream.tree(fs.root(), b"")
        stream.close()
    except _Full:
        return


def run_show(fs: HammerFS) -> None:
    """`hammer show`."""
    for _ in summary(fs):
        pass
    Shower(fs, 0, name=repr).run(_ignore)


def run_checkmap(fs: HammerFS) -> None:
    """`hammer blockmap` and `checkmap`."""
    for _ in blockmap.lines(fs):
        pass
    checkmap.run(fs, _ignore)


def run_show_undo(fs: HammerFS) -> None:
    """`hammer show-undo`."""
    for _ in fifo.lines(fs):
        pass


def run_mount(device: Strict) -> None:
    """What a mount does when somebody wanders over it, past and virtual directories included, and it has to wait."""
    with HammerFS([device], cache_bytes=2 << 20) as fs:
        vfs = Vfs(fs, Look(snapdir="visible"))
        fs.inodes.drop()
        fs.cache.drop()
        fs.cache.inline = False
        device.is_cold = True
        stack: list[tuple[Node, int]] = [(vfs.root, 0)]
        seen: set[int] = set()
        while stack and len(seen) < 2000:
            node, depth = stack.pop()
            if node.number in seen or depth > 8:
                continue
            seen.add(node.number)
            try:
                for found, steps in _around(vfs, node):
                    stack.append((found, depth + steps))
            except HammerError as err:
                check_error(err)


def _around(vfs: Vfs, node: Node) -> Iterator[tuple[Node, int]]:
    """What can be reached from a node, and how many steps away it is to count as."""
    _waiting(vfs, vfs.getattr, node)
    if not isinstance(node, VirtualDir) and not (
        isinstance(node, ObjectNode) and _waiting(vfs, vfs.inode, node).is_dir
    ):
        return
    names = _waiting(vfs, lambda: list(vfs.list_dir(node)))
    yield from ((entry.node, 1) for entry in names)
    suffixes = {b"": 1} if isinstance(node, VirtualDir) else {b"": 1, b"@@": 3, b"@@0x%016x" % 0x100000010: 4}
    for entry in names[:3]:
        for suffix, steps in suffixes.items():
            try:
                yield _waiting(vfs, vfs.lookup, node, entry.name + suffix), steps
            except HammerError as err:
                check_error(err)


def _waiting(vfs: Vfs, call: Callable[..., T], *args: Any) -> T:
    """Run a call as often as it takes, and bring in what it misses meanwhile."""
    cache = vfs.fs.cache
    held: list[Fill] = []
    try:
        for _ in range(_PATIENCE):
            try:
                return call(*args)
            except BufferMiss as miss:
                for fill in cache.prepare(miss):
                    fill.volume.dev.preadv(fill.byte_off, [fill.view])
                    fill.commit()
                    held.append(fill)
    finally:
        for fill in held:
            fill.release()
    raise AssertionError(f"{call} was run {_PATIENCE} times")


def run_fsck(device: Strict) -> None:
    """`fsck.hammer -n --data`."""
    for finding in fsck([device], data=True):
        assert finding.severity == CODES[finding.code], finding
        text = str(finding)
        assert "\n" not in text, text
        assert not finding.is_error or text != f"error {finding.code}: {finding.what}", f"no place: {text}"


Target = Callable[[Strict], None]
SHOW_UNDO = "show-undo"


def on(recover: Recover, run: Callable[[HammerFS], None]) -> Target:
    """A reader of an open file system."""

    def target(device: Strict) -> None:
        with HammerFS([device], recover=recover, cache_bytes=2 << 20) as fs:
            run(fs)

    return target


TARGETS: dict[str, Target] = {
    "manifest": on("full", run_manifest),
    "facts": on("full", run_facts),
    "past": on("full", run_past),
    "cat": on("full", run_cat),
    "tar": on("undo", run_tar),
    "show": on("raw", run_show),
    "checkmap": on("raw", run_checkmap),
    SHOW_UNDO: on("raw", run_show_undo),
    "mount": run_mount,
    "fsck": run_fsck,
}


def check(seed: int) -> None:
    """Make the mutant of a seed and give it to every reader.

    Raises:
        AssertionError: A reader did what it may not; the message says with which changes.
    """
    mutant = Mutant(seed)
    for name, target in TARGETS.items():
        if name == SHOW_UNDO and not mutant.may_change_fifo:
            continue  # half of the time would go into reading the same 16,384 sound records
        device = Strict(mutant.device, owns_lower=False)
        try:
            with _deadline(SECONDS):
                target(device)
        except HammerError as err:
            check_error(err)
        except Exception as err:
            raise AssertionError(f"seed {seed}: {name}: {err!r} after {mutant.changes}") from err
        assert not device.strays, f"seed {seed}: {name}: an access left the device after {mutant.changes}"


def check_error(err: HammerError) -> None:
    """An error is one line, has an exit code that is documented, and says where the damage is."""
    text = str(err)
    assert "\n" not in text, text
    assert err.exit_code in {1, 2}
    if isinstance(err, CorruptError):
        assert err.place, text


class _Full(Exception):
    """The sink has had enough."""


class _Sink(io.RawIOBase):
    """Takes what fits a disk."""

    def __init__(self) -> None:
        super().__init__()
        self._left = 64 << 20

    def write(self, data: object) -> int:
        """Count it."""
        assert isinstance(data, (bytes, bytearray, memoryview))
        self._left -= len(data)
        if self._left < 0:
            raise _Full
        return len(data)


@contextmanager
def _deadline(seconds: int) -> Iterator[None]:
    """A hang becomes an error."""

    def late(_number: int, _frame: object) -> None:
        raise TimeoutError(f"longer than {seconds} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def _ignore(*_what: object) -> None:
    """Output and complaints of single objects."""
