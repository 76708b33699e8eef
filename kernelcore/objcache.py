"""Object caches: objects that are dear to construct, kept constructed.

Each CPU has two magazines: it pops from and pushes to the loaded one, and swaps it for the previous one at either end,
so that a program that gets and puts at a boundary does not go to the depot each time. The depot is shared, under a
spinlock, and trades only completely full magazines for completely empty ones. Where the depot has no full one, another
object is constructed, up to the limit; where it has no empty one, an object is destructed.

At the limit `get` gives None and `aget` sleeps. Who sleeps makes the other CPUs surrender what lies in their
magazines, and as long as anybody sleeps what is put goes straight to the sleepers: so no free object is out of reach.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, Generic, NamedTuple, TypeVar

from kernelcore.globaldata import cpu, mycpu
from kernelcore.ipiq import send_ipiq
from kernelcore.ipisync import synchronize_ipiqs
from kernelcore.panic import KernelPanic
from kernelcore.sched import assert_can_block
from kernelcore.serialize import Spinlock
from kernelcore.sleep import sleep_until, wakeup, wakeup_one

if TYPE_CHECKING:
    from kernelcore.host.domain import Domain
    from kernelcore.thread import Thread

T = TypeVar("T")

MIN_CAPACITY: Final = 4
MAX_CAPACITY: Final = 128
CAPACITY: Final = 64
DEPOT_MAGAZINES: Final = 2


class ObjCacheRow(NamedTuple):
    """What statistics show of a cache: counters, then objects now. `limit` 0: none."""

    name: str
    gets: int
    gets_null: int
    puts: int
    waiting: int
    """Times a thread went to sleep for an object."""
    exhausted: int
    """Times the limit was met."""
    contested: int
    """Times the depot's lock was taken."""
    allocated: int
    cached: int
    limit: int


class _CpuCache(Generic[T]):
    """One CPU's magazines and counters. `previous` is completely full or completely empty."""

    __slots__ = ("contested", "exhausted", "gets", "gets_null", "loaded", "previous", "puts", "waiting")

    def __init__(self) -> None:
        self.loaded: list[T] = []
        self.previous: list[T] = []
        self.gets = 0
        self.gets_null = 0
        self.puts = 0
        self.waiting = 0
        self.exhausted = 0
        self.contested = 0


class ObjCache(Generic[T]):
    """A cache of constructed objects, of one domain.

    Args:
        name: For messages and statistics.
        ctor: Makes an object; None where it cannot now.
        dtor: Undoes what `ctor` did.
        limit: Most objects at one time, in use or cached; 0 for no limit.
        capacity: Objects in a magazine, 4..128; derived from `nom_cache` where 0.
        nom_cache: How many unused objects to keep, nominally: two magazines for each CPU and two at the depot.
        domain: Whose; the running one where None.
    """

    def __init__(
        self,
        name: str,
        ctor: Callable[[], T | None],
        dtor: Callable[[T], object] | None = None,
        limit: int = 0,
        capacity: int = 0,
        *,
        nom_cache: int = 0,
        domain: Domain | None = None,
    ) -> None:
        domain = mycpu().gd_domain if domain is None else domain
        if not capacity:
            capacity = nom_cache // (domain.ncpus + 1) // 2 + 1 if nom_cache else CAPACITY
        self.name = name
        self.limit = limit
        self.capacity = min(max(capacity, MIN_CAPACITY), MAX_CAPACITY)
        self._ctor = ctor
        self._dtor = dtor
        self._cpus: list[_CpuCache[T]] = [_CpuCache() for _ in domain.gds]
        self._spin = Spinlock(name)
        # The depot: all of it under the spinlock, save that anybody may append to `_loose`.
        self._full: list[list[T]] = []
        self._empty: list[list[T]] = [[] for _ in range(DEPOT_MAGAZINES)]
        self._loose: deque[T] = deque()  # surrendered for those who sleep
        self._allocated = 0
        self._waiters: dict[Thread, None] = {}
        self._out: dict[int, T] | None = {} if domain.debug else None  # debug: what is in use, by identity
        for gd, cc in zip(domain.gds, self._cpus, strict=True):
            gd.gd_objcache[self] = cc
        domain.objcaches.add(self)

    def __repr__(self) -> str:
        return f"<objcache '{self.name}', {self._allocated} objects of at most {self.limit or 'any number'}>"

    def get(self) -> T | None:
        """An object; never sleeps: None where the limit is reached or none can be constructed."""
        cc = self._here()
        loaded = cc.loaded
        if loaded and self._out is None:
            cc.gets += 1
            return loaded.pop()
        obj = self._get(cc)
        if obj is None:
            cc.gets_null += 1
        return obj

    async def aget(self) -> T:
        """An object; sleeps until there is one.

        Raises:
            WrongContext: The caller may not sleep.
        """
        gd = mycpu()
        assert_can_block(gd, f"objcache '{self.name}'")
        obj = self._get(self._here())
        if obj is not None:
            return obj
        self._here().waiting += 1
        td = gd.gd_curthread
        self._waiters[td] = None
        try:
            return await sleep_until(self, self._get_surrendered, self.name)
        finally:
            del self._waiters[td]

    def put(self, obj: T) -> None:
        """Give an object back, as it was got, on any CPU.

        Raises:
            KernelPanic: Debug: it is not one of this cache's that is in use.
        """
        cc = self._here()
        if self._out is not None and self._out.pop(id(obj), None) is None:
            raise KernelPanic(f"put to objcache '{self.name}' of an object that is not in use: {obj!r}")
        cc.puts += 1
        loaded = cc.loaded
        if len(loaded) < self.capacity and not self._waiters:
            loaded.append(obj)
        else:
            self._put(cc, obj)

    def reclaim(self) -> int:
        """Destruct what the depot and the running CPU have cached; returns how many."""
        cc = self._here()
        unused = [*cc.loaded, *cc.previous]
        cc.loaded, cc.previous = [], []
        with self._spin:
            while self._full:
                magazine = self._full.pop()
                unused += magazine
                self._empty.append([])
            while self._loose:
                unused.append(self._loose.popleft())
        for obj in unused:
            self._destruct(obj)
        return len(unused)

    async def destroy(self) -> None:
        """Destruct everything; the cache cannot be used afterwards.

        Raises:
            KernelPanic: Objects are in use.
        """
        gd = mycpu()
        for other in gd.gd_domain.gds:
            send_ipiq(other, _surrender, self)
        await synchronize_ipiqs("objcache")
        self.reclaim()
        if self._allocated:
            raise KernelPanic(f"objcache '{self.name}' destroyed with {self._allocated} objects in use")
        for other in gd.gd_domain.gds:
            del other.gd_objcache[self]
        gd.gd_domain.objcaches.discard(self)

    def stats(self) -> ObjCacheRow:
        """Counters."""
        ccs = self._cpus
        cached = sum(len(cc.loaded) + len(cc.previous) for cc in ccs) + sum(map(len, self._full)) + len(self._loose)
        return ObjCacheRow(
            self.name,
            sum(cc.gets for cc in ccs),
            sum(cc.gets_null for cc in ccs),
            sum(cc.puts for cc in ccs),
            sum(cc.waiting for cc in ccs),
            sum(cc.exhausted for cc in ccs),
            sum(cc.contested for cc in ccs),
            self._allocated,
            cached,
            self.limit,
        )

    def _here(self) -> _CpuCache[T]:
        try:
            return cpu.gd.gd_objcache[self]  # type: ignore[no-any-return]
        except KeyError:
            raise KernelPanic(f"objcache '{self.name}' used on {cpu.gd!r}, which does not know it") from None

    def _get(self, cc: _CpuCache[T]) -> T | None:
        """Magazines, depot, constructor, in this order."""
        if not cc.loaded and cc.previous:
            cc.loaded, cc.previous = cc.previous, cc.loaded
        obj = cc.loaded.pop() if cc.loaded else self._get_depot(cc)
        if obj is not None:
            cc.gets += 1
            if self._out is not None:
                self._out[id(obj)] = obj
        return obj

    def _get_depot(self, cc: _CpuCache[T]) -> T | None:
        self._count_contest(cc)
        with self._spin:
            if self._full:
                self._empty.append(cc.previous)
                cc.previous = cc.loaded
                cc.loaded = self._full.pop()
                return cc.loaded.pop()
            if self._loose:
                return self._loose.popleft()
            if self.limit and self._allocated >= self.limit:
                cc.exhausted += 1
                return None
            self._allocated += 1
        return self._construct()

    def _construct(self) -> T | None:
        """Make the object that has been counted; the count is undone if it cannot be made."""
        obj = None
        try:
            obj = self._ctor()
        finally:
            if obj is None:
                with self._spin:
                    self._allocated -= 1
        return obj

    def _put(self, cc: _CpuCache[T], obj: T) -> None:
        if self._waiters:
            self._loose.append(obj)
            wakeup_one(self)
            return
        if not cc.previous:
            cc.loaded, cc.previous = cc.previous, cc.loaded
            cc.loaded.append(obj)
            return
        self._count_contest(cc)
        with self._spin:
            if self._empty:
                self._full.append(cc.previous)
                cc.previous = cc.loaded
                cc.loaded = self._empty.pop()
                cc.loaded.append(obj)
                return
        self._destruct(obj)

    def _get_surrendered(self) -> T | None:
        gd = cpu.gd
        for other in gd.gd_domain.gds:
            if other is not gd:
                send_ipiq(other, _surrender, self)
        return self._get(self._here())

    def surrender(self) -> None:
        """Lay what the running CPU has cached open for those who sleep."""
        cc = self._here()
        self._loose.extend(cc.loaded)
        self._loose.extend(cc.previous)
        cc.loaded, cc.previous = [], []
        if self._loose or self._full:
            wakeup(self)

    def _destruct(self, obj: T) -> None:
        """Undo an object, and only then say that there is room for another."""
        if self._dtor is not None:
            self._dtor(obj)
        with self._spin:
            self._allocated -= 1
        if self._waiters:
            wakeup_one(self)

    def _count_contest(self, cc: _CpuCache[T]) -> None:
        if self._spin.l_lock.locked():
            cc.contested += 1


def _surrender(oc: Any, _arg2: int) -> None:
    oc.surrender()
