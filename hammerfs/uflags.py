"""The flags of an object (chflags(2)) by name."""

from __future__ import annotations

from collections.abc import Iterable

from hammerfs.const import (
    SF_APPEND,
    SF_ARCHIVED,
    SF_IMMUTABLE,
    SF_NOHISTORY,
    SF_NOUNLINK,
    UF_APPEND,
    UF_IMMUTABLE,
    UF_NODUMP,
    UF_NOHISTORY,
    UF_NOUNLINK,
    UF_OPAQUE,
)
from hammerfs.errors import UsageError

FLAGS = {
    "nodump": UF_NODUMP,
    "uimmutable": UF_IMMUTABLE,
    "uappend": UF_APPEND,
    "opaque": UF_OPAQUE,
    "uunlink": UF_NOUNLINK,
    "unohistory": UF_NOHISTORY,
    "arch": SF_ARCHIVED,
    "simmutable": SF_IMMUTABLE,
    "sappend": SF_APPEND,
    "sunlink": SF_NOUNLINK,
    "snohistory": SF_NOHISTORY,
}
"""Names of flags as chflags(1) prints them; `uunlink` and `sunlink` stand for "may not be unlinked"."""
_ALIASES = {
    "immutable": UF_IMMUTABLE,
    "uchg": UF_IMMUTABLE,
    "append": UF_APPEND,
    "uappnd": UF_APPEND,
    "nohistory": UF_NOHISTORY,
    "noshistory": SF_NOHISTORY,
    "schg": SF_IMMUTABLE,
    "sappnd": SF_APPEND,
    "uunlnk": UF_NOUNLINK,
    "sunlnk": SF_NOUNLINK,
    "archived": SF_ARCHIVED,
}
"""Other names for them. `nohistory` sets the flag, as chflags(1) has it."""
SUPERUSER_FLAGS = 0xFFFF0000
"""Flags only root may change."""


def flag_names(uflags: int) -> list[str]:
    """Names of the flags that are set."""
    return [name for name, bit in FLAGS.items() if uflags & bit]


def changed_flags(uflags: int, words: Iterable[str]) -> int:
    """Flags after words that set one each, or with ``no`` in front clear it.

    Raises:
        UsageError: An unknown word.
    """
    for word in words:
        bit = FLAGS.get(word) or _ALIASES.get(word)
        if bit is not None:
            uflags |= bit
            continue
        bit = FLAGS.get(word.removeprefix("no")) or _ALIASES.get(word.removeprefix("no"))
        if bit is None or not word.startswith("no"):
            raise UsageError(f"unknown flag '{word}'")
        uflags &= ~bit
    return uflags
