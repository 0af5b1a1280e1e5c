"""The configuration file of a gossip node, in ZPL, with the sections of CZMQ's zgossip and some of our own.

::

    server
        timeout = 60000         # milliseconds after which a silent client is told nothing more; 0: never
        verbose = 1             # log each message
    zgossip
        echo = "I: hello"       # log this
        bind
            endpoint = tcp://*:5670
        connect                 # from here on it is ours
            endpoint = tcp://192.0.2.7:5670
            server_key = rq:rM>}U?@Lns47E1%kR.o@n%FcmmsL/@{H8]yf7
        publish
            key = service
            value = tcp://192.0.2.8:9000
            ttl = 60000         # milliseconds

Rule 1: a file is understood as a whole before anything of it is done.

Rule 2: all times in it are whole milliseconds, as CZMQ has it.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from typing import TypeAlias

from attrs import frozen

from ._arguments import gossip_address, gossip_endpoint, gossip_key, gossip_value, ttl_seconds
from ._core.errors import ZPLError
from ._core.model import Endpoint
from ._hosts import is_fresh
from .zpl import Section, dumps, load

logger = logging.getLogger("zdisco")

TIMEOUT = "server/timeout"
VERBOSE = "server/verbose"
_SERVICE = "zgossip"


@frozen
class Published:
    """A tuple that a file publishes."""

    key: str
    value: str
    ttl: float | None
    """Seconds."""


@frozen
class Settings:
    """What a configuration says."""

    timeout: float | None
    """Seconds; ``None``: it does not say."""
    is_verbose: bool | None
    echoes: tuple[str, ...]
    binds: tuple[Endpoint, ...]
    connects: tuple[tuple[Endpoint, str | None], ...]
    """Endpoints, each with the server key if there is one."""
    tuples: tuple[Published, ...]
    """Of each key one."""


def understood(tree: Section) -> Settings:
    """What a configuration says.

    Raises:
        ValueError: If a value makes no sense where it stands.
    """
    timeout, verbose = tree.get(TIMEOUT), tree.get(VERBOSE)
    sections = list(_sections(tree))
    # Of several with one key the last counts.
    tuples = {one.key: one for one in map(_published, (one for one in sections if one.name == "publish"))}
    return Settings(
        timeout=None if timeout is None else milliseconds(TIMEOUT, timeout),
        is_verbose=None if verbose is None else flag(VERBOSE, verbose),
        echoes=tuple(one.value for one in sections if one.name == "echo"),
        binds=tuple(gossip_address(_endpoint(one)) for one in sections if one.name == "bind"),
        connects=tuple(_connect(one) for one in sections if one.name == "connect"),
        tuples=tuple(tuples.values()),
    )


def _sections(tree: Section) -> Iterator[Section]:
    # As zgossip does, we take the first section of that name only.
    service = tree.locate(_SERVICE)
    for section in () if service is None else service.children:
        if section.name not in ("echo", "bind", "connect", "publish"):
            logger.warning("a configuration has %s/%s, which means nothing here", _SERVICE, section.name)
        yield section


def _needed(section: Section, name: str) -> str:
    value = section.get(name)
    if value is None:
        raise ValueError(f"{_SERVICE}/{section.name} has no {name}")
    return value


def _endpoint(section: Section) -> Endpoint:
    return _needed(section, "endpoint")


def _connect(section: Section) -> tuple[Endpoint, str | None]:
    return gossip_endpoint(_endpoint(section)), section.get("server_key")


def _published(section: Section) -> Published:
    key, value, ttl = _needed(section, "key"), _needed(section, "value"), section.get("ttl")
    gossip_key(key)
    gossip_value(value)
    seconds = None if ttl is None else ttl_seconds(milliseconds(f"{_SERVICE}/publish/ttl", ttl))
    return Published(key, value, seconds)


def milliseconds(path: str, text: str) -> float:
    """The seconds that a value of milliseconds says.

    Raises:
        ValueError: If it says none.
    """
    if not (text.isascii() and text.isdigit()):
        raise ValueError(f"{path} must be a whole number of milliseconds, not {text!r}")
    # Not `int`, which has a limit of its own: what is too long is infinite here, which no range has.
    return float(text) / 1000


def flag(path: str, text: str) -> bool:
    """Whether a value says yes.

    Raises:
        ValueError: If it says neither yes nor no.
    """
    if text not in ("0", "1"):
        raise ValueError(f"{path} must be 0 or 1, not {text!r}")
    return text == "1"


_Signature: TypeAlias = tuple[int, int, int]


class SettingsFile:
    """A configuration file, and whether it has changed since it was read.

    Args:
        path: Where it is; stays the same file when the process goes to another directory.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = os.path.abspath(os.fspath(path))
        self._seen: _Signature | None = None
        self._text = ""
        """What it said last, whatever has become of that since."""
        self._complaint = ""
        """Why nothing could be read when it was looked at last."""
        self._could_be_read = True

    def read(self) -> tuple[Section, Settings]:
        """Read it.

        Raises:
            OSError: If it cannot be read.
            ZPLError: If it is not ZPL.
            ValueError: If a value makes no sense where it stands.
        """
        # Before: what is written from now on is a change.
        self._seen = self._signature()
        tree = load(self.path)
        self._text = dumps(tree)
        return tree, understood(tree)

    def refresh(self) -> tuple[Section, Settings] | None:
        """Read it if it has changed since it was read, or looked at, last; `None` if not, or if it is not there.

        Raises:
            OSError: If it cannot be read; it is read again at the next look, and this is not raised again.
            ZPLError: If it is not ZPL.
            ValueError: If a value makes no sense where it stands.
        """
        was, self._seen = self._seen, self._signature()
        is_same = self._seen == was
        if self._seen is None or (is_same and self._could_be_read and not is_fresh(was)):
            return None
        try:
            tree = load(self.path)
        except (OSError, ZPLError) as error:
            self._could_be_read = not isinstance(error, OSError)
            if is_same and str(error) == self._complaint:
                return None
            self._complaint = str(error)
            raise
        self._could_be_read, self._complaint = True, ""
        text = dumps(tree)
        if is_same and text == self._text:
            return None
        self._text = text
        return tree, understood(tree)

    def _signature(self) -> _Signature | None:
        try:
            status = os.stat(self.path)
        except OSError:
            return None
        return status.st_ino, status.st_size, status.st_mtime_ns
