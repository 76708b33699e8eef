"""Faults put into the code one by one, and the campaign of random programs that must find each.

`rules` are the rules under which the fault shows; the suite's own check must name one of them. The table serves two
ends: each fault is one the suite is known to find, and each rule of the kernel core has at least one fault behind it,
so that no check is there for show.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import Any, Final, NamedTuple

from hypothesis import strategies as st

from kernelcore import crit, ipiq, msgport, port, sched, sleep, switch, thread, token, token_contended
from kernelcore.cpusync import CpuSync
from kernelcore.host.sim import SimHost
from kernelcore.port import Port, SpinPort, ThreadPort
from kernelcore.token_contended import ContendedToken
from tests.model.kernelcore.cpusync_programs import check_syncs, sync_cases
from tests.model.kernelcore.crit_programs import check_crit, crit_cases
from tests.model.kernelcore.harness import search
from tests.model.kernelcore.ipiq_programs import check_ipis, ipi_cases
from tests.model.kernelcore.msg_programs import check_msgs, msg_cases
from tests.model.kernelcore.mutate import mutation
from tests.model.kernelcore.sched_programs import check_sched, sched_cases
from tests.model.kernelcore.sleep_programs import check_sleeps, sleep_cases
from tests.model.kernelcore.token_domain import check_domain_tokens, domain_cases
from tests.model.kernelcore.token_programs import check_tokens, token_cases
from tests.model.kernelcore.token_sets import check_sets, set_cases


class Campaign(NamedTuple):
    """A check and the cases it is run on."""

    check: Callable[[Any], object]
    cases: st.SearchStrategy[Any]


EXAMPLES: Final = 800  # a campaign ends with its first finding; most take a few

CAMPAIGNS: Final[dict[str, Campaign]] = {
    "sched": Campaign(check_sched, sched_cases()),
    "crit": Campaign(check_crit, crit_cases()),
    "sleep": Campaign(partial(check_sleeps, max_steps=6_000), sleep_cases()),
    "sleep-fine": Campaign(partial(check_sleeps, fine=True), sleep_cases()),
    "token": Campaign(check_tokens, token_cases()),
    "token-sets": Campaign(partial(check_sets, max_steps=2_000), set_cases()),
    "token-domain": Campaign(check_domain_tokens, domain_cases()),
    "msg": Campaign(partial(check_msgs, max_steps=15_000), msg_cases()),
    "ipi": Campaign(partial(check_ipis, max_steps=8_000), ipi_cases()),
    "ipi-fine": Campaign(partial(check_ipis, fine=True, max_steps=8_000), ipi_cases()),
    "sync": Campaign(partial(check_syncs, max_steps=8_000), sync_cases()),
}


class Edit(NamedTuple):
    """In the source of a function, one piece for another."""

    function: Any
    old: str
    new: str


class Mutation(NamedTuple):
    """A fault: what it is, the rules it breaks, the campaign that finds it, the code."""

    name: str
    rules: tuple[str, ...]
    campaign: str
    edits: tuple[Edit, ...]

    def hunt(self) -> Exception | None:
        """Run the campaign on the faulty code; return what it finds."""
        campaign = CAMPAIGNS[self.campaign]
        with ExitStack() as stack:
            for edit in self.edits:
                stack.enter_context(mutation(*edit))
            return search(campaign.check, campaign.cases, EXAMPLES)


def _m(name: str, rules: str, campaign: str, *edits: Edit) -> Mutation:
    return Mutation(name, tuple(rules.split()), campaign, edits)


def _private(module: Any, name: str) -> Any:
    return vars(module)[name]


_PASS = "pass"

MUTATIONS: Final[tuple[Mutation, ...]] = (
    # ---------------------------------------------------------------- threads and scheduler
    _m("a ready thread is enqueued again", "T1", "sched",
       Edit(sched.enqueue, "flags & _OFF_LIMITS:", "flags & _OFF_LIMITS & ~TDF_RUNQ:")),
    _m("the last to leave a queue leaves its bit", "T1", "sched",
       Edit(sched.dequeue, "gd.gd_runmask ^= td.td_pribit", _PASS)),
    _m("a migrated thread keeps its old queue", "T1 T5", "sched",
       Edit(switch.switched_out, "set_home(td, target, td.td_pri)", "td.td_gd = target")),
    _m("acquire does not wait until the thread is off its old CPU", "T2", "sched",
       Edit(sched.lwkt_acquire, "while old.gd_curthread is td:", "while False:")),
    _m("a new arrival goes before its equals", "T3", "sched",
       Edit(sched.enqueue, "td.td_runq.append(td)", "td.td_runq.appendleft(td)")),
    _m("among equals the last one is picked", "T3", "sched",
       Edit(switch.pick, "in gd.gd_runqs[pri]:", "in reversed(gd.gd_runqs[pri]):")),
    _m("a yield keeps its place", "T3 T4", "sched",
       Edit(switch.switched_out, "td.td_runq.append(td)", "td.td_runq.appendleft(td)")),
    _m("a descheduled thread is in no state", "T4", "sched",
       Edit(sched.lwkt_deschedule, "td.td_flags |= TDF_BLOCKED", _PASS)),
    _m("a remote schedule is lost", "T4", "sched",
       Edit(_private(sched, "_schedule_remote"), "lwkt_schedule(td)  #", "pass  #")),
    _m("a thread that arrives is not listed", "T5", "sched",
       Edit(sched.lwkt_setcpu_self, "cpu.gd.gd_tdallq[td] = None", _PASS)),
    _m("a thread that arrives is enqueued twice", "T5", "sched",
       Edit(sched.migrate_finish, "enqueue(cpu.gd, td)",
            "enqueue(cpu.gd, td); dequeue(cpu.gd, td); enqueue(cpu.gd, td)")),
    _m("a fixed thread may migrate", "T5", "sched",
       Edit(sched.lwkt_setcpu_self, "if td.td_flags & TDF_FIXEDCPU:", "if False:")),
    _m("an ended thread does not wait for its holders", "T6", "sched",
       Edit(switch.thread_ended, "if td.td_holds:", "if False:"),
       Edit(thread.finish_exit, "if td.td_holds or td.td_flags", "if td.td_flags")),
    _m("the last hold does not let an ended thread go", "T4 T6", "sched",
       Edit(thread.lwkt_rele, "and td.td_flags & TDF_EXITING:", "and False:")),
    # ---------------------------------------------------------------- critical sections
    _m("an exit without an enter", "C1", "crit",
       Edit(crit.crit_exit, "if n < 0:", "if n < -99:")),
    _m("a thread that ends in a section keeps its count", "C1", "crit",
       Edit(_private(switch, "_clean_up"), "td.td_critcount = td.td_cscount", "td.td_cscount")),
    _m("interrupts are taken in a section", "C2", "crit",
       Edit(SimHost._step, "and not td.td_critcount and", "and")),
    _m("a completion runs in a section", "C2", "crit",
       Edit(crit.intr_post, "gd.gd_curthread.td_critcount or ", "")),
    _m("the exit of an inner section runs pending work", "C2", "crit",
       Edit(crit.crit_exit, "        td.td_critcount = n\n        return\n",
            "        td.td_critcount = n\n        if gd.gd_ipimask: _exit_pending(gd, td)\n        return\n")),
    _m("the outermost exit does not look at IPIs", "C3", "crit",
       Edit(crit.crit_exit, "if gd.gd_ipimask or gd.gd_reqflags:", "if gd.gd_reqflags:")),
    _m("splz forgets completions", "C3", "crit",
       Edit(crit.splz, "while gd.gd_intpend:", "if gd.gd_intpend:")),
    # ---------------------------------------------------------------- sleep and wakeup
    _m("a wakeup between interlock and sleep is not noticed", "S1", "sleep",
       Edit(sleep.tsleep, "elif not td.td_flags & TDF_TSLEEPQ:", "elif False:")),
    _m("wakeup_one counts a thread that does not sleep yet", "S1 S3", "sleep",
       Edit(_private(sleep, "_wake_first"), "    enqueue(gd, td)\n            return True\n",
            "    enqueue(gd, td)\n        return True\n")),
    _m("the CPU is marked only when its thread sleeps: a wakeup comes before the mark", "S2", "sleep",
       Edit(sleep.tsleep_interlock, "gd.gd_domain.slpque[ident, gd.gd_cpuid] = None", _PASS),
       Edit(sleep.tsleep, "td.td_flags |= TDF_TSLEEP_DESCHEDULED",
            "td.td_flags |= TDF_TSLEEP_DESCHEDULED; gd.gd_domain.slpque[ident, gd.gd_cpuid] = None")),
    _m("the hook is set before the mark", "S2", "sleep-fine",
       Edit(sleep.tsleep_interlock, "gd.gd_domain.slpque[ident, gd.gd_cpuid] = None", _PASS),
       Edit(sleep.tsleep_interlock, "td.td_flags |= TDF_TSLEEPQ",
            "td.td_flags |= TDF_TSLEEPQ; gd.gd_domain.slpque[ident, gd.gd_cpuid] = None")),
    _m("the last CPU is not asked", "S1 S3", "sleep",
       Edit(_private(sleep, "_wakeup_others"), "in gd.gd_domain.gds:", "in gd.gd_domain.gds[:-1]:")),
    _m("wakeup wakes only one", "S3", "sleep",
       Edit(sleep.wakeup_mycpu, "gd.gd_tsleep_hash.pop(ident, None)", "[_wake_first(gd, ident)] and None")),
    _m("the timer of a sleep that was woken goes on", "S4", "sleep",
       Edit(sleep.tsleep, "timer.stop()", _PASS)),
    # ---------------------------------------------------------------- tokens
    _m("exclusive among shared holders", "K1", "token-sets",
       Edit(ContendedToken.attempt, "if self.t_count & ~TOK_EXCLREQ:", "if self.t_count & TOK_EXCLUSIVE:")),
    _m("a thread runs with a part of its tokens", "K2 K3 T3", "token",
       Edit(token_contended.getalltokens, "        tok.collide(gd)\n        return False\n",
            "        tok.collide(gd)\n        return True\n")),
    _m("a thread that waits for one more keeps the count of what it has", "K2", "token",
       Edit(ContendedToken._acquire, "td.td_toks_have = len(toks)", _PASS)),
    _m("tokens are kept across a switch", "K3", "token",
       Edit(switch.switched_out, "if td.td_toks_have and domain.contended:", "if False:")),
    _m("a part of a set is kept when the rest cannot be had", "K1 K4", "token-sets",
       Edit(token_contended.getalltokens, "reversed(refs[:i]):", "reversed(refs[1:i]):")),
    _m("a nested reference is not given back", "K4", "token",
       Edit(ContendedToken.drop, "self.t_count -= TOK_INCR", _PASS)),
    _m("a release in wrong order", "K5", "token",
       Edit(ContendedToken.rel, "if not toks or toks[-1].tr_tok is not self:", "if not toks:")),
    _m("a release in wrong order, in a domain", "K5", "token-domain",
       Edit(token.Token._rel_shared, "if not toks or toks[-1] is not self.t_shared:", "if not toks:")),
    _m("a failed trytoken leaves its reference", "K5", "token",
       Edit(ContendedToken.trytoken, "self.collide(gd)", "self.collide(gd); td.td_toks.append(self)")),
    _m("EXCLREQ without the sorted fallback", "K6", "token-sets",
       Edit(switch.pick, "gd.gd_tok_rounds >= LWKT_SPIN_LOOPS", "False")),
    _m("a reservation outlives its success", "K4", "token",
       Edit(ContendedToken.attempt, "self._unreserve(td)", _PASS)),
    _m("a new exclusive holder does not move the generation", "K7", "token",
       Edit(ContendedToken.attempt, "self.t_gen += 1", _PASS)),
    _m("a resumed holder does not move the generation", "K7", "token-domain",
       Edit(token.switch_in, "tok.t_gen += 1", _PASS)),
    _m("a reader does not make the last writer be forgotten", "K7", "token-domain",
       Edit(token.Token.get_shared, "self.t_last = None", _PASS)),
    # ---------------------------------------------------------------- messages
    _m("what a synchronous port answers to a forwarded message is lost", "M1 M6", "msg",
       Edit(msgport.forwardmsg, "replymsg(msg, error)", _PASS)),
    _m("a dropped message stays linked", "M1 M2 M5", "msg",
       Edit(Port.drop_queued, "self.unlink_msg(msg)", _PASS)),
    _m("a message taken is still QUEUED", "M2", "msg",
       Edit(Port.getport, "msg.ms_flags &= _UNLINKED", _PASS)),
    _m("a reply that is waited for stays linked", "M1 M2", "msg",
       Edit(Port.take_done, "if msg.ms_flags & MSGF_QUEUED:", "if False:")),
    _m("last come, first served", "M3", "msg",
       Edit(Port._link, "queue.append(msg)", "queue.insert(0, msg)")),
    _m("the reply to a synchronous message is queued", "M4", "msg",
       Edit(ThreadPort.replyport, "if msg.ms_flags & MSGF_SYNC:", "if False:")),
    _m("a reply is done before it has arrived", "M5", "msg",
       Edit(ThreadPort.replyport, "MSGF_INTRANSIT | MSGF_REPLY", "MSGF_INTRANSIT | _REPLIED")),
    _m("WAITING is cleared by the sleeper", "M5", "msg",
       Edit(SpinPort.replyport, "msg.ms_waiting = False", _PASS),
       Edit(SpinPort.waitmsg, 'ssleep(msg, self.mpu_spin, flags, "waitmsg")',
            'ssleep(msg, self.mpu_spin, flags, "waitmsg"); msg.ms_waiting = False')),
    _m("a message is replied while QUEUED", "M1 M2 M5", "msg",
       Edit(msgport.replymsg, "if msg.ms_flags & _NOT_OURS:", "if False:"),
       Edit(ThreadPort.getport, "msg.ms_flags &= _UNLINKED", "self.mp_queue.appendleft(msg)")),
    _m("an interrupted wait does not go on until the reply", "M6", "msg",
       Edit(ThreadPort.waitmsg, "abortmsg(msg)\n", "abortmsg(msg); return 4\n")),
    _m("an abort is asked of a message that is done", "M6", "msg",
       Edit(_private(port, "abortmsg"), "| MSGF_DONE | MSGF_REPLY) == MSGF_ABORTABLE and", ") and")),
    _m("a receipt is given at every queue", "M7", "msg",
       Edit(Port.enqueue_msg, "msg.ms_flags &= ~MSGF_RECEIPT", _PASS)),
    _m("a reply gives a receipt", "M7", "msg",
       Edit(Port.enqueue_reply, "self._link(msg, MSGF_QUEUED | _REPLIED)",
            "self.enqueue_msg(msg); msg.ms_flags |= _REPLIED")),
    # ---------------------------------------------------------------- IPIs
    _m("the newest entry runs first", "I1", "ipi",
       Edit(ipiq.process_ipiq, "fifo.popleft()", "fifo.pop()")),
    _m("an entry is lost", "I2", "ipi",
       Edit(ipiq.process_ipiq, "fn(arg1, arg2)", "len(fifo) == 1 or fn(arg1, arg2)")),
    _m("a sender does not wait for room", "I3", "ipi",
       Edit(ipiq.send_ipiq, "if q.windex - q.rindex > q.high:", "if False:")),
    _m("nowait does not look at the room", "I3", "ipi",
       Edit(ipiq.send_ipiq_nowait, "gd.gd_domain.ipiq_bounded and", "False and"),
       Edit(ipiq.send_ipiq, "if q.windex - q.rindex > q.high:", "if q.windex - q.rindex > 31:")),
    _m("done is what was queued", "I4", "ipi",
       Edit(ipiq.process_ipiq, "q.xindex = q.rindex", "q.xindex = q.windex")),
    _m("xindex is published by the inner frame", "I5", "ipi",
       Edit(ipiq.process_ipiq, "if q.depth == 1:", "if True:")),
    _m("a CPU does not look again before it halts", "I6", "ipi",
       Edit(SimHost._found_work_before_halt, "return bool(", "return False and bool(")),
    _m("a sender does not note its CPU as a source", "I6", "ipi",
       Edit(ipiq.send_ipiq, "target.gd_ipimask[gd.gd_cpuid] = None", _PASS)),
    _m("a CPU halts with the latch taken", "I6", "ipi-fine",
       Edit(ipiq.look_before_halt, "gd.gd_npoll = False", _PASS)),
    _m("a sender that waits for room does not serve its own queues", "I7", "ipi",
       Edit(ipiq.send_ipiq, "            process_ipiq()\n", "")),
    _m("an IPI function may sleep", "I8", "ipi",
       Edit(sleep.lwkt_sleep, "if gd.gd_intr_nesting_level or", "if")),
    # ---------------------------------------------------------------- cpusync
    _m("a master that has answered another one completes", "Y1", "sync",
       Edit(CpuSync.interlock, " or _held_by_another(gd):", ":")),
    _m("a master does not wait for everybody", "Y1", "sync",
       Edit(CpuSync.interlock, "len(self.cs_mack) < len", "len(self.cs_mack) + 1 < len")),
    _m("the function runs at both ends", "Y2", "sync",
       Edit(CpuSync.poll, "self.cs_mack[me] = None", "self.cs_mack[me] = None; self.cs_fn(self.cs_data)")),
    _m("a CPU that was let go does not run the function", "Y2", "sync",
       Edit(CpuSync.poll, "self.cs_fn(self.cs_data)", _PASS)),
    _m("a master that gathers answers nobody", "Y3", "sync",
       Edit(CpuSync.poll, "and (gd.gd_csphase == PHASE_HELD or self.cs_master.gd_cpuid > me)", "")),
)  # fmt: skip
