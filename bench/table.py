"""Rows of figures, printed as one table."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from attrs import frozen


@frozen
class Row:
    """Times of one thing, beside those of a plain program that did the same in the same run."""

    what: str
    seconds: Sequence[float]
    plain: Sequence[float]


def percentile(values: Sequence[float], percent: float) -> float:
    """The smallest of the values that so many percent of them do not exceed."""
    return sorted(values)[max(0, math.ceil(len(values) * percent / 100) - 1)]


def show(title: str, rows: Iterable[Row]) -> None:
    """Print median and 99th percentile in milliseconds, and their ratio to the plain program's."""
    print(f"\n{title}")
    print(f"{'':<12}{'runs':>6}{'p50 ms':>9}{'p99 ms':>9}{'plain p50':>11}{'plain p99':>11}{'p50 ratio':>11}")
    for row in rows:
        median, high = percentile(row.seconds, 50), percentile(row.seconds, 99)
        plain, plain_high = percentile(row.plain, 50), percentile(row.plain, 99)
        print(
            f"{row.what:<12}{len(row.seconds):>6}{median * 1e3:>9.1f}{high * 1e3:>9.1f}"
            f"{plain * 1e3:>11.1f}{plain_high * 1e3:>11.1f}{median / plain:>11.2f}"
        )
