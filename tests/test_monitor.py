"""Socket events as typed objects, and the stream of them."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

import anyio
import anyio.lowlevel
import pytest
import zmq
import zmq.asyncio

from zdisco._core.errors import ClosedError
from zdisco._core.events import EventsDropped
from zdisco._zmq.monitor import Handshakes, Monitor, MonitorEvent, MonitorStream, SocketEvent, monitor

pytestmark = pytest.mark.anyio


@pytest.fixture
def context() -> Iterator[zmq.Context[zmq.Socket[bytes]]]:
    made: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    yield made
    made.destroy(linger=0)


@pytest.fixture
def server(context: zmq.Context[zmq.Socket[bytes]]) -> zmq.Socket[bytes]:
    return context.socket(zmq.ROUTER)


def address_of(socket: zmq.Socket[bytes]) -> str:
    return str(socket.getsockopt_string(zmq.LAST_ENDPOINT))


async def take_until(stream: MonitorStream, event: SocketEvent) -> list[MonitorEvent]:
    taken: list[MonitorEvent] = []
    with anyio.fail_after(10):
        async for item in stream:
            assert isinstance(item, MonitorEvent)
            taken.append(item)
            if item.event is event:
                return taken
    raise AssertionError(f"the stream ended without {event.name}")


@pytest.mark.parametrize("event", [event for event in SocketEvent if event is not SocketEvent.ALL])
async def test_events_have_the_names_and_numbers_of_libzmq(event: SocketEvent) -> None:
    assert event == getattr(zmq, f"EVENT_{event.name}")


async def test_both_sides_of_a_connection_are_seen(
    context: zmq.Context[zmq.Socket[bytes]], server: zmq.Socket[bytes]
) -> None:
    client = context.socket(zmq.DEALER)
    async with monitor(server, name="server") as ours, monitor(client, name="client") as theirs:
        server.bind("tcp://127.0.0.1:*")
        endpoint = address_of(server)
        client.connect(endpoint)
        heard = await take_until(theirs, SocketEvent.HANDSHAKE_SUCCEEDED)
        assert [event.event.name for event in heard] == ["CONNECT_DELAYED", "CONNECTED", "HANDSHAKE_SUCCEEDED"]
        heard += await take_until(ours, SocketEvent.HANDSHAKE_SUCCEEDED)
        client.close(0)
        heard += await take_until(ours, SocketEvent.DISCONNECTED)
        assert {event.endpoint for event in heard} == {endpoint}
        assert {(event.socket, event.address) for event in heard} == {
            ("server", server.underlying),
            ("client", heard[0].address),
        }
        assert [event.event.name for event in heard if event.socket == "server"] == [
            "LISTENING",
            "ACCEPTED",
            "HANDSHAKE_SUCCEEDED",
            "DISCONNECTED",
        ]


@pytest.mark.parametrize(
    ("event", "meaning"),
    [
        ("CONNECTED", "fd"),
        ("LISTENING", "fd"),
        ("ACCEPTED", "fd"),
        ("CLOSED", "fd"),
        ("DISCONNECTED", "fd"),
        ("CONNECT_DELAYED", "errno"),
        ("BIND_FAILED", "errno"),
        ("ACCEPT_FAILED", "errno"),
        ("CLOSE_FAILED", "errno"),
        ("HANDSHAKE_FAILED_NO_DETAIL", "errno"),
        ("CONNECT_RETRIED", "interval"),
        ("HANDSHAKE_FAILED_AUTH", "status"),
        ("HANDSHAKE_FAILED_PROTOCOL", "protocol_error"),
        ("HANDSHAKE_SUCCEEDED", ""),
        ("MONITOR_STOPPED", ""),
    ],
)
async def test_the_value_means_one_thing_at_most(event: str, meaning: str) -> None:
    made = MonitorEvent(datetime.now(UTC), "s", SocketEvent[event], 7, "tcp://127.0.0.1:1")
    for name in ("fd", "errno", "interval", "status", "protocol_error"):
        assert getattr(made, name) == (7 if name == meaning else None)


async def test_the_log_line_is_the_classic_one() -> None:
    at = datetime(2021, 3, 4, 14, 12, 24, 830349).astimezone()
    event = MonitorEvent(
        at, "dataSub", SocketEvent.CONNECT_RETRIED, 158, "tcp://127.0.0.1:26045", address=0x7F8C00009710
    )
    assert str(event) == (
        "14:12:24.830349\tsocket:0x7f8c00009710 name:dataSub value:158 event:4 "
        "desc:CONNECT_RETRIED endpoint:tcp://127.0.0.1:26045"
    )


@pytest.mark.parametrize("number", [0x8000, 0x8001, 0x10000])
async def test_an_event_of_the_future_is_no_error(number: int) -> None:
    event = MonitorEvent(datetime.now(UTC), "s", SocketEvent(number), 1, "")
    assert event.fd is None or number & 0x0001
    assert f"event:{number} " in str(event)


async def test_only_the_events_of_the_mask_come_and_the_end(server: zmq.Socket[bytes]) -> None:
    stream = monitor(server, SocketEvent.CLOSED | SocketEvent.BIND_FAILED)
    server.bind("tcp://127.0.0.1:*")
    server.unbind(address_of(server))
    await take_until(stream, SocketEvent.CLOSED)
    server.close(0)
    assert [event.event for event in await take_until(stream, SocketEvent.MONITOR_STOPPED)] == [
        SocketEvent.MONITOR_STOPPED
    ]


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"socket": None}, TypeError),
        ({"socket": 7}, TypeError),
        ({"events": 0}, ValueError),
        ({"events": -1}, ValueError),
        ({"events": 0x10000}, ValueError),
        ({"events": "ALL"}, TypeError),
        ({"events": True}, TypeError),
        ({"name": b"x"}, TypeError),
        ({"capacity": 0}, ValueError),
        ({"capacity": 1.5}, TypeError),
    ],
)
async def test_bad_arguments_raise_at_once(
    server: zmq.Socket[bytes], arguments: dict[str, object], error: type[Exception]
) -> None:
    with pytest.raises(error):
        monitor(**{"socket": server, **arguments})  # type: ignore[arg-type]


async def test_a_closed_socket_cannot_be_watched(server: zmq.Socket[bytes]) -> None:
    server.close(0)
    with pytest.raises(ClosedError):
        monitor(server)


async def test_the_stream_ends_when_the_socket_closes(server: zmq.Socket[bytes]) -> None:
    stream = monitor(server)
    server.bind("tcp://127.0.0.1:*")
    server.close(0)
    with anyio.fail_after(10):
        events = [event.event for event in [item async for item in stream] if isinstance(event, MonitorEvent)]
    assert events[0] is SocketEvent.LISTENING
    assert events[-1] is SocketEvent.MONITOR_STOPPED
    with pytest.raises(StopAsyncIteration):
        await anext(stream)
    await stream.aclose()


async def test_closing_the_stream_ends_its_reader_and_leaves_the_socket(server: zmq.Socket[bytes]) -> None:
    stream = monitor(server)
    seen: list[object] = []

    async def read() -> None:
        seen.extend([event async for event in stream])

    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(read)
            while not stream._monitor._pair._waiting:
                await anyio.lowlevel.checkpoint()
            await stream.aclose()
    await stream.aclose()
    server.bind("tcp://127.0.0.1:*")
    assert seen == [event async for event in stream] == []


async def test_a_stream_that_is_closed_between_two_events_ends(server: zmq.Socket[bytes]) -> None:
    stream = monitor(server)
    server.bind("tcp://127.0.0.1:*")
    server.bind("tcp://127.0.0.1:*")
    async for _ in stream:
        await stream.aclose()


async def test_a_new_stream_takes_the_place_of_the_old_one_and_survives_its_end(server: zmq.Socket[bytes]) -> None:
    first = monitor(server)
    second = monitor(server)
    await take_until(first, SocketEvent.MONITOR_STOPPED)
    await first.aclose()
    third = monitor(server)
    # Has not read yet that it was replaced; must not take the third along.
    await second.aclose()
    server.bind("tcp://127.0.0.1:*")
    await take_until(third, SocketEvent.LISTENING)
    await third.aclose()


async def test_who_ends_after_a_handshake_is_not_taken_for_one_that_failed_while_another_comes() -> None:
    handshakes = Handshakes()
    accepted, succeeded, ended = SocketEvent.ACCEPTED, SocketEvent.HANDSHAKE_SUCCEEDED, SocketEvent.DISCONNECTED
    events = [(accepted, 5), (succeeded, 5), (accepted, 6), (ended, 5), (ended, 6)]
    failures = [
        handshakes.is_failure(MonitorEvent(datetime.now(UTC), "s", event, value, "tcp://127.0.0.1:1"))
        for event, value in events
    ]
    assert failures == [False, False, False, False, True]


async def test_a_slow_reader_loses_the_oldest_and_is_told_how_many(server: zmq.Socket[bytes]) -> None:
    stream = monitor(server, SocketEvent.LISTENING, capacity=10)
    endpoints = []
    for _ in range(25):
        server.bind("tcp://127.0.0.1:*")
        endpoints.append(address_of(server))
    items = [await anext(stream) for _ in range(11)]
    assert items[0] == EventsDropped(15)
    assert [item.endpoint for item in items[1:] if isinstance(item, MonitorEvent)] == endpoints[15:]
    await stream.aclose()


async def test_cancelling_a_reader_loses_no_event(server: zmq.Socket[bytes]) -> None:
    stream = monitor(server, SocketEvent.LISTENING)
    endpoints, read = [], []
    for turn in range(100):
        server.bind("tcp://127.0.0.1:*")
        endpoints.append(address_of(server))
        with anyio.CancelScope() as scope:
            if turn % 3:
                scope.cancel()
            item = await anext(stream)
            assert isinstance(item, MonitorEvent)
            read.append(item.endpoint)
    while len(read) < len(endpoints):
        item = await anext(stream)
        assert isinstance(item, MonitorEvent)
        read.append(item.endpoint)
    assert read == endpoints
    await stream.aclose()


async def test_a_socket_of_zmq_asyncio_can_be_watched() -> None:
    # No event loop of asyncio is needed to make one, so this holds on trio, too.
    with zmq.asyncio.Context() as context, context.socket(zmq.ROUTER) as socket:
        stream = monitor(socket, name="theirs")
        socket.bind("tcp://127.0.0.1:*")
        events = await take_until(stream, SocketEvent.LISTENING)
        assert events[0].socket == "theirs"
        await stream.aclose()


async def test_monitors_that_come_and_go_leave_the_io_thread_alone(
    context: zmq.Context[zmq.Socket[bytes]], server: zmq.Socket[bytes]
) -> None:
    for _ in range(200):
        one = Monitor(server, "server")
        server.bind("tcp://127.0.0.1:*")
        server.unbind(address_of(server))
        one.close()
        one.close()
        assert one.closed
    with pytest.raises(ClosedError):
        one.drain_nowait()
