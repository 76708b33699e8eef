"""kmalloc and kfree: classes, zones, remote frees, limits, waiting, the debug mode."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import pytest

from kernelcore import stat
from kernelcore.crit import splz
from kernelcore.globaldata import cpu
from kernelcore.host.sim import SimDeadlock, SimHost
from kernelcore.host.thread_host import ThreadHost
from kernelcore.host.up import UpHost
from kernelcore.ipiq import send_ipiq
from kernelcore.malloctype import (
    M_NOWAIT,
    M_NULLOK,
    M_POWEROF2,
    M_RNOWAIT,
    M_USE_RESERVE,
    M_WAITOK,
    M_ZERO,
    MallocType,
)
from kernelcore.panic import KernelPanic, LimitExceeded, WrongContext
from kernelcore.sched import lwkt_switch, lwkt_user_yield
from kernelcore.slab import kfree, kmalloc, kmalloc_wait, malloc_uninit, slab_cleanup
from kernelcore.slabcheck import check_slab
from kernelcore.slabcpu import CLEANUP_S, Slab, slab_of
from kernelcore.sleep import sleep_until, tsleep, wakeup
from kernelcore.thread import lwkt_create
from kernelcore.zone import CHUNK_LIMIT, CHUNK_SIZE, NZONES, SLIDE, ZONE_SIZE, Chunk, Zone, zoneindex
from tests.unit.kernelcore.memory import any_cpu, hasty


@pytest.fixture(autouse=True)
def cpu_put_back() -> Iterator[None]:
    with any_cpu():
        yield


class Machine:
    """CPUs on which the test itself is the running code; no thread runs."""

    def __init__(self, ncpus: int = 2, memory: int = 64 * ZONE_SIZE, **kwargs: Any) -> None:
        self.host = UpHost(ncpus)
        kwargs.setdefault("reserve", 0)
        self.slab = Slab(self.host, memory, **kwargs)
        self.mtype = MallocType("mine", limit=memory * 2, slab=self.slab)
        self.cpus = self.slab.cpus

    @contextmanager
    def on(self, n: int) -> Iterator[None]:
        """Be CPU `n`."""
        before, cpu.gd = cpu.gd, self.host.gds[n]
        try:
            yield
        finally:
            cpu.gd = before

    def get(self, size: int, flags: int = M_WAITOK) -> Chunk:
        chunk = kmalloc(size, self.mtype, flags)
        assert chunk is not None
        return chunk

    def fill_zone(self, size: int = CHUNK_LIMIT) -> list[Chunk]:
        """All chunks of one zone."""
        return [self.get(size) for _ in range(ZONE_SIZE // size)]

    def free(self, *chunks: Chunk) -> None:
        for chunk in chunks:
            kfree(chunk, self.mtype)


@pytest.fixture
def machine() -> Machine:
    return Machine()


def zone_of(chunk: Chunk) -> Zone:
    return chunk.c_zone


def address(chunk: Chunk) -> int:
    return ctypes.addressof(ctypes.c_char.from_buffer(chunk.mv))


# -------------------------------------------------------------------- classes


def test_there_are_72_classes_as_the_table_says() -> None:
    assert NZONES == 72
    table = [(128, 8, 16), (256, 16, 8), (512, 32, 8), (1024, 64, 8), (2048, 128, 8), (4096, 256, 8), (8192, 512, 8)]
    sizes: list[int] = []
    for top, chunking, count in [*table, (16384, 1024, 8)]:
        sizes += range(top - (count - 1) * chunking, top + 1, chunking)
    assert list(CHUNK_SIZE) == sizes


@pytest.mark.parametrize(
    ("nbytes", "index", "size"),
    [
        *[(1, 0, 8), (8, 0, 8), (9, 1, 16), (127, 15, 128), (128, 15, 128), (129, 16, 144), (256, 23, 256)],
        *[(257, 24, 288), (511, 31, 512), (512, 31, 512), (1023, 39, 1024), (1024, 39, 1024), (2048, 47, 2048)],
        *[(4096, 55, 4096), (8192, 63, 8192), (8193, 64, 9216), (16383, 71, 16384), (16384, 71, 16384)],
    ],
)
def test_requests_round_up_to_their_class(nbytes: int, index: int, size: int) -> None:
    assert zoneindex(nbytes) == (index, size)


def test_the_smallest_class_that_holds_a_request_is_used() -> None:
    for nbytes in range(1, CHUNK_LIMIT + 1):
        index, size = zoneindex(nbytes)
        assert CHUNK_SIZE[index] == size >= nbytes
        assert index == 0 or CHUNK_SIZE[index - 1] < nbytes
    with pytest.raises(ValueError, match="no class of chunks for 16385 bytes"):
        zoneindex(CHUNK_LIMIT + 1)


@pytest.mark.parametrize("nbytes", [1, 100, 128, 640, 4096, 9000, 16384])
def test_chunks_are_disjoint_aligned_and_inside_their_zone(machine: Machine, nbytes: int) -> None:
    index, size = zoneindex(nbytes)
    count = ZONE_SIZE // size
    chunks = [machine.get(nbytes) for _ in range(2 * count)]
    assert {len(chunk.mv) for chunk in chunks} == {size}
    starts = sorted(address(chunk) for chunk in chunks)
    assert all(b - a >= size for a, b in pairwise(starts))
    for chunk in chunks:
        buf = zone_of(chunk).z_buf
        assert buf is not None
        at = address(chunk) - ctypes.addressof(ctypes.c_char.from_buffer(buf.mv))
        assert 0 <= at <= ZONE_SIZE - size
        assert at % (size if size & (size - 1) == 0 else 8) == 0
    assert len({zone_of(chunk) for chunk in chunks}) == 2
    check_slab(machine.slab)
    assert machine.cpus[0].zone_ary[index] == []  # both are full
    machine.free(*chunks)
    check_slab(machine.slab)


def test_a_zone_holds_eight_16_kib_buffers_since_its_header_lies_outside(machine: Machine) -> None:
    assert {zone_of(chunk) for chunk in machine.fill_zone()} == {next(iter(machine.cpus[0].zones))}


def test_each_new_zone_begins_further_on(machine: Machine) -> None:
    firsts = [machine.fill_zone(128)[0].c_index for _ in range(3)]
    assert firsts == [0, SLIDE, 2 * SLIDE]


def test_the_chunk_freed_last_is_used_first(machine: Machine) -> None:
    a, b = machine.get(100), machine.get(100)
    machine.free(a, b)
    assert machine.get(104) is b
    assert machine.get(97) is a


def test_flags_zero_and_power_of_two(machine: Machine) -> None:
    chunk = machine.get(600)
    chunk.mv[:] = b"x" * len(chunk.mv)
    machine.free(chunk)
    again = machine.get(600, M_ZERO)
    assert again is chunk
    assert not any(again.mv)
    assert len(machine.get(600, M_POWEROF2).mv) == 1024
    assert len(machine.get(513).mv) == 576
    assert len(machine.get(20000, M_POWEROF2 | M_ZERO).mv) == 32768


def test_no_bytes_are_one_chunk_for_all(machine: Machine) -> None:
    nothing = machine.get(0)
    assert machine.get(0) is nothing
    assert len(nothing.mv) == 0
    machine.free(nothing, nothing)
    assert machine.mtype.ks_calls == 0
    with pytest.raises(KernelPanic, match="kmalloc of -1 bytes of type 'mine'"):
        machine.get(-1)


# ------------------------------------------------------------ zones come and go


def test_a_zone_that_is_free_is_kept_if_it_is_the_only_one_of_its_class(machine: Machine) -> None:
    first, second = machine.fill_zone(), machine.fill_zone()
    sc = machine.cpus[0]
    machine.free(*first)
    assert (len(sc.zones), len(sc.free_zones)) == (2, 0)  # the other one is full, off the list
    machine.free(*second)
    assert (len(sc.zones), len(sc.free_zones)) == (1, 1)
    machine.fill_zone(64)  # takes the free zone for another class
    assert (len(sc.zones), len(sc.free_zones)) == (2, 0)
    assert sc.slabs_allocated == 2
    check_slab(machine.slab)


def test_only_a_malloc_that_may_block_gives_zones_back() -> None:
    machine = Machine(zone_cache=2)
    sc = machine.cpus[0]
    machine.free(*[chunk for _ in range(6) for chunk in machine.fill_zone()])
    assert len(sc.free_zones) == 5
    machine.free(machine.get(16384, M_RNOWAIT))
    assert (len(sc.free_zones), sc.slabs_freed) == (5, 0)
    machine.free(machine.get(16384, M_WAITOK))
    assert (len(sc.free_zones), sc.slabs_freed) == (2, 3)
    check_slab(machine.slab)


def test_memory_given_back_reads_as_zeros() -> None:
    machine = Machine(zone_cache=0)
    first, second = machine.fill_zone(), machine.fill_zone()
    for chunk in first + second:
        chunk.mv[:] = b"\xff" * CHUNK_LIMIT
    machine.free(*first, *second)
    kept = machine.get(16384)
    assert machine.cpus[0].slabs_freed == 1
    rest = machine.fill_zone()
    assert not any(any(chunk.mv) for chunk in rest if zone_of(chunk) is not zone_of(kept))


def test_the_reserve_is_for_those_who_say_so() -> None:
    machine = Machine(memory=4 * ZONE_SIZE, reserve=1)
    chunks = [chunk for _ in range(3) for chunk in machine.fill_zone()]
    assert kmalloc(16384, machine.mtype, M_NOWAIT) is None
    with pytest.raises(LimitExceeded, match="no memory left for 16384 bytes of type 'mine': wait for it"):
        kmalloc(16384, machine.mtype)
    last = machine.get(16384, M_USE_RESERVE)
    machine.free(last, *chunks)
    check_slab(machine.slab)


# --------------------------------------------------------------- remote frees


def test_a_remote_free_of_a_listed_zone_sends_nothing_but_the_request_for_a_cleanup(machine: Machine) -> None:
    chunks = machine.fill_zone()[:-1]
    last = machine.get(16384)
    zone = zone_of(chunks[0])
    machine.free(chunks.pop())  # so the zone is on its list
    with machine.on(1):
        machine.free(*chunks[:3])
    assert len(zone.z_rchunks) == 3
    assert machine.host.gds[1].gd_cnt.ipiq_passive == 1
    assert not zone.z_rcount
    check_slab(machine.slab)
    assert machine.mtype.ks_use[1].memuse == -3 * 16384
    assert machine.mtype.ks_memuse == 5 * 16384
    more = [machine.get(16384) for _ in range(4)]  # the zone runs dry, and finds them
    assert {zone_of(chunk) for chunk in more} == {zone, zone_of(last)} - {zone_of(last)} | {zone}
    assert not zone.z_rchunks


def test_a_remote_free_of_a_dry_zone_is_told_by_one_passive_ipi(machine: Machine) -> None:
    chunks = machine.fill_zone()
    zone = zone_of(chunks[0])
    assert machine.cpus[0].zone_ary[71] == []
    with machine.on(1):
        machine.free(*chunks[:3])
    assert (machine.host.gds[1].gd_cnt.ipiq_passive, len(zone.z_rcount)) == (1, 1)
    check_slab(machine.slab)
    splz()
    assert machine.cpus[0].zone_ary[71] == [zone]
    assert (zone.z_nfree, len(zone.z_rcount), zone.z_rsignal) == (3, 0, False)
    check_slab(machine.slab)


def test_a_zone_is_not_retired_while_it_is_told_of(machine: Machine) -> None:
    first, second = machine.fill_zone(), machine.fill_zone()
    zone = zone_of(first[0])
    with machine.on(1):
        machine.free(first[0])
    machine.free(*first[1:])  # back on the list: more zones of its class to come
    machine.free(second[0])
    slab_cleanup()  # collects the chunk, all are free now
    assert zone in machine.cpus[0].zones
    check_slab(machine.slab)
    splz()
    assert zone not in machine.cpus[0].zones
    assert len(machine.cpus[0].free_zones) == 1
    check_slab(machine.slab)


def test_the_cleanup_retires_zones_whose_last_chunks_were_freed_elsewhere() -> None:
    host = SimHost(2, seed=1)
    slab = Slab(host)
    mtype = MallocType("mine", slab=slab)

    async def main() -> None:
        chunks = [await kmalloc_wait(16384, mtype) for _ in range(16)]
        kfree(chunks[0], mtype)
        kfree(chunks[8], mtype)  # both zones are listed
        lwkt_create(elsewhere, chunks[1:8], cpu_id=1)
        await tsleep("nothing", 0, "nap", CLEANUP_S / 2)
        assert len(slab.cpus[0].zones) == 2
        await tsleep("nothing", 0, "nap", CLEANUP_S)
        assert len(slab.cpus[0].zones) == 1
        assert not slab.cpus[0].due  # asked for again only when there is something to do
        for chunk in chunks[9:]:
            kfree(chunk, mtype)

    async def elsewhere(chunks: list[Chunk]) -> None:
        for chunk in chunks:
            kfree(chunk, mtype)

    host.call(main())
    check_slab(slab)
    host.stop()


# ------------------------------------------------------------ types and limits


def test_types_count_chunks_bytes_requests_and_the_highest_use(machine: Machine) -> None:
    other = MallocType("other", slab=machine.slab)
    chunks = [machine.get(100) for _ in range(10)]
    with machine.on(1):
        more = [machine.get(1000) for _ in range(2)]
    machine.free(*chunks[:5])
    for chunk in (kmalloc(5000, other), kmalloc(50000, other)):
        assert chunk is not None
        kfree(chunk, other)
    rows = {row.type: row for row in stat.vmstat_m(machine.host)}
    assert rows["mine"] == ("mine", 7, 5 * 104 + 2 * 1024, 10 * 104 + 2 * 1024, machine.mtype.ks_limit, 12, 0)
    assert rows["other"] == ("other", 0, 0, 53248 + 5120, machine.slab.memory // 10, 2, 0)
    machine.free(*chunks[5:], *more)
    assert machine.mtype.ks_highuse == 10 * 104 + 2 * 1024
    text = stat.vmstat_m_text(stat.vmstat_m(machine.host))
    assert text.splitlines()[-1] == "Memory totals: 0 chunks, 0 bytes in use, 14 requests"
    assert stat.vmstat_m_text([]).splitlines()[-1].startswith("Memory totals: 0 chunks")


@pytest.mark.parametrize("ncpus", [1, 3])
def test_a_limit_is_hard_whichever_cpu_allocates(ncpus: int) -> None:
    machine = Machine(ncpus)
    mtype = MallocType("small", limit=10 * 1024, slab=machine.slab)
    got: list[Chunk] = []
    for n in range(14):
        with machine.on(n % ncpus):
            chunk = kmalloc(1024, mtype, M_NULLOK)
            got += [chunk] if chunk is not None else []
    assert len(got) == 10
    with pytest.raises(LimitExceeded, match="malloc limit exceeded: 1024 bytes of type 'small', 10240 of 10240"):
        kmalloc(1024, mtype)
    with machine.on(ncpus - 1):
        for chunk in got[:3]:
            kfree(chunk, mtype)
    with machine.on(0):
        assert all(kmalloc(1024, mtype, M_NULLOK) for _ in range(3))
        assert kmalloc(8, mtype, M_NULLOK) is None
    assert (mtype.ks_highuse, mtype.ks_blocked) == (10240, 6)


def test_a_type_of_another_domain_or_destroyed_is_refused(machine: Machine) -> None:
    elsewhere = UpHost(1)
    foreign = MallocType("foreign", slab=slab_of(elsewhere))
    with machine.on(0):
        with pytest.raises(
            KernelPanic, match="malloc type 'foreign' used on <cpu 0 of domain>, which does not know it"
        ):
            kmalloc(8, foreign)
        with pytest.raises(KernelPanic, match="foreign"):
            kmalloc(1 << 20, foreign)
        chunk = machine.get(8)
    cpu.gd = elsewhere.gds[0]
    with pytest.raises(KernelPanic, match="malloc type 'mine' used on"):
        kfree(chunk, machine.mtype)
    with pytest.raises(KernelPanic, match="has a slab already"):
        Slab(elsewhere)
    cpu.gd = UpHost(1).gds[0]  # a domain without a slab
    with pytest.raises(KernelPanic, match="malloc type 'mine' used on"):
        kmalloc(8, machine.mtype)
    with pytest.raises(KernelPanic, match="malloc type 'mine' used on"):
        kfree(chunk, machine.mtype)


def test_a_type_is_destroyed_when_nothing_of_it_is_in_use() -> None:
    host = UpHost(2)

    async def main() -> None:
        mtype = MallocType("mine")
        chunk = kmalloc(10, mtype)
        assert chunk is not None
        with pytest.raises(KernelPanic, match="malloc_uninit of type 'mine' with 1 chunks, 16 bytes in use"):
            await malloc_uninit(mtype)
        kfree(chunk, mtype)
        await malloc_uninit(mtype)
        assert stat.vmstat_m() == []
        with pytest.raises(KernelPanic, match="does not know it"):
            kmalloc(10, mtype)

    host.call(main())
    host.stop()


# --------------------------------------------------------------------- waiting


@pytest.mark.parametrize("freer_cpu", [0, 1])
def test_at_the_limit_in_production_a_malloc_that_may_block_waits(freer_cpu: int) -> None:
    host = SimHost(2, seed=3, debug=False)
    slab = Slab(host)
    mtype = MallocType("small", limit=2048, slab=slab)
    order: list[str] = []

    async def main() -> None:
        held = [await kmalloc_wait(1024, mtype) for _ in range(2)]
        lwkt_create(freer, held[0], cpu_id=freer_cpu)
        chunk = await kmalloc_wait(600, mtype)
        order.append("got")
        kfree(chunk, mtype)
        kfree(held[1], mtype)

    async def freer(chunk: Chunk) -> None:
        await tsleep("nothing", 0, "nap", 0.5)
        order.append("freed")
        kfree(chunk, mtype)

    host.call(main())
    assert order == ["freed", "got"]
    assert mtype.ks_blocked == 1
    check_slab(slab)
    host.stop()


def test_waiting_for_what_can_never_be_is_refused_and_waiting_for_nobody_is_a_deadlock() -> None:
    host = SimHost(1, seed=3, debug=False)
    mtype = MallocType("small", limit=2048, slab=slab_of(host))

    async def too_much() -> None:
        await kmalloc_wait(2000, mtype, M_POWEROF2)
        await kmalloc_wait(2049, mtype)

    async def forever() -> None:
        await kmalloc_wait(8, mtype)

    with pytest.raises(LimitExceeded, match="2304 bytes of type 'small', 2048 of 2048 bytes are in use"):
        host.call(too_much())
    with pytest.raises(SimDeadlock, match="waits for 'small'"):
        host.call(forever())
    host.stop()


def test_at_the_limit_in_debug_mode_waiting_is_a_panic() -> None:
    host = UpHost(1, debug=True)

    async def main() -> None:
        mtype = MallocType("small", limit=1024)
        await kmalloc_wait(1000, mtype)
        with pytest.raises(LimitExceeded, match="malloc limit exceeded: 8 bytes of type 'small'"):
            await kmalloc_wait(8, mtype, M_NULLOK)

    host.call(main())
    host.stop()


def test_who_waits_for_memory_gets_the_free_zones_of_other_cpus() -> None:
    host = SimHost(2, seed=5)
    slab = Slab(host, 4 * ZONE_SIZE, reserve=0)
    mtype = MallocType("mine", limit=8 * ZONE_SIZE, slab=slab)

    async def hoarder() -> None:
        chunks = [await kmalloc_wait(16384, mtype) for _ in range(4 * 8)]
        for chunk in chunks:
            kfree(chunk, mtype)

    async def needy() -> list[Chunk]:
        return [await kmalloc_wait(100, mtype, M_ZERO) for _ in range(2 * ZONE_SIZE // 104)]

    host.call(hoarder(), cpu_id=1)
    assert len(slab.cpus[1].free_zones) == 3
    chunks = host.call(needy(), cpu_id=0)
    assert len(slab.cpus[0].zones) == 2
    assert not slab.cpus[1].free_zones
    check_slab(slab)
    assert len(chunks) == 2520
    host.stop()


def test_sleep_until_leaves_no_hook_behind_when_its_attempt_fails() -> None:
    host = SimHost(1)
    attempts = iter([None, ValueError("no")])

    def attempt() -> str | None:
        result = next(attempts)
        if isinstance(result, Exception):
            raise result
        return result

    async def waker() -> None:
        wakeup("it")

    async def main() -> None:
        lwkt_create(waker)
        with pytest.raises(ValueError, match="no"):
            await sleep_until("it", attempt, "it")
        assert "it" not in cpu.gd.gd_tsleep_hash
        await lwkt_user_yield()

    host.call(main())
    host.stop()


def test_waiting_is_for_threads(machine: Machine) -> None:
    coro = kmalloc_wait(8, machine.mtype)
    with pytest.raises(WrongContext, match=r"kmalloc_wait\(mine\) awaited outside a kernel thread"):
        coro.send(None)


# ------------------------------------------------------------------- oversized


@pytest.mark.parametrize("debug", [False, True])
def test_oversized_requests_get_pages_of_their_own(debug: bool) -> None:
    machine = Machine(debug=debug)
    chunk = machine.get(CHUNK_LIMIT + 1)
    assert len(chunk.mv) == 20480
    assert address(chunk) % 4096 == 0
    assert not any(chunk.mv)
    assert machine.mtype.ks_memuse == 20480
    assert stat.sysctl(machine.host)["kern.zone_big_alloc"] == 20
    check_slab(machine.slab)
    with machine.on(1):
        machine.free(chunk)
    with pytest.raises(ValueError, match="released memoryview"):
        chunk.mv[0] = 1
    with pytest.raises(KernelPanic, match="double free of <chunk 0 of pages of its own"):
        machine.free(chunk)
    assert machine.mtype.ks_inuse == 0
    check_slab(machine.slab)


@pytest.mark.parametrize("debug", [False, True])
def test_oversized_chunks_freed_in_an_ipi_function_are_unmapped_by_a_malloc_that_may_block(debug: bool) -> None:
    machine = Machine(debug=debug)
    chunk = machine.get(1 << 20)
    with machine.on(1):
        send_ipiq(machine.host.gds[1], lambda _arg, _arg2: machine.free(chunk))
        assert machine.cpus[1].parked == [chunk]
        machine.free(machine.get(8, M_RNOWAIT))
        assert machine.cpus[1].parked == [chunk]
        machine.free(machine.get(8))
    assert machine.cpus[1].parked == []
    with pytest.raises(ValueError, match="released memoryview"):
        chunk.mv[0] = 1


def test_an_oversized_chunk_of_which_somebody_holds_a_view_is_named(machine: Machine) -> None:
    chunk = machine.get(1 << 20)
    view = chunk.mv[10:20]
    with pytest.raises(KernelPanic, match=r"freed while somebody holds a view of it: .*last of type 'mine'"):
        machine.free(chunk)
    view.release()


def test_what_no_machine_has_is_exhausted_memory() -> None:
    machine = Machine()
    mtype = MallocType("huge", limit=1 << 80, slab=machine.slab)
    assert kmalloc(1 << 60, mtype, M_NOWAIT) is None
    with pytest.raises(LimitExceeded, match="no memory left"):
        kmalloc(1 << 70, mtype)
    assert mtype.ks_memuse == 0


# --------------------------------------------------------------- misuse, debug


@pytest.mark.parametrize("debug", [False, True])
@pytest.mark.parametrize("elsewhere", [0, 1])
def test_a_double_free_names_the_chunk_and_the_type(debug: bool, elsewhere: int) -> None:
    machine = Machine(debug=debug)
    chunk, other = machine.get(100), MallocType("other", slab=machine.slab)
    what = r"<chunk 0 of zone 0 \(104 bytes, cpu 0\)"
    with machine.on(elsewhere):
        with pytest.raises(KernelPanic, match=rf"kfree of {what}, type 'mine'> as type 'other' by thread 'idle_"):
            kfree(chunk, other)
        machine.free(chunk)
        with pytest.raises(KernelPanic, match=rf"double free of {what}, free> as type 'mine' by thread 'idle_"):
            machine.free(chunk)
    check_slab(machine.slab)


def test_debug_a_write_after_free_is_found_at_the_next_use_and_names_chunk_and_type() -> None:
    machine = Machine(debug=True)
    chunk = machine.get(100)
    machine.free(chunk)
    chunk.mv[42] = 7
    expected = r"write after free at byte 42 of <chunk 0 of zone 0 \(104 bytes, cpu 0\), free>, last of type 'mine'"
    with pytest.raises(KernelPanic, match=expected):
        machine.get(104)


def test_debug_a_write_to_memory_never_handed_out_is_found() -> None:
    machine = Machine(debug=True)
    buf = zone_of(machine.get(16384)).z_buf
    assert buf is not None
    buf.mv[16384] = 0
    with pytest.raises(KernelPanic, match=r"write after free at byte 0 of <chunk 1 of zone 0 .*, never used"):
        machine.get(16384)


def test_debug_a_write_after_free_is_found_when_the_zone_is_retired_or_used_again() -> None:
    machine = Machine(debug=True)
    first, second = machine.fill_zone(), machine.fill_zone()
    machine.free(*first, *second[:-1])
    second[3].mv[9] = 1
    with pytest.raises(KernelPanic, match=r"write after free at byte 9 of .*last of type 'mine'"):
        machine.free(second[-1])

    machine = Machine(debug=True)
    first, second = machine.fill_zone(), machine.fill_zone()
    machine.free(*first, *second)
    second[3].mv[9] = 1
    machine.fill_zone()
    with pytest.raises(
        KernelPanic, match=rf"write after free at byte {second[3].c_index * 16384 + 9} of free zone 1 of cpu 0"
    ):
        machine.get(8)


def test_debug_new_memory_shows_the_pattern_and_two_owners_are_found() -> None:
    machine = Machine(debug=True)
    chunk = machine.get(8)
    assert bytes(chunk.mv) == b"\xde\xc0\xad\xde" * 2
    zone_of(chunk).z_lchunks.append(chunk)
    with pytest.raises(KernelPanic, match="allocated twice: <chunk 0 of zone 0"):
        machine.get(8)


# ------------------------------------------------------------------ statistics


def test_sysctl_and_slab_rows_count_zones(machine: Machine) -> None:
    first, second = machine.fill_zone(), machine.fill_zone()
    machine.free(*first, *second)
    tree = stat.sysctl(machine.host)
    names = ("zone_big_alloc", "zone_gen_alloc", "zone_cache", "slabs_allocated", "slabs_freed")
    assert [tree[f"kern.{name}"] for name in names] == [0, 256, 32, 2, 0]
    assert stat.slab(machine.host) == [(0, 1, 1, 2, 0), (1, 0, 0, 0, 0)]
    assert stat.text(stat.SlabRow, stat.slab(machine.host)).splitlines()[0].split()[:3] == ["CPU", "ZONES", "FREEZONES"]
    rows = {row.name: row for row in stat.arenas()}
    assert rows["slab of domain"].chunk == ZONE_SIZE
    without = UpHost(1)
    assert "kern.zone_cache" not in stat.sysctl(without)
    assert (stat.slab(without), stat.vmstat_m(without)) == ([], [])


# ------------------------------------------------ CPUs that really run side by side


@pytest.mark.parametrize("rounds", [150, pytest.param(4000, marks=pytest.mark.long)])
def test_thread_host_chunks_handed_around_and_freed_elsewhere_keep_their_bytes(rounds: int) -> None:
    ncpus = 3
    with hasty(), ThreadHost(ncpus, debug=False) as host:
        slab = Slab(host, cleanup_s=0.01)
        mtype = MallocType("mine", limit=slab.memory, slab=slab)
        boxes: list[list[tuple[Chunk, bytes]]] = [[] for _ in range(ncpus)]

        async def worker(me: int) -> None:
            for i in range(rounds):
                size = (64, 1000, 16384)[i % 3]
                for n in range(12):
                    chunk = kmalloc(size, mtype)
                    assert chunk is not None
                    mark = bytes((me, i % 256, n)) * 4
                    chunk.mv[:12] = mark
                    boxes[(me + n) % ncpus].append((chunk, mark))
                while boxes[me]:
                    chunk, mark = boxes[me].pop()
                    assert bytes(chunk.mv[:12]) == mark
                    kfree(chunk, mtype)
                if i % 10 == me:
                    slab_cleanup()
                await lwkt_user_yield()

        for n in range(ncpus):
            host.spawn(worker, n, cpu_id=n)
        host.wait_until_ended()

        async def empty() -> None:
            for box in boxes:
                for chunk, _mark in box:
                    kfree(chunk, mtype)
            await lwkt_switch()

        host.call(empty())
    check_slab(slab)
    assert (mtype.ks_inuse, mtype.ks_memuse) == (0, 0)
    assert mtype.ks_calls == ncpus * rounds * 12
