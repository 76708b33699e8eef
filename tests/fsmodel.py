"""A file system and, beside it, what it should hold: plain objects that every call changes as well.

`Twin` makes each call on both. It knows what a power cut must leave: the state that the newest flush has put on the
media, and the contents of files that were fsynced since.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from random import Random

from hammerfs.changes import WriteOptions
from hammerfs.const import (
    OBJTYPE_DIRECTORY,
    OBJTYPE_REGFILE,
    OBJTYPE_SOFTLINK,
    SF_NOHISTORY,
    UF_NOHISTORY,
    UFLAGS_INHERITED,
)
from hammerfs.device.base import Device
from hammerfs.filewrite import SetAttr
from hammerfs.inode import Inode
from hammerfs.namespace import Owner
from hammerfs.rw import WritableFS
from tests.enginelab import Node, Tree, abandon, assert_same, mount, node_of, tree

_NOHISTORY = UF_NOHISTORY | SF_NOHISTORY


@dataclass(eq=False)
class Obj:
    """One object. Objects are never changed in place where a `State` may share them: see `State.edit`."""

    ino: int
    obj_type: int
    mode: int
    uid: int = 0
    gid: int = 0
    uflags: int = 0
    nlink: int = 1
    data: bytes = b""
    rdev: tuple[int, int] = (0, 0)
    entries: dict[bytes, int] = field(default_factory=dict)
    parent: int = 0

    @property
    def is_dir(self) -> bool:
        return self.obj_type == OBJTYPE_DIRECTORY

    @property
    def is_file(self) -> bool:
        return self.obj_type == OBJTYPE_REGFILE

    @property
    def node(self) -> Node:
        return Node(
            self.obj_type, self.mode, self.uid, self.gid, self.uflags, self.nlink if not self.is_dir else 1,
            self.data, self.rdev,
        )  # fmt: skip


class State:
    """All objects by id. A copy costs one dict: objects are shared until they are edited."""

    def __init__(self, objs: dict[int, Obj]) -> None:
        self.objs = objs

    def copy(self) -> State:
        return State(dict(self.objs))

    def edit(self, ino: int) -> Obj:
        """An object to change, which no copy shares."""
        old = self.objs[ino]
        new = self.objs[ino] = replace(old, entries=dict(old.entries))
        return new

    def tree(self, skip: Callable[[int], bool] | None = None) -> Tree:
        """As `enginelab.tree`."""
        found: Tree = {b"": self.objs[1].node}
        todo = [(b"", 1)]
        while todo:
            path, ino = todo.pop()
            if skip is not None and skip(ino):
                continue
            for name, below in self.objs[ino].entries.items():
                if skip is None or not skip(below):
                    found[path + b"/" + name] = self.objs[below].node
                    if self.objs[below].is_dir:
                        todo.append((path + b"/" + name, below))
        return found

    def above(self, ino: int) -> Iterator[int]:
        """A directory and all above it."""
        while ino:
            yield ino
            ino = self.objs[ino].parent

    def bury(self, held: set[int]) -> None:
        """Objects without a name that nobody has open are gone."""
        for ino in [ino for ino, obj in self.objs.items() if not obj.nlink and ino not in held]:
            del self.objs[ino]

    def with_contents(self, contents: dict[int, bytes]) -> State:
        """With the contents of some files replaced: what fsync promised beyond the newest flush."""
        state = self.copy()
        for ino, data in contents.items():
            if ino in state.objs:
                state.edit(ino).data = data
        return state


class Twin:
    """A file system on some media, and its model.

    Args:
        media: The media of a fresh file system.
        options: How to write.
    """

    def __init__(self, media: Sequence[Device], options: WriteOptions) -> None:
        self.media = list(media)
        self.options = options
        self.fs: WritableFS = mount(self.media, options)
        root = self.fs.root().attr()
        self.now = State({1: Obj(1, OBJTYPE_DIRECTORY, root.mode & 0o7777, root.uid, root.gid, root.uflags)})
        self.durable = self.now.copy()
        """What the newest flush has put on the media."""
        self.fsynced: dict[int, bytes] = {}
        """Contents of files logged since."""
        self.held: dict[int, Inode] = {}
        self.history: list[tuple[int, State]] = []
        """TIDs promised, and the state as of them."""
        self.forgetful: set[int] = set()
        """Objects that at some time had no history."""
        self._flushes = 0

    # Calls

    def inode(self, ino: int) -> Inode:
        """The object of the file system."""
        return self.held[ino] if ino in self.held else self.fs.iget(0, ino)

    def make(
        self, directory: int, name: bytes, obj_type: int, *, mode: int = 0o644, target: bytes = b"",
        rdev: tuple[int, int] = (0, 0), uid: int = 0,
    ) -> int:  # fmt: skip
        """A new object of any type; returns its id."""
        above, owner = self.inode(directory), Owner(uid, None, mode)
        if obj_type == OBJTYPE_DIRECTORY:
            inode = self.fs.mkdir(above, name, owner)
        elif obj_type == OBJTYPE_SOFTLINK:
            inode = self.fs.symlink(above, name, target, owner)
        elif obj_type == OBJTYPE_REGFILE:
            inode = self.fs.create(above, name, owner)
        else:
            inode = self.fs.mknod(above, name, obj_type, owner, rdev)
        parent = self.now.edit(directory)
        parent.entries[name] = inode.obj_id
        uflags = parent.uflags & UFLAGS_INHERITED
        self.now.objs[inode.obj_id] = Obj(
            inode.obj_id, obj_type, mode, uid, parent.gid, uflags, 1, target, rdev, {}, directory
        )
        if uflags & _NOHISTORY:
            self.forgetful.add(inode.obj_id)
        self.done()
        return inode.obj_id

    def link(self, ino: int, directory: int, name: bytes) -> None:
        """One more name."""
        self.fs.link(self.inode(ino), self.inode(directory), name)
        self.now.edit(directory).entries[name] = ino
        self.now.edit(ino).nlink += 1
        self.done()

    def remove(self, directory: int, name: bytes) -> None:
        """Unlink or rmdir."""
        ino = self.now.objs[directory].entries[name]
        call = self.fs.rmdir if self.now.objs[ino].is_dir else self.fs.unlink
        assert call(self.inode(directory), name).obj_id == ino
        self._drop(directory, name)
        self.now.bury(set(self.held))
        self.done()

    def rename(self, old_dir: int, old: bytes, new_dir: int, new: bytes, *, noreplace: bool = False) -> None:
        """Give an object another name; it must be allowed."""
        ino, target = self.now.objs[old_dir].entries[old], self.now.objs[new_dir].entries.get(new)
        self.fs.rename(self.inode(old_dir), old, self.inode(new_dir), new, noreplace=noreplace)
        if target != ino:
            if target is not None:
                self._drop(new_dir, new)
            del self.now.edit(old_dir).entries[old]
            self.now.edit(new_dir).entries[new] = ino
            self.now.edit(ino).parent = new_dir
            self.now.bury(set(self.held))
        self.done()

    def exchange(self, old_dir: int, old: bytes, new_dir: int, new: bytes) -> None:
        """Let two objects change names."""
        self.fs.exchange(self.inode(old_dir), old, self.inode(new_dir), new)
        first, second = self.now.objs[old_dir].entries[old], self.now.objs[new_dir].entries[new]
        self.now.edit(old_dir).entries[old] = second
        self.now.edit(new_dir).entries[new] = first
        self.now.edit(first).parent = new_dir
        self.now.edit(second).parent = old_dir
        self.done()

    def write(self, ino: int, offset: int, data: bytes) -> None:
        """Write to a file."""
        assert self.fs.write(self.inode(ino), offset, data) == len(data)
        obj = self.now.edit(ino)
        if data:
            obj.data = obj.data[:offset].ljust(offset, b"\0") + data + obj.data[offset + len(data) :]
        self.done()

    def truncate(self, ino: int, size: int) -> None:
        """Set the size of a file."""
        self.fs.truncate(self.inode(ino), size)
        obj = self.now.edit(ino)
        obj.data = obj.data[:size].ljust(size, b"\0")
        self.done()

    def setattr(self, ino: int, new: SetAttr) -> None:
        """Change attributes but the size; times are not part of the model."""
        self.fs.setattr(self.inode(ino), new)
        obj = self.now.edit(ino)
        for name in ("mode", "uid", "gid", "uflags"):
            value = getattr(new, name)
            if value is not None:
                setattr(obj, name, value)
        if obj.uflags & _NOHISTORY:
            self.forgetful.add(ino)
        self.done()

    def hold(self, ino: int) -> None:
        """Open an object."""
        inode = self.inode(ino)
        self.fs.hold(inode)
        self.held[ino] = inode

    def release(self, ino: int) -> None:
        """Close it."""
        inode = self.held.pop(ino)
        self.fs.release(inode)
        self.now.bury(set(self.held))
        self.done()

    def fsync(self, ino: int) -> None:
        """Make an object durable, unless the mount ignores it."""
        logs = self.fs.flusher.logs
        self.fs.fsync(self.inode(ino))
        while not self.fs.host.run():  # a flush that was only started
            pass
        if self.fs.flusher.logs > logs:
            self.fsynced[ino] = self.now.objs[ino].data
        self.done()

    def sync(self) -> int:
        """Make everything durable; the TID joins the history."""
        tid = self.fs.sync()
        self.done()
        assert self.durable.tree() == self.now.tree()
        self.history.append((tid, self.now.copy()))
        return tid

    # Lives

    def remount(self, media: Sequence[Device] | None = None) -> None:
        """Close and open again, perhaps on other devices that hold the same."""
        for ino in list(self.held):
            self.release(ino)
        self.fs.close()
        self.media = list(media or self.media)
        self._opened(self.now)

    def crash(self) -> None:
        """Pull the plug and recover."""
        abandon(self.fs)
        self.held.clear()
        self._opened(self.durable.with_contents(self.fsynced))

    def _opened(self, state: State) -> None:
        state = state.copy()
        state.bury(set())
        self.fs = mount(self.media, self.options)
        self.now, self.durable = state, state.copy()
        self.fsynced, self._flushes = {}, self.fs.flusher.flushes

    def done(self) -> None:
        """A call has returned: it may have made a flush."""
        flushes = self.fs.flusher.flushes
        if flushes != self._flushes:
            self._flushes = flushes
            self.durable = self.now.copy()
            self.fsynced.clear()

    # Checks

    def check_head(self) -> None:
        """The file system shows what the model holds, objects without a name too."""
        assert_same(tree(self.fs), self.now.tree())
        for ino, inode in self.held.items():
            node, want = node_of(self.fs, inode), self.now.objs[ino].node
            assert node == want

    def check_asof(self, tid: int, state: State) -> None:
        """As of a TID everything is as it was, but for what had no history."""
        skip = self.forgetful.__contains__ if self.forgetful else None
        assert_same(tree(self.fs, tid, skip), state.tree(skip))

    def check_past(self, rng: Random, count: int = 2) -> None:
        """Some promised TIDs; nothing on a mount without history."""
        if self.history and not self.options.nohistory:
            for tid, state in rng.sample(self.history, min(count, len(self.history))):
                self.check_asof(tid, state)

    def _drop(self, directory: int, name: bytes) -> None:
        ino = self.now.edit(directory).entries.pop(name)
        self.now.edit(ino).nlink -= 1


def contents(rng: Random, nbytes: int) -> bytes:
    """Random bytes, also many of them, in no time: a page of them repeated, each with its number."""
    page = rng.randbytes(min(nbytes, 4093))
    return (page * (nbytes // len(page) + 1))[:nbytes] if page else b""
