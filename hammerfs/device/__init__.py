"""Where the bytes of a volume come from: files, disks, slices of a disk, memory, and devices that fail on purpose.

`open_devices` turns what a user writes into devices; everything above knows `Device` only.
"""

from hammerfs.device.base import Buffer, Device
from hammerfs.device.open import open_device, open_devices, split_volumes
from hammerfs.device.overlay import OverlayDevice, memory_device
from hammerfs.device.slice import SliceDevice

__all__ = [
    "Buffer",
    "Device",
    "OverlayDevice",
    "SliceDevice",
    "memory_device",
    "open_device",
    "open_devices",
    "split_volumes",
]
