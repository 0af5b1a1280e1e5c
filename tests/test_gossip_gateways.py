"""What a gossip node says to real ones, and what it believes of what they say."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gossip_shell import LATER, OTHER, Shell, carried, tuples
from gossip_world import World
from zdisco._core.actions import Drop
from zdisco._core.config import GossipConfig
from zdisco._core.gossip.frames import Entry, Greeting, Hello, Invalid, Ping, Pong, Publish, Sums, Version, digest_of

REMOTE, CLIENT = 1, b"client"
CONFIG = GossipConfig()


# -- greeting a remote ----------------------------------------------------------------------------


def test_who_has_not_shown_what_it_is_is_told_no_tuples() -> None:
    shell = Shell()
    shell.publish(b"k", b"v")
    shell.up(REMOTE)
    shell.hear(REMOTE, Publish(b"other", b"w"))
    shell.wait(10.0)
    assert {type(message) for message in shell.said(REMOTE)} == {Ping}
    assert shell.hear(REMOTE, Pong()) == [Publish(b"k", b"v")]
    assert shell.tuples == {b"k": b"v", b"other": b"w"}


def test_a_server_of_ours_that_is_slow_to_answer_is_not_taken_for_a_real_one() -> None:
    world = World(seed=1)
    one, other = world.ours("one"), world.ours("other")
    one.publish(b"k", b"old")
    world.run(0.1)
    other.publish(b"k", b"new")
    world.connect(one, other)
    other.stall(8.0)
    world.run(10.0)
    assert one.tuples == other.tuples == {b"k": b"new"}
    assert world.sent["Publish"] == 0


def test_an_answer_to_an_earlier_ping_does_not_end_the_greeting() -> None:
    shell = Shell()
    shell.publish(b"k", b"v")
    shell.welcome(REMOTE, Publish(b"k", b"v"))
    shell.wait(0.4)
    assert shell.said(REMOTE) == [Ping()]
    # It had forgotten us when something of ours came, and only then got that ping.
    assert [type(message) for message in shell.hear(REMOTE, Invalid())] == [Invalid, Hello, Ping]
    assert shell.hear(REMOTE, Pong()) == []
    # What it says now it may have said before it had anything of ours: it is a change.
    shell.hear(REMOTE, Publish(b"k", b"w"), Publish(b"other", b"x"), Pong())
    shell.wait(1.0)
    assert shell.tuples == {b"k": b"w", b"other": b"x"}


def test_many_refusals_of_one_server_make_one_greeting() -> None:
    shell = Shell()
    shell.welcome(REMOTE)
    for number in range(20):
        shell.publish(b"%d" % number, b"v")
    assert [type(message) for message in shell.said(REMOTE)] == [Publish] * 20
    said = shell.hear(REMOTE, *[Invalid()] * 21)
    assert [type(message) for message in said] == [Invalid, Hello, Ping]
    shell.hear(REMOTE, Pong())
    shell.wait(1.0)
    again = [message.key for message in shell.said(REMOTE) if isinstance(message, Publish)]
    assert sorted(again) == sorted(b"%d" % number for number in range(20))


def test_a_server_of_ours_that_had_forgotten_us_is_compared_with_at_once() -> None:
    shell = Shell()
    shell.publish(b"k", b"v")
    shell.befriend(REMOTE)
    assert [type(message) for message in shell.hear(REMOTE, Invalid())] == [Hello, Ping]
    (compared,) = shell.hear(REMOTE, Pong(Greeting(OTHER, 0, 0)), Pong(Greeting(OTHER, 0, 0)))
    assert isinstance(compared, Ping)
    assert isinstance(compared.trailer, Sums)


@pytest.mark.parametrize("is_ours", [True, False])
@pytest.mark.parametrize("seconds", [1.1, 1.7, 5.0])
def test_what_a_real_server_changes_after_a_stall_comes_though_it_had_forgotten_us(
    is_ours: bool, seconds: float
) -> None:
    for seed in range(10):
        world = World(seed)
        one, other = world.ours("one"), world.real("other")
        world.connect(one, other)
        world.run(1.0 + world.random.random())
        (one if is_ours else other).stall(seconds)
        world.run(seconds + 0.5)
        other.publish(b"k", b"v")
        world.run(0.3)
        assert one.tuples == {b"k": b"v"}
        # Once when it connected, once since then.
        assert other.dumps == 2
        assert other.invalids == 1


# -- changes that real nodes tell -----------------------------------------------------------------


def test_a_change_is_taken_though_another_real_node_says_the_present_value_meanwhile() -> None:
    shell = Shell()
    shell.publish(b"k", b"v")
    shell.welcome(b"one", Publish(b"k", b"v"))
    shell.hear(b"one", Publish(b"k", b"w"))
    shell.wait(0.01)
    shell.hear(b"two", Hello(), Publish(b"k", b"v"))
    shell.wait(1.0)
    assert shell.tuples == {b"k": b"w"}
    assert shell.said(b"two") == [Publish(b"k", b"w")]
    assert not shell.drops


def test_who_takes_its_change_back_lets_no_other_real_node_keep_another_value() -> None:
    shell = Shell()
    shell.publish(b"k", b"v")
    shell.welcome(b"one", Publish(b"k", b"v"))
    shell.welcome(b"two", Publish(b"k", b"v"))
    shell.hear(b"one", Publish(b"k", b"w"))
    shell.hear(b"two", Publish(b"k", b"x"), Publish(b"k", b"v"))
    shell.wait(1.0)
    assert shell.tuples == {b"k": b"v"}
    assert shell.said(b"one") == [Publish(b"k", b"v")]
    assert shell.said(b"two") == []


def test_a_change_that_our_own_kind_brings_too_is_not_counted_as_damped() -> None:
    shell = Shell()
    shell.befriend(b"ours")
    shell.publish(b"k", b"v")
    shell.welcome(CLIENT, Publish(b"k", b"v"))
    shell.hear(CLIENT, Publish(b"k", b"w"))
    shell.hear(b"ours", carried(b"ours", tuples(Entry(b"k", LATER, b"w"))))
    assert shell.tuples == {b"k": b"w"}
    shell.hear(CLIENT, Publish(b"k", b"x"))
    shell.wait(0.01)
    assert not shell.drops
    shell.hear(CLIENT, Publish(b"k", b"y"))
    assert shell.drops == {Drop.DAMPED: 1}


def test_who_told_a_change_that_is_taken_soon_is_not_told_the_value_before() -> None:
    shell = Shell()
    shell.publish(b"k", b"v")
    shell.welcome(b"two", Publish(b"k", b"v"))
    # It is told the value, and sends it back when the other one has told another.
    shell.welcome(b"one")
    shell.wait(0.18)
    shell.hear(b"two", Publish(b"k", b"w"))
    shell.hear(b"one", Publish(b"k", b"v"))
    shell.hear(b"three", Hello())
    shell.wait(3.0)
    assert shell.tuples == {b"k": b"w"}
    assert shell.said(b"one") == [Publish(b"k", b"w")]
    assert shell.said(b"two") == []
    assert shell.said(b"three") == [Publish(b"k", b"w")]


def test_a_change_counts_though_the_echo_of_what_the_node_held_already_was_awaited() -> None:
    shell = Shell()
    shell.publish(b"k", b"v")
    # It holds the same, which we do not know: it says HELLO as a client does that was told INVALID.
    shell.welcome(CLIENT)
    shell.hear(CLIENT, Publish(b"k", b"u"), Publish(b"k", b"w"))
    shell.wait(1.9)
    assert shell.tuples == {b"k": b"v"}
    shell.wait(0.2)
    assert shell.tuples == {b"k": b"w"}
    assert shell.said(CLIENT) == []


def test_what_was_said_before_the_echo_is_void() -> None:
    shell = Shell()
    shell.publish(b"k", b"v")
    shell.welcome(CLIENT)
    shell.hear(CLIENT, Publish(b"k", b"w"), Publish(b"k", b"v"))
    shell.wait(5.0)
    assert shell.tuples == {b"k": b"v"}
    assert shell.said(CLIENT) == []


def test_a_round_that_begins_with_a_change_is_not_over_at_once() -> None:
    shell = Shell()
    shell.publish(b"k", b"u")
    shell.publish(b"k", b"v")
    shell.welcome(b"one", Publish(b"k", b"v"))
    shell.hear(b"two", Hello())
    shell.wait(CONFIG.settle_time)
    assert shell.said(b"two") == [Publish(b"k", b"v")]
    shell.hear(b"two", Publish(b"k", b"v"))
    shell.wait(1.0)
    # A change, and another one that comes late, so that the present value is to be said: both are due at once.
    shell.hear(b"one", Publish(b"k", b"w"))
    shell.hear(b"three", Hello(), Publish(b"k", b"u"))
    shell.wait(CONFIG.settle_time)
    assert shell.said(b"two") == [Publish(b"k", b"w")]
    shell.hear(b"two", Publish(b"k", b"x"))
    shell.wait(0.5)
    assert shell.tuples == {b"k": b"w"}


# -- values that come late ------------------------------------------------------------------------


@pytest.mark.parametrize("ends", [b"v3", None])
def test_what_another_node_of_ours_had_said_to_a_real_one_before_does_not_come_back(ends: bytes | None) -> None:
    shell = Shell()
    shell.befriend(b"ours")
    shell.publish(b"k", b"v1")
    shell.welcome(CLIENT, Publish(b"k", b"v1"))
    for counter, value in enumerate([b"v2", ends]):
        shell.hear(b"ours", carried(b"ours", tuples(Entry(b"k", Version(LATER.counter + counter, LATER.owner), value))))
    assert shell.said(CLIENT) == [Publish(b"k", b"v2")]
    shell.hear(CLIENT, Publish(b"k", b"v2"))
    # The other one said that at once, too, and may say the second one later only.
    shell.wait(0.3)
    assert shell.tuples == ({b"k": ends} if ends else {})
    assert shell.said(CLIENT) == ([Publish(b"k", ends)] if ends else [])


def test_a_change_that_is_taken_soon_does_not_undo_a_later_deletion() -> None:
    shell = Shell()
    shell.befriend(b"ours")
    shell.publish(b"k", b"v1")
    shell.welcome(CLIENT, Publish(b"k", b"v1"))
    shell.hear(CLIENT, Publish(b"k", b"v2"))
    shell.hear(b"ours", carried(b"ours", tuples(Entry(b"k", LATER, b"v2"))))
    shell.hear(CLIENT, Publish(b"other", b"x"), Publish(b"k", b"v1"))
    shell.hear(b"ours", carried(b"ours", tuples(Entry(b"k", Version(LATER.counter + 1, LATER.owner), None))))
    shell.wait(1.0)
    assert shell.tuples == {b"other": b"x"}


def test_a_new_value_after_a_deletion_is_taken() -> None:
    shell = Shell()
    shell.publish(b"k", b"v1")
    shell.welcome(CLIENT, Publish(b"k", b"v1"))
    shell.hear(CLIENT, Publish(b"k", b"v2"))
    shell.unpublish(b"k")
    shell.wait(1.0)
    assert shell.tuples == {b"k": b"v2"}


@pytest.mark.parametrize("seconds", [0.03, 0.3, 3.0])
def test_a_real_node_may_go_back_to_a_value_and_the_last_one_stays(seconds: float) -> None:
    shell = Shell()
    shell.welcome(CLIENT)
    for number in range(21):
        shell.hear(CLIENT, Publish(b"switch", b"on" if number % 2 else b"off"))
        shell.wait(seconds)
    shell.wait(0.5)
    assert shell.tuples == {b"switch": b"off"}
    shell.hear(CLIENT, Publish(b"switch", b"on"))
    shell.wait(0.5)
    assert shell.tuples == {b"switch": b"on"}
    assert shell.said(CLIENT) == []


@pytest.mark.parametrize("values", [2, 3, 10_000])
def test_values_that_real_nodes_swap_without_end_are_taken_now_and_then(values: int) -> None:
    shell = Shell()
    shell.welcome(b"one")
    shell.welcome(b"two")
    for number in range(3000):
        shell.hear(b"one", Publish(b"k", b"%d" % (number % values)))
        shell.hear(b"two", Publish(b"k", b"%d" % ((number + 1) % values)))
        shell.wait(0.01)
    assert 1 <= len(shell.deliveries) <= CONFIG.damping_burst + 30 / CONFIG.damping_interval
    if values > 1_000:
        assert len(shell.deliveries) > 10, "not put off for ever"
    for link in (b"one", b"two"):
        assert len(shell.said(link)) <= 30 / CONFIG.pace_interval


@given(seed=st.integers(0, 2**32 - 1), does=st.sampled_from(["change", "delete", "change elsewhere"]))
@settings(max_examples=100)
def test_of_two_gateways_to_a_real_node_none_undoes_what_was_written_last(seed: int, does: str) -> None:
    world = World(seed, latency=0.02)
    random = world.random
    one, other, real = world.ours("one"), world.ours("other"), world.real("real", random.choice([None, 1.0]))
    for client, server in ((one, other), (one, real), (other, real)):
        world.connect(*random.choice([(client, server), (server, client)]))
    one.publish(b"k", b"0")
    world.run(3.0)
    assert real.table == {b"k": b"0"}
    for number in range(random.randint(1, 4)):
        one.publish(b"k", b"%d" % (number + 1))
        world.run(random.choice([0.0, 0.001, 0.01, 0.03]))
    if does == "delete":
        one.unpublish(b"k")
        world.run(5.0)
        assert one.tuples == other.tuples == {}
        return
    last = one.tuples
    if does == "change elsewhere":
        other.publish(b"k", b"other")
    world.run(5.0)
    assert one.tuples == other.tuples == real.table
    if does == "change":
        assert one.tuples == last


@pytest.mark.parametrize("deleted", [False, True])
def test_a_gateway_that_was_restarted_does_not_bring_back_what_a_real_node_still_holds(deleted: bool) -> None:
    for seed in range(20):
        world = World(seed)
        source, gateway, real = world.ours("source"), world.ours("gateway"), world.real("real")
        world.connect(gateway, source)
        to_real = world.connect(*world.random.choice([(gateway, real), (real, gateway)]))
        source.publish(b"k", b"old")
        world.run(1.0)
        assert real.table == {b"k": b"old"}
        gateway.kill()
        world.part(gateway, real, 2.0)
        source.unpublish(b"k") if deleted else source.publish(b"k", b"new")
        # It knows the new value before it hears of the old one.
        gateway.restart()
        world.run(8.0)
        assert to_real.connection is not None
        assert source.tuples == gateway.tuples == ({} if deleted else {b"k": b"new"})
        assert real.table == ({b"k": b"old"} if deleted else {b"k": b"new"})


def test_a_real_client_that_publishes_before_its_hello_is_not_made_to_say_that_again() -> None:
    shell = Shell()
    shell.publish(b"k", b"v")
    # It answers INVALID with another HELLO, and does not tell its tuples again.
    assert shell.hear(CLIENT, Publish(b"k", b"v"), Hello(), Publish(b"k", b"v")) == []
    shell.wait(0.1)
    assert shell.said(CLIENT) == []
    shell.hear(CLIENT, Publish(b"k", b"w"))
    shell.wait(0.1)
    assert shell.tuples == {b"k": b"w"}


def test_what_a_real_node_told_is_not_taken_when_it_turns_out_to_have_been_deleted() -> None:
    shell = Shell()
    shell.befriend(b"ours")
    shell.hear(CLIENT, Hello(), Publish(b"k", b"v"), Publish(b"l", b"v"))
    shell.wait(0.01)
    deleted = (Entry(key, LATER, None, 1_000, (digest_of(value),)) for key, value in [(b"k", b"v"), (b"l", b"u")])
    shell.hear(b"ours", carried(b"ours", tuples(*deleted)))
    shell.wait(1.0)
    assert shell.tuples == {b"l": b"v"}


def test_of_what_is_heard_at_once_after_a_stall_only_the_latest_is_said() -> None:
    shell = Shell()
    shell.befriend(b"ours")
    shell.welcome(CLIENT)
    entries = [Entry(b"k", Version(LATER.counter + number, LATER.owner), b"%d" % number) for number in range(5)]
    shell.hear(b"ours", *(carried(b"ours", tuples(entry)) for entry in entries))
    assert shell.said(CLIENT) == [Publish(b"k", b"4")]


def test_an_echo_is_one_though_its_real_node_was_greeted_again_meanwhile() -> None:
    shell = Shell()
    shell.welcome(REMOTE)
    shell.publish(b"k", b"1")
    assert shell.said(REMOTE) == [Publish(b"k", b"1")]
    shell.hear(REMOTE, Invalid())
    shell.publish(b"k", b"2")
    # Another gateway had said the second value before the real node had the first one of us.
    shell.hear(REMOTE, Publish(b"k", b"2"), Publish(b"k", b"1"))
    shell.hear(REMOTE, Publish(b"k", b"1"), Pong())
    shell.wait(1.0)
    assert shell.tuples == {b"k": b"2"}
    assert [message for message in shell.said(REMOTE) if isinstance(message, Publish)] == [Publish(b"k", b"2")]


def test_what_a_real_node_refused_is_said_again_when_it_was_greeted() -> None:
    shell = Shell()
    shell.welcome(REMOTE)
    shell.publish(b"k", b"1")
    shell.publish(b"l", b"1")
    shell.said(REMOTE)
    shell.hear(REMOTE, Invalid(), Publish(b"k", b"0"), Pong())
    shell.wait(CONFIG.pace_interval)
    again = [message for message in shell.said(REMOTE) if isinstance(message, Publish)]
    assert again == [Publish(b"l", b"1")]
    # It told that before it had any of ours.
    shell.wait(1.0)
    assert shell.tuples == {b"k": b"0", b"l": b"1"}


@pytest.mark.parametrize("value", [b"1", b"new"])
def test_what_may_come_late_is_not_taken_of_who_is_gone_and_what_is_new_is(value: bytes) -> None:
    shell = Shell()
    shell.publish(b"k", b"1")
    shell.publish(b"k", b"2")
    shell.up(REMOTE)
    shell.hear(REMOTE, Publish(b"k", b"2"), Pong(), Publish(b"k", value))
    shell.feed(shell.node.down(REMOTE, shell.now))
    shell.wait(1.0)
    assert shell.tuples == {b"k": b"new" if value == b"new" else b"2"}
