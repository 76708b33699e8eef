"""Packed volume sets: all volumes of a file system as one lz4 frame without their zeros, for keeping and sending.

A file begins with 16 bytes (magic, version, length of what follows), a JSON object that names the volumes and their
sizes, and its CRC-32. Then comes one lz4 frame with checksums of every block and of the whole, which holds pieces:
volume (u16), 6 zero bytes, byte offset (u64), length (u64), and so many bytes; a length of 0 ends them.
"""

from __future__ import annotations

import json
import os
import struct
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

import lz4.frame

from hammerfs.device.base import Device
from hammerfs.errors import CorruptError, ExistsError, HammerError

MAGIC = b"HAMMERPK"
VERSION = 1
_HEAD = struct.Struct("<8sII")
_PIECE = struct.Struct("<H6xQQ")
_CHUNK = 1 << 20
_GRAIN = 16384
_MAX_HEADER = 1 << 20
Progress = Callable[[int, int], object]
"""Told bytes done and bytes in all."""


class Member(NamedTuple):
    """One volume of a packed set."""

    name: str
    """Plain file name."""
    size: int
    """Bytes."""


def pack(devices: Sequence[Device], target: Path, *, force: bool = False, progress: Progress | None = None) -> None:
    """Pack the volumes of a set into one file; it appears under its name only when it is complete.

    Args:
        devices: The volumes.
        target: The file to make.
        force: Replace it when it is there.
        progress: Called now and then.

    Raises:
        ExistsError: The target is there.
        DeviceError: A volume can't be read.
        OSError: The target can't be written.
    """
    if target.exists() and not force:
        raise ExistsError(f"{target} exists")
    part = target.with_name(f".{os.getpid()}.part")
    try:
        with part.open("xb") as out:
            _write(devices, out, progress)
            out.flush()
            os.fsync(out.fileno())
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)


def _write(devices: Sequence[Device], out: IO[bytes], progress: Progress | None) -> None:
    members = [{"name": name, "size": dev.size} for name, dev in zip(_names(devices), devices, strict=True)]
    header = json.dumps({"volumes": members}).encode()
    out.write(_HEAD.pack(MAGIC, VERSION, len(header)) + header + zlib.crc32(header).to_bytes(4, "little"))
    total, before = sum(dev.size for dev in devices), 0
    with lz4.frame.LZ4FrameCompressor(
        block_size=lz4.frame.BLOCKSIZE_MAX1MB, content_checksum=True, block_checksum=True
    ) as lz:
        out.write(lz.begin())
        for number, dev in enumerate(devices):
            for offset, piece in _pieces(dev):
                out.write(lz.compress(_PIECE.pack(number, offset, len(piece))))
                out.write(lz.compress(piece))
                if progress is not None:
                    progress(before + offset + len(piece), total)
            before += dev.size
        out.write(lz.compress(_PIECE.pack(0, 0, 0)))
        out.write(lz.flush())
    if progress is not None:
        progress(total, total)


def _names(devices: Sequence[Device]) -> list[str]:
    """File names for the volumes, all different."""
    plain = [os.path.basename(dev.name) or "volume" for dev in devices]
    return [name if plain.count(name) == 1 else f"{i}-{name}" for i, name in enumerate(plain)]


def _pieces(dev: Device) -> Iterator[tuple[int, bytes]]:
    """What of a volume is not zero, in runs of whole grains."""
    start = 0
    for beg, end in dev.extents(0, dev.size):
        start = max(start, beg - beg % _GRAIN)
        while start < end:
            chunk = dev.pread(start, min(_CHUNK, dev.size - start))
            yield from _runs(start, chunk)
            start += len(chunk)


def _runs(start: int, chunk: bytes) -> Iterator[tuple[int, bytes]]:
    run = None
    for at in range(0, len(chunk), _GRAIN):
        grain = chunk[at : at + _GRAIN]
        is_zero = not any(grain) if len(grain) < 64 else grain.count(0) == len(grain)
        if not is_zero and run is None:
            run = at
        elif is_zero and run is not None:
            yield start + run, chunk[run:at]
            run = None
    if run is not None:
        yield start + run, chunk[run:]


def members(source: Path) -> list[Member]:
    """The volumes in a packed file.

    Raises:
        CorruptError: It is no packed file, or its header is damaged.
        OSError: It can't be read.
    """
    with source.open("rb") as file:
        return _read_header(source, file)


def unpack(source: Path, directory: Path, *, force: bool = False, progress: Progress | None = None) -> list[Path]:
    """Unpack the volumes of a packed file as sparse files; they appear only when all of them are complete.

    Args:
        source: The packed file.
        directory: Where to; made if it is not there.
        force: Replace files that are there.
        progress: Called now and then.

    Returns:
        The volumes' files.

    Raises:
        CorruptError: The packed file is damaged or cut short; nothing is left behind.
        ExistsError: A file is there.
        OSError: A file can't be written.
    """
    with source.open("rb") as file:
        found = _read_header(source, file)
        directory.mkdir(parents=True, exist_ok=True)
        targets = [directory / member.name for member in found]
        for target in targets:
            if target.exists() and not force:
                raise ExistsError(f"{target} exists")
        parts = [directory / f".{os.getpid()}-{number}.part" for number in range(len(found))]
        try:
            _unpack_to(source, file, found, parts, progress)
            for part, target in zip(parts, targets, strict=True):
                part.replace(target)
        finally:
            for part in parts:
                part.unlink(missing_ok=True)
    return targets


def _read_header(source: Path, file: IO[bytes]) -> list[Member]:
    head = file.read(_HEAD.size)
    if len(head) < _HEAD.size or not head.startswith(MAGIC):
        raise CorruptError("no packed volume set", volume=str(source))
    _, version, length = _HEAD.unpack(head)
    if version != VERSION or length > _MAX_HEADER:
        raise CorruptError(f"packed by version {version} of the format, this is {VERSION}", volume=str(source))
    raw, crc = file.read(length), file.read(4)
    if len(raw) < length or len(crc) < 4 or zlib.crc32(raw) != int.from_bytes(crc, "little"):
        raise CorruptError("header of the packed set is damaged", volume=str(source))
    try:
        found = [Member(str(entry["name"]), int(entry["size"])) for entry in json.loads(raw)["volumes"]]
    except (ValueError, KeyError, TypeError) as err:
        raise CorruptError(f"header of the packed set makes no sense: {err}", volume=str(source)) from None
    for member in found:
        if not _is_file_name(member.name):
            raise CorruptError(f"a packed volume has the name {member.name!r}", volume=str(source))
    if len({member.name for member in found}) < len(found) or not found:
        raise CorruptError("packed volumes have no names of their own", volume=str(source))
    return found


def _is_file_name(name: str) -> bool:
    """Whether a name can be a file's in a directory, and leads nowhere else."""
    try:
        os.fsencode(name)
    except UnicodeEncodeError:
        return False
    return name not in {"", ".", ".."} and "/" not in name and "\0" not in name


def _unpack_to(
    source: Path, file: IO[bytes], found: list[Member], parts: list[Path], progress: Progress | None
) -> None:
    stream = _Frame(source, file)
    total, before = sum(member.size for member in found), [0]
    for member in found:
        before.append(before[-1] + member.size)
    outs: list[IO[bytes]] = []
    try:
        for part, member in zip(parts, found, strict=True):
            outs.append(part.open("x+b"))
            outs[-1].truncate(member.size)
        while True:
            number, offset, length = _PIECE.unpack(stream.take(_PIECE.size))
            if not length:
                break
            if number >= len(found) or length > _CHUNK or offset + length > found[number].size:
                raise stream.error(f"piece of {length} bytes at {offset} of volume {number} can't be")
            outs[number].seek(offset)
            outs[number].write(stream.take(length))
            if progress is not None:
                progress(before[number] + offset + length, total)
        stream.finish()
        for out in outs:
            out.flush()
            os.fsync(out.fileno())
    finally:
        for out in outs:
            out.close()


class _Frame:
    """Bytes out of an lz4 frame, in pieces of any size, with the place in the file when it is damaged."""

    def __init__(self, source: Path, file: IO[bytes]) -> None:
        self._source = source
        self._file = file
        self._lz: Any = lz4.frame.LZ4FrameDecompressor()
        self._ready = bytearray()

    def take(self, nbytes: int) -> bytes:
        while len(self._ready) < nbytes:
            if self._lz.eof:
                raise self.error("ends in the middle of a piece")
            self._ready += self._more()
        taken = bytes(self._ready[:nbytes])
        del self._ready[:nbytes]
        return taken

    def finish(self) -> None:
        while not self._lz.eof:
            self._ready += self._more()
        if self._ready:
            raise self.error("goes on behind its end")

    def _more(self) -> bytes:
        raw = b""
        if self._lz.needs_input:
            raw = self._file.read(_CHUNK)
            if not raw:
                raise self.error("is cut short")
        try:
            return bytes(self._lz.decompress(raw, max_length=4 * _CHUNK))
        except RuntimeError as err:
            raise self.error(f"is damaged ({err})") from None

    def error(self, what: str) -> HammerError:
        return CorruptError(f"the packed set {what}", volume=str(self._source), offset=self._file.tell())
