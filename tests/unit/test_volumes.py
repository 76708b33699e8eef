"""Volume sets: any number of volumes in any order, and what is wrong with a set is told by name."""

from __future__ import annotations

import random
import uuid

import pytest

from hammerfs.const import BIGBLOCK_SIZE
from hammerfs.device.base import Device
from hammerfs.device.overlay import memory_device
from hammerfs.errors import CorruptError, VersionError, VolumeSetError
from hammerfs.fs import HammerFS
from hammerfs.ondisk.volume import VolumeOndisk
from hammerfs.volumes import Volumes
from mkfs.layout import Params, plan

MIB = 1 << 20


def volume_set(count: int, seed: int = 1) -> list[Device]:
    """A formatted set. Of the volumes but the root only the header is there: nobody asks for their free space."""
    sizes = (64 * MIB, *[557056 + 2 * BIGBLOCK_SIZE] * (count - 1))
    layout = plan(Params(b"SET", sizes, uuid.UUID(int=seed), 1_700_000_000_000_000, undo_size=8 * MIB))
    devices = [memory_device(size, f"vol{i}.img") for i, size in enumerate(sizes)]
    for vol_no, offset, data in layout.extents():
        if vol_no == 0 or offset == 0:
            devices[vol_no].pwrite(offset, data)
    return list(devices)


def change_header(dev: Device, **fields: int) -> None:
    header = VolumeOndisk.decode(dev.pread(0, 2048))
    for name, value in fields.items():
        setattr(header, name, value)
    dev.pwrite(0, header.encode())


@pytest.mark.parametrize("count", [1, 2, 7, 256])
def test_any_number_in_any_order(count: int) -> None:
    devices = volume_set(count)
    random.Random(count).shuffle(devices)
    with HammerFS(devices) as fs:
        assert fs.root().is_dir
        assert sorted(fs.volumes.by_number) == list(range(count))
        assert [volume.dev.name for volume in fs.volumes] == [dev.name for dev in devices]
        assert fs.volumes.root.dev.name == "vol0.img"


def test_missing_volumes_are_named() -> None:
    devices = volume_set(5)
    with pytest.raises(VolumeSetError, match=r"vol0.img: the file system has 5 volumes, 3 given: missing number 1, 4$"):
        Volumes([devices[3], devices[0], devices[2]])
    with pytest.raises(VolumeSetError, match=r"the root volume \(number 0\) is missing: vol3.img is number 3"):
        Volumes([devices[3]])


def test_a_volume_given_twice_is_named() -> None:
    devices = volume_set(3)
    with pytest.raises(VolumeSetError, match=r"volume vol1.img: is volume 1, as is vol1.img"):
        Volumes([*devices, devices[1]])


def test_a_foreign_volume_is_named() -> None:
    devices, others = volume_set(3), volume_set(3, seed=2)
    with pytest.raises(VolumeSetError, match=r"volume vol2.img: belongs to file system .*02, vol0.img to .*01$"):
        Volumes([*devices[:2], others[2]])


def test_volumes_more_than_there_may_be() -> None:
    with pytest.raises(VolumeSetError, match=r"0 volumes given, a file system has 1..256"):
        Volumes([])
    devices = volume_set(2)
    with pytest.raises(VolumeSetError, match=r"257 volumes given"):
        Volumes(devices * 128 + devices[:1])


def test_numbers_may_have_gaps() -> None:
    """Removing a volume from a set leaves the others' numbers as they are."""
    devices = volume_set(3)
    change_header(devices[2], vol_no=9)
    assert sorted(Volumes(devices).by_number) == [0, 1, 9]


@pytest.mark.parametrize("version", [0, 8, 2**32 - 1])
def test_versions_that_are_none(version: int) -> None:
    devices = volume_set(1)
    change_header(devices[0], vol_version=version)
    with pytest.raises(VersionError, match=f"vol0.img: volume version {version} is not one of 1..7"):
        Volumes(devices)


def test_what_is_no_volume_is_named() -> None:
    devices = [*volume_set(2)[:1], memory_device(MIB, "zeros.img")]
    with pytest.raises((VolumeSetError, CorruptError), match=r"zeros.img: no HAMMER volume"):
        Volumes(devices)
