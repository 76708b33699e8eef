#!/bin/sh
# Installs the system packages that the mount needs, where they are missing.
set -eu
python=${PYTHON:-python3}

as_root() {
    if [ "$(id -u)" -eq 0 ]; then "$@"
    elif command -v sudo >/dev/null 2>&1; then sudo "$@"
    else echo "install-deps: needs root or sudo for: $*" >&2; exit 1
    fi
}

missing=
need() { missing="$missing $1"; }
command -v fusermount3 >/dev/null 2>&1 || need fuse3
command -v pkg-config >/dev/null 2>&1 || need pkg-config
command -v gcc >/dev/null 2>&1 || command -v cc >/dev/null 2>&1 || need gcc
pkg-config --exists fuse3 2>/dev/null || need libfuse3-dev
if command -v "$python" >/dev/null 2>&1; then
    "$python" -c 'import venv, ensurepip' 2>/dev/null || need python3-venv
    "$python" -c 'import os, sysconfig, sys
sys.exit(not os.path.exists(os.path.join(sysconfig.get_path("include"), "Python.h")))' || need python3-dev
else
    missing="$missing python3 python3-venv python3-dev"
fi

if [ -n "$missing" ]; then
    case "$(uname -s)" in
    Linux)
        if command -v apt-get >/dev/null 2>&1; then
            echo "install-deps: installing$missing"
            as_root apt-get update -qq
            # shellcheck disable=SC2086
            as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq $missing >/dev/null
        else
            echo "install-deps: please install the packages that provide:$missing" >&2
            exit 1
        fi ;;
    FreeBSD)
        echo "install-deps: run: pkg install python311 fusefs-libs3 pkgconf" >&2
        exit 1 ;;
    *)
        echo "install-deps: please install the packages that provide:$missing" >&2
        exit 1 ;;
    esac
fi

"$python" -c 'import sys
if sys.version_info < (3, 11):
    sys.exit("install-deps: Python 3.11 or newer is needed, found " + sys.version.split()[0])'
