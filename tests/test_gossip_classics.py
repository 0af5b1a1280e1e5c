"""What a gossip node says to real ones, and believes of them: the rules of `classics`, and a model of a real node.

The model does what was seen of CZMQ's zgossip: it takes whatever it is sent, sends each change to everybody,
and is silent where nothing changes. Between it and our node are two queues, of which a test says when
who reads one.
"""

from __future__ import annotations

from collections import deque
from itertools import pairwise
from typing import Any, NoReturn

import pytest
from attrs import define, field
from hypothesis import given, settings
from hypothesis import strategies as st

import zproto
from gossip_shell import LATER, Shell, carried, entries_in, tuples
from zdisco._core.actions import Drop
from zdisco._core.config import GossipConfig
from zdisco._core.gossip.frames import Entry, GossipMessage, Hello, Publish, encode
from zdisco._core.gossip.model import Change, Delivery
from zdisco._core.gossip.talk import Link

OURS = b"ours"
"""A neighbour of our own kind."""
A, B = b"real a", b"real b"
CONFIG = GossipConfig()
QUIET = CONFIG.echo_timeout + 1.0
"""Seconds after which nothing is waited for any more."""


def publishes(messages: list[GossipMessage]) -> list[Publish]:
    return [message for message in messages if isinstance(message, Publish)]


def hub(*links: Link, **tuples: bytes) -> Shell:
    """A node that holds these tuples, and these real nodes, which hold them too."""
    shell = Shell()
    for key, value in tuples.items():
        shell.publish(key.encode(), value)
    held = [Publish(key.encode(), value) for key, value in tuples.items()]
    for link in links:
        shell.welcome(link, *held)
    shell.deliveries.clear()
    return shell


roles = pytest.mark.parametrize("link", [1, A], ids=["remote", "client"])


# -- rule 1: rounds -------------------------------------------------------------------------------


@roles
def test_a_real_node_is_told_the_next_value_when_it_has_sent_the_one_before_back(link: Link) -> None:
    shell = hub(link)
    shell.publish(b"k", b"1")
    assert publishes(shell.said(link)) == [Publish(b"k", b"1")]
    for number in range(2, 10):
        shell.publish(b"k", b"%d" % number)
    shell.wait(1.0)
    assert publishes(shell.said(link)) == []
    assert publishes(shell.hear(link, Publish(b"k", b"1"))) == []
    shell.wait(0.01)
    # What is the value by then.
    assert publishes(shell.said(link)) == [Publish(b"k", b"9")]


@roles
def test_a_real_node_is_told_the_next_value_though_it_never_answers(link: Link) -> None:
    shell = hub(link)
    shell.publish(b"k", b"1")
    shell.publish(b"k", b"2")
    shell.said(link)
    shell.wait(CONFIG.echo_timeout - 0.1)
    assert publishes(shell.said(link)) == []
    shell.wait(0.2)
    assert publishes(shell.said(link)) == [Publish(b"k", b"2")]


def test_values_follow_each_other_at_a_pace_that_real_nodes_among_each_other_keep_up_with() -> None:
    shell = hub(A)
    said: list[float] = []
    for number in range(300):
        shell.publish(b"k", b"%d" % number)
        shell.wait(0.01)
        for message in publishes(shell.said(A)):
            said.append(shell.now)
            shell.hear(A, message)
    assert 10 <= len(said) <= 3.0 / CONFIG.pace_interval + 2
    assert all(later - earlier >= CONFIG.pace_interval - 0.011 for earlier, later in pairwise(said))


def test_a_round_ends_when_all_real_nodes_have_sent_the_value_back() -> None:
    shell = hub(A, B, 1)
    shell.publish(b"k", b"1")
    shell.publish(b"k", b"2")
    for link in (A, 1, B):
        shell.wait(0.3)
        assert publishes(shell.said(link)) == [Publish(b"k", b"1")]
        assert not [message for _, message in shell.sent if message == Publish(b"k", b"2")]
        shell.hear(link, Publish(b"k", b"1"))
    shell.wait(0.01)
    assert {link for link, message in shell.sent if message == Publish(b"k", b"2")} == {A, B, 1}


def test_a_round_does_not_wait_for_one_that_is_gone() -> None:
    shell = hub(A, B)
    shell.publish(b"k", b"1")
    shell.hear(A, Publish(b"k", b"1"))
    shell.publish(b"k", b"2")
    shell.wait(0.5)
    shell.said(A)
    shell.feed(shell.node.unreachable(B, shell.now))
    shell.wait(0.01)
    assert publishes(shell.said(A)) == [Publish(b"k", b"2")]


class Unlisted(dict[bytes, Any]):
    """Nobody looks at all of it."""

    def items(self) -> NoReturn:
        raise AssertionError("each key is looked at")

    __iter__ = keys = values = items


def test_who_comes_and_goes_makes_us_look_at_no_keys_of_others() -> None:
    shell = hub(A, B)
    shell.publish(b"k", b"1")
    for value in (b"2", b"3"):
        shell.hear(A, Publish(b"told", value))
    classics = shell.node._classics
    assert (len(classics._rounds), len(classics._told)) == (1, 1)
    classics._rounds, classics._told = Unlisted(classics._rounds), Unlisted(classics._told)
    for link in (1, b"another"):
        shell.welcome(link)
        shell.hear(b"another", Hello())
    shell.feed(shell.node.unreachable(b"another", shell.now))
    shell.feed(shell.node.down(1, shell.now))
    shell.hear(B, Hello())
    assert [*shell.node._classics._rounds[b"k"].awaited] == [A]


def test_each_key_has_rounds_of_its_own() -> None:
    shell = hub(A)
    for number in range(5):
        shell.publish(b"%d" % number, b"v")
    assert publishes(shell.said(A)) == [Publish(b"%d" % number, b"v") for number in range(5)]


def test_who_holds_the_value_is_not_told_it() -> None:
    shell = hub(A, B, k=b"v")
    shell.hear(A, Publish(b"k", b"w"))
    shell.wait(0.1)
    assert publishes(shell.said(A)) == []
    assert publishes(shell.said(B)) == [Publish(b"k", b"w")]


def test_a_real_node_is_never_told_that_a_key_was_deleted() -> None:
    shell = hub(A, k=b"v")
    shell.unpublish(b"k")
    shell.wait(QUIET)
    assert shell.said(A) == []
    # It holds the tuple still, so there is nothing to be said if the same comes again.
    shell.publish(b"k", b"v")
    shell.wait(QUIET)
    assert shell.said(A) == []
    shell.publish(b"k", b"w")
    assert shell.said(A) == [Publish(b"k", b"w")]


# -- rule 2: what crosses -------------------------------------------------------------------------


@roles
@pytest.mark.parametrize("seconds", [0.0, 1.0])
def test_what_a_real_node_said_before_it_had_ours_is_void(link: Link, seconds: float) -> None:
    shell = hub(link)
    shell.publish(b"k", b"ours")
    assert publishes(shell.said(link)) == [Publish(b"k", b"ours")]
    shell.hear(link, Publish(b"k", b"theirs"))
    shell.wait(seconds)
    shell.hear(link, Publish(b"k", b"ours"))
    shell.wait(QUIET)
    assert shell.tuples == {b"k": b"ours"}
    assert publishes(shell.said(link)) == []
    assert shell.deliveries == [Delivery("k", "ours", Change.NEW)]


@roles
def test_what_a_real_node_says_after_the_echo_is_a_change(link: Link) -> None:
    shell = hub(link)
    shell.publish(b"k", b"ours")
    shell.hear(link, Publish(b"k", b"void"), Publish(b"k", b"ours"), Publish(b"k", b"theirs"))
    shell.wait(QUIET)
    assert shell.tuples == {b"k": b"theirs"}


def test_where_no_echo_comes_the_last_that_was_said_counts() -> None:
    shell = hub(A)
    shell.publish(b"k", b"ours")
    # It held that already, so there is no echo.
    shell.hear(A, Publish(b"k", b"first"), Publish(b"k", b"theirs"))
    shell.wait(QUIET)
    assert shell.tuples == {b"k": b"theirs"}


# -- rule 3: changes ------------------------------------------------------------------------------


@roles
def test_a_change_is_taken_after_a_while_and_told_to_everybody_else(link: Link) -> None:
    shell = hub(link, B, k=b"v")
    shell.befriend(OURS)
    shell.hear(link, Publish(b"k", b"w"))
    shell.wait(CONFIG.settle_time - 0.01)
    assert shell.tuples == {b"k": b"v"}
    shell.wait(0.02)
    assert shell.deliveries == [Delivery("k", "w", Change.CHANGED)]
    assert publishes(shell.said(B)) == [Publish(b"k", b"w")]
    assert [(entry.key, isinstance(entry, Entry) and entry.value) for entry in entries_in(shell.said(OURS))] == [
        (b"k", b"w")
    ]
    assert publishes(shell.said(link)) == []


def test_what_our_own_kind_brings_meanwhile_has_the_version_that_it_has_there() -> None:
    shell = hub(A, k=b"v")
    shell.befriend(OURS)
    shell.hear(A, Publish(b"k", b"w"))
    shell.hear(OURS, carried(OURS, tuples(Entry(b"k", LATER, b"w"))))
    shell.wait(QUIET)
    assert (shell.tuples, shell.node._store.version(b"k")) == ({b"k": b"w"}, LATER)
    assert not entries_in(shell.said(OURS))
    assert shell.drops == {}


def test_what_our_own_kind_wrote_meanwhile_wins_and_is_told_to_who_said_otherwise() -> None:
    shell = hub(A, B, k=b"v")
    shell.befriend(OURS)
    shell.hear(A, Publish(b"k", b"w"))
    shell.hear(OURS, carried(OURS, tuples(Entry(b"k", LATER, b"x"))))
    shell.wait(QUIET)
    assert shell.tuples == {b"k": b"x"}
    assert Publish(b"k", b"x") in shell.said(A)
    assert Publish(b"k", b"x") in shell.said(B)
    assert shell.drops[Drop.DAMPED] == 1


def test_who_comes_back_to_the_present_value_has_changed_nothing() -> None:
    shell = hub(A, k=b"v")
    shell.hear(A, Publish(b"k", b"w"), Publish(b"k", b"v"))
    shell.wait(QUIET)
    assert (shell.tuples, shell.deliveries, shell.said(A)) == ({b"k": b"v"}, [], [])


def test_a_change_of_one_real_node_is_taken_though_another_one_says_what_was() -> None:
    shell = hub(A, k=b"v")
    shell.hear(A, Publish(b"k", b"w"))
    shell.hear(B, Hello(), Publish(b"k", b"v"))
    shell.wait(QUIET)
    assert shell.tuples == {b"k": b"w"}
    assert publishes(shell.said(B)) == [Publish(b"k", b"w")]
    assert publishes(shell.said(A)) == []


def test_of_several_changes_in_a_row_the_last_is_taken() -> None:
    shell = hub(A, B, k=b"v")
    shell.hear(A, *(Publish(b"k", b"%d" % number) for number in range(5)))
    shell.hear(B, *(Publish(b"k", b"%d" % number) for number in range(5, 8)))
    shell.wait(QUIET)
    assert shell.tuples == {b"k": b"7"}
    assert publishes(shell.said(A)) == [Publish(b"k", b"7")]
    assert publishes(shell.said(B)) == []


# -- rule 4: who connects speaks first ------------------------------------------------------------


def test_a_client_is_told_nothing_before_it_was_silent_for_a_while() -> None:
    shell = hub(k=b"v")
    shell.hear(A, Hello())
    for number in range(5):
        shell.hear(A, Publish(b"%d" % number, b"v"))
        shell.publish(b"new", b"%d" % number)
        shell.wait(CONFIG.settle_time - 0.01)
        assert shell.said(A) == []
    shell.wait(0.02)
    assert shell.said(A) == [Publish(b"k", b"v"), Publish(b"new", b"4")]


def test_a_client_that_never_ends_speaking_is_told_what_there_is_all_the_same() -> None:
    shell = hub(k=b"v")
    shell.hear(A, Hello())
    told: list[GossipMessage] = []
    for number in range(200):
        told += shell.hear(A, Publish(b"x", b"%d" % number))
        shell.wait(CONFIG.settle_time - 0.01)
    assert Publish(b"k", b"v") in told


@roles
@pytest.mark.parametrize("is_deleted", [True, False])
def test_what_was_superseded_or_deleted_while_a_real_node_was_away_does_not_come_back(
    link: Link, is_deleted: bool
) -> None:
    shell = hub(link, k=b"old", other=b"v")
    if isinstance(link, int):
        shell.feed(shell.node.down(link, shell.now))
    else:
        shell.feed(shell.node.unreachable(link, shell.now))
    if is_deleted:
        shell.unpublish(b"k")
    else:
        shell.publish(b"k", b"new")
    shell.wait(60.0)
    shell.welcome(link, Publish(b"k", b"old"), Publish(b"mine", b"v"))
    shell.wait(QUIET)
    assert shell.tuples == {**({} if is_deleted else {b"k": b"new"}), b"other": b"v", b"mine": b"v"}


def test_who_missed_a_change_is_told_it() -> None:
    shell = hub(k=b"old")
    shell.publish(b"k", b"new")
    shell.hear(A, Hello(), Publish(b"k", b"old"))
    shell.wait(QUIET)
    assert shell.said(A) == [Publish(b"k", b"new")]
    assert shell.tuples == {b"k": b"new"}


def test_what_a_real_node_brings_that_was_never_here_is_a_change() -> None:
    shell = hub(k=b"old")
    shell.hear(A, Hello(), Publish(b"k", b"newer"))
    shell.wait(QUIET)
    assert shell.tuples == {b"k": b"newer"}
    assert shell.said(A) == []


def test_an_expired_tuple_does_not_come_back_by_a_real_node_that_reconnects() -> None:
    shell = Shell()
    shell.feed(shell.node.publish(b"k", b"v", 1.0, 0.0, refresh=False))
    shell.welcome(A, Publish(b"k", b"v"))
    shell.wait(5.0)
    assert shell.tuples == {}
    shell.hear(A, Hello(), Publish(b"k", b"v"))
    shell.wait(5.0)
    assert shell.tuples == {}


# -- rule 5: former values --------------------------------------------------------------------------


def test_a_former_value_from_one_that_has_had_the_present_one_is_taken_later() -> None:
    shell = hub(A, k=b"old")
    shell.publish(b"k", b"new")
    shell.hear(A, Publish(b"k", b"new"))
    shell.wait(1.0)
    shell.hear(A, Publish(b"k", b"old"))
    shell.wait(CONFIG.settle_time + 0.01)
    assert shell.tuples == {b"k": b"new"}
    shell.wait(1.0)
    assert shell.tuples == {b"k": b"old"}


# -- rule 6: damping ------------------------------------------------------------------------------


@pytest.mark.parametrize("values", [2, 1_000_000], ids=["two", "many"])
def test_real_nodes_that_swap_values_cost_a_bounded_number_of_changes_and_the_last_value_stays(values: int) -> None:
    shell = hub(A, B, 1, k=b"v")
    shell.befriend(OURS)
    seconds = 5.0
    for number in range(int(seconds * 100)):
        for link in (A, B):
            shell.hear(link, *(Publish(b"k", b"%d" % ((number * 11 + turn) % values)) for turn in range(10)))
        shell.wait(0.01)
    changes = len(shell.deliveries)
    most = CONFIG.damping_burst + seconds / CONFIG.damping_interval + 1
    assert (20 if values > 2 else 0) < changes <= most
    assert len(entries_in(shell.said(OURS))) <= most
    for each in (A, B, 1):
        assert len(publishes(shell.said(each))) <= seconds / CONFIG.pace_interval + 2
    assert shell.drops[Drop.DAMPED] > 1_000
    shell.hear(A, Publish(b"k", b"last"))
    shell.wait(QUIET)
    assert shell.tuples == {b"k": b"last"}


def test_other_keys_are_not_held_up_by_one_that_is_damped() -> None:
    shell = hub(A, k=b"v", other=b"v")
    for number in range(1_000):
        shell.hear(A, Publish(b"k", b"%d" % number))
        shell.wait(0.005)
    shell.hear(A, Publish(b"other", b"w"))
    shell.wait(CONFIG.settle_time + 0.001)
    assert shell.tuples[b"other"] == b"w"


def test_a_key_that_rested_may_change_often_again() -> None:
    shell = hub(A)
    for _ in range(2):
        shell.deliveries.clear()
        for number in range(CONFIG.damping_burst):
            shell.hear(A, Publish(b"k", b"%d" % number))
            shell.wait(CONFIG.settle_time + 0.001)
        assert len(shell.deliveries) == CONFIG.damping_burst
        shell.wait(CONFIG.damping_burst * CONFIG.damping_interval)


# -- what could not be sent, and bounds -------------------------------------------------------------


@roles
def test_what_could_not_be_said_is_said_when_there_is_room(link: Link) -> None:
    shell = hub(link, B)
    shell.full.add(link)
    shell.publish(b"k", b"1")
    # Others are not held up.
    assert publishes(shell.said(B)) == [Publish(b"k", b"1")]
    shell.hear(B, Publish(b"k", b"1"))
    shell.publish(b"k", b"2")
    shell.full.clear()
    shell.wait(QUIET)
    assert publishes(shell.said(link))[-1] == Publish(b"k", b"2")
    shell.hear(link, Publish(b"k", b"2"))
    shell.wait(QUIET)
    assert publishes(shell.said(link)) == []


def test_a_real_node_that_brings_more_than_there_is_room_for_is_kept_out_and_others_are_not_told() -> None:
    shell = Shell(GossipConfig(max_tuples=5))
    shell.befriend(OURS)
    shell.hear(A, Hello(), *(Publish(b"%d" % number, b"v") for number in range(50)))
    shell.wait(QUIET)
    assert len(shell.tuples) == 5
    assert shell.drops[Drop.TABLE_FULL] == 45
    assert len(entries_in(shell.said(OURS))) == 5


def test_keys_that_come_and_go_do_not_make_a_real_node_be_overheard() -> None:
    shell = Shell(GossipConfig(max_tuples=5))
    shell.welcome(A)
    for number in range(50):
        shell.publish(b"%d" % number, b"v")
        shell.wait(0.01)
        shell.hear(A, Publish(b"%d" % number, b"v"))
        shell.unpublish(b"%d" % number)
        shell.wait(0.5)
    shell.hear(A, Publish(b"k", b"v"))
    shell.wait(QUIET)
    assert shell.tuples == {b"k": b"v"}


# -- a model of real nodes ------------------------------------------------------------------------


@define(eq=False)
class Real:
    """A real node, connected to ours in one of both roles."""

    link: Link
    table: dict[bytes, bytes] = field(factory=dict)
    inbox: deque[bytes] = field(factory=deque)
    outbox: deque[bytes] = field(factory=deque)
    is_connected: bool = False
    """As a server: whether the client has said HELLO."""
    heard: int = 0
    """Tuples that it was sent."""

    @property
    def is_server(self) -> bool:
        return isinstance(self.link, int)

    def begin(self) -> None:
        """A new connection: whatever was on its way is lost."""
        self.inbox.clear()
        self.outbox.clear()
        self.is_connected = False
        if not self.is_server:
            self._say(zproto.HELLO)
            self._tell_all()

    def _say(self, number: int) -> None:
        self.outbox.append(zproto.plain(number))

    def _tell_all(self) -> None:
        self.outbox.extend(zproto.publish(key, value) for key, value in self.table.items())

    def write(self, key: bytes, value: bytes) -> None:
        if self.table.get(key) != value:
            self.table[key] = value
            if self.is_connected or not self.is_server:
                self.outbox.append(zproto.publish(key, value))

    def take(self) -> None:
        """Read one frame."""
        number, key, value = zproto.read(self.inbox.popleft())
        if number == zproto.PUBLISH and (self.is_connected or not self.is_server):
            self.heard += 1
            self.write(key, value)
        elif not self.is_server:
            if number == zproto.INVALID:
                self._say(zproto.HELLO)
        elif number == zproto.PING:
            self._say(zproto.PONG)
        elif number == zproto.HELLO and not self.is_connected:
            self.is_connected = True
            self._tell_all()
        else:
            self.is_connected = False
            self._say(zproto.INVALID)


@define(eq=False)
class Star:
    """Our node, and real ones around it."""

    reals: list[Real]
    shell: Shell = field(factory=Shell)

    def connect(self, real: Real) -> None:
        real.begin()
        if isinstance(real.link, int):
            self.shell.feed(self.shell.node.up(real.link, self.shell.now))
        self.carry()

    def disconnect(self, real: Real) -> None:
        real.inbox.clear()
        real.outbox.clear()
        if isinstance(real.link, int):
            self.shell.feed(self.shell.node.down(real.link, self.shell.now))
        else:
            self.shell.feed(self.shell.node.unreachable(real.link, self.shell.now))

    def carry(self) -> None:
        """Put what our node sent into the queues."""
        for link, message in self.shell.sent:
            for real in self.reals:
                if real.link == link:
                    real.inbox.append(encode(message))
        self.shell.sent.clear()
        while self.shell.reconnected:
            link = self.shell.reconnected.pop()
            self.connect(next(real for real in self.reals if real.link == link))

    def hear(self, real: Real, frames: int) -> None:
        """Our node reads some frames of a real one, as many as there are at most."""
        taken = [real.outbox.popleft() for _ in range(min(frames, len(real.outbox)))]
        self.shell.feed(self.shell.node.received([(real.link, frame) for frame in taken], self.shell.now))
        self.carry()

    def wait(self, seconds: float) -> None:
        self.shell.wait(seconds)
        self.carry()

    def settle(self, seconds: float) -> None:
        """Let everybody read everything at once for so long."""
        for _ in range(int(seconds / 0.02)):
            for real in self.reals:
                while real.inbox:
                    real.take()
                self.hear(real, 1_000)
            self.wait(0.02)

    def assert_agreement(self) -> None:
        for real in self.reals:
            assert {key: real.table.get(key) for key in self.shell.tuples} == self.shell.tuples
        assert self.shell.node.is_settled


KEYS = st.sampled_from([b"k", b"l"])
VALUES = st.sampled_from([b"x", b"y", b"z"])
WHICH = st.integers(0, 2)
steps = st.one_of(
    st.tuples(st.just("hear"), WHICH, st.integers(1, 3)),
    st.tuples(st.just("take"), WHICH, st.integers(1, 3)),
    st.tuples(st.just("write"), WHICH, KEYS, VALUES),
    st.tuples(st.just("publish"), KEYS, VALUES),
    st.tuples(st.just("wait"), st.sampled_from([0.02, 0.06, 0.3, 2.5])),
    st.tuples(st.just("reconnect"), WHICH),
)
kinds = st.tuples(*[st.booleans()] * 3)


def play(kinds: tuple[bool, ...], script: list[tuple[object, ...]]) -> Star:
    """Let happen what a script says to real nodes of which some are servers."""
    reals = [Real(number + 1 if is_server else b"real %d" % number) for number, is_server in enumerate(kinds)]
    star = Star(reals)
    for real in star.reals:
        star.connect(real)
    star.settle(1.0)
    for step in script:
        match step:
            case "hear", int(which), int(count):
                star.hear(star.reals[which], count)
            case "take", int(which), int(count):
                real = star.reals[which]
                for _ in range(min(count, len(real.inbox))):
                    real.take()
            case "write", int(which), bytes(key), bytes(value):
                star.reals[which].write(key, value)
            case "publish", bytes(key), bytes(value):
                star.shell.publish(key, value)
                star.carry()
            case "wait", float(seconds):
                star.wait(seconds)
            case "reconnect", int(which):
                star.disconnect(star.reals[which])
                star.connect(star.reals[which])
            case _:
                raise AssertionError(step)
    return star


@settings(max_examples=120)
@given(kinds, st.lists(steps, max_size=25))
def test_real_nodes_and_ours_agree_once_nobody_writes_and_say_no_more(
    kinds: tuple[bool, ...], script: list[tuple[object, ...]]
) -> None:
    star = play(kinds, script)
    star.settle(15.0)
    star.assert_agreement()
    heard = [real.heard for real in star.reals]
    star.settle(5.0)
    assert [real.heard for real in star.reals] == heard
    star.assert_agreement()


@settings(max_examples=60)
@given(kinds, st.lists(steps, max_size=25))
def test_the_messages_to_real_nodes_are_bounded_by_what_happened(
    kinds: tuple[bool, ...], script: list[tuple[object, ...]]
) -> None:
    star = play(kinds, script)
    star.settle(15.0)
    # Each event tells each real node at most each key, and what follows from that does so a few times.
    events = sum(step[0] in ("write", "publish", "reconnect") for step in script) + len(kinds)
    assert all(real.heard <= 4 * 2 * events for real in star.reals)


@settings(max_examples=60)
@given(kinds, st.lists(steps, max_size=15), st.integers(0, 3), VALUES)
def test_what_is_written_when_all_is_quiet_is_what_everybody_holds(
    kinds: tuple[bool, ...], script: list[tuple[object, ...]], writer: int, value: bytes
) -> None:
    star = play(kinds, script)
    star.settle(15.0)
    if writer < 3:
        star.reals[writer].write(b"k", value)
    else:
        star.shell.publish(b"k", value)
        star.carry()
    star.settle(5.0)
    star.assert_agreement()
    assert star.shell.tuples[b"k"] == value
    assert [real.table[b"k"] for real in star.reals] == [value] * 3


@settings(max_examples=60)
@given(kinds, st.lists(steps, max_size=15), st.booleans())
def test_a_deleted_key_stays_so_whoever_reconnects(
    kinds: tuple[bool, ...], script: list[tuple[object, ...]], is_known: bool
) -> None:
    star = play(kinds, script)
    star.shell.publish(b"k", b"w")
    star.carry()
    star.settle(15.0)
    star.shell.unpublish(b"k")
    for real in star.reals:
        star.disconnect(real)
        star.connect(real)
    star.settle(5.0)
    assert b"k" not in star.shell.tuples
    # The real ones hold it still; a new value is a new tuple.
    star.reals[0].write(b"k", b"new")
    star.settle(5.0)
    assert star.shell.tuples[b"k"] == b"new"
    star.assert_agreement()


def test_crossing_values_settle_whoever_is_first() -> None:
    for first in range(3):
        star = Star([Real(1), Real(A), Real(B)])
        for real in star.reals:
            star.connect(real)
        star.settle(1.0)
        for number, real in enumerate(star.reals):
            real.write(b"k", b"%d" % number)
        star.shell.publish(b"k", b"ours")
        star.carry()
        star.hear(star.reals[first], 1)
        star.settle(5.0)
        star.assert_agreement()
        assert star.shell.tuples == {b"k": b"ours"}
        assert all(real.heard <= 3 for real in star.reals)
