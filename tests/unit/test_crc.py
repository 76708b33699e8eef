from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hammerfs.crc import CrcRule, crc32, crc32c, crcmod_crc32c, xor_crc
from hammerfs.errors import VersionError
from hammerfs.ondisk.fifo import encode_dummy

VECTORS = [
    (b"", 0x00000000, 0x00000000),
    (b"\0", 0xD202EF8D, 0x527D5351),
    (b"123456789", 0xCBF43926, 0xE3069283),
    (b"\xff" * 32, 0xFF6CAB0B, 0x62A8AB43),
    (bytes(36), 0x6AB6B2D5, 0xFA2626D2),
    (bytes(range(256)), 0x29058C73, 0x9C44184B),
    (bytes(4092), 0x603B0489, 0xA732586E),
    (bytes(16384), 0xAB54D286, 0x94640B85),
    (bytes(65536), 0xD7978EEB, 0x72C0C4A4),
]


@pytest.mark.parametrize(("data", "old", "new"), VECTORS, ids=lambda v: f"{len(v)}B" if isinstance(v, bytes) else "")
def test_vectors(data: bytes, old: int, new: int) -> None:
    assert crc32(data, 0) == old
    assert crc32c(data, 0) == new
    assert crcmod_crc32c()(data, 0) == new


def test_dummy_record_vector() -> None:
    assert int.from_bytes(encode_dummy(0, CrcRule(6))[12:16], "little") == 0x4A45FC5A
    assert int.from_bytes(encode_dummy(0, CrcRule(7))[12:16], "little") == 0x317FE32E


@given(st.binary(max_size=200), st.binary(max_size=200))
def test_checksums_continue(a: bytes, b: bytes) -> None:
    for crc in (crc32, crc32c, crcmod_crc32c()):
        assert crc(b, crc(a, 0)) == crc(a + b, 0)


@given(st.binary(max_size=600))
def test_compiled_agrees_with_the_witness(data: bytes) -> None:
    assert crc32c(data, 0) == crcmod_crc32c()(data, 0)


def test_old_volumes_know_only_the_old_checksum() -> None:
    data = b"123456789"
    for version in range(1, 7):
        rule = CrcRule(version)
        assert rule.of(data) == crc32(data, 0)
        assert rule.matches(crc32(data, 0), data)
        assert not rule.matches(crc32c(data, 0), data)
        assert rule.kind(crc32(data, 0), data) == "o"


def test_version_7_accepts_both() -> None:
    data, rule = b"123456789", CrcRule(7)
    assert rule.of(data) == crc32c(data, 0)
    assert rule.kind(crc32c(data, 0), data) == "i"
    assert rule.kind(crc32(data, 0), data) == "o"
    assert rule.kind(1, data) == ""
    assert not rule.matches(1, data)


def test_pieces_are_xored() -> None:
    rule = CrcRule(7)
    assert rule.of(b"ab", b"cd") == crc32c(b"ab", 0) ^ crc32c(b"cd", 0)
    assert rule.matches(xor_crc(crc32, b"ab", b"cd"), b"ab", b"cd")


@pytest.mark.parametrize("version", [0, 8, -1, 1 << 40])
def test_no_such_version(version: int) -> None:
    with pytest.raises(VersionError, match="not one of 1"):
        CrcRule(version)
