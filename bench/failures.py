"""What can happen to a peer, and what the others are told of it, by when.

Each failure is done to one of five real processes. Those that need a network of their own run in
network namespaces, the others on loopback. The peers are on all event loops.

Rule: what is told is checked, each time: the events of the table, in this order, and no other
ones, about nobody else. A run in which anything else is told is a failed run.
"""

from __future__ import annotations

import random
import signal
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial

import zmq
from attrs import field, frozen, mutable

from . import others
from .figures import percentile
from .hosts import Host, hosts, why_not
from .member import ANY, Member
from .others import OTHERS

PEERS = 5
BEACON = 3.0
"""Seconds between the announces of a peer here; 30 by default."""
OPTIONS = ("--beacon-interval", str(BEACON))
_PORT = 5555
_LOOPS = ("asyncio", "uvloop", "trio")


@mutable
class Scene:
    """Peers that have all joined each other, one of which something happens to."""

    proxies: list[Member]
    peers: list[Member]
    hosts: Sequence[Host]
    """Where the peers are, in their order, if not on loopback."""
    stack: ExitStack
    options: Sequence[str]
    """How each peer is started."""
    witnesses: list[Member] = field(init=False)
    """Those of whom is expected that they tell of it."""

    def __attrs_post_init__(self) -> None:
        self.witnesses = self.peers[1:]

    @property
    def victim(self) -> Member:
        return self.peers[0]

    @property
    def host(self) -> Host:
        return self.hosts[0]

    def start(self, *arguments: str) -> Member:
        """One more peer."""
        endpoints = [proxy.endpoint for proxy in self.proxies]
        return self.stack.enter_context(Member("peer", *endpoints, *self.options, *arguments))


@contextmanager
def scene(proxies: int, has_hosts: bool, options: Sequence[str]) -> Iterator[Scene]:
    """Start everything; whatever happens, nothing is left of it."""
    with ExitStack() as stack:
        if has_hosts:
            first, *others = stack.enter_context(hosts(PEERS + 1))
            bind = f"tcp://{first.address}:{_PORT}"
            relays = [stack.enter_context(Member("proxy", "--bind", bind, inside=first.inside))]
        else:
            others = []
            relays = [stack.enter_context(Member("proxy", "--bind", ANY)) for _ in range(proxies)]
        endpoints = [relay.endpoint for relay in relays]
        where = [host.inside for host in others] if has_hosts else [()] * PEERS
        peers = [
            stack.enter_context(
                Member("peer", *endpoints, *options, "--backend", _LOOPS[number % len(_LOOPS)], inside=inside)
            )
            for number, inside in enumerate(where)
        ]
        for peer in peers:
            for _ in range(PEERS - 1):
                peer.next("joined")
        yield Scene(relays, peers, others, stack, options)


@frozen
class Step:
    """Something that is done, and what is told of it."""

    what: str
    do: Callable[[Scene], object]
    told: Sequence[str] = ()
    """What each witness tells about the victim next: one of these; none: nothing."""
    bound: float = 0.0
    """Seconds in which the last of them has told it; where nothing is to be told, how long it is looked."""


@frozen
class Failure:
    """One thing that can happen, from its beginning to its end."""

    name: str
    steps: Sequence[Step]
    proxies: int = 1
    has_hosts: bool = False
    is_unseen: bool = False
    """Whether the victim itself notices nothing."""
    is_mutual: bool = False
    """Whether it tells the same of each of the others."""
    between: Sequence[str] = ()
    """What a witness may tell about the victim between what is expected, since how it goes is a matter of chance."""


@frozen
class Finding:
    """What came of one step."""

    failure: str
    step: Step
    seconds: float


def measure(rounds: int) -> None:
    """Let everything happen so often, in turn with other programs, and print what it took."""
    found: dict[tuple[str, str], list[float]] = defaultdict(list)
    wrong: list[str] = []
    left_out = why_not()
    for _ in range(rounds):
        for failure in FAILURES:
            if failure.has_hosts and left_out:
                continue
            try:
                # Not in step with the beats.
                for finding in run(failure, settle=1 + random.random()):
                    found[failure.name, finding.step.what].append(finding.seconds)
            except (AssertionError, RuntimeError) as error:
                wrong.append(str(error))
        for name, (start, is_there) in OTHERS.items():
            try:
                for what, seconds in others.measure(start, PEERS).items() if is_there else ():
                    found[name, what].append(seconds)
            except RuntimeError as error:
                wrong.append(f"{name}: {error}")
    print(f"\nFailures of one of {PEERS}: seconds until the last of the others told it; {rounds} rounds")
    for failure in FAILURES:
        for number, step in enumerate(failure.steps):
            _show("" if number else failure.name, step, found[failure.name, step.what])
    for name, (_, is_there) in OTHERS.items():
        for what in others.DEEDS:
            _show(name, Step(what, _nothing, ("gone",) if is_there else ()), found[name, what])
    if left_out:
        print(f"Not done: what {left_out}")
    for reason in wrong:
        print(f"WRONG: {reason}")


def _show(name: str, step: Step, seconds: Sequence[float]) -> None:
    told, figures, verdict = " or ".join(step.told) or "nothing", "", ""
    if seconds:
        figures = f"{percentile(seconds, 50):.3f} .. {max(seconds):.3f}"
        if step.bound:
            verdict = f"<= {step.bound:g}: {'ok' if max(seconds) <= step.bound else 'MISSED'}"
    print(f"{name:<28}{step.what:<28}{told:<32}{figures:>18}  {verdict}".rstrip())


def run(failure: Failure, options: Sequence[str] = OPTIONS, settle: float = 0.0) -> list[Finding]:
    """Let it happen to peers that are started with these options, so many seconds after they have joined.

    Raises:
        AssertionError: If the peers told anything else than they should.
    """
    findings: list[Finding] = []
    with scene(failure.proxies, failure.has_hosts, options) as at:
        time.sleep(settle)
        for step in failure.steps:
            began = time.monotonic()
            step.do(at)
            if step.told:
                last = max(witness.next(*step.told, about=at.victim.id)["at"] for witness in at.witnesses)
                # What was told before all was done was told at once.
                findings.append(Finding(failure.name, step, max(0.0, last - began)))
            else:
                time.sleep(step.bound)
        _check(failure, at)
    return findings


def _check(failure: Failure, at: Scene) -> None:
    expected = [_JOINED, *(step.told for step in failure.steps if step.told)]
    for peer in at.peers[1:]:
        told = peer.told(at.victim.id)
        wanted = expected if peer in at.witnesses else [_JOINED]
        assert _is(wanted, told, failure.between), f"{failure.name}: {told}, not {wanted}"
        if failure.is_mutual:
            # It may be the last to notice.
            told = at.victim.wait_until_told(peer.id, partial(_is, wanted, between=failure.between))
            assert _is(wanted, told, failure.between), f"{failure.name}: the victim {told}, not {wanted}"
    unconcerned = at.peers if failure.is_unseen else at.peers[1:]
    for peer in unconcerned:
        for other in at.peers[1:]:
            assert peer is other or peer.told(other.id) == ["joined"], (
                f"{failure.name}: {peer.told(other.id)} of another"
            )


_JOINED = ("joined",)


def _is(wanted: Sequence[Sequence[str]], told: Sequence[str], between: Sequence[str]) -> bool:
    """Whether these were told in this order, the last of them last, and nothing else but what may come between."""
    left = iter(told)
    for kinds in wanted:
        one = next((one for one in left if one in kinds or one not in between), None)
        if one not in kinds:
            return False
    rest = list(left)
    return not rest or (rest[-1] in wanted[-1] and all(one in between or one in wanted[-1] for one in rest))


# What is done


def _nothing(_: Scene) -> None:
    """Time goes on."""


def _leave(at: Scene) -> None:
    at.victim.leave()


def _kill(at: Scene) -> None:
    at.victim.kill()


def _signal(number: signal.Signals, at: Scene) -> None:
    at.victim.process.send_signal(number)


def _stall(seconds: float, at: Scene) -> None:
    at.victim.order(f"stall {seconds}")


def _unplug(at: Scene) -> None:
    at.host.unplug()


def _plug_in(at: Scene) -> None:
    at.host.plug_in()


def _block(at: Scene) -> None:
    at.witnesses = at.peers[1:2]
    at.host.cannot_send_to(at.hosts[1])


def _unblock(at: Scene) -> None:
    at.host.can_send_to(at.hosts[1])


def _move(at: Scene) -> None:
    at.host.move()


def _kill_proxies(count: int, at: Scene) -> None:
    for proxy in at.proxies[:count]:
        proxy.kill()
        for peer in at.peers:
            peer.next("proxy lost", about=proxy.endpoint)


def _replace_by_stranger(at: Scene) -> None:
    context = at.stack.enter_context(zmq.Context())
    stranger = at.stack.enter_context(context.socket(zmq.PUB))
    at.victim.kill()
    stranger.bind(at.victim.endpoint)


def _restart(at: Scene) -> None:
    at.victim.kill()
    at.start("--id", at.victim.id)


_stop, _go_on = partial(_signal, signal.SIGSTOP), partial(_signal, signal.SIGCONT)
SUSPECT = 2.0
"""Seconds until one that hangs is told suspect: 1.1 + 0.4 + 0.2, see `PeerConfig`, and some more."""
GIVE_UP = 5.5
"""Seconds from then until it is told gone: ``suspect_timeout``, and some more."""
HEAL = BEACON + 2.0
"""Seconds until who was given up alive is joined again, since it can be reached."""
ONE_WAY = 3 * (PEERS - 1) * 5.0 + 5.0
"""Seconds until one of two that cannot reach each other is told suspect: 3 times ``ping_interval`` for each peer,
and ``suspect_timeout``, since others hear it."""
AT_ONCE = 0.05
SEEN = 1.0

FAILURES = [
    Failure("leaves", [Step("leaves its block", _leave, ("gone FAREWELL",), AT_ONCE)]),
    Failure("killed", [Step("kill -9", _kill, ("gone REFUSED",), AT_ONCE)]),
    Failure(
        "hangs for a moment",
        [Step("SIGSTOP", _stop, ("suspected",), SUSPECT), Step("SIGCONT", _go_on, ("recovered",), SEEN)],
        is_unseen=True,
    ),
    Failure(
        "hangs for long",
        [
            Step("SIGSTOP", _stop, ("suspected",), SUSPECT),
            Step("still stopped", _nothing, ("gone UNREACHABLE",), GIVE_UP),
            Step("SIGCONT", _go_on, ("joined",), HEAL),
        ],
    ),
    Failure(
        "event loop stalls for 4 s",
        [
            Step("stalls", partial(_stall, 4.0), ("suspected",), SUSPECT),
            Step("still stalled", _nothing, ("recovered",), 4.0),
            Step("and it has told of nobody", _nothing, bound=2.0),
        ],
        is_unseen=True,
    ),
    Failure(
        "link down for a moment",
        [Step("link down", _unplug, ("suspected",), SUSPECT), Step("link up", _plug_in, ("recovered",), HEAL)],
        has_hosts=True,
    ),
    Failure(
        "link down for long",
        [
            Step("link down", _unplug, ("suspected",), SUSPECT),
            Step("still down", _nothing, ("gone UNREACHABLE",), GIVE_UP),
            Step("link up", _plug_in, ("joined",), HEAL),
        ],
        has_hosts=True,
        is_mutual=True,
    ),
    Failure(
        "one way blocked",
        [
            Step("null route to one other", _block, ("suspected",), ONE_WAY),
            Step("still blocked", _nothing, ("gone UNREACHABLE",), GIVE_UP),
            Step("route back", _unblock, ("joined",), HEAL),
        ],
        has_hosts=True,
        between=("suspected", "recovered", "gone UNREACHABLE", "joined"),
    ),
    Failure(
        "another address",
        [
            Step("address changes", _move, ("updated",), 5.0 + HEAL),
            Step("link proved", _nothing, ("recovered",), SEEN),
        ],
        has_hosts=True,
        between=("suspected", "recovered"),
    ),
    Failure(
        "one of two proxies killed",
        [
            Step("kill -9 of a proxy", partial(_kill_proxies, 1), bound=1.0),
            Step("kill -9 of a peer then", _kill, ("gone REFUSED",), AT_ONCE),
        ],
        proxies=2,
    ),
    Failure(
        "all proxies killed",
        [
            Step("kill -9 of both proxies", partial(_kill_proxies, 2), bound=3.0),
            Step("kill -9 of a peer then", _kill, ("gone REFUSED",), AT_ONCE),
        ],
        proxies=2,
    ),
    Failure(
        "port reused by a stranger",
        [Step("kill -9, another binds", _replace_by_stranger, ("gone REFUSED", "gone UNREACHABLE"), GIVE_UP)],
        between=("suspected",),
    ),
    Failure(
        "restarted with the same id",
        [Step("kill -9, restart", _restart, ("gone REFUSED",), AT_ONCE), Step("is there", _nothing, ("joined",), SEEN)],
    ),
]
