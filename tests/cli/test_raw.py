"""The raw views: equal to what DragonFly's tools printed of the same media, and calm in the face of damage."""

from __future__ import annotations

import json
import struct
from itertools import pairwise
from pathlib import Path

import pytest

from hammerfs.const import NODE_HEADER, NODE_SIZE, RECTYPE_INODE
from hammerfs.crc import CrcRule
from hammerfs.fs import HammerFS
from tests.golden import GoldenStore, golden_names
from tests.imagebuilder import ImageBuilder
from tools.cli import main

BLOCKMAP = b"==== BLOCKMAP\n"
DIRTY = {"crash-torn-151", "crash-undo-v3-mid-meta", "crash-undo-v7-mid-meta"}
"""Metadata on the media is ahead of what the freemap had when the power went."""


def run(capfdbinary: pytest.CaptureFixture[bytes], *argv: str, code: int = 0) -> bytes:
    assert main(argv) == code
    out, err = capfdbinary.readouterr()
    assert err == b""
    return out


@pytest.mark.golden
@pytest.mark.parametrize("name", golden_names())
def test_recorded_texts(golden: GoldenStore, capfdbinary: pytest.CaptureFixture[bytes], name: str) -> None:
    image = golden[name]
    shown = run(capfdbinary, "-f", image.spec, "show")
    recorded = image.text("show")
    if recorded is not None:
        want = recorded.encode("utf-8", "surrogateescape")
        tree, _, blockmap = want.partition(BLOCKMAP)
        assert shown == tree
        if blockmap:
            assert run(capfdbinary, "-f", image.spec, "blockmap", "-q") == blockmap
    for verb in ("blockmap", "checkmap"):
        recorded = image.text(verb)
        if recorded is not None:
            assert run(capfdbinary, "-f", image.spec, verb) == recorded.encode()


@pytest.mark.golden
@pytest.mark.parametrize("name", golden_names())
def test_checkmap_agrees_with_every_image_that_was_written_in_full(
    golden: GoldenStore, capfdbinary: pytest.CaptureFixture[bytes], name: str
) -> None:
    out = run(capfdbinary, "-f", golden[name].spec, "checkmap", code=int(name in DIRTY)).decode()
    assert out.endswith("\n0 bad nodes\n0 errors\n") == (name not in DIRTY) or name == "crash-torn-151"
    found = json.loads(run(capfdbinary, "-f", golden[name].spec, "--json", "checkmap", code=int(name in DIRTY)))
    assert (found["errors"] + found["bad_nodes"] == 0) == (name not in DIRTY)
    assert all(block["correct"] == (block["free"] == block["stored_free"]) for block in found["blocks"])


@pytest.mark.golden
@pytest.mark.parametrize("name", golden_names("crash-") + golden_names("undo-wrap") + golden_names("basic-v7"))
def test_every_record_of_the_fifo(golden: GoldenStore, capfdbinary: pytest.CaptureFixture[bytes], name: str) -> None:
    out = run(capfdbinary, "-f", golden[name].spec, "show-undo").decode()
    records = json.loads(run(capfdbinary, "-f", golden[name].spec, "--json", "show-undo"))["records"]
    kinds = {record.get("type") for record in records}
    assert {"UNDO", "DUMMY"} <= kinds or name.endswith("v3-mid-meta")
    assert out.count("\n") == len(records) + 29
    assert all(a["offset"] + a["size"] == b["offset"] for a, b in pairwise(records) if "size" in a)


def image_file(tmp_path: Path, builder: ImageBuilder) -> Path:
    dev = builder.build()
    path = tmp_path / "built.img"
    path.write_bytes(dev.pread(0, dev.size))
    return path


def small() -> ImageBuilder:
    b = ImageBuilder(fill=5)
    for i in range(40):
        b.file(b"/file%02d" % i, b"contents %d" % i)
    return b


def test_levels_of_quiet(tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    path = str(image_file(tmp_path, small()))
    loud, less, none, least = (
        run(capfdbinary, "-f", path, "show", *flags).decode() for flags in ([], ["-q"], ["-qq"], ["-qqq"])
    )
    assert "ctime=" in loud
    assert "inode size=" in less
    assert "ctime=" not in less
    assert "dir-entry" in less
    assert "inode size=" not in none
    assert "icrc=" in none
    assert "vol_label" not in least
    assert all(word not in least for word in ("icrc", "fill=", "mirror="))
    assert loud.count(" ELM ") == less.count(" ELM ") == none.count(" ELM ") == least.count(" ELM ")


def test_only_what_has_a_key(tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    path = str(image_file(tmp_path, small()))
    with HammerFS.open(path) as fs:
        obj_id = fs.resolve(b"/file07").obj_id
    whole = run(capfdbinary, "-f", path, "show", "-q").decode()
    only = run(capfdbinary, "-f", path, "show", "-q", f"1:{obj_id:x}").decode()
    records = [line for line in only.splitlines() if " ELM " in line and " R lo=" in line]
    assert [f"objid={obj_id:016x}" in line for line in records] == [True]
    assert 0 < only.count("NODE ") < whole.count("NODE ")
    exact = run(capfdbinary, "-f", path, "show", f"1:{obj_id:x}:{RECTYPE_INODE:x}:0:100000001").decode()
    assert exact.count(" R lo=") == 1
    assert run(capfdbinary, "-f", path, "show", "ffffffff:7fffffffffffffff").decode().count(" R lo=") == 0
    with pytest.raises(SystemExit) as refused:
        main(["-f", path, "show", "1:2", "3"])
    assert refused.value.code == 2
    assert main(["-f", path, "show", "1:xyz"]) == 2


def test_json_of_the_tree(tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    path = str(image_file(tmp_path, small()))
    shown = json.loads(run(capfdbinary, "-f", path, "--json", "show"))
    assert shown["bad"] == {"nodes": 0, "elms": 0, "records": 0}
    assert sum(len(node["elements"]) for node in shown["nodes"]) == run(capfdbinary, "-f", path, "show").count(b" ELM ")
    assert {node["type"] for node in shown["nodes"]} == {"I", "L"}
    assert all(len(elm["flags"]) >= 7 for node in shown["nodes"] for elm in node["elements"])
    blockmap = json.loads(run(capfdbinary, "-f", path, "--json", "blockmap"))
    assert all(block["crc_ok"] for span in blockmap["layer1"] for block in span["blocks"])


def damaged(tmp_path: Path, change: str) -> str:
    """An image whose root node was changed in one way; its checksum is right again where that is not the change."""
    path = image_file(tmp_path, small())
    with HammerFS.open(str(path), recover="raw") as fs:
        volume, at = fs.volumes.locate(fs.volumes.superblock.vol0_btree_root, NODE_SIZE)
        raw = bytearray(volume.dev.pread(at, NODE_SIZE))
    child = NODE_HEADER + 48
    if change == "loop":
        root = struct.unpack_from("<Q", path.read_bytes(), 240)
        struct.pack_into("<Q", raw, child, root[0])
    elif change == "type":
        raw[NODE_HEADER + 35] = ord("?")
    elif change == "child":
        struct.pack_into("<Q", raw, child, 0x8FFFFFFFFFFFF000)
    elif change == "mirror":
        struct.pack_into("<Q", raw, child - 8, 1 << 62)
    elif change == "count":
        struct.pack_into("<i", raw, 16, 1 << 30)
    if change == "crc":
        raw[0] ^= 1
    else:
        struct.pack_into("<I", raw, 0, CrcRule(7).of(bytes(raw[4:])))
    with path.open("r+b") as file:
        file.seek(at)
        file.write(raw)
    return str(path)


@pytest.mark.parametrize(
    ("change", "sign"),
    [
        ("type", "B---T-- ELM  0"),
        ("loop", "BL   NODE"),
        ("child", "BI   NODE 8ffffffffffff000"),
        ("mirror", "B-----M ELM  0"),
        ("count", "     NODE"),
        ("crc", "BU   NODE"),
    ],
)
def test_damage_is_shown(tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes], change: str, sign: str) -> None:
    path = damaged(tmp_path, change)
    out = run(capfdbinary, "-f", path, "show").decode()
    assert sign in out
    assert main(["-f", path, "checkmap"]) == (change not in {"type", "mirror"})
    capfdbinary.readouterr()
