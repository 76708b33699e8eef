"""Numbers of the on-disk format: sizes, zones, record and object types, flags, versions (hammer_disk.h)."""

from __future__ import annotations

from typing import Final

# Sizes, in bytes unless the name says otherwise.
BUFSIZE: Final = 16384
BUFMASK: Final = BUFSIZE - 1
XBUFSIZE: Final = 65536
HBUFSIZE: Final = 8192
"""Largest file kept as one small extent."""
XDEMARC: Final = 1 << 20
"""File offset where the data block grows from BUFSIZE to XBUFSIZE."""
BIGBLOCK_BITS: Final = 23
BIGBLOCK_SIZE: Final = 1 << BIGBLOCK_BITS
BIGBLOCK_MASK: Final = BIGBLOCK_SIZE - 1
HINTBLOCK_SIZE: Final = 4 * BIGBLOCK_SIZE
DATA_ALIGN: Final = 16
MAX_VOLUMES: Final = 256
MAX_ZONES: Final = 16
MAX_PFS: Final = 65536
MAX_NAME: Final = 255
MAX_SYMLINK: Final = 4095
"""Longest target of a symbolic link here, as Linux has it. DragonFly itself makes none of more than 1023 bytes."""
MAX_FILE_SIZE: Final = (1 << 63) - 1

# Addresses: zone(4) volume(8) offset(52).
OFF_SHORT_MASK: Final = (1 << 52) - 1
OFF_LONG_MASK: Final = (1 << 60) - 1
OFF_BAD: Final = (1 << 64) - 1
"""BAD and UNAVAIL: all ones."""
BLOCKMAP_UNAVAIL: Final = OFF_BAD
ZONE_SHIFT: Final = 60
VOL_SHIFT: Final = 52

ZONE_FREE: Final = 0
ZONE_RAW_VOLUME: Final = 1
ZONE_RAW_BUFFER: Final = 2
ZONE_UNDO: Final = 3
ZONE_FREEMAP: Final = 4
ZONE_BTREE: Final = 8
ZONE_META: Final = 9
ZONE_LARGE_DATA: Final = 10
ZONE_SMALL_DATA: Final = 11
ZONE_UNAVAIL: Final = 15
ZONES_MAPPED: Final = frozenset({ZONE_BTREE, ZONE_META, ZONE_LARGE_DATA, ZONE_SMALL_DATA})
"""Zones in which B-Tree nodes and payloads live."""

# Two-level freemap: one layer-1 entry covers 4 TiB, one layer-2 entry a big-block.
LAYER1_ENTRIES: Final = 1 << 18
LAYER2_ENTRIES: Final = 1 << 19
LAYER1_SHIFT: Final = 42
LAYER1_SPAN: Final = 1 << LAYER1_SHIFT
LAYER1_PER_VOLUME: Final = 1024

# Volume header.
VOL_SIGNATURE: Final = 0xC8414D4DC5523031
VOL_SIGNATURE_REV: Final = 0x313052C54D4D41C8
VOL_HEADER_SIZE: Final = 1928
VOL_HEADER_AREA: Final = 262144
BOOT_AREA_MIN: Final = 32 << 10
MEMORY_LOG_MIN: Final = 256 << 10
FSTYPE_UUID: Final = bytes.fromhex("ac63dc61386edc11851301301bb8a9f5")
"""61dc63ac-6e38-11dc-8513-01301bb8a9f5 in DCE byte order (first three fields little-endian)."""
ROOT_VOLUME: Final = 0
VERSION_MIN: Final = 1
VERSION_MAX: Final = 7
VERSION_DIRLOCAL: Final = 2
"""New directories keep their entries in localization class 1."""
VERSION_SNAPSHOT: Final = 3
"""Snapshot and configuration records."""
VERSION_REDO: Final = 4
"""FIFO sequence numbers are authoritative; REDO records."""
VERSION_DEDUP: Final = 5
"""Layer-2 bytes_free is signed."""
VERSION_DIRHASH1: Final = 6
"""New directories use name hash algorithm 1."""
VERSION_CRC32C: Final = 7
"""CRC-32C for new checksums."""

# UNDO/REDO FIFO.
UNDO_SECTOR: Final = 512
MIN_UNDO_BIGBLOCKS: Final = 64
MAX_UNDO_BIGBLOCKS: Final = 128
FIFO_HEAD_SIGNATURE: Final = 0xC84E
FIFO_TAIL_SIGNATURE: Final = 0xC74F
FIFO_TYPE_PAD: Final = 0x8040
FIFO_TYPE_DUMMY: Final = 0x0041
FIFO_TYPE_UNDO: Final = 0x0043
FIFO_TYPE_REDO: Final = 0x0044
FIFO_SEQ_PREFORMAT: Final = 0x40000000
"""XORed into the sequence numbers of the DUMMY records that format a 16 KiB buffer ahead of the append point."""
REDO_WRITE: Final = 1
REDO_TRUNC: Final = 2
REDO_TERM_WRITE: Final = 4
REDO_TERM_TRUNC: Final = 8
REDO_SYNC: Final = 16

# B-Tree.
NODE_SIZE: Final = 4096
NODE_HEADER: Final = 64
ELM_SIZE: Final = 64
LEAF_ELMS: Final = 63
INT_ELMS: Final = 62
BTREE_TYPE_INTERNAL: Final = 0x49
BTREE_TYPE_LEAF: Final = 0x4C
BTREE_TYPE_RECORD: Final = 0x52
BTREE_TYPE_DELETED: Final = 0x44
MAX_DEPTH: Final = 48
"""More levels than a tree of 2**60 bytes of elements with one element a node on every second level could need."""

# Transaction ids.
MIN_TID: Final = 1
MAX_TID: Final = (1 << 64) - 1
"""As-of head. In a sort key the infinity that a create_tid of 0 stands for is 2**64."""
TID_INFINITE: Final = 1 << 64

# Localization: PFS id in the high 16 bits, class in the low ones.
LOCALIZE_INODE: Final = 1
LOCALIZE_MISC: Final = 2
LOCALIZE_MASK: Final = 0x0000FFFF
LOCALIZE_PFS_MASK: Final = 0xFFFF0000

OBJID_ROOT: Final = 1

RECTYPE_INODE: Final = 0x01
RECTYPE_DATA: Final = 0x10
RECTYPE_DIRENTRY: Final = 0x11
RECTYPE_DB: Final = 0x12
RECTYPE_EXT: Final = 0x13
RECTYPE_FIX: Final = 0x14
RECTYPE_PFS: Final = 0x15
RECTYPE_SNAPSHOT: Final = 0x16
RECTYPE_CONFIG: Final = 0x17
RECTYPE_PERM: Final = 0x18
RECTYPE_MAX: Final = 0xFFFF

FIXKEY_SYMLINK: Final = 1

OBJTYPE_DIRECTORY: Final = 1
OBJTYPE_REGFILE: Final = 2
OBJTYPE_DBFILE: Final = 3
OBJTYPE_FIFO: Final = 4
OBJTYPE_CDEV: Final = 5
OBJTYPE_BDEV: Final = 6
OBJTYPE_SOFTLINK: Final = 7
OBJTYPE_PSEUDOFS: Final = 8
OBJTYPE_SOCKET: Final = 9

# Inode capability bits of directories.
CAP_DIRHASH_MASK: Final = 0x03
CAP_DIRHASH_ALG0: Final = 0
CAP_DIRHASH_ALG1: Final = 1
CAP_DIR_LOCAL_INO: Final = 0x04

# uflags, chflags(2).
UF_NODUMP: Final = 0x1
UF_IMMUTABLE: Final = 0x2
UF_APPEND: Final = 0x4
UF_OPAQUE: Final = 0x8
UF_NOUNLINK: Final = 0x10
UF_NOHISTORY: Final = 0x40
UF_CACHE: Final = 0x80
SF_ARCHIVED: Final = 0x10000
SF_IMMUTABLE: Final = 0x20000
SF_APPEND: Final = 0x40000
SF_NOUNLINK: Final = 0x100000
SF_NOHISTORY: Final = 0x400000
SF_NOCACHE: Final = 0x800000
UFLAGS_INHERITED: Final = UF_NOHISTORY | SF_NOHISTORY | UF_NODUMP

PFS_SLAVE: Final = 0x00000001
PFS_DELETED: Final = 0x80000000
