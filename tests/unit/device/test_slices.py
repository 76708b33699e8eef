"""Volumes inside whole disks: GPT, MBR with logical slices, disklabels of both kinds, plain offsets, wrong names."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from hammerfs.device.open import open_device, open_devices
from hammerfs.errors import DeviceError, HammerError, UsageError, VolumeSetError
from hammerfs.fs import HammerFS
from tests.imagebuilder import ImageBuilder
from tests.imagetools.disks import disklabel32, disklabel64, gpt, mbr

MIB = 1 << 20


def disk(tmp_path: Path, image: bytearray, name: str = "disk.img") -> str:
    path = tmp_path / name
    path.write_bytes(image)
    return str(path)


def marked(image: bytearray, off: int, mark: bytes) -> None:
    image[off : off + len(mark)] = mark


def first_bytes(spec: str, n: int = 4) -> tuple[bytes, int]:
    with open_device(spec) as dev:
        return dev.pread(0, n), dev.size


@pytest.mark.parametrize("sector", [512, 4096])
def test_gpt(tmp_path: Path, sector: int) -> None:
    image = bytearray(8 * MIB)
    gpt(
        image,
        {0: (MIB // sector, 2 * MIB // sector - 1, "boot"), 4: (3 * MIB // sector, 5 * MIB // sector - 1, "h")},
        sector,
    )
    marked(image, MIB, b"one!")
    marked(image, 3 * MIB, b"five")
    path = disk(tmp_path, image)
    assert first_bytes(f"{path}@p1") == (b"one!", MIB)
    assert first_bytes(f"{path}@p5") == (b"five", 2 * MIB)
    with pytest.raises(DeviceError, match=r"no slice or partition 'p2'; found: .*1.*5"):
        open_device(f"{path}@p2")


def test_gpt_with_a_damaged_first_table(tmp_path: Path) -> None:
    image = bytearray(8 * MIB)
    gpt(image, {0: (2048, 4095, "h")})
    marked(image, MIB, b"one!")
    image[512 + 20] ^= 1
    path = disk(tmp_path, image)
    assert first_bytes(f"{path}@p1") == (b"one!", MIB)
    image[-512 + 20] ^= 1
    path = disk(tmp_path, image, "both.img")
    with pytest.raises(DeviceError, match="CRC"):
        open_device(f"{path}@p1")


def test_mbr_with_logical_slices(tmp_path: Path) -> None:
    image = bytearray(12 * MIB)
    sectors = MIB // 512
    mbr(image, [(0x6C, sectors, 2 * sectors), (0x05, 4 * sectors, 6 * sectors)])
    mbr(image, [(0x6C, 64, sectors), (0x05, 3 * sectors, 2 * sectors)], at=4 * sectors)
    mbr(image, [(0x6C, 64, sectors)], at=7 * sectors)
    marked(image, MIB, b"prim")
    marked(image, 4 * MIB + 64 * 512, b"log5")
    marked(image, 7 * MIB + 64 * 512, b"log6")
    path = disk(tmp_path, image)
    assert first_bytes(f"{path}@s1") == (b"prim", 2 * MIB)
    assert first_bytes(f"{path}@s5") == (b"log5", MIB)
    assert first_bytes(f"{path}@s6") == (b"log6", MIB)
    with pytest.raises(DeviceError, match=r"no slice or partition 's7'; found: "):
        open_device(f"{path}@s7")


def test_a_chain_of_logical_slices_that_leads_in_a_circle_ends(tmp_path: Path) -> None:
    image = bytearray(4 * MIB)
    mbr(image, [(0x05, 2048, 4096)])
    mbr(image, [(0x6C, 64, 128), (0x05, 0, 4096)], at=2048)
    path = disk(tmp_path, image)
    with pytest.raises(DeviceError, match="s9"):
        open_device(f"{path}@s9")


def test_disklabel64_in_a_slice(tmp_path: Path) -> None:
    image = bytearray(10 * MIB)
    mbr(image, [(0xA5, 2048, 18000)])
    disklabel64(image, MIB, 18000 * 512, {"a": (MIB, MIB), "d": (3 * MIB, 4 * MIB)})
    marked(image, 4 * MIB, b"hmr!")
    path = disk(tmp_path, image)
    assert first_bytes(f"{path}@s1d") == (b"hmr!", 4 * MIB)
    assert first_bytes(f"{path}@d") == (b"hmr!", 4 * MIB)
    image[MIB + 512 + 8] ^= 1
    with pytest.raises(DeviceError):
        open_device(f"{disk(tmp_path, image, 'bad.img')}@s1d")


def test_disklabel64_on_the_whole_disk(tmp_path: Path) -> None:
    image = bytearray(6 * MIB)
    disklabel64(image, 0, len(image), {"d": (2 * MIB, 3 * MIB)})
    marked(image, 2 * MIB, b"dang")
    assert first_bytes(f"{disk(tmp_path, image)}@d") == (b"dang", 3 * MIB)


@pytest.mark.parametrize("base", [None, 0])
def test_disklabel32(tmp_path: Path, base: int | None) -> None:
    image = bytearray(8 * MIB)
    mbr(image, [(0xA5, 2048, 12000)])
    disklabel32(image, MIB, 12000 * 512, {"e": (2 * MIB, 2 * MIB)}, base=base)
    marked(image, 3 * MIB, b"old!")
    assert first_bytes(f"{disk(tmp_path, image)}@s1e") == (b"old!", 2 * MIB)


def test_two_labels_need_the_slice(tmp_path: Path) -> None:
    image = bytearray(12 * MIB)
    mbr(image, [(0xA5, 2048, 8192), (0xA5, 12288, 8192)])
    for begin in (MIB, 6 * MIB):
        disklabel64(image, begin, 8192 * 512, {"d": (2 * MIB, MIB)})
    path = disk(tmp_path, image)
    with pytest.raises(DeviceError, match="'d' could be any of s1d, s2d: name the slice too"):
        open_device(f"{path}@d")
    assert first_bytes(f"{path}@s2d")[1] == MIB


@pytest.mark.parametrize(
    ("offset", "begin"), [("1048576", MIB), ("0x100000", MIB), ("1024k", MIB), ("1m", MIB), ("0", 0)]
)
def test_plain_offsets(tmp_path: Path, offset: str, begin: int) -> None:
    image = bytearray(3 * MIB)
    marked(image, begin, b"here")
    path = disk(tmp_path, image)
    assert first_bytes(f"{path}@offset={offset}") == (b"here", 3 * MIB - begin)
    with pytest.raises(DeviceError, match="beyond"):
        open_device(f"{path}@offset=4m")


def test_a_file_whose_name_holds_the_sign_wins(tmp_path: Path) -> None:
    plain = tmp_path / "x@s1d"
    plain.write_bytes(b"file" + bytes(MIB))
    assert first_bytes(str(plain))[0] == b"file"
    colons = tmp_path / "a:b"
    colons.write_bytes(b"colo" + bytes(MIB))
    with open_devices(f"{colons}")[0] as dev:
        assert dev.pread(0, 4) == b"colo"


def test_tables_that_are_none(tmp_path: Path) -> None:
    for name, image in (("zeros", bytearray(MIB)), ("ones", bytearray(b"\xff" * MIB)), ("tiny", bytearray(600))):
        path = disk(tmp_path, image, name)
        for part in ("s1", "p1", "d", "s1d"):
            with pytest.raises(HammerError) as caught:
                open_device(f"{path}@{part}")
            assert "\n" not in str(caught.value)
    path = disk(tmp_path, bytearray(MIB))
    with pytest.raises(UsageError, match="empty volume name"):
        open_devices(f"{path}::{path}")


def test_a_file_system_in_a_slice_and_its_errors(tmp_path: Path) -> None:
    b = ImageBuilder()
    b.file(b"/hello", b"world")
    volume = b.build()
    begin = 2 * MIB
    image = bytearray(begin + volume.size + MIB)
    mbr(image, [(0xA5, 2048, (len(image) - MIB) // 512)])
    disklabel64(image, MIB, len(image) - MIB, {"d": (MIB, volume.size)})
    for off in range(0, volume.size, 1 << 20):
        chunk = volume.pread(off, min(1 << 20, volume.size - off))
        if any(chunk):
            image[begin + off : begin + off + len(chunk)] = chunk
    path = disk(tmp_path, image)
    with HammerFS.open(f"{path}@s1d") as fs:
        assert fs.read(fs.resolve(b"/hello"), 0, 9) == b"world"
    with HammerFS.open(f"{path}@offset=2m") as fs:
        assert fs.resolve(b"/hello").size == 5
    with pytest.raises(VolumeSetError, match="same volume"):
        HammerFS.open([f"{path}@s1d", f"{path}@offset=2m"])
    with pytest.raises(HammerError, match="disk"):
        HammerFS.open(path)


@pytest.mark.parametrize("seed", range(40))
def test_damaged_tables_are_refused_or_read_but_never_worse(tmp_path: Path, seed: int) -> None:
    import random

    rng = random.Random(seed)
    image = bytearray(6 * MIB)
    mbr(image, [(0xA5, 2048, 8192), (0x05, 10240, 1024)])
    disklabel64(image, MIB, 8192 * 512, {"d": (2 * MIB, MIB)})
    if seed % 2:
        gpt(image, {0: (2048, 10239, "h")})
    for _ in range(8):
        at = rng.choice([rng.randrange(446, 512), rng.randrange(512, 2048), MIB + 512 + rng.randrange(400)])
        struct.pack_into("<B", image, at, rng.randrange(256))
    path = disk(tmp_path, image)
    for part in ("s1", "s5", "p1", "d", "s1d", "p1d"):
        try:
            with open_device(f"{path}@{part}") as dev:
                dev.pread(0, min(512, dev.size))
        except HammerError as err:
            assert "\n" not in str(err)
