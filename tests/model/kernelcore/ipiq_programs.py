"""Random programs of IPIs against a matrix of lists: what each CPU has sent to each other, and how far that has run.

Every IPI is numbered within its (source, target) pair. Its function checks that it is the next one (I1, I2), may try to
block (I8), and may send on: with full FIFOs that makes the queues be processed within each other, which is where an
entry can be said to be done too early (I5).
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple

from hypothesis import strategies as st

from kernelcore import ipiq
from kernelcore.crit import crit_enter, crit_exit
from kernelcore.globaldata import GlobalData, cpu
from kernelcore.ipiq import (
    FIFO_NOWAIT,
    Ipiq,
    process_ipiq,
    send_ipiq,
    send_ipiq_mask,
    send_ipiq_nowait,
    send_ipiq_passive,
    wait_ipiq,
)
from kernelcore.ipisync import synchronize_ipiqs
from kernelcore.panic import WrongContext
from kernelcore.sched import lwkt_user_yield, preempt_point
from kernelcore.sleep import lwkt_sleep, tsleep
from tests.model.kernelcore.harness import CheckedHost, Sim, expect, sims, simulate

Op = tuple[str, int]

OPS = (
    *("send", "send", "passive", "nowait", "mask", "burst", "burst", "wait", "wait", "sync", "crit"),
    *("nap", "nap", "yield"),
)
KINDS = ("plain", "forward", "fan", "block", "flood")

# The functions between whose statements another CPU may run.
FINE = (send_ipiq, send_ipiq_passive, process_ipiq, wait_ipiq, vars(ipiq)["_signal"])


class IpiCase(NamedTuple):
    sim: Sim
    threads: list[tuple[int, list[Op]]]


def ipi_cases(max_threads: int = 6, max_ops: int = 12) -> st.SearchStrategy[IpiCase]:
    """Draw programs over 2 to 5 CPUs."""
    op = st.tuples(st.sampled_from(OPS), st.integers(0, 63))
    thread = st.tuples(st.integers(0, 4), st.lists(op, min_size=1, max_size=max_ops))
    return st.builds(IpiCase, sims(2, 5), st.lists(thread, min_size=2, max_size=max_threads))


class _Entry:
    """One IPI: its number within the pair is given when it is queued, since a send that waits may be overtaken by
    those that its CPU makes meanwhile."""

    def __init__(self, src: int, dst: int) -> None:
        self.src = src
        self.dst = dst
        self.number = 0
        self.seq = 0
        self.finished = False

    def __repr__(self) -> str:
        return f"entry {self.number} of {self.src}->{self.dst}"


class _NumberingFifo(deque[Any]):
    def __init__(self, queue: Ipiq, dst: int) -> None:
        super().__init__()
        self.queue = queue
        self.dst = dst
        self.unfinished: list[_Entry] = []  # oldest first
        self.entries: list[_Entry] = []

    def append(self, item: Any) -> None:
        entry = item[1][self.dst] if isinstance(item[1], dict) else item[1]
        if isinstance(entry, _Entry):
            self.entries.append(entry)
            self.unfinished.append(entry)
            entry.number = len(self.entries)
            entry.seq = self.queue.windex + 1
        super().append(item)

    def check(self) -> None:
        """I4: the indices are in order. I5: none is published past an entry that has not finished."""
        q = self.queue
        expect(q.xindex <= q.rindex <= q.windex, "I4", f"x {q.xindex} r {q.rindex} w {q.windex}")
        if self.unfinished:
            expect(q.xindex < self.unfinished[0].seq, "I5", f"{self.unfinished[0]} counts as done and is not")


class _Matrix:
    """The model: for each pair what was queued and how many of them have started."""

    def __init__(self, host: CheckedHost, fine: bool) -> None:
        self.host = host
        self.fine = fine
        self.started: dict[tuple[int, int], int] = defaultdict(int)
        self.local: list[object] = []
        self.critical: set[int] = set()  # CPUs whose thread is in a section and does not spin
        self.indices = {(s, t): (0, 0, 0) for s in range(host.ncpus) for t in range(host.ncpus)}
        self.fifos: dict[tuple[int, int], _NumberingFifo] = {}
        for src, dst in self.indices:
            q = host.gds[src].gd_ipiq[dst]
            q.fifo = self.fifos[src, dst] = _NumberingFifo(q, dst)

    def run(self, entry: _Entry, kind: int) -> None:
        """The function of an IPI."""
        gd: GlobalData = cpu.gd
        pair = entry.src, entry.dst
        expect(gd.gd_cpuid == entry.dst, "I2", f"{entry} runs on cpu {gd.gd_cpuid}")
        expect(entry.dst not in self.critical, "C2", f"{entry} starts on a CPU in a critical section")
        expect(entry.number > self.started[pair], "I2", f"{entry} runs again")
        expect(entry.number == self.started[pair] + 1, "I1, I2", f"{entry} runs after number {self.started[pair]}")
        self.started[pair] += 1
        self.fifos[pair].check()
        td, switches = gd.gd_curthread, gd.gd_curthread.td_switches
        expect(td.td_critcount and gd.gd_intr_nesting_level, "I8", "a function runs outside a critical section")
        name = KINDS[kind % len(KINDS)]
        if name == "block":
            self.try_to_block()
        elif name == "forward":
            self.send(kind % self.host.ncpus, kind // len(KINDS))
        elif name == "fan":
            for target in range(self.host.ncpus):
                self.send(target, 0)
        elif name == "flood" and not self.fine:
            for _ in range(10):
                self.send((entry.dst + 1) % self.host.ncpus, 0)
        expect(gd.gd_curthread is td and td.td_switches == switches, "I8", f"{entry} switched")
        self.fifos[pair].check()
        entry.finished = True
        self.fifos[pair].unfinished.remove(entry)

    def try_to_block(self) -> None:
        coro = lwkt_sleep("never")
        with suppress(WrongContext):
            coro.send(None)
            expect(False, "I8", "a function of an IPI could block")
        coro.close()

    def send(self, target: int, kind: int, how: Any = send_ipiq) -> tuple[int, _Entry] | None:
        """Send an entry; to oneself it has run when this returns. The sequence number, None where it was not sent."""
        gd: GlobalData = cpu.gd
        if target == gd.gd_cpuid:
            if how is not send_ipiq_passive:
                seq = how(gd, self.run_local, self.local)
                expect(self.local.pop() == "ran" and seq == 0, "I2", "an IPI to oneself is called at once")
            return None
        entry = _Entry(gd.gd_cpuid, target)
        with self.spinning(how is not send_ipiq_nowait):
            seq = how(self.host.gds[target], self.run, entry, kind)
        expect(seq or not entry.number, "I2", f"{entry} was refused but is queued")
        return (seq, entry) if seq else None

    @contextmanager
    def spinning(self, may_spin: bool) -> Iterator[None]:
        """A point where functions may start although the thread is in a section."""
        me = cpu.gd.gd_cpuid
        was = me in self.critical
        if may_spin:
            self.critical.discard(me)
        yield
        if was:
            self.critical.add(me)

    def run_local(self, log: Any, _arg2: int) -> None:
        log.append("ran")

    def check_indices(self) -> None:
        """I4: no index ever goes back."""
        for source in self.host.gds:
            for target, q in enumerate(source.gd_ipiq):
                now = (q.windex, q.rindex, q.xindex)
                then = self.indices[source.gd_cpuid, target]
                expect(all(a >= b for a, b in zip(now, then, strict=True)), "I4", f"{then} was, {now} is")
                self.indices[source.gd_cpuid, target] = now

    def check_all_ran(self) -> None:
        """I2: at the end everything has run, once."""
        for pair, fifo in self.fifos.items():
            expect(self.started[pair] == len(fifo.entries), "I2", f"{self.started[pair]} of {len(fifo.entries)} ran")
            expect(all(entry.finished for entry in fifo.entries), "I2", f"unfinished {pair}")


class _Sender:
    """The program of one thread."""

    def __init__(self, matrix: _Matrix, ops: list[Op]) -> None:
        self.m = matrix
        self.ops = ops
        self.tickets: list[tuple[int, _Entry]] = []  # sequence number, entry

    async def run(self) -> None:
        for name, arg in self.ops:
            await getattr(self, f"op_{name}")(arg)
            await preempt_point()

    def target(self, arg: int) -> int:
        return arg % self.m.host.ncpus

    async def op_send(self, arg: int) -> None:
        if ticket := self.m.send(self.target(arg), arg // 4):
            self.tickets.append(ticket)

    async def op_passive(self, arg: int) -> None:
        if ticket := self.m.send(self.target(arg), arg // 4, send_ipiq_passive):
            self.tickets.append(ticket)

    async def op_nowait(self, arg: int) -> None:
        """I3: refused at two thirds full, and only then."""
        target = self.target(arg)
        q = cpu.gd.gd_ipiq[target]
        crit_enter()
        for _ in range(arg):
            room = q.windex - q.rindex < FIFO_NOWAIT
            sent = self.m.send(target, 0, send_ipiq_nowait)
            expect(target == cpu.gd.gd_cpuid or bool(sent) == room, "I3", f"nowait with {q.windex - q.rindex} in use")
        crit_exit()

    async def op_mask(self, arg: int) -> None:
        mask = arg & cpu.gd.gd_other_cpus
        box = {n: _Entry(cpu.gd.gd_cpuid, n) for n in range(self.m.host.ncpus) if mask & (1 << n)}
        sent = send_ipiq_mask(mask, lambda box, kind: self.m.run(box[cpu.gd.gd_cpuid], kind), box, 0)
        expect(sent == len(box), "I2", f"the mask {mask:#x} sent {sent}")

    async def op_burst(self, arg: int) -> None:
        """I3, I7: more than a FIFO holds."""
        target = (cpu.gd.gd_cpuid + 1 + arg % 2) % self.m.host.ncpus
        for _ in range(18 if self.m.fine else 24 + arg % 24):
            self.m.send(target, arg // 4 if arg & 1 else 0)

    async def op_wait(self, arg: int) -> None:
        """I5: when the wait ends the function has finished."""
        if self.tickets:
            seq, entry = self.tickets[arg % len(self.tickets)]
            wait_ipiq(self.m.host.gds[entry.dst], seq)
            expect(entry.finished, "I5", f"wait_ipiq({seq}) returned before {entry} had finished")

    async def op_sync(self, _arg: int) -> None:
        """I5: whatever this CPU has sent, anybody on it, has finished."""
        me = cpu.gd.gd_cpuid
        sent = [entry for (src, _dst), fifo in self.m.fifos.items() if src == me for entry in fifo.entries]
        await synchronize_ipiqs()
        expect(all(entry.finished for entry in sent), "I5", "synchronize_ipiqs returned early")

    async def op_crit(self, arg: int) -> None:
        """C2, C3: functions wait for the end of the section, and run there."""
        gd: GlobalData = cpu.gd
        crit_enter()
        self.m.critical.add(gd.gd_cpuid)
        for _ in range(arg % 5):
            await preempt_point()
        if arg & 32:
            self.m.send(self.target(arg), arg)
        self.m.critical.discard(gd.gd_cpuid)
        crit_exit()
        expect(gd.gd_curthread.td_critcount or not gd.gd_ipimask, "C3", "the outermost exit left IPIs behind")

    async def op_nap(self, arg: int) -> None:
        """I6: CPUs go idle, and are to be woken."""
        await tsleep(self, 0, "nap", 0.001 * (arg % 3 + 1))

    async def op_yield(self, _arg: int) -> None:
        await lwkt_user_yield()


def check_ipis(case: IpiCase, fine: bool = False, max_steps: int = 100_000) -> None:
    """I1 to I8, C2 and C3 on one case."""
    with simulate(case.sim, max_steps, FINE if fine else ()) as host:
        matrix = _Matrix(host, fine)
        if not fine:
            host.watches.append(matrix.check_indices)
        for cpuid, ops in case.threads:
            sender = _Sender(matrix, [op for op in ops if not fine or op[0] != "crit"])
            host.spawn(sender.run, cpu_id=cpuid % case.sim.ncpus)
        host.run_to_end("I6, I7")
        matrix.check_all_ran()
