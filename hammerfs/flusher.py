"""The flusher: a master thread that forms groups and orders barriers, a slave thread for each volume that writes.

System calls wake the master and sleep until it is done; in between it works by age. What it does to the tree happens
between two awaits (see `backend`); while the slaves write, system calls go on and gather the next group.

An fsync of a file whose only news are data, times and growth is cheaper: the FIFO takes REDO records of what was
written, with one barrier, and the group comes later. While a commit is under way nothing is logged, so the records that
recovery needs always lie in the active range of the FIFO.
"""

from __future__ import annotations

import copy
import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence

from hammerfs.addr import localize
from hammerfs.backend import Backend
from hammerfs.changes import Changes
from hammerfs.commit import Commit, Step
from hammerfs.const import REDO_TRUNC, REDO_WRITE, UNDO_SECTOR, VERSION_REDO
from hammerfs.data import plan_read
from hammerfs.dirty import LOG_LIMIT
from hammerfs.disk_threads import DiskThreads, Submit, submit_inline
from hammerfs.errors import ClosedError, HammerError
from hammerfs.inode import DIRTY_ALL, Inode
from hammerfs.ondisk.fifo import RedoRecord
from hammerfs.redo import logged
from hammerfs.transaction import TidCounter
from hammerfs.undo import UndoFifo
from hammerfs.undo_writer import UndoWriter
from hammerfs.volumes import Volumes
from kernelcore.sleep import tsleep, wakeup
from kernelcore.thread import Thread, join, lwkt_create

log = logging.getLogger("hammerfs")
_PAUSE_S = 0.1
"""Rest between the groups that take what large removed objects held from the media."""


class _Job:
    """What waits for its turn between two groups: a direct change of the tree, or steps of its own."""

    __slots__ = ("change", "changed", "error", "is_done", "steps")

    def __init__(self, change: Callable[[int], bool] | None, steps: Iterable[Step] = ()) -> None:
        self.change = change
        self.steps = steps
        self.changed = self.is_done = False
        self.error: HammerError | None = None


class Flusher:
    """Brings changes to the media.

    Args:
        volumes: The set.
        changes: What there is to flush.
        backend: Puts it into the tree.
        commit: Knows the order of writes.
        undo: The FIFO.
        tids: Gives each group its TID.
        submit: Makes calls that wait for the media.
    """

    def __init__(
        self,
        volumes: Volumes,
        changes: Changes,
        backend: Backend,
        commit: Commit,
        undo: UndoWriter,
        tids: TidCounter,
        submit: Submit = submit_inline,
    ) -> None:
        self._volumes = volumes
        self._changes = changes
        self._backend = backend
        self._commit = commit
        self._undo = undo
        self._tids = tids
        self._master: Thread | None = None
        self.disks = DiskThreads(volumes, submit)
        """The slaves."""
        self._started = self._done = self._wanted = 0
        self._is_stopping = False
        self._busy = False
        self._error: HammerError | None = None
        """What kept the newest flush from being made; nothing of it is lost, it is tried again."""
        self._redo_oldest: int | None = None
        """FIFO address of the first REDO record since the last commit."""
        self._is_restarted = False
        """Whether the numbers of FIFO records have jumped since the file system was opened."""
        self._redone: Callable[[], Iterable[RedoRecord]] = tuple
        """What the FIFO told to do again when it was opened; the first commit has it."""
        self._logging = 0
        self._jobs: deque[_Job] = deque()
        self.flush_tid = tids.newest
        """TID of the newest group that is on the media: what it and all before it wrote is visible as of it."""
        self.flushes = self.logs = 0
        """Groups committed, and fsyncs that only logged."""

    # Life

    async def start(self) -> None:
        """Create the threads."""
        self.disks.start()
        self._master = lwkt_create(self._run, name="hmrmaster")

    async def stop(self) -> None:
        """End the threads; what is not flushed by then is not flushed any more."""
        self._is_stopping = True
        wakeup(self)
        if self._master is not None:
            await join(self._master)
            self._master = None
        await self.disks.stop()

    async def recover(self, operations: Callable[[], Iterable[RedoRecord]]) -> None:
        """Finish recovery by a commit, even if nothing has changed. Before it, nothing may be fsynced.

        Args:
            operations: What was logged before; it has been done again, in memory.

        Raises:
            HammerError: As `flush`.
        """
        self._redone = operations
        await self._flushed(self._started + 1)
        await self.settle()

    # System calls

    def kick(self) -> None:
        """There is enough for a group: begin soon. Plain: any system call may say so."""
        self._wanted = max(self._wanted, self._started + 1)
        wakeup(self)

    async def flush(self) -> int:
        """Bring all changes made up to now to the media, durably.

        Returns:
            TID as of which all of them are visible.

        Raises:
            ReadOnlyError: Nothing may be written since a failure.
            HammerError: They could not be brought there.
        """
        return await self._flushed(self._started if self._changes.is_empty else self._started + 1)

    async def _flushed(self, target: int) -> int:
        """Wait for a group of that number; as `flush`."""
        changes = self._changes
        changes.check_sound()
        while self._done < target:
            self._wanted = max(self._wanted, target)
            wakeup(self)
            await tsleep((self, "done"), 0, "hmrfls")
        changes.check_sound()
        if self._error is not None and target == self._done:
            raise self._error
        return self.flush_tid

    async def transact(self, change: Callable[[int], bool]) -> bool:
        """Make a direct change of the tree as a group of its own, durably: maintenance works by these.

        What system calls have changed is not part of it and may wait for a flush all the while. When the change raises,
        the state before it counts again, and the file system goes on.

        Args:
            change: As for `Backend.transact`; it is called while nobody else runs, so it should not be large.

        Returns:
            What `change` returned.

        Raises:
            ReadOnlyError: Nothing may be written since a failure.
            HammerError: What `change` raises, or a device failed.
        """
        return await self._turn(_Job(change))

    async def upgrade(self, version: int) -> None:
        """Make the volumes a later version, durably, between two groups.

        Raises:
            ReadOnlyError: Nothing may be written since a failure.
            HammerError: What was fsynced could not be flushed before, or a device failed.
        """
        await self._turn(_Job(None, self._commit.upgrade(version)))

    async def change_set(self, count: int, change: Callable[[], object]) -> None:
        """Change the number of volumes, durably, between two groups; see `Commit.change_set`.

        Raises:
            ReadOnlyError: Nothing may be written since a failure.
            HammerError: What was fsynced could not be flushed before, or a device failed.
        """
        await self._turn(_Job(None, self._commit.change_set(count, change)))

    async def _turn(self, job: _Job) -> bool:
        """Have the master do a job."""
        self._changes.check_sound()
        self._jobs.append(job)
        wakeup(self)
        while not job.is_done:
            await tsleep((self, "done"), 0, "hmrtrn")
        if job.error is not None:
            raise job.error
        self._changes.check_sound()
        return job.changed

    async def settle(self) -> int:
        """As `flush`, until removed objects are gone from the media as well."""
        tid = await self.flush()
        while self._backend.reaping:
            tid = await self.flush()
        return tid

    async def throttle(self) -> None:
        """Wait while much more has been changed than one group takes."""
        while self._changes.failed is None and self._changes.is_overfull:
            await self.flush()

    async def fsync(self, inode: Inode) -> None:
        """Bring an object to the media, durably (by the mode of the mount, see `WriteOptions`).

        Raises:
            HammerError: As `flush`, or an earlier write to the object failed.
        """
        changes = self._changes
        mode = changes.options.fsync_mode
        error = inode.error
        if error is not None:
            inode.error = None
            raise error
        if mode == 4:
            return
        if mode == 1:
            self.kick()
            return
        while self._busy and changes.failed is None:
            await tsleep((self, "done"), 0, "hmrfsy")
        if inode not in changes.dirty and changes.failed is None:
            return
        if mode in {2, 3} and self._can_log(inode):
            await self._log(inode)
        else:
            await self.flush()

    # REDO

    def _can_log(self, inode: Inode) -> bool:
        dirty = inode.dirty
        return (
            dirty is not None
            and dirty.log_bytes <= LOG_LIMIT
            and inode.create_tid != 0
            and not inode.state & DIRTY_ALL
            and inode.data.nlinks > 0
            and self._volumes.version >= VERSION_REDO
            and self._is_restarted
            and self._undo.free_bytes > self._undo.size * 3 // 4
            and self._changes.failed is None
        )

    async def _log(self, inode: Inode) -> None:
        dirty = inode.dirty
        assert dirty is not None
        records = list(self._redo_records(inode))
        if not records and not self._logging:
            return
        self._lay(records)
        dirty.log_taken()
        self.logs += 1
        self._logging += 1
        try:
            await self.disks.step(self._commit.log_step())
        except HammerError as err:
            self._fail(err)
            self._changes.check_sound()
        finally:
            self._logging -= 1

    def _lay(self, records: Iterable[RedoRecord]) -> None:
        """Lay down REDO records; behind the first one since the last commit, where they begin."""
        for record in records:
            address = self._undo.log_redo(record)
            if self._redo_oldest is None:
                self._redo_oldest = address
                self._undo.log_sync(address)

    def _redo_records(self, inode: Inode) -> Iterable[RedoRecord]:
        """What was written since the last fsync, and how long the file is now."""
        dirty = inode.dirty
        assert dirty is not None
        localization, mtime = localize(inode.pfs_id), inode.data.mtime
        reached = dirty.logged_size
        for beg, end in dirty.log:
            data = bytearray(min(end, dirty.size) - beg)
            with memoryview(data) as view:
                plan = plan_read(self._changes.records, inode, beg, view)
                plan.run()
                plan.finish()
            yield RedoRecord(inode.obj_id, beg, len(data), REDO_WRITE, localization, mtime, bytes(data))
            reached = max(reached, end)
        if dirty.size > reached:
            yield RedoRecord(inode.obj_id, dirty.size, 0, REDO_TRUNC, localization, mtime, b"")

    # Master

    async def _run(self) -> None:
        """Sleep until somebody wants a flush, or the age is reached; flush."""
        while True:
            if self._wanted <= self._done and not self._jobs and not self._is_stopping:
                goes_on = self._backend.reaping and self._error is None
                await tsleep(self, 0, "hmrwwa", _PAUSE_S if goes_on else self._changes.options.commit_seconds)
            if self._is_stopping:
                self._refuse_jobs()
                return
            if self._jobs:
                self._busy = True
                await self._transaction(self._jobs.popleft())
                self._busy = False
                wakeup((self, "done"))
            if self._wanted <= self._done and self._changes.is_empty and not self._backend.reaping:
                continue
            self._started += 1
            self._busy = True
            self._error = None
            try:
                if self._changes.failed is None:
                    await self._group()
            finally:
                self._busy = False
                self._done = self._started
                wakeup((self, "done"))

    async def _group(self) -> None:
        """One group, and those of files that lose a lot before it."""
        backend = self._backend
        if not self._is_restarted:
            await self._restart()
        tid = self._tids.alloc()
        while self._changes.failed is None:
            again = await self._to_log_again()
            if again is None or not self._apply(backend.trim, tid):
                break
            await self._to_media(keep=self._redo_oldest is not None and not again, again=again)
            tid = self._tids.alloc()
        if self._changes.failed is not None:
            return
        try:
            self._error = backend.prepare()  # nobody else may run between this and the change of the tree
        except HammerError as err:
            log.error("flush put off: %s", err)
            self._error = err
            return
        if self._apply(backend.apply, tid):
            await self._to_media()
            if self._changes.failed is None:
                self.flush_tid = tid
                self.flushes += 1

    async def _transaction(self, job: _Job) -> None:
        """One direct change; before it a group, if an fsync has only been logged: its records are not to be lost."""
        try:
            if not self._is_restarted:
                await self._restart()
            if self._redo_oldest is not None:
                await self._group()
            change = job.change
            if self._changes.failed is not None:
                pass
            elif change is None:
                await self._alone(job.steps)
            else:
                job.changed = self._attempt(lambda tid: self._backend.transact(change, tid), self._tids.alloc())
                if job.changed:
                    await self._to_media(keep=self._redo_oldest is not None)
        except HammerError as err:
            job.error = err
        except Exception as err:
            job.error = HammerError(f"maintenance failed: {err!r}")
            log.exception("a direct change of the tree failed")
        finally:
            job.is_done = True

    async def _alone(self, steps: Iterable[Step]) -> None:
        """The FIFO is empty by now, but for what was fsynced since."""
        if self._redo_oldest is not None:
            raise self._error or HammerError("what was fsynced could not be flushed")
        await self._run_steps(steps)
        self._is_restarted = False

    def _refuse_jobs(self) -> None:
        while self._jobs:
            job = self._jobs.popleft()
            job.error, job.is_done = ClosedError("the file system is being closed"), True
        wakeup((self, "done"))

    def _attempt(self, change: Callable[[int], bool], tid: int) -> bool:
        """Change the tree; when that fails the state of the last commit counts again."""
        root = self._volumes.root
        before = copy.copy(root.ondisk)
        before.vol0_blockmap = list(before.vol0_blockmap)
        try:
            return change(tid)
        except BaseException:
            root.ondisk = before
            self._backend.give_up()
            raise

    def _apply(self, change: Callable[[int], bool], tid: int) -> bool:
        """As `_attempt`; after a failure nothing is written any more."""
        try:
            return self._attempt(change, tid)
        except Exception as err:
            self._fail(err if isinstance(err, HammerError) else HammerError(f"flush failed: {err!r}"))
            if not isinstance(err, HammerError):
                raise
            return False

    async def _to_log_again(self) -> list[RedoRecord] | None:
        """What is logged, when the group to come has to drop the range it lies in: there is little room left.

        Room for a copy of the log, which takes up to a quarter, and for two groups has to be there still. None: it
        can't be read, and nothing may be written any more.
        """
        undo, oldest = self._undo, self._redo_oldest
        if oldest is None or undo.free_bytes > undo.size * 5 // 8:
            return []
        try:
            await self.disks.step(self._commit.log_step())  # behind the writes of an fsync that is under way
            return list(logged(UndoFifo(self._volumes), oldest, undo.next))
        except HammerError as err:
            self._fail(err)
            return None

    async def _to_media(self, *, keep: bool = False, again: Sequence[RedoRecord] = ()) -> None:
        """Commit what has been applied.

        Args:
            keep: As for `Commit.steps`.
            again: What was logged and is not in the tree yet: laid down behind the group, it outlives it.
        """
        end = self._undo.next
        if not keep:
            self._redo_oldest = None
        try:
            self._lay(again)
            self._lay(self._cuts(again))
        except HammerError as err:
            self._fail(err)
            return
        await self._run_steps(self._commit.steps(end, mark=bool(self._backend.orphans), keep=keep))

    def _cuts(self, again: Iterable[RedoRecord]) -> Iterator[RedoRecord]:
        """That files were cut since they were logged: what was written behind the cut is not to come back."""
        files = {(record.localization, record.obj_id) for record in again}
        for inode, limit in self._backend.cut.items():
            localization = localize(inode.pfs_id)
            if (localization, inode.obj_id) in files:
                yield RedoRecord(inode.obj_id, limit, 0, REDO_TRUNC, localization, inode.data.mtime, b"")

    async def _restart(self) -> None:
        """Before the first commit: let the numbers of FIFO records jump, see `UndoWriter.restart`.

        What recovery was told to do again is told again behind the jump. When the FIFO is too full for that, the
        first commit goes on behind the records of the last time, and the jump is the second one's.
        """
        undo, operations = self._undo, self._redone
        self._redone = tuple
        try:
            need = sum(len(record.data) + UNDO_SECTOR for record in operations())
            if need > undo.free_bytes - 2 * UNDO_SECTOR:
                self._redo_oldest = undo.first
                return
            self._is_restarted = True
            undo.restart()
            self._lay(operations())
        except HammerError as err:
            self._fail(err)
        else:
            await self._run_steps(self._commit.restart())

    async def _run_steps(self, steps: Iterable[Step]) -> None:
        try:
            for step in steps:
                await self.disks.step(step)
        except HammerError as err:
            self._fail(err)

    def _fail(self, err: HammerError) -> None:
        """Nothing may be written any more; what is on the media is whole, or will be made so by recovery."""
        if self._changes.failed is None:
            self._changes.failed = err
            log.error("file system is read-only from now on: %s", err)
