"""Every call of a writable file system against plain objects that remember every promised TID.

After each step the head and two random points in time are compared in full, objects without a name included. Lives end
by closing or by pulling the plug; at the last end fsck finds nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from hammerfs.changes import WriteOptions
from hammerfs.const import (
    MAX_FILE_SIZE,
    OBJTYPE_BDEV,
    OBJTYPE_CDEV,
    OBJTYPE_DIRECTORY,
    OBJTYPE_FIFO,
    OBJTYPE_REGFILE,
    OBJTYPE_SOCKET,
    OBJTYPE_SOFTLINK,
    UF_APPEND,
    UF_IMMUTABLE,
    UF_NODUMP,
    UF_NOHISTORY,
    UF_NOUNLINK,
)
from hammerfs.errors import (
    ExistsError,
    FileTooBig,
    HammerError,
    InvalidError,
    IsADirectory,
    NotADirectory,
    NotEmpty,
    NotFound,
    NotPermitted,
)
from hammerfs.filewrite import MAX_WRITTEN, SetAttr
from hammerfs.fs import HammerFS
from tests.enginelab import Clock, assert_same, assert_sound, fresh, plugged, tree
from tests.fsmodel import Obj, Twin, contents
from tests.model.kernelcore.harness import deep, quick

NAMES = [b"a", b"b", b"c.txt", b"d" * 255, b"\xff\xfe", "ä".encode(), b"x@@y", b"snap-1"]
OFFSETS = [0, 1, 100, 8191, 8192, 8193, 16383, 16384, 16385, 100_000, 1 << 20, (1 << 20) + 1, (1 << 20) + 65536]
LENGTHS = [0, 1, 7, 4096, 8192, 16384, 20_000, 65_536, 131_077]
SIZES = [0, 1, 100, 8192, 8193, 16384, 16385, 65_536, 500_000, 1 << 20, (1 << 20) + 70_000]
FLAGS = [0, 0, UF_NODUMP, UF_IMMUTABLE, UF_APPEND, UF_NOUNLINK, UF_NOHISTORY, UF_NODUMP | UF_APPEND]
MOST_OBJECTS = 25
FIXED = UF_IMMUTABLE | UF_APPEND
PICK = st.integers(0, 1 << 16)
NAME = st.sampled_from(NAMES)
Error = type[HammerError]


class FsMachine(RuleBasedStateMachine):
    """The machine."""

    twin: Twin

    @initialize(
        version=st.integers(1, 7),
        volumes=st.sampled_from([1, 1, 2]),
        group_records=st.sampled_from([6, 30, 1500]),
        nohistory=st.sampled_from([False, False, False, True]),
        master_id=st.sampled_from([0, 0, 5, None]),
        fsync_mode=st.sampled_from([0, 1, 2, 3, 3, 4]),
        seed=PICK,
    )
    def format(
        self,
        version: int,
        volumes: int,
        group_records: int,
        nohistory: bool,
        master_id: int | None,
        fsync_mode: int,
        seed: int,
    ) -> None:
        """A fresh file system."""
        self.rng = Random(seed)
        self.clock = Clock()
        options = WriteOptions(
            nohistory=nohistory,
            master_id=master_id,
            fsync_mode=fsync_mode,
            group_records=group_records,
            clock=self.clock,
        )
        self.twin = Twin(fresh(version, volumes=volumes), options)
        below = self.twin.make(1, NAMES[0], OBJTYPE_DIRECTORY)
        for number, name in enumerate(NAMES[1:4]):
            ino = self.twin.make(below if number else 1, name, OBJTYPE_REGFILE)
            self.twin.write(ino, 0, contents(self.rng, SIZES[3 * number]))
        self.twin.sync()

    # Names

    @rule(where=PICK, name=NAME, kind=st.sampled_from([OBJTYPE_REGFILE, OBJTYPE_REGFILE, OBJTYPE_DIRECTORY]))
    def make(self, where: int, name: bytes, kind: int) -> None:
        """A file or a directory."""
        directory = self.directory(where)
        self.attempt_new(directory, name, lambda: self.twin.make(directory, name, kind, uid=where))

    @rule(
        where=PICK,
        name=NAME,
        kind=st.sampled_from([OBJTYPE_FIFO, OBJTYPE_SOCKET, OBJTYPE_CDEV, OBJTYPE_BDEV]),
    )
    def mknod(self, where: int, name: bytes, kind: int) -> None:
        """Anything without contents."""
        directory = self.directory(where)
        rdev = (where % 256, where % 7) if kind in {OBJTYPE_CDEV, OBJTYPE_BDEV} else (0, 0)
        self.attempt_new(directory, name, lambda: self.twin.make(directory, name, kind, mode=where % 0o1000, rdev=rdev))

    @rule(where=PICK, name=NAME, length=st.sampled_from([1, 24, 25, 60, 1023]))
    def symlink(self, where: int, name: bytes, length: int) -> None:
        """A symbolic link, short or long."""
        directory = self.directory(where)
        self.attempt_new(
            directory, name, lambda: self.twin.make(directory, name, OBJTYPE_SOFTLINK, target=b"t" * length)
        )

    @rule(what=PICK, where=PICK, name=NAME)
    def link(self, what: int, where: int, name: bytes) -> None:
        """One more name."""
        obj, directory = self.pick(what), self.directory(where)
        refused: Error | None = self.no_new(directory, name)
        if obj.is_dir or obj.uflags & FIXED:
            refused = NotPermitted
        elif not obj.nlink:
            refused = NotFound
        self.attempt(refused, lambda: self.twin.link(obj.ino, directory, name))

    @rule(where=PICK, which=PICK)
    def remove(self, where: int, which: int) -> None:
        """Unlink or rmdir."""
        found = self.entry(where, which)
        if found is not None:
            directory, name, obj = found
            refused = self.no_victim(directory, obj)
            if refused is None and obj.entries:
                refused = NotEmpty
            self.attempt(refused, lambda: self.twin.remove(directory, name))

    @rule(where=PICK, which=PICK, name=NAME)
    def remove_wrongly(self, where: int, which: int, name: bytes) -> None:
        """What is not there, or by the other call."""
        twin = self.twin
        if name not in twin.now.objs[self.directory(where)].entries:
            with pytest.raises((NotFound, NotPermitted)):
                twin.fs.unlink(twin.inode(self.directory(where)), name)
        found = self.entry(where, which)
        if found is not None:
            directory, name, obj = found
            call = twin.fs.unlink if obj.is_dir else twin.fs.rmdir
            with pytest.raises((IsADirectory, NotADirectory, NotPermitted)):
                call(twin.inode(directory), name)

    @rule(old=PICK, which=PICK, new=PICK, name=NAME, noreplace=st.booleans())
    def rename(self, old: int, which: int, new: int, name: bytes, noreplace: bool) -> None:
        """Give an object another name, over others, into itself, and all that is refused."""
        found = self.entry(old, which)
        if found is not None:
            old_dir, old_name, obj = found
            new_dir = self.directory(new)
            self.attempt(
                self.no_rename(old_dir, obj, new_dir, name, noreplace=noreplace),
                lambda: self.twin.rename(old_dir, old_name, new_dir, name, noreplace=noreplace),
            )

    @rule(one=PICK, which=PICK, two=PICK, other=PICK)
    def exchange(self, one: int, which: int, two: int, other: int) -> None:
        """Let two objects change names."""
        first, second = self.entry(one, which), self.entry(two, other)
        if first is None or second is None:
            return
        refused = self.no_victim(first[0], first[2]) or self.no_victim(second[0], second[2])
        if refused is None and first[2] is not second[2]:
            for obj, directory in ((first[2], second[0]), (second[2], first[0])):
                if obj.is_dir and obj.ino in self.twin.now.above(directory):
                    refused = InvalidError
        if refused is None and first[2] is second[2]:
            return
        self.attempt(refused, lambda: self.twin.exchange(first[0], first[1], second[0], second[1]))

    # Contents and attributes

    @rule(what=PICK, length=st.sampled_from(LENGTHS))
    def extend(self, what: int, length: int) -> None:
        """Write at the end."""
        obj = self.file(what)
        if obj is not None and len(obj.data) < max(OFFSETS):
            self.write(what, len(obj.data), length)

    @rule(what=PICK, offset=st.sampled_from(OFFSETS), length=st.sampled_from(LENGTHS))
    def write(self, what: int, offset: int, length: int) -> None:
        """Write at a border."""
        obj = self.file(what)
        if obj is not None:
            refused: Error | None = None
            if obj.uflags & UF_IMMUTABLE or (obj.uflags & UF_APPEND and offset < len(obj.data)):
                refused = NotPermitted
            self.attempt(refused, lambda: self.twin.write(obj.ino, offset, contents(self.rng, length)))

    @rule(what=PICK, size=st.sampled_from(SIZES))
    def truncate(self, what: int, size: int) -> None:
        """Cut a file, or make it longer."""
        obj = self.file(what)
        if obj is not None:
            refused = NotPermitted if obj.uflags & FIXED else None
            self.attempt(refused, lambda: self.twin.truncate(obj.ino, size))

    @rule(what=PICK, mode=st.integers(0, 0o7777), owner=st.sampled_from([None, 0, 1000, 0xFFFFFFFE]))
    def setattr(self, what: int, mode: int, owner: int | None) -> None:
        """Change mode and owner."""
        obj = self.pick(what)
        new = SetAttr(mode=mode, uid=owner, gid=owner)
        self.attempt(NotPermitted if obj.uflags & FIXED else None, lambda: self.twin.setattr(obj.ino, new))

    @rule(what=PICK, flags=st.sampled_from(FLAGS))
    def set_flags(self, what: int, flags: int) -> None:
        """Change flags: always allowed."""
        obj = self.pick(what)
        if obj.ino != 1:
            self.twin.setattr(obj.ino, SetAttr(uflags=flags))

    @rule(what=PICK, mtime=st.integers(0, 1 << 50))
    def set_times(self, what: int, mtime: int) -> None:
        """Times are those that were set, also after a flush and in another life."""
        obj = self.pick(what)
        if obj.uflags & FIXED:
            return
        twin = self.twin
        twin.setattr(obj.ino, SetAttr(mtime_us=mtime, atime_us=mtime + 1))
        if mtime % 3 == 0 and obj.nlink:
            twin.remount()
        attr = twin.inode(obj.ino).attr()
        assert (attr.mtime_us, attr.atime_us) == (mtime, mtime + 1)

    # Open objects

    @rule(what=PICK)
    def hold(self, what: int) -> None:
        """Open an object, or close it."""
        obj = self.pick(what)
        if obj.ino in self.twin.held:
            self.twin.release(obj.ino)
        else:
            self.twin.hold(obj.ino)

    @rule(where=PICK, which=PICK, name=NAME, take=st.integers(0, 5))
    def read_while_changing(self, where: int, which: int, name: bytes, take: int) -> None:
        """A directory is read in two parts, and changes in between: what stays is seen once."""
        twin, directory = self.twin, self.directory(where)
        before = set(twin.now.objs[directory].entries)
        got: list[bytes] = []
        last = 0
        for entry in twin.fs.readdir(twin.inode(directory)):
            if len(got) == take:
                break
            got.append(entry.name)
            last = entry.key
        self.remove(where, which)
        self.make(where, name, OBJTYPE_REGFILE)
        if directory not in twin.now.objs:
            return
        got += [entry.name for entry in twin.fs.readdir(twin.inode(directory), last)]
        stayed = before & set(twin.now.objs[directory].entries)
        assert {one: got.count(one) for one in stayed - {name}} == dict.fromkeys(stayed - {name}, 1)

    # Durability

    @rule(what=PICK)
    def fsync(self, what: int) -> None:
        """Make one object durable."""
        self.twin.fsync(self.pick(what).ino)

    @rule(seconds=st.integers(1, 10))
    def wait(self, seconds: int) -> None:
        """Time goes by; the next change may find that a flush is due."""
        self.clock.now += seconds * 1_000_000

    @rule()
    def sync(self) -> None:
        """Promise a TID."""
        self.twin.sync()

    @rule(whole=st.booleans())
    def end(self, whole: bool) -> None:
        """Another life, after closing or after a power cut."""
        if whole:
            self.twin.remount()
        else:
            self.twin.crash()

    # Checks

    @invariant()
    def agree(self) -> None:
        """The head, and two points in time."""
        if hasattr(self, "twin"):
            self.twin.check_head()
            self.twin.check_past(self.rng)

    def teardown(self) -> None:
        """The last end: fsck finds nothing, and a reader sees all there was."""
        if not hasattr(self, "twin"):
            return
        twin = self.twin
        for ino in list(twin.held):
            twin.release(ino)
        twin.sync()
        assert twin.fs.statfs().files == len(twin.now.objs)
        twin.fs.close()
        assert_sound(twin.media)
        skip = twin.forgetful.__contains__
        with HammerFS(plugged(twin.media)) as fs:
            assert_same(tree(fs), twin.now.tree())
            for tid, state in self.rng.sample(twin.history, min(3, len(twin.history))):
                if not twin.options.nohistory:
                    assert_same(tree(fs, tid, skip), state.tree(skip))

    # What is refused

    def attempt_new(self, directory: int, name: bytes, call: Callable[[], Any]) -> None:
        """Make a new object, unless there are enough."""
        if len(self.twin.now.objs) < MOST_OBJECTS:
            self.attempt(self.no_new(directory, name), call)

    def no_new(self, directory: int, name: bytes) -> Error | None:
        """Why a name can't come."""
        above = self.twin.now.objs[directory]
        if above.uflags & UF_IMMUTABLE:
            return NotPermitted
        if not above.nlink:
            return NotFound
        return ExistsError if name in above.entries else None

    def no_victim(self, directory: int, obj: Obj) -> Error | None:
        """Why a name can't go."""
        fixed = self.twin.now.objs[directory].uflags & FIXED or obj.uflags & (FIXED | UF_NOUNLINK)
        return NotPermitted if fixed else None

    def no_rename(self, old_dir: int, obj: Obj, new_dir: int, name: bytes, *, noreplace: bool) -> Error | None:
        """Why a rename can't be."""
        refused = self.no_victim(old_dir, obj)
        above = self.twin.now.objs[new_dir]
        if refused is None:
            refused = self.no_new(new_dir, b"")
        if refused is None and obj.is_dir and obj.ino in self.twin.now.above(new_dir):
            refused = InvalidError
        target = self.twin.now.objs.get(above.entries.get(name, 0))
        if refused is not None or target is None:
            return refused
        if noreplace:
            return ExistsError
        return None if target is obj else self.no_replace(obj, target, new_dir)

    def no_replace(self, obj: Obj, target: Obj, new_dir: int) -> Error | None:
        """Why one object can't take the place of another."""
        if obj.is_dir != target.is_dir:
            return NotADirectory if obj.is_dir else IsADirectory
        if target.uflags & (FIXED | UF_NOUNLINK):
            return NotPermitted
        if target.entries:
            return NotEmpty
        return self.no_victim(new_dir, target)

    def attempt(self, refused: Error | None, call: Callable[[], Any]) -> None:
        """Make a call that is refused for a reason, or is not."""
        if refused is None:
            call()
        else:
            with pytest.raises(refused):
                call()

    # Choices

    def pick(self, number: int) -> Obj:
        """Any object."""
        objs = self.twin.now.objs
        return objs[sorted(objs)[number % len(objs)]]

    def directory(self, number: int) -> int:
        """Any directory, removed ones that are open included."""
        found = sorted(ino for ino, obj in self.twin.now.objs.items() if obj.is_dir)
        return found[number % len(found)]

    def file(self, number: int) -> Obj | None:
        """Any regular file."""
        found = sorted(ino for ino, obj in self.twin.now.objs.items() if obj.is_file)
        return self.twin.now.objs[found[number % len(found)]] if found else None

    def entry(self, where: int, which: int) -> tuple[int, bytes, Obj] | None:
        """Any name of a directory that has some."""
        found = [
            (ino, name, self.twin.now.objs[below])
            for ino, obj in sorted(self.twin.now.objs.items())
            for name, below in sorted(obj.entries.items())
        ]
        return found[(where + which) % len(found)] if found else None


def test_the_first_flush_of_a_fresh_file_system_without_master_id() -> None:
    """Its TID is not that of the records newfs has made, which it changes."""
    twin = Twin(fresh(), WriteOptions(master_id=None, clock=Clock()))
    twin.setattr(1, SetAttr(mode=0o700))
    twin.sync()
    twin.check_head()
    twin.remount()
    assert_sound(twin.media)


def test_an_object_is_one_object_while_the_cache_of_inodes_is_full() -> None:
    """An inode that had to go between being found and being changed is the one that is found from then on."""
    twin = Twin(fresh(), WriteOptions(clock=Clock()))
    inos = [twin.make(1, b"f%d" % n, OBJTYPE_REGFILE) for n in range(12)]
    twin.sync()
    inode = twin.inode(inos[0])
    twin.fs.inodes.drop()
    twin.fs.write(inode, 0, b"kept")
    assert twin.inode(inos[0]) is inode
    assert twin.fs.read(twin.fs.resolve(b"/f0"), 0, 10) == b"kept"
    twin.fs.close()


@pytest.mark.parametrize("version", [1, 7])
def test_a_file_with_bytes_far_apart(version: int) -> None:
    """Up to the last byte that can be written; between them it reads as zeros, behind a cut too."""
    twin = Twin(fresh(version), WriteOptions(clock=Clock()))
    fs = twin.fs
    inode = fs.create(fs.root(), b"sparse")
    places = [5, 1 << 33, (1 << 40) + 7, (1 << 62) - 3, MAX_WRITTEN - 10]
    for number, place in enumerate(places):
        fs.write(inode, place, b"bytes%d" % number)
    with pytest.raises(FileTooBig):
        fs.write(inode, MAX_WRITTEN - 5, b"bytes5")
    tid = fs.sync()
    fs.truncate(inode, (1 << 62) + 1)
    fs.write(inode, 1 << 33, bytes(200_000))
    fs.sync()
    fs.truncate(inode, 1 << 62)
    fs.truncate(inode, MAX_FILE_SIZE)
    twin.fs.close()
    with HammerFS(plugged(twin.media)) as reader:
        old, new = reader.resolve(b"/@@0x%016x/sparse" % tid), reader.resolve(b"/sparse")
        assert [reader.read(old, place - 1, 7) for place in places] == [b"\0bytes%d" % n for n in range(5)]
        assert (old.size, new.size) == (MAX_WRITTEN - 4, MAX_FILE_SIZE)
        assert reader.read(new, (1 << 62) - 4, 8) == b"\0byt\0\0\0\0"
        assert reader.read(new, (1 << 33) - 1, 8) == bytes(8)
        assert reader.read(new, MAX_FILE_SIZE - 12, 20) == bytes(12)
        assert reader.data_bytes(new) < 1 << 20
    assert_sound(twin.media)


def test_fs_machine() -> None:
    run_state_machine_as_test(FsMachine, settings=settings(quick(250), stateful_step_count=60))


@pytest.mark.long
@pytest.mark.parametrize("part", range(4))
def test_fs_machine_long(part: int) -> None:
    run_state_machine_as_test(FsMachine, settings=settings(deep(250), stateful_step_count=60))
