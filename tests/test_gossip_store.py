"""The store of a gossip node: laws for whatever comes in whatever order, and a model that is naive on purpose."""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import blake2b
from math import inf
from typing import Any

import pytest
from attrs import define, evolve
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from zdisco._core.gossip import store as module
from zdisco._core.gossip.frames import (
    BUCKETS,
    COUNTER_LIMIT,
    LONGEST_LIFE,
    Entry,
    Pong,
    Renewal,
    Tuples,
    Version,
    digest_of,
    encode,
)
from zdisco._core.gossip.store import Fate, Put, Store, bucket_of, to_milliseconds

OURS, THEIRS = bytes(15) + b"\1", bytes(15) + b"\2"
WALL = 1_700_000_000_000
"""A wall clock of these days, in milliseconds."""
KEYS = (b"", b"a", b"b", b"c")


def new_store(owner: bytes = OURS, *, tuples: int = 1_000, tombstones: int = 1_000, time: float = 10.0) -> Store:
    return Store(owner, tuples, tombstones, time)


def filled(entries: Iterable[Entry], now: float = 0.0, **bounds: Any) -> Store:
    store = new_store(**bounds)
    for entry in entries:
        store.put(entry, now)
    return store


def held(store: Store) -> dict[bytes, Entry]:
    """All that a store holds, as it would tell it at the beginning of time, but for what it held before."""
    every = [key for versions in store.versions_in(range(BUCKETS)).values() for key, _ in versions]
    return {entry.key: evolve(entry, former=()) for entry in store.entries(every, 0.0)}


def recomputed(store: Store) -> list[int]:
    sums = [0] * BUCKETS
    for entry in held(store).values():
        text = entry.key + b"\0" + entry.version.counter.to_bytes(8, "big") + entry.version.owner
        part = blake2b(entry.key, digest_size=1).digest()[0]
        sums[part] ^= int.from_bytes(blake2b(text, digest_size=8).digest(), "big")
    return sums


# -- convergence --------------------------------------------------------------------------------

versions = st.builds(Version, st.integers(1, 4), st.sampled_from([OURS, THEIRS]))
values = st.sampled_from([None, b"", b"x", b"y"])
# A version is of one value, whoever tells it.
histories = st.dictionaries(st.tuples(st.sampled_from(KEYS), versions), values, max_size=12).map(
    lambda told: [Entry(key, version, value) for (key, version), value in told.items()]
)


@st.composite
def twice_told(draw: st.DrawFn) -> tuple[list[Entry], list[Entry]]:
    """One history in two orders, some of it repeated."""
    history = draw(histories)
    repeated = history + (draw(st.lists(st.sampled_from(history), max_size=8)) if history else [])
    return history, draw(st.permutations(repeated))


@given(twice_told())
def test_stores_are_equal_whatever_came_in_which_order_and_how_often(told: tuple[list[Entry], list[Entry]]) -> None:
    one, other = map(filled, told)
    assert held(one) == held(other)
    assert one.live == other.live
    assert (one.sums, one.sum, len(one)) == (other.sums, other.sum, len(other))


@given(histories, histories, histories)
def test_stores_that_tell_each_other_all_are_equal_whoever_begins(
    first: list[Entry], second: list[Entry], third: list[Entry]
) -> None:
    # What the three have of one version is one value.
    told: dict[tuple[bytes, Version], Entry] = {}
    parts = [[told.setdefault((entry.key, entry.version), entry) for entry in part] for part in (first, second, third)]
    left, right = filled(parts[0]), filled(parts[2])
    for entry in held(filled(parts[1])).values():
        left.put(entry, 0.0)
        right.put(entry, 0.0)
    for entry in held(filled(parts[2])).values():
        left.put(entry, 0.0)
    for entry in held(filled(parts[0])).values():
        right.put(entry, 0.0)
    assert held(left) == held(right)
    assert left.sums == right.sums


@given(histories)
def test_what_stays_of_a_key_is_its_latest_version(history: list[Entry]) -> None:
    latest: dict[bytes, Entry] = {}
    for entry in history:
        latest[entry.key] = max(entry, latest.get(entry.key, entry), key=lambda one: one.version)
    store = filled(history)
    assert store.live == {key: entry.value for key, entry in latest.items() if entry.value is not None}
    assert {key: store.version(key) for key in KEYS} == {
        key: latest[key].version if key in latest else None for key in KEYS
    }


@given(histories)
def test_what_was_put_before_is_stale(history: list[Entry]) -> None:
    store = filled(history)
    assert all(store.put(entry, 0.0) == Put(Fate.STALE) for entry in history)


@given(histories)
def test_the_sums_are_those_of_the_definition(history: list[Entry]) -> None:
    store = filled(history)
    assert store.sums == recomputed(store)
    total = 0
    for part in store.sums:
        total ^= part
    assert store.sum == total


@given(histories, st.frozensets(st.integers(0, BUCKETS - 1)))
def test_a_part_lists_its_keys_and_no_others(history: list[Entry], buckets: frozenset[int]) -> None:
    store = filled(history)
    found = store.versions_in(buckets)
    assert found.keys() == buckets
    assert {known for versions in found.values() for known in versions} == {
        (entry.key, entry.version) for entry in held(store).values() if bucket_of(entry.key) in buckets
    }


def test_a_part_is_listed_without_a_look_at_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    store = filled(Entry(b"%d" % number, Version(1, OURS), b"v") for number in range(2_000))

    def fail(_: bytes) -> int:
        raise AssertionError("a key is looked at")

    monkeypatch.setattr(module, "bucket_of", fail)
    assert 1 <= len(store.versions_in({7})[7]) < 50


def test_equal_sums_of_unequal_stores_do_not_happen_by_swapping_keys() -> None:
    one = filled([Entry(b"a", Version(1, OURS), b"v"), Entry(b"b", Version(2, OURS), b"v")])
    other = filled([Entry(b"a", Version(2, OURS), b"v"), Entry(b"b", Version(1, OURS), b"v")])
    assert one.sum != other.sum


# -- versions -----------------------------------------------------------------------------------


@given(histories, st.sampled_from(KEYS), st.integers(0, 2 * WALL), st.none() | st.just(5.0))
def test_what_is_written_is_later_than_what_was(
    history: list[Entry], key: bytes, wall: int, life: float | None
) -> None:
    store = filled(history)
    before = store.version(key)
    entry = store.written(key, b"new", wall, life)
    assert entry.version.owner == OURS
    assert before is None or entry.version > before
    assert entry.version.counter >= wall
    assert store.put(entry, 0.0).fate is Fate.KEPT
    assert store.live[key] == b"new"


@given(histories, st.sampled_from(KEYS))
def test_what_is_adopted_is_later_than_what_was_there(history: list[Entry], key: bytes) -> None:
    store = filled(history)
    before = store.version(key)
    entry = store.adopted(key, b"new")
    assert before is None or entry.version > before
    assert store.put(entry, 0.0).fate is Fate.KEPT


@pytest.mark.parametrize("owner", [OURS, THEIRS])
def test_what_is_adopted_of_an_unknown_key_is_earlier_than_what_ours_ever_wrote(owner: bytes) -> None:
    adopted = new_store(owner).adopted(b"k", b"real")
    assert adopted.version.counter == 1
    for writer in (OURS, THEIRS):
        assert adopted.version < new_store(writer).written(b"k", b"ours", WALL, None).version


def test_a_counter_at_its_limit_stays_there() -> None:
    store = filled([Entry(b"k", Version(COUNTER_LIMIT, THEIRS), b"v")])
    entry = store.written(b"k", b"w", WALL, None)
    assert entry.version == Version(COUNTER_LIMIT, OURS)
    assert store.put(entry, 0.0) == Put(Fate.STALE)
    assert store.adopted(b"k", b"w").version.counter == COUNTER_LIMIT


def test_all_that_adopt_a_value_make_the_same_version_of_it_and_of_no_other_one() -> None:
    adopted = new_store(OURS).adopted(b"k", b"x")
    assert new_store(THEIRS).adopted(b"k", b"x") == adopted
    # The key may have been forgotten, or this be another life of the same node.
    assert new_store(OURS).adopted(b"k", b"y").version != adopted.version


# -- bounds -------------------------------------------------------------------------------------


def test_a_full_store_takes_no_new_key_but_new_values_of_those_it_has() -> None:
    store = filled([Entry(b"a", Version(1, OURS), b"v"), Entry(b"b", Version(1, OURS), b"v")], tuples=2)
    sums = list(store.sums)
    assert store.put(Entry(b"c", Version(1, OURS), b"v"), 0.0) == Put(Fate.NO_ROOM)
    assert (store.sums, store.version(b"c"), b"c" in store.live) == (sums, None, False)
    assert store.put(Entry(b"a", Version(2, OURS), b"w"), 0.0) == Put(Fate.KEPT, b"v", True)
    assert store.put(Entry(b"c", Version(1, OURS), None), 0.0) == Put(Fate.KEPT)
    assert store.put(Entry(b"c", Version(2, OURS), b"v"), 0.0) == Put(Fate.NO_ROOM)
    assert store.put(Entry(b"a", Version(3, OURS), None), 0.0) == Put(Fate.KEPT, b"w", True)
    assert store.put(Entry(b"c", Version(2, OURS), b"v"), 0.0) == Put(Fate.KEPT, None, True)


def test_of_too_many_tombstones_those_that_end_first_are_forgotten_when_it_is_time() -> None:
    lives = [5_000, 1_000, 4_000, 2_000, 3_000]
    entries = [Entry(b"%d" % number, Version(1, OURS), None, life) for number, life in enumerate(lives)]
    store = filled(entries, tombstones=3)
    assert store.tombstones == 5
    store.forget_excess()
    assert {key for key in b"01234" if store.version(b"%c" % key)} == set(b"024")
    assert store.sums == filled(entries[::2]).sums


def test_what_expires_together_with_a_tombstone_that_there_is_no_room_for_expires() -> None:
    store = filled([Entry(b"k", Version(1, OURS), b"v", 1_000), Entry(b"t", Version(1, OURS), None, 1_000)])
    store.max_tombstones = 1
    assert store.expire(1.0) == [(b"k", b"v")]
    store.forget_excess()
    assert (len(store), store.tombstones) == (1, 1)


@pytest.mark.parametrize("keys", [1, 8, 20])
def test_tombstones_that_come_and_go_take_no_more_room(keys: int) -> None:
    store = new_store(tombstones=10)
    for number in range(1, 3_000):
        store.put(Entry(b"%d" % (number % keys), Version(number, OURS), None), number * 0.001)
        store.forget_excess()
    assert len(store) == min(keys, 10)
    assert len(store._graves) <= 65
    # Those that are left are the latest.
    last = {b"%d" % (number % keys) for number in range(2_990, 3_000)}
    assert all(store.version(key) for key in last)


def test_a_tombstone_of_an_unknown_key_is_no_news() -> None:
    store = new_store()
    assert not store.put(Entry(b"k", Version(1, OURS), None), 0.0).is_news
    assert store.put(Entry(b"k", Version(2, OURS), None), 0.0).is_news
    assert not store.put(Entry(b"k", Version(2, OURS), None), 0.0).is_news


# -- life ---------------------------------------------------------------------------------------


def test_a_value_lives_its_time_and_leaves_a_tombstone_that_is_no_difference() -> None:
    store = filled([Entry(b"k", Version(1, THEIRS), b"v", 2_000)], time=10.0)
    sums = list(store.sums)
    assert store.next == 2.0
    assert store.expire(1.999) == []
    assert store.expire(2.5) == [(b"k", b"v")]
    assert (dict(store.live), store.tombstones, store.sums) == ({}, 1, sums)
    # From its own end on, not from ours.
    assert store.next == 12.0
    told = list(store.entries([b"k"], 2.5))
    assert told == [Entry(b"k", Version(1, THEIRS), None, 9_500, (digest_of(b"v"),))]
    assert store.put(Entry(b"k", Version(1, THEIRS), b"v", 500), 2.5) == Put(Fate.STALE)
    assert store.expire(12.0) == []
    assert (len(store), store.tombstones, store.sum) == (0, 0, 0)
    assert not store._timers


def test_what_lives_for_ever_does_not_expire() -> None:
    store = filled([Entry(b"k", Version(1, THEIRS), b"v")])
    assert store.next == inf
    assert store.expire(1e9) == []
    assert list(store.entries([b"k"], 1e9)) == [Entry(b"k", Version(1, THEIRS), b"v")]


def test_a_later_version_brings_its_own_life() -> None:
    store = filled([Entry(b"k", Version(1, THEIRS), b"v", 2_000)])
    store.put(Entry(b"k", Version(2, THEIRS), b"v", 5_000), 1.0)
    assert store.expire(5.9) == []
    store.put(Entry(b"k", Version(3, THEIRS), b"v"), 5.9)
    assert (store.next, store.expire(100.0)) == (inf, [])


@given(st.floats(0.0, 9.9), st.floats(0.0, 5.0))
def test_a_tombstone_takes_its_life_along_and_is_not_made_young(age: float, later: float) -> None:
    store = filled([Entry(b"k", Version(1, OURS), None)], time=10.0)
    (told,) = store.entries([b"k"], age)
    other = new_store(time=10.0)
    other.put(told, age + later)
    # To the millisecond, and what it needed on its way is not counted.
    assert abs(other.next - (10.0 + later)) <= 0.001
    assert told.life <= 10_000


def test_a_tombstone_from_elsewhere_lives_no_longer_than_our_own() -> None:
    store = filled([Entry(b"k", Version(1, THEIRS), None, LONGEST_LIFE)], time=10.0)
    assert store.next == 10.0


def test_what_has_outlived_its_time_is_not_told_any_more() -> None:
    store = filled([Entry(b"k", Version(1, OURS), None), Entry(b"l", Version(1, OURS), b"v", 10_000)], time=10.0)
    assert not list(store.entries([b"k", b"l", b"unknown"], 10.0))
    assert len(list(store.entries([b"k", b"l", b"unknown"], 9.9999))) == 2


@pytest.mark.parametrize(
    ("life", "milliseconds"), [(None, 0), (1.5, 1_500), (0.0001, 1), (0.0, 1), (1e12, LONGEST_LIFE), (4.0006, 4_001)]
)
def test_a_life_in_milliseconds_stays_a_life(life: float | None, milliseconds: int) -> None:
    assert to_milliseconds(life) == milliseconds


# -- what a key was, and the order of what is ----------------------------------------------------


def test_a_former_value_is_known_but_not_the_present_one() -> None:
    store = filled(Entry(b"k", Version(number, OURS), b"%d" % number) for number in range(1, 8))
    known = {number for number in range(1, 8) if store.was(b"k", b"%d" % number)}
    assert known == {3, 4, 5, 6}
    assert not store.was(b"other", b"6")
    store.put(Entry(b"k", Version(8, OURS), None), 0.0)
    assert store.was(b"k", b"7")
    store.put(Entry(b"k", Version(9, OURS), b"7"), 0.0)
    assert not store.was(b"k", b"7")
    assert store.was(b"k", b"6")


def test_what_a_key_had_before_elsewhere_is_known_too() -> None:
    told = filled(Entry(b"k", Version(number, OURS), b"%d" % number) for number in range(1, 4))
    store = filled(told.entries([b"k"], 0.0))
    assert [number for number in range(1, 5) if store.was(b"k", b"%d" % number)] == [1, 2]
    # Of two values that were written at the same time the one that lost was never the value here.
    store.put(Entry(b"k", Version(2, THEIRS), b"lost"), 0.0)
    assert store.was(b"k", b"lost")


def test_an_expired_value_was_one() -> None:
    store = filled([Entry(b"k", Version(1, OURS), b"v", 1_000)], time=10.0)
    store.expire(1.0)
    assert store.was(b"k", b"v")
    store.expire(11.0)
    assert not store.was(b"k", b"v")


def test_keys_are_in_the_order_in_which_they_got_their_first_value() -> None:
    store = filled(Entry(key, Version(1, OURS), b"v") for key in (b"c", b"a", b"b"))
    store.put(Entry(b"c", Version(2, OURS), b"w"), 0.0)
    assert list(store.live) == [b"c", b"a", b"b"]
    store.put(Entry(b"c", Version(3, OURS), None), 0.0)
    store.put(Entry(b"c", Version(4, OURS), b"x"), 0.0)
    assert list(store.live.items()) == [(b"a", b"v"), (b"b", b"v"), (b"c", b"x")]


# -- renewals -----------------------------------------------------------------------------------


def test_a_renewal_stands_for_the_value_that_is_there() -> None:
    store = filled([Entry(b"k", Version(1, OURS), b"v", 1_000), Entry(b"gone", Version(1, OURS), None)])
    renewal = Renewal(b"k", Version(2, OURS), digest_of(b"v"), 5_000)
    assert store.renewed(renewal) == Entry(b"k", Version(2, OURS), b"v", 5_000)
    for other in (b"w", b""):
        assert store.renewed(Renewal(b"k", Version(2, OURS), digest_of(other))) is None
    for key in (b"gone", b"unknown"):
        assert store.renewed(Renewal(key, Version(2, OURS), digest_of(b"v"))) is None


@given(histories)
def test_renewals_tell_what_entries_tell_to_who_has_the_values(history: list[Entry]) -> None:
    store = filled(history)
    other = filled(
        Entry(entry.key, Version(entry.version.counter, b"\0" * 16), entry.value) for entry in held(store).values()
    )
    for renewal in store.renewals(KEYS, 0.0):
        entry = renewal if isinstance(renewal, Entry) else other.renewed(renewal)
        assert entry is not None
        other.put(entry, 0.0)
    assert held(other) == held(store)
    assert other.sums == store.sums


# -- against a model ----------------------------------------------------------------------------


@define
class Kept:
    version: Version
    value: bytes | None
    ends: float | None
    former: tuple[int, ...]


TUPLES, TOMBSTONES, TIME = 3, 2, 8.0
LIVES = st.sampled_from([0, 1_000, 3_000])
FORMER = st.lists(st.sampled_from([digest_of(value) for value in (b"", b"x", b"y")]), unique=True).map(tuple)


def first_four(*digests: int) -> tuple[int, ...]:
    return tuple(dict.fromkeys(digests))[:4]


class AgainstAModel(RuleBasedStateMachine):
    """Time goes on in seconds, so that many ends fall together."""

    def __init__(self) -> None:
        super().__init__()
        self.store = new_store(tuples=TUPLES, tombstones=TOMBSTONES, time=TIME)
        self.model: dict[bytes, Kept] = {}
        self.order: list[bytes] = []
        self.now = 0.0

    @property
    def live(self) -> dict[bytes, bytes]:
        return {key: kept.value for key, kept in self.model.items() if kept.value is not None}

    def put_both(self, entry: Entry) -> None:
        before = self.model.get(entry.key)
        put = self.store.put(entry, self.now)
        if before is not None and before.version >= entry.version:
            assert put.fate is Fate.STALE
            if entry.value is not None and entry.value != before.value:
                before.former = first_four(digest_of(entry.value), *before.former)
            return
        was = None if before is None else before.value
        if entry.value is not None and was is None and len(self.live) >= TUPLES:
            assert put.fate is Fate.NO_ROOM
            return
        is_news = before is not None or entry.value is not None
        assert put == Put(Fate.KEPT, was, is_news)
        former = first_four(*entry.former, *(before.former if before is not None else ()))
        if was is not None and was != entry.value:
            former = first_four(digest_of(was), *former)
        life = entry.life / 1000 if entry.life else TIME if entry.value is None else None
        if life is not None and entry.value is None:
            life = min(life, TIME)
        self.keep(entry.key, Kept(entry.version, entry.value, None if life is None else self.now + life, former))

    def keep(self, key: bytes, kept: Kept) -> None:
        self.model[key] = kept
        if kept.value is None:
            self.order = [other for other in self.order if other != key]
        elif key not in self.order:
            self.order.append(key)

    @rule(key=st.sampled_from(KEYS), version=versions, value=values, life=LIVES, former=FORMER)
    def put(self, key: bytes, version: Version, value: bytes | None, life: int, former: tuple[int, ...]) -> None:
        self.put_both(Entry(key, version, value, life, former))

    @rule(key=st.sampled_from(KEYS), value=values, life=st.none() | st.sampled_from([1.0, 2.0, 30.0]))
    def write(self, key: bytes, value: bytes | None, life: float | None) -> None:
        # A clock that stands still.
        self.put_both(self.store.written(key, value, 0, life))

    @rule(key=st.sampled_from(KEYS), value=values.filter(lambda value: value is not None))
    def adopt(self, key: bytes, value: bytes) -> None:
        self.put_both(self.store.adopted(key, value))

    @rule(seconds=st.sampled_from([1.0, 2.0, 8.0, 20.0]))
    def let_time_pass(self, seconds: float) -> None:
        self.now += seconds
        told: list[tuple[bytes, bytes]] = []
        while self.store.next <= self.now:
            told += self.store.expire(self.now)
        expired = []
        for key, kept in list(self.model.items()):
            if kept.ends is not None and kept.ends <= self.now and kept.value is not None:
                expired.append((key, kept.value))
                former = first_four(digest_of(kept.value), *kept.former)
                self.keep(key, Kept(kept.version, None, kept.ends + TIME, former))
        assert sorted(told) == sorted(expired)
        for key, kept in list(self.model.items()):
            if kept.ends is not None and kept.ends <= self.now:
                del self.model[key]

    @precondition(lambda self: len(self.model) - len(self.live) > TOMBSTONES)
    @rule()
    def hold_the_bound(self) -> None:
        self.store.forget_excess()
        graves = sorted((kept.ends, key) for key, kept in self.model.items() if kept.value is None)
        for _, key in graves[: len(graves) - TOMBSTONES]:
            del self.model[key]

    @invariant()
    def agree(self) -> None:
        assert list(self.store.live.items()) == [(key, self.live[key]) for key in self.order]
        assert len(self.store) == len(self.model)
        assert self.store.tombstones == len(self.model) - len(self.live)
        least = sum(len(key) + len(kept.value or b"") for key, kept in self.model.items())
        told = encode(Pong(Tuples(tuple(self.store.entries(self.model, self.now)))))
        assert max(least, len(told) - 8) <= self.store.size <= least + 80 * len(self.model)
        assert self.store.next == min((one.ends for one in self.model.values() if one.ends is not None), default=inf)
        for key in KEYS:
            kept = self.model.get(key)
            assert self.store.version(key) == (None if kept is None else kept.version)
            for value in (b"", b"x", b"y"):
                was = kept is not None and kept.value != value and digest_of(value) in kept.former
                assert self.store.was(key, value) == was
            for entry in self.store.entries([key], self.now):
                assert kept is not None
                assert entry.former == kept.former

    @invariant()
    def sums_are_those_of_a_new_store(self) -> None:
        every = [Entry(key, kept.version, b"") for key, kept in self.model.items()]
        assert self.store.sums == filled(every).sums


AgainstAModel.TestCase.settings = settings(max_examples=80, stateful_step_count=40)
TestStoreAgainstAModel = AgainstAModel.TestCase
