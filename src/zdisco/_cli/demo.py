"""``zdisco demo``: real processes find each other, talk, die, and leave.

Rule 1: a step is done when the processes printed what proves it; nothing is taken for granted,
and no time is waited for its own sake.

Rule 2: a step that fails does not hide the ones after it; the demo fails all the same.
"""

from __future__ import annotations

import re
import signal
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import datetime

import anyio
from attrs import define, field
from rich.console import Console
from rich.text import Text

from .children import Child, Line, Missing, Nursery, milliseconds, nursery
from .lines import CannotWrite, writing
from .running import until_signalled

TIME_LIMIT = 25.0
"""Seconds for the whole demo; killing what runs then still comes."""
RETRIES = 4
"""Connection attempts to a dead endpoint that prove somebody goes on trying."""
EVERY = 0.1
"""Seconds between the messages of a peer."""
NAMES = ("alice", "bob", "carol", "dave")
STUBBORN = "dave"
"""The one that runs with ``--stop-reconnect-on 0``."""


async def play() -> int:
    """Play the demo; returns the exit code: 0, or 1 if something did not happen, or that of a signal."""
    # A terminal that is closed must not leave the processes behind either.
    async with until_signalled(signal.SIGHUP) as work, nursery() as processes:
        demo = Demo(processes)
        with work:
            with anyio.move_on_after(TIME_LIMIT) as limit:
                await demo.play()
            if limit.cancelled_caught:
                demo.failed(f"not done within {TIME_LIMIT:g} s")
            demo.summary()
            return 1 if demo.failures else 0
        demo.interrupted()
        work.finish()
    return 0


@define(eq=False)
class Demo:
    """The processes, and what was seen of them."""

    _processes: Nursery
    failures: int = 0
    _steps: int = 0
    _console: Console = field(factory=lambda: Console(highlight=False))
    _started: float = field(factory=anyio.current_time)
    _proxy: Child = field(init=False)
    _endpoint: str = ""
    _peers: dict[str, Child] = field(factory=dict)
    _ids: dict[str, str] = field(factory=dict)
    _endpoints: dict[str, str] = field(factory=dict)

    async def play(self) -> None:
        """Play all steps."""
        # Without these there is nothing to see.
        if not await self._step("A proxy starts, on a port of its own choosing.", self._start_proxy):
            return
        if not await self._step("Four peers start, and know nothing but the proxy.", self._start_peers):
            return
        await self._step("They talk directly; data never passes the proxy.", self._talk)
        await self._step("kill -9 of bob.", self._kill_peer)
        await self._step("kill -9 of the proxy, and its restart at the same port.", self._restart_proxy)
        await self._step("A late joiner, erin.", self._join_late)
        await self._step("carol leaves in order, on SIGTERM.", self._leave)
        await self._step("The others leave, too.", self._end)

    # The steps

    async def _start_proxy(self, bind: str = "tcp://127.0.0.1:*") -> None:
        self._proxy = await self._processes.start("the proxy", "proxy", "--bind", bind)
        endpoint = (await self._proxy.wait_for("endpoint "))[0].text.split()[1]
        relay = (await self._proxy.wait_for("relay "))[0].text.split()[1]
        self._check(not self._endpoint or endpoint == self._endpoint, f"it listens at {endpoint}, relays at {relay}")
        self._endpoint = endpoint

    async def _start_peers(self) -> None:
        for name in NAMES:
            await self._start_peer(name)
        start = max([await self._identify(name) for name in NAMES])
        joins = [line for name in NAMES for line in await self._wait_for_joins(name, set(NAMES) - {name})]
        self._check(
            True, f"{len(joins)} joins of {len(NAMES)} peers, the last {milliseconds(start, joins)} after all were up"
        )
        for line in ("Got W", "Connecting proxy pub", f"Got C from {self._ids['bob']}", "Joined bob"):
            self._quote("alice", self._peers["alice"].seen(line)[:1])

    async def _talk(self) -> None:
        first: list[Line] = []
        for name in NAMES:
            for other in set(NAMES) - {name}:
                first += (await self._peers[name].wait_for(f"Message news\\.{other} from {other}: "))[:1]
        self._check(len(first) == 12, f"a message went each of the {len(first)} ways between them")
        self._quote("alice", self._peers["alice"].seen("Message news.bob")[:1])

    async def _kill_peer(self) -> None:
        dead = re.escape(self._endpoints["bob"])
        retried = f".* name:dataSub .*desc:CONNECT_RETRIED endpoint:{dead}"
        at = self._peers["bob"].kill()
        gone = {name: await self._wait_for_gone(name, "bob", "REFUSED", at) for name in ("alice", "carol")}
        self._check(True, f"alice and carol know {milliseconds(at, list(gone.values()))} later, cause REFUSED")
        self._quote("alice", [gone["alice"]])
        # While dave tries again and again, the others had all the time to do the same.
        retries = await self._peers[STUBBORN].wait_for(retried, RETRIES, since=at)
        self._check(True, f"{STUBBORN}, who runs with --stop-reconnect-on 0, goes on: {len(retries)} attempts so far")
        self._quote(STUBBORN, retries[-1:])
        late = [line for name, line in gone.items() for _ in self._peers[name].seen(retried, line.at)]
        took = milliseconds(at, retries)
        self._check(not late, f"alice and carol, who run with 1, made {len(late)} since they know, in these {took}")

    async def _restart_proxy(self) -> None:
        alive = [name for name in NAMES if name != "bob"]
        joined = {name: len(self._joins(name)) for name in alive}
        at = self._proxy.kill()
        for name in alive:
            await self._peers[name].wait_for("Lost proxy", since=at)
        self._check(True, "every peer lost the proxy")
        cut = datetime.now()
        for name in alive:
            for other in set(alive) - {name}:
                await self._peers[name].wait_for(f"Message news\\.{other} from {other}: ", since=cut)
        self._check(True, "messages still went each of the 6 ways between them")
        back = datetime.now()
        await self._start_proxy(self._endpoint)
        found = [line for name in alive for line in await self._peers[name].wait_for("Found proxy", since=back)]
        self._check(True, f"every peer found it again, the last {milliseconds(back, found)} after it was started")
        self._quote("alice", self._peers["alice"].seen("Got W|Connecting proxy pub|Found", back)[:3])
        for name in alive:
            await self._peers[name].wait_for(f"Got C from {self._ids[name]}", since=back)
        again = [line for name in alive for line in self._joins(name)[joined[name] :]]
        self._check(not again, f"each heard its own new announce come back, and {len(again)} joined anybody twice")

    async def _join_late(self) -> None:
        await self._start_peer("erin")
        start = await self._identify("erin")
        there = {"alice", "carol", "dave"}
        joins = await self._wait_for_joins("erin", there)
        for name in sorted(there):
            joins += await self._wait_for_joins(name, {"erin"})
        took = milliseconds(start, joins)
        self._check(len(joins) == 6, f"joined by all three and all three by it, {took} after it opened")
        await self._peers["erin"].wait_for(r"Message news\.alice")
        self._check(not self._joins("erin", "bob"), "it heard from alice, and never of bob")

    async def _leave(self) -> None:
        at = self._peers["carol"].ask_to_leave()
        told = [await self._wait_for_gone(name, "carol", "FAREWELL", at) for name in ("alice", "dave", "erin")]
        self._check(True, f"alice, dave and erin know {milliseconds(at, told)} later, cause FAREWELL")
        self._quote("alice", self._peers["alice"].seen(f"Got D from {self._ids['carol']}|Gone carol", at)[:2])
        await self._check_exit(self._peers["carol"])

    async def _end(self) -> None:
        rest = [self._peers[name] for name in ("alice", "dave", "erin")]
        for child in rest:
            child.ask_to_leave()
        for child in rest:
            await self._check_exit(child)
        self._proxy.ask_to_leave()
        await self._check_exit(self._proxy)
        errors = [line for child in self._peers.values() for line in child.seen("Traceback|Missed ")]
        self._check(not errors, "nothing was printed that should not have been")
        joins = {f"{name} {other}": len(self._joins(name, other)) for name in self._peers for other in self._peers}
        most = max(joins.values())
        self._check(most == 1, f"in all that time nobody joined anybody more than {'once' if most == 1 else most}")

    # What the processes print

    async def _start_peer(self, name: str) -> None:
        self._peers[name] = await self._processes.start(
            name,
            *("peer", "--proxy", self._endpoint, "--name", name, "--header", "role=robot", "--monitor"),
            *("--subscribe", "news.", "--publish", f"news.{name}=hello from {name}", "--every", str(EVERY)),
            *("--stop-reconnect-on", "0" if name == STUBBORN else "1"),
        )

    async def _identify(self, name: str) -> datetime:
        """Learn id and endpoint of a peer; returns when it opened."""
        line = (await self._peers[name].wait_for("Peer "))[0]
        _, self._ids[name], _, _, self._endpoints[name] = line.text.split()
        return line.at

    def _joins(self, name: str, other: str = r"\S+") -> list[Line]:
        return self._peers[name].seen(f"Joined {other} ")

    async def _wait_for_joins(self, name: str, others: set[str]) -> list[Line]:
        return [(await self._peers[name].wait_for(f"Joined {other} {self._ids[other]} "))[0] for other in others]

    async def _wait_for_gone(self, name: str, other: str, cause: str, since: datetime) -> Line:
        gone = f"Gone {other} {self._ids[other]} cause {cause}$"
        return (await self._peers[name].wait_for(gone, since=since))[0]

    async def _check_exit(self, child: Child) -> None:
        code = await child.ended()
        self._check(code == 0, f"{child.name} ended with exit code {code}")

    # What we print

    def _print(self, text: Text) -> None:
        with writing():
            self._console.print(text, soft_wrap=True)

    async def _step(self, title: str, step: Callable[[], Awaitable[None]]) -> bool:
        """Play one step; returns whether all of it was seen."""
        self._steps += 1
        before = self.failures
        self._print(Text(f"\n{self._steps}. {title}", style="bold"))
        try:
            await step()
        except Missing as missing:
            self.failed(str(missing))
        return self.failures == before

    def _check(self, holds: bool, fact: str) -> None:
        if holds:
            self._print(Text.assemble(("   ✓ ", "green"), fact))
        else:
            self.failed(fact)

    def failed(self, fact: str) -> None:
        """Say what did not happen."""
        self.failures += 1
        self._print(Text.assemble(("   ✗ ", "bold red"), fact))

    def _quote(self, name: str, lines: list[Line]) -> None:
        for line in lines:
            self._print(Text(f"     {name:5}  {line}", style="dim"))

    def summary(self) -> None:
        """Say how it went."""
        took = anyio.current_time() - self._started
        wrong = "1 thing" if self.failures == 1 else f"{self.failures} things"
        outcome = f"{wrong} went wrong" if self.failures else "all of it was seen"
        self._print(Text(f"\n{outcome}, in {took:.1f} s", style="bold red" if self.failures else "bold green"))

    def interrupted(self) -> None:
        """Say that a signal ended it."""
        with suppress(OSError, CannotWrite):  # the terminal may be what went away
            self._print(Text("\ninterrupted", style="bold red"))
