"""Rebalancing: the nodes of the tree are filled evenly, so that there are fewer of them."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass

from hammerfs.btree.node import Node
from hammerfs.changes import SLOP_REBLOCK
from hammerfs.const import INT_ELMS
from hammerfs.keys import Key
from hammerfs.maint.sweep import Step, forget_places, pfs_keys, sweep
from hammerfs.rw import WritableFS


@dataclass
class RebalanceStats:
    """What a rebalancing has done."""

    nodes: int = 0
    """Children looked at."""
    removed: int = 0
    rebalanced: int = 0
    """Children that hold other elements than before."""


class Rebalance:
    """A pass over the internal nodes that hold a PFS, lowest level first where a subtree is complete.

    Args:
        fs: The file system.
        pfs_id: The PFS.
        percent: How full nodes are to be, of the most elements an internal node has.
    """

    def __init__(self, fs: WritableFS, pfs_id: int, percent: int) -> None:
        self._fs = fs
        self.saturation = INT_ELMS * percent // 100
        self.start, self._end = pfs_keys(pfs_id)
        self.stats = RebalanceStats()
        self._upper: list[tuple[Key, int, int]] = []
        """Nodes above that are to be done next: a key, the height, the index of the child to go on with."""

    async def run(self, start: Key | None, seconds: float) -> Key | None:
        """Go on for a while.

        Returns:
            Where to go on; None at the end.

        Raises:
            NoSpace: The volumes are too full.
            HammerError: The tree is damaged, or the media failed.
        """
        at = await sweep(self._fs, self._step, start or self.start, seconds)
        while at is not None and self._upper:  # those of the part that has been gone over
            at = await sweep(self._fs, self._step, at, 0)
        forget_places(self._fs)
        return at

    def _step(self, at: Key) -> Step:
        """One node above leaves, or a part of the children of one above such."""
        self._fs.changes.check_space(SLOP_REBLOCK)
        if self._upper:
            key, height, first = self._upper.pop()
            changed, index = self._repack(key, height, first)
            if index is not None:
                self._upper.append((key, height, index))
            return Step(at if at < self._end or self._upper else None, changed)
        if at >= self._end:
            return Step(None, False)
        path = self._path(at)
        if not path:
            return Step(None, False)
        right = self._right_of(path)
        changed, _ = self._repack(at, 1, 0)
        for height, (above, below) in enumerate(zip(path[-2::-1], path[:0:-1], strict=True), 2):
            last = above.kids[above.count - 1]
            if (last if isinstance(last, int) else last.off) != below.off:
                break
            self._upper.insert(0, (at, height, 0))
        return Step(right if right < self._end or self._upper else None, changed)

    def _repack(self, key: Key, height: int, first: int) -> tuple[bool, int | None]:
        """Whether something changed, and where to go on in the same node."""
        node = self._path(key)[-height]
        if first >= node.count:
            return False, None
        done = self._fs.backend.tree.repack(node, first, self.saturation)
        self.stats.nodes += done.scanned
        self.stats.removed += done.removed
        self.stats.rebalanced += done.changed
        return done.changed > 0, done.following if done.following < node.count else None

    def _path(self, key: Key) -> list[Node]:
        """The internal nodes above the leaf of a key, or above that which follows it in a gap between boundaries."""
        tree = self._fs.tree
        node, path = tree.root(), []
        while not node.is_leaf:
            path.append(node)
            node = tree.child(node, min(max(bisect_right(node.keys, key) - 1, 0), node.count - 1))
        return path

    def _right_of(self, path: list[Node]) -> Key:
        """The first key behind the lowest node of a path."""
        node = path[-1]
        return max(node.right, node.keys[node.count])
