"""Messages to one peer, requests and services, over the network in memory."""

from __future__ import annotations

import asyncio
import contextvars
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from random import Random
from uuid import UUID, uuid4

import anyio
import pytest
from anyio.lowlevel import checkpoint
from attrs import evolve

from meshes import JUMPING, LIMIT, ON_ASYNCIO, PROXY, mesh, next_of, take, turn_until
from processes import children
from zdisco import (
    AnnounceTooLarge,
    Cause,
    ClosedError,
    Drop,
    Message,
    NoResponder,
    Peer,
    PeerConfig,
    PeerSuspected,
    Proxy,
    Reply,
    Request,
    RequestFailed,
    ResponderGone,
    Service,
    UnknownPeer,
)
from zdisco._core.envelope import Kind, ReplyBody, Status, control_frame, inbox
from zdisco.testing import MemoryNetwork

pytestmark = pytest.mark.anyio


async def shout(request: Request) -> bytes:
    return request.payload.upper()


async def never(_: Request) -> bytes:
    await anyio.sleep_forever()
    return b""


async def offered(peer: Peer, service: str, count: int = 1) -> None:
    """Wait until the peer sees that many that offer a service."""
    await peer.wait_for(
        lambda peers: sum(service in other.services for other in peers.values()) == count, timeout=LIMIT
    )


def open_requests(peer: Peer) -> int:
    assert peer._requests is not None
    return len(peer._requests._asked)


def assert_is_idle(service: Service) -> None:
    assert not service._running
    assert not service._waiting


# Messages to one peer


async def test_a_message_to_one_peer_is_read_from_its_inbox_and_by_nobody_else() -> None:
    async with mesh("a", "b", "c") as (a, b, c), c.subscribe("") as everything:
        await a.send(b.id, b"1")
        await a.send(a.peers[b.id], b"2")
        await a.publish("end", b"")
        sender = b.peers[a.id]
        assert await take(b.inbox(), 2) == [Message(sender, "", b"1"), Message(sender, "", b"2")]
        assert [message.topic for message in await take(everything, 1)] == ["end"]
        assert c._services.inbox._unread is None


async def test_what_nobody_read_waits_for_the_next_reader_and_readers_each_get_a_copy() -> None:
    async with mesh("a", "b") as (a, b):
        await a.send(b.id, b"early")
        await turn_until(lambda: b._services.inbox._unread is not None)
        async with b.inbox() as first, b.inbox() as second:
            await a.send(b.id, b"both")
            assert [message.payload for message in await take(first, 2)] == [b"early", b"both"]
            assert [message.payload for message in await take(second, 1)] == [b"both"]
        await a.send(b.id, b"between")
        await turn_until(lambda: b._services.inbox._unread is not None)
        assert [message.payload for message in await take(b.inbox(), 1)] == [b"between"]


async def test_an_inbox_that_is_full_loses_the_oldest_and_says_so() -> None:
    async with mesh("a", "b", config=PeerConfig(stream_capacity=2)) as (a, b):
        for number in range(5):
            await a.send(b.id, b"%d" % number)
        await turn_until(lambda: b.dropped[Drop.STREAM_FULL] == 3)
        messages = b.inbox()
        assert messages.dropped == 3
        assert [message.payload for message in await take(messages, 2)] == [b"3", b"4"]


async def test_an_inbox_may_be_asked_for_before_the_block_and_ends_after_it() -> None:
    net = MemoryNetwork()
    async with net.proxy(), mesh("a", net=net) as (a,):
        b = Peer(PROXY, network=net)
        messages, requests = b.inbox(), b.requests()
        async with b:
            await a.wait_for(1, timeout=LIMIT)
            await a.send(b.id, b"x")
            assert len(await take(messages, 1)) == 1
        for stream in (messages, requests, b.inbox(), b.requests()):
            with pytest.raises(StopAsyncIteration):
                await anext(stream)


@JUMPING
async def test_only_a_joined_peer_is_written_to() -> None:
    net = MemoryNetwork()
    async with net.proxy(), mesh("a", "b", net=net) as (a, b):
        stranger = uuid4()
        for unknown in (stranger, a.id, evolve(b.me, id=stranger)):
            with pytest.raises(UnknownPeer) as caught:
                await a.send(unknown, b"x")
            assert caught.value.id in (stranger, a.id)
            with pytest.raises(UnknownPeer):
                await a.request(unknown, b"x")
        await a.send(b.id, b"x")
        net.cut(a, b)
        await next_of(a.events(), PeerSuspected)
        with pytest.raises(UnknownPeer, match=f"no peer {b.id} with an inbox is joined"):
            await a.send(b.id, b"x")
        with pytest.raises(UnknownPeer):
            await a.request(b.id, b"x")


# Requests


async def test_a_request_is_answered_by_the_service() -> None:
    async with mesh("a", "b") as (a, b), b.serve("shout", shout) as service:
        assert service.name == "shout"
        await offered(a, "shout")
        assert await a.request("shout", b"x") == b"X"
        assert await a.request(b.id, b"y", service="shout") == b"Y"
        assert await a.request(b.me, b"z", service="shout") == b"Z"
        assert open_requests(a) == 0
        assert not a.dropped


async def test_a_request_to_a_peer_is_answered_by_whoever_reads_it() -> None:
    async with mesh("a", "b") as (a, b), anyio.create_task_group() as tasks:

        async def answer() -> None:
            async for request in b.requests():
                assert (request.sender, request.service) == (b.peers[a.id], "")
                if request.payload == b"fail":
                    await request.fail("because")
                else:
                    await request.reply(request.payload.upper())

        tasks.start_soon(answer)
        assert await a.request(b.id, b"x") == b"X"
        with pytest.raises(RequestFailed, match="the peer b could not answer: because") as caught:
            await a.request(b.id, b"fail")
        assert (caught.value.peer, caught.value.reason) == (a.peers[b.id], "because")
        tasks.cancel_scope.cancel()


async def test_readers_of_requests_share_them_and_what_nobody_read_waits() -> None:
    async with mesh("a", "b") as (a, b), anyio.create_task_group() as tasks:
        answers: list[bytes] = []

        async def ask(number: int) -> None:
            answers.append(await a.request(b.id, b"%d" % number))

        for number in range(3):
            tasks.start_soon(ask, number)
        await turn_until(lambda: len(b._services.requests._queue) == 3)
        async with b.requests() as first, b.requests() as second:
            taken = [*await take(first, 1), *await take(second, 1)]
        taken += await take(b.requests(), 1)
        assert {request.payload for request in taken} == {b"0", b"1", b"2"}
        for request in taken:
            await request.reply(request.payload)
        await turn_until(lambda: len(answers) == 3)


async def test_requests_beyond_the_capacity_fail_the_oldest_first() -> None:
    async with mesh("a", "b", config=PeerConfig(stream_capacity=2)) as (a, b), anyio.create_task_group() as tasks:
        failed: list[bytes] = []

        async def ask(number: int) -> None:
            with suppress(RequestFailed):
                await a.request(b.id, b"%d" % number)
                return
            failed.append(b"%d" % number)

        requests = b.requests()
        for number in range(5):
            tasks.start_soon(ask, number)
        await turn_until(lambda: len(failed) == 3)
        assert requests.dropped == b.dropped[Drop.STREAM_FULL] == 3
        for request in await take(requests, 2):
            assert request.payload not in failed
            await request.reply(b"")


async def test_a_request_is_answered_once() -> None:
    async with mesh("a", "b") as (a, b), anyio.create_task_group() as tasks:
        tasks.start_soon(a.request, b.id, b"x")
        (request,) = await take(b.requests(), 1)
        with pytest.raises(TypeError, match="a payload is bytes"):
            await request.reply("text")  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="reason"):
            await request.fail(b"bytes")  # type: ignore[arg-type]
        await request.reply(b"")
        for second in (request.reply(b""), request.fail("")):
            with pytest.raises(ClosedError, match="the request was answered before"):
                await second
        assert not a.dropped


async def test_an_answer_to_a_requester_that_has_left_is_no_error() -> None:
    net = MemoryNetwork()
    async with net.proxy(), mesh("b", net=net) as (b,):
        async with mesh("a", net=net) as (a,):
            await a.wait_for(1, timeout=LIMIT)
            with anyio.move_on_after(0.01):
                await a.request(b.id, b"x")
        await b.wait_for(lambda peers: not peers, timeout=LIMIT)
        (request,) = await take(b.requests(), 1)
        await request.reply(b"")
        with pytest.raises(ClosedError, match="was answered before"):
            await request.reply(b"")


async def test_a_later_life_of_a_peer_is_written_to_and_gets_no_answer_to_an_earlier_one() -> None:
    net = MemoryNetwork()
    async with net.proxy(), mesh("b", net=net) as (b,):
        requests, id = b.requests(), UUID(int=5)
        async with mesh("a", net=net, id=id) as (a,):
            await a.wait_for(1, timeout=LIMIT)
            await b.wait_for(1, timeout=LIMIT)
            await b.send(id, b"first")
            with anyio.move_on_after(0.01):
                await a.request(b.id, b"1")
        (old,) = await take(requests, 1)
        await b.wait_for(lambda peers: not peers, timeout=LIMIT)
        async with mesh("a", net=net, id=id) as (a,), a.serve("s", shout):
            await a.wait_for(1, timeout=LIMIT)
            await offered(b, "s")
            await old.reply(b"")
            await b.send(id, b"second")
            assert [message.payload for message in await take(a.inbox(), 1)] == [b"second"]
            assert await b.request(id, b"x", service="s") == b"X"
            assert not a.dropped


async def test_a_request_cannot_be_answered_after_our_peer_has_left() -> None:
    net = MemoryNetwork()
    async with net.proxy(), mesh("a", "b", net=net) as (a, b), anyio.create_task_group() as tasks:

        async def ask() -> None:
            with pytest.raises(ResponderGone):
                await a.request(b.id, b"x")

        tasks.start_soon(ask)
        (request,) = await take(b.requests(), 1)
        await b.leave()
        with pytest.raises(ClosedError, match="the peer is leaving"):
            await request.reply(b"")


async def test_the_peers_that_offer_a_service_are_asked_in_turn() -> None:
    async with mesh("a", "b", "c") as (a, b, c):

        async def from_b(_: Request) -> bytes:
            return b"b"

        async def from_c(_: Request) -> bytes:
            return b"c"

        async with b.serve("s", from_b), b.serve("t", from_b):
            async with c.serve("s", from_c), c.serve("t", from_c):
                await offered(a, "s", 2)
                await offered(a, "t", 2)
                for service in ("s", "t"):
                    answers = [await a.request(service, b"") for _ in range(6)]
                    assert answers in ([b"b", b"c"] * 3, [b"c", b"b"] * 3)
                assert {await a.request(service, b"") for service in ("s", "t", "s", "t")} == {b"b", b"c"}
            await offered(a, "s", 1)
            assert [await a.request("s", b"") for _ in range(3)] == [b"b"] * 3
        await offered(a, "s", 0)
        with pytest.raises(NoResponder) as caught:
            await a.request("s", b"")
        assert caught.value.service == "s"


async def test_nobody_asks_himself() -> None:
    async with mesh("a", "b") as (a, _), a.serve("s", shout):
        with pytest.raises(NoResponder, match="no joined peer offers the service 's'"):
            await a.request("s", b"")
        with pytest.raises(NoResponder):
            await a.request_many("s", b"")


async def test_what_a_handler_raises_reaches_the_requester_and_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    async def handler(request: Request) -> bytes:
        if request.payload == b"raise":
            raise KeyError("no such thing")
        return request.payload or None  # type: ignore[return-value]

    async with mesh("a", "b") as (a, b), b.serve("s", handler) as service:
        for payload, reason in (
            (b"raise", "KeyError: 'no such thing'"),
            (b"", "TypeError: a payload is bytes, not NoneType: None"),
        ):
            with caplog.at_level(logging.ERROR, "zdisco"), pytest.raises(RequestFailed) as caught:
                await a.request(b.id, payload, service="s")
            assert caught.value.reason == reason
            assert caplog.records[-1].exc_info is not None
        assert await a.request(b.id, b"x", service="s") == b"x"
        assert_is_idle(service)
    assert len(caplog.records) == 2


async def test_what_cannot_be_encoded_reaches_the_requester_escaped(monkeypatch: pytest.MonkeyPatch) -> None:
    # pytest-xdist cannot carry such text from a worker, so it must not get into pytest's own copy of the log.
    monkeypatch.setattr(logging.getLogger("zdisco"), "propagate", False)

    async def handler(request: Request) -> bytes:
        raise ValueError("\ud800")

    async with mesh("a", "b") as (a, b), b.serve("s", handler):
        with pytest.raises(RequestFailed) as caught:
            await a.request(b.id, b"", service="s")
        assert caught.value.reason == "ValueError: \\ud800"


async def test_a_service_that_is_not_there_is_said_at_once() -> None:
    async with mesh("a", "b") as (a, b), b.serve("s", shout):
        with pytest.raises(RequestFailed, match="the peer b could not answer: it does not serve 't'"):
            await a.request(b.id, b"", service="t")


@JUMPING
async def test_a_request_without_an_answer_ends_in_time_and_what_comes_later_is_counted() -> None:
    async with mesh("a", "b", config=PeerConfig(request_timeout=3)) as (a, b):
        requests = b.requests()
        for timeout, seconds in ((None, 3.0), (0.5, 0.5), (0, 0.0)):
            began = anyio.current_time()
            with pytest.raises(TimeoutError, match=f"no reply from b within {seconds:g} s"):
                await a.request(b.id, b"", timeout=timeout)
            assert anyio.current_time() - began == pytest.approx(seconds, abs=0.01)
        assert open_requests(a) == 0
        for request in await take(requests, 3):
            await request.reply(b"late")
        await turn_until(lambda: a.dropped[Drop.LATE_REPLY] == 3)


async def test_the_requests_to_a_peer_that_is_killed_fail_at_once() -> None:
    net = MemoryNetwork()
    async with net.proxy(), mesh("a", "b", net=net) as (a, b), anyio.create_task_group() as tasks:
        caught: list[ResponderGone] = []

        async def ask() -> None:
            with pytest.raises(ResponderGone) as error:
                await a.request(b.id, b"", timeout=1e6)
            caught.append(error.value)

        for _ in range(100):
            tasks.start_soon(ask)
        await take(b.requests(), 100)
        peer = a.peers[b.id]
        net.kill(b)
        await turn_until(lambda: len(caught) == 100)
        assert {(error.peer, error.cause) for error in caught} == {(peer, Cause.REFUSED)}
        assert "the peer b is gone before it has answered: refused" in str(caught[0])
        assert open_requests(a) == 0


async def test_what_a_peer_had_answered_before_it_was_killed_counts() -> None:
    net = MemoryNetwork(latency=0.002)
    async with net.proxy(), mesh("a", "b", net=net) as (a, b), anyio.create_task_group() as tasks:
        answers: list[bytes] = []

        async def ask() -> None:
            answers.append(await a.request(b.id, b"x"))

        tasks.start_soon(ask)
        (request,) = await take(b.requests(), 1)
        await request.reply(b"last words")
        net.kill(b)
        await turn_until(lambda: answers == [b"last words"])


async def test_requests_fail_when_we_leave_or_close() -> None:
    net = MemoryNetwork()
    async with net.proxy(), mesh("b", net=net) as (b,):
        for leaves, state in ((True, "is leaving"), (False, "is not open")):
            async with mesh("a", net=net) as (a,), anyio.create_task_group() as tasks:
                await a.wait_for(1, timeout=LIMIT)
                failed = anyio.Event()

                async def ask(a: Peer = a, state: str = state, failed: anyio.Event = failed) -> None:
                    with pytest.raises(ClosedError, match=state):
                        await a.request(b.id, b"")
                    failed.set()

                tasks.start_soon(ask)
                await turn_until(lambda a=a: open_requests(a) == 1)  # type: ignore[misc]
                if leaves:
                    await a.leave()
                else:
                    a._shut()
                await failed.wait()
                with pytest.raises(ClosedError):
                    await a.request(b.id, b"")
                with pytest.raises(ClosedError):
                    await a.send(b.id, b"")
                with pytest.raises(ClosedError):
                    await a.request_many("s", b"")


async def test_an_answer_counts_only_from_the_life_that_was_asked() -> None:
    async with mesh("a", "b", "c") as (a, b, c), anyio.create_task_group() as tasks:
        answers: list[bytes] = []

        async def ask() -> None:
            answers.append(await a.request(b.id, b""))

        tasks.start_soon(ask)
        (request,) = await take(b.requests(), 1)
        body = ReplyBody(request._number, Status.DONE, b"forged").encode()
        for id, session in ((c.id, c._me.session), (b.id, c._me.session), (c.id, b._me.session)):
            c._opened.data.send(control_frame(inbox(a.id), Kind.REPLY, id, session, body))
        await turn_until(lambda: a.dropped[Drop.FORGED_REPLY] == 3)
        assert not answers
        await request.reply(b"true")
        await turn_until(lambda: answers == [b"true"])


async def test_no_request_of_a_later_life_has_the_number_of_an_earlier_one() -> None:
    net = MemoryNetwork()
    numbers: list[int] = []
    async with net.proxy(), mesh("b", net=net) as (b,):
        requests = b.requests()
        for _ in range(2):
            async with mesh("a", net=net, id=UUID(int=5)) as (a,), anyio.create_task_group() as tasks:
                await a.wait_for(1, timeout=LIMIT)
                tasks.start_soon(a.request, b.id, b"")
                (request,) = await take(requests, 1)
                await request.reply(b"")
                numbers.append(request._number)
    assert numbers[0] != numbers[1]
    assert (numbers[0] >> 32) != (numbers[1] >> 32)


async def test_a_request_that_is_cancelled_is_forgotten_and_its_answer_is_counted() -> None:
    async with mesh("a", "b") as (a, b):
        requests = b.requests()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(a.request, b.id, b"")
            (request,) = await take(requests, 1)
            tasks.cancel_scope.cancel()
        assert open_requests(a) == 0
        await request.reply(b"")
        await turn_until(lambda: a.dropped[Drop.LATE_REPLY] == 1)


# Several at once


@JUMPING
async def test_a_request_to_many_tells_what_came_of_each() -> None:
    net = MemoryNetwork()

    async def fails(_: Request) -> bytes:
        raise ValueError("no")

    async with net.proxy(), mesh("a", "good", "bad", "slow", "dead", net=net) as (a, good, bad, slow, dead):
        handlers = [(good, shout), (bad, fails), (slow, never), (dead, never)]
        services = [await peer.serve("s", handler).__aenter__() for peer, handler in handlers]
        await offered(a, "s", 4)
        replies: list[Reply] = []

        async def ask() -> None:
            replies.extend(await a.request_many("s", b"x", timeout=2))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(ask)
            await turn_until(lambda: bool(services[3]._running))
            net.kill(dead)
        by_name = {one.peer.name: one for one in replies}
        assert by_name["good"] == Reply(a.peers[good.id], b"X", None)
        assert by_name["bad"].payload is None
        assert isinstance(by_name["bad"].error, RequestFailed)
        assert isinstance(by_name["slow"].error, TimeoutError)
        assert isinstance(by_name["dead"].error, ResponderGone)
        assert len(replies) == 4
        for service in reversed(services):
            await service.__aexit__(None, None, None)
        assert open_requests(a) == 0


async def test_a_request_to_many_fails_when_we_leave() -> None:
    async with mesh("a", "b") as (a, b), b.serve("s", never), anyio.create_task_group() as tasks:
        await offered(a, "s")

        async def ask() -> None:
            with pytest.raises(ClosedError, match="is leaving"):
                await a.request_many("s", b"")

        tasks.start_soon(ask)
        await turn_until(lambda: open_requests(a) == 1)
        await a.leave()


# Serving


async def test_a_service_is_announced_as_long_as_it_is_served() -> None:
    async with mesh("a", "b") as (a, b):
        assert b.me.services == set()
        async with b.serve("s", shout), b.serve("t", shout):
            assert b.me.services == {"s", "t"}
            await offered(a, "t")
        assert b.me.services == set()
        await offered(a, "t", 0)
        with pytest.raises(RequestFailed, match="it does not serve 's'"):
            await a.request(b.id, b"", service="s")
        async with b.serve("s", shout):
            assert await a.request(b.id, b"x", service="s") == b"X"


async def test_a_service_is_served_once_in_one_peer_and_a_block_is_entered_once() -> None:
    async with mesh("a", "b") as (a, _), a.serve("s", shout):
        again = a.serve("s", shout)
        with pytest.raises(ValueError, match="the service 's' is served by this peer already"):
            await again.__aenter__()
        assert a.me.services == {"s"}
        other = a.serve("t", shout)
        async with other:
            with pytest.raises(ClosedError, match="was entered before"):
                await other.__aenter__()
        assert a.me.services == {"s"}


async def test_as_many_requests_are_worked_on_as_the_limit_says() -> None:
    at_once: list[int] = []
    running = 0
    proceed = anyio.Event()

    async def handler(request: Request) -> bytes:
        nonlocal running
        running += 1
        at_once.append(running)
        await proceed.wait()
        await checkpoint()
        running -= 1
        return request.payload

    async with mesh("a", "b") as (a, b), b.serve("s", handler, limit=3) as service:
        answers: list[bytes] = []

        async def ask(number: int) -> None:
            answers.append(await a.request(b.id, b"%d" % number, service="s"))

        async with anyio.create_task_group() as tasks:
            for number in range(10):
                tasks.start_soon(ask, number)
            await turn_until(lambda: len(service._waiting) == 7)
            assert running == 3
            proceed.set()
        assert sorted(answers) == [b"%d" % number for number in range(10)]
        assert max(at_once) == 3
        assert service._workers == 3, "they are used again"
        assert_is_idle(service)


async def test_more_requests_than_may_wait_fail() -> None:
    config = PeerConfig(stream_capacity=2, serve_limit=1)
    async with (
        mesh("a", "b", config=config) as (a, b),
        b.serve("s", never) as service,
        anyio.create_task_group() as tasks,
    ):

        async def ask() -> None:
            await a.request(b.id, b"", service="s")

        tasks.start_soon(ask)
        await turn_until(lambda: bool(service._running))
        tasks.start_soon(ask)
        tasks.start_soon(ask)
        await turn_until(lambda: len(service._waiting) == 2)
        with pytest.raises(RequestFailed, match="too many requests wait there"):
            await a.request(b.id, b"", service="s")
        assert b.dropped[Drop.STREAM_FULL] == 1
        tasks.cancel_scope.cancel()


@pytest.mark.parametrize("leaves", [False, True], ids=["the block is left", "the peer leaves"])
async def test_what_is_open_when_serving_ends_is_answered_as_failed(leaves: bool) -> None:
    cancelled = 0
    reasons: list[str] = []

    async def handler(_: Request) -> bytes:
        nonlocal cancelled
        try:
            await anyio.sleep_forever()
        finally:
            cancelled += 1
        return b""

    async with mesh("a", "b") as (a, b), anyio.create_task_group() as tasks:

        async def ask() -> None:
            with pytest.raises(RequestFailed) as caught:
                await a.request(b.id, b"", service="s")
            reasons.append(caught.value.reason)

        async with b.serve("s", handler, limit=2) as service:
            for _ in range(5):
                tasks.start_soon(ask)
            await turn_until(lambda: len(service._waiting) == 3)
            if leaves:
                await b.leave()
                await turn_until(lambda: cancelled == 2)
        assert cancelled == 2
        await turn_until(lambda: reasons == ["it stopped serving before it had answered"] * 5)
        assert_is_idle(service)


async def test_what_a_handler_raises_while_it_is_cancelled_ends_nothing(caplog: pytest.LogCaptureFixture) -> None:
    async def bad_loser() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            raise ValueError("not fair")

    async def handler(_: Request) -> bytes:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(bad_loser)
            tasks.start_soon(anyio.sleep_forever)
            tasks.start_soon(bad_loser)
        return b""

    async with mesh("a", "b") as (a, b), anyio.create_task_group() as tasks, b.serve("s", handler) as service:

        async def ask() -> None:
            with pytest.raises(RequestFailed):
                await a.request(b.id, b"", service="s")

        tasks.start_soon(ask)
        await turn_until(lambda: bool(service._running))


@ON_ASYNCIO
async def test_a_handler_whose_task_is_cancelled_by_others_ends_nothing() -> None:
    async def handler(request: Request) -> bytes:
        if request.payload == b"cancel":
            other = asyncio.create_task(asyncio.sleep(3600))
            asyncio.get_running_loop().call_soon(other.cancel)
            await other
        return request.payload

    async with mesh("a", "b") as (a, b), b.serve("s", handler):
        with pytest.raises(RequestFailed, match="it was cancelled"):
            await a.request(b.id, b"cancel", service="s")
        assert await a.request(b.id, b"x", service="s") == b"x"


@ON_ASYNCIO
async def test_a_service_whose_own_tasks_are_cancelled_by_others_is_served_no_longer() -> None:
    async with mesh("a", "b") as (a, b), b.serve("s", shout):
        assert await a.request(b.id, b"x", service="s") == b"X"
        workers = [task for task in asyncio.all_tasks() if "_work" in task.get_name()]
        assert len(workers) == 1
        workers[0].cancel()
        await offered(a, "s", 0)
        with pytest.raises(RequestFailed, match="it does not serve 's'"):
            await a.request(b.id, b"x", service="s")


@ON_ASYNCIO
async def test_a_service_may_be_left_in_another_task_than_the_one_that_entered_it() -> None:
    async with mesh("a", "b") as (a, b):
        service = b.serve("s", shout)
        await asyncio.create_task(service.__aenter__())
        assert await a.request(b.id, b"x", service="s") == b"X"
        await asyncio.create_task(service.__aexit__(None, None, None))
        assert not b.me.services


async def test_a_handler_sees_the_context_in_which_it_is_served() -> None:
    variable: contextvars.ContextVar[bytes] = contextvars.ContextVar("variable", default=b"outside")

    async def handler(_: Request) -> bytes:
        return variable.get()

    async with mesh("a", "b") as (a, b):
        token = variable.set(b"inside")
        async with b.serve("s", handler):
            variable.reset(token)
            assert await a.request(b.id, b"", service="s") == b"inside"


async def test_a_handler_may_answer_by_itself() -> None:
    async def handler(request: Request) -> bytes:
        await request.reply(b"early")
        return b"ignored"

    async with mesh("a", "b") as (a, b), b.serve("s", handler):
        assert await a.request(b.id, b"", service="s") == b"early"
        assert not a.dropped


async def test_a_request_whose_sender_is_gone_before_its_turn_is_not_begun() -> None:
    net = MemoryNetwork()
    begun: list[bytes] = []
    proceed = anyio.Event()

    async def handler(request: Request) -> bytes:
        begun.append(request.payload)
        await proceed.wait()
        return b""

    async with net.proxy(), mesh("b", net=net) as (b,), b.serve("s", handler, limit=1) as service:
        async with mesh("a", net=net) as (a,), anyio.create_task_group() as tasks:
            await offered(a, "s")
            for payload in (b"1", b"2"):
                tasks.start_soon(a.request, "s", payload)
            await turn_until(lambda: len(service._waiting) == 1)
            tasks.cancel_scope.cancel()
        await b.wait_for(lambda peers: not peers, timeout=LIMIT)
        proceed.set()
        await turn_until(lambda: not service._waiting)
        assert len(begun) == 1


async def test_a_service_that_does_not_fit_is_not_served() -> None:
    async with mesh("a", "b", headers={"x": "y" * 64_900}) as (a, b):
        with pytest.raises(AnnounceTooLarge):
            await b.serve("s" * 1024, shout).__aenter__()
        assert not b.me.services
        with pytest.raises(RequestFailed, match="it does not serve"):
            await a.request(b.id, b"", service="s" * 1024)


async def test_nothing_is_served_by_a_peer_that_is_not_open() -> None:
    async with mesh("a", "b") as (a, _):
        early, late = Peer(PROXY, network=MemoryNetwork()).serve("s", shout), a.serve("s", shout)
        with pytest.raises(ClosedError, match="is not open"):
            await early.__aenter__()
        await a.leave()
        with pytest.raises(ClosedError, match="is leaving"):
            await late.__aenter__()


@ON_ASYNCIO
async def test_a_service_whose_block_outlasts_its_peer_does_no_harm() -> None:
    net = MemoryNetwork()
    async with net.proxy():
        peer = Peer(PROXY, network=net)
        service = peer.serve("s", shout)
        async with peer:
            await service.__aenter__()
        await service.__aexit__(None, None, None)
        assert not peer._services._served


async def test_arguments_are_checked_where_they_are_given() -> None:
    async with mesh("a", "b") as (a, b):
        for name in ("", "a\0b", "\ud800", "x" * 1025):
            with pytest.raises(ValueError, match="service"):
                a.serve(name, shout)
            with pytest.raises(ValueError, match="service"):
                await a.request(name, b"")
            with pytest.raises(ValueError, match="service"):
                await a.request_many(name, b"")
        with pytest.raises(ValueError, match="limit must be at least 1, not 0"):
            a.serve("s", shout, limit=0)
        with pytest.raises(ValueError, match="a request names one service, not 's' and 't'"):
            await a.request("s", b"", service="t")
        with pytest.raises(TypeError, match="a service is text"):
            a.serve(b"s", shout)  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="handler must take a request"):
            a.serve("s", None)  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="limit must be of type int"):
            a.serve("s", shout, limit=1.5)  # type: ignore[arg-type]
        for coroutine in (
            a.send("b", b""),  # type: ignore[arg-type]
            a.send(b.id, "text"),  # type: ignore[arg-type]
            a.request(5, b""),  # type: ignore[arg-type]
            a.request(b.id, "text"),  # type: ignore[arg-type]
            a.request(b.id, b"", service=b"s"),  # type: ignore[arg-type]
            a.request(b.id, b"", timeout="1"),  # type: ignore[arg-type]
            a.request_many(b"s", b""),  # type: ignore[arg-type]
        ):
            with pytest.raises(TypeError):
                await coroutine


# What the network does wrong


async def test_frames_that_make_no_sense_are_counted_and_end_nothing() -> None:
    async with mesh("a", "b") as (a, b), b.serve("s", shout):
        me, session = a.id, a._me.session
        for kind, body in (
            (Kind.REQUEST, b""),
            (Kind.REQUEST, bytes(8) + b"\0\x05s"),
            (Kind.REQUEST, bytes(8) + b"\0\x01\xff"),
            (Kind.REPLY, bytes(8)),
            (Kind.REPLY, bytes(8) + b"\x03"),
        ):
            a._opened.data.send(control_frame(inbox(b.id), kind, me, session, body))
        for kind in (Kind.REQUEST, Kind.REPLY):  # which are not for all
            a._opened.data.send(control_frame(b"\xfe", kind, me, session, bytes(20)))
        a._opened.data.send(control_frame(inbox(b.id), Kind.REQUEST, uuid4(), session, bytes(20)))
        a._opened.data.send(control_frame(inbox(b.id), Kind.REPLY, me, session, bytes(20)))
        assert await a.request(b.id, b"x", service="s") == b"X"
        assert b.dropped == {Drop.MALFORMED_CONTROL: 7, Drop.UNKNOWN_SENDER: 1, Drop.LATE_REPLY: 1}


# Whatever happens


class Crowd:
    """Many who ask at the same time, each of whom may be cancelled at any point, or have no patience."""

    def __init__(self, seed: int, asker: Peer, responder: Peer, requests: int) -> None:
        self.requests = requests
        self.chance = Random(seed)
        self.asker, self.responder = asker, responder
        self.sent = 0
        self.handled: list[bytes] = []
        self.answered: list[bytes] = []
        self.given_up: list[bytes] = []
        self._turns = [self.chance.choice((0, 0, 1, 2, 5, 20)) for _ in range(64)]

    async def handler(self, request: Request) -> bytes:
        self.handled.append(request.payload)
        count = len(self.handled)
        for _ in range(self._turns[count % 64]):
            await checkpoint()
        if count % 17 == 0:
            await request.reply(request.payload)
        return request.payload

    async def ask(self, payload: bytes) -> None:
        self.sent += 1
        timeout = self.chance.choice((1e-4, 1e-3, 60))
        try:
            assert await self.asker.request(self.responder.id, payload, service="s", timeout=timeout) == payload
        except TimeoutError:
            self.given_up.append(payload)
        else:
            self.answered.append(payload)

    async def cancelled_by_its_group(self, payload: bytes) -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self.ask, payload)
            for _ in range(self.chance.randrange(12)):
                await checkpoint()
            tasks.cancel_scope.cancel()

    async def cancelled_in_time(self, payload: bytes) -> None:
        with anyio.move_on_after(self.chance.random() / 1000):
            await self.ask(payload)

    async def cancelled_as_a_task(self, payload: bytes) -> None:
        task = asyncio.create_task(self.ask(payload))
        for _ in range(self.chance.randrange(12)):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])

    async def live(self, name: int, ways: list[Callable[[bytes], Awaitable[None]]]) -> None:
        for number in range(self.requests // 20):
            await self.chance.choice(ways)(b"%d.%d" % (name, number))

    async def run(self, *more: Callable[[bytes], Awaitable[None]]) -> None:
        ways = [self.ask, self.cancelled_by_its_group, self.cancelled_in_time, *more]
        async with self.responder.serve("s", self.handler, limit=5) as service:
            async with anyio.create_task_group() as tasks:
                for name in range(20):
                    tasks.start_soon(self.live, name, ways)
            assert open_requests(self.asker) == 0
            drops = self.asker.dropped
            await turn_until(lambda: drops[Drop.LATE_REPLY] + len(self.answered) == len(self.handled))
            await turn_until(lambda: len(service._idle) == service._workers)
            assert_is_idle(service)
            assert await self.asker.request("s", b"end") == b"end"
        assert len(set(self.handled)) == len(self.handled), "a request was handled twice"
        assert set(self.answered) <= set(self.handled)
        assert not set(self.answered) & set(self.given_up)
        assert self.sent > 0.9 * self.requests
        assert self.sent / 20 < len(self.answered) < self.sent * 0.95, "it shows nothing"


@pytest.mark.parametrize("seed", range(2))
async def test_each_request_is_answered_once_or_forgotten_whoever_is_cancelled_when(
    seed: int, repeats: Callable[[int, int], int]
) -> None:
    async with mesh("a", "b") as (a, b):
        await Crowd(seed, a, b, repeats(10_000, 1_000)).run()


@ON_ASYNCIO
async def test_each_request_is_answered_once_or_forgotten_whatever_task_is_cancelled_when() -> None:
    async with mesh("a", "b") as (a, b):
        crowd = Crowd(5, a, b, 20_000)
        await crowd.run(crowd.cancelled_as_a_task, crowd.cancelled_as_a_task)


# Real sockets and processes


async def test_a_process_that_is_killed_fails_the_requests_in_flight_at_once_and_no_others(proxy: Proxy) -> None:
    async with (
        children(proxy.endpoint, ("--name", "one"), ("--name", "two")) as (one, two),
        Peer(proxy.endpoint) as peer,
    ):
        for child in (one, two):
            child.order("serve echo")
        await peer.wait_for(lambda peers: sum("echo" in other.services for other in peers.values()) == 2, timeout=60)
        ids = {other.name: other.id for other in peer.peers.values()}
        assert sorted([one.payload for one in await peer.request_many("echo", b"x", timeout=60)], key=str) == [b"x"] * 2
        causes: list[Cause] = []

        async def ask() -> None:
            with pytest.raises(ResponderGone) as caught:
                await peer.request(ids["one"], b"hang", service="echo", timeout=600)
            causes.append(caught.value.cause)

        async with anyio.create_task_group() as tasks:
            for _ in range(100):
                tasks.start_soon(ask)
            await one.wait_for("hanging", 100)
            one.kill()
        assert causes == [Cause.REFUSED] * 100
        assert await peer.request("echo", b"y", timeout=60) == b"y"
        assert open_requests(peer) == 0
