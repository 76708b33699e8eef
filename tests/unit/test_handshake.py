"""INIT's detour: the reply says how fine times are, and the descriptor is the device before and after."""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator

import pytest

from hammerfs.errors import DeviceError
from hammerfs.fuse.handshake import TIME_GRAIN_NS, Detour, with_time_grain

HEAD = struct.Struct("=IiQ")


def reply(error: int = 0, size: int = 80, grain: int = 1) -> bytes:
    """As libfuse makes it: a head, then bytes that are all different from their neighbours."""
    body = bytearray(i & 0xFF for i in range(size - HEAD.size))
    body[24:28] = struct.pack("=I", grain)
    return HEAD.pack(size, error, 2) + bytes(body)


def test_only_the_grain_changes() -> None:
    before = reply()
    after = with_time_grain(before)
    assert struct.unpack_from("=I", after, 40) == (TIME_GRAIN_NS,)
    assert after[:40] + before[40:44] + after[44:] == before


@pytest.mark.parametrize("data", [reply(error=-71), reply()[:43], reply()[:16], b""])
def test_what_can_not_say_it_stays(data: bytes) -> None:
    assert with_time_grain(data) == data


@pytest.fixture
def session() -> Iterator[tuple[socket.socket, int]]:
    """The kernel's end of a device, and the session's descriptor."""
    kernel, device = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with kernel, device:
        yield kernel, device.fileno()


def test_the_exchange(session: tuple[socket.socket, int]) -> None:
    kernel, fd = session
    kernel.send(b"INIT")
    detour = Detour(fd)
    detour.begin()
    assert os.read(fd, 100) == b"INIT"
    os.write(fd, reply())
    detour.end()
    assert kernel.recv(1000) == with_time_grain(reply())
    kernel.send(b"LOOKUP")
    assert os.read(fd, 100) == b"LOOKUP"
    os.write(fd, reply())
    assert kernel.recv(1000) == reply()
    assert not os.get_inheritable(fd)


def test_without_a_reply_it_is_the_device_again(session: tuple[socket.socket, int]) -> None:
    kernel, fd = session
    kernel.send(b"INIT")
    detour = Detour(fd)
    detour.begin()
    with pytest.raises(DeviceError, match="unanswered"):
        detour.end()
    kernel.send(b"LOOKUP")
    assert os.read(fd, 100) == b"LOOKUP"
    detour.end()


def test_a_device_that_can_not_be_read() -> None:
    read_end, write_end = os.pipe()
    os.close(read_end)
    try:
        with pytest.raises(OSError, match="Bad file descriptor"):
            Detour(write_end).begin()
    finally:
        os.close(write_end)
