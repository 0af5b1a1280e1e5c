"""``python -m bench data``: what it costs to publish and to receive, beside other programs, in one run.

Rule 1: in each round every program runs a measure once, the reference first and once more last; all
rounds are interleaved, so a noisy minute meets everybody. The second run of the reference says how
much the machine changed within a round.

Rule 2: nothing is left out of the table: a program that is missing, a run that failed and messages
that were lost are shown.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence

from attrs import evolve, frozen

from .cells import REFERENCE, STACKS, Kind, Measure, measure
from .figures import Bound, Outcome
from .member import Member
from .stacks.stack import Stack
from .table import DataRow, show_data

MEASURES = (
    Measure("16B", "1:1 16 B", Kind.RATE, 16, 200_000),
    Measure("256B", "1:1 256 B", Kind.RATE, 256, 200_000),
    Measure("4KiB", "1:1 4 KiB", Kind.RATE, 4096, 50_000),
    Measure("64KiB", "1:1 64 KiB", Kind.RATE, 65_536, 4_000),
    Measure("1:8", "1:8 256 B", Kind.RATE, 256, 50_000, subscribers=8),
    Measure("1:32", "1:32 256 B", Kind.RATE, 256, 15_000, subscribers=32),
    Measure("trip", "trip 256 B", Kind.TRIPS, 256, 2_000),
    Measure("burst", "burst 64 B", Kind.BURST, 64, 20_000),
)
ROUNDS = 5
QUICK_ROUNDS = 3
QUICK = 4
"""A quick run has so many times fewer messages."""
AGAIN = "sync again"

SINGLE = ("asyncio", "uvloop", "trio")
BULK = tuple(f"{name} bulk" for name in SINGLE)
BARE = tuple(f"bare {name}" for name in SINGLE)
SYNC, ZMQ_ASYNCIO, PYRE = (stack.name for stack in STACKS[:3])
BOUNDS: dict[tuple[str, str], tuple[Bound, ...]] = {
    **{
        ("1:1 256 B", name): (
            Bound(SYNC, 0.55 if name == "trio" else 0.6), Bound(ZMQ_ASYNCIO, 8), Bound(PYRE, 25),
        ) for name in SINGLE
    },
    **{("1:1 256 B", name): (Bound(SYNC, 0.85),) for name in BULK},
    **{(row, name): (Bound(SYNC, 0.5),) for row in ("1:8 256 B", "1:32 256 B") for name in SINGLE + BULK},
    **{
        ("trip 256 B p50", name): (Bound(SYNC, 1.35 if name == "trio" else 1.5, is_upper=True),) for name in SINGLE
    },
}  # fmt: skip
"""What is promised, by row and program."""
ACCOUNTED = {("burst 64 B", name) for name in SINGLE + BULK}
"""Where each message is promised to arrive or to be told lost."""


@frozen
class Plan:
    """What is to be measured."""

    measures: Sequence[Measure]
    stacks: Sequence[Stack]
    """The reference is always among them."""
    rounds: int

    @classmethod
    def of(cls, filters: Iterable[str], *, quick: bool, rounds: int | None = None) -> Plan:
        """All, or what the filters name: measures by their keys, programs by their names.

        Raises:
            ValueError: If a filter names nothing, or there are no rounds.
        """
        if rounds is None:
            rounds = QUICK_ROUNDS if quick else ROUNDS
        if rounds < 1:
            raise ValueError(f"{rounds} rounds measure nothing")
        wanted = set(filters)
        keys, names = {measure.key for measure in MEASURES}, {stack.name for stack in STACKS}
        if unknown := wanted - keys - names:
            raise ValueError(f"{', '.join(sorted(unknown))}: neither a measure nor a program")
        measures = [measure for measure in MEASURES if measure.key in wanted or not wanted & keys]
        if quick:
            measures = [_quick(measure) for measure in measures]
        stacks = [stack for stack in STACKS if stack is REFERENCE or stack.name in wanted or not wanted & names]
        return cls(measures, stacks, rounds)


def _quick(measure: Measure) -> Measure:
    # A burst is defined by its size.
    return measure if measure.kind is Kind.BURST else evolve(measure, count=measure.count // QUICK)


Outcomes = dict[tuple[str, str], list[Outcome]]
"""By row and program, one for each round."""


def run(plan: Plan) -> list[DataRow]:
    """Measure everything in interleaved rounds."""
    present = [stack for stack in plan.stacks if not stack.missing()]
    turns = [*((stack.name, stack) for stack in present), (AGAIN, REFERENCE)]
    outcomes: Outcomes = {}
    with Member("proxy") as proxy:
        for number in range(plan.rounds):
            for each in plan.measures:
                _progress(f"round {number + 1} of {plan.rounds}: {each.title}")
                for name, stack in turns:
                    if _takes_part(stack, each):
                        for row, outcome in measure(stack, each, proxy.endpoint).items():
                            outcomes.setdefault((row, name), []).append(outcome)
    _progress("")
    return _rows(plan, outcomes)


def _progress(text: str) -> None:
    if sys.stderr.isatty():
        print(f"\r{text:<40}\r", end="", file=sys.stderr, flush=True)


def _takes_part(stack: Stack, measure: Measure) -> bool:
    # A round trip has nothing to do in bulk, and is all that a bare loop can do.
    return stack.name not in (BULK if measure.kind is Kind.TRIPS else BARE)


def _rows(plan: Plan, outcomes: Outcomes) -> list[DataRow]:
    rows: list[DataRow] = []
    for each in plan.measures:
        names = [stack.name for stack in plan.stacks if _takes_part(stack, each)] + [AGAIN]
        missing = {stack.name: stack.missing() for stack in plan.stacks}
        for row in each.rows:
            against = {name: outcomes.get((row, name), []) for name in names}
            rows += [
                DataRow(
                    row, name, against, missing.get(name, ""), BOUNDS.get((row, name), ()), (row, name) in ACCOUNTED
                )
                for name in names
            ]
    return rows


def main(plan: Plan) -> None:
    """Measure, and print the table."""
    show_data(run(plan), REFERENCE.name)
