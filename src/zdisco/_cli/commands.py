"""The commands and their options; what they do stands in the other modules."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import click

from .. import Drop, Gossip, NameResponder, Peer, PeerConfig, Proxy
from .running import escape_what_cannot_be_shown, run, usage

F = TypeVar("F", bound=Callable[..., Any])
Endpoints: TypeAlias = str | tuple[str, ...] | None

DEFAULT_PROXY = "tcp://127.0.0.1:5555"


class Seconds(click.FloatRange):
    """A duration, neither nothing nor without end."""

    name = "number of seconds"

    def __init__(self) -> None:
        super().__init__(min=0, min_open=True)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Read it.

        Raises:
            click.BadParameter: If it is none.
        """
        seconds = float(super().convert(value, param, ctx))
        if not math.isfinite(seconds):
            self.fail(f"{seconds} is not a number of seconds.", param, ctx)
        return seconds


def _pairs(_: click.Context, parameter: click.Parameter, values: tuple[str, ...]) -> list[tuple[str, str]]:
    """Split each ``KEY=TEXT`` at its first equals sign."""
    pairs = []
    for value in values:
        key, equals, text = value.partition("=")
        if not equals or not key:
            raise click.BadParameter(f"{value!r} is not of the form {parameter.metavar}")
        pairs.append((key, text))
    return pairs


def _headers(context: click.Context, parameter: click.Parameter, values: tuple[str, ...]) -> dict[str, str]:
    """The headers by key."""
    headers: dict[str, str] = {}
    for key, text in _pairs(context, parameter, values):
        if key in headers:
            raise click.BadParameter(f"{key!r} is given twice")
        headers[key] = text
    return headers


def _with_scheme(_: click.Context, __: click.Parameter, value: Endpoints) -> Endpoints:
    """Refuse an endpoint without its beginning; the library says what else may be wrong with it."""
    for endpoint in (value,) if isinstance(value, str) else value or ():
        if "://" not in endpoint:
            raise click.BadParameter(f"{endpoint!r} must begin with its transport, as in {DEFAULT_PROXY}")
    return value


def _joining(command: F) -> F:
    """The options of each command that joins as a peer."""
    for option in (
        click.option("--cluster", default="", metavar="TEXT", help="Only peers of the same cluster link."),
        click.option(
            "--timeout",
            type=Seconds(),
            default=10.0,
            show_default=True,
            metavar="S",
            help="Give up if no proxy relays us within S seconds. With --gossip alone only ls does, if no gossip node "
            "answers.",
        ),
        click.option(
            "--gossip",
            multiple=True,
            callback=_with_scheme,
            metavar="ENDPOINT",
            help="Gossip endpoint of another peer, or of a gossip node; may be repeated. Then no proxy is needed.",
        ),
        click.option(
            "--proxy",
            "proxies",
            multiple=True,
            show_default=f"{DEFAULT_PROXY}, without --gossip",
            callback=_with_scheme,
            metavar="ENDPOINT",
            help="Well-known endpoint of a proxy; may be repeated.",
        ),
    ):
        command = option(command)
    return command


_embed = click.option("--embed", is_flag=True, help="Host the proxy whenever nobody else does.")
_backend = click.option(
    "--backend", type=click.Choice(["asyncio", "trio"]), default="asyncio", show_default=True, help="Event loop."
)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="zdisco")
def zdisco() -> None:
    """ZeroMQ programs find each other, and are told who is there."""


@zdisco.command()
@click.option(
    "--bind",
    default=DEFAULT_PROXY,
    show_default=True,
    callback=_with_scheme,
    metavar="ENDPOINT",
    help="The well-known endpoint to listen on; a port * picks a free one.",
)
@click.option(
    "--relay",
    callback=_with_scheme,
    metavar="ENDPOINT",
    help="Where peers publish to; a free port at the same host unless given.",
)
@click.option("--advertise", metavar="HOST", help="Host that peers connect to, if it is not the bound one.")
@_backend
def proxy(bind: str, relay: str | None, advertise: str | None, backend: str) -> None:
    """Relay discovery messages until SIGINT or SIGTERM.

    Prints its endpoint and its publish endpoint, one line each, when it is ready. At its end it
    prints how many messages it relayed and refused.
    """
    from .serving import serve_proxy

    with usage():
        one = Proxy(bind, relay=relay, advertise=advertise)
    run(partial(serve_proxy, one), backend)


@zdisco.command()
@_joining
@click.option("--name", default="", help="Shown to people; need not be unique.")
@click.option(
    "--header",
    "headers",
    multiple=True,
    callback=_headers,
    metavar="KEY=TEXT",
    help="Announced to all; may be repeated.",
)
@click.option("--group", "groups", multiple=True, metavar="TEXT", help="Announced to all; may be repeated.")
@click.option(
    "--host",
    metavar="ADDRESS",
    help="Local address of the data channel; by default the one that leads to the first proxy.",
)
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=0,
    show_default=True,
    metavar="N",
    help="Port of the data channel; 0 picks a free one.",
)
@click.option(
    "--advertise", metavar="HOST", help="Host, or endpoint, that the others connect to, if it is not the bound one."
)
@click.option(
    "--subscribe",
    "topics",
    multiple=True,
    metavar="TOPIC",
    help="Print messages whose topic begins with TOPIC ('' for all); may be repeated.",
)
@click.option(
    "--publish",
    "texts",
    multiple=True,
    callback=_pairs,
    metavar="TOPIC=TEXT",
    help="Publish TEXT on TOPIC every --every seconds; may be repeated.",
)
@click.option("--every", type=Seconds(), default=1.0, show_default=True, metavar="S", help="Seconds between messages.")
@click.option(
    "--stop-reconnect-on",
    type=click.IntRange(0, 3),
    default=1,
    show_default=True,
    metavar="N",
    help="Give a peer up when 1: refused, 2: the handshake failed, 3: either; 0: never.",
)
@click.option(
    "--gossip-bind",
    callback=_with_scheme,
    metavar="ENDPOINT",
    help="Let other peers find each other through this one: listen for gossip there; a port * picks a free one.",
)
@click.option(
    "--register",
    "names",
    multiple=True,
    callback=_pairs,
    metavar="NAME=ENDPOINT",
    help="Let others find ENDPOINT under NAME; may be repeated.",
)
@_embed
@click.option("--monitor", is_flag=True, help="Print socket events, too; they may come a few milliseconds late.")
@_backend
def peer(
    proxies: tuple[str, ...],
    gossip: tuple[str, ...],
    gossip_bind: str | None,
    timeout: float,
    stop_reconnect_on: int,
    topics: tuple[str, ...],
    texts: list[tuple[str, str]],
    every: float,
    names: list[tuple[str, str]],
    monitor: bool,
    backend: str,
    **options: Any,
) -> None:
    """Take part until SIGINT or SIGTERM, and print what happens.

    Each line is the local time, a tab, and one event, message, or discovery message.
    """
    from .serving import Errand, serve_peer

    with usage():
        config = PeerConfig(reconnect_stop=stop_reconnect_on, discovery_timeout=timeout)
        # What is left of the options has the names that `Peer` gives them.
        known = gossip if gossip or gossip_bind else None
        one = Peer(proxies or None, gossip=known, gossip_bind=gossip_bind, config=config, wait=False, **options)
        errand = Errand(topics, texts, every, names, monitor)
        for topic in (*topics, *(topic for topic, _ in texts)):
            one.subscribe(topic)  # raises if it cannot be a topic
        for name, endpoint in names:
            one.register(name, endpoint)  # likewise
    run(partial(serve_peer, one, config, errand), backend)


@zdisco.command(short_help="Tell local programs where names lead.")
@_joining
@click.option("--name", default="zdisco-names", show_default=True, help="Shown to people; need not be unique.")
@click.option(
    "--bind",
    "endpoint",
    metavar="ENDPOINT",
    help="Where to listen, ipc:// or tcp://. Unless given, in $XDG_RUNTIME_DIR/zdisco/names or, where that is not "
    "set, /tmp/zdisco-UID/names.",
)
@click.option("--hosts", metavar="FILE", help="Where names lead from this machine, in ZPL; read again when it changes.")
@_embed
@_backend
def names(
    proxies: tuple[str, ...],
    gossip: tuple[str, ...],
    timeout: float,
    endpoint: str | None,
    backend: str,
    **options: Any,
) -> None:
    """Tell programs of this machine where names lead, until SIGINT or SIGTERM.

    Any program that has a REQ socket may ask, in any language: it sends a name, and gets OK and the endpoints, or
    UNKNOWN, or ERROR and the reason. Prints where to ask when it is ready, and at its end how many questions it
    answered and refused.
    """
    from .serving import serve_names

    with usage():
        config = PeerConfig(discovery_timeout=timeout)
        one = Peer(proxies or None, gossip=gossip or None, config=config, wait=False, **options)
        responder = NameResponder(one, endpoint)
    run(partial(serve_names, one, responder), backend)


@zdisco.command(short_help="List the peers that are there.")
@_joining
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--links", "with_links", is_flag=True, help="Print who reaches whom, as each of them says.")
@click.option(
    "--wait",
    "quiet",
    type=Seconds(),
    default=0.5,
    show_default=True,
    metavar="S",
    help="Wait until nobody has joined for S seconds.",
)
@_backend
def ls(
    proxies: tuple[str, ...],
    gossip: tuple[str, ...],
    timeout: float,
    cluster: str,
    as_json: bool,
    with_links: bool,
    quiet: float,
    backend: str,
) -> None:
    """List the peers that are there, by joining them for a moment as zdisco-ls."""
    from . import listing

    with usage():
        config = PeerConfig(discovery_timeout=timeout)
        one = Peer(proxies or None, gossip=gossip or None, name="zdisco-ls", cluster=cluster, config=config, wait=False)
    patience = timeout if gossip and not proxies else None
    if with_links:
        found = run(partial(listing.reachability, one, quiet, patience), backend)
        (listing.print_links_json if as_json else listing.print_links)(found)
    else:
        peers = run(partial(listing.joined_peers, one, quiet, patience), backend)
        (listing.print_json if as_json else listing.print_table)(peers)
    if one.dropped.get(Drop.FOREIGN_CLUSTER):
        click.echo("there are peers of another cluster, too (--cluster)", err=True)


_timeout = click.option(
    "--timeout",
    type=Seconds(),
    default=5.0,
    show_default=True,
    metavar="S",
    help="Give up if no gossip node answers within S seconds.",
)


@zdisco.group(invoke_without_command=True, short_help="Run a gossip node, or ask one.")
@click.option(
    "--bind",
    "binds",
    multiple=True,
    callback=_with_scheme,
    metavar="ENDPOINT",
    help="Where the gossip node listens; a port * picks a free one; may be repeated.",
)
@click.option(
    "--connect",
    "remotes",
    multiple=True,
    callback=_with_scheme,
    metavar="ENDPOINT",
    help="Another gossip node, one of CZMQ too; may be repeated.",
)
@click.option(
    "--config",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="FILE",
    help="A ZPL file to load; loaded again whenever it changes.",
)
@_backend
@click.pass_context
def gossip(
    context: click.Context, binds: tuple[str, ...], remotes: tuple[str, ...], config: Path | None, backend: str
) -> None:
    """Run a gossip node until SIGINT or SIGTERM, and print each change of a tuple.

    With a command, do that by way of the nodes given with --connect, and end.
    """
    with usage():
        node = Gossip(binds, connect=remotes)
    if context.invoked_subcommand is None:
        from .gossiping import serve

        run(partial(serve, node, config), backend)
        return
    # Not yet: it may be that only its help is wanted.
    is_complete = config is None and bool(remotes)
    context.obj = partial(_run_gossip, node, backend, is_complete)


def _run_gossip(node: Gossip, backend: str, is_complete: bool, command: Callable[..., Any], *arguments: Any) -> None:
    if not is_complete:
        name = click.get_current_context().info_name
        raise click.UsageError(f'"zdisco gossip" needs --connect before {name}, and takes no --config there')
    try:
        run(partial(command, node, *arguments), backend)
    except TimeoutError as error:
        raise click.ClickException(str(error)) from error


@gossip.command("set")
@click.argument("key")
@click.argument("value")
@click.option("--ttl", type=Seconds(), metavar="S", help="It expires S seconds after this command, unless set again.")
@_timeout
@click.pass_obj
def set_value(ask: Callable[..., None], key: str, value: str, ttl: float | None, timeout: float) -> None:
    """Set KEY to VALUE."""
    from .gossiping import put

    ask(put, key, value, ttl, timeout)


@gossip.command()
@click.argument("key")
@_timeout
@click.pass_obj
def unset(ask: Callable[..., None], key: str, timeout: float) -> None:
    """Delete KEY, whoever set it."""
    from .gossiping import remove

    ask(remove, key, timeout)


@gossip.command()
@click.argument("keys", nargs=-1, metavar="[KEY]...")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object, in which nothing is escaped for terminals.")
@_timeout
@click.pass_obj
def get(ask: Callable[..., None], keys: tuple[str, ...], as_json: bool, timeout: float) -> None:
    """Print the value of each KEY, or all keys and values."""
    from .gossiping import read

    ask(read, keys, as_json, timeout)


@gossip.command()
@click.argument("prefix", default="")
@click.pass_obj
def watch(ask: Callable[..., None], prefix: str) -> None:
    """Print the keys that begin with PREFIX, and each change of them, until SIGINT or SIGTERM."""
    from .gossiping import watch as watch_keys

    ask(watch_keys, prefix)


@gossip.command()
@_timeout
@click.pass_obj
def status(ask: Callable[..., None], timeout: float) -> None:
    """Print how many tuples there are."""
    from .gossiping import show_status

    ask(show_status, timeout)


_files = click.argument(
    "names",
    nargs=-1,
    required=True,
    metavar="FILE...",
    type=click.Path(exists=True, dir_okay=False, allow_dash=True),
)


@zdisco.group(short_help="Check and format configuration files.")
def zpl() -> None:
    """Check and format configuration files in ZPL, the ZeroMQ Property Language.

    The file - is standard input.
    """


@zpl.command("check", short_help="Say where files are not ZPL.")
@_files
def check_zpl(names: tuple[str, ...]) -> None:
    """Say of each FILE whether it is ZPL.

    Prints file, line and column of the first fault in each, and ends with 1 if there is one.
    """
    from . import configuration

    escape_what_cannot_be_shown()
    raise SystemExit(0 if configuration.check(names) else 1)


@zpl.command("fmt", short_help="Rewrite files in one form.")
@click.option("--check", "is_dry", is_flag=True, help="Only print which files would change; 1 if any does.")
@_files
def format_zpl(names: tuple[str, ...], is_dry: bool) -> None:
    """Rewrite each FILE in the form in which zdisco writes, with all comments.

    What is not ZPL stays as it is, and makes the command end with 1. What comes from standard
    input goes to standard output.
    """
    from . import configuration

    escape_what_cannot_be_shown()
    raise SystemExit(0 if configuration.rewrite(names, is_dry) else 1)


@zdisco.command(short_help="See processes find each other, die and leave.")
def demo() -> None:
    """See processes find each other, talk, die, and leave; 0 if all that is promised was seen."""
    from .demo import play

    raise SystemExit(run(play))
