"""Taking empty nodes out of the tree. Nothing is merged or balanced."""

from __future__ import annotations

from hammerfs.btree.edit import Editor, Path
from hammerfs.btree.node import Node


def remove_empty(editor: Editor, path: Path, leaf: Node) -> None:
    """Remove a leaf without elements, and the nodes above it that have no other child.

    The root stays: as an empty leaf when nothing else is left.

    Args:
        editor: Changes nodes.
        path: What lies above the leaf.
        leaf: The leaf.
    """
    gone = [leaf]
    depth = len(path)
    while depth and path[depth - 1][0].count == 1:
        depth -= 1
        gone.append(path[depth][0])
    for node in gone:
        editor.touch(node)
    if depth:
        parent, i = path[depth - 1]
        editor.touch(parent)
        editor.unlink(parent, i)
    else:
        editor.clear(gone.pop())
    for node in gone:
        editor.retire(node)
