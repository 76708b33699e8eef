"""Completion: the scripts say what the parsers say, shells offer it, and hostile labels come through as they are."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from hammerfs.fuse.options import parse_options
from hammerfs.maint.snapshots import take
from hammerfs.rw import WritableFS
from tests.cli.shelllab import Shell
from tests.fuse.mounts import mount_in
from tests.fuse.rwlab import make_image, run_hammer
from tools.completion.scripts import script
from tools.completion.spec import _BY_METAVAR, _WORDS, PARSERS, commands

SHELLS = {
    "bash": (["bash", "--norc", "--noprofile", "-i"], "bind 'set bell-style none'; source {0}"),
    "zsh": (["zsh", "-f", "-i"], "fpath=({0.parent} $fpath); autoload -U compinit; compinit -u -D; unsetopt beep"),
    "fish": (["fish", "--private"], "source {0}"),
}
"""How each is started, and given a script; zsh loads it itself, from a folder."""
PRESENT = ["bash", *(name for name in ("zsh", "fish") if shutil.which(name))]
LABELS = [
    "before the edit",
    'it\'s "so" $(touch pwned) `touch pwned`; touch pwned & >pwned',
    "bang!bang",
    "üml äut",
    "glob*?[x]{a,b}",
    "back\\slash",
    "~tilde",
    "#hash",
    "a:b@c=d",
]
KEYS = [
    ("fi\t--asof bef\t", ["find", "--asof", LABELS[0]]),
    ("find --asof 'bef\t", ["find", "--asof", LABELS[0]]),
    ('find --asof "bef\t', ["find", "--asof", LABELS[0]]),
    ("find --asof before\\ th\t", ["find", "--asof", LABELS[0]]),
    ("find --asof=bef\t", ["find", f"--asof={LABELS[0]}"]),
    ("find --asof it\t", ["find", "--asof", LABELS[1]]),
    ("find --asof 'it\t", ["find", "--asof", LABELS[1]]),
    ('find --asof "it\t', ["find", "--asof", LABELS[1]]),
    ("find --asof bang\t", ["find", "--asof", LABELS[2]]),
    ("find --asof ü\t", ["find", "--asof", LABELS[3]]),
    ("find --asof gl\t", ["find", "--asof", LABELS[4]]),
    ("find --asof back\t", ["find", "--asof", LABELS[5]]),
    ("find --asof \\~\t", ["find", "--asof", LABELS[6]]),
    ("find --asof \\#\t", ["find", "--asof", LABELS[7]]),
    ("find --asof a:b@\t", ["find", "--asof", LABELS[8]]),
    ("find --type sym\t", ["find", "--type", "symlink"]),
    ("find --type=sym\t", ["find", "--type=symlink"]),
    ("-f my\tblockm\t", ["-f", "my disk.img", "blockmap"]),
    ("chflags nodump,arc\t", ["chflags", "nodump,arch"]),
    ("synctid su\tx", ["synctid", "sub dir/x"]),
    ("synctid . qui\t", ["synctid", ".", "quick"]),
    ("pfs-update x lab\t", ["pfs-update", "x", "label="]),
    ("'$(touch pwned)' \t", ["$(touch pwned)"]),
    ("find --asof '$(touch pwned)\t'", ["find", "--asof", "$(touch pwned)"]),
]
"""What is typed behind `hammer`, and what it is given then."""
BASH_DRIVER = """
compopt() { printf 'compopt %s\\n' "${*: -1}"; }
try() {
    COMP_WORDS=("$@") COMP_CWORD=$(($# - 1)) COMP_LINE="$*" COMP_WORDBREAKS=$' \\t\\n"\\'@><=;|&(:'
    _hammer "$1" "${!#}" ""
    printf '%s\\n' "${COMPREPLY[@]}"
    printf -- '---\\n'
}
"""


def in_bash(*lines: tuple[str, ...]) -> list[list[str]]:
    """What bash offers for command lines, and the names of ways it falls back to with `compopt` before them."""
    calls = "\n".join("try " + " ".join(f"'{word}'" for word in line) for line in lines)
    done = subprocess.run(
        ["bash", "--norc", "--noprofile"],
        input=script("bash") + BASH_DRIVER + calls,
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "LC_ALL": "C.UTF-8", "PATH": f"/nowhere:{os.defpath}"},
    )
    assert done.stderr == ""
    return [[line for line in part.splitlines() if line] for part in done.stdout.split("---\n")[:-1]]


def options_of(parser: argparse.ArgumentParser) -> set[str]:
    return {option for action in parser._actions for option in action.option_strings}


def verbs_of(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            return dict(action.choices)
    return {}


def lines_of_parsers() -> dict[tuple[str, ...], argparse.ArgumentParser]:
    """Each command by each of its names, and each verb, with its parser."""
    found: dict[tuple[str, ...], argparse.ArgumentParser] = {}
    for names, build in PARSERS.items():
        for name in names:
            parser = build()
            found[(name,)] = parser
            found.update({(name, verb): sub for verb, sub in verbs_of(parser).items()})
    return found


def test_every_installed_command_completes() -> None:
    text = (Path(__file__).resolve().parents[2] / "pyproject.toml").read_text(encoding="utf-8")
    scripts = text.split("[project.scripts]\n")[1].split("\n\n")[0]
    installed = {line.split(" = ")[0].strip('"') for line in scripts.splitlines()}
    assert {name for names in PARSERS for name in names} == installed


def test_bash_offers_every_verb_and_option() -> None:
    found = lines_of_parsers()
    offered = in_bash(*((*line, "-") for line in found))
    for line, parser, words in zip(found, found.values(), offered, strict=True):
        assert set(words) == options_of(parser), line
    verbs, *kinds = in_bash(("hammer", ""), *((*line, "x", "y", "z", "") for line in found if len(line) == 2))
    assert set(verbs) == set(verbs_of(found[("hammer",)]))
    assert all("-" not in word[:1] for words in kinds for word in words)


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_the_other_scripts_hold_every_verb_and_option(shell: str) -> None:
    """Each verb and option of the parsers, with its description, under its command."""
    text = script(shell)
    verbs, options = (text.split(f"hammer_{name}")[1].split("hammer_")[0] for name in ("verbs", "options"))
    for names, build in PARSERS.items():
        parser = build()
        for key, part in ((names[0], parser), *((f"{names[0]} {v}", p) for v, p in verbs_of(parser).items())):
            start = f"\n  '{key}' '" if shell == "zsh" else f"case '{key}'\n"
            offered = options.split(start)[1].split("\n  '" if shell == "zsh" else "case '")[0]
            for option in options_of(part):
                assert f"{option}\t" in offered, (key, option)
    for verb in verbs_of(PARSERS[("hammer",)]()):
        assert f"{verb}\t" in verbs


@pytest.mark.parametrize("shell", PRESENT)
def test_scripts_are_well_formed(shell: str, tmp_path: Path) -> None:
    path = tmp_path / "script"
    path.write_text(script(shell), encoding="utf-8")
    done = subprocess.run([shell, "-n", path], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        (("hammer", "find", "--type", "f"), ["fifo", "file"]),
        (("hammer", "find", "--type", "file", "--na"), ["--name"]),
        (("hammer", "-f", "x", "--js"), ["--json"]),
        (("hammer", "mirror-read", "--compress", ""), ["lz4"]),
        (("hammer", "find", "--name", ""), []),
        (("hammer", "find", "--between", "a", ""), []),
        (("hammer", "find", "--between", "a", "b", ""), ["compopt default"]),
        (("hammer", "find", "--", "-"), ["compopt default"]),
        (("hammer", "restore", "--to", ""), ["compopt dirnames"]),
        (("hammer", "restore", "a", "b", "c", ""), ["compopt default"]),
        (("hammer", "diff", "a", "b", ""), ["compopt default"]),
        (("hammer", "diff", "a", "b", "c", ""), []),
        (("hammer", "nonsense", ""), []),
        (("hammer", "$(exit 3)]", "-"), []),
        (("/some/where/hammer", "synctid", ".", ""), ["quick"]),
        (("mount_hammer", "x", ""), ["compopt default"]),
        (("mount.fuse.hammer", "x", ""), ["compopt dirnames"]),
        (("mount_hammer", "-o", "ro,snapdir=h"), ["compopt nospace", "hidden"]),
        (("mkfs.hammer", "--dr"), ["--dry-run"]),
        (("newfs_hammer", "-L", ""), []),
        (("fsck_hammer", "-f", ""), ["compopt default"]),
        (("umount.hammer", ""), ["compopt dirnames"]),
        (("undo", "-t", "1", "-"), sorted(options_of(PARSERS[("undo",)]()))),
    ],
)
def test_bash_knows_what_stands_where(line: tuple[str, ...], offered: list[str]) -> None:
    assert sorted(in_bash(line)[0]) == sorted(offered)


def test_mount_words_are_those_a_mount_understands() -> None:
    (options,) = (
        option for command in commands() if command.names[0] == "mount_hammer" for option in command.options
        if "-o" in option.names
    )  # fmt: skip
    good = {"pfs=": "1", "asof=": "0x1", "snapdirname=": ".s", "snapfmt=": "%Y", "umask=": "22", "cache=": "64m"}
    for word in options.values[0].words:
        parse_options(["ro", word + good.get(word, "1" if word.endswith("=") else "")])
    assert {"ro", "noatime", "nohistory", "commit=", "snapdir=visible"} <= set(options.values[0].words)


def test_no_rule_is_for_what_no_parser_has() -> None:
    found: set[str | None] = set()
    for parser in lines_of_parsers().values():
        for action in parser._actions:
            found.update(action.metavar if isinstance(action.metavar, tuple) else [action.metavar])
    assert {*_BY_METAVAR, *_WORDS} <= found


@pytest.fixture(scope="module", params=PRESENT)
def shell(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    """A shell with its script loaded, for all tests of this module."""
    folder = tmp_path_factory.mktemp("shell")
    (folder / "fish" / "generated_completions").mkdir(parents=True)  # else fish goes and makes them
    (folder / "my disk.img").touch()
    (folder / "sub dir").mkdir()
    path = folder / "_hammer"
    path.write_text(script(request.param), encoding="utf-8")
    argv, setup = SHELLS[request.param]
    shell = Shell(argv, setup.format(path), folder)
    yield shell
    shell.close()


@pytest.mark.parametrize(("keys", "given"), KEYS)
def test_a_shell_completes(shell: Shell, keys: str, given: list[str]) -> None:
    shell.offer(*(f"{label}\t0x{number:016x}" for number, label in enumerate(LABELS)))
    assert shell.given(f"hammer {keys}") == given
    assert not (shell.folder / "pwned").exists()


SNAPSHOTS = [
    b"before the edit",
    b"twice",
    b"twice",
    b"line\nbreak",
    b"\x1b[31mred",
    b"\xff\xfe",
    b"-rf",
    b"0x10",
    b"now",
    b"42",
    b"",
    "right \u202eleft".encode(),
    b"tab\there",
    b"$(touch pwned)",
]


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """An image with one snapshot for each label."""
    image = make_image(tmp_path)
    with WritableFS.open_rw([str(image)]) as fs:
        for label in SNAPSHOTS:
            fs.host.call(take(fs, 0, label))
    return image


def words(what: str, *line: object, cwd: Path | None = None) -> list[str]:
    argv = [sys.executable, "-m", "tools.cli", "completion", what, "--", *map(str, line)]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, cwd=cwd)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return [word.partition("\t")[0] for word in done.stdout.splitlines()]


def test_labels_of_an_image_that_are_safe_to_offer(image: Path) -> None:
    found = words("moments", "hammer", "-f", image, "find", "--asof", "")
    tids = [word for word in found if word.startswith("0x")]
    assert len(set(tids)) == len(SNAPSHOTS)
    assert set(found) - set(tids) == {"before the edit", "$(touch pwned)"}
    assert words("tids", "mount_hammer", image, "/mnt", "-T", "") == tids
    assert words("paths", "hammer", "-f", image, "ls", "/some/where@@") == [f"/some/where@@{tid}" for tid in tids]


def test_json(image: Path) -> None:
    rows = json.loads(run_hammer("--json", "completion", "moments", "--", "hammer", "-f", image, "diff", ""))
    assert {"before the edit", "$(touch pwned)"} < {row["word"] for row in rows}
    assert all(row.keys() == {"word", "about"} and row["about"].isprintable() for row in rows)
    assert json.loads(run_hammer("completion", "fish", "--json")) == {"script": script("fish")}


def test_what_is_asked_says_why_when_there_is_nothing(tmp_path: Path) -> None:
    text = run_hammer("completion", "moments", "--", "hammer", "-f", tmp_path / "none", "find", "--asof", "", code=1)
    assert text.startswith("hammer: completion: ")
    assert text.count("\n") == 1


def test_paths_and_pfs_of_an_image(tmp_path: Path) -> None:
    image = make_image(tmp_path)
    run_hammer("-f", image, "pfs-master", "/one", "label=first one")
    with WritableFS.open_rw([str(image)]) as fs:
        below = fs.mkdir(fs.root(), b"sub dir")
        for name in (b"plain", b"line\nbreak", b"\xff", b"-dash", b"$(x)"):
            fs.create(below, name)
    assert words("paths", "hammer", "-f", image, "ls", "") == ["sub dir/", "one"]
    assert words("paths", "hammer", f"-f={image}", "ls", "/sub") == ["/sub dir/"]
    assert set(words("paths", "hammer", "-f", image, "ls", "/sub dir/")) == {
        f"/sub dir/{name}" for name in ("plain", "-dash", "$(x)")
    }
    assert words("pfs", "hammer", "-f", image, "snapls", "") == ["0", "T", "1", "first one"]


@pytest.mark.mount
def test_labels_of_a_mount(tmp_path: Path, image: Path) -> None:
    with mount_in(tmp_path, image, "rw") as mount:
        (mount.root / "file").touch()
        for line in (("hammer", "find", mount.root, "--asof", ""), ("undo", mount.root / "file", "-t", "")):
            assert {"before the edit", "$(touch pwned)"} < set(words("moments", *line))
        assert "before the edit" in words("moments", "hammer", "find", "--asof", "", cwd=mount.root)


def test_nobody_waits_for_a_mount_that_hangs() -> None:
    code = "import time; from tools.completion import words; words.LIMIT_S = 1\nwith words.time_limit(): time.sleep(99)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -signal.SIGALRM
