"""The counters of a domain as rows, as text, and as a tree of sysctl names.

Counters are plain integers on per-CPU objects, written by their CPU alone and summed here: reading takes no lock, stops
nobody, and may be a little out of date where CPUs are OS threads. Rows are NamedTuples of plain values, so `_asdict()`
is JSON. Names are DragonFly's: `ps`, `vmstat -m`, `sysctl lwkt`.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar

from kernelcore import ipiq as _ipiq
from kernelcore.arena import ARENAS, ArenaRow
from kernelcore.defs import LWKT_SPIN_LOOPS, TDF_SYSCALL
from kernelcore.globaldata import mycpu
from kernelcore.objcache import ObjCacheRow
from kernelcore.sched import thread_state
from kernelcore.zone import ZONE_SIZE

if TYPE_CHECKING:
    from kernelcore.host.domain import Domain
    from kernelcore.thread import Thread

T = TypeVar("T")


class ThreadRow(NamedTuple):
    """One thread. `stat` is the state letter (`sched.thread_state`), then `s` for a system call, `c` in a section."""

    cpu: int
    tid: int
    pri: int
    stat: str
    crit: int
    toks: int
    wmesg: str
    swtch: int
    contended: int
    time_s: float
    comm: str


class CpuRow(NamedTuple):
    """The scheduler of one CPU: switches, times it went idle, ready and all threads, lock collisions."""

    cpu: int
    v_swtch: int
    v_idle: int
    runq: int
    threads: int
    lock_colls: int
    lock_name: str


class TokenRow(NamedTuple):
    """One token. `references` counts those on the stacks of all threads, `holder` is the last exclusive one."""

    desc: str
    collisions: int
    gen: int
    references: int
    holder: str


class IpiqRow(NamedTuple):
    """What one CPU has sent, and how many entries wait for it."""

    cpu: int
    sent: int
    fifofull: int
    avoided: int
    passive: int
    cscount: int
    pending: int


class PortRow(NamedTuple):
    """One message port: messages put, completed in putport, replied; queue depth now and at most."""

    port: str
    kind: str
    puts: int
    sync: int
    replies: int
    depth: int
    max: int


class MallocRow(NamedTuple):
    """One malloc type: chunks and bytes in use, the most bytes ever and at most, requests granted and refused."""

    type: str
    inuse: int
    memuse: int
    highuse: int
    limit: int
    requests: int
    blocked: int


class SlabRow(NamedTuple):
    """The slab of one CPU: zones with chunks and without, zones taken from the host and given back."""

    cpu: int
    zones: int
    free_zones: int
    slabs_allocated: int
    slabs_freed: int


_HEADINGS: Final[dict[type, tuple[str, ...]]] = {
    ThreadRow: ("CPU", "TID", "PRI", "STAT", "CRIT", "TOKS", "WMESG", "SWTCH", "CONT", "TIME", "COMMAND"),
    CpuRow: ("CPU", "V_SWTCH", "V_IDLE", "RUNQ", "THREADS", "V_LOCK_COLLS", "V_LOCK_NAME"),
    TokenRow: ("TOKEN", "COLLISIONS", "GEN", "REFS", "HOLDER"),
    IpiqRow: ("CPU", "SENT", "FIFOFULL", "AVOIDED", "PASSIVE", "CSCOUNT", "PENDING"),
    PortRow: ("PORT", "TYPE", "PUTS", "SYNC", "REPLIES", "DEPTH", "MAX"),
    MallocRow: ("TYPE", "INUSE", "MEMUSE", "HIGHUSE", "LIMIT", "REQUESTS", "BLOCKED"),
    SlabRow: ("CPU", "ZONES", "FREEZONES", "SLABS_ALLOCATED", "SLABS_FREED"),
    ObjCacheRow: (
        *("OBJCACHE", "GETS", "NULL", "PUTS", "WAITING", "EXHAUSTED", "CONTESTED"),
        *("ALLOCATED", "CACHED", "LIMIT"),
    ),
    ArenaRow: ("ARENA", "CHUNK", "LIMIT", "MADE", "INUSE", "PINNED", "ALLOCS", "FAILURES"),
}


def ps(domain: Domain | None = None) -> list[ThreadRow]:
    """Return a row for each thread, by CPU, then in order of creation."""
    rows = [_thread_row(td) for gd in _domain(domain).gds for td in list(gd.gd_tdallq)]
    return sorted(rows, key=lambda row: (row.cpu, row.tid))


def _thread_row(td: Thread) -> ThreadRow:
    flags = ("s" if td.td_flags & TDF_SYSCALL else "") + ("c" if td.td_critcount else "")
    state = thread_state(td)
    return ThreadRow(
        td.td_gd.gd_cpuid,
        td.td_tid,
        td.td_pri,
        state + flags,
        td.td_critcount,
        len(td.td_toks),
        td.td_wmesg if state in "SBTZ" else "",  # a thread that runs again keeps the text of its last wait
        td.td_switches,
        td.td_contended,
        td.td_cputime,
        td.td_comm,
    )


def scheduler(domain: Domain | None = None) -> list[CpuRow]:
    """Return a row for each CPU."""
    return [
        CpuRow(
            gd.gd_cpuid,
            gd.gd_cnt.v_swtch,
            gd.gd_cnt.v_idle,
            gd.gd_tdrunqcount,
            len(gd.gd_tdallq),
            gd.gd_cnt.v_lock_colls,
            gd.gd_cnt.v_lock_name,
        )
        for gd in _domain(domain).gds
    ]


def tokens(domain: Domain | None = None) -> list[TokenRow]:
    """Return a row for each token in use, by name."""
    domain = _domain(domain)
    references: dict[Any, int] = {}
    for gd in domain.gds:
        for td in list(gd.gd_tdallq):
            for ref in list(td.td_toks):
                references[ref.tr_tok] = references.get(ref.tr_tok, 0) + 1
    rows = []
    for tok in sorted(_snapshot(domain.tokens), key=lambda tok: (tok.t_desc, tok.t_seq)):
        last = tok.t_last
        rows.append(
            TokenRow(
                tok.t_desc, tok.t_collisions, tok.t_gen, references.get(tok, 0), "" if last is None else last.td_comm
            )
        )
    return rows


def ipiq(domain: Domain | None = None) -> list[IpiqRow]:
    """Return a row for each CPU."""
    return [
        IpiqRow(
            gd.gd_cpuid,
            gd.ipiq_count,
            gd.gd_cnt.ipiq_fifofull,
            gd.gd_cnt.ipiq_avoided,
            gd.gd_cnt.ipiq_passive,
            gd.gd_cnt.ipiq_cscount,
            sum(n for _source, n in _ipiq.pending(gd)),
        )
        for gd in _domain(domain).gds
    ]


def ports(domain: Domain | None = None) -> list[PortRow]:
    """Return a row for each port in use, by name."""
    rows = [
        PortRow(
            port.mp_name, type(port).__name__, port.mpu_puts, port.mpu_sync, port.mpu_replies, port.depth, port.mpu_max
        )
        for port in _snapshot(_domain(domain).ports)
    ]
    return sorted(rows)


def vmstat_m(domain: Domain | None = None) -> list[MallocRow]:
    """Return a row for each malloc type, by name."""
    sc = _domain(domain).gds[0].gd_slab
    return sorted(
        MallocRow(
            mtype.ks_shortdesc,
            mtype.ks_inuse,
            mtype.ks_memuse,
            mtype.ks_highuse,
            mtype.ks_limit,
            mtype.ks_calls,
            mtype.ks_blocked,
        )
        for mtype in (() if sc is None else tuple(sc.slab.types))
    )


def vmstat_m_text(rows: Sequence[MallocRow]) -> str:
    """Return the rows of `vmstat_m` as a table with a line of totals."""
    inuse, memuse, requests = (sum(getattr(row, name) for row in rows) for name in ("inuse", "memuse", "requests"))
    return f"{text(MallocRow, rows)}\nMemory totals: {inuse} chunks, {memuse} bytes in use, {requests} requests"


def slab(domain: Domain | None = None) -> list[SlabRow]:
    """Return a row for each CPU, none where the domain has no slab."""
    return [
        SlabRow(gd.gd_cpuid, len(sc.zones), len(sc.free_zones), sc.slabs_allocated, sc.slabs_freed)
        for gd in _domain(domain).gds
        if (sc := gd.gd_slab) is not None
    ]


def objcaches(domain: Domain | None = None) -> list[ObjCacheRow]:
    """Return a row for each object cache, by name."""
    return sorted(oc.stats() for oc in _snapshot(_domain(domain).objcaches))


def arenas() -> list[ArenaRow]:
    """Return a row for each arena of the process, by name."""
    return sorted(arena.stats() for arena in _snapshot(ARENAS))


def sysctl(domain: Domain | None = None) -> dict[str, int | str]:
    """Return the totals by their sysctl names, and those of each CPU as `lwkt.cpuN`.

    No thread preempts another here (see `sched`), so the `preempt` counters stay at zero; the names are kept for those
    who look for them.
    """
    domain = _domain(domain)
    cpus = scheduler(domain)
    sent = ipiq(domain)
    tree: dict[str, int | str] = {
        "hw.ncpu": domain.ncpus,
        "kern.nthreads": sum(row.threads for row in cpus),
        "kern.syscalls": domain.syscalls,
        "kern.pumps": domain.pumps,
        "kern.stalls": domain.stalls,
        "kern.gil_samples": domain.gil.samples,
        "kern.gil_latency_us": round(domain.gil.last * 1e6),
        "kern.gil_latency_max_us": round(domain.gil.worst * 1e6),
        "lwkt.switch_count": sum(row.v_swtch for row in cpus),
        "lwkt.preempt_hit": 0,
        "lwkt.preempt_miss": 0,
        "lwkt.preempt_weird": 0,
        "lwkt.spin_loops": LWKT_SPIN_LOOPS,
        "lwkt.ipiq_count": sum(row.sent for row in sent),
        "lwkt.ipiq_fifofull": sum(row.fifofull for row in sent),
        "lwkt.ipiq_avoided": sum(row.avoided for row in sent),
        "lwkt.ipiq_passive": sum(row.passive for row in sent),
        "lwkt.ipiq_cscount": sum(row.cscount for row in sent),
        "lwkt.token_collisions": sum(row.collisions for row in tokens(domain)),
        **_slab_totals(domain),
    }
    for row in cpus:
        for name in row._fields[1:]:
            tree[f"lwkt.cpu{row.cpu}.{name}"] = getattr(row, name)
    return tree


def _slab_totals(domain: Domain) -> dict[str, int]:
    """The slab's totals where there is one; sizes in KiB."""
    sc = domain.gds[0].gd_slab
    if sc is None:
        return {}
    rows = slab(domain)
    big = sum(chunk.c_zone.z_chunksize for chunk in tuple(sc.slab.big))
    return {
        "kern.zone_big_alloc": big // 1024,
        "kern.zone_gen_alloc": sum(row.zones + row.free_zones for row in rows) * ZONE_SIZE // 1024,
        "kern.zone_cache": sc.slab.zone_cache,
        "kern.slabs_allocated": sum(row.slabs_allocated for row in rows),
        "kern.slabs_freed": sum(row.slabs_freed for row in rows),
    }


def text(kind: type[NamedTuple], rows: Sequence[tuple[Any, ...]]) -> str:
    """Return `rows`, all of them `kind`, as a table with headings: numbers to the right, names to the left."""
    cells = [[_cell(value) for value in row] for row in rows]
    is_number = [all(isinstance(row[i], int | float) for row in rows) for i in range(len(kind._fields))]
    return "\n".join(_aligned([list(_HEADINGS[kind]), *cells], is_number))


def sysctl_text(tree: dict[str, int | str]) -> str:
    """Return the tree as `sysctl` prints it."""
    return "\n".join(f"{name}: {value}" for name, value in tree.items())


def _cell(value: object) -> str:
    return f"{value:.6f}" if isinstance(value, float) else str(value)


def _aligned(lines: list[list[str]], is_number: Sequence[bool]) -> Iterable[str]:
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        cells = (
            cell.rjust(width) if number else cell.ljust(width)
            for cell, width, number in zip(line, widths, is_number, strict=True)
        )
        yield "  ".join(cells).rstrip()


def _domain(domain: Domain | None) -> Domain:
    return mycpu().gd_domain if domain is None else domain


def _snapshot(members: weakref.WeakSet[T]) -> list[T]:
    """List a set to which another CPU, an OS thread, may add at this moment."""
    while True:
        try:
            return list(members)
        except RuntimeError:  # it changed size meanwhile
            continue
