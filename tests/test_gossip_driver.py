"""The driver of a gossip node, over a channel that does as it is told."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from uuid import UUID

import anyio
import pytest
from trio.testing import MockClock

from zdisco import Change, Delivery, Drop, GossipConfig
from zdisco._channels import GossipChannel, GossipListener, Sent
from zdisco._core.gossip.frames import Hello, Ping, decode
from zdisco._core.gossip.node import Node
from zdisco._core.gossip.talk import Link
from zdisco._core.model import Endpoint
from zdisco._gossip_driver import GossipDriver
from zdisco._loops import current_time
from zdisco.testing import new_jumping_loop

pytestmark = pytest.mark.anyio

JUMPING = pytest.mark.parametrize(
    "anyio_backend",
    [
        pytest.param(("trio", {"clock": MockClock(autojump_threshold=0)}), id="trio-jumping"),
        pytest.param(("asyncio", {"loop_factory": new_jumping_loop}), id="asyncio-jumping"),
    ],
)
CONFIG = GossipConfig()


class Channel(GossipChannel):
    """Notes what it is to send, and says of it what the test wants."""

    def __init__(self) -> None:
        self.sent: list[tuple[Link, bytes]] = []
        self.answers: deque[Sent] = deque()
        self.reconnected: list[int] = []
        self.listener: GossipListener | None = None
        self.ended = anyio.Event()

    async def run(self, listener: GossipListener) -> None:
        self.listener = listener
        await self.ended.wait()

    def bind(self, endpoint: Endpoint) -> Endpoint:
        return endpoint

    def connect(self, link: int, endpoint: Endpoint, server_key: bytes | None = None) -> None:
        """Nothing to do."""

    def disconnect(self, link: int) -> None:
        """Nothing to do."""

    def reconnect(self, link: int) -> None:
        self.reconnected.append(link)
        # As the real one does it: at once.
        assert self.listener is not None
        self.listener.remote_down(link)

    def send(self, link: Link, frame: bytes) -> Sent:
        self.sent.append((link, frame))
        return self.answers.popleft() if self.answers else Sent.SENT

    def close(self) -> None:
        self.ended.set()

    async def aclose(self) -> None:
        self.close()

    @property
    def said(self) -> list[tuple[Link, str]]:
        said, self.sent = self.sent, []
        return [(link, type(decode(frame)).__name__) for link, frame in said]


@asynccontextmanager
async def driven() -> AsyncIterator[tuple[GossipDriver, Channel, list[Delivery]]]:
    channel, told = Channel(), list[Delivery]()
    driver = GossipDriver(Node(UUID(int=1), CONFIG, lambda: 1_000_000.0), channel, told.append)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(driver.run)
        await anyio.wait_all_tasks_blocked()
        yield driver, channel, told
        channel.close()


async def test_what_the_core_asks_for_is_done_in_the_step_of_the_input() -> None:
    async with driven() as (driver, channel, told):
        driver.remote_up(1)
        assert channel.said == [(1, "Hello"), (1, "Ping")]
        assert driver.up == {1}
        driver.gossip_messages([(1, b"nonsense")])
        assert driver.drops == {Drop.MALFORMED_GOSSIP: 1}
        driver.feed(driver.core.publish(b"k", b"v", None, current_time()))
        assert told == [Delivery("k", "v", Change.NEW)]
        driver.forget(1)
        assert driver.up == set()


async def test_a_full_queue_is_told_to_the_core_which_counts_it() -> None:
    async with driven() as (driver, channel, _):
        channel.answers.extend([Sent.SENT, Sent.FULL])
        driver.remote_up(1)
        assert driver.drops == {Drop.GOSSIP_QUEUE_FULL: 1}


async def test_a_client_that_cannot_be_reached_is_forgotten() -> None:
    from zdisco._core.gossip.frames import encode

    async with driven() as (driver, channel, _):
        driver.gossip_messages([(b"x", encode(Hello()))])
        assert driver.core.status.clients == 1
        channel.answers.append(Sent.UNREACHABLE)
        driver.gossip_messages([(b"x", encode(Ping()))])
        assert driver.core.status.clients == 0


@JUMPING
async def test_the_clock_of_the_core_is_kept_without_an_input() -> None:
    async with driven() as (driver, channel, told):
        driver.feed(driver.core.publish(b"k", b"v", 30.0, current_time(), refresh=False))
        began = current_time()
        while len(told) < 2:
            await driver.changed()
        assert told[1] == Delivery("k", None, Change.EXPIRED)
        assert current_time() - began == pytest.approx(30, abs=0.1)
        assert channel.sent == []


@JUMPING
async def test_an_earlier_deadline_is_kept_though_the_clock_sleeps_already() -> None:
    async with driven() as (driver, _, told):
        driver.feed(driver.core.publish(b"late", b"v", 1000.0, current_time(), refresh=False))
        await anyio.sleep(1)
        driver.feed(driver.core.publish(b"soon", b"v", 2.0, current_time(), refresh=False))
        began = current_time()
        while len(told) < 3:
            await driver.changed()
        assert told[2] == Delivery("soon", None, Change.EXPIRED)
        assert current_time() - began == pytest.approx(2, abs=0.1)


@JUMPING
async def test_a_remote_that_answers_nothing_is_connected_anew() -> None:
    async with driven() as (driver, channel, _):
        driver.remote_up(1)
        began = current_time()
        while not channel.reconnected:
            await driver.changed()
        assert channel.reconnected == [1]
        assert current_time() - began == pytest.approx(CONFIG.silence_timeout, abs=1)
        assert driver.up == set()


async def test_it_ends_with_its_channel() -> None:
    channel = Channel()
    driver = GossipDriver(Node(UUID(int=1), CONFIG, lambda: 0.0), channel, lambda _: None)
    channel.close()
    await driver.run()
