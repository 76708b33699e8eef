"""`python -m kernelcore sim`: play a scenario in the simulator and print its timeline and counters."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from kernelcore import stat
from kernelcore.host.sim import STRATEGIES, SimDeadlock
from kernelcore.lab.scenarios import SCENARIOS
from kernelcore.lab.timeline import Event, LabHost, columns
from kernelcore.token import Token

MAX_CPUS = 16

COUNTERS = (
    "lwkt.switch_count",
    "lwkt.token_collisions",
    "lwkt.ipiq_count",
    "lwkt.ipiq_passive",
    "lwkt.ipiq_avoided",
    "lwkt.ipiq_fifofull",
    "lwkt.ipiq_cscount",
)


class Part(NamedTuple):
    """What happened in one part of a scenario, and how it ended."""

    title: str
    ncpus: int
    events: list[Event]
    outcome: str
    deadlock: bool
    expected: bool
    counters: dict[str, int | str]
    tokens: list[stat.TokenRow]
    ports: list[stat.PortRow]

    def as_json(self) -> dict[str, Any]:
        """Return it as plain values."""
        return {
            "title": self.title,
            "outcome": self.outcome,
            "deadlock": self.deadlock,
            "expected": self.expected,
            "events": [event._asdict() for event in self.events],
            "counters": self.counters,
            "tokens": [row._asdict() for row in self.tokens],
            "ports": [row._asdict() for row in self.ports],
        }


class Stage:
    """Where a scenario plays: makes a simulator for each part and keeps what happened."""

    def __init__(self, ncpus: int, seed: int, strategy: str) -> None:
        self.ncpus = ncpus
        self.seed = seed
        self.strategy = strategy
        self.parts: list[Part] = []
        self.remarks: list[str] = []

    def play(
        self,
        title: str,
        setup: Callable[[LabHost], None],
        *,
        token_class: type[Token] | None = None,
        deadlocks: bool = False,
    ) -> None:
        """Let `setup` create threads on a new simulator, and run it until all have ended or none ever can.

        `deadlocks` says which of the two is to be seen; anything else is a fault of the kernel services.
        """
        host = LabHost(self.ncpus, self.seed, self.strategy, token_class)
        setup(host)
        deadlock = False
        try:
            host.run_sim()
            outcome = f"all threads ended after {host.steps} steps"
        except SimDeadlock as stuck:
            deadlock = True
            outcome = f"deadlock found after {host.steps} steps: {stuck}"
        tree = stat.sysctl(host)
        counters = {"steps": host.steps, **{name: tree[name] for name in COUNTERS}}
        events = list(host.events)
        self.parts.append(
            Part(
                title,
                host.ncpus,
                events,
                outcome,
                deadlock,
                deadlock == deadlocks,
                counters,
                stat.tokens(host),
                stat.ports(host),
            )
        )
        host.stop()

    def remark(self, text: str) -> None:
        """Add a closing sentence."""
        self.remarks.append(text)


def play(name: str, seed: int, ncpus: int, strategy: str) -> Stage:
    """Play the scenario `name`; return the stage with all that happened."""
    stage = Stage(ncpus, seed, strategy)
    SCENARIOS[name].play(stage)
    return stage


def story(name: str, stage: Stage) -> Iterator[str]:
    """Yield the lines of the story: timelines, outcomes, counters."""
    yield f"{name}: {SCENARIOS[name].about}"
    yield f"seed {stage.seed}, {stage.ncpus} CPUs, strategy {stage.strategy}"
    for part in stage.parts:
        yield ""
        yield f"-- {part.title}"
        yield ""
        yield from columns(part.events, part.ncpus)
        yield ""
        yield f"   {part.outcome}" + ("" if part.expected else "  ** NOT EXPECTED **")
        yield from _summary(part)
    if stage.remarks:
        yield ""
        yield from stage.remarks


def _summary(part: Part) -> Iterator[str]:
    yield "   " + ", ".join(f"{key.removeprefix('lwkt.')} {value}" for key, value in part.counters.items() if value)
    tables: list[tuple[type[NamedTuple], list[Any]]] = [(stat.TokenRow, part.tokens), (stat.PortRow, part.ports)]
    for kind, rows in tables:
        if rows:
            yield ""
            yield from (f"   {line}" for line in stat.text(kind, rows).splitlines())


def main(args: argparse.Namespace) -> int:
    """Do what the command line asks; return the exit code: 1 where a part did not end as it must."""
    if args.list:
        for name, scenario in SCENARIOS.items():
            print(f"{name:<9} {scenario.about}")
        return 0
    if args.scenario not in SCENARIOS:
        wanted = "no scenario given" if args.scenario is None else f"no scenario '{args.scenario}'"
        print(f"sim: {wanted}; there are {', '.join(SCENARIOS)}", file=sys.stderr)
        return 2
    if args.strategy not in STRATEGIES:
        print(f"sim: no strategy '{args.strategy}'; there are {', '.join(STRATEGIES)}", file=sys.stderr)
        return 2
    scenario = SCENARIOS[args.scenario]
    ncpus = args.cpus or scenario.cpus
    if not scenario.min_cpus <= ncpus <= MAX_CPUS:
        print(f"sim: {args.scenario} takes {scenario.min_cpus} to {MAX_CPUS} CPUs, not {ncpus}", file=sys.stderr)
        return 2
    stage = play(args.scenario, args.seed, ncpus, args.strategy)
    if args.json:
        head = {"scenario": args.scenario, "seed": args.seed, "cpus": ncpus, "strategy": args.strategy}
        parts = [part.as_json() for part in stage.parts]
        print(json.dumps({**head, "parts": parts, "remarks": stage.remarks}, indent=1))
    else:
        for line in story(args.scenario, stage):
            print(line)
    return 0 if all(part.expected for part in stage.parts) else 1
