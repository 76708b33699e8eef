"""Requests that have to wait for the media: many at once, a small cache, failures, and the right answer in the end."""

from __future__ import annotations

import hashlib
import random
import threading
from collections.abc import Awaitable, Callable, Sequence

import pytest
import trio

from hammerfs.device.base import Device
from hammerfs.device.overlay import OverlayDevice
from hammerfs.errors import DeviceError, HammerError, NotFound
from hammerfs.fs import HammerFS
from hammerfs.fuse.service import Service
from hammerfs.vfs.node import Node, ObjectNode
from hammerfs.vfs.vfs import Look, Vfs
from kernelcore.host.iocpu import IoCpu
from kernelcore.host.trio_host import TrioHost
from tests.imagebuilder import ImageBuilder, pattern

READERS = 12


class ColdDisk(OverlayDevice):
    """Nothing is ever in the host's memory: every read waits, on another OS thread."""

    def __init__(self, lower: Device) -> None:
        super().__init__(lower, owns_lower=False)
        self.reads = 0
        self.refused = 0
        self.bad = False
        self.threads: set[int] = set()

    def _preadv_nowait(self, off: int, views: Sequence[memoryview], n: int) -> bool:
        self.refused += 1
        for view in views:
            view[:1] = b"\xee"  # the caller may not use what is left there
        return False

    def _preadv(self, off: int, views: Sequence[memoryview], n: int) -> None:
        self.reads += 1
        self.threads.add(threading.get_ident())
        if self.bad:
            raise DeviceError("the disk is on fire", volume=self.name, offset=off)
        super()._preadv(off, views, n)


@pytest.fixture(scope="module")
def image() -> Device:
    b = ImageBuilder(fill=12)
    for i in range(300):
        b.file(b"/d%d/f%03d" % (i % 7, i), pattern(i * 37, i))
    b.file(b"/big", pattern(900_000, 1))
    b.snapshot(0x100000001, b"first")
    return b.build()


Work = Callable[[HammerFS, Vfs, Service], Awaitable[None]]


def serve(image: Device, work: Work, *, cache: int = 1 << 20) -> ColdDisk:
    disk = ColdDisk(image)
    fs = HammerFS([disk], cache_bytes=cache)
    vfs = Vfs(fs, Look(snapdir="visible"))
    fs.inodes.drop()
    fs.cache.drop()
    fs.cache.inline = False
    disk.reads = disk.refused = 0
    disk.threads.clear()

    async def main() -> None:
        host = TrioHost(name="test")
        async with trio.open_nursery() as nursery:
            host.start(nursery)
            io = IoCpu(host, "io0")
            service = Service(fs, host, io)
            with trio.fail_after(60):
                await work(fs, vfs, service)
            assert service.waiting == 0
            io.stop()
            await host.shutdown()
            nursery.cancel_scope.cancel()

    trio.run(main)
    fs.cache.drop()
    assert fs.cache.used_bytes == 0  # nothing is held any more
    fs.close()
    return disk


async def read_tree(vfs: Vfs, service: Service, seed: int) -> dict[bytes, str]:
    """Hashes of all files, gone through in an order of its own, in pieces of odd sizes."""
    rng = random.Random(seed)
    found: dict[bytes, str] = {}
    stack: list[tuple[bytes, Node]] = [(b"", vfs.root)]
    while stack:
        path, node = stack.pop(rng.randrange(len(stack)))
        if not isinstance(node, ObjectNode):
            continue
        inode = await service.call(vfs.inode, node)
        if inode.is_dir:
            entries = await service.call(lambda node=node: list(vfs.list_dir(node)))
            stack.extend((path + b"/" + entry.name, entry.node) for entry in entries)
            continue
        digest = hashlib.sha256()
        offset = 0
        while piece := await service.read(inode, offset, rng.randrange(1, 200_000)):
            digest.update(piece)
            offset += len(piece)
        found[path] = digest.hexdigest()
    return found


def wanted(image: Device) -> dict[bytes, str]:
    names = {b"/d%d/f%03d" % (i % 7, i): pattern(i * 37, i) for i in range(300)}
    names[b"/big"] = pattern(900_000, 1)
    return {name: hashlib.sha256(data).hexdigest() for name, data in names.items()}


def test_many_readers_of_a_cold_disk(image: Device) -> None:
    answers: list[dict[bytes, str]] = []

    async def work(_fs: HammerFS, vfs: Vfs, service: Service) -> None:
        async def one(seed: int) -> None:
            answers.append(await read_tree(vfs, service, seed))

        async with trio.open_nursery() as nursery:
            for seed in range(READERS):
                nursery.start_soon(one, seed)

    disk = serve(image, work)
    assert answers == [wanted(image)] * READERS
    assert disk.refused
    assert threading.get_ident() not in disk.threads


def test_one_read_serves_all_who_wait_for_it(image: Device) -> None:
    async def work(fs: HammerFS, vfs: Vfs, service: Service) -> None:
        async with trio.open_nursery() as nursery:
            for _ in range(READERS):
                nursery.start_soon(one, fs, vfs, service)

    async def one(_fs: HammerFS, vfs: Vfs, service: Service) -> None:
        assert isinstance(await service.call(vfs.lookup, vfs.root, b"d3"), ObjectNode)

    alone = serve(image, one, cache=8 << 20)
    together = serve(image, work, cache=8 << 20)
    assert 0 < together.reads == alone.reads


@pytest.fixture(scope="module")
def long_file() -> Device:
    """A file of 12,000 records: its part of the tree is larger than the smallest cache."""
    b = ImageBuilder(fill=20)
    b.file(b"/other", b"small")
    obj_id = b.file(b"/long", b"", size=12_000 << 14)
    for i in range(12_000):
        b.data(obj_id, i << 14, b"sixteen bytes..!", tid=0x100000001 + 16 * (i // 3000))
    return b.build()


def test_counting_goes_on_where_it_was_and_lets_others_in(long_file: Device) -> None:
    turns = 0

    async def work(_fs: HammerFS, vfs: Vfs, service: Service) -> None:
        async def other() -> None:
            nonlocal turns
            while True:
                assert isinstance(await service.call(vfs.lookup, vfs.root, b"other"), ObjectNode)
                turns += 1
                await trio.lowlevel.checkpoint()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(other)
            node = await service.call(vfs.lookup, vfs.root, b"long")
            found = await service.call(vfs.getattr, node)
            assert found.blocks * 512 == 12_000 * 16
            nursery.cancel_scope.cancel()

    disk = serve(long_file, work)
    assert turns > 3
    assert disk.reads < 1.5 * 12_000 / 20 / 4  # every buffer once, and not for every step again


def test_a_call_that_needs_more_than_the_cache_holds_ends(long_file: Device) -> None:
    async def work(_fs: HammerFS, vfs: Vfs, service: Service) -> None:
        node = await service.call(vfs.lookup, vfs.root, b"long@@")
        names = await service.call(lambda: [entry.name for entry in vfs.list_dir(node)])
        assert [name[:18] for name in names] == [b"0x%016x" % (0x100000001 + 16 * i) for i in range(4)]

    serve(long_file, work)


def test_a_scan_asks_ahead(long_file: Device) -> None:
    async def work(fs: HammerFS, vfs: Vfs, service: Service) -> None:
        inode = await service.call(fs.resolve, b"/long")
        runs = 0

        def scan() -> int:
            nonlocal runs
            runs += 1
            return sum(end - beg for beg, end in fs.data_ranges(inode))

        assert await service.call(scan) == 12_000 * 16
        assert runs < 40  # of some 150 buffers

    serve(long_file, work, cache=16 << 20)


def test_a_disk_that_fails_is_told_and_works_again(image: Device) -> None:
    async def work(fs: HammerFS, vfs: Vfs, service: Service) -> None:
        disk = fs.volumes.root.dev
        assert isinstance(disk, ColdDisk)
        disk.bad = True
        refused = []

        async def one() -> None:
            try:
                await service.call(vfs.lookup, vfs.root, b"d3")
            except DeviceError as err:
                refused.append(str(err))

        async with trio.open_nursery() as nursery:
            for _ in range(READERS):
                nursery.start_soon(one)
        assert len(refused) == READERS
        assert all("the disk is on fire" in text for text in refused)
        disk.bad = False
        node = await service.call(vfs.lookup, vfs.root, b"big")
        assert isinstance(node, ObjectNode)
        inode = await service.call(vfs.inode, node)
        disk.bad = True
        with pytest.raises(DeviceError):
            await service.read(inode, 0, 100_000)
        disk.bad = False
        assert bytes(await service.read(inode, 1000, 5000)) == pattern(900_000, 1)[1000:6000]
        with pytest.raises(NotFound):
            await service.call(vfs.lookup, vfs.root, b"nothing")

    serve(image, work)


def test_a_bug_costs_one_request(image: Device, caplog: pytest.LogCaptureFixture) -> None:
    async def work(fs: HammerFS, vfs: Vfs, service: Service) -> None:
        def careless(node: Node) -> None:
            vfs.lookup(node, b"d3")
            raise KeyError("careless")

        for _ in range(2):  # waiting, and at once
            with pytest.raises(HammerError, match="careless failed: KeyError"):
                await service.call(careless, vfs.root)
        assert isinstance(await service.call(vfs.lookup, vfs.root, b"d3"), ObjectNode)

    serve(image, work, cache=8 << 20)
    assert len(caplog.records) == 2
