"""Our own join and leave, rule by rule: one core, and what it asks of the shell."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zdisco._core.actions import (
    ConnectPeer,
    Drop,
    Dropped,
    FollowWelcome,
    Output,
    ResolveEndpoint,
    SendData,
    SendToProxy,
)
from zdisco._core.config import PeerConfig
from zdisco._core.discovery import Discovery
from zdisco._core.envelope import ALL, ControlFrame, FarewellBody, Kind, LinkBody, control_frame, inbox, marker, split
from zdisco._core.errors import AnnounceTooLarge
from zdisco._core.events import PeerGone, PeerJoined, PeerUpdated, ProxyFound, ProxyLost
from zdisco._core.model import Cause, PeerInfo, Probe
from zdisco._core.wire import MAX_INCARNATION, Announce, Farewell, Welcome, decode, encode

PROXY, SECOND = "tcp://127.0.0.1:5555", "tcp://127.0.0.1:5556"
RELAY, ELSEWHERE = "tcp://127.0.0.1:41000", "tcp://127.0.0.1:41001"
HERE, THERE = "tcp://127.0.0.1:40001", "tcp://127.0.0.1:40002"
PROXY_ID, ME, BOB, EVE = UUID(int=99), UUID(int=1), UUID(int=2), UUID(int=3)
MINE, BOBS = b"mine", b"bob1"


def announce(
    id: UUID = BOB,
    endpoint: str = THERE,
    session: bytes = BOBS,
    incarnation: int = 10,
    *,
    cluster: str = "",
    host: str = "",
    again: bool = False,
    informed_by: frozenset[UUID] = frozenset(),
) -> Announce:
    info = PeerInfo(id, endpoint, incarnation=incarnation, cluster=cluster, host=host)
    return Announce(info, session, again=again, informed_by=informed_by)


def core(
    *proxies: str, endpoint: str = HERE, jitter: Callable[[], float] = lambda: 0.5, config: PeerConfig | None = None
) -> Discovery:
    me = announce(ME, endpoint, MINE, 100, host="here")
    made = Discovery(me, proxies or (PROXY,), config or PeerConfig(), jitter)
    made.start()
    made.open(0.0)
    return made


def found(made: Discovery, proxy: str = PROXY, now: float = 0.0) -> Discovery:
    hear(made, Welcome(PROXY_ID, RELAY), now, proxy)
    made.relay_up(proxy, now)
    hear(made, made.me, now, proxy)
    assert made.is_found
    return made


def hear(made: Discovery, message: Welcome | Announce | Farewell, now: float = 0.0, proxy: str = PROXY) -> list[Output]:
    return made.received(proxy, encode(message), now)


def sent(outputs: list[Output]) -> list[Welcome | Announce | Farewell]:
    return [decode(output.frame) for output in outputs if isinstance(output, SendToProxy)]


def drops(outputs: list[Output]) -> list[Drop]:
    return [output.drop for output in outputs if isinstance(output, Dropped)]


def run(made: Discovery, until: float) -> list[tuple[float, Output]]:
    """Tick at each deadline, as a shell that is never late."""
    outputs: list[tuple[float, Output]] = []
    while (at := made.deadline) <= until:
        outputs += [(at, output) for output in made.tick(at)]
    return outputs


def sent_at(outputs: list[tuple[float, Output]]) -> list[float]:
    return [at for at, output in outputs if isinstance(output, SendToProxy)]


def link_message(made: Discovery, now: float, *, stranger: bool = False, answer_me: bool = False) -> list[Output]:
    body = LinkBody(1, 0, 0, answer_me=answer_me, stranger=stranger).encode()
    return made.control(ControlFrame(ME.bytes, BOB.bytes, BOBS, Kind.LINK, body), now)


# The discovery handshake


def test_we_announce_when_the_subscription_of_the_proxy_arrives_and_not_before() -> None:
    made = core()
    assert hear(made, Welcome(PROXY_ID, RELAY)) == [FollowWelcome(PROXY, RELAY)]
    assert sent(made.relay_up(PROXY, 0.0)) == [made.me]
    assert not made.is_found
    assert hear(made, made.me) == [ProxyFound(PROXY)]
    assert made.is_found


def test_an_announce_is_repeated_ever_more_slowly_until_it_comes_back() -> None:
    made = core()
    hear(made, Welcome(PROXY_ID, RELAY))
    made.relay_up(PROXY, 0.0)
    times = sent_at(run(made, 4.1))
    assert times[:5] == pytest.approx([0.002, 0.006, 0.014, 0.030, 0.062])
    assert times[-1] - times[-2] == pytest.approx(1.0)
    hear(made, made.me, 4.1)
    assert not sent_at(run(made, 20.0))


@pytest.mark.parametrize(
    "other", [announce(ME, HERE, b"else", 1), announce(ME, THERE, MINE, 100), announce(BOB, HERE, MINE, 100)]
)
def test_only_our_own_announce_is_an_echo(other: Announce) -> None:
    made = core()
    hear(made, Welcome(PROXY_ID, RELAY))
    made.relay_up(PROXY, 0.0)
    hear(made, other)
    assert not made.is_found


def test_after_the_death_and_the_return_of_the_proxy_we_announce_again() -> None:
    made = found(core())
    made.relay_down(PROXY, 1.0)
    assert made.proxy_down(PROXY, 1.0) == [ProxyLost(PROXY)]
    assert hear(made, Welcome(EVE, ELSEWHERE), 2.0) == [FollowWelcome(PROXY, ELSEWHERE)]
    assert sent(made.relay_up(PROXY, 2.0)) == [made.me]
    assert hear(made, made.me, 2.0) == [ProxyFound(PROXY)]


def test_a_welcome_with_the_same_endpoint_after_a_reconnect_makes_us_announce_again() -> None:
    made = found(core())
    made.proxy_down(PROXY, 1.0)
    outputs = hear(made, Welcome(PROXY_ID, RELAY), 2.0)
    assert FollowWelcome(PROXY, RELAY) not in outputs, "proxyPub never lost its connection"
    assert sent(outputs) == [made.me]


def test_a_welcome_with_the_same_endpoint_after_both_connections_ended_is_followed() -> None:
    made = found(core())
    made.relay_down(PROXY, 1.0)
    made.proxy_down(PROXY, 1.0)
    assert hear(made, Welcome(PROXY_ID, RELAY), 2.0) == [FollowWelcome(PROXY, RELAY)]


def test_a_welcome_elsewhere_is_not_followed_while_the_relay_hears_us() -> None:
    made = found(core())
    assert drops(hear(made, Welcome(EVE, ELSEWHERE), 1.0)) == [Drop.FORGED_WELCOME]
    assert hear(made, Welcome(PROXY_ID, RELAY), 1.0) == []
    assert made.is_found


def test_a_welcome_elsewhere_is_tried_soon_when_the_first_does_not_answer() -> None:
    made = core()
    hear(made, Welcome(EVE, ELSEWHERE))
    assert hear(made, Welcome(PROXY_ID, RELAY), 0.1) == [], "the first gets its chance"
    followed = [output for _, output in run(made, 1.0) if isinstance(output, FollowWelcome)]
    assert followed[0] == FollowWelcome(PROXY, RELAY)


def test_of_several_publish_endpoints_each_is_tried_for_longer_in_each_round() -> None:
    made = core()
    hear(made, Welcome(EVE, ELSEWHERE))
    hear(made, Welcome(PROXY_ID, RELAY))
    followed = [at for at, output in run(made, 20.0) if isinstance(output, FollowWelcome)]
    assert followed[:8] == pytest.approx([0.1, 0.2, 0.4, 0.6, 1.0, 1.4, 2.2, 3.0])
    assert followed[-1] - followed[-2] == pytest.approx(2.0), "relay_retry_interval"


def test_no_flood_of_welcomes_grows_without_bound() -> None:
    made = core()
    outputs = [hear(made, Welcome(EVE, f"tcp://127.0.0.1:{42000 + number}")) for number in range(100)]
    assert drops(outputs[-1]) == [Drop.FORGED_WELCOME]


def test_as_many_welcomes_are_kept_as_the_bound_says() -> None:
    made, most = core(), PeerConfig().max_welcomes
    outputs = [hear(made, Welcome(EVE, f"tcp://127.0.0.1:{42000 + number}")) for number in range(most + 1)]
    assert outputs[1:most] == [[]] * (most - 1)
    assert drops(outputs[most]) == [Drop.FORGED_WELCOME]


def test_the_welcomes_for_other_newcomers_do_not_make_us_connect_anew() -> None:
    made = core()
    hear(made, Welcome(PROXY_ID, RELAY))
    assert all(hear(made, Welcome(PROXY_ID, RELAY), number / 10) == [] for number in range(100))
    assert made.deadline == 2.0, "nor do they put the next attempt off"


@pytest.mark.parametrize("endpoint", ["ipc:///tmp/x", "tcp://0.0.0.0:1", "tcp://127.0.0.1:0", "tcp://*:5"])
def test_a_welcome_that_nobody_can_connect_to_is_dropped(endpoint: str) -> None:
    assert drops(hear(core(), Welcome(PROXY_ID, endpoint))) == [Drop.REFUSED_ENDPOINT]


def test_a_relay_that_does_not_hear_us_is_connected_anew_every_2_seconds() -> None:
    made = core()
    hear(made, Welcome(PROXY_ID, RELAY))
    assert run(made, 6.5) == [(at, FollowWelcome(PROXY, RELAY)) for at in (2.0, 4.0, 6.0)]


def test_the_beacon_keeps_its_interval_within_the_jitter() -> None:
    for jitter, first in ((0.0, 24.0), (0.5, 30.0), (0.999, 36.0)):
        made = found(core(jitter=lambda jitter=jitter: jitter))  # type: ignore[misc]
        assert sent_at(run(made, 40.0))[0] == pytest.approx(first, abs=0.1)


@given(st.binary(max_size=400))
def test_any_bytes_from_a_proxy_are_harmless(frame: bytes) -> None:
    for output in core().received(PROXY, frame, 0.0):
        assert isinstance(output, Dropped | ConnectPeer | FollowWelcome)


# Announces of others


def test_an_unknown_peer_is_connected_and_answered() -> None:
    made = found(core())
    assert hear(made, announce()) == [ConnectPeer(THERE)]
    assert sent_at(run(made, 0.2)) == [0.0005]
    assert not sent(hear(made, announce())), "known now"
    assert sent_at(run(made, 1.0)) == []


def test_one_answer_serves_all_newcomers_of_that_time() -> None:
    made = found(core())
    for number in range(50):
        hear(made, announce(UUID(int=100 + number), f"tcp://127.0.0.1:{42000 + number}", b"ses%d" % (number % 10)))
    assert len(sent_at(run(made, 0.2))) == 1


def test_a_stream_of_newcomers_does_not_put_the_answer_off() -> None:
    made = found(core())
    hear(made, announce())
    first = made.deadline
    assert first == 0.0005
    hear(made, announce(EVE, "tcp://127.0.0.1:40003"), first / 2)
    assert made.deadline == first


def test_an_answer_waits_at_most_a_tenth_of_a_second() -> None:
    made = found(core(jitter=lambda: 0.999, config=PeerConfig(answer_delay_per_peer=1.0)))
    hear(made, announce())
    assert sent_at(run(made, 1.0)) == pytest.approx([0.0999])


@pytest.mark.parametrize(
    ("informed_by", "again", "is_answered"),
    [({PROXY_ID}, False, False), ({PROXY_ID}, True, True), ({EVE}, False, True), (set(), False, True)],
)
def test_who_was_told_of_us_by_every_proxy_of_ours_needs_no_answer(
    informed_by: set[UUID], again: bool, is_answered: bool
) -> None:
    made = found(core())
    hear(made, announce(again=again, informed_by=frozenset(informed_by)))
    assert bool(sent_at(run(made, 1.0))) == is_answered


def test_what_is_said_without_a_session_is_not_kept() -> None:
    made = found(core())
    said = PeerInfo(BOB, THERE, name="x", cluster="other", incarnation=MAX_INCARNATION)
    assert hear(made, Announce(said)) == [ConnectPeer(THERE)]
    assert made.link_up(THERE, 0.0) == [PeerJoined(PeerInfo(BOB, THERE))]


def test_a_peer_of_another_cluster_is_not_connected() -> None:
    made = found(core())
    assert hear(made, announce(cluster="other")) == [Dropped(Drop.FOREIGN_CLUSTER, "other")]
    assert not made.roster.links


@pytest.mark.parametrize(
    ("mine", "host", "is_used"),
    [
        (HERE, "there", True),
        ("tcp://192.0.2.1:40001", "here", True),
        ("tcp://192.0.2.1:40001", "there", False),
        ("tcp://192.0.2.1:40001", "", False),
    ],
)
def test_a_loopback_endpoint_is_used_only_on_its_own_host(mine: str, host: str, is_used: bool) -> None:
    made = found(core(endpoint=mine))
    outputs = hear(made, announce(host=host))
    assert (ConnectPeer(THERE) in outputs) == is_used
    assert (drops(outputs) == [Drop.REFUSED_ENDPOINT]) != is_used


def test_two_peers_that_name_no_host_are_not_on_the_same_host() -> None:
    me = announce(ME, "tcp://192.0.2.1:40001", MINE, 100)
    made = found(Discovery(me, (PROXY,), PeerConfig(), lambda: 0.5))
    assert drops(hear(made, announce())) == [Drop.REFUSED_ENDPOINT]


@pytest.mark.parametrize("endpoint", [HERE, "tcp://[::ffff:127.0.0.1]:40001", "tcp://0.0.0.0:1", "ipc:///tmp/x"])
def test_nobody_is_connected_at_our_own_endpoint_or_at_none(endpoint: str) -> None:
    assert drops(hear(found(core()), announce(endpoint=endpoint))) == [Drop.REFUSED_ENDPOINT]


def test_a_host_name_is_looked_up_once_before_it_is_connected() -> None:
    made = found(core())
    name = "tcp://localhost:40002"
    assert hear(made, announce(endpoint=name)) == [ResolveEndpoint(name)]
    assert hear(made, announce(endpoint=name)) == []
    assert made.resolved(name, THERE, 1.0) == [ConnectPeer(THERE)]
    assert made.resolved(name, THERE, 1.0) == [], "a second answer is nobody's"
    hear(made, announce(EVE, "tcp://nowhere:1"))
    assert drops(made.resolved("tcp://nowhere:1", None, 1.0)) == [Drop.REFUSED_ENDPOINT]


def test_all_who_announce_one_host_name_wait_for_one_look_up() -> None:
    made = found(core())
    name = "tcp://localhost:40002"
    assert hear(made, announce(endpoint=name)) == [ResolveEndpoint(name)]
    assert hear(made, announce(EVE, name)) == []
    made.resolved(name, THERE, 1.0)
    assert [link.peer.id for link in made.roster.links] == [BOB, EVE]


def test_a_peer_that_is_connected_under_its_host_name_is_not_looked_up_again() -> None:
    made = found(core())
    name = "tcp://localhost:40002"
    hear(made, announce(endpoint=name))
    made.resolved(name, THERE, 1.0)
    assert hear(made, announce(endpoint=name), 2.0) == [ResolveEndpoint(name)], "it may have moved"
    made.resolved(name, THERE, 2.0)
    made.link_up(THERE, 3.0)
    assert hear(made, announce(endpoint=name), 4.0) == []
    made.link_down(THERE, 5.0)
    assert hear(made, announce(endpoint=name), 6.0) == [ResolveEndpoint(name)]


def test_look_ups_are_bounded() -> None:
    made = found(core())
    outputs = [hear(made, announce(endpoint=f"tcp://host{number}:1")) for number in range(PeerConfig().max_lookups + 1)]
    assert drops(outputs[-1]) == [Drop.TABLE_FULL]
    same = "tcp://host0:1"
    assert drops(hear(made, announce(EVE, same))) == [Drop.TABLE_FULL], "who waits for a name is counted, too"


def test_all_who_wait_for_one_look_up_are_counted() -> None:
    made = found(core())
    name, most = "tcp://localhost:40002", PeerConfig().max_lookups
    outputs = [hear(made, announce(UUID(int=100 + number), name)) for number in range(most + 1)]
    assert outputs[:most] == [[ResolveEndpoint(name)], *[[]] * (most - 1)]
    assert drops(outputs[most]) == [Drop.TABLE_FULL]


@pytest.mark.parametrize("endpoint", [THERE, None])
def test_a_look_up_that_ends_after_we_left_leads_nowhere(endpoint: str | None) -> None:
    made = found(core())
    hear(made, announce(endpoint="tcp://localhost:40002"))
    made.leave(1.0)
    assert made.resolved("tcp://localhost:40002", endpoint, 1.5) == []
    assert not made.roster.links


def test_who_takes_us_for_a_stranger_makes_us_announce_with_again() -> None:
    made = found(core())
    link_message(made, 1.0, stranger=True)
    (answer,) = sent([output for _, output in run(made, 1.5)])
    assert isinstance(answer, Announce)
    assert answer.again
    hear(made, announce(), 2.0)
    (answer,) = sent([output for _, output in run(made, 2.5)])
    assert isinstance(answer, Announce)
    assert not answer.again, "asked for once"


# What others say about us


@pytest.mark.parametrize(
    "farewell", [Farewell(ME, HERE), Farewell(ME, HERE, 100, MINE), Farewell(ME, THERE, 100, b"else")]
)
def test_a_farewell_in_our_name_makes_us_raise_our_incarnation_and_announce(farewell: Farewell) -> None:
    made = found(core())
    outputs = hear(made, farewell, 1.0)
    assert drops(outputs) == [Drop.FORGED_FAREWELL]
    assert sent(outputs) == [made.me]
    assert made.info.incarnation == 101


def test_what_is_said_about_us_is_refuted_once_in_an_announce_interval_but_in_the_end() -> None:
    made = found(core())
    assert sent(hear(made, Farewell(ME, HERE, 100), 1.0))
    for now in (1.1, 1.2, 1.9):
        assert not sent(hear(made, announce(ME, THERE, b"else", 500), now))
    later = {at: decode(output.frame) for at, output in run(made, 5.0) if isinstance(output, SendToProxy)}
    raised = [at for at, said in later.items() if isinstance(said, Announce) and said.info.incarnation > 101]
    assert raised == [max(later)] == [pytest.approx(2.1)]
    assert later[max(later)] == made.me
    assert made.info.incarnation == 501


def test_a_forged_farewell_does_not_choose_our_incarnation() -> None:
    made = found(core())
    hear(made, Farewell(ME, HERE, MAX_INCARNATION, MINE), 1.0)
    assert made.info.incarnation == 101


@pytest.mark.parametrize(
    "copy",
    [
        announce(ME, THERE, MINE, 100),
        announce(ME, HERE, MINE, 150),
        Announce(PeerInfo(ME, HERE, incarnation=100, revision=1), MINE),
    ],
)
def test_a_forged_announce_with_our_own_session_is_refuted(copy: Announce) -> None:
    made = found(core())
    outputs = hear(made, copy, 1.0)
    assert drops(outputs) == [Drop.FORGED_ANNOUNCE]
    assert sent(outputs) == [made.me]
    assert made.info.incarnation == copy.info.incarnation + 1


def test_an_older_announce_of_ours_needs_no_answer() -> None:
    made = found(core())
    was = made.me
    hear(made, Farewell(ME, HERE), 1.0)
    assert hear(made, was, 9.0) == []


def test_our_id_with_another_session_makes_us_raise_our_incarnation_above_it() -> None:
    made = found(core())
    assert not sent(hear(made, announce(ME, THERE, b"else", 200), 1.0)), "first it is seen whether it runs"
    assert made.me in sent([output for _, output in run(made, 2.1)])
    assert made.info.incarnation == 201
    hear(made, announce(ME, THERE, b"else", 150), 9.0)
    run(made, 12.0)
    assert made.info.incarnation == 201, "one of an older life needs no answer"


def test_our_id_with_another_session_and_our_incarnation_is_refuted() -> None:
    made = found(core())
    hear(made, announce(ME, THERE, b"else", 100), 1.0)
    run(made, 2.1)
    assert made.info.incarnation == 101


def test_our_id_in_another_cluster_is_no_matter_of_ours() -> None:
    made = found(core())
    elsewhere = PeerInfo(ME, THERE, incarnation=200, cluster="other")
    assert drops(hear(made, Announce(elsewhere, b"else"), 1.0)) == [Drop.FOREIGN_CLUSTER]
    run(made, 9.0)
    assert made.info.incarnation == 100
    assert len(made.roster) == 0


def test_the_highest_incarnation_leaves_no_room_and_does_no_harm() -> None:
    made = found(core())
    hear(made, announce(ME, THERE, b"else", MAX_INCARNATION), 1.0)
    run(made, 8.0)
    hear(made, announce(ME, THERE, b"else", MAX_INCARNATION), 9.0)
    run(made, 12.0)
    assert made.info.incarnation == MAX_INCARNATION


# Leaving


def direct_farewells(outputs: list[Output]) -> int:
    frames = [split(output.frame) for output in outputs if isinstance(output, SendData)]
    return sum(isinstance(f, ControlFrame) and f.kind is Kind.FAREWELL and f.inbox is None for f in frames)


def test_the_farewell_is_repeated_until_our_own_comes_back() -> None:
    made = found(core())
    outputs = made.leave(1.0)
    assert isinstance(outputs[0], SendData), "the direct farewell is first"
    assert direct_farewells(outputs) == 1
    farewell = Farewell(ME, HERE, 100, MINE)
    assert sent(outputs) == [farewell]
    assert made.unheard_farewells == {PROXY}
    assert sent_at(run(made, 1.02)) == pytest.approx([1.002, 1.006, 1.014])
    for other in (Farewell(ME, HERE, 100, b"else"), Farewell(ME, HERE)):
        hear(made, other, 1.02)
        assert made.unheard_farewells
    assert hear(made, farewell, 1.02) == []
    assert not made.unheard_farewells
    assert not sent_at(run(made, 100.0))


def test_with_every_proxy_gone_nobody_waits() -> None:
    made = core()
    assert direct_farewells(made.leave(1.0)) == 1
    assert not made.unheard_farewells
    made = found(core())
    made.leave(1.0)
    made.relay_down(PROXY, 1.001)
    assert not made.unheard_farewells
    assert not sent_at(run(made, 100.0))


def test_a_farewell_waits_for_each_proxy_that_relays_us() -> None:
    made = found(found(core(PROXY, SECOND)), SECOND)
    made.leave(1.0)
    hear(made, Farewell(ME, HERE, 100, MINE), 1.0)
    assert made.unheard_farewells == {SECOND}


def test_who_leaves_before_its_announce_came_back_announces_no_more() -> None:
    made = core()
    hear(made, Welcome(PROXY_ID, RELAY))
    assert sent(made.relay_up(PROXY, 0.0)) == [made.me]
    outputs = made.leave(0.001) + [output for _, output in run(made, 10.0)]
    assert set(sent(outputs)) == {Farewell(ME, HERE, 100, MINE)}


def test_a_proxy_that_only_hears_us_is_told_farewell_and_not_waited_for() -> None:
    made = found(core())
    made.proxy_down(PROXY, 1.0)
    assert sent(made.leave(1.0)) == [Farewell(ME, HERE, 100, MINE)]
    assert not made.unheard_farewells
    assert not sent_at(run(made, 100.0))


def test_a_second_leave_does_nothing() -> None:
    made = found(core())
    made.leave(1.0)
    assert made.leave(2.0) == []


def test_who_is_connected_to_a_peer_that_stays_silent_announces_again_and_ever_more_rarely() -> None:
    made = found(core())
    hear(made, announce())
    run(made, 0.5)  # the answer to its announce, which it may have missed
    made.open(0.5)
    made.link_up(THERE, 0.5)
    times = sent_at(run(made, 22.0))
    gaps = [round(later - earlier) for earlier, later in pairwise(times)]
    assert times[0] < 2.5
    assert gaps == [1, 2, 4, 8][: len(gaps)]
    assert len(gaps) == 4


def test_a_leaving_peer_says_farewell_again_to_who_connects_late() -> None:
    made = found(core())
    made.leave(1.0)
    assert made.subscribed(inbox(BOB), 1.0) == []
    (output,) = made.subscribed(marker(BOB, BOBS, 1), 1.0)
    assert isinstance(output, SendData)
    frame = split(output.frame)
    assert isinstance(frame, ControlFrame)
    assert (frame.inbox, frame.kind) == (BOB.bytes, Kind.FAREWELL)


def test_a_leaving_peer_answers_nobody_and_announces_no_more() -> None:
    made = found(core())
    hear(made, announce(), 0.5)
    made.link_up(THERE, 0.5)
    hear(made, announce(EVE, "tcp://127.0.0.1:40003"), 1.0)
    made.leave(1.0)
    outputs = hear(made, announce(UUID(int=7), "tcp://127.0.0.1:40004"), 1.0)
    outputs += link_message(made, 1.0, stranger=True, answer_me=True)
    outputs += made.subscribed(inbox(BOB), 1.0)
    outputs += made.open(1.0)
    outputs += made.link_up("tcp://127.0.0.1:40003", 1.0)
    outputs += hear(made, Farewell(ME, HERE), 1.0)
    outputs += hear(made, made.me, 1.0)
    outputs += made.relay_down(PROXY, 1.1) + made.relay_up(PROXY, 1.2)
    outputs += [output for _, output in run(made, 1000.0)]
    assert not [message for message in sent(outputs) if isinstance(message, Announce)]
    assert not [output for output in outputs if isinstance(output, SendData | PeerJoined | ConnectPeer)]


# The data channel


def test_a_direct_farewell_ends_the_stay() -> None:
    made = found(core())
    hear(made, announce())
    made.link_up(THERE, 0.0)
    link_message(made, 0.0)
    assert PeerJoined(announce().info) in made.subscribed(marker(BOB, BOBS, 1), 0.0)
    assert made.joined == {BOB: announce().info}
    frame = split(control_frame(ALL, Kind.FAREWELL, BOB, BOBS, FarewellBody(10).encode()))
    assert isinstance(frame, ControlFrame)
    assert PeerGone(announce().info, Cause.FAREWELL) in made.control(frame, 1.0)
    assert drops(hear(made, announce(), 1.0)) == [Drop.TOMBSTONED]


@pytest.mark.parametrize("kind", [kind for kind in Kind if kind is not Kind.BEAT])
def test_a_control_frame_that_makes_no_sense_is_counted(kind: Kind) -> None:
    frame = ControlFrame(ME.bytes, BOB.bytes, BOBS, kind, b"")
    assert drops(core().control(frame, 0.0)) == [Drop.MALFORMED_CONTROL]


@pytest.mark.parametrize(("topic", "drop"), [(b"\xff", [Drop.MALFORMED_SUBSCRIPTION]), (b"", []), (b"prices", [])])
def test_subscriptions_of_the_application_are_not_ours_to_judge(topic: bytes, drop: list[Drop]) -> None:
    assert drops(core().subscribed(topic, 0.0)) == drop


# Changes of ourselves


def joined_bob(made: Discovery) -> Discovery:
    hear(made, announce())
    made.link_up(THERE, 0.0)
    link_message(made, 0.0)
    made.subscribed(marker(BOB, BOBS, 1), 0.0)
    assert made.joined == {BOB: announce().info}
    return made


def direct(message: Announce | Farewell | Welcome, id: UUID = BOB, session: bytes = BOBS) -> ControlFrame:
    return ControlFrame(None, id.bytes, session, Kind.ANNOUNCE, encode(message))


def changed(revision: int = 1, *, endpoint: str = THERE, **fields: Any) -> Announce:
    return Announce(PeerInfo(BOB, endpoint, incarnation=10, revision=revision, **fields), BOBS)


def test_a_change_raises_the_revision_and_goes_to_all_at_once_both_ways() -> None:
    made = found(core())
    outputs = made.update(headers={"x": "y"}, groups=["g"], services=["s"], names={"n": (THERE,)})
    assert made.info.revision == 1
    assert made.info.incarnation == 100, "which is raised only to refute"
    assert made.info.headers == {"x": "y"}
    assert [*made.info.groups, *made.info.services] == ["g", "s"]
    assert made.info.names == {"n": (THERE,)}
    frame = encode(made.me)
    assert outputs == [SendData(control_frame(ALL, Kind.ANNOUNCE, ME, MINE, frame)), SendToProxy(PROXY, frame)]
    assert made.update(headers={"x": "y"}, groups=["g"]) == [], "nothing has changed"
    assert made.info.revision == 1
    made.update(services=[], names={})
    assert made.info.revision == 2
    assert made.info.names == {}
    assert [*made.info.groups, *made.info.services] == ["g"]
    assert hear(made, made.me) == [], "it is our own echo"


def test_a_change_that_cannot_be_announced_changes_nothing() -> None:
    made = found(core())
    was = made.me
    with pytest.raises(AnnounceTooLarge):
        made.update(headers={"x": "y" * 70_000})
    with pytest.raises(ValueError, match="surrogate"):
        made.update(groups=["\ud800"])
    with pytest.raises(ValueError, match="nonsense"):
        made.update(names={"n": ("nonsense",)})
    assert made.me == was


def test_a_classic_peer_has_no_names_whatever_stands_behind_its_announce() -> None:
    made = found(core())
    hear(made, Announce(PeerInfo(BOB, THERE, names={"n": (THERE,)})))
    assert [link.peer for link in made.roster.links] == [PeerInfo(BOB, THERE)]


def test_a_peer_that_is_leaving_changes_nothing() -> None:
    made = found(core())
    made.leave(0.0)
    assert made.update(headers={"x": "y"}) == []
    assert made.info.revision == 0


def test_who_connects_later_is_sent_the_present_state_before_the_link_message() -> None:
    made = joined_bob(found(core()))
    assert all(split(frame.frame).kind is Kind.LINK for frame in made.subscribed(inbox(BOB), 1.0))  # type: ignore[union-attr]
    made.update(headers={"x": "y"})
    first, second = (split(frame.frame) for frame in made.subscribed(inbox(BOB), 2.0))  # type: ignore[union-attr]
    assert first == ControlFrame(BOB.bytes, ME.bytes, MINE, Kind.ANNOUNCE, encode(made.me))
    assert isinstance(second, ControlFrame)
    assert second.kind is Kind.LINK


def test_a_direct_announce_updates_once_whichever_way_is_first() -> None:
    new = changed(headers={"x": "y"})
    made = joined_bob(found(core()))
    assert made.control(direct(new), 1.0) == [PeerUpdated(new.info, announce().info)]
    assert hear(made, new, 1.1) == []
    assert made.control(direct(new), 1.2) == []
    assert hear(made, announce(), 1.3) == [], "an older one that was overtaken"
    assert made.joined[BOB] == new.info
    made = joined_bob(found(core()))
    assert hear(made, new, 1.0) == [PeerUpdated(new.info, announce().info)]
    assert made.control(direct(new), 1.1) == []


def test_where_a_peer_is_does_not_change_by_a_direct_announce() -> None:
    made = joined_bob(found(core()))
    outputs = made.control(direct(changed(endpoint=ELSEWHERE, headers={"x": "y"})), 1.0)
    assert outputs == [PeerUpdated(changed(headers={"x": "y"}).info, announce().info)]


@pytest.mark.parametrize(
    "frame",
    [
        direct(announce(EVE)),
        direct(announce(session=b"else")),
        direct(Announce(PeerInfo(BOB, THERE)), session=bytes(4)),
        direct(Farewell(BOB, THERE, 10, BOBS)),
        direct(Welcome(BOB, RELAY)),
        ControlFrame(None, BOB.bytes, BOBS, Kind.ANNOUNCE, b"C"),
    ],
)
def test_a_direct_announce_is_believed_only_of_its_own_sender(frame: ControlFrame) -> None:
    made = joined_bob(found(core()))
    assert drops(made.control(frame, 1.0)) == [Drop.MALFORMED_CONTROL]
    assert made.joined == {BOB: announce().info}


def test_a_direct_announce_makes_no_link_and_revives_none() -> None:
    made = found(core())
    assert drops(made.control(direct(announce()), 1.0)) == [Drop.UNKNOWN_SENDER]
    joined_bob(made)
    made.link_down(THERE, 1.0)
    made.probed(THERE, Probe.REFUSED, 1.0)  # it is given up, and read to its end
    assert made.control(direct(changed(headers={"x": "y"})), 1.0) == []
    assert made.drained(THERE, 1.1) == [PeerGone(announce().info, Cause.REFUSED)]
    assert len(made.roster) == 0


# Another address


def test_who_has_moved_connects_to_the_proxy_anew_and_announces_where_it_is() -> None:
    made = found(core())
    assert made.moved(THERE, 1.0) == [ProxyLost(PROXY)]
    assert (made.info.endpoint, made.info.revision) == (THERE, 1)
    assert FollowWelcome(PROXY, RELAY) in hear(made, Welcome(PROXY_ID, RELAY), 1.1)
    (sent,) = [output for output in made.relay_up(PROXY, 1.2) if isinstance(output, SendToProxy)]
    assert decode(sent.frame) == made.me
    assert hear(made, made.me, 1.3) == [ProxyFound(PROXY)]


def test_what_we_announced_before_we_moved_is_no_forgery() -> None:
    made = found(core())
    former = made.me
    made.moved(THERE, 1.0)
    hear(made, Welcome(PROXY_ID, RELAY), 1.1)
    made.relay_up(PROXY, 1.2)
    assert not any(isinstance(output, Dropped) for output in hear(made, former, 1.3))
    assert made.info.incarnation == former.info.incarnation


def test_who_leaves_moves_no_more() -> None:
    made = found(core())
    made.leave(1.0)
    assert made.moved(THERE, 1.1) == []
    assert made.info.endpoint == HERE


@pytest.mark.parametrize(("peers", "pace"), [(0, 1.0), (8, 1.0), (16, 2.0), (32, 4.0), (1000, 4.0)])
def test_with_many_peers_beacons_are_rarer(peers: int, pace: float) -> None:
    made = core()
    made.roster._joined.update({UUID(int=number): announce().info for number in range(peers)})
    found(made)
    at = made.deadline
    assert at == made.config.beacon_interval * pace
