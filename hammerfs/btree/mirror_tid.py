"""mirror_tid: every element of an internal node bounds the TIDs below it, so that mirroring skips what is unchanged."""

from __future__ import annotations

from hammerfs.btree.edit import Editor, Path, elm_mirror_tid
from hammerfs.btree.node import Node


def raise_mirror_tid(editor: Editor, path: Path, leaf: Node, tid: int, *, climb: bool) -> None:
    """Make `tid` known in a leaf whose mirror_tid is lower, and upwards to the first place that knows it.

    All nodes are touched before one is changed.

    Args:
        editor: Changes nodes.
        path: What lies above the leaf.
        leaf: The leaf.
        tid: The TID.
        climb: Whether the nodes above are told (they are not under ``nomirror``).
    """
    known = 0
    if climb:
        while known < len(path):
            parent, i = path[-1 - known]
            if elm_mirror_tid(parent, i) >= tid:
                break
            editor.touch(parent)
            known += 1
            if parent.mirror_tid >= tid:
                break
    editor.touch(leaf)
    for parent, i in path[len(path) - known :]:
        editor.set_elm_mirror_tid(parent, i, tid)
        if parent.mirror_tid < tid:
            editor.set_mirror_tid(parent, tid)
    editor.set_mirror_tid(leaf, tid)
