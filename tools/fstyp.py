"""`fstyp_hammer`: is this a HAMMER volume? Exit code 0 and its type if so, 1 if not, 2 for a wrong call."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from hammerfs.const import MAX_VOLUMES, VERSION_MAX, VERSION_MIN
from hammerfs.device.open import open_device
from hammerfs.errors import HammerError
from hammerfs.ondisk.volume import VolumeOndisk
from hammerfs.volume import read_header
from tools.output import complain, json_name, output_failed, prepare_output, print_json, safe_name
from tools.parser import LineParser


def build_parser() -> argparse.ArgumentParser:
    """The parser of `fstyp_hammer`."""
    parser = LineParser(
        prog="fstyp_hammer",
        description="Tell whether a device or image is a HAMMER volume: exit code 0, else 1.",
    )
    parser.add_argument("-l", dest="label", action="store_true", help="print the label, too")
    parser.add_argument("-u", dest="uuid", action="store_true", help="print the file system's uuid, too")
    parser.add_argument("--json", action="store_true", help="print all the header tells, as JSON")
    parser.add_argument("volume", metavar="VOL", help="a device or image; VOL@s1d names a slice, VOL@offset=N a place")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run `fstyp_hammer`; return its exit code."""
    prepare_output()
    args = build_parser().parse_args(argv)
    try:
        with open_device(args.volume) as device:
            head = read_header(device)
    except HammerError as err:
        complain("fstyp_hammer", err)
        return 1
    if not (VERSION_MIN <= head.vol_version <= VERSION_MAX and 0 <= head.vol_no < MAX_VOLUMES):
        what = f"version {head.vol_version}, volume {head.vol_no}"
        complain("fstyp_hammer", f"{args.volume}: {what}")
        return 1
    try:
        _print(args, head)
        sys.stdout.flush()
    except OSError as err:
        return int(output_failed("fstyp_hammer", err))
    return 0


def _print(args: argparse.Namespace, head: VolumeOndisk) -> None:
    if args.json:
        print_json(
            {
                "type": "hammer",
                "label": json_name(head.label),
                "fsid": str(head.fsid),
                "version": head.vol_version,
                "volume": head.vol_no,
                "volumes": head.vol_count,
            }
        )
        return
    words = ["hammer"]
    if args.label:
        words.append(safe_name(head.label))
    if args.uuid:
        words.append(str(head.fsid))
    print(" ".join(words))


if __name__ == "__main__":
    sys.exit(main())
