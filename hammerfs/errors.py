"""Typed errors: every one carries what happened and where, an errno and an exit code.

Only the FUSE adapter turns them into errno and only the command line into exit codes. The text is one line:
the place (as far as it is known) and the fact.
"""

from __future__ import annotations

import errno as _errno
from typing import TypedDict


class ObjectPlace(TypedDict):
    """Keyword arguments of an error about an object."""

    obj_id: int
    localization: int


class RecordPlace(ObjectPlace):
    """Keyword arguments of an error about a record's payload."""

    offset: int


class HammerError(Exception):
    """Base of all errors of the file system.

    Args:
        what: The fact, in a few words.
        volume: Name of the volume (its path) or number of it in the set.
        offset: HAMMER address (64 bits, printed in hex) or byte offset in the volume.
        obj_id: Object concerned.
        localization: Localization of that object.
        path: Path inside the file system.
    """

    errno: int = _errno.EIO
    exit_code: int = 1

    def __init__(
        self,
        what: str,
        *,
        volume: str | int | None = None,
        offset: int | None = None,
        obj_id: int | None = None,
        localization: int | None = None,
        path: bytes | None = None,
    ) -> None:
        super().__init__(what)
        self.what = what
        self.volume = volume
        self.offset = offset
        self.obj_id = obj_id
        self.localization = localization
        self.path = path

    @property
    def place(self) -> str:
        """Where it happened, as text; empty when nothing is known."""
        parts = []
        if self.volume is not None:
            parts.append(f"volume {self.volume}")
        if self.offset is not None:
            parts.append(f"offset 0x{self.offset & 0xFFFFFFFFFFFFFFFF:016x}")
        if self.obj_id is not None:
            parts.append(f"object 0x{self.obj_id & 0xFFFFFFFFFFFFFFFF:016x}")
        if self.localization is not None:
            parts.append(f"localization {self.localization:08x}")
        if self.path is not None:
            parts.append(f"path {self.path.decode('utf-8', 'backslashreplace')!r}")
        return ", ".join(parts)

    def __str__(self) -> str:
        place = self.place
        return f"{place}: {self.what}" if place else self.what


class UsageError(HammerError):
    """The caller asked for something that makes no sense (a bad option, a malformed name)."""

    errno = _errno.EINVAL
    exit_code = 2


class InvalidError(HammerError):
    """The operation does not fit the object or the arguments (EINVAL)."""

    errno = _errno.EINVAL


class DeviceError(HammerError):
    """The device below failed: an I/O error of the host, an access beyond its end."""


class VolumeSetError(HammerError):
    """The given volumes do not make up one file system: missing, doubled, foreign or not HAMMER at all."""

    errno = _errno.ENODEV


class VersionError(VolumeSetError):
    """The volume version is not one of 1..7."""


class BusyError(HammerError):
    """Somebody else has the volume open for writing."""

    errno = _errno.EBUSY


class CorruptError(HammerError):
    """The media holds something impossible: a bad pointer, length, type, count or order."""


class CrcError(CorruptError):
    """A checksum does not match.

    Args:
        what: The structure concerned.
        want: Value stored on the media.
        found: Value computed over the bytes.
        **place: As for HammerError.
    """

    def __init__(
        self,
        what: str,
        *,
        want: int,
        found: int,
        volume: str | int | None = None,
        offset: int | None = None,
        obj_id: int | None = None,
        localization: int | None = None,
        path: bytes | None = None,
    ) -> None:
        super().__init__(
            f"{what}: bad CRC, stored {want:08x}, computed {found:08x}",
            volume=volume,
            offset=offset,
            obj_id=obj_id,
            localization=localization,
            path=path,
        )
        self.want = want
        self.found = found


class NotFound(HammerError, FileNotFoundError):
    """No such entry, object, PFS or record at the asked point in time."""

    errno = _errno.ENOENT


class ExistsError(HammerError, FileExistsError):
    """The entry or record is there already."""

    errno = _errno.EEXIST


class NotADirectory(HammerError, NotADirectoryError):
    """A directory was needed."""

    errno = _errno.ENOTDIR


class IsADirectory(HammerError, IsADirectoryError):
    """A directory was given where a file was needed."""

    errno = _errno.EISDIR


class NameTooLong(HammerError):
    """A path component is longer than 255 bytes, or a path is unreasonably long."""

    errno = _errno.ENAMETOOLONG


class LoopError(HammerError):
    """Too many symbolic links on the way."""

    errno = _errno.ELOOP


class ReadOnlyError(HammerError):
    """The file system, the point in time or the PFS can't be changed."""

    errno = _errno.EROFS


class UnsupportedError(HammerError):
    """HAMMER has no such thing."""

    errno = _errno.EOPNOTSUPP


class NotPermitted(HammerError, PermissionError):
    """The flags of the object forbid it (immutable, append-only), or nobody may do that."""

    errno = _errno.EPERM


class NotEmpty(HammerError):
    """A directory that holds entries can't be removed or replaced."""

    errno = _errno.ENOTEMPTY


class FileTooBig(HammerError):
    """Beyond the last byte a file can have."""

    errno = _errno.EFBIG


class CrossPfsError(HammerError):
    """A link or rename between two PFSs."""

    errno = _errno.EXDEV


class NoSpace(HammerError):
    """No space left, or none that the operation may use."""

    errno = _errno.ENOSPC


class FifoFull(NoSpace):
    """The UNDO FIFO can't take more records before its start has moved on the media."""


class RefCountError(HammerError):
    """A big-block has as many references to shared extents as can be counted."""

    errno = _errno.ERANGE


class ClosedError(HammerError):
    """The file system or device is closed."""

    errno = _errno.EBADF


class BufferMiss(Exception):
    """A read-only operation needs buffers that are not in the cache.

    Not a HammerError: the caller brings the buffers in and runs the operation again from its start.

    Args:
        wanted: (volume number, byte offset in the volume, bytes) of each missing range; 16 KiB aligned. The first one
            is needed at once, the others soon. Empty: nothing is missing, others are to have their turn.
    """

    def __init__(self, wanted: list[tuple[int, int, int]]) -> None:
        super().__init__(f"{len(wanted)} buffer range(s) not cached")
        self.wanted = wanted
