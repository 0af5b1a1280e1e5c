"""A socket that answers programs with a REQ, or with what speaks like one.

Rule: a message is answered in the step that read it, so nothing is kept of whoever asked.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import anyio.lowlevel

from .._core.config import PeerConfig
from .._core.model import Endpoint
from .._ipc import Place, claim, file_of
from .options import name_router
from .sockets import BATCH, Socket, bind, new_context, terminate

Answer: TypeAlias = Callable[[Sequence[bytes]], Sequence[bytes]]
"""Makes the frames of an answer from those of a question."""


class ReplySocket:
    """A ROUTER bound to one endpoint, in a context of its own."""

    def __init__(self) -> None:
        self._context = new_context()
        self._place: Place | None = None
        self._socket: Socket | None = None
        self.unframed = 0
        """How many messages had no empty frame before what they ask, so that nobody would understand the answer."""

    async def bind(self, endpoint: Endpoint) -> Endpoint:
        """Bind; returns the resolved endpoint. Call `aclose` in the end, whatever happens.

        Raises:
            BindError: If that is not possible; also if somebody else listens at an ``ipc`` endpoint.
            SocketLimitError: If there are no sockets or descriptors left.

        Cancellation: safe.
        """
        raw = name_router(self._context, PeerConfig())
        self._socket = Socket(raw, "responder")
        if (path := file_of(endpoint)) is None:
            return bind(raw, endpoint)
        self._place = await claim(path, endpoint)
        return bind(raw, endpoint, self._place.listener)

    async def run(self, answer: Answer) -> None:
        """Answer until cancelled. Cancellation: safe; what was not read yet is not answered."""
        assert self._socket is not None, "bind comes first"
        while True:
            await anyio.lowlevel.checkpoint()
            for _ in range(BATCH):
                message = self._socket.receive_message_nowait()
                if not message:
                    break
                self._reply(self._socket, [frame.bytes for frame in message], answer)
            if self._socket.drained:
                await self._socket.wait()

    def _reply(self, socket: Socket, message: list[bytes], answer: Answer) -> None:
        # ZMTP (RFC 28): who asks through a REQ puts an empty frame between what names the way back and the question.
        if b"" not in message[1:]:
            self.unframed += 1
            return
        end = message.index(b"", 1) + 1
        socket.send_message_nowait([*message[:end], *answer(message[end:])])

    def close(self) -> None:
        """Answer nobody any more. Idempotent."""
        if self._place is not None:
            # First of all, so that nobody connects to what is about to close.
            self._place.leave()
            self._place = None
        if self._socket is not None:
            self._socket.close()

    async def aclose(self) -> None:
        """Close everything after what was sent has left, or the linger time ended.

        Cancellation: waits to the end all the same, so that no thread remains.
        """
        self.close()
        await terminate(self._context)
