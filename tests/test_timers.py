"""Deadlines against a model so naive that it cannot be wrong: a dict that is sorted each time."""

from __future__ import annotations

from math import inf

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from zdisco._core.timers import Timers

KEYS = st.integers(0, 8)
TIMES = st.integers(0, 20).map(float)


class AgainstADict(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.timers: Timers[int] = Timers()
        self.model: dict[int, float] = {}
        self.put_off: set[int] = set()

    @rule(key=KEYS, at=TIMES, times=st.sampled_from([1, 1, 1, 70]))
    def arm(self, key: int, at: float, times: int) -> None:
        for _ in range(times):
            self.timers.arm(key, at)
        self.model[key] = at
        self.put_off.discard(key)

    @rule(key=KEYS)
    def cancel(self, key: int) -> None:
        self.timers.cancel(key)
        self.model.pop(key, None)
        self.put_off.discard(key)

    @rule(now=TIMES)
    def pop(self, now: float) -> None:
        due = self.timers.pop_due(now)
        assert sorted(due) == sorted((key, at) for key, at in self.model.items() if at <= now)
        assert [at for _, at in due] == sorted(at for _, at in due)
        for key, _ in due:
            del self.model[key]

    @rule(now=TIMES)
    def pop_and_put_off(self, now: float) -> None:
        for key, _ in self.timers.pop_due(now):
            del self.model[key]
            assert self.timers.put_off(key, now + 1) == (key not in self.put_off)
            if key not in self.put_off:
                self.model[key] = now + 1
            self.put_off ^= {key}

    @invariant()
    def agree(self) -> None:
        assert self.timers.next == min(self.model.values(), default=inf)
        assert len(self.timers) == len(self.model)
        assert {key for key in range(9) if self.timers.is_armed(key)} == set(self.model)


AgainstADict.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestTimersAgainstADict = AgainstADict.TestCase


def test_what_is_due_at_the_same_time_comes_in_the_order_of_arming() -> None:
    timers: Timers[str] = Timers()
    for key in "cab":
        timers.arm(key, 1.0)
    assert timers.pop_due(1.0) == [("c", 1.0), ("a", 1.0), ("b", 1.0)]


def test_a_moved_deadline_is_due_once() -> None:
    timers: Timers[str] = Timers()
    timers.arm("a", 1.0)
    timers.arm("a", 3.0)
    timers.arm("a", 1.0)
    assert timers.pop_due(5.0) == [("a", 1.0)]
    assert timers.next == inf


@pytest.mark.parametrize("cancelled", [False, True])
def test_a_deadline_that_moves_for_ever_takes_no_more_room(cancelled: bool) -> None:
    timers: Timers[int] = Timers()
    for number in range(10_000):
        timers.arm(number % 5, float(number))
        if cancelled:
            timers.cancel(number % 5)
    assert len(timers._heap) <= 65


def test_whoever_is_cancelled_may_be_put_off_once_more() -> None:
    timers: Timers[str] = Timers()
    timers.arm("a", 1.0)
    assert timers.pop_due(1.0) == [("a", 1.0)]
    assert timers.put_off("a", 2.0)
    assert timers.pop_due(2.0) == [("a", 2.0)]
    timers.cancel("a")
    assert timers.put_off("a", 3.0)
    assert timers.pop_due(3.0) == [("a", 3.0)]
    assert not timers.put_off("a", 4.0)
    assert timers.next == inf
