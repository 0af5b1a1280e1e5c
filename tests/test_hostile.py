"""Whatever comes in at a bound port or over the bus: no task ends, and what is dropped is counted.

After each attack a newcomer joins and messages flow both ways, see `assert_unharmed`.
"""

from __future__ import annotations

import json
import socket
import struct
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, ExitStack, asynccontextmanager, contextmanager
from random import Random
from uuid import UUID, uuid4

import anyio
import anyio.lowlevel
import pytest
import zmq
from anyio import to_thread
from attrs import define

from classic import Program, Stranger, pack
from processes import children
from zdisco import Drop, Event, Peer, PeerConfig, PeerGone, PeerSuspected, Proxy, SocketEvent, Stream
from zdisco._core.envelope import NUMBER
from zmtp import GREETING, ready

pytestmark = pytest.mark.anyio

TIMEOUT = 20.0
"""Seconds after which something that does not happen is missed."""

LOOPBACK = "tcp://127.0.0.1:*"


async def until(holds: Callable[[], bool], timeout: float = TIMEOUT) -> None:
    with anyio.fail_after(timeout):
        while not holds():  # noqa: ASYNC110 - nothing tells of a count, or of what another process does
            await anyio.sleep(0.002)


async def counted(counts: Mapping[Drop, int], drop: Drop, at_least: int, timeout: float = TIMEOUT) -> None:
    try:
        await until(lambda: counts[drop] >= at_least, timeout)
    except TimeoutError:
        raise AssertionError(f"{drop} was not counted {at_least} times: {dict(counts)}") from None


async def first(messages: AsyncIterator[object]) -> object:
    with anyio.fail_after(TIMEOUT):
        return await anext(messages)


async def knows(one: Peer, other: Peer) -> None:
    try:
        await one.wait_for(lambda peers: other.id in peers, timeout=TIMEOUT)
    except TimeoutError:
        seen = [
            (peer, dict(peer.dropped), peer._opened.core.relays, peer._opened.core.roster.links)
            for peer in (one, other)
        ]
        raise AssertionError(f"{one} does not know {other}: {seen}") from None


async def assert_unharmed(target: Peer, proxy: str) -> None:
    """A newcomer joins, and a message flows in both directions."""
    async with Peer(proxy) as newcomer, newcomer.subscribe("to.") as theirs, target.subscribe("fro.") as ours:
        await knows(newcomer, target)
        await knows(target, newcomer)
        await target.publish("to.", b"1")
        await newcomer.publish("fro.", b"2")
        message = await first(aiter(theirs))
        assert (message.sender.id, message.payload) == (target.id, b"1")  # type: ignore[attr-defined]
        message = await first(aiter(ours))
        assert (message.sender.id, message.payload) == (newcomer.id, b"2")  # type: ignore[attr-defined]


@define
class Scene:
    """A proxy, a peer to attack, and somebody on the bus."""

    proxy: str
    relay: str
    target: Peer
    stranger: Stranger
    refused: Mapping[Drop, int]
    """What our own proxy refused."""
    events: Stream[Event]

    def assert_nobody_left(self) -> None:
        self.events._end()
        assert not [event for event in self.events._queue if isinstance(event, PeerGone | PeerSuspected)]


@asynccontextmanager
async def scene(config: PeerConfig | None = None) -> AsyncIterator[Scene]:
    """With our own proxy, which relays only what decodes."""
    async with Proxy(LOOPBACK) as proxy, Peer(proxy.endpoint, config=config) as target:
        with Stranger(proxy.endpoint, proxy.relay) as stranger:
            await until(lambda: stranger.is_heard)
            yield Scene(proxy.endpoint, proxy.relay, target, stranger, proxy.refused, target.events())
        await assert_unharmed(target, proxy.endpoint)


@asynccontextmanager
async def classic_scene(config: PeerConfig | None = None) -> AsyncIterator[Scene]:
    """With a classic proxy, which relays everything."""
    with Program.classic("proxy") as proxy:
        match = await to_thread.run_sync(proxy.wait_for, r"at (tcp://\S+) relay (tcp://\S+)")
        endpoint, relay = match[1], match[2]
        async with Peer(endpoint, config=config) as target:
            with Stranger(endpoint, relay) as stranger:
                await until(lambda: stranger.is_heard)
                yield Scene(endpoint, relay, target, stranger, {}, target.events())
            await assert_unharmed(target, endpoint)


@contextmanager
def raw(kind: int) -> Iterator[zmq.Socket[bytes]]:
    context = zmq.Context()
    try:
        socket = context.socket(kind)
        socket.setsockopt(zmq.SNDHWM, 0)
        yield socket
    finally:
        context.destroy(linger=0)


# Bytes on the bound ports


RANDOM = Random(295)

GARBAGE = {
    "nothing": [],
    "random": [RANDOM.randbytes(300)],
    "much random": [RANDOM.randbytes(100_000)],
    "unversioned": [b"\x01\x00\x05\x00\x01AB\xff\x03\x00\xfe\xff"],
    "zeros": [bytes(1000)],
    "http": [b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"],
    "half a greeting": [GREETING[:20]],
    "greeting": [GREETING],
    "greeting and garbage": [GREETING, RANDOM.randbytes(200)],
    "wrong socket type": [GREETING, ready(b"PUSH")],
    "cut off in a command": [GREETING, ready(b"SUB")[:10]],
}


async def shout(endpoint: str, chunks: list[bytes]) -> None:
    """Send over plain TCP and hang up when the other side does, or has nothing to say any more."""
    async with await anyio.connect_tcp("127.0.0.1", int(endpoint.rpartition(":")[2])) as stream:
        try:
            for chunk in chunks:
                await stream.send(chunk)
                with anyio.move_on_after(0.05):
                    await stream.receive()
        except (anyio.BrokenResourceError, anyio.EndOfStream):
            pass


@pytest.mark.parametrize("chunks", GARBAGE.values(), ids=GARBAGE)
async def test_bytes_that_are_no_zmtp(chunks: list[bytes]) -> None:
    async with scene() as at:
        ports = [at.proxy, at.relay, at.target.me.endpoint]
        async with anyio.create_task_group() as tasks:
            for _ in range(3):
                for port in ports:
                    tasks.start_soon(shout, port, chunks)
        await counted(at.target.dropped, Drop.FAILED_HANDSHAKE, 3)
        await counted(at.refused, Drop.FAILED_HANDSHAKE, 6)


async def test_frames_of_absurd_length() -> None:
    async with scene() as at:
        for announced in (1 << 21, 1 << 40, (1 << 63) - 1):
            frame = b"\x02" + struct.pack(">Q", announced) + b"C" * 1000
            cut = at.target.monitor(SocketEvent.DISCONNECTED)
            for port, kind in ((at.proxy, b"SUB"), (at.relay, b"PUB"), (at.target.me.endpoint, b"SUB")):
                await shout(port, [GREETING, ready(kind), frame])
            assert (await first(aiter(cut))).socket == "dataPub"  # type: ignore[attr-defined]


@pytest.mark.parametrize("kind", [zmq.PUSH, zmq.PULL, zmq.REQ, zmq.ROUTER, zmq.DEALER, zmq.PAIR])
async def test_sockets_of_the_wrong_type(kind: int) -> None:
    async with scene() as at:
        with raw(kind) as socket:
            for endpoint in (at.proxy, at.relay, at.target.me.endpoint):
                socket.connect(endpoint)
            await counted(at.target.dropped, Drop.FAILED_HANDSHAKE, 1)
            await counted(at.refused, Drop.FAILED_HANDSHAKE, 2)


# Frames on the bus


ID = "3f5a90b2-8d0f-4c4e-a7f3-0a58a8a5e6f1"
NOWHERE = "tcp://127.0.0.1:1"
"""Nobody listens there."""


def extended(body: bytes, *, command: str = "C", length: int | None = None, version: int = 1) -> bytes:
    size = len(body) if length is None else length
    return pack(command, ID, NOWHERE) + struct.pack(">2sBBI", b"ZD", version, 0, size) + body


def field(name: str, value: object) -> bytes:
    return extended(json.dumps({name: value}).encode())


MALFORMED = {
    "one byte": b"C",
    "cut off": pack("C", ID, NOWHERE)[:294],
    "cut off farewell": pack("D", ID, NOWHERE)[:60],
    "cut off welcome": pack("W", ID, NOWHERE)[:200],
    "upper-case id": pack("C", ID.upper(), NOWHERE),
    "no id": pack("C", "", NOWHERE),
    "id without end": b"C" + b"a" * 37 + pack("C", ID, NOWHERE)[38:],
    "no endpoint": pack("C", ID, ""),
    "endpoint without end": pack("C", ID, NOWHERE)[:38] + b"tcp://127.0.0.1:".ljust(257, b"1"),
    "endpoint that is not text": pack("C", ID, NOWHERE)[:38] + b"\xff\xfe\x80".ljust(257, b"\0"),
    "endpoint with control characters": pack("C", ID, "tcp://127.0.0.1\n:1"),
    "extension header cut off": pack("C", ID, NOWHERE) + b"ZD\x01\x00\x00",
    "extension cut off": extended(b"{}", length=100),
    "extension too long": extended(json.dumps({"name": "x" * 65_536}).encode()),
    "much too long": extended(b" " * 900_000),
    "extension claims 4 GiB": extended(b"{}", length=0xFFFFFFFF),
    "no json": extended(b"{nonsense"),
    "json that is not text": extended(b"\xff\xfe\xfd"),
    "json of another kind": extended(b"[1, 2]"),
    "json that is too deep": extended(b"[" * 30_000),
    "json with a huge number": extended(b'{"pid": ' + b"9" * 60_000 + b"}"),
    "json that repeats a key": extended(b'{"name": "a", "name": "b"}'),
    "json with NaN": extended(b'{"incarnation": NaN}'),
    "session of the wrong length": field("session", "00"),
    "incarnation out of range": field("incarnation", 2**64),
    "headers that are no text": field("headers", {"a": 1}),
    "names that are a list": field("names", ["clock"]),
    "a name without endpoints": field("names", {"clock": []}),
    "a name that is empty": field("names", {"": ["tcp://192.0.2.1:1"]}),
    "a name with a NUL": field("names", {"a\0b": ["tcp://192.0.2.1:1"]}),
    "a name that is too long": field("names", {"x" * 256: ["tcp://192.0.2.1:1"]}),
    "a name for what libzmq reads more into": field("names", {"clock": ["tcp://192.0.2.1;192.0.2.2:1"]}),
    "a name for nobody's address": field("names", {"clock": ["tcp://0.0.0.0:1"]}),
    "a name for what the terminal obeys": field("names", {"clock": ["ipc:///\x1b[2J"]}),
    "a name for another transport": field("names", {"clock": ["pgm://eth0;239.0.0.1:5"]}),
    "name with a surrogate": extended(b'{"name": "\\ud800"}'),
}

NOT_OF_THE_PROTOCOL = {
    "empty": b"",
    "zeros": bytes(295),
    "unknown command": pack("Z", ID, NOWHERE),
    "lower-case command": pack("c", ID, NOWHERE),
    "roster of nobody": pack("R", ID, NOWHERE),
    "random": RANDOM.randbytes(400),
}


async def test_our_proxy_refuses_what_does_not_decode() -> None:
    frames = MALFORMED | NOT_OF_THE_PROTOCOL
    async with scene() as at:
        for frame in frames.values():
            at.stranger.send(frame)
        await counted(at.refused, Drop.MALFORMED_DISCOVERY, len(frames))
        assert at.refused[Drop.MALFORMED_DISCOVERY] == len(frames)
        assert at.target.dropped[Drop.MALFORMED_DISCOVERY] == 0


async def test_a_peer_drops_what_does_not_decode() -> None:
    async with classic_scene() as at:
        for frame in (MALFORMED | NOT_OF_THE_PROTOCOL).values():
            at.stranger.send(frame)
        # It subscribes to no other commands.
        await counted(at.target.dropped, Drop.MALFORMED_DISCOVERY, len(MALFORMED))
        assert at.target.dropped[Drop.MALFORMED_DISCOVERY] == len(MALFORMED)
        assert not at.target.peers
        at.assert_nobody_left()


async def test_multipart_messages_on_the_bus() -> None:
    announce = pack("C", ID, NOWHERE)
    async with scene() as at:
        for frames in ([announce, b""], [b"", announce], [announce, announce], [b"C"] * 50):
            at.stranger.send(*frames)
        await counted(at.refused, Drop.MULTIPART, 4)
    async with classic_scene() as at:
        for frames in ([announce, b""], [announce, announce], [b"C"] * 50):
            at.stranger.send(*frames)
        await counted(at.target.dropped, Drop.MULTIPART, 3)
        assert at.target.dropped[Drop.MALFORMED_DISCOVERY] == 0


@pytest.mark.parametrize("make", [scene, classic_scene])
async def test_a_message_of_more_than_a_mebibyte(make: Callable[[], AbstractAsyncContextManager[Scene]]) -> None:
    async with make() as at:
        at.stranger.send(pack("C", ID, NOWHERE) + bytes(2 << 20))
        at.stranger.send(extended(b" " * (3 << 20)))


async def test_our_proxy_relays_no_welcome_of_others() -> None:
    async with scene() as at:
        at.stranger.say("W", uuid4(), NOWHERE)
        await counted(at.refused, Drop.FORGED_WELCOME, 1)


BOGUS_ENDPOINTS = [NOWHERE, "tcp://*:1", "ipc:///tmp/x", "inproc://x", "nonsense", "tcp://127.0.0.1:99999"]


async def test_a_forged_welcome_leads_nobody_astray() -> None:
    async with classic_scene() as at:
        async with Peer(at.proxy) as other:
            await at.target.wait_for(1, timeout=TIMEOUT)
            for endpoint in BOGUS_ENDPOINTS:
                at.stranger.say("W", uuid4(), endpoint)
            for peer in (at.target, other):
                await counted(peer.dropped, Drop.FORGED_WELCOME, len(BOGUS_ENDPOINTS))
        # The one that left is the only one: its farewell still came through.
        assert not at.target.peers


async def test_peers_join_while_forged_welcomes_rain() -> None:
    async with classic_scene() as at, anyio.create_task_group() as tasks:

        async def rain() -> None:
            while True:
                at.stranger.say("W", uuid4(), NOWHERE)
                await anyio.sleep(0.0005)

        tasks.start_soon(rain)
        for _ in range(5):
            await assert_unharmed(at.target, at.proxy)
        tasks.cancel_scope.cancel()


# Words in the name of others


def announce_of(stranger: Stranger, id: UUID) -> bytes | None:
    """The announce of a peer as it goes over the bus, if it has."""
    return next((frame for frame in stranger.heard() if frame.startswith(b"C" + str(id).encode())), None)


async def overheard(at: Scene, id: UUID) -> bytes:
    frames: list[bytes] = []

    def is_heard() -> bool:
        frame = announce_of(at.stranger, id)
        if frame is not None:
            frames.append(frame)
        return bool(frames)

    await until(is_heard)
    return frames[0]


def farewell_of(id: UUID, endpoint: str, announce: bytes, incarnation: int) -> bytes:
    """What a zdisco peer would say, by somebody who has read its announce."""
    session = json.loads(announce[303:])["session"]
    body = json.dumps({"session": session, "incarnation": incarnation}).encode()
    return pack("D", str(id), endpoint) + struct.pack(">2sBBI", b"ZD", 1, 0, len(body)) + body


@pytest.mark.parametrize("is_classic", [True, False], ids=["classic", "with session"])
async def test_a_forged_farewell_ends_no_stay(is_classic: bool) -> None:
    async with scene(PeerConfig(farewell_memory=0.05)) as at, Peer(at.proxy) as victim:
        await at.target.wait_for(1, timeout=TIMEOUT)
        was = victim.me
        announce = await overheard(at, was.id)

        def forge(incarnation: int) -> None:
            forged = farewell_of(was.id, was.endpoint, announce, incarnation)
            at.stranger.send(forged[:295] if is_classic else forged)

        forge(was.incarnation)
        # It refutes the first by itself ...
        await counted(victim.dropped, Drop.FORGED_FAREWELL, 1)
        await at.target.wait_for(lambda peers: peers[was.id].incarnation > was.incarnation, timeout=TIMEOUT)
        # ... and speaks at most once in an announce interval; this one only the link refutes.
        forge(at.target.peers[was.id].incarnation)
        await counted(at.target.dropped, Drop.UNCONFIRMED_FAREWELL, 1)
        assert at.target.peers[was.id].endpoint == was.endpoint
        at.assert_nobody_left()
        async with victim.subscribe("still.") as messages:
            await at.target.publish("still.", b"there")
            await first(aiter(messages))


async def test_a_farewell_in_our_own_name_is_refuted() -> None:
    async with scene() as at:
        with Program.classic("peer", at.proxy, "--poll", "50") as classic:
            mine = at.target.me
            connecting = f"Connecting data sub to {mine.endpoint}"
            await until(lambda: len(classic.found(connecting)) == 1)
            at.stranger.say("D", mine.id, mine.endpoint)
            await counted(at.target.dropped, Drop.FORGED_FAREWELL, 1)
            # The classic peer believes it, and hears at once that it was wrong.
            await until(lambda: len(classic.found(connecting)) == 2)
            assert at.target.me.incarnation > mine.incarnation


async def test_farewells_in_our_own_name_again_and_again_are_refuted_in_the_end() -> None:
    async with scene() as at:
        with Program.classic("peer", at.proxy, "--poll", "50") as classic:
            mine = at.target.me
            connecting, cut = f"Connecting data sub to {mine.endpoint}", f"Disconnecting data sub from {mine.endpoint}"
            await until(lambda: len(classic.found(connecting)) == 1)
            for count in (1, 2):
                at.stranger.say("D", mine.id, mine.endpoint)
                await until(lambda count=count: len(classic.found(cut)) == count)  # type: ignore[misc]
                await until(lambda count=count: len(classic.found(connecting)) == count + 1)  # type: ignore[misc]
            assert at.target.dropped[Drop.FORGED_FAREWELL] == 2
            assert at.target.me.incarnation == mine.incarnation + 2


async def test_our_id_in_the_announce_of_another_raises_our_incarnation() -> None:
    async with scene() as at:
        mine = at.target.me
        body = {"session": "0badcafe", "incarnation": mine.incarnation + 10}
        at.stranger.send(
            pack("C", str(mine.id), NOWHERE)
            + struct.pack(">2sBBI", b"ZD", 1, 0, len(json.dumps(body)))
            + json.dumps(body).encode()
        )
        await until(lambda: at.target.me.incarnation > mine.incarnation + 10)


async def test_an_announce_moves_no_peer_whose_link_is_up() -> None:
    async with scene() as at, Peer(at.proxy) as victim:
        await at.target.wait_for(1, timeout=TIMEOUT)
        announce = await overheard(at, victim.id)
        at.stranger.send(announce[:38] + pack("C", ID, NOWHERE)[38:] + announce[295:])
        await counted(at.target.dropped, Drop.MOVED_ENDPOINT, 1)
        assert at.target.peers[victim.id].endpoint == victim.me.endpoint
        at.assert_nobody_left()


HOSTILE_ENDPOINTS = [
    "tcp://127.0.0.1:80;tcp://127.0.0.1:81",
    "tcp://127.0.0.1:1;127.0.0.1:2",
    "tcp://*:1",
    "tcp://0.0.0.0:1",
    "tcp://[::]:1",
    "tcp://224.0.0.1:80",
    "tcp://255.255.255.255:80",
    "tcp://127.0.0.1:0",
    "tcp://127.0.0.1:*",
    "tcp://127.0.0.1:99999",
    "tcp://127.0.0.1:-1",
    "tcp://127.0.0.1:80:80",
    "tcp://127.0.0.1",
    "tcp://2130706433:80",
    "tcp://[::1%lo]:80",
    "tcp://",
    "tcp://lo:80/../..",
    "tcp://" + "a" * 250,
    "udp://127.0.0.1:1",
    "pgm://lo;239.192.1.1:1",
    "ipc:///etc/x",
    "ipc://@x",
    "inproc://x",
    "inproc://zeromq.zap.01",
    "ws://127.0.0.1:80/",
    "%s%n",
]


async def test_hostile_endpoints_are_not_connected_to() -> None:
    async with scene() as at:
        for endpoint in [*HOSTILE_ENDPOINTS, at.target.me.endpoint]:
            at.stranger.say("C", uuid4(), endpoint)
        await counted(at.target.dropped, Drop.REFUSED_ENDPOINT, len(HOSTILE_ENDPOINTS) + 1)
        assert at.target.dropped[Drop.REFUSED_ENDPOINT] == len(HOSTILE_ENDPOINTS) + 1
        assert not at.target.peers


@pytest.mark.timeout(240)
async def test_a_flood_of_forged_announces_stays_within_the_bounds(repeats: Callable[[int, int], int]) -> None:
    count, config = (
        repeats(10_000, 1_000),
        PeerConfig(max_peers=100, max_tombstones=100, max_strangers=100, max_probes=8),
    )
    async with scene(config) as at, Peer(at.proxy) as friend:
        await at.target.wait_for(lambda peers: friend.id in peers, timeout=TIMEOUT)
        events = at.target.events()
        most = 0
        for number in range(count):
            # Loopback addresses at which nobody listens, each its own.
            at.stranger.say("C", uuid4(), f"tcp://127.1.{number >> 8}.{number & 255}:1")
            if number % 100 == 0:
                await anyio.lowlevel.checkpoint()
                most = max(most, len(at.target._opened.core.roster))
        # A bad endpoint is counted, so it tells that all before it was read.
        at.stranger.say("C", uuid4(), "tcp://*:1")
        await counted(at.target.dropped, Drop.REFUSED_ENDPOINT, 1, timeout=120)
        assert at.target.dropped[Drop.TABLE_FULL] > 0
        assert max(most, len(at.target._opened.core.roster)) <= config.max_peers
        assert at.target.peers.keys() == {friend.id}
        events._end()
        assert not [event async for event in events if isinstance(event, PeerGone)]


# The data channel


async def test_subscriptions_that_are_none() -> None:
    async with scene() as at:
        with raw(zmq.XSUB) as socket:
            socket.connect(at.target.me.endpoint)
            messages = [b"hello", b"", b"\x02", b"\xff" * 100, bytes([7]) * 50_000]
            subscriptions = [b"\xff", b"\xff" + bytes(15), b"\xff" + bytes(17), b"\xff" + bytes(200)]
            for frame in messages + [b"\x01" + topic for topic in subscriptions]:
                socket.send(frame)
            for frames in ([b"", b"x"], [b"a"] * 20):
                socket.send_multipart(frames)
            await counted(at.target.dropped, Drop.MALFORMED_SUBSCRIPTION, len(messages) + len(subscriptions) + 2)


async def test_a_data_frame_that_is_cut_off_behind_its_prefix() -> None:
    async with scene() as at, Peer(at.proxy) as other, at.target.subscribe("t") as messages:
        await other.wait_for(1, timeout=TIMEOUT)
        await other.publish("t", b"1")
        await first(aiter(messages))
        prefix = other._opened.core.roster.publications.topics["t"].prefix
        for end in range(len(prefix), len(prefix) + NUMBER.size):
            other._opened.data.send((prefix + NUMBER.pack(0, 2))[:end])
        other._opened.data.send(prefix + NUMBER.pack(9, 2))
        await other.publish("t", b"2")
        with anyio.fail_after(TIMEOUT):
            # What is cut off is no frame of ours, so it comes as one of a classic program.
            payloads = [(await anext(messages)).payload for _ in range(NUMBER.size + 1)]
        assert payloads[-1] == b"2"
        assert at.target.dropped[Drop.MALFORMED_CONTROL] == 1


async def test_a_crowd_that_takes_all_descriptors_takes_neither_the_memory_nor_the_event_loop() -> None:
    async with Proxy(LOOPBACK) as proxy, children(proxy.endpoint, ("--descriptors", "150")) as (child,):
        with anyio.fail_after(TIMEOUT), ExitStack() as crowd:
            host, _, port = (await child.endpoint()).removeprefix("tcp://").rpartition(":")
            before = await child.size()
            for _ in range(300):
                crowd.enter_context(socket.create_connection((host, int(port))))
            # It answers: its event loop turns.
            assert [await child.size() for _ in range(50)][-1] - before < 30_000


async def test_whoever_sends_too_much_to_a_publisher_is_cut_off() -> None:
    async with scene() as at:
        cut = at.target.monitor(SocketEvent.DISCONNECTED)
        with raw(zmq.XSUB) as socket:
            socket.connect(at.target.me.endpoint)
            socket.send(bytes([7]) * (2 << 20))
            event = await first(aiter(cut))
            assert event.socket == "dataPub"  # type: ignore[attr-defined]
            assert at.target.dropped[Drop.MALFORMED_SUBSCRIPTION] == 0


async def test_a_flood_of_subscriptions_in_the_name_of_strangers() -> None:
    config = PeerConfig(max_strangers=50)
    async with scene(config) as at:
        with raw(zmq.XSUB) as socket:
            socket.connect(at.target.me.endpoint)
            for _ in range(2000):
                id = uuid4().bytes
                socket.send(b"\x01\xff" + id)
                socket.send(b"\x01\xff" + id + RANDOM.randbytes(8))
            socket.send(b"the end")
            await counted(at.target.dropped, Drop.MALFORMED_SUBSCRIPTION, 1)
            assert len(at.target._opened.core.roster._markers) <= config.max_strangers


HEADER = struct.Struct(">2s16s4sIBQ")


def header(sender: bytes, kind: int, *, magic: bytes = b"\xda\x01", session: bytes = b"abcd") -> bytes:
    return HEADER.pack(magic, sender, session, 0, kind, 0)


async def test_frames_that_nobody_could_have_sent() -> None:
    async with scene() as at:
        me, nobody = at.target.id.bytes, uuid4().bytes
        inbox = b"\xff" + me
        malformed = [
            b"\xfe",
            b"\xfe" + bytes(10),
            b"\xfe" + header(nobody, 4, magic=b"XX") + bytes(8),
            b"\xfe" + header(nobody, 99),
            b"\xfe" + header(nobody, 0),
            b"\xfe" + header(nobody, 1),
            b"\xfe" + header(nobody, 4) + bytes(7),
            b"\xfe" + header(nobody, 4) + b"\xff" * 8,
            inbox,
            inbox + header(nobody, 2)[:-1],
            inbox + header(nobody, 2),
            inbox + header(nobody, 3) + bytes(3),
            b"topic\0" + header(nobody, 2) + bytes(9),
            b"topic\0" + header(nobody, 255),
        ]
        unknown = [
            b"topic\0" + header(nobody, 0) + b"payload",
            b"topic\0" + header(nobody, 1),
            # Not even ourselves: we are not connected to us.
            b"topic\0" + header(me, 0) + b"payload",
            inbox + header(nobody, 2) + bytes(9),
        ]
        others = [b"\xff" + nobody + header(nobody, 2) + bytes(9)]
        foreign = [b"topic", b"topic\0", b"topic\0\xda\x01 cut off", b"topic with anything \xff\xfe"]
        with raw(zmq.XPUB) as socket:
            socket.setsockopt(zmq.XPUB_VERBOSER, 1)
            socket.bind(LOOPBACK)
            async with at.target.subscribe("") as messages:
                at.stranger.say("C", uuid4(), socket.getsockopt_string(zmq.LAST_ENDPOINT))
                await at.target.wait_for(1, timeout=TIMEOUT)
                await until(lambda: bool(socket.poll(0)) and socket.recv() == b"\x01")
                for frame in malformed + unknown + others + foreign:
                    socket.send(frame)
                # A classic peer may send in parts; each is one message to those who know no better.
                socket.send_multipart([b"part", b"of", b"topic"])
                for expected in [*foreign, b"part", b"of", b"topic"]:
                    message = await first(aiter(messages))
                    assert message.sender is None  # type: ignore[attr-defined]
                    assert message.payload == expected  # type: ignore[attr-defined]
            dropped = at.target.dropped
            assert dropped[Drop.MALFORMED_CONTROL] == len(malformed)
            assert dropped[Drop.UNKNOWN_SENDER] == len(unknown)
            assert dropped[Drop.OTHER_INBOX] == len(others)


async def test_a_publisher_that_dies_within_a_multipart_message_takes_nobody_along() -> None:
    async with scene() as at, at.target.subscribe("") as messages:
        for _ in range(5):
            id = uuid4()
            with raw(zmq.XPUB) as socket:
                socket.bind(LOOPBACK)
                at.stranger.say("C", id, socket.getsockopt_string(zmq.LAST_ENDPOINT))
                await at.target.wait_for(lambda peers, id=id: id in peers, timeout=TIMEOUT)  # type: ignore[misc]
                await until(lambda socket=socket: bool(socket.poll(0)) and socket.recv() == b"\x01")  # type: ignore[misc]
                for _ in range(200):
                    socket.send_multipart([b"a" * 5000] * 7)
            await at.target.wait_for(lambda peers, id=id: id not in peers, timeout=TIMEOUT)  # type: ignore[misc]
        assert (await first(aiter(messages))).payload == b"a" * 5000  # type: ignore[attr-defined]
