"""The short profile of the fuzz run, for continuous integration; and that it can find something."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hammerfs.crc import CrcRule
from hammerfs.device.overlay import OverlayDevice
from hammerfs.errors import CorruptError, HammerError
from hammerfs.fs import HammerFS
from hammerfs.manifest import manifest
from hammerfs.ondisk import blockmap, fifo, node, records, volume
from tests.fuzz import __main__ as runner
from tests.fuzz import bases, targets
from tests.fuzz.mutate import Mutant

GROUPS, EACH = 20, 30
"""600 images."""


@pytest.fixture(autouse=True)
def bounded_memory() -> Iterator[None]:
    """Memory without bounds is an error."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + (1 << 30), hard))
    yield
    resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


@pytest.mark.parametrize("group", range(GROUPS))
def test_hostile_images(group: int) -> None:
    for seed in range(group * EACH, (group + 1) * EACH):
        targets.check(seed)


def test_a_mutant_is_the_same_every_time_and_differs_from_others() -> None:
    assert Mutant(5).changes == Mutant(5).changes
    assert len({tuple(Mutant(seed).changes) for seed in range(50)}) > 45
    assert all(Mutant(seed).device.dirty for seed in range(50) if Mutant(seed).changes)


@pytest.mark.parametrize("kind", range(bases.KINDS))
def test_the_bases_are_sound(kind: int) -> None:
    with HammerFS([OverlayDevice(bases.base_image(kind), owns_lower=False)]) as fs:
        trees = manifest(fs)["trees"]
        assert [len(tree) for tree in trees.values()] == [26, 2]
        assert not any("error" in entry for tree in trees.values() for entry in tree)
        big = fs.resolve(b"/big")
        crashed = fs.undone is not None
        assert crashed == (kind >= 3)
        if crashed and fs.volumes.version >= 4:
            assert big.size == bases.CRASHED_SIZE
            assert fs.read(big, bases.REDONE_AT, len(bases.REDONE)) == bases.REDONE
            assert fs.read(big, 0, 100) == b"o" * 100
        else:
            assert big.size == 76800
    if crashed:
        with (
            pytest.raises(HammerError),
            HammerFS([OverlayDevice(bases.base_image(kind), owns_lower=False)], recover="raw") as fs,
        ):
            manifest(fs)


def test_most_mutants_are_noticed_by_some_reader(monkeypatch: pytest.MonkeyPatch) -> None:
    noticed = 0

    def count(err: HammerError) -> None:
        nonlocal noticed
        noticed += 1

    monkeypatch.setattr(targets, "check_error", count)
    for seed in range(40):
        targets.check(seed)
    assert noticed > 20


def test_the_run_finds_what_a_reader_may_not_do(monkeypatch: pytest.MonkeyPatch) -> None:
    def crash(_fs: object) -> None:
        raise KeyError("careless")

    def vague(_fs: object) -> None:
        raise CorruptError("somewhere")

    def stray(fs: HammerFS) -> None:
        fs.volumes.root.dev.pread(fs.volumes.root.dev.size, 1)

    for bad in (crash, vague, stray):
        monkeypatch.setattr(targets, "TARGETS", {"bad": targets.on("raw", bad)})
        with pytest.raises(AssertionError):
            for seed in range(20):
                targets.check(seed)


def long_run(*args: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tests.fuzz", *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_long_runner_resumes(tmp_path: Path) -> None:
    state = tmp_path / "state.json"
    for count in (20, 45):
        done = long_run("--count", count, "--jobs", 1, "--resume", state)
        assert (done.returncode, done.stdout) == (0, f"{count} images, 0 failures\n")
        assert json.loads(state.read_text())["done"] == count


def test_the_long_runner_tries_again_what_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state = tmp_path / "state.json"
    monkeypatch.setattr(runner, "check", fail_on_three)
    first = runner.State(state, 10)
    first.add(*runner.run_seeds(range(1, 6)))
    assert list(first.failures) == [3]
    again = runner.State(state, 10)
    assert (again.done, list(again.failures)) == (5, [3])
    monkeypatch.setattr(runner, "check", lambda _seed: None)
    assert not runner.State(state, 10).failures
    assert runner.State(state, 5).done == 0


def fail_on_three(seed: int) -> None:
    assert seed != 3


@pytest.mark.long
def test_the_long_profile(pytestconfig: pytest.Config) -> None:
    """Goes on where the last run was stopped."""
    if "long" not in pytestconfig.option.markexpr.replace("not long", ""):
        pytest.skip("only for `make test-long`")
    assert pytestconfig.cache is not None
    state = pytestconfig.cache.mkdir("fuzz") / "state.json"
    done = long_run("--count", 200_000, "--resume", state)
    assert done.returncode == 0, done.stdout


@settings(max_examples=300, deadline=None)
@given(raw=st.binary(max_size=4200))
def test_decoders_take_any_bytes(raw: bytes) -> None:
    padded = raw.ljust(4096, b"\0")
    for decode in (
        volume.VolumeOndisk.decode,
        records.InodeData.decode,
        records.DirentryData.decode,
        records.PfsData.decode,
        records.SnapshotData.decode,
    ):
        for data in (raw, padded):
            try:
                decode(data)
            except CorruptError as err:
                assert "\n" not in str(err)
    try:
        node.NodeOndisk.decode(padded[:4096])
    except CorruptError as err:
        assert "\n" not in str(err)
    blockmap.Layer1.decode(padded)
    blockmap.Layer2.decode(padded)
    for pos in range(0, 64, 8):
        try:
            fifo.decode_head(raw.ljust(16384, b"\0"), pos, CrcRule(7))
        except CorruptError as err:
            assert "\n" not in str(err)
