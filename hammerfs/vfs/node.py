"""Nodes: what a name on a mount stands for. Objects of HAMMER seen in a view, and virtual directories and links."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

from hammerfs.vfs.number import object_number

if TYPE_CHECKING:
    from collections.abc import Iterable


class View:
    """The tree of one PFS at one point in time, entered by one way.

    Args:
        pfs_id: The PFS.
        asof: The point in time, MAX_TID for the head.
        way: Number of the name it was entered by; 0 for the mount's own tree.
        has_snapdir: Whether its root holds the virtual directory of snapshots.
    """

    __slots__ = ("asof", "has_snapdir", "pfs_id", "way")

    def __init__(self, pfs_id: int, asof: int, way: int = 0, *, has_snapdir: bool = False) -> None:
        self.pfs_id = pfs_id
        self.asof = asof
        self.way = way
        self.has_snapdir = has_snapdir


class Node:
    """Anything with an inode number.

    Args:
        number: The inode number.
    """

    __slots__ = ("number",)

    def __init__(self, number: int) -> None:
        self.number = number


class ObjectNode(Node):
    """An object of HAMMER.

    Args:
        number: The inode number.
        view: The tree it was found in.
        pfs_id: Its PFS.
        obj_id: Its object id.
        asof: Its point in time.
    """

    __slots__ = ("asof", "obj_id", "pfs_id", "view")

    def __init__(self, number: int, view: View, pfs_id: int, obj_id: int, asof: int) -> None:
        super().__init__(number)
        self.view = view
        self.pfs_id = pfs_id
        self.obj_id = obj_id
        self.asof = asof


class VirtualDir(Node, ABC):
    """A directory that is on no volume. Its mode is 0555, its owner and times are those of the object it belongs to.

    Args:
        number: The inode number.
        owner: The object it belongs to.
    """

    __slots__ = ("owner",)

    def __init__(self, number: int, owner: ObjectNode) -> None:
        super().__init__(number)
        self.owner = owner

    @abstractmethod
    def lookup(self, name: bytes) -> Node:
        """The node under a name.

        Raises:
            NotFound: No such name.
            HammerError: What it stands for is damaged.
            BufferMiss: As `BufferCache.bread`, or to let others run.
        """

    @abstractmethod
    def names(self) -> Iterable[bytes]:
        """The names it lists, in their order.

        Raises:
            HammerError: They can't be found out.
            BufferMiss: As `lookup`.
        """


class VirtualLink(Node):
    """A symbolic link that is on no volume.

    Args:
        number: The inode number.
        owner: The object it belongs to.
        target: Where it leads.
    """

    __slots__ = ("owner", "target")

    def __init__(self, number: int, owner: ObjectNode, target: bytes) -> None:
        super().__init__(number)
        self.owner = owner
        self.target = target


def number_in(view: View, main: View, pfs_id: int, obj_id: int, asof: int, *, is_dir: bool, epoch: int = 0) -> int:
    """Inode number of an object found in `view` of a mount whose own tree is `main`; `epoch`: see `object_number`."""
    if (pfs_id, asof) == (main.pfs_id, main.asof) and (not is_dir or not view.way):
        return obj_id
    return object_number(pfs_id, obj_id, asof, view.way if is_dir else 0, epoch)
