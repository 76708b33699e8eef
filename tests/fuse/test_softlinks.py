"""Snapshots as softlinks: the oldest form of `hammer snapshot`, and volumes whose version knows no other snapshots."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mkfs.cli import main as newfs
from tests.fuse.mounts import Mount
from tests.fuse.rwlab import check, live, make_image, run_hammer

pytestmark = [pytest.mark.mount]
LINK = re.compile(r"(.*)/@@(0x[0-9a-f]{16})\Z")
DEFAULT_NAME = r"snap-\d{8}-\d{4}\Z"


def image_of(folder: Path, version: int) -> Path:
    if version == 7:
        return make_image(folder)
    image = folder / f"v{version}.img"
    with contextlib.redirect_stdout(io.StringIO()):
        assert newfs(["-f", "-u", "8m", "-V", str(version), "-L", "T", "--size", "512m", "--quiet", str(image)]) == 0
    return image


@pytest.fixture(params=[1, 2, 7])
def versioned(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Mount, Path, int]]:
    """A mount of each kind of snapshots, its image, its version."""
    image = image_of(tmp_path, request.param)
    with live(tmp_path, image) as mount:
        yield mount, image, request.param


def ask(*args: object) -> Any:
    return json.loads(run_hammer("--json", *args))


def labels(*args: object) -> list[str]:
    return [row["label"] for row in ask(*args)]


def test_the_oldest_form_makes_a_link_and_prints_it(versioned: tuple[Mount, Path, int]) -> None:
    mount, _, version = versioned
    root, links = mount.root, mount.root / "links"
    links.mkdir()
    (root / "f").write_text("one\n")
    printed = Path(run_hammer("snapshot", links).removesuffix("\n"))
    assert printed.parent == links
    assert re.match(DEFAULT_NAME, printed.name)
    found = LINK.match(os.readlink(printed))
    assert found is not None
    assert found[1] == str(root)
    (root / "f").write_text("two\n")
    assert (printed / "f").read_text() == "one\n"
    named = Path(run_hammer("snapshot", root, links / "%Y 100%% \n%q", "a note").replace("\\x0a", "\n")[:-1])
    assert named.name == time.strftime("%Y 100% \n%q")
    (root / "f").write_text("three\n")
    assert (named / "f").read_text() == "two\n"
    tids = [os.readlink(link)[-18:] for link in (printed, named)]
    assert tids == sorted(tids)
    if version >= 3:
        assert [(row["tid"], row["label"]) for row in ask("snapls", root)] == [(tids[0], ""), (tids[1], "a note")]
    else:
        assert ask("snapls", root) == [], "links in a directory that is not the one of the PFS"
    row = ask("snapshot", root, links / "other")
    assert row.keys() == {"tid", "pfs", "ts_us", "label", "recorded", "path", "link"}
    assert (row["recorded"], row["link"]) == (version >= 3, f"{links}/other")
    assert row["path"] == f"{root}/@@{row['tid']}"
    run_hammer("snaprm", links / "other", printed)
    assert sorted(os.listdir(links)) == [named.name]


def test_what_makes_no_sense(tmp_path: Path) -> None:
    image = image_of(tmp_path, 7)
    with live(tmp_path, image) as mount:
        root = mount.root
        (root / "f").touch()
        assert "is there already" in run_hammer("snapshot", root / "f", code=2)
        assert "is there already" in run_hammer("snapshot", root, root / "f", code=2)
        assert "no such directory" in run_hammer("snapshot", root / "none" / "x", code=1)
        assert "no such directory" in run_hammer("snapshot", root, root / "none" / "x", code=1)
        assert "No such file" in run_hammer("snapshot", root / "none", tmp_path, code=1)
        assert "not on a mounted HAMMER" in run_hammer("snapshot", tmp_path, code=2)
        assert "one note" in run_hammer("snapshot", root, root, "a", "b", code=2)
        assert "at most 63" in run_hammer("snapshot", root, root, "n" * 64, code=1)
        assert "File name too long" in run_hammer("snapshot", root, root / ("x" * 256), code=2)
        printed = run_hammer("snapshot", root, tmp_path).removesuffix("\n")
        assert "is in the past" in run_hammer("snapshot", printed, code=2)
        assert "is in the past" in run_hammer("snapshot", printed, tmp_path / "x", code=2)
        assert len(ask("snapls", root)) == 1, "a snapshot that gets no link is not kept"


def test_links_lead_to_the_pfs_they_were_made_of(tmp_path: Path) -> None:
    image = image_of(tmp_path, 7)
    with live(tmp_path, image) as mount:
        home = mount.root / "home"
        run_hammer("pfs-master", home)
        (home / "sub").mkdir()
        (home / "sub" / "f").write_text("then\n")
        for link in (home / "snap", mount.root / "of home"):
            words = ("snap", link) if link.parent == home else ("snapshot", home, link)
            run_hammer(*words)
            assert (link / "sub" / "f").read_text() == "then\n"
        run_hammer("snaplo", home / "sub" / "here", "lo")
        assert (home / "sub" / "here" / "f").read_text() == "then\n"
        shown = run_hammer("snapq", home).removesuffix("\n")
        assert Path(shown, "sub", "f").read_text() == "then\n"
        with contextlib.chdir(home):
            run_hammer("snaplo", "sub/again")
            assert Path("sub/again/f").read_text() == "then\n"
        assert labels("snapls", home) == ["", "", "lo", "", ""]
        assert labels("snapls", mount.root) == []
        (home / "sub" / "f").write_text("now\n")
    with live(tmp_path, image) as mount:
        row = ask("snapls", mount.root / "home")[0]
        assert (mount.root / f"@@{row['tid']}:00001" / "sub" / "f").read_text() == "then\n"
    found = run_hammer("-f", image, "snapq", "/home", "off").removesuffix("\n")
    assert run_hammer("-f", image, "cat", f"{found}/sub/f") == "now\n"


@pytest.mark.parametrize("version", [1, 2])
def test_links_are_the_snapshots_of_old_versions(tmp_path: Path, version: int) -> None:
    image = image_of(tmp_path, version)
    with live(tmp_path, image) as mount:
        root, folder = mount.root, mount.root / "snapshots"
        folder.mkdir()
        tids = []
        for number in range(3):
            (root / "f").write_bytes(b"%d" % number * 40_000)
            run_hammer("snap", folder / f"s{number}")
            tids.append(os.readlink(folder / f"s{number}")[-18:])
            for again in range(3):
                (root / "f").write_bytes(b"between %d" % again)
                run_hammer("synctid", root)
        os.symlink("/elsewhere", folder / "no snapshot")
        rows = ask("snapls", root)
        assert [(row["tid"], row["label"]) for row in rows] == list(zip(tids, ["s0", "s1", "s2"], strict=True))
        assert run_hammer("snapls", root).splitlines()[2].split("\t")[::2] == [tids[0], "s0"]
        run_hammer("synctid", root)
        shown = root / ".hammer" / "snapshots"
        assert sorted(os.listdir(shown)) == ["s0", "s1", "s2"]
        assert (shown / "s1" / "f").read_bytes() == b"1" * 40_000
        assert os.readlink(root / ".hammer" / "latest") == "snapshots/s2"
        assert ask("diff", "s0", "s1", root)[0]["path"] == "/f"
        pruned = ask("prune", root)
        assert [row[0] for row in pruned["ranges"]] == [tids[1], tids[0], f"0x{1:016x}"]
        assert pruned["records"] > 0
        for number in range(3):
            assert (folder / f"s{number}" / "f").read_bytes() == b"%d" % number * 40_000
        assert "has no such records" in run_hammer("snaprm", root, tids[0], code=1)
        run_hammer("snaprm", folder / "s1")
        assert labels("snapls", root) == ["s0", "s2"]
        assert "has no such records" in run_hammer("snapq", root, code=1)
        run_hammer("prune-everything", root)
        assert sorted(os.listdir(folder)) == ["no snapshot", "s0", "s2"]
    check(image)
    assert labels("-f", image, "snapls") == ["s0", "s2"]
    for where in ("/", "/snapshots"):
        assert [row[0] for row in ask("-f", image, "prune", where)["ranges"]] == [tids[0], f"0x{1:016x}"]


@pytest.mark.parametrize("version", [2, 7])
def test_links_in_an_image_lead_there_wherever_it_is_mounted(tmp_path: Path, version: int) -> None:
    image = image_of(tmp_path, version)
    with live(tmp_path, image) as mount:
        run_hammer("pfs-master", mount.root / "home")
        for where in (mount.root, mount.root / "home"):
            (where / "snapshots" / "deep").mkdir(parents=True)
            (where / "snapshots" / "f").write_text(f"then {where.name}\n")
    calls = (
        ["snapshot", "/snapshots"],
        ["snapshot", "/", "/snapshots/%Y", "note"],
        ["snapshot", "/home", "/snapshots/of home"],
        ["snapshot", "/home/snapshots/deep"],
        ["snapshot", "/home", "/home/snapshots/deep/named"],
    )
    printed = [run_hammer("-f", image, *words).removesuffix("\n") for words in calls]
    assert re.match("/snapshots/" + DEFAULT_NAME, printed[0])
    assert printed[1] == time.strftime("/snapshots/%Y")
    run_hammer("-f", image, "snap", "/snapshots/deep/up")
    run_hammer("-f", image, "snaplo", "/snapshots/lo")
    assert "is there already" in run_hammer("-f", image, "snap", "/snapshots/f", code=1)
    assert "is in the past" in run_hammer("-f", image, "snap", "/snapshots/lo/snap", code=2)
    assert "no link leads out of PFS 1" in run_hammer("-f", image, "snapshot", "/", "/home/x", code=2)
    for words in (["snap", "/none/x"], ["snapshot", "/none", "/snapshots/x"], ["snap", "/snapshots/f/x"]):
        assert run_hammer("-f", image, *words, code=1).count("\n") == 1
    check(image)
    if version < 3:
        assert len(ask("-f", image, "snapls")) == 3, "not the one of home, nor that below"
    else:
        assert len(ask("-f", image, "snapls")) == 4
        assert len(ask("-f", image, "snapls", "/home")) == 3
    with live(tmp_path, image) as mount:
        for where in (mount.root, mount.root / "home"):
            (where / "snapshots" / "f").write_text("now\n")
        for path in printed:
            name = "home" if "home" in path else mount.root.name
            text = (Path(f"{mount.root}{path}") / "snapshots" / "f").read_text()
            assert text.startswith("then ")
            assert (text == "then home\n") == (name == "home")
        assert (mount.root / "snapshots" / "deep" / "up" / "snapshots" / "f").read_text().startswith("then mnt")
        assert (mount.root / "snapshots" / "lo" / "f").read_text().startswith("then mnt")
        assert ask("prune", mount.root / "snapshots")["pfs"] == 0


def test_prune_takes_the_links_of_a_directory_wherever_it_is(tmp_path: Path) -> None:
    image = image_of(tmp_path, 2)
    outside = tmp_path / "outside"
    outside.mkdir()
    with live(tmp_path, image) as mount:
        home = mount.root / "home"
        run_hammer("pfs-master", home)
        kept: dict[str, bytes] = {}
        for number in range(2):
            for where in (mount.root, home):
                name = f"{where.name} {number}"
                (where / "f").write_bytes(name.encode() * 5000)
                kept[name] = (where / "f").read_bytes()
                run_hammer("snapshot", where, outside / name)
                for again in range(2):
                    (where / "f").write_bytes(b"between %d" % again)
                    run_hammer("synctid", mount.root)
        assert "lead into several PFSs" in run_hammer("prune", outside, code=2)
        for name in kept:
            if name.startswith("home"):
                (outside / name).rename(tmp_path / name)
        (outside / "gone").symlink_to(f"/nowhere/@@0x{5:016x}")
        (mount.root / "other").symlink_to(f"{mount.root}/@@0x{6:016x}:00001")
        assert ask("prune", mount.root)["ranges"] == []
        done = ask("prune", outside)
        assert done["pfs"] == 0
        assert [row[0] for row in done["ranges"]][1:] == [f"0x{5:016x}", f"0x{1:016x}"]
        assert done["records"] > 0
        assert run_hammer("prune", outside).splitlines()[-1].startswith("Pruned 0/")
        for name, want in kept.items():
            place = outside if (outside / name).is_symlink() else tmp_path
            assert (place / name / "f").read_bytes() == want
        inside = mount.root / "links"
        inside.mkdir()
        for number in range(2):
            (inside / f"home {number}").symlink_to(os.readlink(tmp_path / f"home {number}"))
        assert ask("prune", inside)["pfs"] == 1, "they lead into the other PFS"
        for number in range(2):
            assert (inside / f"home {number}" / "f").read_bytes() == kept[f"home {number}"]
    check(image)
    assert "not on a mounted HAMMER" in run_hammer("prune", outside, code=2)


def test_cleanup_of_an_old_version_uses_its_own_directory(tmp_path: Path) -> None:
    image = image_of(tmp_path, 2)
    with live(tmp_path, image) as mount:
        root, folder = mount.root, mount.root / "snapshots"
        (root / "f").write_text("then\n")
        said = run_hammer("cleanup", root)
        assert f"using {folder}\n" in said
        (link,) = (path for path in folder.iterdir() if path.is_symlink())
        (root / "f").write_text("now\n")
        assert (link / "f").read_text() == "then\n"
        run_hammer("synctid", root)
        assert labels("snapls", root) == [link.name]
        (folder / "config").write_text("snapshots 1d 1s\n")
        assert "snapshots - skip" in run_hammer("cleanup", root)
    check(image)
