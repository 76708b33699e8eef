"""CRC-32 and CRC-32C, and the choice between them by volume version (hammer_crc.h).

Volumes up to version 6 use CRC-32 everywhere. On version 7 new checksums are CRC-32C, and a structure written by
an older version keeps its CRC-32 until it is rewritten: both are right there. Directory hashes and mirror streams
always use CRC-32.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import Literal

from hammerfs.const import VERSION_CRC32C, VERSION_MAX, VERSION_MIN
from hammerfs.errors import VersionError

Data = bytes | bytearray | memoryview
CrcFunc = Callable[[Data, int], int]
CrcKind = Literal["i", "o", ""]
"""Which rule a stored checksum follows: ``i`` CRC-32C (iSCSI), ``o`` the old CRC-32, empty none."""


def crcmod_crc32c() -> CrcFunc:
    """CRC-32C by crcmod: the fallback when the compiled module is missing, and the tests' independent witness."""
    import crcmod

    run = crcmod.mkCrcFun(0x11EDC6F41, initCrc=0, rev=True, xorOut=0xFFFFFFFF)

    def crc(data: Data, value: int = 0) -> int:
        return int(run(data, value))

    return crc


def _load_crc32c() -> CrcFunc:
    try:
        from crc32c import crc32c as compiled
    except ImportError:
        return crcmod_crc32c()
    function: CrcFunc = compiled
    return function


crc32: CrcFunc = zlib.crc32
"""CRC-32 (IEEE 802.3): ``crc32(data, value)``; continue over pieces by passing the last value, start with 0."""
crc32c: CrcFunc = _load_crc32c()
"""CRC-32C (Castagnoli), same form."""


class CrcRule:
    """Checksums of one volume version.

    Args:
        version: Volume version, 1..7.

    Raises:
        VersionError: No such version.
    """

    __slots__ = ("compute", "version")

    def __init__(self, version: int) -> None:
        if not VERSION_MIN <= version <= VERSION_MAX:
            raise VersionError(f"volume version {version} is not one of {VERSION_MIN}..{VERSION_MAX}")
        self.version = version
        self.compute: CrcFunc = crc32c if version >= VERSION_CRC32C else crc32
        """The function new checksums are made with: ``compute(data, value)``, start with value 0."""

    def matches(self, stored: int, data: Data, *more: Data) -> bool:
        """Whether `stored` is right for `data`; with further pieces, the XOR of their separate checksums."""
        if not more and self.compute(data, 0) == stored:
            return True
        return self.kind(stored, data, *more) != ""

    def kind(self, stored: int, data: Data, *more: Data) -> CrcKind:
        """Which checksum matches, the version's own first: ``i``, ``o`` or nothing."""
        if self.version >= VERSION_CRC32C and xor_crc(crc32c, data, *more) == stored:
            return "i"
        if xor_crc(crc32, data, *more) == stored:
            return "o"
        return ""

    def of(self, data: Data, *more: Data) -> int:
        """Checksum to store: that of `data`, XORed with the separate checksums of further pieces."""
        return xor_crc(self.compute, data, *more)


def xor_crc(crc: CrcFunc, data: Data, *more: Data) -> int:
    """XOR of the separate checksums of the pieces, as volume headers and FIFO records have it."""
    value = crc(data, 0)
    for piece in more:
        value ^= crc(piece, 0)
    return value
