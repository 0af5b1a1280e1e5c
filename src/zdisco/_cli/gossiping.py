"""``zdisco gossip``: a gossip node, and commands that ask one or change what it holds."""

from __future__ import annotations

import json
from pathlib import Path

import click

from .. import Delivery, Gossip, ZdiscoError, zpl
from .lines import print_line, print_text, shown
from .running import until_signalled, usage


async def serve(node: Gossip, config: Path | None) -> None:
    """Hold and pass on tuples until a signal comes; print each change."""
    async with until_signalled() as work, node:
        with work:
            if config is not None:
                await _load(node, config)
            print_text("\n".join(f"endpoint {endpoint}" for endpoint in node.endpoints) or "endpoint none")
            await _print_deliveries(node, "")
        status = node.status()
        print_text(f"tuples {status.tuples}\ndropped {sum(node.dropped.values())}")


async def _load(node: Gossip, config: Path) -> None:
    try:
        await node.load(config)
    except zpl.ZPLError as error:
        raise click.UsageError(str(error)) from error  # it names the file by itself
    except ValueError as error:
        raise click.UsageError(f"{config}: {error}") from error
    except ZdiscoError:
        raise  # what cannot be bound is an OSError, too, and no fault of the file
    except OSError as error:
        raise click.UsageError(f"cannot read {config}: {(error.strerror or str(error)).lower()}") from error


async def put(node: Gossip, key: str, value: str, ttl: float | None, timeout: float) -> None:
    """Set a key at all nodes that this one is connected to."""
    async with until_signalled() as work, node:
        with work:
            await node.settle(timeout)
            with usage():
                await node.publish(key, value, ttl, refresh=False)
            await node.settle(timeout)
        work.finish()


async def remove(node: Gossip, key: str, timeout: float) -> None:
    """Delete a key there.

    Raises:
        click.ClickException: If it has no value there.
    """
    async with until_signalled() as work, node:
        with work:
            await node.settle(timeout)
            if key not in node:
                raise _no_value(key)
            await node.unpublish(key)
            await node.settle(timeout)
        work.finish()


async def read(node: Gossip, keys: tuple[str, ...], as_json: bool, timeout: float) -> None:
    """Print the values of keys, or all keys with their values.

    Raises:
        click.ClickException: If one has no value there.
    """
    async with until_signalled() as work, node:
        with work:
            await node.settle(timeout)
            found = {}
            for key in keys or sorted(node):
                if key not in node:
                    raise _no_value(key)
                found[key] = node[key]
            if as_json:
                print_text(json.dumps(found, indent=2))
            for key, value in found.items() if not as_json else ():
                print_text(shown(value) if keys else f"{shown(key)}={shown(value)}")
        work.finish()


async def watch(node: Gossip, prefix: str) -> None:
    """Print what is there and each change, until a signal comes."""
    async with until_signalled() as work, node:
        with work:
            await _print_deliveries(node, prefix)


async def show_status(node: Gossip, timeout: float) -> None:
    """Print how many tuples there are."""
    async with until_signalled() as work, node:
        with work:
            await node.settle(timeout)
            status = node.status()
            print_text(f"tuples {status.tuples}\ntombstones {status.tombstones}")
        work.finish()


async def _print_deliveries(node: Gossip, prefix: str) -> None:
    async for delivery in node.deliveries():
        if delivery.key.startswith(prefix):
            print_line(delivery_text(delivery))


def delivery_text(delivery: Delivery) -> str:
    """One line for a change."""
    text = f"{delivery.change.value} {shown(delivery.key)}"
    return text if delivery.value is None else f"{text}={shown(delivery.value)}"


def _no_value(key: str) -> click.ClickException:
    return click.ClickException(f"{key!r} has no value")
