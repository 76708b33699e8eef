"""Packed volume sets: the same bytes back, holes kept, damage named, nothing half done left behind."""

from __future__ import annotations

import json
import os
import random
import struct
import zlib
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hammerfs.device.open import open_devices
from hammerfs.device.overlay import memory_device
from hammerfs.errors import CorruptError, ExistsError
from hammerfs.packfile import members, pack, unpack
from tests.golden import GoldenStore
from tools.cli import main

SIZE = 3 << 20


def volumes(tmp_path: Path) -> list[Path]:
    rng = random.Random(7)
    made = []
    for name in ("a.img", "b.img"):
        path = tmp_path / name
        with path.open("wb") as file:
            file.truncate(SIZE + 4096)
            for _ in range(5):
                file.seek(rng.randrange(SIZE))
                file.write(rng.randbytes(rng.randrange(1, 70000)))
        os.truncate(path, SIZE + 4096)
        made.append(path)
    return made


def packed(tmp_path: Path) -> tuple[list[Path], Path]:
    made = volumes(tmp_path)
    target = tmp_path / "set.hpk"
    devices = open_devices(list(made))
    pack(devices, target)
    for dev in devices:
        dev.close()
    return made, target


def test_the_same_bytes_and_holes_come_back(tmp_path: Path) -> None:
    made, target = packed(tmp_path)
    told: list[tuple[int, int]] = []
    out = unpack(target, tmp_path / "out", progress=lambda done, total: told.append((done, total)))
    assert [path.name for path in out] == ["a.img", "b.img"]
    assert [path.read_bytes() for path in out] == [path.read_bytes() for path in made]
    assert [member.size for member in members(target)] == [SIZE + 4096] * 2
    assert told == sorted(told)
    assert all(path.stat().st_blocks * 512 < SIZE for path in out)
    assert target.stat().st_size < sum(path.stat().st_blocks for path in made) * 512


@pytest.mark.golden
@pytest.mark.parametrize("name", ["vol2-spread", "fresh-three", "history"])
def test_golden_sets_by_the_command(
    golden: GoldenStore, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    image = golden[name]
    target = str(tmp_path / "set.hpk")
    assert main(["-f", image.spec, "--json", "pack", target]) == 0
    assert json.loads(capsys.readouterr().out)["volumes"] == len(image.volumes)
    assert main(["unpack", "--list", target]) == 0
    assert capsys.readouterr().out.count("\n") == len(image.volumes)
    assert main(["unpack", target, str(tmp_path / "out")]) == 0
    assert main(["unpack", target, str(tmp_path / "out")]) == 1
    for path in image.volumes:
        back = tmp_path / "out" / path.name
        assert back.stat().st_size == path.stat().st_size
    spec = ":".join(str(tmp_path / "out" / path.name) for path in image.volumes)
    capsys.readouterr()
    texts = []
    for volumes_of in (image.spec, spec):
        assert main(["-f", volumes_of, "manifest"]) == 0
        texts.append(json.loads(capsys.readouterr().out)["trees"])
    assert texts[0] == texts[1]


def test_nothing_is_replaced_without_force(tmp_path: Path) -> None:
    made, target = packed(tmp_path)
    devices = open_devices(list(made))
    with pytest.raises(ExistsError, match=r"set\.hpk exists"):
        pack(devices, target)
    pack(devices, target, force=True)
    with pytest.raises(ExistsError, match=r"a\.img exists"):
        unpack(target, tmp_path)
    assert unpack(target, tmp_path, force=True)
    for dev in devices:
        dev.close()


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 1 << 30), cut=st.booleans())
def test_damage_is_named_and_leaves_nothing(tmp_path_factory: pytest.TempPathFactory, seed: int, cut: bool) -> None:
    tmp = tmp_path_factory.mktemp("pack")
    dev = memory_device(200_000, "m.img")
    dev.pwrite(5000, random.Random(3).randbytes(90_000))
    target = tmp / "set.hpk"
    pack([dev], target)
    raw = bytearray(target.read_bytes())
    at = random.Random(seed).randrange(len(raw))
    if cut:
        del raw[at:]
    else:
        raw[at] ^= 1 << seed % 8
    target.write_bytes(raw)
    out = tmp / "out"
    with pytest.raises(CorruptError) as caught:
        unpack(target, out)
    assert str(target) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not out.exists() or os.listdir(out) == []


@pytest.mark.parametrize("name", ["../evil", "", ".", "a/b", "a\0b"])
def test_names_in_a_packed_file_stay_inside(tmp_path: Path, name: str) -> None:
    header = json.dumps({"volumes": [{"name": name, "size": 10}]}).encode()
    target = tmp_path / "set.hpk"
    target.write_bytes(
        struct.pack("<8sII", b"HAMMERPK", 1, len(header)) + header + struct.pack("<I", zlib.crc32(header))
    )
    with pytest.raises(CorruptError, match="has the name"):
        unpack(target, tmp_path / "out")


def test_other_files_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = tmp_path / "other"
    other.write_bytes(b"something else entirely")
    assert main(["unpack", str(other)]) == 1
    assert main(["unpack", str(tmp_path / "none")]) == 1
    err = capsys.readouterr().err
    assert "no packed volume set" in err
    assert "No such file" in err
    assert err.count("\n") == 2
