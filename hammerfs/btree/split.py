"""Splitting full nodes: the right part moves to a new node, which is linked behind the old one."""

from __future__ import annotations

from bisect import bisect_right

from hammerfs.btree.edit import COUNT_AT, Editor, Path, elm_base
from hammerfs.btree.node import Node
from hammerfs.const import BTREE_TYPE_INTERNAL, BTREE_TYPE_LEAF, ELM_SIZE, NODE_HEADER, TID_INFINITE
from hammerfs.keys import Key
from hammerfs.ondisk.node import BaseElm


def split_leaf(editor: Editor, path: Path, leaf: Node, index: int, key: Key) -> tuple[Node, int]:
    """Split a full leaf.

    Args:
        editor: Changes nodes.
        path: What lies above it, no node of it full; on return what lies above the leaf that is returned.
        leaf: The leaf.
        index: Where an element will be inserted.
        key: Its key.

    Returns:
        The leaf that takes the element, and the index there.
    """
    split = _split_index(leaf, leaf.count, at_end=index == leaf.count)
    parent, at = _parent(editor, path, leaf)
    mv = editor.touch(leaf)
    editor.touch(parent)
    bound = separator(leaf.key_at(split - 1), leaf.key_at(split))
    grown = editor.new_node(BTREE_TYPE_LEAF, bound, leaf.right, mirror_tid=leaf.mirror_tid, parent=parent.off)
    _move_elms(leaf, split, leaf.count, grown)
    grown.count = grown.mv[COUNT_AT] = leaf.count - split
    leaf.count = mv[COUNT_AT] = split
    if leaf.keys:
        grown.keys = leaf.keys[split:]
        del leaf.keys[split:]
    leaf.right = bound
    editor.link(parent, at + 1, _bound_base(bound).encode(), grown)
    if index > split or (index == split and key >= bound):
        path[-1] = (parent, at + 1)
        return grown, index - split
    path[-1] = (parent, at)
    return leaf, index


def split_internal(editor: Editor, path: Path, node: Node, key: Key) -> Node:
    """Split a full internal node on the way down.

    Args:
        editor: Changes nodes.
        path: What lies above it, no node of it full; on return what lies above the node that is returned.
        node: The node.
        key: Where the descent goes.

    Returns:
        The half in which it goes on.
    """
    count = node.count
    index = min(max(bisect_right(node.keys, key) - 1, 0), count - 1)
    split = _split_index(node, count, at_end=index == count - 1)
    if split == (count + 1) // 2 and index <= split:
        split -= 1
    moved = [editor.tree.child(node, i) for i in range(split, count)]
    parent, at = _parent(editor, path, node)
    for touched in (node, parent, *moved):
        editor.touch(touched)
    grown = editor.new_node(
        BTREE_TYPE_INTERNAL, node.keys[split], node.right, mirror_tid=node.mirror_tid, parent=parent.off
    )
    _move_elms(node, split, count + 1, grown)
    grown.keys, grown.kids = node.keys[split:], node.kids[split:]
    base = elm_base(node, split)
    editor.end_at(grown, count - split)
    editor.end_at(node, split)
    node.right = node.keys[split]
    editor.link(parent, at + 1, base, grown)
    for child in moved:
        editor.set_parent(child, grown.off)
    path[-1] = (parent, at + (index >= split))
    return grown if index >= split else node


def separator(left: Key, right: Key) -> Key:
    """A boundary between two neighbours: the first field that differs is halfway between, the rest is the right one's.

    Returns:
        A key above `left` and not above `right`.
    """
    fields = list(right)
    for i in range(4):
        if left[i] != right[i]:
            fields[i] = left[i] + ((right[i] - left[i] + 1) >> 1)
            break
    localization, obj_id, rec_type, key, create_tid = fields
    return localization, obj_id, rec_type, key, create_tid


def _split_index(node: Node, count: int, *, at_end: bool) -> int:
    """First element that moves: growth at the end leaves the old node fuller, once."""
    if at_end and not node.appended:
        node.appended = True
        return (count + 1) * 3 // 4
    return (count + 1) // 2


def _parent(editor: Editor, path: Path, node: Node) -> tuple[Node, int]:
    """The node above, a new root if there is none."""
    if not path:
        path.append((editor.new_root(node), 0))
    return path[-1]


def _move_elms(node: Node, first: int, end: int, grown: Node) -> None:
    """Copy elements first..end-1 to the start of a new node."""
    size = (end - first) * ELM_SIZE
    at = NODE_HEADER + first * ELM_SIZE
    grown.mv[NODE_HEADER : NODE_HEADER + size] = node.raw[at : at + size]


def _bound_base(bound: Key) -> BaseElm:
    localization, obj_id, rec_type, key, create_tid = bound
    return BaseElm(obj_id, key, create_tid % TID_INFINITE, 0, rec_type, 0, 0, localization)
