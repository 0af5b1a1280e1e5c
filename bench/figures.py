"""The arithmetic of the bench: medians, ratios, losses and bounds. It measures nothing itself.

Rule 1: a ratio compares two runs of one round, which met the same minute of the machine; what is
shown of ratios is their median over the rounds.

Rule 2: what was published and did not arrive is lost, whether or not the library told so. No
figure is shown without its losses.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import TypeAlias

from attrs import frozen


def percentile(values: Sequence[float], percent: float) -> float:
    """The smallest of the values that so many percent of them do not exceed."""
    return sorted(values)[max(0, math.ceil(len(values) * percent / 100) - 1)]


@frozen
class Sample:
    """What one run of one program came to."""

    value: float
    """In the unit of the row: messages a second, microseconds, messages."""
    expected: int
    """Messages that should have arrived: those published, times the subscribers."""
    received: int
    told: int = 0
    """Messages of which the library told that they were lost."""
    publisher_cpu: float = 0.0
    """Seconds of processor time, of all threads, for each message published."""
    subscriber_cpu: float = 0.0
    """The same of one subscriber, for each message received."""

    @property
    def lost(self) -> int:
        return self.expected - self.received

    @property
    def is_accounted_for(self) -> bool:
        """Whether all that was not received was told lost.

        More may have been told: marks of begin and end are no messages of the run, but can be lost, too.
        """
        return self.told >= self.lost


@frozen
class Failure:
    """A run that came to nothing."""

    reason: str


Outcome: TypeAlias = Sample | Failure


def samples(outcomes: Sequence[Outcome]) -> list[Sample]:
    return [outcome for outcome in outcomes if isinstance(outcome, Sample)]


def ratios(ours: Sequence[Outcome], theirs: Sequence[Outcome]) -> list[float]:
    """Our value over theirs, round by round; rounds in which either has none are left out.

    A program that was not measured has no rounds at all.
    """
    if not ours or not theirs:
        return []
    return [
        our.value / their.value
        for our, their in zip(ours, theirs, strict=True)
        if isinstance(our, Sample) and isinstance(their, Sample) and their.value
    ]


def ratio(ours: Sequence[Outcome], theirs: Sequence[Outcome]) -> float | None:
    """The median of the ratios of the rounds; ``None`` if no round has both."""
    found = ratios(ours, theirs)
    return statistics.median(found) if found else None


@frozen
class Bound:
    """A ratio to another program that is promised."""

    against: str
    """The name of the other program."""
    limit: float
    is_upper: bool = False
    """Whether less is better."""

    def holds(self, ratio: float) -> bool:
        return ratio <= self.limit if self.is_upper else ratio >= self.limit

    def __str__(self) -> str:
        return f"{'<=' if self.is_upper else '>='} {self.limit:g}x {self.against}"
