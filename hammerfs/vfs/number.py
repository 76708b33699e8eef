"""Inode numbers: one for each object, PFS and point in time that one mount shows.

The mount's own tree shows object ids. Everything else gets a number with the top bit set (object ids never have it),
made from what it is: the same at every mount. A file has one number on every way to it. A directory has one for each
way into its tree, since the kernel allows a directory one place only: else ``@@0x...`` in a directory of that same
moment would be its own parent, and two ways to one moment would fight for it.
"""

from __future__ import annotations

from hashlib import blake2b
from struct import Struct

ROOT_NUMBER = 1
"""The root directory of the mount; the object id of every PFS's root as well."""
_OTHER = 1 << 63
_IDENT = Struct("<QQQQ")


def object_number(pfs_id: int, obj_id: int, asof: int, way: int = 0, epoch: int = 0) -> int:
    """Number of an object outside the mount's own tree.

    Args:
        pfs_id: Its PFS.
        obj_id: Its object id.
        asof: Its point in time.
        way: For a directory the number of the way into its tree; 0 for all else.
        epoch: How often the PFS has become another one under the same id.
    """
    ident = _IDENT.pack(pfs_id | epoch << 16, obj_id & 0xFFFFFFFFFFFFFFFF, asof, way)
    return int.from_bytes(blake2b(ident, digest_size=8).digest(), "little") | _OTHER


def way_number(parent: int, name: bytes) -> int:
    """Number of what stands under a virtual name in the directory with the number `parent`."""
    digest = blake2b(name, digest_size=8, key=parent.to_bytes(8, "little")).digest()
    return int.from_bytes(digest, "little") | _OTHER
