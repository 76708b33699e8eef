"""Version upgrades: what is there stays, what comes is of the new version, and the way back is closed."""

from __future__ import annotations

import json

import pytest

from hammerfs.const import CAP_DIR_LOCAL_INO, CAP_DIRHASH_ALG1
from hammerfs.errors import InvalidError, UsageError
from hammerfs.fs import HammerFS
from hammerfs.rw import WritableFS
from tests.enginelab import assert_same, assert_sound, fresh, mount, tree
from tests.golden import GoldenStore
from tests.maint.lab import entry_texts, verb
from tools.cli import main
from tools.fsck.check import check

Out = pytest.CaptureFixture[str]


def caps_of_new_directory(fs: WritableFS, name: bytes) -> int:
    directory = fs.mkdir(fs.root(), name)
    fs.write(fs.create(directory, b"inside"), 0, name * 1000)
    return directory.data.cap_flags


@pytest.mark.parametrize("ends", [False, True])
def test_step_by_step_from_the_first_to_the_last(ends: bool) -> None:
    media = fresh(1)
    fs = mount(media)
    caps = {1: caps_of_new_directory(fs, b"v1")}
    for version in range(2, 8):
        assert verb(fs, "version-upgrade", version=version) == {"before": version - 1, "version": version}
        if ends:
            fs.close()
            assert_sound(media)
            fs = mount(media)
        assert fs.volumes.version == version
        caps[version] = caps_of_new_directory(fs, b"v%d" % version)
        fs.sync()
    assert [caps[version] for version in (1, 2, 5, 6, 7)] == [
        0,
        CAP_DIR_LOCAL_INO,
        CAP_DIR_LOCAL_INO,
        CAP_DIR_LOCAL_INO | CAP_DIRHASH_ALG1,
        CAP_DIR_LOCAL_INO | CAP_DIRHASH_ALG1,
    ]
    verb(fs, "snap", path="/", label="possible since version 3")
    want = tree(fs)
    assert len(want) == 1 + 14
    fs.close()
    assert_sound(media)
    again = mount(media)
    assert_same(tree(again), want)
    again.close()


def test_nothing_is_flushed_that_was_pending_and_all_of_it_is_there() -> None:
    media = fresh(3)
    fs = mount(media)
    inode = fs.create(fs.root(), b"f")
    fs.write(inode, 0, b"pending")
    verb(fs, "version-upgrade", version=7)
    fs.write(inode, 0, b"PENDING again")
    fs.fsync(inode)
    fs.close()
    assert_sound(media)
    again = mount(media)
    assert again.read(again.resolve(b"/f"), 0, 20) == b"PENDING again"
    again.close()


def test_there_is_no_way_back() -> None:
    fs = mount(fresh(6))
    with pytest.raises(InvalidError, match="no way back"):
        verb(fs, "version-upgrade", version=5)
    for version in (0, 8):
        with pytest.raises(UsageError, match=r"1\.\.7"):
            verb(fs, "version-upgrade", version=version)
    assert verb(fs, "version-upgrade", version=6) == {"before": 6, "version": 6}
    fs.close()


@pytest.mark.golden
@pytest.mark.parametrize("name", ["fresh-v1", "basic-v1", "basic-v4", "dragonfly-v1-2009"])
def test_images_of_the_original_become_version_7(golden: GoldenStore, capsys: Out, name: str) -> None:
    image = golden.copy(name)
    faults = {f.code for f in check(image.spec, data=True) if f.is_error}
    with HammerFS.open(image.spec) as fs:
        want = None if name.startswith("basic") else tree(fs)  # those hold files of 2^63 bytes
        before = fs.volumes.version
    for version in (4, 6, 7):
        if version < before:
            continue
        assert main(["-f", image.spec, "--json", "version-upgrade", "/", str(version)]) == 0
        assert json.loads(capsys.readouterr().out)["version"] == version
        assert {f.code for f in check(image.spec, data=True) if f.is_error} == faults
    assert main(["-f", image.spec, "version"]) == 0
    assert "current=7 " in capsys.readouterr().out
    with WritableFS.open_rw(image.spec) as fs:
        if want is not None:
            assert_same(tree(fs), want)
        caps_of_new_directory(fs, b"new")
    assert {f.code for f in check(image.spec, data=True) if f.is_error} == faults


@pytest.mark.golden
def test_an_image_that_the_original_upgraded(golden: GoldenStore, capsys: Out) -> None:
    image = golden.copy("upgraded-2-to-7")
    assert main(["-f", image.spec, "version-upgrade", "/", "7"]) == 0
    assert "from version 7 to 7" in capsys.readouterr().out
    assert main(["-f", image.spec, "manifest"]) == 0
    assert entry_texts(json.loads(capsys.readouterr().out)["trees"]["/"]) == entry_texts(image.manifest["trees"]["/"])
