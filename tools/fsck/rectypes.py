"""What each record type asks for: inodes, directory entries, file data, targets of symbolic links."""

from __future__ import annotations

from collections.abc import Callable

from hammerfs.addr import pfs_of
from hammerfs.const import (
    BUFMASK,
    BUFSIZE,
    CAP_DIR_LOCAL_INO,
    CAP_DIRHASH_ALG1,
    CAP_DIRHASH_MASK,
    FIXKEY_SYMLINK,
    HBUFSIZE,
    LOCALIZE_INODE,
    LOCALIZE_MASK,
    MAX_FILE_SIZE,
    MAX_NAME,
    MAX_SYMLINK,
    OBJTYPE_DBFILE,
    OBJTYPE_DIRECTORY,
    OBJTYPE_REGFILE,
    OBJTYPE_SOFTLINK,
    OFF_LONG_MASK,
    RECTYPE_CONFIG,
    RECTYPE_DATA,
    RECTYPE_DB,
    RECTYPE_DIRENTRY,
    RECTYPE_EXT,
    RECTYPE_FIX,
    RECTYPE_INODE,
    RECTYPE_PERM,
    RECTYPE_PFS,
    RECTYPE_SNAPSHOT,
    XBUFSIZE,
    XDEMARC,
)
from hammerfs.errors import HammerError
from hammerfs.inode import TYPE_MODES
from hammerfs.keys import namekey0, namekey1
from hammerfs.ondisk.records import (
    DIRENTRY,
    DIRENTRY_HEAD,
    INODE,
    INODE_CRC_SIZE,
    INODE_SIZE,
    INODE_SYMLINK_MAX,
    INODE_VERSION,
)
from tools.fsck.context import Context
from tools.fsck.objects import Entries, Object, Objects
from tools.fsck.phase_pfs import Elm, PfsChecks

_BUFSHIFT = BUFSIZE.bit_length() - 1
_FILES = frozenset({OBJTYPE_REGFILE, OBJTYPE_DBFILE})
_DIR_CAPS = frozenset(
    local | algorithm for local in (0, CAP_DIR_LOCAL_INO) for algorithm in range(CAP_DIRHASH_ALG1 + 1)
)
"""Capability bits that directories can have; all else has none."""
_NO_CAPS = frozenset({0})
_WINDOW0, _WINDOW1 = 0xFFFFFFFF, 0xFFFFFF
"""How far from its hash a name may be kept, by algorithm."""
_NO_NAMES = frozenset({b".", b".."})


class TypeChecks:
    """Checks records of all types, which come in tree order.

    Args:
        ctx: The check.
        pfss: Takes objects, entries, PFSs and snapshots.
    """

    def __init__(self, ctx: Context, pfss: PfsChecks) -> None:
        self._ctx = ctx
        self._report = ctx.report
        self._pfss = pfss
        self._rule = ctx.volumes.rule
        self._compute = self._rule.compute
        self._kept = ctx.buffers.kept
        self._objects = Objects()
        self._entries = Entries()
        self._obj_id = 0
        """Object whose records come at the moment."""
        self._owner: Object | None = None
        """Its live inode."""
        self._caps: int | None = None
        """Its capability bits, once an inode record of any generation told them."""
        self._live_end = 0
        self._base = -1
        """Hash of the last live entry's name, and the names with that hash so far."""
        self._names: set[bytes] = set()
        self.by_type: dict[int, Callable[[Elm, int, bool], None]] = {
            RECTYPE_INODE: self._inode,
            RECTYPE_DATA: self._data,
            RECTYPE_DB: self._data,
            RECTYPE_DIRENTRY: self._direntry,
            RECTYPE_FIX: self._fix,
            RECTYPE_EXT: self._other,
            RECTYPE_PERM: self._other,
            RECTYPE_PFS: self._whole_pfs,
            RECTYPE_SNAPSHOT: self._whole_pfs,
            RECTYPE_CONFIG: self._whole_pfs,
        }
        """Checks for a record whose payload can be where it says: the element, the address of its leaf, whether the
        record lives (of a slave: lived at the last synchronisation)."""

    def enter(self) -> None:
        """The records of another localization begin."""
        self._objects, self._entries = self._pfss.objects, self._pfss.entries
        self._next_object(0)

    def _next_object(self, obj_id: int) -> None:
        """The records of another object begin, and not with its inode."""
        self._obj_id = obj_id
        self._owner = owner = self._objects.seek(obj_id)
        self._caps = None if owner is None else owner.caps
        self._live_end = 0
        self._base = -1

    def _owned(self, elm: Elm, off: int, live: bool) -> None:
        """A live record must have a live inode."""
        if elm[0] != self._obj_id:
            self._next_object(elm[0])
        if live and self._owner is None and not self._pfss.is_lost:
            self._add("record-orphan", f"record type 0x{elm[4]:02x} of an object without inode", elm, off)

    def _payload(self, elm: Elm, off: int) -> bytes | None:
        """A payload that fits a buffer, verified; None and a finding when it can't be trusted."""
        rec_type, data_offset, data_len, data_crc = elm[4], elm[10], elm[11], elm[12]
        if not 0 < data_len <= BUFSIZE:
            self._add("payload-length", f"record type 0x{rec_type:02x} with a payload of {data_len} bytes", elm, off)
            return None
        buf = self._kept.get((data_offset & OFF_LONG_MASK) >> _BUFSHIFT)
        if buf is None:
            try:
                buf = self._ctx.buffers.load(data_offset)
            except HammerError as err:
                self._add("payload-address", err.what, elm, off)
                return None
        pos = data_offset & BUFMASK
        payload = buf[pos : pos + data_len]
        covered = payload if rec_type != RECTYPE_INODE else payload[:INODE_CRC_SIZE]
        if self._compute(covered, 0) != data_crc and not self._rule.matches(data_crc, covered):
            what = f"record type 0x{rec_type:02x}: stored {data_crc:08x}, computed {self._compute(covered, 0):08x}"
            self._report.add("payload-crc", what, offset=data_offset, obj_id=elm[0], pfs_id=elm[7] >> 16)
            return None
        return payload

    # Inodes

    def _inode(self, elm: Elm, off: int, live: bool) -> None:
        if elm[0] != self._obj_id:
            self._obj_id = elm[0]
            self._owner = self._caps = None
            self._base = -1
        if elm[1]:
            self._add("record-place", f"inode with key {elm[1]}", elm, off)
        if not elm[3]:
            self._pfss.live_inodes += 1
        payload = self._payload(elm, off)
        if payload is not None and len(payload) == INODE_SIZE:
            found = self._inode_data(elm, payload)
        else:
            if payload is not None:
                self._add("payload-length", f"inode of {len(payload)} bytes", elm, off)
            found = Object(0, 0, 0, elm[10], elm[5], 0, 1)
        if live:
            self._owner = found
            self._objects.add(elm[0], found)

    def _inode_data(self, elm: Elm, payload: bytes) -> Object:
        """Check the fields of an inode."""
        version, mode, _, _, _, _, parent, _, _, obj_type, caps, _, _, nlinks, size, symlink, _, _ = INODE.unpack(
            payload
        )
        self._caps = caps
        if (
            version != INODE_VERSION
            or mode & ~0o7777
            or obj_type != elm[5]
            or obj_type not in TYPE_MODES
            or size > MAX_FILE_SIZE
            or caps not in (_DIR_CAPS if obj_type == OBJTYPE_DIRECTORY else _NO_CAPS)
        ):
            what = f"version {version}, mode {mode:o}, type {obj_type} ({elm[5]}), size {size}, caps {caps:02x}"
            self._report.add("inode-field", what, offset=elm[10], obj_id=elm[0], pfs_id=elm[7] >> 16)
            return Object(nlinks, size, parent, elm[10], elm[5], caps, 1)
        if obj_type == OBJTYPE_SOFTLINK:
            self._symlink(elm, size, symlink)
        return Object(nlinks, size, parent, elm[10], obj_type, caps, 0)

    def _symlink(self, elm: Elm, size: int, symlink: bytes) -> None:
        if not 0 < size <= MAX_SYMLINK or (size <= INODE_SYMLINK_MAX and b"\0" in symlink[:size]):
            what = f"target of {size} bytes" if size else "no target"
            self._report.add("symlink-target", what, offset=elm[10], obj_id=elm[0], pfs_id=elm[7] >> 16)

    # Directory entries

    def _direntry(self, elm: Elm, off: int, live: bool) -> None:
        self._owned(elm, off, live)
        payload = self._payload(elm, off)
        if payload is not None and len(payload) <= DIRENTRY_HEAD:
            self._add("dirent-field", f"directory entry of {len(payload)} bytes", elm, off)
            payload = None
        if payload is None:
            self._pfss.lost_entries += live
            return
        obj_id, key, localization = elm[0], elm[1], elm[7]
        target, target_localization, _ = DIRENTRY.unpack_from(payload)
        name = payload[DIRENTRY_HEAD:]
        base = -1
        if len(name) > MAX_NAME or b"/" in name or b"\0" in name or name in _NO_NAMES:
            self._add("dirent-field", f"name of {len(name)} bytes: {name[:40]!r}", elm, off)
        else:
            base = self._hash(elm, off, name)
        if target_localization != localization & ~LOCALIZE_MASK:
            self._add("dirent-field", f"target in localization {target_localization:08x}", elm, off)
        if not live:
            return
        owner = self._owner
        if owner is not None and not owner.is_damaged:
            if owner.kind != OBJTYPE_DIRECTORY:
                self._add("record-orphan", "directory entry of an object that is no directory", elm, off)
            elif (localization & LOCALIZE_MASK == LOCALIZE_INODE) != bool(owner.caps & CAP_DIR_LOCAL_INO):
                self._add("record-place", "directory entry in the class where this directory has none", elm, off)
        if base != self._base or base < 0:
            self._base, self._names = base, {name}
        elif name in self._names:
            self._add("dirent-twice", f"the name {name[:40]!r} is there twice", elm, off)
        else:
            self._names.add(name)
        self._entries.add(target, obj_id, key, elm[5])

    def _hash(self, elm: Elm, off: int, name: bytes) -> int:
        """Hash of a name; -1 and a finding when the entry's key can't come from it."""
        key, caps = elm[1], self._caps
        if caps is None or caps & CAP_DIRHASH_MASK:
            base = namekey1(name)
            if base <= key <= base + _WINDOW1:
                return base
        if caps is None or not caps & CAP_DIRHASH_MASK:
            base = namekey0(name)
            if base <= key <= base + _WINDOW0:
                return base
        self._add("dirent-hash", f"key {key:016x} does not come from the name {name[:40]!r}", elm, off)
        return -1

    # Files and symbolic links

    def _data(self, elm: Elm, off: int, live: bool) -> None:
        if elm[0] != self._obj_id:
            self._next_object(elm[0])
        key, data_len, owner = elm[1], elm[11], self._owner
        base = key - data_len
        full = BUFSIZE if base < XDEMARC else XBUFSIZE
        if data_len != full or base & full - 1 or base < 0:
            small = base == 0 and 0 < data_len <= HBUFSIZE and not data_len & 15
            if not small and elm[4] == RECTYPE_DATA:
                self._add("data-shape", f"{data_len} bytes at file offset {base}", elm, off)
        if not live:
            return
        if owner is None:
            if not self._pfss.is_lost:
                self._add("record-orphan", f"{data_len} bytes of file data of an object without inode", elm, off)
            return
        if base < self._live_end:
            self._add("data-overlap", f"data at file offset {base} begins before {self._live_end}", elm, off)
        self._live_end = key
        if owner.is_damaged:
            return
        if owner.kind not in _FILES:
            self._add("record-orphan", "file data of an object that is no file", elm, off)
        elif base >= owner.size:
            self._add("data-beyond-end", f"data at file offset {base}, the file has {owner.size} bytes", elm, off)

    def _fix(self, elm: Elm, off: int, live: bool) -> None:
        self._other(elm, off, live)
        owner = self._owner
        if not live or owner is None or owner.is_damaged:
            return
        if owner.kind != OBJTYPE_SOFTLINK or elm[1] != FIXKEY_SYMLINK:
            self._add("record-orphan", "link target of an object that is no symbolic link", elm, off)
        elif elm[11] != owner.size:
            self._add("symlink-target", f"target of {elm[11]} bytes, the inode says {owner.size}", elm, off)
        self._objects.has_fix.add(elm[0])

    # Everything else

    def _other(self, elm: Elm, off: int, live: bool) -> None:
        """A record of an object of which only the payload is known."""
        self._owned(elm, off, live)
        self._payload(elm, off)

    def _whole_pfs(self, elm: Elm, off: int, _live: bool) -> None:
        """A record of a PFS as a whole: on object 1, also where there is no root directory yet."""
        payload = self._payload(elm, off)
        if elm[4] == RECTYPE_PFS:
            self._pfss.pfs_record(elm, off, payload)
        elif elm[4] == RECTYPE_SNAPSHOT:
            self._pfss.snapshot(elm, off, payload)
        else:
            self._pfss.config(elm, off, payload)

    def _add(self, code: str, what: str, elm: Elm, off: int) -> None:
        self._report.add(code, what, offset=off, obj_id=elm[0], pfs_id=pfs_of(elm[7]))
