"""`hammer completion`: the completion scripts of the shells, and the words they ask for."""

from __future__ import annotations

import argparse
import sys

from tools.output import print_json

SHELLS = ("bash", "zsh", "fish")
WORDS = ("moments", "tids", "pfs", "paths")


def add_parsers(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the verb of this module."""
    completion = verbs.add_parser("completion", help="print a shell's completion script, or words for it")
    completion.add_argument("what", choices=[*SHELLS, *WORDS], help="a shell; or words, which the scripts ask for")
    completion.add_argument("line", nargs="*", metavar="WORD", help="the command line up to the word to complete")
    completion.set_defaults(run=run_completion)


def run_completion(args: argparse.Namespace) -> int:
    """Print a script, or a word a line with a tab before what is to be said of it."""
    if args.what in SHELLS:
        from tools.completion.scripts import script

        text = script(args.what)
        if args.json:
            print_json({"script": text})
        else:
            sys.stdout.write(text)
        return 0
    from tools.completion.words import SOURCES, read_line, time_limit

    with time_limit():
        words = list(SOURCES[args.what](read_line(args.line)))
    if args.json:
        print_json([{"word": word.text, "about": word.about} for word in words])
        return 0
    for word in words:
        sys.stdout.write(f"{word.text}\t{word.about}\n" if word.about else f"{word.text}\n")
    return 0
