"""The slab against a dict of live chunks with byte patterns, the object cache against a multiset.

A state machine makes calls on several CPUs of the simulator, one after another, and checks limits and counters to the
byte. Programs do so on all CPUs at once; in the fine ones another CPU may come in between any two statements. Each
fault of a list is put into the code, and the programs must find it.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import Any, Final, NamedTuple
from unittest.mock import patch

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from kernelcore import slab as slab_module
from kernelcore.globaldata import GlobalData
from kernelcore.host.sim import SimHost
from kernelcore.malloctype import M_NULLOK, M_RNOWAIT, M_WAITOK, MallocType
from kernelcore.objcache import ObjCache
from kernelcore.panic import KernelPanic
from kernelcore.slab import kfree, kmalloc, kmalloc_wait, slab_cleanup
from kernelcore.slabcheck import check_slab
from kernelcore.slabcpu import Slab, SlabCpu
from kernelcore.sleep import tsleep
from kernelcore.zone import ZONE_SIZE, Chunk, Zone, chunk_bytes
from tests.model.kernelcore.harness import Sim, deep, quick, search
from tests.model.kernelcore.mutate import mutation
from tests.model.kernelcore.objcache_programs import CacheCase, cache_cases, check_caches
from tests.model.kernelcore.slab_programs import SlabCase, check_slabs, race_cases, slab_cases

NCPUS: Final = 3
ZONE_CACHE: Final = 1
_private = vars(slab_module)


# ------------------------------------------------------------- the state machine


class SlabMachine(RuleBasedStateMachine):
    """kmalloc and kfree on three CPUs, with IPIs that arrive when the seed says."""

    def __init__(self) -> None:
        super().__init__()
        self.host = SimHost(NCPUS)

    @initialize(seed=st.integers(0, 2**16), strategy=st.sampled_from(["uniform", "fifo-full"]), debug=st.booleans())
    def begin(self, seed: int, strategy: str, debug: bool) -> None:
        self.host = SimHost(NCPUS, seed, strategy)
        self.slab = Slab(self.host, 256 * ZONE_SIZE, debug=debug, zone_cache=ZONE_CACHE, reserve=0)
        limits = {"roomy": 24 << 20, "tight": 200_000}
        self.types = {name: MallocType(name, limit, self.slab) for name, limit in limits.items()}
        self.live: dict[Chunk, tuple[MallocType, bytes]] = {}
        self.freed: list[tuple[Chunk, MallocType]] = []
        self.bytes = dict.fromkeys(limits, 0)
        self.most = dict.fromkeys(limits, 0)
        self.requests = dict.fromkeys(limits, 0)
        self.serial = 0

    def on(self, cpu_id: int, fn: Callable[..., Any], *args: Any) -> Any:
        """Call `fn` in a thread on a CPU, which may find IPIs to run first."""

        async def body() -> Any:
            return fn(*args)

        return self.host.call(body(), cpu_id=cpu_id)

    def add(self, chunk: Chunk, mtype: MallocType, size: int) -> None:
        name, taken = mtype.ks_shortdesc, chunk_bytes(size)
        assert chunk not in self.live
        assert len(chunk.mv) == taken
        self.serial += 1
        pattern = self.serial.to_bytes(4, "little") * (taken // 4) + b"\xaa" * (taken % 4)
        chunk.mv[:] = pattern
        self.live[chunk] = (mtype, pattern)
        self.bytes[name] += taken
        self.most[name] = max(self.most[name], self.bytes[name])
        self.requests[name] += 1

    def drop(self, chunk: Chunk) -> MallocType:
        mtype, pattern = self.live.pop(chunk)
        assert chunk.mv == pattern, "L7: the bytes have changed"
        self.bytes[mtype.ks_shortdesc] -= len(pattern)
        self.freed.append((chunk, mtype))
        return mtype

    @rule(
        cpu_id=st.integers(0, NCPUS - 1),
        name=st.sampled_from(["roomy", "tight"]),
        size=st.one_of(st.integers(1, 40_000), st.sampled_from([16384, 8192, 128])),
        count=st.sampled_from([1, 1, 1, 9, 17]),
        flag=st.sampled_from([M_WAITOK, M_RNOWAIT]),
    )
    def allocate(self, cpu_id: int, name: str, size: int, count: int, flag: int) -> None:
        mtype = self.types[name]
        for _ in range(count):
            chunk = self.on(cpu_id, kmalloc, size, mtype, flag | M_NULLOK)
            fits = self.bytes[name] + chunk_bytes(size) <= mtype.ks_limit
            assert (chunk is not None) == fits, "a limit is hard, and met only then"
            if flag == M_WAITOK:
                assert len(self.slab.cpus[cpu_id].free_zones) <= ZONE_CACHE, "L5"
            if chunk is not None:
                self.add(chunk, mtype, size)

    @rule(cpu_id=st.integers(0, NCPUS - 1), data=st.data(), count=st.sampled_from([1, 1, 4, 12]))
    def free(self, cpu_id: int, data: st.DataObject, count: int) -> None:
        for _ in range(min(count, len(self.live))):
            chunk = list(self.live)[data.draw(st.integers(0, len(self.live) - 1))]
            self.on(cpu_id, kfree, chunk, self.drop(chunk))

    @rule(cpu_id=st.integers(0, NCPUS - 1), data=st.data())
    def free_the_neighbours(self, cpu_id: int, data: st.DataObject) -> None:
        if self.live:
            zone = list(self.live)[data.draw(st.integers(0, len(self.live) - 1))].c_zone
            for chunk in [chunk for chunk in self.live if chunk.c_zone is zone]:
                self.on(cpu_id, kfree, chunk, self.drop(chunk))

    @rule(cpu_id=st.integers(0, NCPUS - 1), back=st.integers(0, 20))
    def free_again(self, cpu_id: int, back: int) -> None:
        for chunk, mtype in self.freed[-1 - back : len(self.freed) - back]:
            if chunk.c_type is None:
                with pytest.raises(KernelPanic, match="double free"):
                    self.on(cpu_id, kfree, chunk, mtype)

    @rule(cpu_id=st.integers(0, NCPUS - 1), data=st.data())
    def wait_at_the_limit(self, cpu_id: int, data: st.DataObject) -> None:
        """A thread that may wait gets its chunk when another CPU frees one of the type."""
        tight = self.types["tight"]
        mine = [chunk for chunk, (mtype, _pattern) in self.live.items() if mtype is tight]
        size = 30_000
        if self.slab.debug or self.bytes["tight"] + chunk_bytes(size) <= tight.ks_limit:
            return
        waiter = self.host.spawn(kmalloc_wait, size, tight, cpu_id=cpu_id, name="waiter")
        waiter.td_joiners += 1
        while self.bytes["tight"] + chunk_bytes(size) > tight.ks_limit:
            self.host.run_sim(until=lambda: waiter.is_done or waiter.td_wmesg == "tight")
            assert not waiter.is_done
            chunk = mine.pop(data.draw(st.integers(0, len(mine) - 1)))
            self.on((cpu_id + 1) % NCPUS, kfree, chunk, self.drop(chunk))
        self.host.run_sim(until=lambda: waiter.is_done)
        assert isinstance(waiter.td_result, Chunk)
        self.add(waiter.td_result, tight, size)

    @rule(cpu_id=st.integers(0, NCPUS - 1))
    def clean(self, cpu_id: int) -> None:
        self.on(cpu_id, slab_cleanup)

    @rule(seconds=st.sampled_from([0.05, 11.0]))
    def pass_time(self, seconds: float) -> None:
        """Passive IPIs are found at a tick, cleanups run."""
        self.host.call(tsleep(self, 0, "nap", seconds))

    @invariant()
    def holds(self) -> None:
        check_slab(self.slab)
        for name, mtype in self.types.items():
            counted = (mtype.ks_memuse, mtype.ks_highuse, mtype.ks_calls)
            assert counted == (self.bytes[name], self.most[name], self.requests[name])

    def teardown(self) -> None:
        for chunk, (_mtype, pattern) in getattr(self, "live", {}).items():
            assert chunk.mv == pattern, "L7: the bytes have changed"
        self.host.stop()


TestSlabMachine = SlabMachine.TestCase
TestSlabMachine.settings = settings(quick(60), stateful_step_count=30)


# ------------------------------------------------------------------- programs


@quick(100)
@given(slab_cases())
def test_random_programs_of_the_slab(case: SlabCase) -> None:
    check_slabs(case)


@quick(100)
@given(slab_cases())
def test_the_slab_interrupted_anywhere(case: SlabCase) -> None:
    check_slabs(case, fine=True)


@quick(100)
@given(cache_cases())
def test_random_programs_of_the_object_cache(case: CacheCase) -> None:
    check_caches(case)


@quick(100)
@given(cache_cases())
def test_the_object_cache_interrupted_anywhere(case: CacheCase) -> None:
    check_caches(case, fine=True)


@pytest.mark.long
@deep(1_000)
@given(slab_cases(8, 40))
def test_random_programs_of_the_slab_long(case: SlabCase) -> None:
    check_slabs(case)


@pytest.mark.long
@deep(1_000)
@given(slab_cases(8, 40))
def test_the_slab_interrupted_anywhere_long(case: SlabCase) -> None:
    check_slabs(case, fine=True)


@pytest.mark.long
@deep(1_000)
@given(cache_cases(8, 40))
def test_random_programs_of_the_object_cache_long(case: CacheCase) -> None:
    check_caches(case)


@pytest.mark.long
@deep(1_000)
@given(cache_cases(8, 40))
def test_the_object_cache_interrupted_anywhere_long(case: CacheCase) -> None:
    check_caches(case, fine=True)


def test_a_case_replays_from_its_seed() -> None:
    """The same case takes the same steps, and ends with the same zones in the same places."""
    ops = [("burst", 4), ("free_theirs", 3), ("free_mine", 8), ("ten_seconds", 0), ("free_zone", 1)]
    first, again, other = (
        _steps(SlabCase(Sim(3, seed, "uniform"), True, [(n, ops) for n in range(3)])) for seed in (7, 7, 8)
    )
    assert len(first) > 40
    assert first == again != other


def _steps(case: SlabCase) -> list[tuple[int, str, list[int]]]:
    """The steps that a case takes: CPU, thread, and how many zones each CPU has then."""
    steps = []
    step = vars(SimHost)["_step"]

    def recorded(host: SimHost, gd: GlobalData) -> None:
        step(host, gd)
        steps.append((gd.gd_cpuid, gd.gd_curthread.td_comm, [len(one.gd_slab.zones) for one in host.gds]))

    with patch.object(SimHost, "_step", recorded):
        check_slabs(case)
    return steps


# ------------------------------------------------------------------ mutations


class Fault(NamedTuple):
    """What is wrong, what the finding begins with, who finds it, and the code: (function, a piece, another piece)."""

    name: str
    finding: str
    check: Callable[[Any], object]
    cases: st.SearchStrategy[Any]
    edits: tuple[tuple[Any, str, str], ...]


def _slab(name: str, finding: str, *edits: tuple[Any, str, str], ops: str = "") -> Fault:
    """Found by programs of all operations, or of `ops`."""
    cases = slab_cases(ops=tuple(ops.split())) if ops else slab_cases()
    return Fault(name, finding, check_slabs, cases, edits)


def _told(name: str, finding: str, *edits: tuple[Any, str, str]) -> Fault:
    """Found where a CPU empties a zone while it is told of a remote free, and takes no IPIs."""
    return Fault(name, finding, check_slabs, race_cases(("run_dry", "one", "free_newest", "empty"), "fifo-full"), edits)


def _race(name: str, finding: str, *edits: tuple[Any, str, str], ops: str) -> Fault:
    """Found by two CPUs that may interrupt each other anywhere."""
    return Fault(name, finding, partial(check_slabs, fine=True), race_cases(tuple(ops.split())), edits)


def _cache(name: str, finding: str, *edits: tuple[Any, str, str], fine: bool = False) -> Fault:
    return Fault(name, finding, partial(check_caches, fine=fine), cache_cases(), edits)


_free_remote = _private["_free_remote"]
_kfree_remote = _private["_kfree_remote"]
_objcache = vars(ObjCache)

FAULTS: Final = (
    _told("RCount is not raised", "L",
          (_free_remote, "zone.z_rcount.append(None)", "pass"),
          (_free_remote, "zone.z_rcount.pop()\n        return", "return"),
          (_free_remote, "zone.z_rcount.pop()\n    if owner", "if owner"),
          (_kfree_remote, "zone.z_rcount.pop()", "pass")),
    _told("RCount is not looked at", "L6",
          (SlabCpu.retire, " or zone.z_rcount", "")),
    _told("RCount is let go before the notification is sent", "L",
          (_free_remote, "send_ipiq_passive(owner.gd, _kfree_remote, zone)",
           "send_ipiq_passive(owner.gd, _kfree_remote, zone); zone.z_rcount.pop()"),
          (_kfree_remote, "zone.z_rcount.pop()", "pass")),
    _race("RSignal is not re-tested", "L8",
          (Zone.run_dry, "if self.z_rchunks:", "if False:"), ops="run_dry free_newest"),
    _race("RSignal is read before the chunk is added", "L8",
          (_free_remote, "zone.z_rchunks.append(chunk)\n    if zone.z_rsignal:",
           "told = zone.z_rsignal\n    zone.z_rchunks.append(chunk)\n    if told:"), ops="run_dry free_newest"),
    _slab("RSignal is not set", "L8",
          (Zone.run_dry, "self.z_rsignal = True", "pass")),
    _slab("RSignal is not cleared", "L8",
          (Zone.relink, "self.z_rsignal = False", "pass")),
    _race("the notice is taken down after the chunks are collected", "L8",
          (_kfree_remote, "zone.z_notice.pop(0, None)", "pass"),
          (_kfree_remote, "zone.z_rcount.pop()", "zone.z_notice.pop(0, None); zone.z_rcount.pop()"),
          ops="run_dry run_dry free_newest free_newest free_newest cleanup"),
    _slab("the notice is never taken down", "L8",
          (_kfree_remote, "zone.z_notice.pop(0, None)", "pass")),
    _slab("the notification does not relink the zone", "L8",
          (_kfree_remote, "zone.relink()", "pass")),
    _race("a cleanup forgets requests that came while it looked", "L8",
          (SlabCpu.cleanup, "self.due.clear()", "pass"),
          (SlabCpu.cleanup, "self._sweep()", "self._sweep(); self.due.clear()"), ops="one one free_newest cleanup"),
    _slab("the cleanup retires nothing", "L8",
          (_private["_arm_cleanup"], "sc.callout.reset(sc.slab.cleanup_s)", "pass"),
          (SlabCpu.retire, "zones = zone.z_class", "return")),
    _slab("the only zone of a class is retired", "L8",
          (SlabCpu.retire, "len(zones) < 2 or ", ""),
          (kfree, "len(zone.z_class) > 1 and ", "")),
    _slab("a zone is retired with a chunk in use", "",
          (kfree, "len(free) == len(zone.z_chunks)", "len(free) >= len(zone.z_chunks) - 1")),
    _slab("a zone that is retired stays on its list", "",
          (SlabCpu.retire, "zones.remove(zone)", "pass")),
    _slab("a zone that has run dry stays on its list", "",
          (Zone.run_dry, "self.z_class.remove(self)", "pass")),
    _slab("the memory of a retired zone is forgotten", "L1",
          (SlabCpu.retire, "self.free_zones.append(zone.give_up())", "zone.give_up()")),
    _slab("the bump index starts twice at the same chunk", "L1",
          (Zone.bump, "index + 1 < self.z_nmax", "index + 2 < self.z_nmax")),
    _slab("a double free is not seen", "L3",
          (kfree, "chunk.c_type is not mtype", "False")),
    _slab("a remote free is put on the local list", "",
          (kfree, "if zone.z_cpu is sc:", "if True:")),
    _slab("a malloc that may block keeps one zone too many", "L5",
          (SlabCpu.release, "> self.slab.zone_cache", "> self.slab.zone_cache + 1"), ops="burst burst free_all get"),
    _slab("what is freed elsewhere is not accounted", "L4",
          (kfree, "use.frees += 1", "use.frees += zone.z_cpu is sc")),
    _slab("the bytes are accounted to the type, not to the class", "L4",
          (kmalloc, "use.memuse += csize", "use.memuse += size")),
    _slab("the sum leaves out the other CPUs", "L4",
          (MallocType.grow, "sum(one.memuse for one in self.ks_use)", "use.memuse")),
    _slab("allowances of other CPUs are not withdrawn", "L4",
          (MallocType.grow, "one.left = 0", "pass"), ops="limited limited free free_all"),
    _slab("a free wakes nobody", "L8",
          (_private["_attend_free"], "if sc.wanted:", "if False:"), ops="wait wait wait preempt"),
    _slab("a sleeper does not say that it sleeps", "L8",
          (kmalloc_wait, "sc.attend_free = True", "pass"), ops="wait wait wait preempt"),
    _cache("a sleeper is not woken", "O6",
           (_objcache["_put"], "wakeup_one(self)", "pass")),
    _cache("other CPUs surrender nothing", "O6",
           (_objcache["_get_surrendered"], "if other is not gd:", "if False:")),
    _cache("what is put goes into a magazine although somebody sleeps", "O6",
           (ObjCache.put, " and not self._waiters", ""),
           (_objcache["_put"], "if self._waiters:", "if False:")),
    _cache("a magazine is overfilled", "O5",
           (ObjCache.put, "len(loaded) < self.capacity", "len(loaded) <= self.capacity")),
    _cache("the depot takes a magazine that is not full", "O5",
           (_objcache["_put"], "if not cc.previous:", "if not cc.previous and not self._empty:")),
    _cache("the depot gives away an empty magazine for good", "O5",
           (_objcache["_get_depot"], "self._empty.append(cc.previous)", "pass")),
    _cache("what is destructed stays counted", "O4",
           (_objcache["_destruct"], "self._allocated -= 1", "pass")),
    _cache("what is destructed is cached, too", "O",
           (_objcache["_put"], "self._destruct(obj)", "self._destruct(obj); cc.loaded.append(obj)")),
    _cache("the limit is one too high", "O3",
           (_objcache["_get_depot"], "self._allocated >= self.limit", "self._allocated > self.limit")),
    _cache("what is destructed makes room before it is gone", "O3",
           (_objcache["_destruct"], "if self._dtor is not", "self._allocated -= 1\n    if self._dtor is not"),
           (_objcache["_destruct"], "    with self._spin:\n        self._allocated -= 1", "    pass"),
           fine=True),
    _cache("an object stays in the magazine when it is handed out", "O",
           (_objcache["_get"], "cc.loaded.pop() if cc.loaded", "cc.loaded[-1] if cc.loaded")),
)  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name.replace(" ", "-"))
def test_each_fault_is_found(fault: Fault) -> None:
    with ExitStack() as stack:
        for edit in fault.edits:
            stack.enter_context(mutation(*edit))
        found = search(fault.check, fault.cases, 200)
    assert found is not None, "nothing was found"
    assert str(found).startswith(fault.finding), f"found {found!r}"
