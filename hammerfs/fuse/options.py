"""Mount options: every word of an fstab line, those of HAMMER, those for FUSE, and those other helpers swallow."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, get_args

from hammerfs.cache import DEFAULT_CACHE_BYTES, MIN_CACHE_BYTES
from hammerfs.changes import WriteOptions
from hammerfs.errors import UsageError
from hammerfs.fs import Recover
from hammerfs.vfs.attrs import Ownership
from hammerfs.vfs.vfs import SnapdirMode

_KERNEL_FLAGS = {"nosuid": "suid", "nodev": "dev", "noexec": "exec", "noatime": "atime", "sync": "async"}
"""Words the kernel acts on, and those that take them back."""
_ROOT_ONLY = frozenset({"suid", "dev"})
"""What libfuse leaves out unless it is asked for, and allows root only."""
_SWALLOWED = frozenset(
    {
        *("defaults", "auto", "noauto", "nofail", "_netdev", "nouser", "nousers", "noowner", "nogroup"),
        *("relatime", "norelatime", "strictatime", "nostrictatime", "diratime", "nodiratime"),
        *("lazytime", "nolazytime", "iversion", "noiversion", "mand", "nomand", "dirsync", "silent", "loud", "quiet"),
        *("late", "failok"),
    }
)
"""Words for mount(8), or without a meaning here."""
_OF_USERS = frozenset({"user", "users", "owner", "group"})
_SWALLOWED_PREFIXES = (
    *("x-", "X-", "comment=", "user=", "context=", "fscontext=", "defcontext=", "rootcontext=", "mountprog="),
)
_SIZES = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30}


@dataclass(slots=True)
class MountOptions:
    """What an option list asks for.

    Attributes:
        read_only: Nothing is to be written.
        pfs: PFS to mount, by number or label.
        asof: Point in time to mount, as people write it.
        snapdir: Whether the directory of snapshots is there, and listed.
        snapdir_name: Its name.
        snapfmt: strftime format (UTC) of the names of snapshots; None: labels, or times.
        uid: Owner shown instead of the stored one.
        gid: Group shown instead of the stored one.
        umask: Permission bits taken away.
        cache_bytes: Most memory of the buffer cache.
        recover: What is done about an image that was not closed cleanly.
        allow_other: Whether other users may come in; None: when root mounts.
        default_permissions: Whether the kernel checks permissions; None: when root mounts.
        max_read: Most bytes of one read request; None: the kernel's own limit.
        xattr: Whether what HAMMER knows of an object is shown as extended attributes.
        writing: How the file system is written to.
        kernel_flags: Words for the kernel.
    """

    read_only: bool = False
    pfs: str | None = None
    asof: str | None = None
    snapdir: SnapdirMode = "hidden"
    snapdir_name: bytes = b".hammer"
    snapfmt: str | None = None
    uid: int | None = None
    gid: int | None = None
    umask: int | None = None
    cache_bytes: int = DEFAULT_CACHE_BYTES
    recover: Recover = "full"
    allow_other: bool | None = None
    default_permissions: bool | None = None
    max_read: int | None = None
    xattr: bool = False
    writing: WriteOptions = field(default_factory=WriteOptions)
    kernel_flags: set[str] = field(default_factory=set)

    @property
    def ownership(self) -> Ownership:
        """What is shown instead of stored owners and permissions."""
        return Ownership(self.uid, self.gid, self.umask)

    def for_fuse(self, source: str) -> set[str]:
        """The words libfuse is given.

        Args:
            source: What /proc/mounts is to show as the device.
        """
        as_root = os.geteuid() == 0
        words = {f"fsname={_escaped(source)}", "subtype=hammer", *self.kernel_flags}
        if self.read_only:
            words.add("ro")
        if as_root if self.allow_other is None else self.allow_other:
            words.add("allow_other")
        if as_root if self.default_permissions is None else self.default_permissions:
            words.add("default_permissions")
        if self.max_read is not None:
            words.add(f"max_read={self.max_read}")
        return words


def parse_options(lists: Iterable[str]) -> MountOptions:
    """Read option lists (``a,b=c``), later words winning over earlier ones.

    Raises:
        UsageError: An unknown word, or a value that makes no sense.
    """
    options = MountOptions()
    for text in lists:
        for word in text.split(","):
            if word:
                _apply(options, word)
    if options.recover == "raw" and not options.read_only:
        raise UsageError("norecovery needs ro")
    return options


def option_words() -> tuple[str, ...]:
    """The words that mean something here, for people to choose from; those that take a value end with ``=``."""
    snapdirs = (f"snapdir={mode}" for mode in get_args(SnapdirMode))
    values = (f"{name}=" for name in (*_VALUES, *_WRITING_VALUES) if name != "snapdir")
    return tuple(sorted({*_FLAGS, *_WRITING_FLAGS, *_KERNEL_FLAGS, *values, *snapdirs}))


def _apply(options: MountOptions, word: str) -> None:
    name, equals, value = word.partition("=")
    if _apply_writing(options.writing, name, value, has_value=bool(equals)):
        return
    if not equals and name in _FLAGS:
        attribute, setting = _FLAGS[name]
        setattr(options, attribute, setting)
    elif equals and name in _VALUES:
        attribute, parse = _VALUES[name]
        try:
            setattr(options, attribute, parse(value))
        except ValueError as err:
            raise UsageError(f"option {name}: {err}") from None
    elif not equals and name in _KERNEL_FLAGS:
        options.kernel_flags.discard(_KERNEL_FLAGS[name])
        options.kernel_flags.add(name)
    elif not equals and name in _KERNEL_FLAGS.values():
        options.kernel_flags.difference_update(no for no, yes in _KERNEL_FLAGS.items() if yes == name)
        if name in _ROOT_ONLY and os.geteuid() == 0:
            options.kernel_flags.add(name)
    elif not equals and name in _OF_USERS:
        options.kernel_flags.update({"nosuid", "nodev", "noexec"})
    elif not (not equals and name in _SWALLOWED) and not word.startswith(_SWALLOWED_PREFIXES):
        raise UsageError(f"unknown mount option '{word}'")


def _apply_writing(writing: WriteOptions, name: str, value: str, *, has_value: bool) -> bool:
    """Take a word about writing; whether it was one."""
    if name in _WRITING_FLAGS and not has_value:
        attribute, setting = _WRITING_FLAGS[name]
        setattr(writing, attribute, setting)
    elif name in _WRITING_VALUES and has_value:
        attribute, lowest, highest = _WRITING_VALUES[name]
        if not value.isdecimal() or not lowest <= int(value) <= highest:
            raise UsageError(f"option {name}: '{value}' is no number from {lowest} to {highest}")
        setattr(writing, attribute, int(value))
    else:
        return False
    return True


def _number(text: str) -> int:
    if not text.isdecimal() or int(text) > 0xFFFFFFFE:
        raise ValueError(f"'{text}' is no id")
    return int(text)


def _octal(text: str) -> int:
    try:
        value = int(text, 8)
    except ValueError:
        value = -1
    if not 0 <= value <= 0o777:
        raise ValueError(f"'{text}' is no octal mask up to 777")
    return value


def parse_size(text: str) -> int:
    """Bytes of a number with k, m or g behind it.

    Raises:
        ValueError: It is none.
    """
    digits = text.rstrip("kKmMgG")
    unit = text[len(digits) :].lower()
    if not digits.isdecimal() or unit not in _SIZES:
        raise ValueError(f"'{text}' is no size (a number, with k, m or g behind it)")
    return int(digits) * _SIZES[unit]


def _cache_size(text: str) -> int:
    size = parse_size(text)
    if size < MIN_CACHE_BYTES:
        raise ValueError(f"'{text}' is too little, {MIN_CACHE_BYTES >> 20}m is the least")
    return size


def _snapdir(text: str) -> str:
    if text not in get_args(SnapdirMode):
        raise ValueError(f"'{text}' is none of {', '.join(get_args(SnapdirMode))}")
    return text


def _component(text: str) -> bytes:
    name = os.fsencode(text)
    if not name or name in {b".", b".."} or b"/" in name or len(name) > 255:
        raise ValueError(f"'{text}' is no name for a directory")
    return name


def _format(text: str) -> str:
    if not text or "/" in text:
        raise ValueError(f"'{text}' is no format of a name")
    return text


_FLAGS: dict[str, tuple[str, Any]] = {
    "ro": ("read_only", True),
    "rw": ("read_only", False),
    "allow_other": ("allow_other", True),
    "noallow_other": ("allow_other", False),
    "default_permissions": ("default_permissions", True),
    "nodefault_permissions": ("default_permissions", False),
    "xattr": ("xattr", True),
    "noxattr": ("xattr", False),
    "skip_redo": ("recover", "undo"),
    "norecovery": ("recover", "raw"),
}
_VALUES: dict[str, tuple[str, Callable[[str], Any]]] = {
    "pfs": ("pfs", str),
    "asof": ("asof", str),
    "snapdir": ("snapdir", _snapdir),
    "snapdirname": ("snapdir_name", _component),
    "snapfmt": ("snapfmt", _format),
    "uid": ("uid", _number),
    "gid": ("gid", _number),
    "umask": ("umask", _octal),
    "cache": ("cache_bytes", _cache_size),
    "max_read": ("max_read", _number),
}


_WRITING_FLAGS: dict[str, tuple[str, Any]] = {
    "nohistory": ("nohistory", True),
    "history": ("nohistory", False),
    "nomirror": ("master_id", None),
    "mirror": ("master_id", 0),
}
_WRITING_VALUES = {
    "master": ("master_id", 0, 15),
    "fsync_mode": ("fsync_mode", 0, 4),
    "commit": ("commit_seconds", 1, 3600),
}


def _escaped(text: str) -> str:
    """A value inside libfuse's option list, which is ASCII."""
    return text.encode("ascii", "backslashreplace").decode().replace("\\", "\\\\").replace(",", "\\,")
