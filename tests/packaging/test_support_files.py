"""What is installed around the commands: it is all taken away again, and it fits the commands."""

from __future__ import annotations

import configparser
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from hammerfs.fuse.options import parse_options
from tests.fuse.mounts import PATIENCE_S
from tests.fuse.rwlab import check, make_image
from tools.cli import build_parser as hammer_parser
from tools.completion.spec import PARSERS
from tools.mount_hammer import build_parser as mount_parser

ROOT = Path(__file__).resolve().parents[2]
SYSTEMD = ROOT / "docs" / "systemd"
UNITS = sorted(path.name for path in SYSTEMD.iterdir() if path.suffix in (".service", ".timer"))
EXAMPLES = sorted((SYSTEMD / "examples").iterdir())
NAMES = [name for names in PARSERS for name in names]
SPECIFIER = re.compile(r"%%|%[a-zA-Z]")


def support(action: str, prefix: Path) -> None:
    """Install or remove the files, with the commands of this environment."""
    (prefix / "bin").mkdir(parents=True, exist_ok=True)
    hammer = prefix / "bin" / "hammer"
    hammer.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m tools.cli "$@"\n', encoding="utf-8")
    hammer.chmod(0o755)
    (prefix / "bin" / "mount_hammer").symlink_to(hammer)
    done = subprocess.run(
        ["sh", ROOT / "scripts" / "support-files.sh", action, prefix, *NAMES],
        capture_output=True,
        text=True,
        check=False,
        cwd="/",
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert (done.returncode, done.stdout + done.stderr) == (0, "")
    (prefix / "bin" / "mount_hammer").unlink()
    hammer.unlink()


def files_in(folder: Path) -> set[str]:
    return {os.path.relpath(os.path.join(where, name), folder) for where, _, names in os.walk(folder) for name in names}


@pytest.fixture
def prefix(tmp_path: Path) -> Path:
    return tmp_path / "odd 100% & $HOME |"


def test_what_is_installed_is_removed_and_nothing_else(prefix: Path) -> None:
    others = {"share/bash-completion/completions/git", "share/man/man8/mount.8", "lib/systemd/system/ssh.service"}
    for name in others:
        (prefix / name).parent.mkdir(parents=True)
        (prefix / name).touch()
    support("install", prefix)
    found = files_in(prefix) - others
    wanted = {
        *(f"share/bash-completion/completions/{name}" for name in NAMES),
        *(f"share/fish/vendor_completions.d/{name}.fish" for name in NAMES),
        "share/zsh/site-functions/_hammer",
        *(f"lib/systemd/system/{unit}" for unit in UNITS if sys.platform == "linux"),
        *(f"share/man/man{page.suffix[1:]}/{page.name}" for page in (ROOT / "docs" / "man").iterdir()),
        *(f"share/man/man8/{name}.8" for name in NAMES if name != "undo"),
        "share/doc/hammerfs/service.md",
        *(f"share/doc/hammerfs/examples/{path.name}" for path in EXAMPLES),
        "share/doc/hammerfs/examples/hammerfs",
    }
    assert found == wanted
    for name in found:
        assert (prefix / name).stat().st_size, name
        assert (prefix / name).stat().st_mode & 0o777 == 0o644, name
    support("uninstall", prefix)
    assert files_in(prefix) == others
    assert not (prefix / "share" / "doc" / "hammerfs").exists()


def test_installed_completion_is_loaded_by_any_name(tmp_path: Path) -> None:
    support("install", tmp_path)
    for name in NAMES:
        script = f'source "$1"; complete -p {name}'
        path = tmp_path / "share" / "bash-completion" / "completions" / name
        done = subprocess.run(["bash", "-c", script, "bash", path], capture_output=True, text=True, check=True)
        assert done.stdout == f"complete -F _hammer {name}\n"


def read(path: Path) -> configparser.ConfigParser:
    """A unit; each setting once, but ``Environment`` may come before its file."""
    unit = configparser.ConfigParser(delimiters=("=",), comment_prefixes=("#",), interpolation=None)
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read_string(path.read_text(encoding="utf-8"))
    return unit


def words_of(command: str) -> list[str]:
    """A command line as systemd takes it apart, without specifiers."""
    return shlex.split(SPECIFIER.sub(lambda found: "%" if found[0] == "%%" else "i", command.lstrip("-")))


@pytest.mark.parametrize("name", [unit for unit in UNITS if unit.endswith(".service")])
def test_units_start_commands_that_there_are_with_options_they_have(name: str) -> None:
    command, *words = words_of(read(SYSTEMD / name)["Service"]["ExecStart"])
    assert os.path.dirname(command) == "/usr/local/bin"
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert os.path.basename(command) in makefile.split("COMMANDS := ")[1].split("\n")[0].split()
    parser = mount_parser() if command.endswith("/mount_hammer") else hammer_parser()
    parser.parse_args(words)


def test_units_know_each_other() -> None:
    timers = [unit for unit in UNITS if unit.endswith(".timer")]
    assert [unit.removesuffix(".timer") + ".service" in UNITS for unit in timers] == [True]
    for path in (path for path in EXAMPLES if path.suffix in (".mount", ".automount")):
        where = read(path)[path.suffix[1:].capitalize()]["Where"]
        assert where.strip("/").replace("/", "-") == path.stem
    mount = read(SYSTEMD / "examples" / "srv-archive.mount")["Mount"]
    parse_options([mount["Options"]])


def test_the_lines_of_fstab_in_the_page_are_understood() -> None:
    text = (ROOT / "docs" / "service.md").read_text(encoding="utf-8")
    lines = [line.split() for line in text.splitlines() if re.match(r"\S+ +/\S+ +(hammer|fusefs) ", line)]
    assert len(lines) == 3
    for line in lines:
        assert len(line) == 6
        parse_options([line[3]])
        assert not line[0].startswith("/dev/") or ":" not in line[0]  # systemd would wait for it


def test_systemd_takes_the_units(prefix: Path) -> None:
    """As systemd itself says where it is; that the installed units name commands that exist is part of it."""
    support("install", prefix)
    folder = prefix / "lib" / "systemd" / "system"
    for name in ("hammer", "mount_hammer"):
        shutil.copy("/bin/true", prefix / "bin" / name)
    for unit in UNITS:
        text = (folder / unit).read_text(encoding="utf-8")
        assert "/usr/local" not in text
        for command in re.findall(r"^ExecStart=(.*)", text, re.MULTILINE):
            assert os.access(words_of(command)[0], os.X_OK)
    if shutil.which("systemd-analyze"):
        paths = [*(folder / unit for unit in UNITS), *(path for path in EXAMPLES if path.suffix != ".conf")]
        argv = ["systemd-analyze", "verify", "--man=no", *map(str, paths)]
        env = {**os.environ, "SYSTEMD_LOG_LEVEL": "warning"}
        done = subprocess.run(argv, capture_output=True, text=True, check=False, env=env)
        # it looks at units of this machine, too, and may have something to say of them
        assert [line for line in done.stderr.splitlines() if "hammer" in line or "srv-archive" in line] == []


@pytest.fixture
def described(tmp_path: Path) -> Iterator[dict[str, str]]:
    """What an environment file may say, with an image and a directory that exist."""
    place = tmp_path / "the place"
    place.mkdir()
    lines = (SYSTEMD / "examples" / "archive.conf").read_text(encoding="utf-8").splitlines()
    values = dict(line.split("=", 1) for line in lines if not line.startswith("#"))
    yield values | {"VOLUMES": str(make_image(tmp_path)), "DIRECTORY": str(place)}
    if os.path.ismount(place):
        subprocess.run(["umount", "-l", place], check=False, capture_output=True)


def start(values: dict[str, str], manager: socket.socket, address: Path) -> subprocess.Popen[bytes]:
    """Run what the service runs, as systemd would; returns when it says that it is ready."""
    words = words_of(read(SYSTEMD / "hammerfs@.service")["Service"]["ExecStart"])[1:]
    words = [re.sub(r"\$\{(\w+)\}", lambda found: values[found[1]], word) for word in words]
    env = {**os.environ, **values, "NOTIFY_SOCKET": str(address)}
    daemon = subprocess.Popen([sys.executable, "-m", "tools.mount_hammer", *words], env=env)
    assert manager.recv(100) == b"READY=1"
    return daemon


@pytest.mark.mount
@pytest.mark.root
def test_the_service_lives_and_dies_as_its_unit_says(tmp_path: Path, described: dict[str, str]) -> None:
    service = read(SYSTEMD / "hammerfs@.service")["Service"]
    assert (service["Type"], service["KillMode"]) == ("notify", "mixed")
    _, _, script = words_of(service["ExecStopPost"])
    after = ["sh", "-c", script.replace("$$", "$")]
    place, address = Path(described["DIRECTORY"]), tmp_path / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(address))
        manager.settimeout(PATIENCE_S)
        daemon = start(described, manager, address)
        (place / "file").write_text("written, and not flushed by anybody", encoding="utf-8")
        daemon.terminate()
        assert daemon.wait(PATIENCE_S) == 0
        check(Path(described["VOLUMES"]))

        daemon = start(described, manager, address)
        assert (place / "file").read_text(encoding="utf-8") == "written, and not flushed by anybody"
        daemon.send_signal(signal.SIGKILL)
        daemon.wait(PATIENCE_S)
        failed = subprocess.run(after, env={**os.environ, **described, "SERVICE_RESULT": "signal"}, check=False)
        assert failed.returncode == 0
        daemon = start(described, manager, address)
        assert (place / "file").exists()
        daemon.terminate()
        assert daemon.wait(PATIENCE_S) == 0
        again = subprocess.run(after, env={**os.environ, **described, "SERVICE_RESULT": "success"}, check=False)
        assert again.returncode == 0


def test_a_wrong_call_is_not_tried_again() -> None:
    service = read(SYSTEMD / "hammerfs@.service")["Service"]
    done = subprocess.run([sys.executable, "-m", "tools.mount_hammer", "-f", "-o", "nonsense", "x", "/nowhere"],
                          capture_output=True, check=False)  # fmt: skip
    missing = subprocess.run([sys.executable, "-m", "tools.mount_hammer", "-f", "-o", "rw", "/nowhere/x", "/"],
                             capture_output=True, check=False)  # fmt: skip
    codes = {str(done.returncode), str(missing.returncode)}
    assert codes == set(service["RestartPreventExitStatus"].split())


RC_SUBR = """
load_rc_config() { . ./rc.conf; }
warn() { echo "WARNING: $*" >&2; }
run_rc_command() { eval "\\$${1}_cmd"; }
"""
"""As much of FreeBSD's rc.subr(8) as the script needs."""
STAND_INS = {
    "mount": 'cat mounts; printf "%s\\n" "mount $*" >>calls',
    "mount_hammer": 'printf "%s\\n" "mount_hammer $*" >>calls; echo "$3 $4 fusefs.hammer rw 0 0" >>mounts',
    "umount": 'printf "%s\\n" "umount $*" >>calls; : >mounts',
    "pgrep": 'printf "%s\\n" "pgrep $*" >>calls; echo 42',
    "pwait": 'printf "%s\\n" "pwait $*" >>calls',
}


def test_the_rc_script_mounts_and_waits(tmp_path: Path) -> None:
    script = (ROOT / "docs" / "freebsd" / "hammerfs").read_text(encoding="utf-8")
    assert "\n. /etc/rc.subr\n" in script
    (tmp_path / "script").write_text(script.replace("/etc/rc.subr", "./rc.subr"), encoding="utf-8")
    (tmp_path / "rc.subr").write_text(RC_SUBR, encoding="utf-8")
    (tmp_path / "rc.conf").write_text(
        'hammerfs_mounts="one none"; hammerfs_program=mount_hammer; hammerfs_one_volumes="/dev/a+b:/dev/c"\n'
        "hammerfs_one_directory='/srv/$(pwned)'; hammerfs_one_options=ro\n",
        encoding="utf-8",
    )
    (tmp_path / "bin").mkdir()
    for name, text in STAND_INS.items():
        path = tmp_path / "bin" / name
        path.write_text(f"#!/bin/sh\n{text}\n", encoding="utf-8")
        path.chmod(0o755)
    for name in ("mounts", "calls"):
        (tmp_path / name).touch()

    def call(verb: str) -> tuple[int, str, list[str]]:
        (tmp_path / "calls").write_text("", encoding="utf-8")
        env = {**os.environ, "PATH": f"{tmp_path}/bin:{os.environ['PATH']}"}
        done = subprocess.run(
            ["sh", "script", verb], cwd=tmp_path, env=env, capture_output=True, text=True, check=False
        )
        assert done.stderr == "WARNING: hammerfs_none_volumes and hammerfs_none_directory are needed in rc.conf\n"
        calls = (tmp_path / "calls").read_text(encoding="utf-8").splitlines()
        return done.returncode, done.stdout, [line for line in calls if line != "mount -p"]

    place = "/srv/$(pwned)"
    assert call("status") == (1, f"{place} is not mounted.\n", [])
    assert call("start") == (1, f"Mounting {place}.\n", [f"mount_hammer -o ro /dev/a+b:/dev/c {place}"])
    assert call("status") == (1, f"{place} is mounted.\n", [])
    assert call("start") == (1, "", [])
    pattern = ".*mount_hammer .* /dev/a\\+b:/dev/c /srv/\\$\\(pwned\\)"
    asked = [f"pgrep -f -x {pattern}", f"umount {place}", "pwait -t 600 42"]
    assert call("stop") == (1, f"Unmounting {place}.\n", asked)
    assert call("stop") == (1, "", [])


@pytest.mark.parametrize("path", [ROOT / "docs" / "freebsd" / "hammerfs", *sorted((ROOT / "scripts").glob("*.sh"))])
def test_scripts_are_well_formed(path: Path) -> None:
    done = subprocess.run(["sh", "-n", path], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
