"""`hammer` and `fstyp_hammer` on golden images: what they print, their exit codes, their manners."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from hammerfs.nametext import text_name
from tests.cli.test_raw import image_file
from tests.golden import GoldenStore
from tests.imagebuilder import ImageBuilder
from tools.cli import build_parser, main
from tools.fstyp import main as fstyp
from tools.output import json_name, safe_name, size_text

pytestmark = pytest.mark.golden

IGNORED = {"atime_us"}
Out = pytest.CaptureFixture[str]


def stripped(tree: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{key: value for key, value in entry.items() if key not in IGNORED} for entry in tree]


@pytest.mark.parametrize("name", ["basic-v1", "snapshots", "vol2-spread"])
def test_manifest_equals_the_recorded_one(golden: GoldenStore, capsys: Out, name: str) -> None:
    image = golden[name]
    recorded = image.manifest
    roots = [word for root in recorded["trees"] for word in ("--root", root)]
    assert main(["-f", image.spec, "manifest", *roots]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["volumes"] == recorded["volumes"]
    assert printed["next_tid"] == recorded["next_tid"]
    for root, tree in recorded["trees"].items():
        key = str  # entries compare by their JSON text, in any order
        assert sorted(map(key, stripped(printed["trees"][root]))) == sorted(map(key, stripped(tree))), root


def test_manifest_without_redo_is_dragonflys_read_only_mount(golden: GoldenStore, capsys: Out) -> None:
    image = golden["crash-redo"]
    sizes = {}
    for words in ([], ["--no-redo"]):
        assert main(["-f", image.spec, "manifest", *words]) == 0
        tree = json.loads(capsys.readouterr().out)["trees"]["/"]
        sizes[bool(words)] = {entry["path"]: entry.get("sha256") for entry in tree}
    wanted = image.manifest["trees"]
    assert sizes[False] == {entry["path"]: entry.get("sha256") for entry in wanted["/"]}
    read_only = "ro-mount-of-dirty-image:/"
    if read_only in wanted:
        assert sizes[True] == {entry["path"]: entry.get("sha256") for entry in wanted[read_only]}
    assert sizes[True] != sizes[False]


def test_snapls_and_config_are_the_recorded_facts(golden: GoldenStore, capsys: Out) -> None:
    image = golden["snapshots"]
    assert main(["-f", image.spec, "--json", "snapls"]) == 0
    got = [f"snap {s['tid']} ts {s['ts_us']} label {s['label']}" for s in json.loads(capsys.readouterr().out)]
    assert got == image.manifest["snapls"]
    assert main(["-f", image.spec, "snapls"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"Snapshots on \S+\tPFS#0", lines[0])
    assert lines[1] == "Transaction ID\t\tTimestamp\t\tNote"
    assert re.fullmatch(r"0x0000000100010030\t\d{4}-\d\d-\d\d \d\d:\d\d:\d\d \S+\tfirst", lines[2])
    assert main(["-f", image.spec, "config"]) == 0
    assert capsys.readouterr().out == image.manifest["config"][0][1].rstrip("\n") + "\n"


def test_asof_by_tid_label_and_time_agree(golden: GoldenStore, capsys: Out) -> None:
    spec = golden["snapshots"].spec
    listings = set()
    for words in (
        ["/s@@0x0000000100010090"],
        ["--asof", "0x100010090", "/s"],
        ["--asof", "second label with spaces", "/s"],
    ):
        assert main(["-f", spec, "ls", "-l", *words]) == 0
        listings.add(capsys.readouterr().out)
    assert len(listings) == 1
    assert main(["-f", spec, "ls", "-l", "/s"]) == 0
    assert capsys.readouterr().out not in listings
    assert main(["-f", spec, "ls", "--asof", "no such thing", "/"]) == 1
    assert "no snapshot" in capsys.readouterr().err


def test_cat_streams_what_the_manifest_hashed(golden: GoldenStore, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    image = golden["basic-v7"]
    files = [
        e
        for e in image.manifest["trees"]["/"]
        if e["type"] == "file" and 0 < e["size"] < 1 << 22 and "%" not in e["path"]
    ]
    for entry in sorted(files, key=lambda e: -int(e["size"]))[:5]:
        assert main(["-f", image.spec, "cat", "/" + entry["path"].lstrip("/")]) == 0
        assert hashlib.sha256(capfdbinary.readouterr().out).hexdigest() == entry["sha256"]


def test_history_of_a_file_and_of_a_range(golden: GoldenStore, capsys: Out) -> None:
    image = golden["dragonfly-v1-2009"]
    assert main(["-f", image.spec, "history", "/test"]) == 0
    text = capsys.readouterr().out
    assert text.startswith("/test\t000000010061aac0 clean {\n")
    assert re.search(r"^    00000001007a1520 \d\d-\w{3}-2009 \d\d:\d\d:\d\d$", text, re.MULTILINE)
    assert main(["-f", image.spec, "--json", "history", "/test@0,4"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert rows[0]["ino"] == "0x000000010061aac0"
    assert rows[0]["history"]
    for words in (["history@0,4", "/test"], ["history@0x0,0x4", "/test"], ["history", "--at", "0,4", "/test"]):
        assert main(["-f", image.spec, *words, "--json"]) == 0
        assert json.loads(capsys.readouterr().out) == rows
    assert main(["-f", image.spec, "--json", "history@4096", "/test"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["history"] == []


def test_a_name_that_looks_like_a_range(tmp_path: Path, capsys: Out) -> None:
    b = ImageBuilder()
    b.file(b"/log@5", b"five")
    b.file(b"/log", b"short")
    path = str(image_file(tmp_path, b))
    assert main(["-f", path, "history", "/log@5", "/log@2"]) == 0
    heads = [line for line in capsys.readouterr().out.splitlines() if line.endswith("{")]
    assert [line.split("\t")[0] for line in heads] == ["/log@5", "/log"]


def test_where_json_and_quiet_stand(golden: GoldenStore, capsys: Out) -> None:
    spec = golden["fresh-three"].spec
    outputs = set()
    for words in (["--json", "info"], ["info", "--json"]):
        assert main(["-f", spec, *words]) == 0
        outputs.add(capsys.readouterr().out)
    assert len(outputs) == 1
    assert json.loads(outputs.pop())["volumes"] == 3
    for before, after, none in (("-v", "volume-list", "-q"), ("-q", "blockmap", "-v"), ("-qq", "show", "-vv")):
        texts = []
        for words in ([before, after], [after, before], [after], [before, none, after]):
            assert main(["-f", spec, *words]) == 0, words
            texts.append(capsys.readouterr().out)
        assert texts[0] == texts[1] != texts[2] == texts[3]


def test_volumes_in_any_order_are_listed_by_number(golden: GoldenStore, capsys: Out) -> None:
    names = [str(path) for path in golden["fresh-three"].volumes]
    for words in (["-f", ":".join(reversed(names))], ["-f", names[1], "-f", f"{names[2]}:{names[0]}"]):
        assert main([*words, "volume-list"]) == 0
        assert capsys.readouterr().out.splitlines() == names


def test_a_pfs_by_what_lies_in_it(golden: GoldenStore, capsys: Out) -> None:
    spec = golden["pfs-mirror"].spec
    for verb in ("pfs-status", "snapls"):
        texts = []
        for words in (["1"], ["master-one"], ["/m1/"], ["/@@-1:00001"]):
            assert main(["-f", spec, verb, *words]) == 0
            texts.append(capsys.readouterr().out)
        assert set(texts) == {texts[0]}
        assert "PFS#1" in texts[0]


def test_manifest_of_a_view(golden: GoldenStore, capsys: Out) -> None:
    image = golden["pfs-mirror"]
    for words, key, same_as in (
        (["--pfs", "1"], "/@@-1:00001", "/m1/"),
        (["--pfs", "master-one", "/"], "/@@-1:00001", "/m1/"),
        (["--pfs", "0"], "/", "/"),
        (["/m1/"], "/m1/", "/m1/"),
        (["--pfs", "3"], "/@@0x00000001000381f0:00003", "/s1/"),
        (["--asof", "0x0000000100038130"], "/@@0x0000000100038130", "/@@0x0000000100038130"),
    ):
        trees = []
        for arguments in (words, [same_as]):
            assert main(["-f", image.spec, "manifest", *arguments]) == 0
            trees.append(json.loads(capsys.readouterr().out)["trees"])
        assert trees[0] == {key: trees[1][same_as]}


@pytest.mark.parametrize("verb", ["info", "version", "volume-list", "pfs-status"])
def test_facts_as_text_and_json(golden: GoldenStore, capsys: Out, verb: str) -> None:
    image = golden["pfs-mirror"]
    assert main(["-f", image.spec, verb]) == 0
    text = capsys.readouterr().out
    assert main(["-f", image.spec, "--json", verb]) == 0
    value = json.loads(capsys.readouterr().out)
    if verb == "pfs-status":
        assert {row["mode"] for row in value} == {"MASTER", "SLAVE"}
        assert text.count("operating as a SLAVE") == sum(row["mode"] == "SLAVE" for row in value)
        assert 'label="master-one"' in text
    elif verb == "info":
        counts = value["bigblocks"]
        assert counts["used"] + counts["reserved"] + counts["free"] == counts["total"]
        assert f"\tTotal      {counts['total']:10d}\n" in text
    elif verb == "version":
        assert text.startswith(f"min=1 wip=none max=7 current={value['current']} description=")
    else:
        assert [row["name"] for row in value] == text.splitlines()


@pytest.mark.parametrize(("verb", "key"), [("namekey1", "0x1260cebb00000000"), ("namekey2", "0x524805cbdcdb0000")])
def test_namekey(capsys: Out, verb: str, key: str) -> None:
    assert main([verb, "hello.txt"]) == 0
    assert capsys.readouterr().out == key + "\n"


def test_errors_are_one_line_with_the_place(golden: GoldenStore, tmp_path: Path, capsys: Out) -> None:
    spec = golden["snapshots"].spec
    junk = tmp_path / "junk.img"
    junk.write_bytes(b"not a volume" * 5000)
    for words, code in (
        (["-f", str(tmp_path / "none.img"), "info"], 1),
        (["-f", str(junk), "info"], 1),
        (["info"], 2),
        (["-f", spec, "cat", "/nope"], 1),
        (["-f", spec, "cat", "/s"], 1),
        (["-f", spec, "ls", "/@@0x0000000100010030:00077"], 1),
        (["-f", spec, "snapls", "--pfs", "99"], 1),
        (["-f", spec, "config", "99"], 1),
        (["-f", spec, "history@x", "/s"], 2),
        (["-f", spec, "history@1,", "/s"], 2),
        (["-f", spec, "snapls", "/nope"], 1),
        (["-f", spec, "pfs-status", "nobody"], 1),
    ):
        assert main(words) == code, words
        err = capsys.readouterr().err
        assert len(err.splitlines()) == 1, err
        assert err.startswith("hammer: ")


@pytest.mark.parametrize("words", [[], ["nonsense"], ["ls", "--nope"], ["-f"]])
def test_a_wrong_call_is_exit_2_and_one_line(capsys: Out, words: list[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(words)
    assert stop.value.code == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_help_names_every_verb_and_option() -> None:
    parser = build_parser()
    text = parser.format_help()
    verbs = next(action for action in parser._actions if action.dest == "verb").choices
    assert verbs is not None
    for verb in verbs:
        assert verb in text
    for option in ("-f", "--json"):
        assert option in text


def test_a_closed_pipe_is_quiet(golden: GoldenStore) -> None:
    command = f"{sys.executable} -m tools.cli -f '{golden['basic-v7'].spec}' ls -lR / | head -n 1"
    root = Path(__file__).resolve().parent.parent.parent
    result = subprocess.run(["sh", "-c", command], cwd=root, capture_output=True, text=True, timeout=120, check=False)
    assert result.stdout == "/:\n"
    assert result.stderr == ""


@pytest.mark.parametrize(
    "words",
    [
        ["tools.cli", "-f", "", "ls", "/"],
        ["tools.cli", "-f", "", "--json", "info"],
        ["tools.cli", "-f", "", "show"],
        ["tools.cli", "-f", "", "tar"],
        ["tools.cli", "-f", "", "cat", "/big"],
        ["tools.fstyp", ""],
    ],
)
def test_an_output_that_is_full_is_told_in_one_line(tmp_path: Path, words: list[str]) -> None:
    b = ImageBuilder()
    b.file(b"/big", bytes(1 << 20))
    path = str(image_file(tmp_path, b))
    root = Path(__file__).resolve().parent.parent.parent
    with open("/dev/full", "wb") as full:
        command = [sys.executable, "-m", *(word or path for word in words)]
        done = subprocess.run(command, cwd=root, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 1
    assert re.fullmatch(r"(hammer: \w+|fstyp_hammer): standard output: No space left on device\n", done.stderr)


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_names_that_a_terminal_can_not_show(tmp_path: Path, encoding: str) -> None:
    b = ImageBuilder()
    b.file("/\u6f22\u00fc".encode())
    path = str(image_file(tmp_path, b))
    outputs = []
    for words in (["ls", "/"], ["--json", "ls", "/"], ["manifest"], ["show"]):
        done = subprocess.run(
            [sys.executable, "-m", "tools.cli", "-f", path, *words],
            cwd=Path(__file__).resolve().parent.parent.parent,
            env={**os.environ, "PYTHONIOENCODING": encoding},
            capture_output=True,
            check=False,
        )
        assert (done.returncode, done.stderr) == (0, b"")
        outputs.append(done.stdout)
    assert outputs[0].decode(encoding) == {
        "ascii": "\\u6f22\\xfc\n", "latin-1": "\\u6f22\u00fc\n", "utf-8": "\u6f22\u00fc\n"
    }[encoding]  # fmt: skip
    assert json.loads(outputs[1])[0]["path"] == "/\u6f22\u00fc"
    assert json.loads(outputs[2])["trees"]["/"][1]["path"] == "/\u6f22\u00fc"
    assert "\u6f22\u00fc".encode() in outputs[3]


def test_fstyp(golden: GoldenStore, tmp_path: Path, capsys: Out) -> None:
    volume = str(golden["fresh-v7"].volumes[0])
    assert fstyp([volume]) == 0
    assert capsys.readouterr().out == "hammer\n"
    assert fstyp(["-l", "-u", volume]) == 0
    assert capsys.readouterr().out.startswith("hammer V7 67414172-")
    assert fstyp(["--json", volume]) == 0
    assert json.loads(capsys.readouterr().out)["version"] == 7
    (tmp_path / "empty").write_bytes(bytes(1 << 20))
    assert fstyp([str(tmp_path / "empty")]) == 1
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_names_are_safe_for_terminals_and_kept_apart() -> None:
    assert safe_name(b"a\x1b[31mb\n\xff\\") == "a\\x1b[31mb\\x0a\\xff\\\\"
    assert safe_name("gr\u00fc\u00df".encode()) == "gr\u00fc\u00df"
    assert safe_name("\u202e".encode()) == "\\xe2\\x80\\xae"
    for name, text in (
        (b"100%\xfe", "100%%FE"),
        (b"100%", "100%"),
        (b"a%20b", "a%2520b"),
        (b"%\xff", "%%FF"),
        (b"%4\xff", "%4%FF"),
        (b"%ff", "%25ff"),
        (b"\x00\n%25", "\0\n%2525"),
    ):
        assert json_name(name) == text
        assert text_name(text) == name
    assert os.fsencode(safe_name(b"plain")) == b"plain"


def test_sizes_as_dragonfly_prints_them() -> None:
    assert [size_text(n) for n in (0, 32768, 64 << 20, 512 << 20)] == ["0.00B", "32.00KB", "64.00MB", "512.00MB"]
