"""A proxy that a peer hosts whenever nobody else does, so that programs on one machine need no daemon.

Rule 1: the operating system chooses the host: of all who try to bind the well-known endpoint one
succeeds. The others try again when the proxy is lost.

Rule 2: it runs in a thread, an event loop and a context of its own, so a peer that keeps its event
loop busy does not keep others from being discovered.
"""

from __future__ import annotations

import errno
import logging
import random
import threading
from collections.abc import Callable
from functools import partial

import anyio

from ._core.errors import BindError, SocketLimitError
from ._core.model import Endpoint
from ._loops import outlast, threadsafe
from ._proxy import Proxy
from ._zmq.sockets import check_descriptors

logger = logging.getLogger("zdisco")

_RETRY = 0.5
"""Seconds until the endpoint is tried again while no proxy is found; at random up to twice this."""


class EmbeddedProxy:
    """Hosts the proxy at an endpoint of this machine while one is wanted and nobody else does."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._is_host = False
        self._tried: Callable[[], object] = _nothing
        self._ended: anyio.Event | None = None
        self._error: BaseException | None = None
        self._thread: threading.Thread | None = None
        self._in_thread: Callable[[Callable[[], object]], object] | None = None
        self._stops = False
        # What follows is touched in the thread only.
        self._is_wanted = True
        self._changed: anyio.Event | None = None
        self._scope: anyio.CancelScope | None = None

    @property
    def is_host(self) -> bool:
        """Whether the proxy is ours."""
        return self._is_host

    async def start(self) -> None:
        """Start, and wait until the endpoint was bound, or is somebody else's; call `stop` in the end.

        Raises:
            BindError: If nobody on this machine can bind the endpoint.
            SocketLimitError: If no sockets or descriptors are left.

        Cancellation: safe.
        """
        check_descriptors()  # an event loop takes some, too, and fails in a less orderly way
        tell, tried, ended = threadsafe(), anyio.Event(), anyio.Event()
        self._tried, self._ended = partial(tell, tried.set), ended
        thread = threading.Thread(
            target=self._run_thread, args=(partial(tell, ended.set),), name="zdisco proxy", daemon=True
        )
        thread.start()
        self._thread = thread  # only now is there one to wait for
        await tried.wait()
        if self._error is not None:
            raise self._error

    def want(self, is_wanted: bool) -> None:
        """Say whether a proxy is lacking."""

        def note() -> None:
            self._is_wanted = is_wanted
            self._change()

        self._call(note)

    async def stop(self) -> None:
        """Host it no longer. Cancellation: waits to the end all the same, so that no thread remains."""
        thread, self._thread = self._thread, None
        if thread is not None and self._ended is not None:
            # The thread looks at it first thing, before which nothing can be called there.
            self._stops = True
            self._call(self._cancel)
            await outlast(self._ended)
            thread.join()

    def _call(self, function: Callable[[], object]) -> None:
        if self._in_thread is not None:
            self._in_thread(function)

    # In the thread

    def _run_thread(self, ended: Callable[[], object]) -> None:
        try:
            anyio.run(self._run)
        except BaseException as error:  # nobody above would tell of it
            logger.error("the embedded proxy ended unexpectedly", exc_info=error)
            self._error = error
        finally:
            self._in_thread = None
            self._tried()
            ended()

    async def _run(self) -> None:
        self._in_thread = threadsafe()
        is_first = True
        with anyio.CancelScope() as self._scope:
            while not self._stops:
                await self._until(lambda: self._is_wanted)
                error = await self._host()
                if error.errno != errno.EADDRINUSE:
                    if is_first:
                        self._error = error
                        return
                    # No descriptors are left, for example: that may change, and nobody else may take over.
                    logger.warning("cannot host the proxy: %s", error)
                is_first = False
                self._tried()
                with anyio.move_on_after(_RETRY * (1 + random.random())):
                    await self._until(lambda: not self._is_wanted)

    def _cancel(self) -> None:
        if self._scope is not None:
            self._scope.cancel()

    def _change(self) -> None:
        if self._changed is not None:
            self._changed.set()

    async def _until(self, holds: Callable[[], bool]) -> None:
        while not holds():
            self._changed = anyio.Event()
            await self._changed.wait()

    async def _host(self) -> BindError | SocketLimitError:
        """Host the proxy until the end, or return why that is not possible now."""
        try:
            async with Proxy(self._endpoint):
                logger.info("hosting the proxy at %s", self._endpoint)
                self._is_host = True
                self._tried()
                await anyio.sleep_forever()
        except (BindError, SocketLimitError) as error:
            return error
        finally:
            self._is_host = False
        raise AssertionError("only a cancellation ends the sleep")


def _nothing() -> None:
    """Before it is started."""
