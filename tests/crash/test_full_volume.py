"""A full volume: data is refused while names still go, nothing is damaged, and what may be used again is."""

from __future__ import annotations

from random import Random

import pytest

from hammerfs.changes import WriteOptions
from hammerfs.const import BIGBLOCK_SIZE, OBJTYPE_REGFILE, UF_NOHISTORY
from hammerfs.errors import NoSpace
from hammerfs.filewrite import SetAttr
from tests.enginelab import Clock, assert_sound, fresh
from tests.fsmodel import Twin, contents

SMALL = 128 << 20
MIB = 1 << 20


def on_volume(size: int = SMALL, *, volumes: int = 1, version: int = 7, nohistory: bool = False) -> Twin:
    options = WriteOptions(clock=Clock(), nohistory=nohistory)
    return Twin(fresh(version, volumes=volumes, size=size), options)


def fill(twin: Twin, rng: Random, sizes: list[int], name: bytes = b"fill") -> list[int]:
    """Files until no more goes; the one that did not fit has no contents, or has not been made."""
    inos = []
    for number in range(100_000):
        try:
            inos.append(twin.make(1, b"%s%d" % (name, number), OBJTYPE_REGFILE))
            twin.write(inos[-1], 0, contents(rng, rng.choice(sizes)))
        except NoSpace:
            return inos
    raise AssertionError("the volume never gets full")


def names(twin: Twin) -> list[bytes]:
    return list(twin.now.objs[1].entries)


def check(twin: Twin) -> None:
    """All is as it should be, in this life and the next."""
    twin.check_head()
    twin.check_past(Random(1))
    twin.remount()
    twin.check_head()
    twin.check_past(Random(2))
    assert_sound(twin.media)


@pytest.mark.parametrize(("version", "volumes"), [(7, 1), (1, 2)])
@pytest.mark.parametrize("sizes", [[MIB], [5000, 8192], [9000, 70_000, 300_000]])
def test_data_is_refused_and_names_still_go(version: int, volumes: int, sizes: list[int]) -> None:
    twin = on_volume(72 << 20, volumes=volumes, version=version)
    rng = Random(1)
    inos = fill(twin, rng, sizes)
    used = sum(len(obj.data) for obj in twin.now.objs.values())
    assert used > 5 * MIB
    twin.sync()
    assert twin.fs.changes.failed is None
    twin.setattr(inos[0], SetAttr(mode=0o600))
    twin.rename(1, b"fill0", 1, b"renamed")
    twin.truncate(inos[1], 3)
    twin.sync()
    with pytest.raises(NoSpace):
        twin.write(inos[2], 0, contents(rng, 10 * MIB))
    for name in names(twin):
        twin.remove(1, name)
    twin.sync()
    check(twin)


def test_a_volume_full_of_names_lets_them_go() -> None:
    twin = on_volume(64 << 20)
    with pytest.raises(NoSpace):
        for number in range(200_000):
            twin.fs.create(twin.fs.root(), b"a name that takes a lot of space" * 5 + b"%d" % number)
    twin.fs.sync()
    entries = [entry.name for entry in twin.fs.readdir(twin.fs.root())]
    assert len(entries) > 1000
    for name in entries:
        twin.fs.unlink(twin.fs.root(), name)
    twin.fs.sync()
    check(twin)


def test_space_without_history_is_used_again() -> None:
    twin = on_volume(nohistory=True)
    rng = Random(1)
    for lap in range(4):
        inos = fill(twin, rng, [MIB, 100_000, 5000], b"lap%d-" % lap)
        assert sum(len(obj.data) for obj in twin.now.objs.values()) > SMALL // 4, lap
        twin.sync()
        twin.check_head()
        for name in names(twin):
            twin.remove(1, name)
        twin.sync()
        assert inos
    check(twin)


def test_space_of_a_file_without_history_is_used_again() -> None:
    """The flag does what the mount option does."""
    twin = on_volume()
    ino = twin.make(1, b"scratch", OBJTYPE_REGFILE)
    twin.setattr(ino, SetAttr(uflags=UF_NOHISTORY))
    rng = Random(1)
    for _ in range(2 * SMALL // (8 * MIB)):
        twin.write(ino, 0, contents(rng, 8 * MIB))
        twin.sync()
    twin.check_head()
    check(twin)


def test_what_comes_and_goes_between_two_flushes_takes_no_space() -> None:
    twin = on_volume()
    rng = Random(1)
    free = twin.fs.statfs().bfree
    for number in range(2 * SMALL // (4 * MIB)):
        ino = twin.make(1, b"short", OBJTYPE_REGFILE)
        twin.write(ino, 0, contents(rng, 4 * MIB))
        twin.remove(1, b"short")
        if number % 3 == 0:
            twin.sync()
    twin.sync()
    assert free - twin.fs.statfs().bfree <= 3 * BIGBLOCK_SIZE // 16384
    check(twin)
