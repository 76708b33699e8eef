"""Random programs of kmalloc and kfree over several CPUs, beside a model of what is in use.

The model is a dict of live chunks, each with the type it was allocated for and the bytes that were written to it. The
programs share it, so any thread frees what any other has allocated. `check_slab` looks at the zones after every step.
"""

from __future__ import annotations

from typing import NamedTuple

from hypothesis import strategies as st

from kernelcore import slab as slab_module
from kernelcore.globaldata import cpu
from kernelcore.malloctype import M_NULLOK, M_RNOWAIT, M_WAITOK, MallocType
from kernelcore.panic import KernelPanic
from kernelcore.sched import lwkt_migratecpu, lwkt_user_yield, preempt_point
from kernelcore.slab import kfree, kmalloc, kmalloc_wait, slab_cleanup
from kernelcore.slabcheck import check_slab
from kernelcore.slabcpu import Slab, SlabCpu
from kernelcore.sleep import tsleep
from kernelcore.zone import ZONE_SIZE, Chunk, Zone, chunk_bytes, zoneindex
from tests.model.kernelcore.harness import CheckedHost, Sim, expect, sims, simulate

Op = tuple[str, int]

OPS = (
    *("get", "get", "burst", "burst", "burst", "limited", "limited"),
    *("free", "free", "free_mine", "free_all", "free_theirs", "free_theirs", "free_theirs", "free_zone"),
    *(
        "empty",
        "empty",
        "empty",
        "misfree",
        "cleanup",
        "cleanup",
        "ten_seconds",
        "preempt",
        "preempt",
        "yield",
        "migrate",
    ),
)
SIZES = (16384, 16384, 16384, 14000, 8192, 3000, 24)
ZONE_CACHE = 1

FINE = (
    *(
        kmalloc,
        kmalloc_wait,
        kfree,
        vars(slab_module)["_attend_free"],
        vars(slab_module)["_free_remote"],
        vars(slab_module)["_kfree_remote"],
    ),
    *(Zone.run_dry, Zone.collect, Zone.relink, SlabCpu.retire, SlabCpu.cleanup, vars(SlabCpu)["_sweep"]),
)
"""What other CPUs may interrupt anywhere, as they do where CPUs are OS threads."""


class SlabCase(NamedTuple):
    sim: Sim
    debug: bool
    threads: list[tuple[int, list[Op]]]


def slab_cases(max_threads: int = 5, max_ops: int = 20, ops: tuple[str, ...] = OPS) -> st.SearchStrategy[SlabCase]:
    """Draw programs over 2 to 4 CPUs."""
    op = st.tuples(st.sampled_from(ops), st.integers(0, 99))
    thread = st.tuples(st.integers(0, 3), st.lists(op, min_size=4, max_size=max_ops))
    return st.builds(SlabCase, sims(2, 4), st.booleans(), st.lists(thread, min_size=2, max_size=max_threads))


def race_cases(ops: tuple[str, ...], strategy: str = "uniform") -> st.SearchStrategy[SlabCase]:
    """Draw programs of two CPUs that do the same few things over and over."""
    thread = st.lists(st.tuples(st.sampled_from(ops), st.integers(0, 2)), min_size=10, max_size=25)
    sim = st.builds(Sim, st.just(2), st.integers(0, 2**16), st.just(strategy))
    threads = st.tuples(thread, thread).map(lambda pair: list(enumerate(pair)))
    return st.builds(SlabCase, sim, st.just(False), threads)


class SlabModel:
    """What is in use, and the calls that change it, each checked against it."""

    def __init__(self, host: CheckedHost, debug: bool, exact: bool) -> None:
        self.slab = Slab(host, 512 * ZONE_SIZE, debug=debug, zone_cache=ZONE_CACHE, reserve=0)
        self.types = [MallocType(name, self.slab.memory, self.slab) for name in ("a", "b")]
        self.limited = MallocType("limited", 3 * 16384, self.slab)
        self.scarce = MallocType("scarce", 2 * 8192, self.slab)
        self.exact = exact
        """Whether nobody interrupts a call, so that limits are hard."""
        self.live: dict[Chunk, tuple[MallocType, int]] = {}
        self.peak = 0
        """Most bytes of the limited type that were ever in use."""
        self.serial = 0

    def limited_bytes(self) -> int:
        return sum(len(chunk.mv) for chunk, (mtype, _mark) in self.live.items() if mtype is self.limited)

    def take(self, chunk: Chunk, mtype: MallocType, size: int) -> None:
        """L1, L7: a chunk from kmalloc is nobody else's and large enough; from now on it carries a pattern."""
        expect(chunk not in self.live, "L1", f"{chunk!r} was handed out twice")
        expect(len(chunk.mv) == chunk_bytes(size), "L1", f"{chunk!r} for {size} bytes")
        expect(chunk.c_type is mtype, "L4", f"{chunk!r} for type '{mtype.ks_shortdesc}'")
        self.serial += 1
        self.live[chunk] = (mtype, self.serial % 251)
        chunk.mv[:] = bytes((self.serial % 251,)) * len(chunk.mv)

    def get(self, size: int, mtype: MallocType, flags: int) -> None:
        """kmalloc; L5 after one that may block."""
        chunk = kmalloc(size, mtype, flags)
        assert chunk is not None
        sc = cpu.gd.gd_slab
        if flags & M_WAITOK:
            kept = len(sc.free_zones)
            expect(kept <= ZONE_CACHE, "L5", f"{kept} free zones are kept on cpu {sc.gd.gd_cpuid}")
        self.take(chunk, mtype, size)

    def get_limited(self, size: int) -> None:
        """L4: a limit is met exactly when the bytes in use say so."""
        room = self.limited.ks_limit - self.limited_bytes()
        chunk = kmalloc(size, self.limited, M_NULLOK)
        if self.exact:
            met = "met" if chunk is None else "not met"
            expect(
                (chunk is None) == (chunk_bytes(size) > room), "L4", f"the limit is {met} with room for {room} bytes"
            )
        if chunk is not None:
            self.take(chunk, self.limited, size)
            self.peak = max(self.peak, self.limited_bytes())
        if self.exact:
            expect(self.limited.ks_highuse == self.peak, "L4", f"{self.limited!r}: high use is not {self.peak}")

    def free(self, chunk: Chunk) -> None:
        """kfree; L7: the bytes have stayed."""
        mtype, mark = self.live.pop(chunk)
        expect(chunk.mv.tobytes().count(mark) == len(chunk.mv), "L7", f"the bytes of {chunk!r} have changed")
        kfree(chunk, mtype)

    def misfree(self, chunk: Chunk, mtype: MallocType) -> None:
        """L3: freeing what is free, or somebody else's, is refused."""
        try:
            kfree(chunk, mtype)
        except KernelPanic:
            return
        expect(False, "L3", f"{chunk!r} was freed as type '{mtype.ks_shortdesc}'")

    def check(self) -> None:
        """L1 to L4, L6, L8; and the last zone of a class is kept."""
        check_slab(self.slab)
        expect(sum(mtype.ks_inuse for mtype in self.slab.types) == len(self.live), "L4", f"{len(self.live)} are live")
        for sc in self.slab.cpus:
            classes = {id(zone.z_class) for zone in sc.zones}
            kept = all(id(zones) in classes for zones in sc.by_size.values())
            expect(kept, "L8", f"cpu {sc.gd.gd_cpuid} has retired the only zone of a class")


class _Worker:
    def __init__(self, model: SlabModel, ops: list[Op]) -> None:
        self.model = model
        self.ops = ops

    async def run(self) -> None:
        for name, arg in self.ops:
            result = getattr(self, f"op_{name}")(arg)
            if result is not None:
                await result
            await preempt_point()

    def mine(self, ours: bool) -> list[Chunk]:
        """Live chunks of zones of this CPU, or of others."""
        here = cpu.gd.gd_slab
        return [chunk for chunk in self.model.live if (chunk.c_zone.z_cpu is here) is ours]

    def op_get(self, arg: int) -> None:
        self.model.get(SIZES[arg % len(SIZES)], self.model.types[arg % 2], (M_WAITOK, M_RNOWAIT)[arg % 3 // 2])

    def op_burst(self, arg: int) -> None:
        """As many large chunks as a zone has, and some: a zone runs dry."""
        for _ in range(5 + arg % 7):
            self.model.get(16384, self.model.types[arg % 2], (M_WAITOK, M_RNOWAIT)[arg % 3 // 2])

    def op_limited(self, arg: int) -> None:
        self.model.get_limited((16384, 8192, 16384, 100)[arg % 4])

    def free_some(self, chunks: list[Chunk], arg: int, count: int) -> None:
        for _ in range(min(count, len(chunks))):
            chunk = chunks.pop(arg % len(chunks))
            if chunk in self.model.live:  # another CPU may have been let in
                self.model.free(chunk)

    def op_free(self, arg: int) -> None:
        self.free_some(list(self.model.live), arg, 1)

    def op_free_mine(self, arg: int) -> None:
        self.free_some(self.mine(True), arg, 1 + arg % 9)

    def op_free_theirs(self, arg: int) -> None:
        self.free_some(self.mine(False), arg, 1 + arg % 4)

    def op_free_all(self, arg: int) -> None:
        self.free_some(self.mine(True), arg, len(self.model.live))

    def op_free_newest(self, arg: int) -> None:
        """What other CPUs have allocated last."""
        self.free_some(self.mine(False)[-1 - arg :], 0, 1)

    def op_one(self, _arg: int) -> None:
        self.model.get(16384, self.model.types[0], M_RNOWAIT)

    def op_run_dry(self, _arg: int) -> None:
        """Take chunks until no zone of the class has any left."""
        zones = cpu.gd.gd_slab.zone_ary[zoneindex(16384)[0]]
        self.model.get(16384, self.model.types[0], M_RNOWAIT)
        while zones:
            self.model.get(16384, self.model.types[0], M_RNOWAIT)

    def op_empty(self, _arg: int) -> None:
        """A zone of this CPU, one that is told of a remote free if there is any, becomes free; then the cleanup."""
        zones = list(dict.fromkeys(chunk.c_zone for chunk in self.mine(True)))
        if zones:
            zone = max(zones, key=lambda zone: len(zone.z_rcount))
            self.free_some([chunk for chunk in self.model.live if chunk.c_zone is zone], 0, len(self.model.live))
            slab_cleanup()

    def op_free_zone(self, arg: int) -> None:
        """All that is live in one zone, which is free then, or nearly."""
        live = list(self.model.live)
        if live:
            zone = live[arg % len(live)].c_zone
            self.free_some([chunk for chunk in live if chunk.c_zone is zone], arg, len(live))

    def op_misfree(self, arg: int) -> None:
        live = list(self.model.live)
        if not live:
            return
        chunk = live[arg % len(live)]
        mtype, _mark = self.model.live[chunk]
        if not self.model.exact:  # whoever is let in may free it or take it
            return
        self.model.misfree(chunk, self.model.types[mtype is self.model.types[0]])
        self.model.free(chunk)
        self.model.misfree(chunk, mtype)

    async def op_wait(self, _arg: int) -> None:
        """Sleep until others have freed enough; in debug mode that would be a panic."""
        if not self.model.slab.debug:
            self.model.take(await kmalloc_wait(8192, self.model.scarce), self.model.scarce, 8192)

    def op_cleanup(self, _arg: int) -> None:
        slab_cleanup()

    async def op_ten_seconds(self, _arg: int) -> None:
        await tsleep(self, 0, "nap", self.model.slab.cleanup_s + 1)

    def op_preempt(self, _arg: int) -> None:
        """Every operation ends with one anyway."""

    async def op_yield(self, _arg: int) -> None:
        await lwkt_user_yield()

    async def op_migrate(self, arg: int) -> None:
        gds = cpu.gd.gd_domain.gds
        await lwkt_migratecpu(arg % len(gds))


def check_slabs(case: SlabCase, fine: bool = False) -> None:
    """L1 to L8 on one case; who waits for memory gets it."""
    with simulate(case.sim, 40_000, FINE if fine else ()) as host:
        model = SlabModel(host, case.debug, exact=not fine)

        def watch() -> None:
            if not vars(host)["_spinning"]:  # nobody is in the middle of a call
                model.check()

        host.watches.append(watch)
        left = len(case.threads)

        async def work(worker: _Worker) -> None:
            nonlocal left
            await worker.run()
            left -= 1

        async def janitor() -> None:
            """Free what others wait for, when they all do."""
            while left:
                for chunk in [chunk for chunk, (mtype, _mark) in model.live.items() if mtype is model.scarce]:
                    if chunk in model.live:
                        model.free(chunk)
                await tsleep("janitor", 0, "janitor", 4.0)

        for cpuid, ops in case.threads:
            host.spawn(work, _Worker(model, ops), cpu_id=cpuid % case.sim.ncpus)
        host.spawn(janitor, cpu_id=0)
        host.run_to_end("L8")
        model.check()
        _empty(host, model)


def _empty(host: CheckedHost, model: SlabModel) -> None:
    """Free everything on one CPU, half of it before and half after the others have taken note; all is as new."""
    host.watches.clear()

    async def empty(chunks: list[Chunk]) -> None:
        for chunk in chunks:
            model.free(chunk)

    async def clean() -> None:
        slab_cleanup()

    live = list(model.live)
    for part in (live[: len(live) // 2], live[len(live) // 2 :]):
        host.spawn(empty, part, cpu_id=0)
        host.run_to_end("L8")
        model.check()
    for n in range(host.ncpus):
        host.spawn(clean, cpu_id=n)
        host.run_to_end("L8")
    model.check()
    for sc in model.slab.cpus:
        used = {id(zone.z_class) for zone in sc.zones}
        expect(len(sc.zones) == len(used), "L8", f"cpu {sc.gd.gd_cpuid} keeps {sc.zones} although nothing is in use")
