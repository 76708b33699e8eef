"""Every word an fstab line may hold: understood, swallowed as other helpers do, or refused by name."""

from __future__ import annotations

import os
from typing import Any

import pytest

from hammerfs.errors import UsageError
from hammerfs.fuse.daemon import sole_cause
from hammerfs.fuse.options import MountOptions, parse_options, parse_size
from hammerfs.vfs.attrs import Ownership

SWALLOWED = [
    *("defaults", "auto", "noauto", "nofail", "_netdev", "nouser", "nousers", "noowner", "nogroup", "relatime"),
    *("norelatime", "strictatime", "nostrictatime", "diratime", "nodiratime", "lazytime", "nolazytime", "iversion"),
    *("noiversion", "mand", "nomand", "dirsync", "silent", "loud", "quiet", "x-systemd.automount", "X-mount.mkdir"),
    *("x-gvfs-hide", "comment=old", "user=me", "context=system_u:object_r:removable_t:s0"),
    *("late", "failok", "mountprog=/usr/local/bin/mount_hammer"),
]


@pytest.mark.parametrize("word", SWALLOWED)
def test_words_for_others_are_swallowed(word: str) -> None:
    assert parse_options([word]) == MountOptions()


@pytest.mark.parametrize(
    ("words", "attribute", "value"),
    [
        ("ro", "read_only", True),
        ("ro,rw", "read_only", False),
        ("pfs=3", "pfs", "3"),
        ("pfs=home dirs", "pfs", "home dirs"),
        ("asof=0x0000000100000001", "asof", "0x0000000100000001"),
        ("snapdir=visible", "snapdir", "visible"),
        ("snapdirname=.zfs", "snapdir_name", b".zfs"),
        ("snapfmt=@GMT-%Y.%m.%d-%H.%M.%S", "snapfmt", "@GMT-%Y.%m.%d-%H.%M.%S"),
        ("uid=1000", "uid", 1000),
        ("gid=0", "gid", 0),
        ("umask=022", "umask", 0o22),
        ("cache=64m", "cache_bytes", 64 << 20),
        ("skip_redo", "recover", "undo"),
        ("ro,norecovery", "recover", "raw"),
        ("allow_other", "allow_other", True),
        ("allow_other,noallow_other", "allow_other", False),
        ("nodefault_permissions", "default_permissions", False),
        ("max_read=131072", "max_read", 131072),
        ("xattr", "xattr", True),
        ("xattr,noxattr", "xattr", False),
        ("nosuid,nodev", "kernel_flags", {"nosuid", "nodev"}),
        ("nosuid,noexec,suid", "kernel_flags", {"noexec", "suid"} if os.geteuid() == 0 else {"noexec"}),
        ("noatime,sync", "kernel_flags", {"noatime", "sync"}),
        ("user", "kernel_flags", {"nosuid", "nodev", "noexec"}),
        ("users,exec", "kernel_flags", {"nosuid", "nodev"}),
        (",,ro,,", "read_only", True),
    ],
)
def test_words_of_ours(words: str, attribute: str, value: Any) -> None:
    assert getattr(parse_options([words]), attribute) == value


@pytest.mark.parametrize(
    ("words", "what"),
    [
        ("shiny", "unknown mount option 'shiny'"),
        ("ro=1", "unknown mount option 'ro=1'"),
        ("pfs", "unknown mount option 'pfs'"),
        ("uid=me", "option uid: 'me' is no id"),
        ("uid=99999999999", "option uid: '99999999999' is no id"),
        ("umask=9", "option umask: '9' is no octal mask up to 777"),
        ("umask=1777", "option umask: '1777' is no octal mask up to 777"),
        ("cache=lots", "option cache: 'lots' is no size (a number, with k, m or g behind it)"),
        ("cache=16k", "option cache: '16k' is too little, 1m is the least"),
        ("snapdir=maybe", "option snapdir: 'maybe' is none of hidden, visible, disabled"),
        ("snapdirname=a/b", "option snapdirname: 'a/b' is no name for a directory"),
        ("snapdirname=..", "option snapdirname: '..' is no name for a directory"),
        ("snapfmt=%Y/%m", "option snapfmt: '%Y/%m' is no format of a name"),
        ("norecovery", "norecovery needs ro"),
    ],
)
def test_refused_words(words: str, what: str) -> None:
    with pytest.raises(UsageError) as refused:
        parse_options([words])
    assert str(refused.value) == what


def test_lists_add_up() -> None:
    options = parse_options(["ro,uid=5", "gid=6,umask=077"])
    assert options.ownership == Ownership(5, 6, 0o77)
    assert options.read_only


def test_words_for_fuse(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 0)
    words = parse_options(["ro,nodev"]).for_fuse("/a,b\\ü:/c")
    assert words == {
        "ro", "nodev", "allow_other", "default_permissions", "subtype=hammer", "fsname=/a\\,b\\\\\\\\xfc:/c"
    }  # fmt: skip
    assert all(word.isascii() for word in words)
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    assert parse_options(["ro"]).for_fuse("x") == {"ro", "subtype=hammer", "fsname=x"}
    assert "allow_other" in parse_options(["ro,allow_other"]).for_fuse("x")


@pytest.mark.parametrize(("text", "size"), [("7", 7), ("2k", 2048), ("3M", 3 << 20), ("1g", 1 << 30)])
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text) == size
    with pytest.raises(ValueError, match="no size"):
        parse_size(text + "b")


def test_the_sole_cause_of_a_group() -> None:
    error = UsageError("x")
    assert sole_cause(ExceptionGroup("a", [ExceptionGroup("b", [error])])) is error
    both = ExceptionGroup("a", [error, error])
    assert sole_cause(both) is both
