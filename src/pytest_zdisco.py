"""Fixtures for tests of programs that use zdisco.

pytest finds them by the entry point ``zdisco``; with ``-p no:zdisco`` it does not.

Rule 1: this module stands beside the package, not in it. pytest imports it whenever it starts, and
a test suite that asks for nothing of it must not pay for zdisco, anyio and zmq.

Rule 2: no fixture is async, and no hook is taken: which plugin runs a test is the test's business.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from zdisco.testing import MemoryNetwork


@pytest.fixture
def memory_network() -> MemoryNetwork:
    """A network in memory for this test alone: `zdisco.testing.MemoryNetwork`."""
    from zdisco.testing import MemoryNetwork  # noqa: PLC0415

    return MemoryNetwork()
