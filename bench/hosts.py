"""Several hosts on one machine: network namespaces on a bridge, made and taken down by whoever uses them.

Nothing of it touches the network of the machine: the bridge has a namespace of its own, too.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

SUBNET = "10.77.0"
"""Every run has it for itself, since nobody else sees the namespaces."""


def why_not() -> str:
    """Why there can be none here; empty if there can."""
    if os.geteuid() != 0:
        return "makes network namespaces, which takes root"
    if shutil.which("ip") is None:
        return "makes network namespaces, which takes ip of iproute2"
    probe = f"zd{os.getpid()}p"
    done = subprocess.run(["ip", "netns", "add", probe], capture_output=True, text=True, check=False)
    if done.returncode:
        return f"no network namespace can be made here: {done.stderr.strip()}"
    run("ip", "netns", "del", probe)
    return ""


def run(*command: str) -> None:
    """Run a command that must succeed."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}"


class Host:
    """One network namespace with one address."""

    def __init__(self, hub: str, number: int) -> None:
        self.number = number
        self.address = f"{SUBNET}.{number}"
        self._hub = hub
        self._name = f"{hub}h{number}"
        self._port = f"port{number}"
        run("ip", "netns", "add", self._name)
        run("ip", "-n", hub, "link", "add", self._port, "type", "veth", "peer", "name", "eth0", "netns", self._name)
        run("ip", "-n", hub, "link", "set", self._port, "master", "bridge", "up")
        run("ip", "-n", self._name, "address", "add", f"{self.address}/24", "dev", "eth0")
        for device in ("lo", "eth0"):
            run("ip", "-n", self._name, "link", "set", device, "up")

    @property
    def inside(self) -> tuple[str, ...]:
        """What a command begins with that is to run on this host."""
        return "ip", "netns", "exec", self._name

    def unplug(self) -> None:
        """Let nothing through any more: its own device stays up, so no connection gets an error."""
        run("ip", "-n", self._hub, "link", "set", self._port, "down")

    def plug_in(self) -> None:
        run("ip", "-n", self._hub, "link", "set", self._port, "up")

    def move(self) -> None:
        """Get another address instead of the present one, as a machine does in another network."""
        run("ip", "-n", self._name, "address", "del", f"{self.address}/24", "dev", "eth0")
        self.address = f"{SUBNET}.{self.number + 100}"
        run("ip", "-n", self._name, "address", "add", f"{self.address}/24", "dev", "eth0")

    def cannot_send_to(self, other: Host) -> None:
        """Let nothing get from here to there; the other way is free."""
        run("ip", "-n", self._name, "route", "add", "blackhole", other.address)

    def can_send_to(self, other: Host) -> None:
        run("ip", "-n", self._name, "route", "del", "blackhole", other.address)


@contextmanager
def hosts(count: int) -> Iterator[list[Host]]:
    """That many hosts, which reach each other."""
    hub = f"zd{os.getpid()}"
    made: list[Host] = []
    run("ip", "netns", "add", hub)
    try:
        run("ip", "-n", hub, "link", "add", "bridge", "type", "bridge")
        run("ip", "-n", hub, "link", "set", "bridge", "up")
        for number in range(1, count + 1):
            made.append(Host(hub, number))
        yield made
    finally:
        for number in range(1, count + 1):
            subprocess.run(["ip", "netns", "del", f"{hub}h{number}"], capture_output=True, check=False)
        run("ip", "netns", "del", hub)
