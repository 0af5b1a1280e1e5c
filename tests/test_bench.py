"""The bench counts and compares rightly. What it measures is no matter of tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from bench.cells import STACKS
from bench.data import AGAIN, BOUNDS, MEASURES, Plan
from bench.failures import _is
from bench.figures import Bound, Failure, Outcome, Sample, percentile, ratio, ratios
from bench.line import END, HELLO, Counted, Line, Ready, subscribe, subscribe_async
from bench.table import DataRow, data_cells, verdicts


def _sample(value: float, *, lost: int = 0, told: int = 0) -> Sample:
    return Sample(value, expected=100, received=100 - lost, told=told)


# Arithmetic


def test_a_percentile_is_one_of_the_values_and_no_higher_than_needed() -> None:
    values = [float(number) for number in range(100, 0, -1)]
    assert [percentile(values, percent) for percent in (0, 1, 50, 99, 99.5, 100)] == [1, 1, 50, 99, 100, 100]
    assert percentile([7.0], 50) == percentile([7.0], 99) == 7.0


def test_a_ratio_compares_within_each_round_and_takes_the_median() -> None:
    # The machine is ten times slower in the second round: that must not show.
    ours, theirs = [_sample(50), _sample(6), _sample(80)], [_sample(100), _sample(10), _sample(100)]
    assert ratios(ours, theirs) == [0.5, 0.6, 0.8]
    assert ratio(ours, theirs) == 0.6


def test_a_round_in_which_either_failed_has_no_ratio() -> None:
    failed: list[Outcome] = [Failure("ended"), _sample(1)]
    other: list[Outcome] = [_sample(2), _sample(2)]
    assert ratios(failed, other) == [0.5]
    assert ratios(other, failed) == [2.0]
    assert ratio([Failure("ended")], [_sample(2)]) is None
    assert ratio([_sample(2)], [_sample(0)]) is None


@pytest.mark.parametrize(
    ("bound", "good", "bad"), [(Bound("sync", 0.6), 0.6, 0.599), (Bound("sync", 1.5, True), 1.5, 1.501)]
)
def test_a_bound_holds_up_to_its_limit(bound: Bound, good: float, bad: float) -> None:
    assert bound.holds(good)
    assert not bound.holds(bad)


def test_what_was_published_and_neither_arrived_nor_was_told_is_not_accounted_for() -> None:
    assert _sample(1).lost == 0
    assert _sample(1, lost=30).lost == 30
    assert _sample(1, lost=30, told=30).is_accounted_for
    assert not _sample(1, lost=30, told=29).is_accounted_for
    # One of the marks was lost, too.
    assert _sample(1, lost=30, told=31).is_accounted_for


# The table


def _row(*outcomes: Outcome, is_accountable: bool = False, missing: str = "") -> DataRow:
    theirs: list[Outcome] = [_sample(100) for _ in outcomes]
    against: dict[str, list[Outcome]] = {"ours": list(outcomes), "sync": theirs, "absent": []}
    bounds = (Bound("sync", 0.5), Bound("sync", 0.6), Bound("absent", 8))
    return DataRow("row", "ours", against, missing, bounds, is_accountable)


def test_each_bound_is_judged_by_the_program_that_it_names() -> None:
    assert list(verdicts(_row(_sample(55)))) == [
        ">= 0.5x sync: ok (0.55)",
        ">= 0.6x sync: MISSED (0.55)",
        ">= 8x absent: not measured",
    ]


def test_one_round_that_does_not_account_for_its_losses_misses_the_promise() -> None:
    told, untold = _sample(1, lost=5, told=5), _sample(1, lost=5)
    assert list(verdicts(_row(told, told, is_accountable=True)))[-1].endswith("ok")
    assert list(verdicts(_row(told, untold, is_accountable=True)))[-1].endswith("MISSED")
    assert list(verdicts(_row(told, Failure("ended"), is_accountable=True)))[-1].endswith("MISSED")


def test_a_row_shows_median_range_ratio_and_all_losses() -> None:
    cells = data_cells(_row(_sample(10, lost=3), _sample(50, lost=4, told=4), _sample(30)), "sync")
    assert cells.split()[:8] == ["30", "10", "..", "50", "0.30", "-", "7", "4"]


def test_what_failed_or_is_missing_is_shown() -> None:
    assert "1 of 2 runs failed: it ended" in data_cells(_row(_sample(1), Failure("it ended")), "sync")
    nothing = data_cells(_row(Failure("it ended")), "sync")
    assert "1 of 1 runs failed: it ended" in nothing
    assert ">= 0.5x sync: not measured" in nothing
    assert "not measured: no such package" in data_cells(_row(missing="no such package"), "sync")


def test_bounds_name_rows_and_programs_that_exist() -> None:
    rows = {row for measure in MEASURES for row in measure.rows}
    names = {stack.name for stack in STACKS}
    assert {row for row, _ in BOUNDS} <= rows
    assert {name for _, name in BOUNDS} | {bound.against for bounds in BOUNDS.values() for bound in bounds} <= names
    assert AGAIN not in names


# What is to be measured


def test_filters_choose_measures_and_programs_and_keep_the_reference() -> None:
    whole, some = Plan.of([], quick=False), Plan.of(["256B", "asyncio"], quick=True)
    assert (list(whole.measures), list(whole.stacks)) == (list(MEASURES), list(STACKS))
    assert [measure.key for measure in some.measures] == ["256B"]
    assert [stack.name for stack in some.stacks] == ["sync", "asyncio"]
    assert some.rounds < whole.rounds
    assert [stack.name for stack in Plan.of(["burst"], quick=False).stacks] == [stack.name for stack in STACKS]
    with pytest.raises(ValueError, match="512B: neither"):
        Plan.of(["512B", "uvloop"], quick=False)
    with pytest.raises(ValueError, match="0 rounds"):
        Plan.of([], quick=False, rounds=0)


def test_a_quick_run_has_fewer_messages_but_the_whole_burst() -> None:
    quick = {measure.key: measure.count for measure in Plan.of([], quick=True).measures}
    for measure in MEASURES:
        assert quick[measure.key] == measure.count if measure.key == "burst" else quick[measure.key] < measure.count


# Counting


class _Line(Line):
    """Keeps what is told."""

    def __init__(self) -> None:
        self.facts: list[object] = []

    def tell(self, fact: object) -> None:
        self.facts.append(fact)


class _Empty(Exception):
    """Nothing more is received."""


# Two runs: one of three messages, then one of which nothing arrived. Either mark comes more than once.
RECEIVED = [HELLO, HELLO, b"x", b"x", b"x", END, END, END, HELLO, HELLO, END, END]


def _check(facts: list[object]) -> None:
    assert [type(fact) for fact in facts] == [Ready, Counted, Ready, Counted]
    assert [fact.received for fact in facts if isinstance(fact, Counted)] == [3, 0]


def test_a_subscriber_counts_what_came_between_the_marks() -> None:
    line, left = _Line(), iter(RECEIVED)

    def receive() -> bytes:
        for payload in left:
            return payload
        raise _Empty

    def count() -> int:
        return sum(1 for _ in _up_to_the_end(left))

    with pytest.raises(_Empty):
        subscribe(line, receive, count)
    _check(line.facts)


@pytest.mark.anyio
async def test_a_subscriber_in_an_event_loop_counts_the_same_and_what_it_was_told() -> None:
    line, left, told = _Line(), iter(RECEIVED), iter([10, 12, 12, 19])

    async def receive() -> bytes:
        for payload in left:
            return payload
        raise _Empty

    async def count() -> int:
        return sum(1 for _ in _up_to_the_end(left))

    with pytest.raises(_Empty):
        await subscribe_async(line, receive, count, lambda: next(told))
    _check(line.facts)
    assert [fact.told for fact in line.facts if isinstance(fact, Counted)] == [2, 7]


def _up_to_the_end(payloads: Iterator[bytes]) -> Iterator[bytes]:
    while (payload := next(payloads)) != END:
        yield payload


@pytest.mark.parametrize(
    ("told", "between", "is_right"),
    [
        (["joined", "suspected", "recovered"], (), True),
        (["joined", "recovered"], (), False),
        (["joined", "suspected", "recovered", "suspected"], ("suspected", "recovered"), False),
        (["joined", "suspected", "updated", "recovered"], ("suspected",), False),
        (["joined", "suspected", "recovered", "suspected", "recovered"], ("suspected", "recovered"), True),
        (["joined", "suspected", "recovered", "suspected", "recovered"], (), False),
        ([], ("suspected",), False),
    ],
)
def test_what_is_told_of_a_failure_is_right_only_if_nothing_else_is(
    told: list[str], between: tuple[str, ...], is_right: bool
) -> None:
    assert _is([("joined",), ("suspected",), ("recovered",)], told, between) is is_right
