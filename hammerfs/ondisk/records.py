"""Payloads of records (hammer_disk.h): inode, directory entry, PFS, snapshot, configuration.

A symbolic link's body and file data are plain bytes.
"""

from __future__ import annotations

import struct
import uuid
from dataclasses import dataclass
from typing import NamedTuple

from hammerfs.const import (
    MAX_NAME,
    PFS_DELETED,
    PFS_SLAVE,
    RECTYPE_INODE,
)
from hammerfs.crc import CrcRule, Data
from hammerfs.errors import CorruptError

INODE = struct.Struct("<HHIIIQq16s16sBBHIQQ24sQQ")
INODE_SIZE = 128
INODE_CRC_SIZE = 112
"""Bytes of an inode payload under its checksum: mtime and atime, at its end, are rewritten in place."""
INODE_MTIME_OFFSET = 112
INODE_SYMLINK_MAX = 24
INODE_VERSION = 1
assert INODE.size == INODE_SIZE
DIRENTRY = struct.Struct("<qII")
DIRENTRY_HEAD = 16
assert DIRENTRY.size == DIRENTRY_HEAD
_PFS = struct.Struct("<5Q16s16siI64s64s12sii64s")
PFS_SIZE = 292
assert _PFS.size == PFS_SIZE
_SNAPSHOT = struct.Struct("<QQ16s64s32s")
SNAPSHOT_SIZE = 128
assert _SNAPSHOT.size == SNAPSHOT_SIZE
CONFIG_SIZE = 1024


def unix_id(raw: bytes) -> int:
    """Unix uid or gid inside a uuid: its last four bytes, little-endian."""
    return int.from_bytes(raw[12:16], "little")


def id_uuid(unix: int) -> bytes:
    """The uuid that stores a Unix uid or gid."""
    return b"\0" * 12 + unix.to_bytes(4, "little")


@dataclass(slots=True)
class InodeData:
    """Payload of an INODE record, 128 bytes. Of an inode that is being changed the fields are the newest state."""

    version: int
    mode: int
    """Permission bits; the type is `obj_type`."""
    uflags: int
    rmajor: int
    rminor: int
    ctime: int
    """Microseconds since 1970."""
    parent_obj_id: int
    uid: bytes
    """uuid; see `unix_id`."""
    gid: bytes
    obj_type: int
    cap_flags: int
    """Directories: name hash algorithm and where entries are kept."""
    reserved1: int
    reserved2: int
    nlinks: int
    size: int
    symlink: bytes
    """Target of a short symbolic link."""
    mtime: int
    """Microseconds since 1970."""
    atime: int

    @classmethod
    def decode(cls, buf: Data, offset: int = 0) -> InodeData:
        """The inode at `offset` of `buf`.

        Raises:
            CorruptError: Fewer than 128 bytes.
        """
        if len(buf) - offset < INODE_SIZE:
            raise CorruptError(f"inode payload has {len(buf) - offset} bytes instead of {INODE_SIZE}")
        return cls(*INODE.unpack_from(buf, offset))

    def encode(self) -> bytes:
        """The 128 bytes."""
        return INODE.pack(
            self.version,
            self.mode,
            self.uflags,
            self.rmajor,
            self.rminor,
            self.ctime,
            self.parent_obj_id,
            self.uid,
            self.gid,
            self.obj_type,
            self.cap_flags,
            self.reserved1,
            self.reserved2,
            self.nlinks,
            self.size,
            self.symlink,
            self.mtime,
            self.atime,
        )


class DirentryData(NamedTuple):
    """Payload of a DIRENTRY record: 16 bytes and the name."""

    obj_id: int
    """Object the name leads to."""
    localization: int
    """PFS of that object, in the high 16 bits."""
    reserved: int
    name: bytes
    """1..255 bytes."""

    @classmethod
    def decode(cls, buf: Data) -> DirentryData:
        """The entry that fills `buf`.

        Raises:
            CorruptError: No room for a name, or for one of more than 255 bytes.
        """
        nlen = len(buf) - DIRENTRY_HEAD
        if not 1 <= nlen <= MAX_NAME:
            raise CorruptError(f"directory entry with a name of {nlen} bytes")
        obj_id, localization, reserved = DIRENTRY.unpack_from(buf)
        return cls(obj_id, localization, reserved, bytes(memoryview(buf)[DIRENTRY_HEAD:]))

    def encode(self) -> bytes:
        """16 bytes and the name."""
        return DIRENTRY.pack(self.obj_id, self.localization, self.reserved) + self.name


@dataclass(slots=True)
class PfsData:
    """Payload of a PFS record, 292 bytes. A shorter one is read as if padded with zeros."""

    sync_low_tid: int = 0
    sync_beg_tid: int = 1
    """History is complete from here."""
    sync_end_tid: int = 1
    """Slave: last complete synchronisation point."""
    sync_beg_ts: int = 0
    sync_end_ts: int = 0
    shared_uuid: bytes = b"\0" * 16
    unique_uuid: bytes = b"\0" * 16
    reserved1: int = 0
    mirror_flags: int = 0
    label: bytes = b"\0" * 64
    snapshots: bytes = b"\0" * 64
    reserved2: bytes = b"\0" * 12
    prune_min: int = 0
    """Seconds of recent history that pruning keeps."""
    prune_max: int = 0
    reserved3: bytes = b"\0" * 64

    @classmethod
    def decode(cls, buf: Data) -> PfsData:
        """The PFS data at the start of `buf`."""
        return cls(*_PFS.unpack(bytes(buf[:PFS_SIZE]).ljust(PFS_SIZE, b"\0")))

    def encode(self) -> bytes:
        """The 292 bytes."""
        return _PFS.pack(
            self.sync_low_tid,
            self.sync_beg_tid,
            self.sync_end_tid,
            self.sync_beg_ts,
            self.sync_end_ts,
            self.shared_uuid,
            self.unique_uuid,
            self.reserved1,
            self.mirror_flags,
            self.label,
            self.snapshots,
            self.reserved2,
            self.prune_min,
            self.prune_max,
            self.reserved3,
        )

    @property
    def is_slave(self) -> bool:
        """Changed by mirroring only."""
        return bool(self.mirror_flags & PFS_SLAVE)

    @property
    def is_deleted(self) -> bool:
        """Destroyed; the id may be used again."""
        return bool(self.mirror_flags & PFS_DELETED)

    @property
    def label_text(self) -> bytes:
        """Label without padding."""
        return self.label.split(b"\0", 1)[0]

    @property
    def snapshots_path(self) -> bytes:
        """Directory of the snapshot softlinks without padding; empty when not set."""
        return self.snapshots.split(b"\0", 1)[0]

    @property
    def shared(self) -> uuid.UUID:
        """`shared_uuid` as a UUID object."""
        return uuid.UUID(bytes_le=self.shared_uuid)

    @property
    def unique(self) -> uuid.UUID:
        """`unique_uuid` as a UUID object."""
        return uuid.UUID(bytes_le=self.unique_uuid)


class SnapshotData(NamedTuple):
    """Payload of a SNAPSHOT record, 128 bytes."""

    tid: int
    """Equals the record's key; the key counts when they differ."""
    ts: int
    """Microseconds since 1970."""
    reserved1: bytes
    label: bytes
    """64 bytes, NUL padded."""
    reserved2: bytes

    @classmethod
    def decode(cls, buf: Data) -> SnapshotData:
        """The snapshot at the start of `buf`.

        Raises:
            CorruptError: Fewer than 128 bytes.
        """
        if len(buf) < SNAPSHOT_SIZE:
            raise CorruptError(f"snapshot payload has {len(buf)} bytes instead of {SNAPSHOT_SIZE}")
        return cls._make(_SNAPSHOT.unpack_from(buf))

    def encode(self) -> bytes:
        """The 128 bytes."""
        return _SNAPSHOT.pack(*self)

    @property
    def label_text(self) -> bytes:
        """Note without padding."""
        return self.label.split(b"\0", 1)[0]


def decode_config(buf: Data) -> bytes:
    """Text of a CONFIG record: up to the first NUL."""
    return bytes(buf[:CONFIG_SIZE]).split(b"\0", 1)[0]


def encode_config(text: bytes) -> bytes:
    """Payload of a CONFIG record, 1024 bytes.

    Raises:
        CorruptError: The text (with its NUL) does not fit.
    """
    if len(text) >= CONFIG_SIZE or b"\0" in text:
        raise CorruptError(f"configuration text of {len(text)} bytes does not fit {CONFIG_SIZE - 1} or holds a NUL")
    return text.ljust(CONFIG_SIZE, b"\0")


def payload_crc_bytes(rec_type: int, payload: Data) -> Data:
    """The part of a record's payload that its data_crc covers."""
    return payload[:INODE_CRC_SIZE] if rec_type == RECTYPE_INODE else payload


def payload_crc(rec_type: int, payload: Data, rule: CrcRule) -> int:
    """data_crc to store for a payload; 0 for an empty one."""
    return rule.of(payload_crc_bytes(rec_type, payload)) if len(payload) else 0


def payload_crc_ok(rec_type: int, payload: Data, data_crc: int, rule: CrcRule) -> bool:
    """Whether `data_crc` is right for a payload."""
    if not len(payload):
        return data_crc == 0
    return rule.matches(data_crc, payload_crc_bytes(rec_type, payload))
