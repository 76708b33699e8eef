"""What is going on when the power is cut."""

from __future__ import annotations

from random import Random

from hammerfs.const import OBJTYPE_DIRECTORY, OBJTYPE_FIFO, OBJTYPE_REGFILE, OBJTYPE_SOFTLINK
from hammerfs.filewrite import SetAttr
from tests.crash.cuts import Recorded
from tests.enginelab import fresh
from tests.fsmodel import contents

DIRECTORIES = 4


def _directories(twin: Recorded) -> list[int]:
    return [twin.make(1, b"dir%d" % n, OBJTYPE_DIRECTORY) for n in range(DIRECTORIES)]


def _names(twin: Recorded, directory: int) -> list[bytes]:
    return list(twin.now.objs[directory].entries)


def small_files(twin: Recorded, rng: Random) -> None:
    """Files come, change and go, with a flush now and then."""
    places = _directories(twin)
    for n in range(12):
        twin.write(twin.make(rng.choice(places), b"old%d" % n, OBJTYPE_REGFILE), 0, contents(rng, 100 * n))
    twin.sync()
    twin.record()
    for n in range(60):
        place = rng.choice(places)
        names = _names(twin, place)
        kind = rng.randrange(8)
        if kind < 3 or not names:
            ino = twin.make(place, b"file%d" % n, rng.choice([OBJTYPE_REGFILE, OBJTYPE_REGFILE, OBJTYPE_FIFO]))
            if twin.now.objs[ino].is_file:
                twin.write(ino, rng.choice([0, 0, 5000]), contents(rng, rng.choice([10, 4000, 9000, 20000])))
        elif kind < 5:
            twin.remove(place, rng.choice(names))
        elif kind == 5:
            twin.setattr(twin.now.objs[place].entries[rng.choice(names)], SetAttr(mode=rng.randrange(0o1000)))
        elif kind == 6:
            ino = twin.now.objs[place].entries[rng.choice(names)]
            if twin.now.objs[ino].is_file:
                twin.truncate(ino, rng.choice([0, 5, 8192, 12000]))
        else:
            twin.make(place, b"link%d" % n, OBJTYPE_SOFTLINK, target=b"t" * rng.choice([5, 60]))
        if rng.random() < 0.15:
            twin.sync()


def renames(twin: Recorded, rng: Random) -> None:
    """Files and directories change their places, over each other and with each other."""
    places = _directories(twin)
    for place in places:
        for n in range(6):
            twin.write(twin.make(place, b"f%d" % n, OBJTYPE_REGFILE), 0, contents(rng, 300))
        twin.make(place, b"sub", OBJTYPE_DIRECTORY)
    twin.sync()
    twin.record()
    for n in range(60):
        here, there = rng.choice(places), rng.choice(places)
        files = [name for name in _names(twin, here) if name.startswith(b"f")]
        if n % 7 == 6 and b"sub" in _names(twin, here) and b"sub" in _names(twin, there):
            twin.exchange(here, b"sub", there, b"sub")
        elif n % 5 == 4 and here != there and files and _names(twin, there):
            twin.exchange(here, rng.choice(files), there, rng.choice(_names(twin, there)))
        elif files:
            goal = b"f%d" % rng.randrange(8)
            target = twin.now.objs[there].entries.get(goal)
            if target is None or not twin.now.objs[target].is_dir:
                name = rng.choice(files)
                if not twin.now.objs[twin.now.objs[here].entries[name]].is_dir:
                    twin.rename(here, name, there, goal)
        if rng.random() < 0.2:
            twin.sync()


def big_file(twin: Recorded, rng: Random) -> None:
    """One file grows block after block, is overwritten in the middle, cut, and grows again."""
    twin.record()
    ino = twin.make(1, b"big", OBJTYPE_REGFILE)
    for n in range(12):
        twin.write(ino, n * 200_000, contents(rng, 200_000))
        if n % 4 == 3:
            twin.sync()
    twin.write(ino, 900_000, contents(rng, 400_000))
    twin.sync()
    twin.truncate(ino, 1_100_001)
    twin.write(ino, 1_500_000, contents(rng, 70_000))
    twin.sync()
    twin.truncate(ino, 0)
    twin.write(ino, 7, b"end")
    twin.sync()


def fsyncs(twin: Recorded, rng: Random) -> None:
    """Every other write is followed by an fsync; flushes of other things are made in between."""
    inos = [twin.make(1, b"log%d" % n, OBJTYPE_REGFILE) for n in range(4)]
    for ino in inos:
        twin.write(ino, 0, contents(rng, 5000))
    twin.sync()
    twin.record()
    for n in range(60):
        ino = rng.choice(inos)
        size = len(twin.now.objs[ino].data)
        kind = rng.randrange(10)
        if kind == 0:
            twin.make(1, b"new%d" % n, OBJTYPE_REGFILE)
        elif kind == 1:
            twin.truncate(ino, rng.choice([size // 2, size + 5000]))
        else:
            twin.write(
                ino,
                rng.choice([size, size, rng.randrange(size + 1), size + 3000]),
                contents(rng, rng.choice([20, 700, 3000, 20000, 70000])),
            )
        if rng.random() < 0.5:
            twin.fsync(ino)
        if rng.random() < 0.06:
            twin.sync()


def wrapping(twin: Recorded, rng: Random) -> None:
    """Flushes that go around the FIFO."""
    places = _directories(twin)
    inos = [twin.make(places[n % DIRECTORIES], b"f%d" % n, OBJTYPE_REGFILE) for n in range(500)]
    twin.sync()

    def scatter(count: int) -> None:
        for ino in rng.sample(inos, count):
            twin.setattr(ino, SetAttr(mode=rng.randrange(0o1000)))
        twin.sync()

    undo = twin.fs.undo
    while undo.size - (undo.next & 0xFFFFFFF) > 150_000:
        scatter(60)
    del twin.history[:-2]
    twin.record()
    laps = 0
    while laps < 4:
        before = twin.fs.undo.next
        scatter(20)
        laps += twin.fs.undo.next < before or laps > 0


def held_files(twin: Recorded, rng: Random) -> None:
    """Files without a name are open, and are closed at last."""
    inos = [twin.make(1, b"f%d" % n, OBJTYPE_REGFILE) for n in range(6)]
    for ino in inos:
        twin.write(ino, 0, contents(rng, 30_000))
    twin.sync()
    twin.record()
    for n, ino in enumerate(inos):
        twin.hold(ino)
        twin.remove(1, b"f%d" % n)
        if n % 2:
            twin.sync()
        twin.write(ino, 10_000, contents(rng, 100))
    twin.sync()
    for ino in inos:
        twin.release(ino)
        if rng.random() < 0.5:
            twin.sync()
    twin.sync()


def reuse(twin: Recorded, rng: Random) -> None:
    """Without history on a small volume: big-blocks become free and are used again all the time."""
    twin.options.nohistory = True
    twin.remount(fresh(twin.fs.volumes.version, size=72 << 20))
    ino = twin.make(1, b"scratch", OBJTYPE_REGFILE)
    other = twin.make(1, b"other", OBJTYPE_REGFILE)
    twin.record()
    for _ in range(12):
        twin.write(ino, 0, contents(rng, 3 << 20))
        if rng.random() < 0.3:
            twin.truncate(ino, 1 << 20)
        twin.write(other, 0, contents(rng, 20_000))
        twin.sync()
    twin.history.clear()
