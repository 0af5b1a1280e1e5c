"""`NameResponder`: tells programs in any language, over a local socket, where names lead.

A question is one message to a REP, an answer one message back. All frames are UTF-8::

    question                        answer
    the name                        OK, endpoint to connect to, the best first, one more ...
    the name, "bind"                OK, endpoint to bind
    an empty frame                  OK, all names that lead anywhere, in their order
                                    UNKNOWN, if the name leads nowhere now
                                    ERROR, reason, if it is none of these questions

Rule: a question is answered at once, with what is known now; whatever it is, it ends nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import Self

from ._background import Background
from ._core.endpoints import check_bindable
from ._core.errors import ClosedError, UnknownName
from ._core.model import Endpoint
from ._core.names import check_registered
from ._ipc import make_private, runtime_directory
from ._peer import Peer
from ._zmq.replies import ReplySocket

_OK = b"OK"
_UNKNOWN = b"UNKNOWN"
_ERROR = b"ERROR"


class NameResponder:
    """Tells other programs of this machine where names lead: any that has a REQ socket, in any language.

    ::

        async with Peer("tcp://127.0.0.1:5555") as peer, NameResponder(peer) as responder:
            print(responder.endpoint)

    Args:
        peer: Whose names it tells.
        endpoint: Where it listens, ``ipc`` or ``tcp``; by default ``zdisco/names`` in ``XDG_RUNTIME_DIR``, or,
            where that is not set, ``/tmp/zdisco-UID/names`` with the number of the user.

    Only programs of the same user can use an ``ipc`` endpoint with a file, whose mode is 0600. A file that a dead
    process has left behind is replaced; one that somebody listens on is not.

    Raises:
        InvalidEndpoint: If the endpoint is neither.
        TypeError: If an argument is of the wrong type.

    Entering the block raises `BindError` if the endpoint cannot be bound, or somebody listens there,
    `SocketLimitError` if no descriptors are left, and `ClosedError` if the peer is not open, or the block was
    entered before. Leave it before the peer's. Cancellation while entering or leaving is safe: everything is closed.
    """

    def __init__(self, peer: Peer, endpoint: Endpoint | None = None) -> None:
        if not isinstance(peer, Peer):
            raise TypeError(f"peer must be of type Peer, not {peer!r}")
        self._peer = peer
        self._is_default = endpoint is None
        self._endpoint = f"ipc://{runtime_directory()}/names" if endpoint is None else endpoint
        if not isinstance(self._endpoint, str):
            raise TypeError(f"endpoint must be of type str, not {endpoint!r}")
        check_bindable(self._endpoint)
        self._answered = 0
        self._refused = 0
        self._socket: ReplySocket | None = None
        self._background: Background | None = None
        self._was_entered = False

    @property
    def endpoint(self) -> Endpoint:
        """Where to connect a REQ to, resolved once the block is entered."""
        return self._endpoint

    @property
    def answered(self) -> int:
        """How many questions were answered, with whatever is known."""
        return self._answered

    @property
    def refused(self) -> int:
        """How many were no question that has an answer."""
        return self._refused + (0 if self._socket is None else self._socket.unframed)

    async def __aenter__(self) -> Self:
        if self._was_entered:
            raise ClosedError("responder", "was entered before: make a new one")
        self._peer._opened  # noqa: B018  raises if it is not open
        self._was_entered = True
        self._socket = socket = ReplySocket()
        self._background = Background(lambda: socket.run(self._answer), socket.close)
        try:
            if self._is_default:
                make_private(runtime_directory(), self._endpoint)
            self._endpoint = await socket.bind(self._endpoint)
            await self._background.start()
        except BaseException:
            await self._close()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._close()

    async def _close(self) -> None:
        assert self._background is not None
        assert self._socket is not None
        try:
            await self._background.stop()
        finally:
            await self._socket.aclose()

    def _answer(self, question: Sequence[bytes]) -> Sequence[bytes]:
        try:
            answer = self._found(question)
        # A name is checked, a peer may be closed, and what a name leads to is no more than text.
        except (ClosedError, ValueError) as error:
            self._refused += 1
            return [_ERROR, str(error).encode(errors="backslashreplace")]
        except UnknownName:
            answer = [_UNKNOWN]
        self._answered += 1
        return answer

    def _found(self, question: Sequence[bytes]) -> list[bytes]:
        peer = self._peer
        peer._opened  # noqa: B018  raises if it is not open
        try:
            words = [frame.decode() for frame in question]
        except UnicodeDecodeError:
            raise ValueError("the question is not UTF-8") from None
        match words:
            case [""]:
                found: Sequence[str] = tuple(peer.names)
            case [name]:
                check_registered(name)
                found = peer._names.endpoints(name)
                if not found:
                    raise UnknownName(name)
            case [name, "bind"]:
                found = [peer.bind_endpoint(name)]
            case _:
                raise ValueError("a question is a name, or a name and 'bind', or an empty frame")
        return [_OK, *(text.encode() for text in found)]
