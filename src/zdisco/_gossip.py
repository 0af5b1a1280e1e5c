"""`Gossip`: a node of the gossip network.

Rule 1: what the caller does wrong raises at once; what the network does wrong is counted in
`Gossip.dropped` and ends nothing.

Rule 2: whatever happens in the block, leaving it closes every task, socket and descriptor.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import ItemsView, Iterable, Iterator, KeysView, Mapping, ValuesView
from itertools import count
from types import MappingProxyType, TracebackType
from typing import Self
from uuid import UUID, uuid4
from weakref import WeakSet

import anyio
import anyio.lowlevel
from attrs import evolve

from ._arguments import (
    gossip_address,
    gossip_endpoint,
    gossip_key,
    gossip_value,
    of_type,
    several_texts,
    timeout_seconds,
    ttl_seconds,
)
from ._background import Background
from ._channels import GossipChannel
from ._core.actions import Drop
from ._core.config import GossipConfig
from ._core.endpoints import parse
from ._core.errors import ClosedError, ZdiscoError
from ._core.gossip.model import Change, Delivery, GossipStatus, to_bytes, to_text
from ._core.gossip.node import Node
from ._core.model import Endpoint
from ._deliveries import DeliveryStream
from ._gossip_driver import GossipDriver
from ._gossip_settings import TIMEOUT, VERBOSE, Published, Settings, SettingsFile, flag, milliseconds
from ._loops import current_time, runs_in
from ._streams import Stream
from ._zmq.gossip import ZmqGossipChannel
from ._zmq.keys import Security, curve_key, curve_keys
from .zpl import Section, dump

logger = logging.getLogger("zdisco")

_ASK_AGAIN = 0.02
"""Seconds after which remotes that do not hold what we hold are asked again what they hold."""
_ELSEWHERE = "a gossip node is used in the thread and the event loop in which it was entered"


class Gossip(Mapping[str, str]):
    """A node of a gossip network: tuples of key and value that all its nodes come to hold.

    ::

        async with Gossip("tcp://127.0.0.1:*") as one, Gossip(connect=one.endpoints) as two:
            await one.publish("service", "tcp://127.0.0.1:9000")
            print(await two.wait_for("service"))

    The nodes form any network in which there is a way from each to each, cycles too. Of two values
    that were published for one key at about the same time every node ends with the same one. CZMQ's zgossip
    takes part, without time to live and removal, of which it knows nothing.

    A node is a mapping of the tuples that it holds, text to text; bytes that are not UTF-8 are lone
    surrogates, as in names of files (PEP 383). Iterating goes over what it held at the beginning.

    Entering the block binds and starts to connect, and waits for nobody. Leaving it takes back what
    this node has published with a time to live, and closes everything. A node is entered once, and
    used in the thread and the event loop in which it was entered; elsewhere it raises
    `RuntimeError`. After the block whatever is called raises `ClosedError`, and its streams have ended.

    Its sockets are in the ``zmq.Context.instance()`` of the process, so that ``inproc`` endpoints reach other
    nodes and sockets there; terminating that ends the node.

    Args:
        bind: Where other nodes may connect to this one: an endpoint, or several, of ``tcp``, ``ipc`` or ``inproc``.
            A ``tcp`` port ``*`` or ``0`` picks a free one, a host ``*`` listens on all interfaces.
        connect: Endpoints of other nodes; a mapping has the server key of each, or ``None``.
        id: Names this node in the versions of what it writes; random unless given. No two nodes may have the same.
        config: Every interval, timeout and bound.
        public_key: For CURVE, in Z85, together with ``secret_key``: who connects must know this key, and speaks
            encrypted. It is asked for by remotes that are connected to with a server key, too.
        secret_key: The other half.
        zap_domain: A ZAP handler (RFC 27) in the context of the process decides who may connect, and is told this
            domain. As long as there is no handler, nobody may.

    Raises:
        InvalidEndpoint: If an endpoint can be none.
        TypeError: If an argument is of the wrong type.
        ValueError: If a key is none, or one of the pair is missing, or there is no such domain.
        RuntimeError: If keys are given and libzmq was built without CURVE.

    Entering the block raises `BindError` if an endpoint cannot be bound, and `SocketLimitError` if no
    sockets or descriptors are left. Cancellation while entering or leaving is safe: everything is closed.
    """

    def __init__(
        self,
        bind: str | Iterable[str] = (),
        connect: str | Iterable[str] | Mapping[str, str | None] = (),
        *,
        id: UUID | None = None,
        config: GossipConfig | None = None,
        public_key: str | bytes | None = None,
        secret_key: str | bytes | None = None,
        zap_domain: str | None = None,
    ) -> None:
        self._binds = [gossip_address(one) for one in _several("bind", bind)]
        self._id = uuid4() if id is None else of_type("id", id, UUID)
        self._config = GossipConfig() if config is None else of_type("config", config, GossipConfig)
        domain = "" if zap_domain is None else of_type("zap_domain", zap_domain, str)
        self._security = Security(curve_keys(public_key, secret_key), domain)
        server_keys = connect if isinstance(connect, Mapping) else {}
        self._connects = [
            (gossip_endpoint(one), self._checked_key(server_keys.get(one))) for one in _several("connect", connect)
        ]
        self._driver: GossipDriver | None = None
        self._channel: GossipChannel | None = None
        self._background: Background | None = None
        self._drops: Mapping[Drop, int] = MappingProxyType({})
        self._was_entered = False
        self._is_closed = False
        self._thread = 0
        self._loop: anyio.lowlevel.EventLoopToken | None = None
        self._bound: dict[Endpoint, Endpoint] = {}
        """What was asked for, and what it was resolved to; the same may have been asked for again."""
        self._endpoints: list[Endpoint] = []
        self._numbers = count(1)
        self._remotes: dict[Endpoint, tuple[int, bytes | None]] = {}
        self._borrowed: set[Endpoint] = set()
        """The remotes that only `_borrow` asked for."""
        self._streams: WeakSet[DeliveryStream] = WeakSet()
        self._awaited: dict[str, set[anyio.Event]] = {}
        """Of each key that somebody waits for, one for each who does."""
        self._tree = Section()
        self._file: SettingsFile | None = None
        self._file_came = anyio.Event()
        self._from_file: dict[str, Published] = {}
        """What was published last because a file says so."""

    def __repr__(self) -> str:
        where = ", ".join(self._endpoints) or ("without endpoint" if self._driver else "not open")
        return f"<zdisco.Gossip {self._id} {where}>"

    # What can be asked

    @property
    def id(self) -> UUID:
        """The id of this node."""
        return self._id

    @property
    def endpoints(self) -> tuple[Endpoint, ...]:
        """Where this node listens, resolved, in the order in which it was bound."""
        return tuple(self._endpoints)

    @property
    def port(self) -> int | None:
        """The port of the last ``tcp`` endpoint that was bound; ``None`` if there is none."""
        ports = [parse(endpoint).port for endpoint in self._endpoints if endpoint.startswith("tcp://")]
        return ports[-1] if ports else None

    @property
    def dropped(self) -> Mapping[Drop, int]:
        """How often something was dropped, by reason; read-only and live."""
        return self._drops

    def status(self) -> GossipStatus:
        """How much this node holds, and with how many others it speaks.

        Raises:
            ClosedError: If the node is not open.
        """
        return self._opened.core.status

    def __getitem__(self, key: str) -> str:
        tuples = self._opened.core.tuples
        value = tuples.get(_known_key(key))
        if value is None:
            raise KeyError(key)
        return to_text(value)

    def __iter__(self) -> Iterator[str]:
        return iter(self._snapshot())

    def __len__(self) -> int:
        return len(self._opened.core.tuples)

    def __bool__(self) -> bool:
        """A node is true, also one that holds nothing, or is not open."""
        return True

    # What a view of a mapping does, to get the value of each key when it comes to it, would fail for one that is gone.

    def keys(self) -> KeysView[str]:
        """The keys as they are now."""
        return self._snapshot().keys()

    def values(self) -> ValuesView[str]:
        """The values as they are now."""
        return self._snapshot().values()

    def items(self) -> ItemsView[str, str]:
        """Keys and values as they are now."""
        return self._snapshot().items()

    def _snapshot(self) -> dict[str, str]:
        return {to_text(key): to_text(value) for key, value in self._opened.core.tuples.items()}

    # Life

    async def __aenter__(self) -> Self:
        if self._was_entered:
            raise ClosedError("gossip node", "was entered before: make a new one")
        self._was_entered = True
        self._thread, self._loop = threading.get_ident(), anyio.lowlevel.current_token()
        try:
            await self._open()
        except BaseException:
            await self._close()
            raise
        return self

    async def _open(self) -> None:
        await anyio.lowlevel.checkpoint()
        self._channel = ZmqGossipChannel(self._config, self._security)
        core = Node(self._id, self._config, time.time)
        self._driver = driver = GossipDriver(core, self._channel, self._tell)
        driver.is_verbose = self._tree.get(VERBOSE) == "1"
        self._drops = driver.drops
        for endpoint in self._binds:
            self._bind(endpoint)
        for endpoint, server_key in self._connects:
            self._connect(endpoint, server_key)
        self._background = Background(self._run, self._ended)
        await self._background.start()

    async def _run(self) -> None:
        assert self._driver is not None
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._follow_file)
            await self._driver.run()
            tasks.cancel_scope.cancel()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._driver is not None:
            self._driver.feed(self._driver.core.leave(current_time()))
        await self._close()

    async def _close(self) -> None:
        try:
            if self._background is not None:
                await self._background.stop()
        finally:
            self._shut()
            if self._channel is not None:
                await self._channel.aclose()

    def _ended(self) -> None:
        # Of an error of ours more has been logged already.
        logger.error("the gossip node %s has ended, as it does with the ZeroMQ context of the process", self._id)
        self._shut()

    def _shut(self) -> None:
        """Let nobody use us, or wait for us, any more."""
        self._is_closed = True
        driver, self._driver = self._driver, None
        if driver is not None:
            driver.close()
        if self._channel is not None:
            self._channel.close()
        for stream in self._streams:
            stream._end()
        awaited, self._awaited = self._awaited, {}
        for events in awaited.values():
            for event in events:
                event.set()

    @property
    def _opened(self) -> GossipDriver:
        if self._driver is None:
            raise ClosedError("gossip node")
        if self._thread != threading.get_ident() or self._loop is None or not runs_in(self._loop):
            raise RuntimeError(_ELSEWHERE)
        return self._driver

    # The network

    async def bind(self, endpoint: str) -> Endpoint:
        """Let other nodes connect to this one there, too.

        Args:
            endpoint: Of ``tcp``, ``ipc`` or ``inproc``.

        Returns:
            The endpoint as it is resolved.

        Raises:
            InvalidEndpoint: If it can be none.
            BindError: If it cannot be bound.
            SocketLimitError: If there are no sockets or descriptors left.
            ClosedError: If the node is not open.

        Cancellation: safe; it is bound, or is not.
        """
        address = gossip_address(endpoint)
        await anyio.lowlevel.checkpoint()
        return self._bind(address)

    def _bind(self, endpoint: Endpoint) -> Endpoint:
        resolved = self._opened.channel.bind(endpoint)
        self._bound[endpoint] = resolved
        self._endpoints.append(resolved)
        return resolved

    async def connect(self, endpoint: str, server_key: str | bytes | None = None) -> None:
        """Exchange tuples with the node there, from when it can be reached on, again and again until `disconnect`.

        Nothing happens if it is connected there already. (CZMQ's zgossip says all its tuples again then.)

        Args:
            endpoint: Of ``tcp``, ``ipc`` or ``inproc``. A host name is looked up by libzmq, which holds up its I/O
                thread meanwhile; an address is better.
            server_key: The public key of that node, in Z85, if it wants CURVE; needs keys of our own.

        Raises:
            InvalidEndpoint: If it can be none.
            ValueError: If the key is none, or this node has none of its own, or it is connected there with another.
            SocketLimitError: If there are no sockets or descriptors left.
            ClosedError: If the node is not open.

        Cancellation: safe; it is connected, or is not.
        """
        valid, key = gossip_endpoint(endpoint), self._checked_key(server_key)
        await anyio.lowlevel.checkpoint()
        self._connect(valid, key)

    def _checked_key(self, server_key: object) -> bytes | None:
        if server_key is None:
            return None
        if self._security.keys is None:
            raise ValueError("a server_key is of no use without the public_key and secret_key of this node")
        return curve_key("server_key", server_key)

    def _connect(self, endpoint: Endpoint, server_key: bytes | None) -> None:
        channel = self._opened.channel
        if (known := self._remotes.get(endpoint)) is None:
            number = next(self._numbers)
            channel.connect(number, endpoint, server_key)
            self._remotes[endpoint] = (number, server_key)
        elif known[1] != server_key:
            raise ValueError(f"this node is connected to {endpoint} with another server_key")
        self._borrowed.discard(endpoint)

    async def disconnect(self, endpoint: str) -> bool:
        """Exchange nothing more with the node there. What it had published stays.

        Args:
            endpoint: Spelled as it was given to `connect`.

        Returns:
            Whether this node was connected there.

        Raises:
            TypeError: If it is no text.
            ClosedError: If the node is not open.

        Cancellation: safe; it is disconnected, or is not.
        """
        of_type("endpoint", endpoint, str)
        await anyio.lowlevel.checkpoint()
        driver = self._opened
        known = self._remotes.pop(endpoint, None)
        self._borrowed.discard(endpoint)
        if known is not None:
            driver.forget(known[0])
        return known is not None

    def _borrow(self, endpoint: Endpoint) -> None:
        """Connect as `connect` does, until `_give_back`, or for longer if the user wants it, too."""
        if endpoint not in self._remotes:
            self._connect(endpoint, None)
            self._borrowed.add(endpoint)

    def _give_back(self, endpoint: Endpoint) -> None:
        driver = self._opened
        if endpoint in self._borrowed:
            self._borrowed.remove(endpoint)
            driver.forget(self._remotes.pop(endpoint)[0])

    def _reconnect(self) -> None:
        """Connect to all remotes anew."""
        driver = self._opened
        for number, _ in self._remotes.values():
            driver.channel.reconnect(number)

    async def settle(self, timeout: float | None = None) -> None:
        """Wait until each node that this one connected to has answered, and holds what this one holds.

        So what was published before this has reached them, and what they had is here. CZMQ's zgossip does not say
        what it holds; of one of these it is what it told, and what it sent back.

        Args:
            timeout: Seconds to wait at the most.

        Raises:
            TimeoutError: If they did not in time.
            TypeError: If ``timeout`` is no number.
            ClosedError: If the node is not open, or is closed meanwhile.

        Cancellation: safe.
        """
        seconds = None if timeout is None else timeout_seconds(timeout)
        await anyio.lowlevel.checkpoint()
        with anyio.move_on_after(seconds):
            while not self._is_settled:
                driver = self._opened
                driver.feed(driver.core.ask(current_time()))
                with anyio.move_on_after(_ASK_AGAIN):
                    while not self._is_settled:
                        await driver.changed()
            return
        away = len(self._remotes) - self.status().remotes
        down = [endpoint for endpoint, (number, _) in self._remotes.items() if number not in self._opened.up]
        raise TimeoutError(
            f"{away} of {len(self._remotes)} gossip nodes do not answer{': ' * bool(down)}{', '.join(down)}"
            if away
            else f"gossip nodes hold different tuples after {seconds:g} s"
        )

    @property
    def _is_settled(self) -> bool:
        driver = self._opened
        return len(driver.up) == len(self._remotes) and driver.core.is_settled

    # Tuples

    async def publish(self, key: str, value: str, ttl: float | None = None, *, refresh: bool = True) -> None:
        """Give a key a value, here and at all nodes that can be reached, now or later.

        Whoever published it before, this value takes its place. A key for which there is no room, see ``max_tuples``,
        is counted in ``dropped``, and tried again whenever it would be refreshed.

        Args:
            key: Text of at most 255 bytes of UTF-8, without NUL.
            value: Text of at most 1 MiB of UTF-8, without NUL.
            ttl: Seconds for which the others keep it without hearing of us. We refresh it as long as we are there,
                and take it back when we leave; if we are killed it expires. ``None``: it stays for ever.
            refresh: If not, it expires after ``ttl`` whether we are there or not, unless it is published again.

        Raises:
            TypeError: If an argument is of the wrong type.
            ValueError: If one is too long, or holds a NUL, or there is no such time.
            ClosedError: If the node is not open.

        Cancellation: safe; it is published, or is not.
        """
        self._check_tuple(key, value, ttl)
        await anyio.lowlevel.checkpoint()
        self.publish_nowait(key, value, ttl, refresh=refresh)

    def publish_nowait(self, key: str, value: str, ttl: float | None = None, *, refresh: bool = True) -> None:
        """The same for who is not in a coroutine: callbacks of the event loop, for example.

        Raises:
            TypeError: If an argument is of the wrong type.
            ValueError: If one is too long, or holds a NUL, or there is no such time.
            ClosedError: If the node is not open.
        """
        raw_key, raw_value, seconds = self._check_tuple(key, value, ttl)
        driver = self._opened
        driver.feed(driver.core.publish(raw_key, raw_value, seconds, current_time(), refresh=refresh))

    def _check_tuple(self, key: object, value: object, ttl: object) -> tuple[bytes, bytes, float | None]:
        return gossip_key(key), gossip_value(value), None if ttl is None else ttl_seconds(ttl)

    async def unpublish(self, key: str) -> bool:
        """Remove a key here and at all nodes that can be reached, whoever published it.

        Real zgossip nodes know no removal and keep it; what one of them says of it later is news again.

        Args:
            key: As it was published.

        Returns:
            Whether this node held it.

        Raises:
            TypeError: If it is no text.
            ValueError: If it can be none.
            ClosedError: If the node is not open.

        Cancellation: safe; it is removed, or is not.
        """
        gossip_key(key)
        await anyio.lowlevel.checkpoint()
        return self.unpublish_nowait(key)

    def unpublish_nowait(self, key: str) -> bool:
        """The same for who is not in a coroutine.

        Raises:
            TypeError: If it is no text.
            ValueError: If it can be none.
            ClosedError: If the node is not open.
        """
        raw, driver = gossip_key(key), self._opened
        is_held = raw in driver.core.tuples
        driver.feed(driver.core.unpublish(raw, current_time()))
        return is_held

    async def wait_for(self, key: str, *, timeout: float | None = None) -> str:
        """Wait until a key has a value.

        Args:
            key: Which.
            timeout: Seconds to wait at the most.

        Returns:
            The value.

        Raises:
            TimeoutError: If it got none in time.
            TypeError: If an argument is of the wrong type.
            ValueError: If the key can be none.
            ClosedError: If the node is not open, or is closed meanwhile.

        Cancellation: safe.
        """
        raw = gossip_key(key)
        seconds = None if timeout is None else timeout_seconds(timeout)
        await anyio.lowlevel.checkpoint()
        with anyio.move_on_after(seconds):
            while (value := self._opened.core.tuples.get(raw)) is None:
                await self._told_of(to_text(raw))
            return to_text(value)
        raise TimeoutError(f"no value of {key!r} within {seconds:g} s")

    async def _told_of(self, key: str) -> None:
        """Wait until a key is given a value, or the node is closed."""
        event = anyio.Event()
        events = self._awaited.setdefault(key, set())
        events.add(event)
        try:
            await event.wait()
        finally:
            events.remove(event)
            if not events and self._awaited.get(key) is events:
                del self._awaited[key]

    def deliveries(self) -> Stream[Delivery]:
        """What changes from now on, after a `Delivery` for each tuple that is there, with `Change.NEW`.

        Our own changes are among it. Of one key only the latest change waits: a slow reader misses what was between,
        and never what is in the end. If more than ``delivery_capacity`` keys wait, those that
        changed first are dropped; ``dropped`` counts them. May be called before the block is entered.
        Ends when the node is closed.
        """
        present = [] if self._driver is None else self._snapshot().items()
        first = (Delivery(key, value, Change.NEW) for key, value in present)
        stream = DeliveryStream(self._config.delivery_capacity, first, self._lost)
        self._streams.add(stream)
        if self._is_closed:
            stream._end()
        return stream

    def _tell(self, delivery: Delivery) -> None:
        for stream in self._streams:
            stream.offer([delivery])
        if delivery.value is not None:
            for event in self._awaited.pop(delivery.key, ()):
                event.set()

    def _lost(self, number: int) -> None:
        if self._driver is not None:
            for _ in range(number):
                self._driver.dropped(Drop.DELIVERIES_FULL)

    # The configuration

    async def load(self, path: str | os.PathLike[str]) -> None:
        """Read a configuration file, and do what it says; again whenever it has changed.

        It takes the place of what was loaded before, and of what was `set`. What has gone from it is not undone: what
        is bound, connected or published stays so. A changed file that makes no sense is logged, and nothing of it is
        done. The file is read in the event loop, so keep it small.

        Args:
            path: Of a file in ZPL; what it may hold is described under "How to".

        Raises:
            OSError: If it cannot be read.
            ZPLError: If it is not ZPL.
            ValueError: If a value makes no sense where it stands; also `InvalidEndpoint`.
            BindError: If an endpoint in it cannot be bound; what stands before that has been done.
            SocketLimitError: If there are no sockets or descriptors left; likewise.
            ClosedError: If the node is not open.

        Cancellation: safe; it is done, or nothing is.
        """
        file = SettingsFile(path)
        await anyio.lowlevel.checkpoint()
        self._opened  # noqa: B018  raises if we are not
        self._apply(*file.read())
        self._file = file
        self._file_came.set()

    def set(self, path: str, value: str) -> None:
        """Set a value of the configuration, as if it stood in the file that was loaded.

        ``server/timeout`` and ``server/verbose`` are in force at once. What else is set counts when it was saved, and
        is loaded.

        Args:
            path: Such as ``server/timeout``.
            value: Text; times are in milliseconds.

        Raises:
            ValueError: If the path or the value can be none.
            TypeError: If one of them is no text.
            ClosedError: If the node was closed.
        """
        if self._is_closed or self._driver is not None:
            self._opened  # noqa: B018  raises if we are not open, or are elsewhere
        of_type("path", path, str)
        of_type("value", value, str)
        match path.removeprefix("/"):
            case "server/timeout":
                timeout = milliseconds(TIMEOUT, value)
                self._tune(timeout)
                self._tree.put(path, value)
            case "server/verbose":
                is_verbose = flag(VERBOSE, value)
                self._tree.put(path, value)
                self._be_verbose(is_verbose)
            case _:
                self._tree.put(path, value)

    async def save(self, path: str | os.PathLike[str]) -> None:
        """Write what was loaded and `set` into a file, for `load`.

        Whoever reads it meanwhile finds all of the old text or all of the new. What was bound, connected or published
        otherwise is not in it.

        Args:
            path: Where to.

        Raises:
            OSError: If it cannot be written.
            ClosedError: If the node is not open.

        Cancellation: safe; it is written, or is not.
        """
        await anyio.lowlevel.checkpoint()
        self._opened  # noqa: B018  raises if we are not
        dump(self._tree, path)

    def _tune(self, timeout: float) -> None:
        self._config = evolve(self._config, client_timeout=timeout)
        if self._driver is not None:
            self._driver.core.tune(self._config)
            self._driver.feed([])  # its clock sleeps, and may have to wake up earlier now

    def _be_verbose(self, is_verbose: bool) -> None:
        if self._driver is not None:
            self._driver.is_verbose = is_verbose

    def _apply(self, tree: Section, settings: Settings) -> None:
        keys = {endpoint: self._checked_key(key) for endpoint, key in settings.connects}
        if settings.timeout is not None:
            self._tune(settings.timeout)  # first, as it raises where there is no such time
        self._tree = tree
        for text in settings.echoes:
            logger.info("%s", text)
        if settings.is_verbose is not None:
            self._be_verbose(settings.is_verbose)
        for endpoint in settings.binds:
            if endpoint not in self._bound and endpoint not in self._endpoints:
                self._bind(endpoint)
        for endpoint, key in keys.items():
            self._connect(endpoint, key)
        for one in settings.tuples:
            # What did not change in the file may have been changed by others since.
            if self._from_file.get(one.key) != one:
                self.publish_nowait(one.key, one.value, one.ttl)
                self._from_file[one.key] = one

    async def _follow_file(self) -> None:
        while True:
            await self._file_came.wait()
            await anyio.sleep(self._config.reload_interval)
            file = self._file
            assert file is not None
            try:
                if (found := file.refresh()) is None:
                    continue
                self._apply(*found)
            except (OSError, ValueError, ZdiscoError) as error:
                logger.error("the configuration of a gossip node cannot be used: %s", error)
            else:
                logger.info("the configuration of a gossip node was loaded again from %s", file.path)


def _several(name: str, endpoints: object) -> tuple[str, ...]:
    return (endpoints,) if isinstance(endpoints, str) else several_texts(name, endpoints)


def _known_key(key: object) -> bytes:
    """The key on the wire; something that no key is for what can be none."""
    try:
        return to_bytes(key) if isinstance(key, str) else b"\0"
    except UnicodeEncodeError:
        return b"\0"
