"""The commands and their options; what they do stands in the other modules."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeVar

import click

from .. import Peer, PeerConfig, Proxy, ZdiscoError
from .running import run

F = TypeVar("F", bound=Callable[..., Any])

DEFAULT_PROXY = "tcp://127.0.0.1:5555"


def _pairs(_: click.Context, parameter: click.Parameter, values: tuple[str, ...]) -> dict[str, str]:
    """Split each ``KEY=TEXT`` at its first equals sign."""
    pairs: dict[str, str] = {}
    for value in values:
        key, equals, text = value.partition("=")
        if not equals or not key:
            raise click.BadParameter(f"{value!r} is not of the form {parameter.metavar}")
        pairs[key] = text
    return pairs


def _joining(command: F) -> F:
    """The options of each command that joins as a peer."""
    for option in (
        click.option(
            "--timeout",
            type=click.FloatRange(min=0, min_open=True),
            default=10.0,
            show_default=True,
            metavar="S",
            help="Give up if no proxy relays us within S seconds.",
        ),
        click.option(
            "--proxy",
            "proxies",
            multiple=True,
            default=[DEFAULT_PROXY],
            show_default=True,
            metavar="ENDPOINT",
            help="Well-known endpoint of a proxy; may be repeated.",
        ),
    ):
        command = option(command)
    return command


_backend = click.option(
    "--backend", type=click.Choice(["asyncio", "trio"]), default="asyncio", show_default=True, help="Event loop."
)


@contextmanager
def _usage() -> Iterator[None]:
    """Turn what the library says of bad arguments into a usage error."""
    try:
        yield
    except (ZdiscoError, ValueError) as error:
        raise click.UsageError(str(error)) from error


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def zdisco() -> None:
    """ZeroMQ programs find each other, and are told truthfully who is there."""


@zdisco.command()
@click.option("--bind", default=DEFAULT_PROXY, show_default=True, metavar="ENDPOINT", help="A port * picks a free one.")
@click.option("--relay", metavar="ENDPOINT", help="Where peers publish to; a free port at the same host unless given.")
@click.option("--advertise", metavar="HOST", help="Host that peers connect to, if it is not the bound one.")
@_backend
def proxy(bind: str, relay: str | None, advertise: str | None, backend: str) -> None:
    """Relay discovery messages until SIGINT or SIGTERM.

    Prints its endpoint and its publish endpoint, one line each, when it is ready.
    """
    from .serving import serve_proxy

    with _usage():
        one = Proxy(bind, relay=relay, advertise=advertise)
    run(partial(serve_proxy, one), backend)


@zdisco.command()
@_joining
@click.option("--name", default="", help="What people call this peer.")
@click.option("--header", "headers", multiple=True, callback=_pairs, metavar="KEY=TEXT", help="Announced to all.")
@click.option("--subscribe", "topics", multiple=True, metavar="TOPIC", help="Print messages whose topic begins so.")
@click.option("--publish", "texts", multiple=True, callback=_pairs, metavar="TOPIC=TEXT", help="Publish this ...")
@click.option(
    "--every",
    type=click.FloatRange(min=0, min_open=True),
    default=1.0,
    show_default=True,
    metavar="S",
    help="... every S seconds.",
)
@click.option(
    "--stop-reconnect-on",
    type=click.IntRange(0, 3),
    default=1,
    show_default=True,
    metavar="N",
    help="Give a peer up when 1: refused, 2: the handshake failed, 3: either; 0: never.",
)
@click.option("--monitor", is_flag=True, help="Print the events of the sockets, too.")
@_backend
def peer(
    proxies: tuple[str, ...],
    timeout: float,
    name: str,
    headers: dict[str, str],
    topics: tuple[str, ...],
    texts: dict[str, str],
    every: float,
    stop_reconnect_on: int,
    monitor: bool,
    backend: str,
) -> None:
    """Take part until SIGINT or SIGTERM, and print what happens.

    Each line is the local time, a tab, and one event, message, or discovery message.
    """
    from .serving import Errand, serve_peer

    with _usage():
        config = PeerConfig(reconnect_stop=stop_reconnect_on, discovery_timeout=timeout)
        one = Peer(proxies, name=name, headers=headers, config=config, wait=False)
        errand = Errand(topics, texts, every, monitor)
        for topic in (*topics, *texts):
            one.subscribe(topic)  # raises if it cannot be a topic
    run(partial(serve_peer, one, config, errand), backend)


@zdisco.command()
@_joining
@click.option("--json", "as_json", is_flag=True, help="Print a JSON array.")
@click.option(
    "--wait",
    "quiet",
    type=click.FloatRange(min=0, min_open=True),
    default=0.5,
    show_default=True,
    metavar="S",
    help="Wait until nobody has joined for S seconds.",
)
@_backend
def ls(proxies: tuple[str, ...], timeout: float, as_json: bool, quiet: float, backend: str) -> None:
    """List the peers that are there, by joining them for a moment as zdisco-ls."""
    from .listing import joined_peers, print_json, print_table

    with _usage():
        config = PeerConfig(discovery_timeout=timeout)
        one = Peer(proxies, name="zdisco-ls", config=config, wait=False)
    peers = run(partial(joined_peers, one, quiet), backend)
    (print_json if as_json else print_table)(peers)


@zdisco.command()
def demo() -> None:
    """See processes find each other, talk, die, and leave; 0 if all that is promised was seen."""
    from .demo import play

    raise SystemExit(run(play))
