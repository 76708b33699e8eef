"""Tokens: exclusive and shared, recursive, LIFO, swap, try, pool, generation; with and without contention."""

from __future__ import annotations

import pytest

from kernelcore.defs import MAXTOKENS
from kernelcore.globaldata import curthread, mycpu
from kernelcore.host.sim import SimHost
from kernelcore.panic import KernelPanic, LimitExceeded, WrongContext
from kernelcore.sched import lwkt_deschedule, lwkt_schedule, lwkt_switch, lwkt_user_yield, preempt_point, thread_state
from kernelcore.sleep import tsleep, wakeup
from kernelcore.thread import Thread, join, lwkt_create
from kernelcore.token import (
    Token,
    cnttoken,
    getpooltoken,
    lwkt_gettoken,
    lwkt_gettoken_shared,
    lwkt_reltoken,
    token_swap,
)
from kernelcore.token_contended import ContendedToken
from tests.unit.kernelcore.conftest import JumpHost


def test_get_is_recursive_and_counted(up: JumpHost) -> None:
    async def main() -> None:
        td, tok = curthread(), Token("fs")
        assert not tok.held_any(td)
        with tok, tok, tok.shared():
            assert cnttoken(tok, td) == 3 and tok.held_excl(td) and tok.held_any(td)
            tok.assert_held()
        with tok.shared():
            assert tok.held_any(td) and not tok.held_excl(td)
        with pytest.raises(KernelPanic, match="token 'fs' is not held by thread"):
            tok.assert_held()

    up.call(main())


def test_the_field_s_names(up: JumpHost) -> None:
    async def main() -> None:
        tok = Token("fs")
        lwkt_gettoken(tok)
        lwkt_gettoken_shared(tok)
        assert cnttoken(tok, curthread()) == 2
        lwkt_reltoken(tok)
        lwkt_reltoken(tok)

    up.call(main())


def test_release_is_last_in_first_out_and_swap_helps(up: JumpHost) -> None:
    async def main() -> None:
        one, two = Token("one"), Token("two")
        one.get()
        with pytest.raises(KernelPanic, match="token_swap with 1 token"):
            token_swap()
        two.get()
        with pytest.raises(KernelPanic, match=r"'one' released out of order .*: the newest is 'two'"):
            one.rel()
        token_swap()
        one.rel()
        two.get_shared()
        token_swap()  # twice the same: the deeper one is the owner, and stays
        assert [ref.tr_excl for ref in curthread().td_toks] == [True, False]
        two.rel()
        two.rel()
        with pytest.raises(KernelPanic, match="holds none"):
            two.rel()

    up.call(main())


def test_exclusive_after_shared_could_never_succeed(up: JumpHost, sim: SimHost) -> None:
    async def plain() -> None:
        tok = Token("fs")
        with tok.shared():
            with pytest.raises(KernelPanic, match="holds it shared"):
                tok.get()
            assert not tok.trytoken() and tok.t_collisions == 1

    async def contended() -> None:
        tok = Token("fs")
        async with tok.shared():
            with pytest.raises(KernelPanic, match="holds it shared"):
                await tok.aget()
            assert not tok.trytoken() and tok.t_collisions == 1

    up.call(plain())
    sim.call(contended())


def test_at_most_32(up: JumpHost) -> None:
    async def main() -> None:
        tok = Token("fs")
        for _ in range(MAXTOKENS):
            tok.get()
        for take in (tok.get, tok.get_shared, tok.trytoken):
            with pytest.raises(LimitExceeded, match="more than 32 tokens"):
                take()
        for _ in range(MAXTOKENS):
            tok.rel()

    up.call(main())


def test_the_generation_tells_whether_anybody_else_had_it(up: JumpHost) -> None:
    async def visitor(tok: Token) -> None:
        with tok:
            pass

    async def main() -> None:
        tok = Token("fs")
        with tok:
            gen = tok.gen
            await lwkt_user_yield()
            assert not tok.changed_since(gen)  # nobody came
            await join(lwkt_create(visitor, tok))
            assert tok.changed_since(gen)

    up.call(main())


def test_owner_reader_owner_again_is_a_change_to_the_reader(up: JumpHost) -> None:
    async def main() -> None:
        tok = Token("fs")

        async def owner() -> None:
            for _ in range(2):
                with tok:
                    pass
                await tsleep("owner", 0, "owner")

        td = lwkt_create(owner)
        await lwkt_user_yield()
        with tok.shared():
            gen = tok.gen
            wakeup("owner")
            await lwkt_user_yield()
            assert tok.changed_since(gen)
        wakeup("owner")
        await join(td)

    up.call(main())


def test_pool_tokens_are_found_by_object(up: JumpHost) -> None:
    async def main() -> None:
        thing, other = object(), object()
        tok = getpooltoken(thing)
        assert getpooltoken(thing) is tok and tok.t_desc.startswith("pool")
        with tok, getpooltoken(other):
            tok.assert_held()

    up.call(main())


def test_async_forms_work_on_every_host(up: JumpHost, sim: SimHost) -> None:
    async def main() -> None:
        tok = Token("fs")
        async with tok, tok.shared():
            await tok.aget()
            await tok.aget_shared()
            assert cnttoken(tok, curthread()) == 4
            tok.rel()
            tok.rel()

    up.call(main())
    sim.call(main())


def test_plain_forms_say_so_where_they_would_have_to_wait(sim: SimHost) -> None:
    async def main() -> None:
        tok = Token("fs")
        for take, form in ((tok.get, "aget"), (tok.get_shared, "aget_shared")):
            with pytest.raises(WrongContext, match=rf"await {form}\(\)"):
                take()

    sim.call(main())


def holder(tok: Token, release: list[bool], *, shared: bool = False) -> Thread:
    """A thread of CPU 1 that holds `tok` until told."""

    async def body() -> None:
        async with tok.shared() if shared else tok:
            while not release:
                await preempt_point()

    return lwkt_create(body, cpu_id=1, name="holder")


async def until_held(tok: Token, td: Thread) -> None:
    while not tok.held_any(td):
        await preempt_point()


def test_who_waits_stays_ready_shows_the_token_and_holds_none(sim: SimHost) -> None:
    release: list[bool] = []

    async def main() -> None:
        tok, mine = Token("busy"), Token("mine")
        other = holder(tok, release)
        await until_held(tok, other)

        async def waiter() -> None:
            async with mine:
                await tok.aget()
                mine.assert_held()
                tok.rel()

        td = lwkt_create(waiter, cpu_id=0)
        while thread_state(td) != "T":
            await lwkt_user_yield()
        assert td.td_wmesg == "busy" and td.td_contended >= 1 and td.td_toks_have == 0
        assert mine.trytoken()
        mine.rel()
        assert not tok.trytoken()
        assert tok.t_collisions >= 2 and mycpu().gd_cnt.v_lock_name == "busy"
        release.append(True)
        await join(td)
        await join(other)

    sim.call(main())


def test_shared_holders_run_side_by_side(sim: SimHost) -> None:
    release: list[bool] = []

    async def main() -> None:
        tok = Token("tree")
        other = holder(tok, release, shared=True)
        await until_held(tok, other)
        switches = curthread().td_switches
        await tok.aget_shared()
        assert curthread().td_switches == switches
        release.append(True)
        tok.rel()
        await join(other)

    sim.call(main())


def test_a_reservation_keeps_new_readers_out_but_not_those_inside(sim: SimHost) -> None:
    release: list[bool] = []

    async def main() -> None:
        tok = Token("tree")
        assert isinstance(tok, ContendedToken)
        other = holder(tok, release, shared=True)
        await until_held(tok, other)
        writer = lwkt_create(tok.aget, cpu_id=0, name="writer")
        writer.td_joiners += 1
        while tok.t_exclreq is not writer:
            await lwkt_user_yield()

        async def reader() -> None:
            async with tok.shared():
                pass

        late = lwkt_create(reader, cpu_id=0)
        while thread_state(late) != "T":
            await lwkt_user_yield()
        lwkt_deschedule(writer)  # it gives up its reservation
        assert not writer.td_exclreq
        await join(late)
        lwkt_schedule(writer)
        release.append(True)
        await join(other)
        with pytest.raises(KernelPanic, match="ended holding token 'tree'"):
            await join(writer)

    sim.call(main())


def test_a_reader_inside_may_take_it_again_despite_a_reservation(sim: SimHost) -> None:
    async def main() -> None:
        tok = Token("tree")
        assert isinstance(tok, ContendedToken)

        async def writer() -> None:
            async with tok:
                pass

        async with tok.shared():
            td = lwkt_create(writer, cpu_id=1)
            while tok.t_exclreq is not td:
                await preempt_point()
            switches = curthread().td_switches
            await tok.aget_shared()
            assert curthread().td_switches == switches
            tok.rel()
        await join(td)

    sim.call(main())


def test_opposite_orders_do_not_deadlock(sim: SimHost) -> None:
    async def diner(first: Token, second: Token) -> None:
        for _ in range(10):
            async with first:
                await preempt_point()
                async with second:
                    await preempt_point()

    async def main() -> None:
        left, right = Token("left"), Token("right")
        ann = lwkt_create(lambda: diner(left, right), cpu_id=0, name="Ann")
        bob = lwkt_create(lambda: diner(right, left), cpu_id=1, name="Bob")
        await join(ann)
        await join(bob)

    sim.call(main())


def test_every_switch_loses_the_tokens(sim: SimHost) -> None:
    async def main() -> None:
        tok = Token("fs")
        seen: list[str] = []

        async def other() -> None:
            async with tok:
                seen.append("other had it")

        async with tok:
            gen = tok.gen
            td = lwkt_create(other, cpu_id=0)
            await tsleep("nap", 0, "nap", 0.1)
            assert seen and tok.changed_since(gen)
            await lwkt_switch()
            tok.assert_held()
        await join(td)

    sim.call(main())
