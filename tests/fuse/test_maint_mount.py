"""Maintenance of a mounted file system: verbs through the control socket while programs go on."""

from __future__ import annotations

import contextlib
import io
import json
import os
import threading
from pathlib import Path

import pytest

from mkfs.cli import main as newfs
from tests.fuse.mounts import Mount
from tests.fuse.rwlab import check, difference, live, make_image, run_hammer, tree_of

pytestmark = [pytest.mark.mount]


def fill(root: Path, rounds: int) -> None:
    """Files written and partly removed again, with history between."""
    for number in range(rounds):
        for name in range(30):
            (root / f"f{name}").write_bytes(os.urandom(3000 * (name + 1)))
        for name in range(0, 30, 3):
            (root / f"f{name}").unlink()
        run_hammer("synctid", root)
        if number % 2:
            run_hammer("snapq", root, f"round {number}")


def test_prune_and_reblock_while_programs_write(tmp_path: Path, image: Path) -> None:
    with live(tmp_path, image) as mount:
        fill(mount.root, 4)
        kept = [line.split("\t")[0] for line in run_hammer("snapls", mount.root).splitlines()[2:]]
        assert len(kept) == 2
        views = {tid: tree_of(mount.root / f"@@{tid}") for tid in kept}
        stop = threading.Event()
        written: list[bytes] = []

        def write() -> None:
            while not stop.is_set():
                written.append(os.urandom(50_000))
                (mount.root / "busy").write_bytes(written[-1])
                assert (mount.root / "busy").read_bytes() == written[-1]

        writer = threading.Thread(target=write)
        writer.start()
        try:
            pruned = json.loads(run_hammer("--json", "prune", mount.root))
            text = run_hammer("reblock", mount.root)
        finally:
            stop.set()
            writer.join()
        assert pruned["records"] > 0
        assert f"Reblock {mount.root} succeeded\n" in text
        assert len(written) > 0
        assert {tid: tree_of(mount.root / f"@@{tid}") for tid in kept} == views
        before = tree_of(mount.root)
    check(image)
    with live(tmp_path, image) as mount:
        assert difference(tree_of(mount.root), before) == {}
        run_hammer("prune-everything", mount.root)
        assert run_hammer("snapls", mount.root).count("\n") == 2
        assert difference(tree_of(mount.root), before) == {}
    check(image)


def test_softlinks_of_a_directory_are_snapshots(mount: Mount, tmp_path: Path) -> None:
    links = mount.root / "links"
    links.mkdir()
    shown = []
    for number in range(2):
        (mount.root / "f").write_bytes(b"%d" % number * 50_000)
        run_hammer("snap", links / f"s{number}")
        shown.append((mount.root / "f").read_bytes())
        for again in range(2):
            (mount.root / "f").write_bytes(b"between %d" % again)
            run_hammer("synctid", mount.root)
    for line in run_hammer("snapls", mount.root).splitlines()[2:]:
        run_hammer("snaprm", mount.root, line.split("\t")[0])
    assert "No snapshots" not in run_hammer("prune", links)
    assert [(links / f"s{number}" / "f").read_bytes() for number in range(2)] == shown


def test_pfss_on_a_mount(tmp_path: Path, image: Path) -> None:
    with live(tmp_path, image) as mount:
        link = mount.root / "m"
        text = run_hammer("pfs-master", link, "label=work", "prune-min=1d")
        assert text.startswith(f"Creating PFS#1\tsucceeded!\n{link}\tPFS#1 {{\n")
        assert '    label="work"\n    prune-min=1d\n    operating as a MASTER\n' in text
        assert os.readlink(link) == "@@-1:00001"
        (link / "file").write_text("inside")
        (link / "dir").mkdir()
        shared = json.loads(run_hammer("--json", "pfs-status", link))[0]["shared_uuid"]
        text = run_hammer("pfs-slave", mount.root / "s", f"shared-uuid={shared}")
        assert "operating as a SLAVE" in text
        assert "pfs-downgrade of PFS#1 (work) succeeded" in run_hammer("pfs-downgrade", link)
        assert os.readlink(link).startswith("@@0x")
        assert (link / "file").read_text() == "inside"
        with pytest.raises(OSError, match="Read-only"):
            (link / "new").write_text("x")
        assert "pfs-upgrade of PFS#1 (work) succeeded" in run_hammer("pfs-upgrade", link)
        assert (link / "file").read_text() == "inside"
        (link / "new").write_text("x")
        assert 'label="home"' in run_hammer("pfs-update", link, "label=home")
        run_hammer("-y", "pfs-destroy", mount.root / "s")
        run_hammer("-y", "pfs-destroy", link)
        assert not os.path.lexists(link)
        assert sorted(os.listdir(mount.root)) == []
    check(image)


def test_a_pfs_that_has_become_another_one_shows_nothing_of_the_one_before(mount: Mount) -> None:
    """The kernel keeps what it knows of names and files for ever."""
    link = mount.root / "p"
    run_hammer("pfs-master", link)
    (link / "f").write_text("one\n")
    (link / "old").write_text("old\n")
    then = run_hammer("synctid", mount.root).strip()
    (link / "f").write_text("two, and longer\n")
    (link / "late").write_text("late\n")
    (link / "old").unlink()
    assert not (link / "old").exists()
    run_hammer("pfs-downgrade", link)
    run_hammer("pfs-update", link, f"sync-end-tid={then}")
    assert (link / "f").read_text() == "one\n"
    run_hammer("pfs-upgrade", link)
    assert {path.name: path.read_text() for path in link.iterdir()} == {"f": "one\n", "old": "old\n"}
    assert not (link / "late").exists()
    (link / "late").write_text("again\n")
    number = (link / "f").stat().st_ino
    run_hammer("-y", "pfs-destroy", link)
    assert not (mount.root / "@@-1:00001").exists()
    assert "Creating PFS#1\t" in run_hammer("pfs-master", link), "the lowest id that is free"
    assert os.listdir(link) == []
    for name in ("f", "old", "late"):
        assert not (link / name).exists()
        (link / name).write_text(f"new {name}\n")
        assert (link / name).read_text() == f"new {name}\n"
    assert (link / "f").stat().st_ino != number


def test_a_pass_that_is_cut_short_goes_on(mount: Mount, tmp_path: Path) -> None:
    fill(mount.root, 3)
    cycle = tmp_path / "cycle"
    parts = 0
    while parts < 200:
        parts += 1
        done = json.loads(run_hammer("-t", "0", "-c", cycle, "--json", "reblock", mount.root))
        if done["stopped_at"] is None:
            break
        assert done["stopped_by"] == "timer"
        assert cycle.read_text().strip() == done["stopped_at"]
    assert not cycle.exists()


def test_mirror_from_mount_to_mount_and_image(tmp_path: Path, image: Path) -> None:
    folder = tmp_path / "other"
    folder.mkdir()
    second, third = make_image(folder, "second.img"), make_image(folder, "third.img")
    with live(tmp_path, image) as source, live(folder, second) as target:
        master, slave = source.root / "m", target.root / "s"
        run_hammer("pfs-master", master)
        fill(master, 1)
        assert "to PFS#1 succeeded" in run_hammer("mirror-copy", master, slave)
        assert_copied(master, slave)
        (master / "f1").write_bytes(b"later")
        (master / "f2").unlink()
        done = json.loads(run_hammer("--json", "mirror-copy", master, slave))
        assert done["created"] < 10
        assert_copied(master, slave)
        with pytest.raises(OSError, match="Read-only"):
            (slave / "x").write_text("x")
        run_hammer("mirror-copy", "--to", third, master, "/copy")
    check(third)


def assert_copied(master: Path, slave: Path) -> None:
    """A slave holds what its master does; it is seen in the past, where mtime is ctime."""
    want, got = tree_of(master), tree_of(slave)
    del want["."], got["."]  # the softlinks differ
    assert difference(want, {path: e._replace(mtime_ns=want[path].mtime_ns) for path, e in got.items()}) == {}


def test_facts_and_a_version_upgrade_of_a_mount(tmp_path: Path) -> None:
    image = tmp_path / "old.img"
    with contextlib.redirect_stdout(io.StringIO()):
        assert newfs(["-f", "-u", "8m", "-V", "3", "-L", "OLD", "--size", "512m", "--quiet", str(image)]) == 0
    with live(tmp_path, image) as mount:
        text = run_hammer("info", mount.root)
        assert "\tLabel               OLD\n" in text
        assert "\tHAMMER Version      3\n" in text
        assert f"\t     0  MASTER      0  {mount.root}\n" in text
        assert run_hammer("volume-list", "-v", mount.root) == f"0\t{image} (Root Volume)\n"
        assert run_hammer("volume-blkdevs", mount.root) == f"{image}\n"
        (mount.root / "before").write_bytes(b"x" * 100_000)
        assert "from version 3 to 7" in run_hammer("version-upgrade", mount.root, 7)
        (mount.root / "after").write_bytes(b"y" * 100_000)
        assert "current=7 " in run_hammer("version", mount.root)
        assert "no way back" in run_hammer("version-upgrade", mount.root, 6, code=1)
    assert "HAMMER Version      7" in run_hammer("-f", image, "info")


def test_cleanup_and_its_configuration_on_a_mount(
    mount: Mount, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, text = mount.root, tmp_path / "text"
    assert "has no configuration" in run_hammer("config", root, code=1)
    text.write_text("snapshots 1d 60d\nprune 1d 5m\n")
    run_hammer("config", root, text)
    assert run_hammer("config", root) == text.read_text()
    text.write_text("nonsense\n")
    assert "line 1" in run_hammer("config", root, text, code=2)
    editor = tmp_path / "editor"
    editor.write_text('#!/bin/sh\necho "reblock 1d 5m" >> "$1"\n')
    editor.chmod(0o755)
    monkeypatch.setenv("VISUAL", str(editor))
    run_hammer("viconfig", root)
    assert run_hammer("config", root) == "snapshots 1d 60d\nprune 1d 5m\nreblock 1d 5m\n"
    monkeypatch.setenv("VISUAL", "false")
    assert "nothing was changed" in run_hammer("viconfig", root, code=2)
    short = Path("/tmp") / f"hammer-cleanup-{os.getpid()}"
    short.symlink_to(tmp_path)
    try:
        run_hammer("pfs-update", root, f"snapshots={short}/state")
        (root / "file").write_text("kept")
        said = run_hammer("cleanup", root)
        assert [line.split("-")[-1].strip() for line in said.splitlines()[1:]] == ["run", "run", "run"]
        (link,) = (path for path in (tmp_path / "state").iterdir() if path.is_symlink())
        assert (link / "file").read_text() == "kept"
        assert run_hammer("cleanup", root).count("skip") == 3
    finally:
        short.unlink()
