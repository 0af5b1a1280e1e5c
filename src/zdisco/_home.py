"""Where a peer listens, and what it announces of it.

Rule: what the caller gave stays. An address that we found ourselves, since it routes to a proxy,
is given up for another one when this machine has lost it.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from ._arguments import advertised_endpoint, bind_host, port_number
from ._channels import DataChannel, Network
from ._core.endpoints import TcpEndpoint, is_loopback, numeric, parse
from ._core.errors import BindError, InvalidEndpoint
from ._core.model import Endpoint

logger = logging.getLogger("zdisco")


class Home:
    """The place of one peer on its machine.

    Args:
        host: What to bind to; ``None`` for the address that routes to a proxy.
        port: Which port; 0 for any.
        advertise: What to announce, if not what was bound.
        proxies: Their well-known endpoints.

    Raises:
        InvalidEndpoint: If ``host`` is no address, or ``advertise`` neither host nor endpoint.
        ValueError: If there is no such port.
    """

    def __init__(self, host: str | None, port: int, advertise: str | None, proxies: Sequence[Endpoint]) -> None:
        self._host, self._port, self._advertise = bind_host(host), port_number(port), advertise
        self._proxies = proxies
        if advertise is not None:
            advertised_endpoint(advertise, 1)
        self._found = ""
        """The address that was found, not given."""

    async def open(self, network: Network) -> tuple[DataChannel, Endpoint]:
        """The data channel, bound, and the endpoint to announce.

        Raises:
            BindError: If the address cannot be bound, or none leads to a proxy.
            SocketLimitError: If there are no sockets or descriptors left.

        Cancellation: the channel is closed.
        """
        if self._host is None:
            self._found = await network.local_address(self._proxies)
        data = await network.data_channel(self._host or self._found, self._port)
        try:
            if not self._found and self._announces_what_it_finds(data):
                self._found = await network.local_address(self._proxies)
        except BaseException:
            await data.aclose()
            raise
        return data, self._announced(data)

    def _announces_what_it_finds(self, data: DataChannel) -> bool:
        if self._advertise is not None:
            return False
        try:
            numeric(data.endpoint)
        except InvalidEndpoint:  # bound to all interfaces
            return True
        return self._host is None

    def _announced(self, data: DataChannel) -> Endpoint:
        port = parse(data.endpoint).port
        if self._advertise is not None:
            return advertised_endpoint(self._advertise, port)
        if self._announces_what_it_finds(data):
            return str(TcpEndpoint(self._found, port))
        return numeric(data.endpoint) or data.endpoint

    @property
    def may_change(self) -> bool:
        """Whether we rely on an address that the machine may lose."""
        return bool(self._found) and not is_loopback(str(TcpEndpoint(self._found, 1)))

    async def moved(self, network: Network, data: DataChannel) -> Endpoint | None:
        """The endpoint to announce from now on, if the machine has lost our address and got another.

        Raises:
            ClosedError: If the channel is closed.

        Cancellation: safe.
        """
        if network.has_address(self._found):
            return None
        try:
            found = await network.local_address(self._proxies)
            if found == self._found:
                return None  # it came back meanwhile
            if self._host is None:
                data.rebind(found)
        except BindError as error:
            logger.debug("this machine has lost the address %s: %s", self._found, error)
            return None
        logger.info("this machine has lost the address %s, now at %s", self._found, found)
        self._found = found
        return self._announced(data)
