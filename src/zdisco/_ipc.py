"""The file of a local socket: ours alone, and never that of somebody who listens there.

Rule 1: nobody but our own user can connect, from the first moment on: the file has its mode before
the socket listens.

Rule 2: only a socket that nobody listens on any more is removed. libzmq would remove any file.

Rule 3: who looks and removes holds a lock on the directory meanwhile, so of several that start at
once one gets the place.
"""

from __future__ import annotations

import errno
import os
import socket
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib import import_module
from pathlib import Path

import anyio
from attrs import frozen

from ._core.errors import BindError
from ._core.model import Endpoint

_MODE = 0o600
_DIRECTORY_MODE = 0o700
_BACKLOG = 4096
"""Where it is short, some of many who connect at once have to try again."""
_PATIENCE = 1.0
"""Seconds to wait for others who look for a place in the same directory, each for less than a millisecond."""
_PAUSE = 0.01
_TRIES = 10
"""How often who cannot wait looks whether they have left."""


def file_of(endpoint: Endpoint) -> Path | None:
    """The file of a local socket that is bound there; ``None`` if it has none, or libzmq is to choose one."""
    name = endpoint.removeprefix("ipc://")
    return None if name == endpoint or name.startswith(("@", "*")) else Path(name)


def runtime_directory() -> Path:
    """Where programs of our user look for the local sockets of zdisco."""
    given = os.environ.get("XDG_RUNTIME_DIR", "")
    # The XDG base directory specification has a path that is not absolute ignored.
    return Path(given, "zdisco") if given.startswith("/") else Path(f"/tmp/zdisco-{os.getuid()}")


def make_private(directory: Path, endpoint: Endpoint) -> None:
    """Make a directory into which nobody but our own user may put anything, or find that it is one.

    Raises:
        BindError: If that is not possible.
    """
    try:
        with suppress(FileExistsError):
            directory.mkdir(_DIRECTORY_MODE)
        found = directory.lstat()
    except OSError as error:
        raise BindError(endpoint, error.errno or 0, f"{directory}: {_reason(error)}") from error
    is_private = stat.S_ISDIR(found.st_mode) and not stat.S_IMODE(found.st_mode) & ~_DIRECTORY_MODE
    if not is_private or found.st_uid != os.getuid():
        raise BindError(endpoint, errno.EACCES, f"{directory} is no directory of this user alone")


@frozen
class Place:
    """The file of a local socket that listens, which is ours."""

    listener: socket.socket
    _path: Path
    _identity: tuple[int, int]

    def leave(self) -> None:
        """Remove the file, if it is still the same."""
        with suppress(OSError):
            if _identity(self._path.lstat()) == self._identity:
                self._path.unlink()


async def claim(path: Path, endpoint: Endpoint) -> Place:
    """Listen there.

    Raises:
        BindError: If somebody else does, or that is not possible.

    Cancellation: safe.
    """
    with _looking(path, endpoint) as directory:
        with anyio.move_on_after(_PATIENCE):
            while not _is_locked(directory):  # noqa: ASYNC110  nobody tells
                await anyio.sleep(_PAUSE)
        # Whoever holds it for longer is none of us, and may do so for ever.
        return _occupy(path, endpoint)


def claim_now(path: Path, endpoint: Endpoint) -> Place:
    """The same for who is in no coroutine; waits less, since nobody else can run meanwhile.

    Raises:
        BindError: If somebody else does, or that is not possible.
    """
    with _looking(path, endpoint) as directory:
        for _ in range(_TRIES):
            if _is_locked(directory):
                break
            time.sleep(_PAUSE)
        return _occupy(path, endpoint)


@contextmanager
def _looking(path: Path, endpoint: Endpoint) -> Iterator[int]:
    """A descriptor of the directory, while we look for a place in it."""
    try:
        directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            yield directory
        finally:
            os.close(directory)
    except BindError:
        raise
    except OSError as error:
        raise BindError(endpoint, error.errno or 0, _reason(error)) from error


def _is_locked(directory: int) -> bool:
    """Whether we hold the lock on a directory, which is released with the descriptor."""
    fcntl = import_module("fcntl")  # not on every system
    try:
        fcntl.flock(directory, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _occupy(path: Path, endpoint: Endpoint) -> Place:
    _remove_what_is_dead(path, endpoint)
    listener = socket.socket(socket.AF_UNIX)
    try:
        listener.setblocking(False)
        listener.bind(os.fspath(path))
        path.chmod(_MODE)
        # Only now anybody can connect.
        listener.listen(_BACKLOG)
        # The process may go to another directory before it leaves the place.
        return Place(listener, path.absolute(), _identity(path.lstat()))
    except BaseException:
        listener.close()
        raise


def _remove_what_is_dead(path: Path, endpoint: Endpoint) -> None:
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise BindError(endpoint, errno.EEXIST, "what is there is no socket")
    if not _is_dead(path):
        raise BindError(endpoint, errno.EADDRINUSE, "somebody listens there")
    path.unlink()


def _is_dead(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as caller:
        caller.setblocking(False)
        return caller.connect_ex(os.fspath(path)) == errno.ECONNREFUSED


def _identity(found: os.stat_result) -> tuple[int, int]:
    return found.st_dev, found.st_ino


def _reason(error: OSError) -> str:
    return (error.strerror or str(error)).lower()
