"""The arena: buffers keep their bytes while somebody uses or pins them, limits are hard, misuse is named."""

from __future__ import annotations

import mmap

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from kernelcore import stat
from kernelcore.arena import CHUNK, REGION_CHUNKS, Arena, Buf
from kernelcore.panic import KernelPanic


def test_buffers_are_aligned_zeroed_and_reused() -> None:
    arena = Arena(4 * CHUNK)
    bufs = [arena.alloc() for _ in range(4)]
    assert all(buf is not None and len(buf.mv) == CHUNK and not any(buf.ro) for buf in bufs)
    assert arena.alloc() is None
    first = bufs[0]
    assert first is not None
    first.mv[:3] = b"abc"
    assert bytes(first.ro[:3]) == b"abc"
    with pytest.raises(TypeError):
        first.ro[0] = 1
    arena.free(first)
    assert arena.alloc() is first
    row = arena.stats()
    assert (row.made, row.in_use, row.failures, row.allocs) == (4, 4, 1, 5)


def test_a_pinned_buffer_comes_back_with_its_last_pin() -> None:
    arena = Arena(CHUNK)
    buf = arena.alloc()
    assert buf is not None
    buf.pin()
    buf.pin()
    arena.free(buf)
    assert arena.alloc() is None
    buf.unpin()
    assert arena.stats().pinned == 1
    assert arena.alloc() is None
    buf.unpin()
    assert arena.alloc() is buf


def test_runs_are_neighbours_in_memory() -> None:
    arena = Arena((REGION_CHUNKS + 8) * CHUNK)
    scattered = [arena.alloc() for _ in range(10)]
    for buf in scattered[::2]:
        assert buf is not None
        arena.free(buf)
    run = arena.alloc_run(6)
    assert run is not None
    assert [buf.index - run[0].index for buf in run] == list(range(6))
    with arena.run_view(run) as view:
        assert len(view) == 6 * CHUNK
        view[CHUNK - 1] = 7
        view[CHUNK] = 8
    assert (run[0].ro[-1], run[1].ro[0]) == (7, 8)
    assert arena.alloc_run(REGION_CHUNKS + 1) is None
    for buf in run:
        arena.free(buf)
    assert arena.alloc_run(6) is not None


def test_the_memory_of_one_buffer_is_given_back_and_the_others_stay() -> None:
    arena = Arena(2 * CHUNK, name="discarding")
    first, second = arena.alloc(), arena.alloc()
    assert first is not None
    assert second is not None
    first.mv[:3] = second.mv[:3] = b"abc"
    assert arena.discard(first) == CHUNK
    assert bytes(first.mv[:3]) + bytes(second.mv[:3]) == b"\0\0\0abc"
    arena.free(first)
    arena.free(second)
    assert "discarding" in {row.name for row in stat.arenas()}
    arena.close()
    assert "discarding" not in {row.name for row in stat.arenas()}


@pytest.mark.parametrize("debug", [False, True])
def test_misuse_names_the_buffer(debug: bool) -> None:
    arena, other = Arena(4 * CHUNK, name="mine", debug=debug), Arena(CHUNK, name="other")
    buf = arena.alloc()
    assert buf is not None
    with pytest.raises(KernelPanic, match="freed to arena 'other'"):
        other.free(buf)
    with pytest.raises(KernelPanic, match="unpin of a buffer without pins"):
        buf.unpin()
    arena.free(buf)
    with pytest.raises(KernelPanic, match="double free: <Buf 0 of arena 'mine', free, 0 pins>"):
        arena.free(buf)
    with pytest.raises(KernelPanic, match="pin of a free buffer"):
        buf.pin()


def test_a_write_after_free_is_found() -> None:
    arena = Arena(CHUNK, debug=True)
    buf = arena.alloc()
    assert buf is not None
    arena.free(buf)
    buf.mv[100] ^= 1
    with pytest.raises(KernelPanic, match="write after free: <Buf 0"):
        arena.alloc()


@pytest.mark.skipif(not hasattr(mmap, "MADV_DONTNEED"), reason="the host takes no advice about memory")
def test_idle_memory_goes_back_to_the_host() -> None:
    arena = Arena(8 * CHUNK)
    bufs = [arena.alloc() for _ in range(8)]
    for buf in bufs:
        assert buf is not None
        buf.mv[:] = b"x" * CHUNK
    kept = bufs.pop()
    for buf in bufs:
        assert buf is not None
        arena.free(buf)
    assert arena.release() == 7 * CHUNK
    assert kept is not None
    assert kept.ro[0] == ord("x")
    again = arena.alloc()
    assert again is not None
    assert not any(again.ro)


def test_closing_in_order() -> None:
    arena = Arena(2 * CHUNK, name="a")
    buf = arena.alloc()
    assert buf is not None
    with pytest.raises(KernelPanic, match="closed with 1 buffers in use"):
        arena.close()
    arena.free(buf)
    view = buf.ro[10:20]
    with pytest.raises((KernelPanic, BufferError)):
        arena.close()
    view.release()


def test_sizes_that_make_no_sense() -> None:
    with pytest.raises(ValueError, match="whole pages"):
        Arena(1 << 20, 1000)
    with pytest.raises(ValueError, match="holds no buffer"):
        Arena(100)


class ArenaMachine(RuleBasedStateMachine):
    """Against a dict from buffers in use or pinned to the byte they were filled with."""

    def __init__(self) -> None:
        super().__init__()
        self.arena = Arena(6 * CHUNK, debug=True)
        self.used: dict[Buf, int] = {}
        self.limbo: dict[Buf, int] = {}
        self.pins: dict[Buf, int] = {}
        self.next = 0

    def fill(self, buf: Buf) -> None:
        self.next = (self.next + 1) % 256
        buf.mv[:] = bytes([self.next]) * CHUNK
        self.used[buf] = self.next

    @rule()
    def alloc(self) -> None:
        buf = self.arena.alloc()
        if len(self.used) + len(self.limbo) == 6:
            assert buf is None
        else:
            assert buf is not None
            assert buf not in self.used
            assert buf not in self.limbo
            self.fill(buf)

    @rule(count=st.integers(1, 4))
    def alloc_run(self, count: int) -> None:
        run = self.arena.alloc_run(count)
        free = sorted({0, 1, 2, 3, 4, 5} - {buf.index for buf in (*self.used, *self.limbo)})
        possible = any(free[i : i + count] == list(range(at, at + count)) for i, at in enumerate(free))
        assert (run is not None) == possible
        for buf in run or []:
            self.fill(buf)

    @precondition(lambda self: self.used)
    @rule(data=st.data())
    def free(self, data: st.DataObject) -> None:
        buf = data.draw(st.sampled_from(sorted(self.used, key=lambda buf: buf.index)))
        value = self.used.pop(buf)
        if self.pins.get(buf):
            self.limbo[buf] = value
        self.arena.free(buf)

    @precondition(lambda self: self.used)
    @rule(data=st.data())
    def pin(self, data: st.DataObject) -> None:
        buf = data.draw(st.sampled_from(sorted(self.used, key=lambda buf: buf.index)))
        buf.pin()
        self.pins[buf] = self.pins.get(buf, 0) + 1

    @precondition(lambda self: any(self.pins.values()))
    @rule(data=st.data())
    def unpin(self, data: st.DataObject) -> None:
        pinned = sorted((buf for buf, pins in self.pins.items() if pins), key=lambda buf: buf.index)
        buf = data.draw(st.sampled_from(pinned))
        buf.unpin()
        self.pins[buf] -= 1
        if not self.pins[buf]:
            self.limbo.pop(buf, None)

    @invariant()
    def bytes_stay(self) -> None:
        for buf, value in (*self.used.items(), *self.limbo.items()):
            assert bytes(buf.ro) == bytes([value]) * CHUNK
        row = self.arena.stats()
        assert (row.in_use, row.pinned) == (len(self.used), len(self.limbo))


TestArenaMachine = ArenaMachine.TestCase
TestArenaMachine.settings = settings(max_examples=40, stateful_step_count=40, deadline=None)
