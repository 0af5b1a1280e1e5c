"""The core of a gossip node: what follows from each input, in both roles, whatever the others do."""

from __future__ import annotations

from itertools import count, islice
from math import inf
from uuid import UUID

import pytest
from attrs import evolve
from hypothesis import given, settings
from hypothesis import strategies as st

from gossip_shell import EPOCH, LATER, OTHER, OURS, Net, Shell, carried, entries_in, tuples
from zdisco._core.actions import Drop
from zdisco._core.config import GossipConfig
from zdisco._core.gossip.frames import (
    BUCKETS,
    KEY_LIMIT,
    LONGEST_LIFE,
    Entry,
    GossipMessage,
    Greeting,
    Hello,
    Invalid,
    Ping,
    Pong,
    Publish,
    Renewal,
    Summary,
    Sums,
    Trailer,
    Version,
    Wants,
    digest_of,
    encode,
)
from zdisco._core.gossip.model import Change, Delivery
from zdisco._core.gossip.store import bucket_of
from zdisco._core.gossip.talk import Link

ALL = frozenset(range(BUCKETS))
CLIENT, OTHER_CLIENT = b"client", b"other client"
CONFIG = GossipConfig()


# -- bounds of the tables -------------------------------------------------------------------------


def test_of_too_many_clients_the_one_that_was_silent_longest_is_forgotten() -> None:
    shell = Shell(GossipConfig(max_clients=2))
    for name in (b"a", b"b", b"a", b"c"):
        shell.hear(name, Hello())
    assert shell.node.status.clients == 2
    assert shell.drops[Drop.TABLE_FULL] == 1
    shell.publish(b"k", b"v")
    shell.wait(5.0)
    assert {link for link, _ in shell.sent} == {b"a", b"c"}


@pytest.mark.parametrize("remotes", [1, 2, 3, 4, 5])
def test_remotes_take_no_room_of_clients(remotes: int) -> None:
    shell = Shell(GossipConfig(max_clients=4))
    for link in range(remotes):
        shell.befriend(link, UUID(int=link + 1))
    for name in (b"a", b"b", b"c", b"d"):
        shell.hear(name, Hello())
    assert (shell.node.status.remotes, shell.node.status.clients) == (remotes, 4)
    shell.hear(b"e", Hello())
    assert (shell.node.status.remotes, shell.node.status.clients) == (remotes, 4)


# -- what we published with a time to live --------------------------------------------------------


def test_a_tuple_of_ours_is_refreshed_three_times_in_its_life() -> None:
    shell = Shell()
    shell.befriend(CLIENT)
    shell.publish(b"k", b"v", ttl=3.0)
    (told,) = entries_in(shell.said(CLIENT))
    shell.wait(3.5)
    renewed = entries_in(shell.said(CLIENT))
    assert [type(entry) for entry in renewed] == [Renewal] * 3
    assert [told.version, *(entry.version for entry in renewed)] == sorted(
        {told.version, *(entry.version for entry in renewed)}
    )
    assert all(entry.life == 3_000 for entry in renewed)
    assert shell.deliveries == [Delivery("k", "v", Change.NEW)]


def test_a_tuple_of_ours_outlives_a_stall_that_is_longer_than_its_life() -> None:
    shell = Shell()
    shell.publish(b"k", b"v", ttl=3.0)
    shell.stall(100.0)
    assert shell.tuples == {b"k": b"v"}
    assert shell.deliveries == [Delivery("k", "v", Change.NEW)]


def test_a_tuple_that_is_not_to_be_refreshed_expires_once() -> None:
    shell = Shell()
    shell.feed(shell.node.publish(b"k", b"v", 3.0, 0.0, refresh=False))
    shell.wait(2.9)
    assert shell.tuples == {b"k": b"v"}
    shell.wait(1.0)
    assert shell.deliveries == [Delivery("k", "v", Change.NEW), Delivery("k", None, Change.EXPIRED)]
    assert shell.node.status.tombstones == 1


@pytest.mark.parametrize("wrong", [-1e9, -3_600.0, 0.0, 3_600.0])
def test_a_tuple_is_as_old_as_the_wall_clock_says_when_it_is_written(wrong: float) -> None:
    shell = Shell(epoch=EPOCH + wrong)
    # Somebody sets the clock right, or the machine slept.
    shell.epoch = EPOCH
    shell.befriend(CLIENT)
    shell.wait(0.5)
    shell.publish(b"k", b"v")
    said = shell.said(CLIENT)
    shell.unpublish(b"k")
    shell.publish(b"l", b"v", ttl=3.0)
    shell.wait(1.0)
    shell.leave()
    said += shell.said(CLIENT)
    counters = [entry.version.counter - 1000 * int(EPOCH) for entry in entries_in(said)]
    assert counters == [500, 501, 500, 1_500, 1_501]


def test_a_value_that_is_published_again_is_written_again_and_told_as_a_renewal() -> None:
    shell = Shell()
    shell.befriend(CLIENT)
    shell.welcome(OTHER_CLIENT)
    shell.publish(b"k", b"v")
    shell.hear(OTHER_CLIENT, Publish(b"k", b"v"))
    (first,) = entries_in(shell.said(CLIENT))
    shell.said(OTHER_CLIENT)
    shell.wait(1.0)
    shell.publish(b"k", b"v")
    (second,) = entries_in(shell.said(CLIENT))
    assert second == Renewal(b"k", Version(first.version.counter + 1_000, OURS.bytes), digest_of(b"v"))
    assert shell.deliveries == [Delivery("k", "v", Change.NEW)]
    # That goes round once: real nodes are told nothing, and what they say again is no news.
    shell.hear(OTHER_CLIENT, Publish(b"k", b"v"))
    shell.wait(10.0)
    assert not shell.said(OTHER_CLIENT)
    assert not entries_in(shell.said(CLIENT))


@pytest.mark.parametrize("ttl", [None, 60.0])
def test_a_value_that_was_published_last_wins_though_its_node_held_it_already(ttl: float | None) -> None:
    net = Net([Shell(id=UUID(int=number)) for number in (1, 2)])
    one, other = net.shells
    one.publish(b"k", b"v")
    net.run(0.5)
    other.publish(b"k", b"w")
    net.run(0.5)
    one.publish(b"k", b"v", ttl=ttl)
    net.connect(0, 1)
    net.run(1.0)
    assert one.tuples == other.tuples == {b"k": b"v"}


@pytest.mark.parametrize("value", [b"v", b"w"])
def test_who_publishes_a_tuple_of_ours_for_ever_ends_its_refreshing(value: bytes) -> None:
    shell = Shell()
    shell.publish(b"k", b"v", ttl=3.0)
    shell.publish(b"k", value)
    assert shell.node.next == inf
    shell.leave()
    assert shell.tuples == {b"k": value}


@pytest.mark.parametrize("seconds", [0.1, 1.5])
@pytest.mark.parametrize("value", [b"theirs", b"v", None])
def test_what_another_node_wrote_since_is_neither_refreshed_nor_taken_back(value: bytes | None, seconds: float) -> None:
    shell = Shell()
    shell.befriend(CLIENT)
    shell.publish(b"k", b"v", ttl=3.0)
    shell.hear(CLIENT, Ping(tuples(Entry(b"k", LATER, value))))
    shell.wait(seconds)
    shell.leave()
    assert shell.tuples == ({} if value is None else {b"k": value})
    assert not entries_in(shell.said(CLIENT))


def test_what_a_real_node_wrote_since_is_neither_refreshed_nor_taken_back() -> None:
    shell = Shell()
    shell.welcome(CLIENT)
    shell.publish(b"k", b"v", ttl=3.0)
    shell.hear(CLIENT, Publish(b"k", b"v"))
    shell.wait(0.5)
    shell.hear(CLIENT, Publish(b"k", b"real"))
    shell.wait(20.0)
    shell.leave()
    assert shell.tuples == {b"k": b"real"}


@pytest.mark.parametrize("value", [b"w", None])
def test_what_an_earlier_life_of_ours_wrote_is_not_ours(value: bytes | None) -> None:
    shell = Shell()
    shell.befriend(CLIENT)
    shell.publish(b"k", b"v", ttl=3.0)
    shell.hear(CLIENT, Ping(tuples(Entry(b"k", Version(LATER.counter, OURS.bytes), value))))
    shell.wait(2.0)
    assert shell.tuples == ({} if value is None else {b"k": value})
    shell.publish(b"k", b"v", ttl=3.0)
    shell.wait(2.0)
    assert shell.tuples == {b"k": b"v"}


def test_a_tuple_of_ours_for_which_there_is_no_room_is_written_once_there_is() -> None:
    shell = Shell(GossipConfig(max_tuples=1))
    shell.befriend(CLIENT)
    shell.publish(b"other", b"v")
    shell.publish(b"mine", b"v", ttl=3.0)
    shell.wait(2.5)
    assert shell.tuples == {b"other": b"v"}
    assert shell.drops == {Drop.TABLE_FULL: 3}
    shell.unpublish(b"other")
    shell.said(CLIENT)
    shell.wait(1.0)
    assert shell.tuples == {b"mine": b"v"}
    shell.wait(10.0)
    assert [entry.key for entry in entries_in(shell.said(CLIENT))] == [b"mine"] * 11
    shell.leave()
    assert shell.tuples == {}


@pytest.mark.parametrize("value", [b"v", b"w", None])
def test_what_another_node_wrote_since_there_was_no_room_for_ours_stays(value: bytes | None) -> None:
    shell = Shell(GossipConfig(max_tuples=1, max_tombstones=1))
    shell.befriend(CLIENT)
    shell.publish(b"other", b"v")
    shell.publish(b"mine", b"v", ttl=3.0)
    shell.hear(CLIENT, Ping(tuples(Entry(b"mine", LATER, value))))
    shell.unpublish(b"other")
    shell.wait(10.0)
    shell.leave()
    assert shell.tuples == {}
    assert not shell.node._own


@pytest.mark.parametrize("again", [None, 3.0])
def test_a_tuple_for_which_there_was_no_room_can_be_taken_back_and_published_anew(again: float | None) -> None:
    shell = Shell(GossipConfig(max_tuples=1))
    shell.publish(b"other", b"v")
    shell.publish(b"mine", b"v", ttl=3.0)
    shell.unpublish(b"mine")
    shell.publish(b"late", b"v", ttl=3.0)
    shell.publish(b"late", b"w", ttl=again)
    shell.unpublish(b"other")
    shell.wait(10.0)
    assert shell.tuples == ({} if again is None else {b"late": b"w"})


def test_leaving_takes_back_what_is_ours_and_nothing_else() -> None:
    shell = Shell()
    shell.befriend(CLIENT)
    shell.publish(b"ever", b"v")
    for key in (b"a", b"b"):
        shell.publish(key, b"v", ttl=3.0)
    shell.said(CLIENT)
    shell.leave()
    assert shell.tuples == {b"ever": b"v"}
    assert [(entry.key, isinstance(entry, Entry) and entry.value) for entry in entries_in(shell.said(CLIENT))] == [
        (b"a", None),
        (b"b", None),
    ]
    shell.wait(100.0)
    assert shell.tuples == {b"ever": b"v"}


# -- what was deleted -----------------------------------------------------------------------------


def test_others_are_told_of_every_key_that_is_deleted_though_there_is_no_room_for_its_tombstone() -> None:
    shell = Shell(GossipConfig(max_tombstones=3))
    shell.befriend(CLIENT)
    for number in range(10):
        shell.publish(b"%d" % number, b"v", ttl=30.0)
    shell.said(CLIENT)
    shell.leave()
    assert {entry.key for entry in entries_in(shell.said(CLIENT))} == {b"%d" % number for number in range(10)}
    assert shell.node.status.tombstones == 3


@pytest.mark.parametrize("link", [CLIENT, 1])
def test_a_tombstone_of_a_key_that_nobody_has_is_kept_and_not_told_on(link: Link) -> None:
    shell = Shell()
    shell.befriend(link)
    shell.befriend(OTHER_CLIENT, UUID(int=7))
    shell.hear(link, carried(link, tuples(Entry(b"k", Version(1, OTHER.bytes), None, 5_000))))
    assert shell.node.status.tombstones == 1
    assert not shell.sent
    # But a later one is: who had the value may have got the first one not.
    shell.hear(link, carried(link, tuples(Entry(b"k", Version(2, OTHER.bytes), None, 5_000))))
    assert [entry.version.counter for entry in entries_in(shell.said(OTHER_CLIENT))] == [2]


def test_a_tombstone_at_the_end_of_its_life_does_not_go_round_in_a_circle() -> None:
    net = Net.ring(4, GossipConfig())
    net.run(1.0)
    first = net.shells[0]
    first.befriend(b"outside")
    first.hear(b"outside", Ping(tuples(Entry(b"k", LATER, None, 5))))
    net.run(3.0)
    assert net.entries <= 8
    assert not any(shell.node.status.tombstones for shell in net.shells)


def test_more_tombstones_than_there_is_room_for_do_not_go_round_in_a_circle() -> None:
    net = Net.ring(4, GossipConfig(max_tombstones=3))
    net.run(1.0)
    for number in range(20):
        net.shells[0].publish(b"%d" % number, b"v", ttl=300.0)
    net.run(1.0)
    assert net.are_equal()
    for number in range(20):
        net.shells[0].unpublish(b"%d" % number)
    net.run(1.0)
    assert [shell.tuples for shell in net.shells] == [{}] * 4
    net.entries = 0
    net.run(3.0)
    assert net.entries == 0


# -- who asks for too much ------------------------------------------------------------------------


def stocked(tuples: int, value: bytes = b"v" * 50) -> Shell:
    shell = Shell()
    for number in range(tuples):
        shell.publish(b"%d" % number, value)
    shell.befriend(CLIENT)
    shell.sent_frames = shell.sent_bytes = 0
    return shell


def test_a_key_that_is_wanted_often_at_once_is_told_once() -> None:
    shell = stocked(3, value=b"v" * 100_000)
    told = shell.hear(CLIENT, Ping(Wants((b"1", b"unknown", b"2") * 50_000)))
    assert [entry.key for entry in entries_in(told)] == [b"1", b"2"]


@pytest.mark.parametrize(
    "trailer", [Sums((0,) * BUCKETS), Summary(ALL, ()), Wants(tuple(b"%d" % number for number in range(2_000)))]
)
def test_who_asks_for_everything_a_hundred_times_in_one_step_gets_it_a_few_times(trailer: Trailer) -> None:
    shell = stocked(2_000)
    shell.hear(CLIENT, Ping(trailer))
    once = shell.sent_bytes
    assert once > 2_000 * 20
    shell.hear(CLIENT, *[Ping(trailer)] * 100)
    assert shell.sent_bytes - once <= 12 * once
    assert shell.drops[Drop.UNEXPECTED_GOSSIP] > 80
    # Others are not held up by that, nor is it later.
    assert shell.hear(OTHER_CLIENT, Ping(Greeting(UUID(int=7), 0, 0)), Ping(trailer))
    shell.wait(shell.config.digest_interval)
    assert shell.hear(CLIENT, Ping(trailer))


@pytest.mark.parametrize("trailer", [Summary(ALL, ()), Wants((b"0", b"1", b"2", b"3"))])
@pytest.mark.parametrize("seconds", [0.0, 0.001])
@pytest.mark.parametrize("link", [CLIENT, 1])
def test_who_asks_for_a_few_large_values_again_and_again_gets_them_a_few_times(
    link: Link, seconds: float, trailer: Trailer
) -> None:
    # 35 bytes ask for a MiB, which waits here as long as they do not read it.
    shell = stocked(4, value=b"v" * (1 << 18))
    shell.befriend(link)
    shell.sent_bytes = 0
    for _ in range(64):
        shell.hear(link, *[carried(link, trailer)] * 8)
        shell.wait(seconds)
    assert 4 << 18 < shell.sent_bytes < 6 << 20
    assert shell.drops[Drop.UNEXPECTED_GOSSIP] > 500
    shell.wait(shell.config.digest_interval)
    shell.befriend(link)
    assert len(entries_in(shell.hear(link, carried(link, trailer)))) == 4


def test_all_large_values_are_told_at_once_to_who_has_none_of_them() -> None:
    shell = stocked(40, value=b"v" * (1 << 20))
    wants = (Ping(Wants((b"%d" % number,))) for number in range(40))
    assert len(entries_in(shell.hear(CLIENT, *wants))) == 40
    assert not shell.drops


@pytest.mark.parametrize("trailer", [Sums((0,) * BUCKETS), Summary(ALL, ()), Wants((b"0", b"1"))])
def test_who_has_not_greeted_us_is_told_to_do_so_and_nothing_else(trailer: Trailer) -> None:
    shell = stocked(2)
    assert shell.hear(OTHER_CLIENT, Ping(trailer)) == [Invalid()]


def test_all_of_a_large_store_is_told_in_one_step_to_who_has_nothing() -> None:
    shell = stocked(20_000, value=b"")
    told = shell.hear(CLIENT, *(Ping(Summary(frozenset({bucket}), ())) for bucket in range(BUCKETS)))
    assert len(entries_in(told)) == 20_000
    assert not shell.drops


def test_a_part_that_fits_into_no_frame_is_compared_all_the_same() -> None:
    # Keys that an evil node has chosen so that all belong to one part.
    candidates = ((b"%d" % number).rjust(KEY_LIMIT, b"-") for number in count())
    chosen = list(islice((key for key in candidates if bucket_of(key) == 3), 400))
    net = Net([Shell(id=OURS), Shell(id=OTHER)])
    for number, key in enumerate(chosen):
        net.shells[number % 2].publish(key, b"v")
    net.connect(0, 1)
    net.run(1.0)
    assert net.are_equal()
    assert len(net.shells[0].tuples) == len(chosen)
    # Each lacked half of them, and was told these once.
    assert net.tuples == len(chosen)


# -- another configuration ------------------------------------------------------------------------


def test_a_new_configuration_is_used_from_then_on() -> None:
    shell = Shell()
    shell.welcome(CLIENT)
    shell.befriend(1)
    changed = evolve(
        shell.config, max_tuples=2, max_tombstones=1, damping_burst=1, damping_interval=10.0, greeting_interval=1.0
    )
    shell.node.tune(changed)
    shell.wait(10.0)
    shell.said(1)
    shell.wait(2.9)
    assert len(shell.said(1)) in (2, 3)
    for number in range(3):
        shell.publish(b"%d" % number, b"v")
    assert set(shell.tuples) == {b"0", b"1"}
    for number in range(3):
        shell.unpublish(b"%d" % number)
    assert shell.node.status.tombstones == 1
    shell.wait(5.0)
    for value in (b"a", b"b", b"c"):
        shell.hear(CLIENT, Publish(b"0", value))
        shell.wait(1.0)
    assert shell.tuples == {b"0": b"a"}
    shell.wait(9.0)
    assert shell.tuples == {b"0": b"c"}


@pytest.mark.parametrize(
    ("before", "after", "ends"),
    [(0.0, 1.0, 1.5), (1_000.0, 1.0, 1.5), (10.0, 5.0, 5.0), (1.0, 3.0, 3.0), (1.0, 0.0, inf)],
)
def test_clients_that_are_silent_already_are_forgotten_by_the_new_timeout(
    before: float, after: float, ends: float
) -> None:
    shell = Shell(GossipConfig(client_timeout=before))
    shell.welcome(CLIENT)
    shell.befriend(OTHER_CLIENT)
    shell.until(0.5)
    if before != 1.0:
        # It may have been silent for longer than that by now.
        shell.until(1.5)
    shell.node.tune(evolve(shell.config, client_timeout=after))
    for at in (1.5, 2.9, 3.1, 4.9, 5.1, 20_000.0):
        shell.until(max(at, shell.now))
        assert shell.node.status.clients == (2 if at < ends else 1)


# -- remotes: we are their client -----------------------------------------------------------------


def greeting(shell: Shell) -> Greeting:
    """What it says of itself at the moment."""
    (pong,) = shell.hear(b"asks", Ping(Greeting(UUID(int=99), 0, 0)))
    assert isinstance(pong, Pong)
    assert isinstance(pong.trailer, Greeting)
    shell.feed(shell.node.unreachable(b"asks", shell.now))
    return pong.trailer


def test_a_remote_is_greeted_in_a_way_that_both_kinds_understand() -> None:
    shell = Shell()
    shell.publish(b"k", b"v")
    own = greeting(shell)
    assert own.id == OURS
    assert own.count == 1
    assert shell.up(1) == [Hello(own), Ping(own)]
    assert shell.node.status.remotes == 0


def test_a_remote_of_which_nothing_is_known_is_told_nothing_but_who_we_are() -> None:
    shell = Shell()
    shell.publish(b"k", b"v", ttl=3.0)
    own = {type(message) for message in shell.up(1)}
    shell.wait(60.0)
    assert own | {type(message) for message in shell.said(1)} == {Hello, Ping}


def test_a_remote_of_our_kind_is_compared_with_once_and_then_told_what_is_new() -> None:
    shell = Shell()
    shell.publish(b"k", b"v")
    shell.up(1)
    told = shell.hear(1, Pong(Greeting(OTHER, 1, 1)), Pong(Greeting(OTHER, 1, 1)))
    assert [type(message.trailer) for message in told if isinstance(message, Ping)] == [Sums]
    assert shell.node.status.remotes == 1
    shell.publish(b"l", b"w")
    (message,) = shell.said(1)
    (entry,) = entries_in([message])
    assert (entry.key, entry.version.owner) == (b"l", OURS.bytes)


def test_a_remote_that_holds_the_same_is_not_compared_with() -> None:
    shell = Shell()
    shell.publish(b"k", b"v")
    own = greeting(shell)
    shell.up(1)
    assert shell.hear(1, Pong(Greeting(OTHER, own.sum, own.count))) == []


def test_stores_that_stay_different_are_compared_at_every_digest_interval() -> None:
    shell = Shell(GossipConfig(greeting_interval=1.0, digest_interval=10.0))
    shell.befriend(1)
    compared = []
    while shell.now < 35.0:
        shell.wait(1.0)
        told = shell.hear(1, Pong(Greeting(OTHER, 1, 1)))
        compared += [shell.now for message in told if isinstance(message, Ping) and isinstance(message.trailer, Sums)]
    assert [round(at) for at in compared] == [1, 11, 21, 31]


def test_a_real_remote_is_told_what_it_lacks_when_it_has_told_what_it_holds() -> None:
    shell = Shell()
    for key in (b"a", b"b"):
        shell.publish(key, b"v")
    shell.up(1)
    assert shell.hear(1, Publish(b"a", b"v"), Publish(b"c", b"v")) == []
    assert shell.hear(1, Pong()) == [Publish(b"b", b"v")]
    shell.wait(0.1)
    assert shell.tuples == {b"a": b"v", b"b": b"v", b"c": b"v"}


def test_a_real_remote_is_pinged_so_often_that_it_does_not_forget_us() -> None:
    shell = Shell()
    shell.welcome(1)
    pings = 0
    for _ in range(100):
        shell.wait(0.1)
        for message in shell.said(1):
            # A real one has no use for more.
            assert message == Ping()
            shell.hear(1, Pong())
            pings += 1
    assert 30 <= pings <= 36


def test_a_real_remote_whose_answers_were_late_is_greeted_anew_for_it_may_have_forgotten_us() -> None:
    shell = Shell()
    shell.welcome(1)
    shell.publish(b"k", b"v")
    shell.hear(1, Publish(b"k", b"v"))
    shell.wait(1.5)
    shell.said(1)
    own = greeting(shell)
    assert shell.hear(1, Pong()) == [Invalid(), Hello(own), Ping(own)]


@pytest.mark.parametrize("kind", [Pong(), Pong(Greeting(OTHER, 0, 0))])
def test_a_remote_that_does_not_know_us_is_greeted_again_and_told_all_that_it_lacks(kind: Pong) -> None:
    shell = Shell()
    shell.up(1)
    shell.hear(1, kind)
    shell.publish(b"k", b"v")
    if kind == Pong():
        shell.hear(1, Publish(b"k", b"v"))
    shell.said(1)
    own = greeting(shell)
    told = shell.hear(1, Invalid())
    # A real one answers HELLO only if it does not know us for certain.
    assert told == ([Invalid()] if kind == Pong() else []) + [Hello(own), Ping(own)]
    # It tells what it holds, here nothing, then answers the ping.
    told = shell.hear(1, kind)
    shell.wait(1.0)
    told += shell.said(1)
    if kind == Pong():
        assert Publish(b"k", b"v") in told
    else:
        assert isinstance(told[0], Ping)
        assert isinstance(told[0].trailer, Sums)


def test_what_behind_an_endpoint_is_another_kind_now_is_spoken_to_as_such() -> None:
    shell = Shell()
    shell.welcome(1)
    shell.hear(1, Pong(Greeting(OTHER, 0, 0)))
    shell.publish(b"k", b"v")
    assert entries_in(shell.said(1))
    shell.hear(1, Pong())
    shell.publish(b"l", b"v")
    assert Publish(b"l", b"v") in shell.said(1)


def test_nothing_of_a_connection_that_has_ended_is_believed() -> None:
    shell = Shell()
    shell.welcome(1)
    shell.feed(shell.node.down(1, shell.now))
    for link in (1, 2):
        assert shell.hear(link, Publish(b"k", b"v"), Pong(Greeting(OTHER, 1, 1)), Invalid(), Pong()) == []
    shell.wait(60.0)
    assert (shell.sent, shell.tuples, shell.drops) == ([], {}, {Drop.UNEXPECTED_GOSSIP: 8})


def test_a_remote_that_is_forgotten_is_not_spoken_to() -> None:
    shell = Shell()
    for link, make in ((1, shell.welcome), (2, shell.befriend)):
        make(link)
        shell.full_for(link, Ping(tuples(Entry(b"k", LATER, b"v"))))
        shell.feed(shell.node.forget(link, shell.now))
    shell.feed(shell.node.forget(3, shell.now))
    shell.publish(b"k", b"v")
    shell.wait(60.0)
    assert shell.sent == []
    assert shell.node.status.remotes == 0


def is_settled(shell: Shell) -> bool:
    return shell.node.is_settled


def test_remotes_that_are_asked_say_what_they_hold_and_so_show_when_all_hold_the_same() -> None:
    shell = Shell()
    assert is_settled(shell)
    shell.befriend(1)
    shell.welcome(2)
    shell.publish(b"k", b"v")
    assert not is_settled(shell)
    shell.hear(2, Publish(b"k", b"v"))
    shell.wait(CONFIG.pace_interval + 0.01)
    assert not is_settled(shell)
    own = greeting(shell)
    shell.said(1)
    shell.said(2)
    shell.feed(shell.node.ask(shell.now))
    assert (shell.said(1), shell.said(2)) == ([Ping(own)], [])
    shell.hear(1, Pong(Greeting(OTHER, own.sum, own.count)))
    assert is_settled(shell)
    shell.feed(shell.node.down(1, shell.now))
    assert not is_settled(shell)


def test_who_turned_out_to_be_a_real_node_is_not_compared_with() -> None:
    shell = Shell()
    shell.befriend(CLIENT)
    shell.full_for(CLIENT, Pong(tuples(Entry(b"k", LATER, b"v"))))
    shell.hear(CLIENT, Hello())
    shell.wait(10.0)
    assert shell.said(CLIENT) == []


# -- silence --------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_real", [True, False])
def test_a_remote_that_answers_nothing_is_connected_anew(is_real: bool) -> None:
    shell = Shell()
    (shell.welcome if is_real else shell.befriend)(1)
    shell.wait(14.9)
    assert shell.reconnected == []
    shell.wait(6.0)
    assert shell.reconnected == [1]
    # Until then nothing is said to it.
    shell.said(1)
    shell.publish(b"k", b"v")
    shell.wait(60.0)
    assert (shell.said(1), shell.reconnected) == ([], [1])
    assert shell.up(1)
    shell.wait(60.0)
    assert shell.reconnected == [1, 1]


def test_a_remote_that_never_answered_is_connected_anew_too() -> None:
    shell = Shell()
    shell.up(1)
    shell.wait(20.0)
    assert shell.reconnected == [1]


@pytest.mark.parametrize("seconds", [16.0, 600.0])
@pytest.mark.parametrize("is_real", [True, False])
def test_a_stall_of_our_own_does_not_make_a_remote_look_dead(seconds: float, is_real: bool) -> None:
    shell = Shell()
    (shell.welcome if is_real else shell.befriend)(1)
    answer = Pong() if is_real else Pong(Greeting(OTHER, 0, 0))
    # Two pings are on their way.
    shell.wait(0.65 if is_real else 5.5)
    assert len(shell.said(1)) >= 1
    shell.stall(seconds)
    shell.wait(0.01)
    assert shell.reconnected == []
    shell.hear(1, answer)
    shell.wait(5.0)
    assert shell.reconnected == []


# -- clients: they connected to us ----------------------------------------------------------------


def test_a_client_of_our_kind_is_answered_with_a_greeting() -> None:
    shell = Shell()
    shell.publish(b"k", b"v")
    own = greeting(shell)
    assert shell.hear(CLIENT, Hello(Greeting(OTHER, 1, 1)), Ping(Greeting(OTHER, 1, 1))) == [Pong(own), Pong(own)]
    assert shell.node.status.clients == 1
    shell.publish(b"l", b"w")
    assert [entry.key for entry in entries_in(shell.said(CLIENT))] == [b"l"]


def test_each_hello_is_answered_with_all_tuples() -> None:
    shell = Shell()
    for key in (b"a", b"b"):
        shell.publish(key, b"v")
    for _ in range(3):
        assert shell.hear(CLIENT, Hello()) == []
        shell.wait(5.0)
        assert shell.said(CLIENT) == [Publish(b"a", b"v"), Publish(b"b", b"v")]


def test_a_client_is_not_told_what_it_has_just_told() -> None:
    shell = Shell()
    for key in (b"a", b"b"):
        shell.publish(key, b"v")
    shell.hear(CLIENT, Hello(), Publish(b"b", b"v"), Publish(b"c", b"w"))
    shell.wait(1.0)
    assert shell.said(CLIENT) == [Publish(b"a", b"v")]
    assert shell.tuples == {b"a": b"v", b"b": b"v", b"c": b"w"}


def test_a_ping_is_answered_whoever_asks() -> None:
    shell = Shell()
    assert shell.hear(CLIENT, Ping()) == [Pong()]
    assert shell.node.status.clients == 0
    shell.hear(CLIENT, Hello())
    assert shell.hear(CLIENT, Ping(), Ping()) == [Pong(), Pong()]


def test_what_an_unknown_client_publishes_is_kept() -> None:
    shell = Shell()
    shell.befriend(OTHER_CLIENT)
    shell.hear(CLIENT, Publish(b"k", b"v"))
    shell.wait(1.0)
    assert shell.tuples == {b"k": b"v"}
    assert [entry.key for entry in entries_in(shell.said(OTHER_CLIENT))] == [b"k"]
    # And it is told what others publish.
    shell.said(CLIENT)
    shell.publish(b"l", b"w")
    shell.wait(1.0)
    assert Publish(b"l", b"w") in shell.said(CLIENT)


def test_a_client_of_our_kind_that_we_have_forgotten_is_told_so_and_what_it_brings_is_kept() -> None:
    shell = Shell()
    told = shell.hear(CLIENT, Ping(tuples(Entry(b"k", LATER, b"v"))))
    assert told == [Invalid()]
    assert shell.tuples == {b"k": b"v"}
    assert shell.node.status.clients == 0


def test_silent_clients_are_kept_unless_it_is_configured_otherwise() -> None:
    shell = Shell()
    shell.welcome(CLIENT)
    shell.wait(3_600.0)
    assert shell.node.status.clients == 1
    shell.publish(b"k", b"v")
    assert shell.said(CLIENT) == [Publish(b"k", b"v")]


def test_silent_real_clients_are_forgotten_after_the_time_that_is_configured() -> None:
    shell = Shell(GossipConfig(client_timeout=2.0))
    shell.welcome(CLIENT)
    shell.befriend(OTHER_CLIENT)
    for _ in range(5):
        shell.wait(1.9)
        shell.hear(CLIENT, Ping())
    assert shell.node.status.clients == 2
    shell.wait(2.1)
    assert shell.node.status.clients == 1
    shell.publish(b"k", b"v")
    shell.wait(5.0)
    assert not [message for message in shell.said(CLIENT) if isinstance(message, Publish)]
    # One of our kind greets by itself, and need not be watched.
    assert entries_in(shell.said(OTHER_CLIENT))


@pytest.mark.parametrize("message", [Pong(), Invalid(), Pong(Greeting(OTHER, 1, 1))])
def test_what_only_a_server_says_is_not_believed_of_a_client(message: GossipMessage) -> None:
    shell = Shell()
    assert shell.hear(CLIENT, message) == []
    assert shell.drops == {Drop.UNEXPECTED_GOSSIP: 1}
    assert shell.node.status.clients == 0


@pytest.mark.parametrize("message", [Hello(), Ping(), Hello(Greeting(OTHER, 1, 1)), Ping(Greeting(OTHER, 1, 1))])
def test_what_only_a_client_says_is_not_believed_of_a_remote(message: GossipMessage) -> None:
    shell = Shell()
    shell.befriend(1)
    assert shell.hear(1, message) == []
    assert shell.drops == {Drop.UNEXPECTED_GOSSIP: 1}


@pytest.mark.parametrize("link", [1, CLIENT])
def test_damaged_frames_are_counted_and_change_nothing(link: Link) -> None:
    shell = Shell()
    shell.befriend(link)
    before = greeting(shell)
    frames = [b"", b"\xaa", b"\xaa\xa0\x02\x01\x05k", encode(Ping(Wants((b"k",))))[:-1], b"\xaa\xa0\x09\x01"]
    assert shell.hear_frames(link, *frames) == []
    assert shell.drops == {Drop.MALFORMED_GOSSIP: 5}
    assert greeting(shell) == before


def test_an_unknown_client_that_sends_damaged_frames_leaves_nothing_behind() -> None:
    shell = Shell()
    for number in range(1_000):
        shell.hear_frames(b"client %d" % number, b"\xaa\xa0\x09\x01")
    assert not shell.node._talks


# -- itself ---------------------------------------------------------------------------------------


def test_a_node_that_is_connected_to_itself_says_nothing_more_to_itself() -> None:
    net = Net([Shell()])
    net.connect(0, 0)
    net.run(1.0)
    (shell,) = net.shells
    assert (shell.node.status.remotes, shell.node.status.clients) == (0, 0)
    before = shell.sent_frames
    for number in range(20):
        shell.publish(b"%d" % number, b"v", ttl=30.0)
    net.run(60.0)
    # A greeting and its answer at every greeting_interval.
    assert shell.sent_frames - before <= 2 * 60 / shell.config.greeting_interval + 2
    assert shell.reconnected == []
    assert shell.node.is_settled


# -- queues that are full, connections that end -----------------------------------------------------


@pytest.mark.parametrize("link", [1, CLIENT])
def test_one_of_our_kind_whose_queue_was_full_is_compared_with_later(link: Link) -> None:
    shell = Shell()
    shell.befriend(link)
    shell.full.add(link)
    for number in range(10):
        shell.publish(b"%d" % number, b"v")
    shell.full.clear()
    assert shell.drops[Drop.GOSSIP_QUEUE_FULL] == 10
    shell.wait(shell.config.echo_timeout + 0.1)
    carried_sums = [
        message
        for message in shell.said(link)
        if isinstance(message, Ping | Pong) and isinstance(message.trailer, Sums)
    ]
    assert len(carried_sums) == 1


@pytest.mark.parametrize("link", [1, CLIENT])
def test_a_real_node_whose_queue_was_full_is_told_later(link: Link) -> None:
    shell = Shell()
    shell.welcome(link)
    shell.full.add(link)
    shell.publish(b"k", b"v")
    shell.wait(5.0)
    # Tried now and then, not without end.
    assert 1 <= shell.drops[Drop.GOSSIP_QUEUE_FULL] <= 25
    shell.full.clear()
    shell.wait(shell.config.echo_timeout + 0.1)
    assert Publish(b"k", b"v") in shell.said(link)


def test_a_client_whose_connection_has_ended_is_forgotten_with_all_that_was_kept_for_it() -> None:
    shell = Shell(GossipConfig(client_timeout=5.0))
    shell.publish(b"k", b"v")
    for number in range(100):
        link = b"client %d" % number
        shell.hear(link, Hello(), Publish(b"k", b"v"))
        shell.gone.add(link)
    shell.publish(b"l", b"w")
    shell.wait(20.0)
    assert shell.node.status.clients == 0
    assert not shell.node._talks
    assert shell.node._classics.is_settled
    assert shell.node.next == inf


def test_news_of_clients_that_nobody_knows_are_borne() -> None:
    shell = Shell()
    shell.feed(shell.node.unreachable(CLIENT, 0.0))
    shell.feed(shell.node.down(1, 0.0))
    shell.full_for(CLIENT, Publish(b"k", b"v"), Pong(tuples(Entry(b"k", LATER, b"v"))))
    shell.full_for(1, Publish(b"k", b"v"), Hello(), Ping())
    shell.wait(60.0)
    assert shell.sent == []


# -- what is told ---------------------------------------------------------------------------------


def test_each_change_is_told_to_the_user_once() -> None:
    shell = Shell()
    shell.befriend(CLIENT)
    shell.publish(b"k", b"v")
    shell.publish(b"k", b"v", ttl=30.0)
    shell.hear(CLIENT, Ping(tuples(Entry(b"k", LATER, b"w"), Entry(b"k", LATER, b"w"))))
    shell.hear(CLIENT, Ping(tuples(Entry(b"k", Version(2**42 + 1, OTHER.bytes), b"w"))))
    shell.unpublish(b"k")
    shell.unpublish(b"k")
    shell.publish(b"\xff", b"\xfe")
    assert shell.deliveries == [
        Delivery("k", "v", Change.NEW),
        Delivery("k", "w", Change.CHANGED),
        Delivery("k", None, Change.REMOVED),
        Delivery("\udcff", "\udcfe", Change.NEW),
    ]


def test_of_a_key_that_changes_often_in_one_input_others_are_told_the_last_value() -> None:
    shell = Shell()
    shell.befriend(CLIENT)
    shell.befriend(1, UUID(int=7))
    versions = [Version(2**42 + number, OTHER.bytes) for number in range(10)]
    shell.hear(CLIENT, *(Ping(tuples(Entry(b"k", version, b"%d" % version.counter))) for version in versions))
    (told,) = entries_in(shell.said(1))
    former = tuple(digest_of(b"%d" % version.counter) for version in versions[-2:-6:-1])
    assert told == Entry(b"k", versions[-1], b"%d" % versions[-1].counter, 0, former)
    assert not shell.said(CLIENT)
    assert len(shell.deliveries) == 10


def test_who_also_tells_what_is_news_is_not_told_it() -> None:
    shell = Shell()
    names = (b"a", b"b", b"c")
    for number, name in enumerate(names):
        shell.befriend(name, UUID(int=number + 1))
    frame = encode(Ping(tuples(Entry(b"k", LATER, b"v"))))
    shell.feed(shell.node.received([(b"a", frame), (b"b", frame)], shell.now))
    assert {link for link, _ in shell.sent} == {b"c"}


@pytest.mark.parametrize("link", [1, CLIENT])
def test_who_has_not_the_value_that_is_renewed_wants_the_entry(link: Link) -> None:
    shell = Shell()
    shell.befriend(link)
    shell.hear(link, carried(link, tuples(Entry(b"old", LATER, b"v", 5_000))))
    later = Version(2**42 + 1, OTHER.bytes)
    told = shell.hear(
        link,
        carried(
            link,
            tuples(
                Renewal(b"old", later, digest_of(b"v"), 60_000),
                Renewal(b"other", later, digest_of(b"v"), 60_000),
                Renewal(b"old", LATER, digest_of(b"w"), 60_000),
            ),
        ),
    )
    assert told == [(Ping if isinstance(link, int) else Pong)(Wants((b"other",)))]
    shell.wait(59.0)
    assert shell.tuples == {b"old": b"v"}
    assert len(shell.deliveries) == 1


@pytest.mark.parametrize("link", [1, CLIENT])
def test_wants_are_answered_with_what_there_is(link: Link) -> None:
    shell = Shell()
    shell.publish(b"k", b"v")
    shell.publish(b"gone", b"v")
    shell.unpublish(b"gone")
    shell.befriend(link)
    told = shell.hear(link, carried(link, Wants((b"k", b"gone", b"unknown"))))
    assert [(entry.key, isinstance(entry, Entry) and entry.value) for entry in entries_in(told)] == [
        (b"k", b"v"),
        (b"gone", None),
    ]


# -- networks of our kind -------------------------------------------------------------------------

networks = st.integers(2, 6).flatmap(
    lambda size: st.tuples(
        st.just(size),
        # Nobody is left alone, and there may be more, to oneself too.
        st.tuples(*(st.integers(0, number - 1) for number in range(1, size))),
        st.lists(st.tuples(st.integers(0, size - 1), st.integers(0, size - 1)), max_size=4),
    )
)


def network(shape: tuple[int, tuple[int, ...], list[tuple[int, int]]], config: GossipConfig | None = None) -> Net:
    size, parents, others = shape
    net = Net([Shell(config or GossipConfig(), UUID(int=number + 1)) for number in range(size)])
    for number, parent in enumerate(parents):
        net.connect(number + 1, parent)
    for one, other in others:
        net.connect(one, other)
    net.run(1.0)
    return net


@settings(max_examples=30)
@given(networks, st.data())
def test_one_change_makes_at_most_two_messages_for_each_connection(
    shape: tuple[int, tuple[int, ...], list[tuple[int, int]]], data: st.DataObject
) -> None:
    net = network(shape)
    writer = net.shells[data.draw(st.integers(0, shape[0] - 1))]
    for value in (b"v", b"w", None):
        net.entries = 0
        if value is None:
            writer.unpublish(b"k")
        else:
            writer.publish(b"k", value)
        net.run(1.0)
        assert net.are_equal()
        assert net.entries <= 2 * (len(shape[1]) + len(shape[2]))


operations = st.tuples(
    st.integers(0, 5),
    st.sampled_from([b"a", b"b"]),
    st.sampled_from([b"v", b"w", None]),
    st.none() | st.just(3.0),
    st.sampled_from([0.0, 0.01, 0.05]),
)


@settings(max_examples=40)
@given(networks, st.lists(operations, max_size=12))
def test_networks_agree_once_they_are_quiet_whoever_wrote_what_when(
    shape: tuple[int, tuple[int, ...], list[tuple[int, int]]],
    written: list[tuple[int, bytes, bytes | None, float | None, float]],
) -> None:
    net = network(shape)
    for number, key, value, ttl, pause in written:
        shell = net.shells[number % shape[0]]
        if value is None:
            shell.unpublish(key)
        else:
            shell.publish(key, value, ttl)
        if pause:
            net.run(pause)
    net.run(1.0)
    assert net.are_equal()
    for shell in net.shells:
        shell.leave()
    net.run(5.0)
    assert net.are_equal()
    assert all(not shell.drops for shell in net.shells)


@pytest.mark.parametrize("later", [0, 1])
@pytest.mark.parametrize("value", [b"later", None])
def test_of_two_that_meet_who_has_the_earlier_version_gets_the_later_one(later: int, value: bytes | None) -> None:
    net = Net([Shell(id=OURS), Shell(id=OTHER)])
    for shell in net.shells:
        shell.publish(b"k", b"v")
    net.shells[later].wait(0.5)
    if value is None:
        net.shells[later].unpublish(b"k")
    else:
        net.shells[later].publish(b"k", value)
    for shell in net.shells:
        shell.until(1.0)
    net.connect(0, 1)
    net.run(0.5)
    assert [shell.tuples for shell in net.shells] == [{} if value is None else {b"k": value}] * 2
    # Sums, a summary, and either the entry or the wish and the entry.
    assert net.entries == 1


@settings(max_examples=20)
@given(st.data())
def test_nodes_that_meet_with_different_stores_agree(data: st.DataObject) -> None:
    net = Net([Shell(id=UUID(int=number + 1)) for number in range(3)])
    for number, key, value, _, _ in data.draw(st.lists(operations, max_size=15)):
        shell = net.shells[number % 3]
        shell.now += 0.001
        if value is None:
            shell.unpublish(key)
        else:
            shell.publish(key, value)
    for shell in net.shells:
        shell.now = 1.0
    for client, server in data.draw(st.permutations([(0, 1), (1, 2), (2, 0)])):
        net.connect(client, server)
    net.run(1.0)
    # What was unknown to somebody in the middle may take a comparison more.
    net.run(GossipConfig().digest_interval + GossipConfig().greeting_interval)
    assert net.are_equal()


# -- hostile entries ------------------------------------------------------------------------------


YEARS = 365 * 24 * 3_600_000
"""In milliseconds."""


@pytest.mark.parametrize("ahead", [201 * YEARS, 2**63 - 1 - int(EPOCH) * 1_000])
@pytest.mark.parametrize("value", [b"evil", None])
def test_nobody_takes_a_key_for_ever(value: bytes | None, ahead: int) -> None:
    shell = Shell()
    shell.befriend(CLIENT)
    shell.publish(b"k", b"v")
    shell.said(CLIENT)
    version = Version(int(EPOCH) * 1_000 + ahead, b"\xff" * 16)
    told: list[Trailer] = [
        tuples(Entry(b"k", version, value)),
        tuples(Entry(b"l", version, value)),
        tuples(Renewal(b"k", version, digest_of(b"v"))),
        tuples(Renewal(b"l", version, digest_of(b"v"))),
        Summary(frozenset(), ((b"k", version), (b"l", version))),
    ]
    assert not shell.hear(CLIENT, *(Ping(trailer) for trailer in told))
    assert shell.tuples == {b"k": b"v"}
    assert shell.drops == {Drop.FUTURE_GOSSIP: 6}
    assert len(shell.node._store) == 1


@pytest.mark.parametrize("wrong", [0.0, -EPOCH])
@pytest.mark.parametrize("value", [b"evil", None])
def test_what_is_written_after_a_version_of_the_far_future_counts_at_all_nodes(
    value: bytes | None, wrong: float
) -> None:
    # A machine without a clock believes that it is 1970, and a version of our days is 50 years ahead.
    net = Net([Shell(id=UUID(int=number), epoch=EPOCH + wrong) for number in (1, 2)])
    net.connect(0, 1)
    net.run(1.0)
    one, other = net.shells
    far = Version(int((EPOCH + wrong) * 1_000) + 199 * YEARS, b"\xff" * 16)
    one.hear(b"evil", Ping(tuples(Entry(b"k", far, value))))
    net.run(1.0)
    one.publish(b"k", b"v")
    net.run(1.0)
    assert one.tuples == other.tuples == {b"k": b"v"}
    other.publish(b"k", b"w", ttl=1.0)
    net.run(2.5)
    assert one.tuples == other.tuples == {b"k": b"w"}
    one.unpublish(b"k")
    net.run(1.0)
    assert one.tuples == other.tuples == {}


def test_tombstones_with_long_lives_do_not_keep_others_out() -> None:
    shell = Shell(GossipConfig(max_tombstones=10, tombstone_time=60.0))
    shell.befriend(CLIENT)
    shell.publish(b"k", b"v")
    evil = [Entry(b"evil %d" % number, LATER, None, LONGEST_LIFE) for number in range(100)]
    shell.hear(CLIENT, Ping(tuples(*evil)))
    shell.wait(1.0)
    shell.said(CLIENT)
    shell.unpublish(b"k")
    assert [entry.key for entry in entries_in(shell.said(CLIENT))] == [b"k"]
    # It is remembered, so who still has the value does not bring it back.
    shell.hear(CLIENT, Ping(tuples(Entry(b"k", Version(1, OTHER.bytes), b"v"))))
    assert shell.tuples == {}
    shell.wait(61.0)
    assert shell.node.status.tombstones == 0
    assert shell.node._store.next == inf


def test_a_full_table_takes_nothing_more_and_says_so() -> None:
    shell = Shell(GossipConfig(max_tuples=3))
    shell.befriend(CLIENT)
    shell.befriend(1, UUID(int=7))
    shell.hear(CLIENT, Ping(tuples(*(Entry(b"%d" % number, LATER, b"v") for number in range(5)))))
    assert set(shell.tuples) == {b"0", b"1", b"2"}
    assert shell.drops == {Drop.TABLE_FULL: 2}
    # What is not kept is not told on either.
    assert {entry.key for entry in entries_in(shell.said(1))} == {b"0", b"1", b"2"}
    shell.publish(b"5", b"v")
    shell.publish(b"0", b"w")
    assert shell.tuples == {b"0": b"w", b"1": b"v", b"2": b"v"}


def test_a_summary_of_what_nobody_has_is_answered_in_proportion() -> None:
    shell = Shell()
    shell.befriend(CLIENT)
    versions = tuple((b"%d" % number, LATER) for number in range(20_000))
    frame = encode(Ping(Summary(frozenset(), versions)))
    shell.sent_bytes = 0
    shell.hear_frames(CLIENT, frame)
    assert 0 < shell.sent_bytes < len(frame)
