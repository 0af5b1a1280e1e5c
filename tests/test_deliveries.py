"""What a slow reader of a gossip node is told of each key."""

from __future__ import annotations

from collections.abc import Sequence

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zdisco import Change, Delivery
from zdisco._deliveries import DeliveryStream, merged


def delivery(change: Change, value: str = "v") -> Delivery:
    return Delivery("key", value if change in (Change.NEW, Change.CHANGED) else None, change)


@pytest.mark.parametrize(
    ("waiting", "later", "told"),
    [
        (Change.NEW, Change.CHANGED, Change.NEW),
        (Change.NEW, Change.REMOVED, None),
        (Change.NEW, Change.EXPIRED, None),
        (Change.CHANGED, Change.CHANGED, Change.CHANGED),
        (Change.CHANGED, Change.REMOVED, Change.REMOVED),
        (Change.CHANGED, Change.EXPIRED, Change.EXPIRED),
        (Change.REMOVED, Change.NEW, Change.CHANGED),
        (Change.EXPIRED, Change.NEW, Change.CHANGED),
    ],
)
def test_two_changes_of_a_key_become_one(waiting: Change, later: Change, told: Change | None) -> None:
    expected = None if told is None else delivery(told, "later")
    assert merged(delivery(waiting), delivery(later, "later")) == expected


def stream(capacity: int = 100, present: Sequence[Delivery] = ()) -> tuple[DeliveryStream, list[int]]:
    lost: list[int] = []
    return DeliveryStream(capacity, present, lost.append), lost


async def drained(deliveries: DeliveryStream) -> list[Delivery]:
    deliveries._end()
    return [one async for one in deliveries]


def test_keys_come_in_the_order_in_which_they_changed_first() -> None:
    deliveries, lost = stream(present=[Delivery("a", "1", Change.NEW)])
    deliveries.offer([Delivery("b", "1", Change.NEW), Delivery("a", "2", Change.CHANGED)])
    deliveries.offer([Delivery("c", "1", Change.NEW)])
    told = anyio.run(drained, deliveries)
    assert [(one.key, one.value) for one in told] == [("a", "2"), ("b", "1"), ("c", "1")]
    assert lost == []


def test_beyond_the_capacity_the_keys_that_changed_first_are_lost_and_counted() -> None:
    deliveries, lost = stream(2)
    deliveries.offer(Delivery(str(number), "x", Change.NEW) for number in range(5))
    deliveries.offer([Delivery("9", "x", Change.NEW)])
    assert [one.key for one in anyio.run(drained, deliveries)] == ["4", "9"]
    assert (lost, deliveries.dropped) == ([3, 1], 4)


def test_a_stream_that_is_closed_takes_nothing() -> None:
    async def close_and_offer() -> list[Delivery]:
        deliveries, _ = stream(present=[Delivery("a", "1", Change.NEW)])
        await deliveries.aclose()
        deliveries.offer([Delivery("b", "1", Change.NEW)])
        return [one async for one in deliveries]

    assert anyio.run(close_and_offer) == []


STEPS = st.lists(st.tuples(st.sampled_from("ab"), st.one_of(st.none(), st.sampled_from("123")), st.booleans()))


@given(STEPS)
def test_whoever_reads_now_and_then_has_a_history_without_gaps_and_the_right_end(
    steps: list[tuple[str, str | None, bool]],
) -> None:
    deliveries, _ = stream()
    store: dict[str, str] = {}
    known: dict[str, str] = {}

    def read_one() -> None:
        if not deliveries._queue:
            return
        told = deliveries._queue.popleft()
        assert (told.key in known) == (told.change is not Change.NEW)
        if told.value is None:
            del known[told.key]
        else:
            known[told.key] = told.value

    for key, value, reads in steps:
        if value is not None:
            change = Change.CHANGED if key in store else Change.NEW
            store[key] = value
            deliveries.offer([Delivery(key, value, change)])
        elif key in store:
            del store[key]
            deliveries.offer([Delivery(key, None, Change.REMOVED)])
        if reads:
            read_one()
    while deliveries._queue:
        read_one()
    assert known == store
