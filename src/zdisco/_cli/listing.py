"""``zdisco ls``: who is there."""

from __future__ import annotations

import json
import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager

import anyio
import click

from .. import Gossip, Peer, PeerInfo, PeerJoined, Reachability
from .._reachability import link_to_json
from .lines import print_text, shown
from .running import until_signalled

_LOOKS_AGAIN = 0.02
_PATIENCE = 2.0
"""Seconds that all together may take to say whom they reach."""


async def joined_peers(peer: Peer, quiet: float, patience: float | None) -> Sequence[PeerInfo]:
    """Join, wait until nobody has joined for ``quiet`` seconds, and leave; sorted by name.

    Raises:
        DiscoveryTimeout: If no proxy relays us.
        click.ClickException: If no other gossip node answers within ``patience`` seconds; ``None``: it need not.
        click.exceptions.Exit: If a signal ends the waiting.
    """
    async with _joined(peer, quiet, patience):
        return sorted(peer.peers.values(), key=lambda info: (info.name, str(info.id)))


async def reachability(peer: Peer, quiet: float, patience: float | None) -> Reachability:
    """The same, but ask all before we leave; raises alike."""
    async with _joined(peer, quiet, patience):
        return await peer.reachability(_PATIENCE)


@asynccontextmanager
async def _joined(peer: Peer, quiet: float, patience: float | None) -> AsyncIterator[None]:
    events = peer.events()
    async with until_signalled() as work, peer:
        with work:
            await peer.discover()
            if peer.gossip is not None and patience is not None:
                await _until_somebody_answers(peer.gossip, patience)
            is_quiet = False
            while not is_quiet:
                with anyio.move_on_after(quiet) as silence:
                    while not isinstance(await anext(events), PeerJoined):
                        pass
                is_quiet = silence.cancelled_caught
        work.finish()
        yield


async def _until_somebody_answers(node: Gossip, patience: float) -> None:
    with anyio.move_on_after(patience):
        while node.status().remotes == 0:  # noqa: ASYNC110  of which no event tells
            await anyio.sleep(_LOOKS_AGAIN)
        return
    raise click.ClickException(f"no gossip node answers within {patience:g} s")


def print_json(peers: Sequence[PeerInfo]) -> None:
    """Print a JSON array with an object for each peer."""
    rows = [
        {
            "id": str(peer.id),
            "name": peer.name,
            "endpoint": peer.endpoint,
            "headers": dict(peer.headers),
            "groups": sorted(peer.groups),
            "services": sorted(peer.services),
            "names": {name: list(endpoints) for name, endpoints in sorted(peer.names.items())},
            "cluster": peer.cluster,
            "incarnation": peer.incarnation,
            "revision": peer.revision,
            "host": peer.host,
            "pid": peer.pid,
        }
        for peer in peers
    ]
    print_text(json.dumps(rows, indent=2))


def print_table(peers: Sequence[PeerInfo]) -> None:
    """Print a row for each peer: no cell is cut off or folded, so that it can be copied."""
    rows = [("name", "id", "endpoint", "host", "pid", "headers")]
    for peer in peers:
        headers = " ".join(f"{key}={value}" for key, value in sorted(peer.headers.items()))
        rows.append((peer.name, str(peer.id), peer.endpoint, peer.host, str(peer.pid or ""), headers))
    for line in _aligned([[_as_printed(cell) for cell in row] for row in rows]):
        print_text(line)
    print_text(f"{len(peers)} joined")


def print_links_json(found: Reachability) -> None:
    """Print a JSON object: the peers, the links of each as it sees them, and what does not reach whom."""
    rows = {
        "peers": [{"id": str(peer.id), "name": peer.name, "endpoint": peer.endpoint} for peer in found.peers.values()],
        "links": {str(id): [link_to_json(link) for link in links] for id, links in found.rows.items()},
        "broken": [{"publisher": str(one.id), "subscriber": str(other.id)} for one, other in found.broken],
        "mute": [str(peer.id) for peer in found.mute],
    }
    print_text(json.dumps(rows, indent=2))


def print_links(found: Reachability) -> None:
    """Print a row for each peer, how many it hears and how many hear it, then a line for each that does not."""
    broken, others = found.broken, len(found.peers) - 1
    rows = [("name", "id", "endpoint", "hears", "is heard by")]
    for peer in sorted(found.peers.values(), key=lambda peer: (peer.name, str(peer.id))):
        deaf = sum(subscriber is peer for _, subscriber in broken)
        unheard = sum(publisher is peer for publisher, _ in broken)
        judges = len(found.rows) - (peer.id in found.rows)
        hears = f"{others - deaf} of {others}" if peer.id in found.rows else "gave no answer"
        rows.append((peer.name, str(peer.id), peer.endpoint, hears, f"{judges - unheard} of {judges}"))
    for line in _aligned([[_as_printed(cell) for cell in row] for row in rows]):
        print_text(line)
    for publisher, subscriber in broken:
        one, other = (_as_printed(peer.name or str(peer.id)) for peer in (publisher, subscriber))
        print_text(f"what {one} publishes does not reach {other}")
    print_text(f"{len(found.peers)} joined, zdisco ls among them")


def _as_printed(text: str) -> str:
    """The text with everything escaped that is not printable, or that standard output cannot encode."""
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    return shown(text).encode(encoding, "backslashreplace").decode(encoding)


def _aligned(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    from rich.cells import cell_len

    widths = [max(map(cell_len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = (cell + " " * (width - cell_len(cell)) for cell, width in zip(row, widths, strict=True))
        yield "  ".join(cells).rstrip()
