"""The allocator against a model that recounts the freemap from the references that are left."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from hammerfs.addr import encode, round16, zone_of
from hammerfs.const import (
    BIGBLOCK_SIZE,
    BUFSIZE,
    XBUFSIZE,
    ZONE_FREE,
    ZONE_LARGE_DATA,
    ZONE_RAW_BUFFER,
    ZONE_SHIFT,
    ZONE_SMALL_DATA,
    ZONES_MAPPED,
)
from hammerfs.errors import InvalidError, NoSpace
from tests.unit.test_alloc import Space, block_of

DATA_ZONES = [ZONE_LARGE_DATA, ZONE_SMALL_DATA]


class Model(RuleBasedStateMachine):
    """References, reservations, and what each big-block must look like because of them."""

    version = 7
    blocks: tuple[int, ...] = (12,)

    def __init__(self) -> None:
        super().__init__()
        self.space = Space(self.version, self.blocks)
        self.refs: list[tuple[int, int]] = []
        self.reserved: list[tuple[int, int]] = []
        self.waiting: set[int] = set()
        """Freed by a settled flush that could be rolled back."""
        self.fresh: set[int] = set()
        self.fixed = {index: tuple(entry) for index, *entry in self.space.media() if entry[0] != ZONE_FREE}
        self.append = {index: entry[1] for index, entry in self.fixed.items()}
        self.owner = {index: entry[0] for index, entry in self.fixed.items()}
        self.settled = self.snapshot()
        self.committed: list[tuple[int, int]] = []

    def snapshot(self) -> tuple[list[tuple[int, int]], dict[int, int], dict[int, int]]:
        return list(self.refs), dict(self.append), dict(self.owner)

    # What the freemap must say

    def in_use(self, index: int) -> int:
        fixed = self.fixed.get(index)
        start = BIGBLOCK_SIZE - fixed[2] if fixed and fixed[0] in ZONES_MAPPED else 0
        return start + sum(round16(n) for off, n in self.refs if block_of(off) == index)

    def take(self, off: int, nbytes: int, zone: int) -> None:
        """A place handed out must be the zone's, whole, and never used since it was free."""
        index, at, end = block_of(off), off % BIGBLOCK_SIZE, off % BIGBLOCK_SIZE + round16(nbytes)
        assert zone_of(off) == zone
        assert off % 16 == 0
        assert end <= BIGBLOCK_SIZE
        assert nbytes > BUFSIZE or off // BUFSIZE == (off + nbytes - 1) // BUFSIZE
        assert self.owner.get(index, zone) == zone
        assert at >= self.append.get(index, 0)
        assert index not in self.waiting | self.fresh
        for other, n in self.reserved:
            assert block_of(other) != index or (zone_of(other) == zone and other + round16(n) <= off)

    def commit(self, off: int, nbytes: int) -> None:
        index = block_of(off)
        assert self.owner.setdefault(index, zone_of(off)) == zone_of(off)
        self.append[index] = max(self.append.get(index, 0), off % BIGBLOCK_SIZE + round16(nbytes))
        self.refs.append((off, nbytes))

    def no_room(self) -> None:
        """NoSpace is right when every free big-block waits or is held by a reservation."""
        held = {block_of(off) for off, _ in self.reserved} | self.waiting | self.fresh
        for vol_no, volume in self.space.volumes.by_number.items():
            for i in range(volume.bigblocks):
                index = block_of(encode(ZONE_RAW_BUFFER, vol_no, i * BIGBLOCK_SIZE))
                assert index in self.owner or index in held

    # Steps

    @rule(zone=st.sampled_from(sorted(ZONES_MAPPED)), nbytes=st.integers(1, XBUFSIZE), count=st.integers(1, 5))
    def allocate(self, zone: int, nbytes: int, count: int) -> None:
        for _ in range(count):
            try:
                off = self.space.alloc.alloc(zone, nbytes)
            except NoSpace:
                self.no_room()
                return
            self.take(off, nbytes, zone)
            self.commit(off, nbytes)

    @rule(zone=st.sampled_from(sorted(ZONES_MAPPED)), count=st.integers(60, 400))
    def fill(self, zone: int, count: int) -> None:
        self.allocate(zone, XBUFSIZE, count)

    @rule(zone=st.sampled_from(DATA_ZONES), nbytes=st.integers(1, XBUFSIZE), count=st.integers(1, 9))
    def reserve(self, zone: int, nbytes: int, count: int) -> None:
        for _ in range(count):
            try:
                off = self.space.alloc.reserve(zone, nbytes)
            except NoSpace:
                self.no_room()
                return
            self.take(off, nbytes, zone)
            self.reserved.append((off, nbytes))

    @precondition(lambda self: self.reserved)
    @rule(seed=st.integers(0, 999), share=st.floats(0, 1))
    def commit_some(self, seed: int, share: float) -> None:
        rng = Random(seed)
        rng.shuffle(self.reserved)
        for _ in range(round(len(self.reserved) * share)):
            off, nbytes = self.reserved.pop()
            self.space.alloc.commit_reserved(off, nbytes)
            self.commit(off, nbytes)
            self.committed.append((off, nbytes))

    @precondition(lambda self: self.reserved)
    @rule(seed=st.integers(0, 999), share=st.floats(0, 1))
    def abandon_some(self, seed: int, share: float) -> None:
        rng = Random(seed)
        rng.shuffle(self.reserved)
        for _ in range(round(len(self.reserved) * share)):
            self.space.alloc.abandon(*self.reserved.pop())

    def drop(self, ref: tuple[int, int]) -> None:
        self.space.alloc.free(*ref)
        self.refs.remove(ref)
        index = block_of(ref[0])
        if not self.in_use(index):
            del self.owner[index], self.append[index]
            self.fresh.add(index)

    @precondition(lambda self: self.refs)
    @rule(data=st.data())
    def free_one(self, data: st.DataObject) -> None:
        self.drop(data.draw(st.sampled_from(self.refs)))

    @precondition(lambda self: self.refs)
    @rule(data=st.data())
    def free_bigblock(self, data: st.DataObject) -> None:
        """All references into one big-block go: often it becomes free."""
        index = block_of(data.draw(st.sampled_from(self.refs))[0])
        for ref in [ref for ref in self.refs if block_of(ref[0]) == index]:
            self.drop(ref)

    @precondition(lambda self: self.refs)
    @rule(data=st.data(), count=st.integers(1, 200))
    def share(self, data: st.DataObject, count: int) -> None:
        ref = data.draw(st.sampled_from(self.refs))
        if self.version < 5:
            with pytest.raises(InvalidError, match="no shared extents"):
                self.space.alloc.add_ref(*ref)
            return
        for _ in range(count):
            self.space.alloc.add_ref(*ref)
            self.refs.append(ref)

    @rule()
    def settle(self) -> None:
        self.space.settle()
        self.waiting |= self.fresh
        self.fresh = set()
        self.committed = []
        self.settled = self.snapshot()
        self.check_media()

    @rule()
    def flush(self) -> None:
        self.settle()
        self.space.flush()
        self.waiting = set()

    @rule()
    def fail(self) -> None:
        """The section fails: all is as the media has it, reservations stand."""
        self.space.cache.discard_dirty()
        self.space.alloc.reset()
        self.refs, self.append, self.owner = self.settled
        self.settled = self.snapshot()
        self.reserved += self.committed
        self.committed = []
        self.fresh = set()
        self.check_media()

    def check_media(self) -> None:
        for index, zone, append, free in self.space.media():
            assert zone == self.owner.get(index, ZONE_FREE)
            assert append == self.append.get(index, 0)
            if zone in ZONES_MAPPED or zone == ZONE_FREE:
                assert free == BIGBLOCK_SIZE - self.in_use(index)
        for zone in ZONES_MAPPED:
            assert self.space.volumes.superblock.vol0_blockmap[zone].next_offset >> ZONE_SHIFT in {zone, zone + 1}

    @invariant()
    def counters(self) -> None:
        free = sum(volume.bigblocks for volume in self.space.volumes) - len(self.owner)
        assert self.space.alloc.free_bigblocks == free
        assert self.space.alloc.delayed_bigblocks == len(self.waiting | self.fresh)
        reserved = {block_of(off) for off, _ in self.reserved} - self.owner.keys()
        usable = free - len(self.waiting | self.fresh | reserved)
        assert self.space.alloc.has_space({}, usable)
        assert not self.space.alloc.has_space({ZONE_LARGE_DATA: BIGBLOCK_SIZE}, usable)


class Model1(Model):
    version = 1


class Model6Two(Model):
    version = 6
    blocks = (9, 4)


class Model7Three(Model):
    blocks = (8, 3, 5)


for machine in (Model, Model1, Model6Two, Model7Three):
    machine.TestCase.settings = settings(max_examples=15, stateful_step_count=40, deadline=None)
TestModel = Model.TestCase
TestModel1 = Model1.TestCase
TestModel6Two = Model6Two.TestCase
TestModel7Three = Model7Three.TestCase
