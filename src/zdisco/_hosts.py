"""A hosts file: names and their endpoints for this machine, in ZPL, read again when it changes.

::

    prices = "tcp://192.0.2.7:6000"

    orders
        connect = "tcp://192.0.2.7:6001"
        connect = "tcp://192.0.2.8:6001"
        bind = "tcp://*:6001"

Rule 1: a file counts as a whole or not at all. If it cannot be used any more, what it said last counts.

Rule 2: what is wrong with it is raised once, not at each look.

Rule 3: it is looked at without a thread. A look takes microseconds, and it is read only after a change, or when the
system would not let it be read the last time.
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TypeAlias

from attrs import frozen

from . import zpl
from ._core.endpoints import check_bindable, check_connectable
from ._core.errors import InvalidHosts, ZPLError
from ._core.model import Endpoint
from ._core.names import check_registered

_LARGEST = 1 << 20
"""Bytes; who names another file by mistake should not wait for it."""
_FRESH = 2_000_000_000
"""Nanoseconds, more than the resolution of any file system's times."""

_Stamp: TypeAlias = tuple[int, ...]
_NEVER: _Stamp = (0,)


@frozen
class Host:
    """What a hosts file says about one name."""

    connect: tuple[Endpoint, ...] = ()
    """Where it leads; empty: wherever peers have registered it."""
    bind: Endpoint | None = None
    """What the program that serves it binds."""


class HostsFile:
    """A hosts file that is there and can be used.

    Raises:
        InvalidHosts: If it is not there, or cannot be used.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path).absolute()
        self.hosts: Mapping[str, Host] = MappingProxyType({})
        """What it says, by name."""
        self._seen: _Stamp | None = _NEVER
        self._complaint = ""
        """What was wrong with it when it was looked at last."""
        self._could_be_read = True
        self.refresh()

    def refresh(self) -> bool:
        """Read it if it may have changed; returns whether `hosts` says anything else now.

        Raises:
            InvalidHosts: If it has changed, and cannot be used any more.
        """
        was, self._seen = self._seen, self._stamp()
        if self._seen == was and self._could_be_read and not is_fresh(was):
            return False
        self._could_be_read = True
        try:
            hosts = self._read()
        except InvalidHosts as error:
            # For want of descriptors, say, which may come without a change of the file.
            self._could_be_read = not isinstance(error.__cause__, OSError)
            if self._seen == was and error.reason == self._complaint:
                return False
            self._complaint = error.reason
            raise
        before, self.hosts, self._complaint = self.hosts, hosts, ""
        return hosts != before

    def _stamp(self) -> _Stamp | None:
        """What changes with the file; ``None`` if nothing is there."""
        try:
            found = self.path.stat()
        except OSError:
            return None
        return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns

    def _read(self) -> Mapping[str, Host]:
        try:
            found = self.path.stat()
            if not stat.S_ISREG(found.st_mode) or found.st_size > _LARGEST:
                raise InvalidHosts(str(self.path), f"it is no file of at most {_LARGEST} bytes")
            return read(zpl.load(self.path))
        except InvalidHosts:
            raise
        except OSError as error:
            raise InvalidHosts(str(self.path), (error.strerror or str(error)).lower()) from error
        except ZPLError as error:
            place = f"line {error.line}, column {error.column}"
            raise InvalidHosts(str(self.path), f"{place}: {error.reason}") from error
        except ValueError as error:
            raise InvalidHosts(str(self.path), str(error)) from error


def is_fresh(stamp: tuple[int, ...] | None) -> bool:
    """Whether a file, of which this ends with the time, may have been written again since without another time."""
    return stamp is not None and time.time_ns() - stamp[-1] < _FRESH


def read(root: zpl.Section) -> Mapping[str, Host]:
    """What the sections of a hosts file say, by name.

    Raises:
        ValueError: If a name, an endpoint or a key could be none, or stands there twice.
    """
    hosts: dict[str, Host] = {}
    for section in root.children:
        check_registered(section.name)
        if section.name in hosts:
            raise ValueError(f"the name {section.name!r} stands there twice")
        hosts[section.name] = _host(section)
    return MappingProxyType(hosts)


def _host(section: zpl.Section) -> Host:
    where = f"the name {section.name!r}"
    if section.value and not section.children:
        check_connectable(section.value)
        check_bindable(section.value)
        return Host((section.value,), section.value)
    if section.value or not section.children:
        raise ValueError(f"{where} has one endpoint, or lines with connect and bind")
    connect: list[Endpoint] = []
    bind: list[Endpoint] = []
    for line in section.children:
        match line.name:
            case "connect":
                check_connectable(line.value)
                connect.append(line.value)
            case "bind" if not bind:
                check_bindable(line.value)
                bind.append(line.value)
            case _:
                raise ValueError(f"{where} has lines with connect, and one with bind, but no {line.name!r} beside them")
        if line.children:
            raise ValueError(f"{where} has nothing below {line.name!r}")
    return Host(tuple(connect), bind[0] if bind else None)
