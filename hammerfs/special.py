"""Devices, fifos and sockets: nothing but an inode; devices carry their number in it."""

from __future__ import annotations

import os

from hammerfs.const import OBJTYPE_BDEV, OBJTYPE_CDEV
from hammerfs.inode import Inode


def is_device(inode: Inode) -> bool:
    """A character or block device: its rmajor and rminor mean something."""
    return inode.data.obj_type in {OBJTYPE_BDEV, OBJTYPE_CDEV}


def host_rdev(inode: Inode) -> int:
    """Device number as this host encodes it, 0 for anything but a device."""
    if not is_device(inode):
        return 0
    return os.makedev(inode.data.rmajor & 0xFFF, inode.data.rminor & 0xFFFFF)
