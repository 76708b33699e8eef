"""The scenario `slab`: one CPU allocates, the others free what it has allocated."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, Final

from kernelcore.globaldata import cpu
from kernelcore.malloctype import MallocType
from kernelcore.sched import preempt_point
from kernelcore.slab import kfree, kmalloc_wait
from kernelcore.slabcpu import CLEANUP_S, Slab
from kernelcore.sleep import tsleep
from kernelcore.zone import Chunk, Zone

if TYPE_CHECKING:
    from kernelcore.lab.sim import Stage
    from kernelcore.lab.timeline import LabHost

SIZE: Final = 16384
"""A zone has eight chunks of that size."""


class _Play:
    """An owner on CPU 0, and on each other CPU a thread that frees what the owner gives away."""

    def __init__(self, host: LabHost) -> None:
        self.host = host
        self.mtype = MallocType("buffer", slab=Slab(host))
        self.given: list[Chunk] = []
        self.begun = False
        self.freers = host.ncpus - 1
        for n in range(1, host.ncpus):
            host.spawn(self.freer, cpu_id=n, name=f"freer{n}")

    async def freer(self) -> None:
        while not self.begun:
            await preempt_point()
        while self.given:
            self.host.say(f"kfree of a chunk of cpu 0, {len(self.given) - 1} left")
            kfree(self.given.pop(), self.mtype)
            await preempt_point()
        self.freers -= 1

    async def get(self, count: int) -> list[Chunk]:
        return [await kmalloc_wait(SIZE, self.mtype) for _ in range(count)]

    async def give(self, chunks: list[Chunk]) -> None:
        """Give chunks away, and wait until all have been freed."""
        self.given += chunks
        self.begun = True
        while self.freers:
            await preempt_point()

    def look(self, zone: Zone) -> None:
        """Say what the owner sees of its zone."""
        remote = f", {len(zone.z_rchunks)} on its remote list" if zone.z_rchunks else ""
        where = ", off its list" if zone.z_rsignal else ""
        self.host.say(f"sees {zone.label}: {zone.z_nfree} of {zone.z_nmax} chunks free{remote}{where}")


async def _listed(play: _Play) -> None:
    chunks = await play.get(6)
    zone = chunks[0].c_zone
    play.look(zone)
    await play.give(chunks[:3])
    play.look(zone)
    await play.get(2)
    play.host.say("kmalloc took the last chunk it knew of")
    play.look(zone)


async def _dry(play: _Play) -> None:
    chunks = await play.get(8)
    zone = chunks[0].c_zone
    play.look(zone)
    await play.give(chunks[:3])
    play.look(zone)
    await tsleep("buffers", 0, "buffers", 0.05)
    play.look(zone)


async def _retired(play: _Play) -> None:
    chunks = await play.get(16)
    kfree(chunks[0], play.mtype)
    kfree(chunks[8], play.mtype)
    zone = chunks[8].c_zone
    await play.give(chunks[9:])
    play.look(zone)
    await tsleep("later", 0, "later", CLEANUP_S + 1)
    sc = cpu.gd.gd_slab
    play.host.say(f"has {len(sc.zones)} zone with chunks, {len(sc.free_zones)} free zone")


def remote_slab_free(stage: Stage) -> None:
    """What is freed elsewhere waits at its zone; only a zone that has run dry is told of it."""

    def setup(owner: Callable[[_Play], Coroutine[Any, Any, None]]) -> Callable[[LabHost], None]:
        def build(host: LabHost) -> None:
            play = _Play(host)
            host.spawn(owner, play, cpu_id=0, name="owner")

        return build

    stage.play("a zone with free chunks: its owner looks at the remote list when it runs dry", setup(_listed))
    stage.play("a zone that has run dry: the first to free tells its owner, by a passive IPI", setup(_dry))
    stage.play("the rest of a zone freed elsewhere: the cleanup, ten seconds later, retires it", setup(_retired))
