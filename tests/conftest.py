"""What every test gets: the event loops it runs on, and a look at what it left behind.

Rule 1: a test marked ``anyio`` runs on asyncio, on uvloop and on trio.

Rule 2: what is repeated to meet a rare fault is repeated in full on every event loop; where the environment says
``ZDISCO_TESTS=quick``, less often on uvloop and trio: see `repeats`.

Rule 3: a test that leaves a descriptor, a thread or a task behind fails, even if nothing else is wrong.

Rule 4: how long an example of a law takes decides nothing: the machine may be busy.
"""

from __future__ import annotations

import functools
import gc
import importlib.util
import inspect
import os
import signal
import tempfile
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
import zmq
from anyio.lowlevel import checkpoint
from hypothesis import HealthCheck, settings

from effort import THOROUGH
from zdisco import Proxy

LEFT_BEHIND_TIMEOUT = 5.0
"""Seconds that libzmq's reaper and a loop's idle workers get to finish."""

FD_DIRECTORY = "/proc/self/fd"

settings.register_profile("unhurried", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("unhurried")

HAS_UVLOOP = importlib.util.find_spec("uvloop") is not None


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(("asyncio", {"use_uvloop": False}), id="asyncio"),
        pytest.param(
            ("asyncio", {"use_uvloop": True}),
            id="uvloop",
            marks=pytest.mark.skipif(not HAS_UVLOOP, reason="uvloop is not installed"),
        ),
        pytest.param(("trio", {}), id="trio"),
    ],
)
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    """The event loop that a test runs on; a test may parametrise it again to narrow the choice.

    The scope is that of anyio's own fixture, so that hypothesis takes it. Give async fixtures the scope of a
    function all the same: one of module scope keeps its loop running, and other tests run on that loop.
    """
    backend: tuple[str, dict[str, Any]] = request.param
    return backend


@pytest.fixture
def repeats(anyio_backend: tuple[str, dict[str, Any]]) -> Callable[[int, int], int]:
    """Chooses a number for the backend at hand: of ``repeats(500, 50)`` 50 is for uvloop and trio in a quick run."""
    is_full = THOROUGH or anyio_backend == ("asyncio", {"use_uvloop": False})
    return lambda full, fewer: full if is_full else fewer


@pytest.fixture
async def proxy() -> AsyncIterator[Proxy]:
    """A proxy on ports of its own, all of whose tasks run."""
    async with Proxy("tcp://127.0.0.1:*") as proxy:
        await anyio.wait_all_tasks_blocked()
        yield proxy


@pytest.fixture
def short_path() -> Iterator[Path]:
    """A directory whose path leaves room for that of a local socket, which has at most 107 bytes."""
    with tempfile.TemporaryDirectory(prefix="zdisco-", dir="/tmp") as directory:
        yield Path(directory)


def _raise_descriptor_limit() -> None:
    try:
        import resource
    except ImportError:
        return
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _open_what_stays_open() -> None:
    """Make the process-wide state that is opened once and kept, so that it is not blamed on the first test."""
    zmq.Context.instance().socket(zmq.PAIR).close()
    if HAS_UVLOOP:
        import uvloop

        loop = uvloop.new_event_loop()
        loop.run_until_complete(checkpoint())
        loop.close()


def _let_children_keep_bytecode(config: pytest.Config) -> None:
    """Without it, each of some hundred programs compiles all that it imports."""
    if "PYTHONDONTWRITEBYTECODE" not in os.environ:
        return
    cache = tempfile.TemporaryDirectory(prefix="zdisco-bytecode-", ignore_cleanup_errors=True)
    environment = pytest.MonkeyPatch()
    environment.delenv("PYTHONDONTWRITEBYTECODE")
    environment.setenv("PYTHONPYCACHEPREFIX", cache.name)
    config.add_cleanup(environment.undo)
    config.add_cleanup(cache.cleanup)


def _let_programs_be_interrupted() -> None:
    """A shell lets what it starts in the background ignore Ctrl-C; a program would inherit that."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_configure(config: pytest.Config) -> None:
    _let_programs_be_interrupted()
    _let_children_keep_bytecode(config)
    _raise_descriptor_limit()
    _open_what_stays_open()


def _locks(controller: int) -> tuple[Path, Path]:
    """The files by which the workers of one run of pytest-xdist wait for each other."""
    room = Path(tempfile.gettempdir(), f"zdisco-tests-{controller}")
    return room.with_suffix(".door"), room.with_suffix(".room")


@contextmanager
def _turn(is_alone: bool) -> Iterator[None]:
    """Wait until all other workers are between two tests if this one is to be alone, or until who is has ended."""
    if "PYTEST_XDIST_WORKER" not in os.environ:
        yield
        return
    import fcntl

    with ExitStack() as stack:
        door, room = (stack.enter_context(path.open("a")) for path in _locks(os.getppid()))
        # Who waits for all others stands in the door, so that nobody else comes in.
        fcntl.flock(door, fcntl.LOCK_EX)
        fcntl.flock(room, fcntl.LOCK_EX if is_alone else fcntl.LOCK_SH)
        fcntl.flock(door, fcntl.LOCK_UN)
        yield


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Where two tests run at a time, let one that needs the whole machine run alone."""
    with _turn(item.get_closest_marker("whole_machine") is not None):
        return (yield)


def pytest_unconfigure() -> None:
    for path in _locks(os.getpid()):
        path.unlink(missing_ok=True)


def _open_descriptors() -> Counter[str]:
    """How many descriptors of each kind are open; nothing where there is no ``/proc``."""
    kinds: Counter[str] = Counter()
    if not os.path.isdir(FD_DIRECTORY):
        return kinds
    for descriptor in os.listdir(FD_DIRECTORY):
        try:
            target = os.readlink(f"{FD_DIRECTORY}/{descriptor}")
        except FileNotFoundError:  # the one that listed the directory
            continue
        # "socket:[4711]" and "pipe:[4712]" are told apart by an inode that never comes back.
        kinds[target if target.startswith(("/", "anon_inode:")) else target.partition(":")[0]] += 1
    return kinds


def _is_kept_worker(thread: threading.Thread) -> bool:
    """Whether trio, asyncio or anyio keeps the thread for the next call.

    Trio renames it while it works; asyncio joins it and anyio stops it when the loop ends.
    """
    return thread.name.startswith(("Trio thread", "asyncio_")) or thread in getattr(thread, "idle_workers", ())


def _left_behind(descriptors: Counter[str], threads: set[threading.Thread]) -> list[str]:
    """What is there now and was not before."""
    new_threads = [t for t in threading.enumerate() if t not in threads and not _is_kept_worker(t)]
    return [
        *(f"{count} x descriptor {kind}" for kind, count in (_open_descriptors() - descriptors).items()),
        *(f"thread {thread.name}" for thread in new_threads),
    ]


@pytest.fixture(autouse=True)
def leaves_nothing_behind() -> Iterator[None]:
    """Fail a test after which more descriptors or threads are there than before.

    Garbage is collected only where something seems to be left: a collection for each test would
    cost more than most of the tests.
    """
    descriptors, threads = _open_descriptors(), set(threading.enumerate())
    yield
    if not _left_behind(descriptors, threads):
        return
    gc.collect()
    end = time.monotonic() + LEFT_BEHIND_TIMEOUT
    while left := _left_behind(descriptors, threads):
        if time.monotonic() > end:
            pytest.fail(f"the test left behind: {', '.join(left)}", pytrace=False)
        time.sleep(0.002)


def _fail_on_left_tasks(test: Callable[..., Awaitable[None]]) -> Callable[..., Awaitable[None]]:
    """The same test, which fails if tasks that it started outlive it."""

    @functools.wraps(test)
    async def checked(*args: Any, **kwargs: Any) -> None:
        before = {task.id for task in anyio.get_running_tasks()}
        await test(*args, **kwargs)
        left: list[anyio.TaskInfo] = []
        # A task that was cancelled needs some turns of the loop to end, but no time.
        for _ in range(100):
            left = [task for task in anyio.get_running_tasks() if task.id not in before]
            if not left:
                return
            await checkpoint()
        pytest.fail(f"the test left tasks behind: {', '.join(str(task.name) for task in left)}", pytrace=False)

    return checked


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> None:
    """Put the look at tasks around each test that anyio is about to run."""
    if pyfuncitem.get_closest_marker("anyio") and inspect.iscoroutinefunction(pyfuncitem.obj):
        pyfuncitem.obj = _fail_on_left_tasks(pyfuncitem.obj)
