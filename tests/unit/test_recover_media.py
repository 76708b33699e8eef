"""Recovery on the media: the dirty images become what was recorded, also when recovery itself is interrupted."""

from __future__ import annotations

import pytest

from hammerfs import recover_media as module
from hammerfs.device.base import Device
from hammerfs.device.faulty import Journal, RecordingDevice, crash_images
from hammerfs.device.open import open_devices
from hammerfs.device.overlay import OverlayDevice
from hammerfs.errors import ReadOnlyError
from hammerfs.fs import HammerFS
from hammerfs.manifest import entries
from hammerfs.recover_media import recover_media, redo_from
from hammerfs.redo import operations
from hammerfs.undo import UndoFifo
from hammerfs.volumes import Volumes
from tests.format.test_golden_manifest import RO_MOUNT, TIMES, comparable
from tests.golden import GoldenStore, golden_names

DIRTY = golden_names("crash-")


def opened(golden: GoldenStore, name: str) -> list[Device]:
    return open_devices([str(path) for path in golden[name].volumes], readonly=True)


def written(journal: Journal, devices: list[OverlayDevice] | list[RecordingDevice]) -> list[bytes]:
    """What devices hold now wherever the recovery wrote."""
    return [devices[event.device].pread(event.off, len(event.data)) for event in journal.events if event.data]


@pytest.mark.golden
@pytest.mark.parametrize("name", DIRTY)
def test_a_dirty_image_becomes_its_manifest(golden: GoldenStore, name: str) -> None:
    devices = [OverlayDevice(dev) for dev in opened(golden, name)]
    scan = recover_media(Volumes(devices))
    assert scan.is_dirty
    for root, want in golden[name].manifest["trees"].items():
        rolled_back = root.startswith(RO_MOUNT)
        layered = [OverlayDevice(dev, owns_lower=False) for dev in devices]
        with HammerFS(layered, recover="raw" if rolled_back else "full") as fs:
            got = list(entries(fs, root.removeprefix(RO_MOUNT).encode()))
            assert fs.volumes.notes == []
        drop = {"atime_us"} | TIMES
        assert comparable(got, drop) == comparable(want, drop), root
    for dev in devices:
        dev.close()


@pytest.mark.golden
@pytest.mark.parametrize("name", DIRTY)
def test_power_cuts_while_recovering(golden: GoldenStore, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MOST_BUFFERS", 3)
    monkeypatch.setattr(module, "_RUN", 2)
    bases = opened(golden, name)
    journal = Journal()
    devices = [RecordingDevice(base, journal) for base in bases]
    volumes = Volumes(devices)
    scan = recover_media(volumes)
    want = written(journal, devices)
    sync = redo_from(volumes, scan)
    assert journal.writes >= 1
    cuts = 0
    for image in crash_images(journal, seed=3):
        again = Volumes(image.devices)
        assert recover_media(again) == scan, image
        assert written(journal, image.devices) == want, image
        assert redo_from(again, scan) == sync
        cuts += 1
    assert cuts > journal.writes
    for base in bases:
        base.close()


@pytest.mark.golden
@pytest.mark.parametrize("name", golden_names("crash-redo"))
def test_redo_is_still_found(golden: GoldenStore, name: str) -> None:
    bases = opened(golden, name)
    volumes = Volumes([OverlayDevice(base) for base in bases])
    scan = recover_media(volumes)
    oldest = redo_from(volumes, scan)
    assert oldest is not None
    assert list(operations(UndoFifo(volumes), scan, oldest))
    volumes.close()


@pytest.mark.golden
def test_a_recovered_image_is_recovered_again_without_a_change(golden: GoldenStore) -> None:
    bases = opened(golden, "crash-undo-v3-mid-meta")
    devices = [OverlayDevice(base) for base in bases]
    scan = recover_media(Volumes(devices))
    journal = Journal()
    again = [RecordingDevice(dev, journal) for dev in devices]
    assert recover_media(Volumes(again)) == scan
    assert written(journal, again) == written(journal, [OverlayDevice(dev, owns_lower=False) for dev in devices])
    for dev in devices:
        dev.close()


@pytest.mark.golden
def test_a_clean_image_is_not_written_to(golden: GoldenStore) -> None:
    bases = opened(golden, "vol2-spread")
    journal = Journal()
    volumes = Volumes([RecordingDevice(base, journal) for base in bases])
    scan = recover_media(volumes)
    assert (scan.is_dirty, journal.events) == (False, [])
    assert redo_from(volumes, scan) is None
    for base in bases:
        base.close()


@pytest.mark.golden
def test_all_volumes_must_be_writable(golden: GoldenStore) -> None:
    bases = opened(golden, "vol2-spread")
    volumes = Volumes([OverlayDevice(bases[0]), bases[1]])
    with pytest.raises(ReadOnlyError, match="write to all volumes"):
        recover_media(volumes)
    volumes.close()
