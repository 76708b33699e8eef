"""The command line of newfs_hammer: its parser, and the values that options take."""

from __future__ import annotations

import argparse
import os
import re
import sys
import time
import uuid
from typing import Final, NamedTuple

from hammerfs.const import BUFSIZE, VERSION_MAX, VERSION_MIN
from hammerfs.errors import UsageError
from mkfs.layout import MAX_LABEL
from tools.parser import LineParser, bytes_of

NAMES: Final = ("newfs_hammer", "mkfs.hammer")
MAX_EPOCH: Final = (1 << 32) - 1
"""Records hold their time as 32 bits of seconds."""
_SIZE = re.compile(r"([0-9]{1,19})([kmgt])\Z", re.ASCII | re.IGNORECASE)
_CACHE = re.compile(r"([0-9]{1,19})([kmgt]?)(?::([0-9]{1,9}))?\Z", re.ASCII | re.IGNORECASE)


class CacheSize(NamedTuple):
    """The value of -C: bytes that may wait in the host's cache, and buffers to read ahead."""

    size: int
    read_ahead: int


def parse_size(text: str) -> int:
    """A positive size in bytes, from a number and its unit: `512m`, `10G`.

    Raises:
        ArgumentTypeError: It is none, or too large for a file.
    """
    match = _SIZE.match(text)
    if match is None:
        raise argparse.ArgumentTypeError(f"'{text}' is no size: a number followed by k, m, g or t")
    return bytes_of(text, match[1], match[2])


def parse_cache(text: str) -> CacheSize:
    """The value of -C: `CACHESIZE[:READAHEAD]`; the unit may be left out.

    Raises:
        ArgumentTypeError: It is none.
    """
    match = _CACHE.match(text)
    if match is None:
        raise argparse.ArgumentTypeError(f"'{text}' is no CACHESIZE[:READAHEAD]: 64m, 64m:4")
    size = bytes_of(text, match[1], match[2])
    if size < BUFSIZE:
        raise argparse.ArgumentTypeError(f"a cache of {size} bytes holds no buffer of {BUFSIZE}")
    return CacheSize(size, int(match[3] or 0))


def _version(text: str) -> int:
    if text not in map(str, range(VERSION_MIN, VERSION_MAX + 1)):
        raise argparse.ArgumentTypeError(f"'{text}' is no version: {VERSION_MIN} to {VERSION_MAX}")
    return int(text)


def _label(text: str) -> bytes:
    label = os.fsencode(text)
    if not 1 <= len(label) <= MAX_LABEL:
        raise argparse.ArgumentTypeError(f"a label has 1 to {MAX_LABEL} bytes, not {len(label)}")
    return label


def _uuid(text: str) -> uuid.UUID:
    try:
        return uuid.UUID(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"'{text}' is no uuid") from None


def program_name() -> str:
    """What this command was called by."""
    name = os.path.basename(sys.argv[0])
    return name if name in NAMES else NAMES[0]


def creation_time_us() -> int:
    """Time of the root directory in microseconds: SOURCE_DATE_EPOCH (seconds) where it is set, else now.

    Raises:
        UsageError: SOURCE_DATE_EPOCH is no such number.
    """
    text = os.environ.get("SOURCE_DATE_EPOCH")
    if text is None:
        return time.time_ns() // 1000
    if not (text.isascii() and text.isdigit() and len(text) <= len(str(MAX_EPOCH)) and int(text) <= MAX_EPOCH):
        raise UsageError(f"SOURCE_DATE_EPOCH is '{text}': it must be seconds from 0 to {MAX_EPOCH}")
    return int(text) * 1_000_000


def build_parser() -> argparse.ArgumentParser:
    """The parser of `newfs_hammer` and `mkfs.hammer`."""
    parser = LineParser(
        prog=program_name(),
        allow_abbrev=False,
        description="Make a HAMMER file system on one or several volumes; the first becomes the root volume.",
        epilog="Sizes need a unit: k, m, g or t. SOURCE_DATE_EPOCH and --uuid together make the result reproducible.",
    )
    add = parser.add_argument
    add("-L", dest="label", required=True, type=_label, metavar="LABEL", help="name of the file system (63 bytes)")
    add("-f", dest="force", action="store_true", help="overwrite what is there, and allow small volumes and FIFOs")
    add("-E", dest="trim", action="store_true", help="first erase the volumes (TRIM; a hole in a file)")
    add("-b", dest="boot_area", type=parse_size, metavar="SIZE", help="boot area: 32k to 256m (default 32k)")
    add("-m", dest="memory_log", type=parse_size, metavar="SIZE", help="memory log: 256k to 64g (default 256k)")
    add(
        "-u",
        dest="undo_size",
        type=parse_size,
        metavar="SIZE",
        help="UNDO/REDO FIFO: 512m to 1g (default a thousandth of the root volume); less only with -f",
    )
    add("-V", dest="version", type=_version, default=VERSION_MAX, metavar="N", help="version: 1 to 7 (default 7)")
    add(
        "-C",
        dest="cache",
        type=parse_cache,
        metavar="SIZE[:READAHEAD]",
        help="how much may wait in the host's cache until it is forced to the volume",
    )
    add("-d", dest="debug", action="store_true", help="tell on stderr what is written where")
    add("--size", type=parse_size, metavar="SIZE", help="make each volume as a sparse image file of this size")
    add("--uuid", type=_uuid, metavar="UUID", help="identity of the file system (default: a random one)")
    add("--dry-run", action="store_true", help="check and report everything, write nothing")
    add("--quiet", action="store_true", help="print nothing but errors")
    add("--json", action="store_true", help="print the report as JSON")
    add(
        "volumes",
        nargs="+",
        metavar="VOL",
        help="a disk or image, in order of volume numbers; VOL@s1d names a slice, VOL@offset=N a place",
    )
    return parser
