"""Rows of figures, printed as tables."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence

from attrs import frozen

from .figures import Bound, Failure, Outcome, Sample, percentile, ratio, samples


@frozen
class Row:
    """Times of one thing, beside those of a plain program that did the same in the same run."""

    what: str
    seconds: Sequence[float]
    plain: Sequence[float]


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


@frozen
class DataRow:
    """One program at one measure."""

    row: str
    name: str
    against: Mapping[str, Sequence[Outcome]]
    """What came of each program, itself among them, round by round."""
    missing: str = ""
    """Why it was not measured."""
    bounds: Sequence[Bound] = ()
    is_accountable: bool = False
    """Whether it is promised that each message arrives or is told lost."""

    @property
    def outcomes(self) -> Sequence[Outcome]:
        return self.against[self.name]


def show_data(rows: Iterable[DataRow], reference: str) -> None:
    """Print medians, ratios to the reference, losses, and whether the bounds hold."""
    print(
        "\nData. 1:N: messages a second, at all subscribers together; trip: microseconds; burst: messages that arrived;"
    )
    print("cpu: microseconds of processor time a message, publisher + one subscriber; lost: in all rounds together;")
    print("told: losses that the library reported")
    figures = f"{'median':>11}{'min .. max':>24}{'x ' + reference:>8}{'cpu':>14}{'lost':>10}{'told':>8}"
    print(f"\n{'':<29}{figures}  bounds")
    last = ""
    for row in rows:
        if last not in ("", row.row):
            print()
        last = row.row
        print(f"{row.row:<15}{row.name:<14}{data_cells(row, reference)}".rstrip())


def data_cells(row: DataRow, reference: str) -> str:
    """All but the first two columns of a row."""
    if row.missing:
        return f"{'-':>11}  not measured: {row.missing}"
    found = samples(row.outcomes)
    failures = [outcome.reason for outcome in row.outcomes if isinstance(outcome, Failure)]
    failed = f"  {len(failures)} of {len(row.outcomes)} runs failed: {failures[0]}" if failures else ""
    if not found:
        return f"{'-':>11}{failed}  {'; '.join(verdicts(row))}"
    values = [sample.value for sample in found]
    against = ratio(row.outcomes, row.against.get(reference, ()))
    spread = f"{min(values):,.0f} .. {max(values):,.0f}"
    lost, told = sum(sample.lost for sample in found), sum(sample.told for sample in found)
    return (
        f"{statistics.median(values):>11,.0f}{spread:>24}{'-' if against is None else f'{against:.2f}':>8}"
        f"{_cpu(found):>14}{lost:>10,}{told:>8,}{failed}  {'; '.join(verdicts(row))}"
    )


def _cpu(found: Sequence[Sample]) -> str:
    """Microseconds for each message, publisher and subscriber."""
    if not found[0].publisher_cpu:
        return "-"
    publisher = statistics.median(sample.publisher_cpu for sample in found)
    subscriber = statistics.median(sample.subscriber_cpu for sample in found)
    return " + ".join(f"{part * 1e6:.{2 if part < 1e-5 else 0}f}" for part in (publisher, subscriber))


def verdicts(row: DataRow) -> Iterator[str]:
    """What is promised of a row, and whether it holds."""
    for bound in row.bounds:
        found = ratio(row.outcomes, row.against.get(bound.against, ()))
        if found is None:
            yield f"{bound}: not measured"
        else:
            yield f"{bound}: {'ok' if bound.holds(found) else 'MISSED'} ({found:.2f})"
    if row.is_accountable:
        is_kept = all(isinstance(outcome, Sample) and outcome.is_accounted_for for outcome in row.outcomes)
        yield f"all arrive or are told lost: {'ok' if is_kept else 'MISSED'}"
