"""Programs of the classic protocol and zdisco's meet, whichever proxy relays them.

The classic ones are those of ``classic.py``, each in a process of its own; so are the proxies,
which are killed here.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any
from uuid import UUID, uuid4

import anyio
import anyio.abc
import pytest
import zmq
from anyio import to_thread
from attrs import evolve

from classic import Program, Stranger
from effort import THOROUGH
from zdisco import (
    Cause,
    Drop,
    Event,
    EventsDropped,
    MonitorEvent,
    Peer,
    PeerConfig,
    PeerGone,
    PeerInfo,
    PeerJoined,
    PeerSuspected,
    ProxyFound,
    ProxyLost,
    SocketEvent,
    Stream,
)
from zdisco._core.actions import DrainPeer, ProbePeer
from zdisco._core.model import Probe
from zdisco._core.roster import Roster
from zdisco._core.wire import Announce, Farewell

pytestmark = pytest.mark.anyio

Backend = tuple[str, dict[str, Any]]

TIMEOUT = 20.0
"""Seconds after which something that does not happen is missed."""

ZDISCO_PROXY = """
import sys, anyio, zdisco

async def main():
    async with zdisco.Proxy(sys.argv[1]) as proxy:
        print("Proxy", proxy.id, "at", proxy.endpoint, "relay", proxy.relay, flush=True)
        await anyio.sleep_forever()

anyio.run(main)
"""


class ProxyProgram:
    """A proxy that can be killed and started again at its endpoint."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.endpoint = "tcp://127.0.0.1:*"
        self.relay = ""
        self.program = self._start()

    def _start(self) -> Program:
        if self.kind == "classic":
            program = Program.classic("proxy", "--bind", self.endpoint)
        else:
            program = Program(sys.executable, "-c", ZDISCO_PROXY, self.endpoint)
        try:
            match = program.wait_for(r"at (tcp://\S+) relay (tcp://\S+)")
        except BaseException:
            program.__exit__(None, None, None)
            raise
        self.endpoint, self.relay = match[1], match[2]
        return program

    def restart(self) -> None:
        self.program.__exit__(None, None, None)
        self.program = self._start()


ASYNCIO: Backend = ("asyncio", {"use_uvloop": False})
UVLOOP: Backend = ("asyncio", {"use_uvloop": True})
TRIO: Backend = ("trio", {})
NEEDS_UVLOOP = pytest.mark.skipif(find_spec("uvloop") is None, reason="uvloop is not installed")
# Each event loop and each proxy, and both proxies with the loop that differs most.
MEETINGS = [
    pytest.param((ASYNCIO, "classic"), id="asyncio-classic"),
    pytest.param((UVLOOP, "zdisco"), id="uvloop-zdisco", marks=NEEDS_UVLOOP),
    pytest.param((TRIO, "classic"), id="trio-classic"),
    pytest.param((TRIO, "zdisco"), id="trio-zdisco"),
]
if THOROUGH:
    MEETINGS += [
        pytest.param((ASYNCIO, "zdisco"), id="asyncio-zdisco"),
        pytest.param((UVLOOP, "classic"), id="uvloop-classic", marks=NEEDS_UVLOOP),
    ]


@pytest.fixture(scope="module", params=MEETINGS)
def meeting(request: pytest.FixtureRequest) -> tuple[Backend, str]:
    """On which event loop we run, and which proxy relays."""
    both: tuple[Backend, str] = request.param
    return both


@pytest.fixture(scope="module")
def anyio_backend(meeting: tuple[Backend, str]) -> Backend:
    return meeting[0]


@pytest.fixture
def proxy(meeting: tuple[Backend, str]) -> Iterator[ProxyProgram]:
    program = ProxyProgram(meeting[1])
    yield program
    program.program.__exit__(None, None, None)


@pytest.fixture
def start_peer(proxy: ProxyProgram) -> Iterator[Callable[..., Program]]:
    """Starts classic peers; they wake up ten times as often as the original, so that tests take less time."""
    programs: list[Program] = []

    def start(*arguments: str, poll: int = 100) -> Program:
        programs.append(Program.classic("peer", proxy.endpoint, "--poll", str(poll), *arguments))
        return programs[-1]

    yield start
    for program in programs:
        program.__exit__(None, None, None)


async def line(program: Program, pattern: str) -> str:
    """Wait until a program prints a line that matches; returns its first group."""
    match = await to_thread.run_sync(program.wait_for, pattern, TIMEOUT)
    return match[1] if match.re.groups else match[0]


async def id_of(program: Program) -> UUID:
    return UUID(await line(program, r"I am (\S+) at "))


async def endpoint_of(program: Program) -> str:
    return await line(program, r"I am \S+ at (\S+)")


@dataclass
class Seen:
    """A zdisco peer and all that it was told."""

    peer: Peer
    events: list[Event] = field(default_factory=list)
    changed: anyio.Event = field(default_factory=anyio.Event)

    async def watch(self, events: Stream[Event]) -> None:
        async for event in events:
            self.events.append(event)
            self.changed.set()
            self.changed = anyio.Event()

    async def wait_for(self, holds: Callable[[], bool]) -> None:
        with anyio.fail_after(TIMEOUT):
            while not holds():
                await self.changed.wait()

    async def gone(self, id: UUID) -> Cause:
        def found() -> list[Cause]:
            return [event.cause for event in self.events if isinstance(event, PeerGone) and event.peer.id == id]

        await self.wait_for(lambda: bool(found()))
        assert len(found()) == 1
        return found()[0]

    async def joined(self, *ids: UUID) -> None:
        await self.peer.wait_for(lambda peers: set(ids) <= set(peers), timeout=TIMEOUT)

    def count(self, kind: type) -> int:
        return sum(isinstance(event, kind) for event in self.events)

    def assert_nobody_joined_twice(self) -> None:
        joins = Counter(event.peer.id for event in self.events if isinstance(event, PeerJoined))
        assert not [id for id, count in joins.items() if count > 1]


@asynccontextmanager
async def zdisco_peer(endpoint: str, **arguments: Any) -> AsyncIterator[Seen]:
    """A zdisco peer whose events are noted from before its start to after its end."""
    seen = Seen(Peer(endpoint, **arguments))
    async with anyio.create_task_group() as tasks:
        # Ends with the peer, so that nothing that it told is missed.
        tasks.start_soon(seen.watch, seen.peer.events())
        async with seen.peer:
            yield seen
    seen.assert_nobody_joined_twice()


async def test_a_classic_peer_that_comes_later_joins_and_its_farewell_ends_the_stay_at_once(
    proxy: ProxyProgram, start_peer: Callable[..., Program]
) -> None:
    async with zdisco_peer(proxy.endpoint) as ours:
        # As slow as the original.
        classic = start_peer(poll=1000)
        id = await id_of(classic)
        await ours.joined(id)
        info = ours.peer.peers[id]
        assert info == evolve(type(info)(id, await endpoint_of(classic)))
        await line(classic, f"Got C from {ours.peer.id} with endpoint {ours.peer.me.endpoint}$")
        await line(classic, f"Connecting data sub to {ours.peer.me.endpoint}")

        classic.tell("leave")

        assert await ours.gone(id) is Cause.FAREWELL
        await line(classic, "Exiting normally")
        assert await to_thread.run_sync(classic.process.wait) == 0
        assert not ours.count(PeerSuspected)


async def test_a_classic_peer_that_was_there_before_is_found(
    proxy: ProxyProgram, start_peer: Callable[..., Program]
) -> None:
    classic = start_peer()
    id = await id_of(classic)
    await line(classic, f"Got C from {id}")
    async with zdisco_peer(proxy.endpoint) as ours:
        await ours.joined(id)
        await line(classic, f"Connecting data sub to {ours.peer.me.endpoint}")
        classic.tell("leave")
        assert await ours.gone(id) is Cause.FAREWELL


async def test_classic_peers_see_our_farewell_and_disconnect(
    proxy: ProxyProgram, start_peer: Callable[..., Program]
) -> None:
    classics = [start_peer(), start_peer()]
    ids = [await id_of(classic) for classic in classics]
    async with zdisco_peer(proxy.endpoint) as ours:
        await ours.joined(*ids)
        for classic in classics:
            await line(classic, f"Connecting data sub to {ours.peer.me.endpoint}")
        await ours.peer.leave()
        for classic in classics:
            await line(classic, f"Got D from {ours.peer.id} with endpoint {ours.peer.me.endpoint}$")
            await line(classic, f"Disconnecting data sub from {ours.peer.me.endpoint}")
    # We never speak in the name of another: that would end it.
    for classic in classics:
        assert classic.process.poll() is None
        assert not any(classic.found(f"Got D from {id}") for id in ids)


async def test_data_flows_between_classic_and_zdisco_peers(
    proxy: ProxyProgram, start_peer: Callable[..., Program]
) -> None:
    classic = start_peer("--publish", "prices.eur 1.08")
    async with (
        zdisco_peer(proxy.endpoint) as ours,
        zdisco_peer(proxy.endpoint) as other,
        ours.peer.subscribe("prices.") as messages,
        ours.peer.subscribe("volumes.") as others,
    ):
        await ours.joined(await id_of(classic), other.peer.id)
        with anyio.fail_after(TIMEOUT):
            async for message in messages:
                assert message.sender is None
                assert message.payload == b"prices.eur 1.08"
                break
            await other.joined(ours.peer.id)
            await other.peer.publish("volumes.eur", b"2")
            async for message in others:
                assert (message.sender, message.payload) == (other.peer.me, b"2")
                break
            # Nobody promises a classic peer that its subscription is in force.
            expected = b"news\0".hex() + ".*" + b"from us".hex()
            while not classic.found(f"Got data {expected}"):
                await ours.peer.publish("news", b"from us")
                await anyio.sleep(0.01)


async def test_everybody_outlives_the_proxy_and_nobody_joins_twice(
    proxy: ProxyProgram, start_peer: Callable[..., Program]
) -> None:
    classic = start_peer()
    classic_id = await id_of(classic)
    async with zdisco_peer(proxy.endpoint) as ours, zdisco_peer(proxy.endpoint) as other:
        await ours.joined(classic_id, other.peer.id)
        await other.joined(classic_id, ours.peer.id)
        old_relay = proxy.relay

        await to_thread.run_sync(proxy.restart)

        assert proxy.relay != old_relay
        for one in (ours, other):
            await one.wait_for(lambda one=one: one.count(ProxyFound) == 2)  # type: ignore[misc]
            assert one.count(ProxyLost) == 1
        await line(classic, f"Connecting proxy pub to: {proxy.relay}")
        late_classic = start_peer()
        late_id = await id_of(late_classic)
        async with zdisco_peer(proxy.endpoint) as late:
            await late.joined(ours.peer.id, other.peer.id, classic_id, late_id)
            await ours.joined(classic_id, late_id, other.peer.id, late.peer.id)
            await other.joined(classic_id, late_id, ours.peer.id, late.peer.id)
            await line(classic, f"Connecting data sub to {late.peer.me.endpoint}")
            await line(late_classic, f"Connecting data sub to {ours.peer.me.endpoint}")
        for one in (ours, other):
            assert await one.gone(late.peer.id) is Cause.FAREWELL
            assert one.count(PeerGone) == 1
            assert one.count(PeerSuspected) == 0
    assert not classic.found(f"Got D from {classic_id}")


class Cable:
    """A way to the proxy that can be cut."""

    def __init__(self, tasks: anyio.abc.TaskGroup, port: int) -> None:
        self._tasks = tasks
        self._target = port
        self._port = 0
        self._scope = anyio.CancelScope()
        self._ended = anyio.Event()

    @property
    def endpoint(self) -> str:
        return f"tcp://127.0.0.1:{self._port}"

    async def plug(self) -> None:
        self._scope, self._ended = anyio.CancelScope(), anyio.Event()
        self._port = await self._tasks.start(self._serve)

    async def cut(self) -> None:
        self._scope.cancel()
        await self._ended.wait()

    async def _serve(self, *, task_status: anyio.abc.TaskStatus[int]) -> None:
        try:
            with self._scope:
                listener = await anyio.create_tcp_listener(local_host="127.0.0.1", local_port=self._port)
                async with listener:
                    task_status.started(listener.extra(anyio.abc.SocketAttribute.local_port))
                    await listener.serve(self._carry)
        finally:
            self._ended.set()

    async def _carry(self, stream: anyio.abc.SocketStream) -> None:
        async def pump(source: anyio.abc.SocketStream, sink: anyio.abc.SocketStream) -> None:
            try:
                async for chunk in source:
                    await sink.send(chunk)
            except (anyio.BrokenResourceError, anyio.ClosedResourceError):
                pass
            tasks.cancel_scope.cancel()

        async with (
            stream,
            await anyio.connect_tcp("127.0.0.1", self._target) as far,
            anyio.create_task_group() as tasks,
        ):
            tasks.start_soon(pump, stream, far)
            tasks.start_soon(pump, far, stream)


async def next_event(events: AsyncIterator[MonitorEvent | EventsDropped], socket: str) -> None:
    async for event in events:
        if isinstance(event, MonitorEvent) and event.socket == socket:
            return


async def test_a_peer_that_was_away_while_the_proxy_was_replaced_knows_a_stranger(
    proxy: ProxyProgram, start_peer: Callable[..., Program]
) -> None:
    async with anyio.create_task_group() as tasks:
        cable = Cable(tasks, int(proxy.endpoint.rpartition(":")[2]))
        await cable.plug()
        async with zdisco_peer(cable.endpoint) as ours:
            welcomes = ours.peer.monitor(SocketEvent.HANDSHAKE_SUCCEEDED)
            await cable.cut()
            await to_thread.run_sync(proxy.restart)
            classic = start_peer()
            classic_id = await id_of(classic)
            await line(classic, f"Got C from {classic_id}")
            async with zdisco_peer(proxy.endpoint) as stranger:
                await stranger.joined(classic_id)
                assert not ours.peer.peers
                await cable.plug()
                with anyio.fail_after(TIMEOUT):
                    await next_event(aiter(welcomes), "proxySub")
                # The welcome is the first message after the handshake.
                with anyio.fail_after(TIMEOUT):
                    await ours.joined(stranger.peer.id, classic_id)
                    await stranger.joined(ours.peer.id)
                await line(classic, f"Connecting data sub to {ours.peer.me.endpoint}")
        await cable.cut()


async def test_a_killed_classic_peer_is_gone_because_its_port_refuses(
    proxy: ProxyProgram, start_peer: Callable[..., Program]
) -> None:
    classic, witness = start_peer(), start_peer()
    id, witness_id = await id_of(classic), await id_of(witness)
    async with zdisco_peer(proxy.endpoint) as ours:
        await ours.joined(id, witness_id)
        await to_thread.run_sync(classic.kill)
        assert await ours.gone(id) is Cause.REFUSED
        assert list(ours.peer.peers) == [witness_id]
        await ours.peer.leave()
        # What we say comes in order, so nothing was said in the name of the dead before this.
        await line(witness, f"Got D from {ours.peer.id}")
    assert not witness.found(f"Got D from {id}")


async def test_an_announce_that_comes_after_the_farewell_revives_nobody(proxy: ProxyProgram) -> None:
    with zmq.Context() as context, context.socket(zmq.PUB) as listening:
        listening.bind("tcp://127.0.0.1:*")
        endpoint = listening.getsockopt_string(zmq.LAST_ENDPOINT)
        id, follower = uuid4(), uuid4()
        with Stranger(proxy.endpoint, proxy.relay) as stranger:
            async with zdisco_peer(proxy.endpoint) as ours:
                with anyio.fail_after(TIMEOUT):
                    while not stranger.is_heard:  # noqa: ASYNC110 - nothing tells of it
                        await anyio.sleep(0.001)
                stranger.say("C", id, endpoint)
                await ours.joined(id)
                stranger.say("D", id, endpoint)
                assert await ours.gone(id) is Cause.FAREWELL
                stranger.say("C", id, endpoint)
                # Another id at the same place is not held up by it.
                stranger.say("C", follower, endpoint)
                await ours.joined(follower)
                assert ours.peer.dropped[Drop.TOMBSTONED] == 1
                assert list(ours.peer.peers) == [follower]
        # Now all events are read.
        assert [event.peer.id for event in ours.events if isinstance(event, PeerJoined)] == [id, follower]


async def test_a_farewell_that_comes_after_the_end_of_the_link_is_believed(proxy: ProxyProgram) -> None:
    id = uuid4()
    with zmq.Context() as context, Stranger(proxy.endpoint, proxy.relay) as stranger:
        async with zdisco_peer(proxy.endpoint) as ours:
            ends = ours.peer.monitor(SocketEvent.DISCONNECTED)
            with context.socket(zmq.PUB) as listening:
                listening.bind("tcp://127.0.0.1:*")
                endpoint = listening.getsockopt_string(zmq.LAST_ENDPOINT)
                with anyio.fail_after(TIMEOUT):
                    while not stranger.is_heard:  # noqa: ASYNC110 - nothing tells of it
                        await anyio.sleep(0.001)
                stranger.say("C", id, endpoint)
                await ours.joined(id)
            with anyio.fail_after(TIMEOUT):
                await next_event(aiter(ends), "dataSub")
            # A classic peer ends when its farewell has come back to it, be that before we had it or after.
            stranger.say("D", id, endpoint)
            assert await ours.gone(id) is Cause.FAREWELL


@pytest.mark.parametrize("refusals", [1, 3, 5, 6, 7])
def test_a_farewell_wins_over_a_refused_port_as_long_as_the_end_was_not_told(refusals: int) -> None:
    id, endpoint = uuid4(), "tcp://127.0.0.1:1"
    roster = Roster(uuid4(), b"abcd", PeerConfig(), lambda: 0.5)
    roster.announced(Announce(PeerInfo(id, endpoint)), endpoint, 0.0)
    assert [type(output) for output in roster.link_up(endpoint, 0.0)] == [PeerJoined]
    roster.link_down(endpoint, 1.0)
    outputs = [output for _ in range(refusals) for output in roster.probed(endpoint, Probe.REFUSED, 1.0)]
    assert outputs == ([DrainPeer(endpoint, b"")] if refusals > 5 else [])
    outputs += roster.farewell(Farewell(id, endpoint), 1.1)
    assert outputs == [DrainPeer(endpoint, b"")]
    assert roster.drained(endpoint, 1.1) == [PeerGone(PeerInfo(id, endpoint), Cause.FAREWELL)]


def test_a_classic_peer_whose_port_goes_on_refusing_is_gone_before_it_is_suspect() -> None:
    id, endpoint, config = uuid4(), "tcp://127.0.0.1:1", PeerConfig()
    roster, now = Roster(uuid4(), b"abcd", config, lambda: 0.5), 1.0
    roster.announced(Announce(PeerInfo(id, endpoint)), endpoint, 0.0)
    roster.link_up(endpoint, 0.0)
    outputs = [*roster.link_down(endpoint, now), *roster.link_retried(endpoint)]
    while DrainPeer(endpoint, b"") not in outputs:
        now = roster.deadline
        assert now < 1.0 + config.suspect_after
        outputs = [
            output
            for due in roster.tick(now)
            for output in (roster.probed(endpoint, Probe.REFUSED, now) if isinstance(due, ProbePeer) else [due])
        ]
    assert roster.drained(endpoint, now) == [PeerGone(PeerInfo(id, endpoint), Cause.REFUSED)]


async def test_a_peer_of_many_classic_ones_starts_and_leaves_in_order(
    proxy: ProxyProgram, start_peer: Callable[..., Program]
) -> None:
    classics = [start_peer() for _ in range(4)]
    ids = [await id_of(classic) for classic in classics]
    config = PeerConfig(beacon_interval=0.05)  # originals ignore a repeated C
    async with zdisco_peer(proxy.endpoint, config=config) as ours:
        await ours.joined(*ids)
        for classic in classics:
            await line(classic, f"Connecting data sub to {ours.peer.me.endpoint}")
        for classic in classics:
            classic.tell("leave")
        for id in ids:
            assert await ours.gone(id) is Cause.FAREWELL
    for classic in classics:
        assert len(classic.found(f"Connecting data sub to {ours.peer.me.endpoint}")) == 1
        assert await to_thread.run_sync(classic.process.wait) == 0
