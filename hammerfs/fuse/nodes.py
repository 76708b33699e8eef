"""The nodes the kernel knows, by number, with its look-up counts; and the attributes it was given lately.

Attributes outlive the kernel's interest: it forgets nodes sooner than we have to, and asks again.
"""

from __future__ import annotations

import pyfuse3

from hammerfs.const import MAX_TID
from hammerfs.vfs.node import Node, ObjectNode

ATTRS_KEPT = 40_000
"""Attributes kept; some 12 MB."""


class NodeTable:
    """What the kernel holds references to, and the root, which it never forgets.

    Args:
        root: Root of the mount.
    """

    __slots__ = ("_attrs", "_counts", "_nodes", "_root")

    def __init__(self, root: Node) -> None:
        self._root = root.number
        self._nodes: dict[int, Node] = {root.number: root}
        self._counts: dict[int, int] = {}
        self._attrs: dict[int, pyfuse3.EntryAttributes] = {}

    def __len__(self) -> int:
        return len(self._nodes)

    def get(self, number: int) -> Node | None:
        """The node with a number, if the kernel knows it."""
        return self._nodes.get(number)

    def attrs(self, number: int) -> pyfuse3.EntryAttributes | None:
        """Attributes of a node, if they were made lately and have not changed since."""
        return self._attrs.get(number)

    def keep_attrs(self, number: int, attrs: pyfuse3.EntryAttributes) -> None:
        """Remember attributes."""
        self._attrs[number] = attrs

    def forget_attrs(self, number: int) -> None:
        """The attributes of a node have changed."""
        self._attrs.pop(number, None)

    def forget_all_attrs(self) -> None:
        """The attributes of some node have changed."""
        self._attrs.clear()

    def numbers_of(self, pfs_id: int, obj_id: int) -> list[int]:
        """Numbers under which the kernel knows an object as it is now."""
        wanted = pfs_id, obj_id, MAX_TID
        return [
            number
            for number, node in self._nodes.items()
            if isinstance(node, ObjectNode) and (node.pfs_id, node.obj_id, node.asof) == wanted
        ]

    def looked_up(self, node: Node, attrs: pyfuse3.EntryAttributes) -> None:
        """The kernel is given one more reference."""
        number = node.number
        self._counts[number] = self._counts.get(number, 0) + 1
        self._nodes[number] = node
        if len(self._attrs) >= ATTRS_KEPT:
            self._attrs.clear()
        self._attrs[number] = attrs

    def forget(self, number: int, count: int) -> None:
        """The kernel gives references back."""
        left = self._counts.get(number, 0) - count
        if left > 0:
            self._counts[number] = left
            return
        self._counts.pop(number, None)
        if number != self._root:
            self._nodes.pop(number, None)
