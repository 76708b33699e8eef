"""Extended attributes of a mount with ``-o xattr``: what HAMMER knows of an object, as text.

The media has none of its own, so there are no others.
"""

from __future__ import annotations

from hammerfs.addr import tid_text
from hammerfs.errors import NotPermitted, UnsupportedError
from hammerfs.inode import Inode
from hammerfs.uflags import SUPERUSER_FLAGS, changed_flags, flag_names
from hammerfs.vfs.node import Node, ObjectNode
from hammerfs.vfs.vfs import Vfs

_PREFIX = b"user.hammer."
UFLAGS = _PREFIX + b"uflags"
"""The one that can be set."""


def xattrs(vfs: Vfs, node: Node) -> dict[bytes, bytes]:
    """The attributes of an object by name; virtual objects have none.

    ``tid`` is the last change that the view shows, ``versions`` the number of changes up to it; what has not been
    flushed has neither yet.

    Raises:
        CorruptError: The object is damaged.
        BufferMiss: As `BufferCache.bread`.
    """
    if not isinstance(node, ObjectNode):
        return {}
    inode = vfs.inode(node)
    found = {
        b"objid": tid_text(inode.obj_id),
        b"pfs": str(inode.pfs_id),
        b"uflags": ",".join(flag_names(inode.data.uflags)),
    }
    tids = [moment.tid for moment in vfs.fs.history(inode) if moment.tid <= inode.asof]
    if tids:
        found |= {b"tid": tid_text(tids[-1]), b"versions": str(len(tids))}
    return {_PREFIX + name: text.encode("ascii") for name, text in found.items()}


def is_ours(name: bytes) -> bool:
    """Whether a name can be one of `xattrs`."""
    return name.startswith(_PREFIX)


def new_uflags(inode: Inode, name: bytes, value: bytes, uid: int) -> int:
    """The flags an object gets when an attribute is set: those the text names, and no others.

    Args:
        inode: The object.
        name: The attribute.
        value: Names of flags with commas between them; empty clears all.
        uid: Who asks.

    Raises:
        UnsupportedError: Any other attribute: HAMMER stores none.
        NotPermitted: Not the owner; or root's flags, and not root.
        UsageError: An unknown flag.
    """
    if name != UFLAGS:
        raise UnsupportedError("only user.hammer.uflags can be set", **inode.place)
    words = [word for word in value.decode("ascii", "replace").split(",") if word]
    before = inode.data.uflags
    unnamed = before & ~changed_flags(0, flag_names(before))
    uflags = changed_flags(unnamed, words)
    if uid and (uid != inode.attr().uid or (before ^ uflags | before) & SUPERUSER_FLAGS):
        raise NotPermitted("flags are for the owner, and root's for root", **inode.place)
    return uflags
