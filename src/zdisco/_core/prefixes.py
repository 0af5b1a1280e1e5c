"""Values found by the prefix under which they were put: who subscribed to what.

Rule: finding costs one look-up for each length that a prefix has here, however many prefixes
there are.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Generic, TypeVar

from attrs import define, field

V = TypeVar("V")


@define(eq=False)
class Prefixes(Generic[V]):
    """Any number of values for each prefix."""

    _values: dict[bytes, list[V]] = field(factory=dict)
    _lengths: dict[int, int] = field(factory=dict)
    """How many prefixes have this length."""

    def add(self, prefix: bytes, value: V) -> bool:
        """Put a value; returns whether it is the first of its prefix."""
        values = self._values.setdefault(prefix, [])
        values.append(value)
        if len(values) > 1:
            return False
        self._lengths[len(prefix)] = self._lengths.get(len(prefix), 0) + 1
        return True

    def remove(self, prefix: bytes, value: V) -> bool:
        """Take a value away; returns whether it was the last of its prefix."""
        values = self._values[prefix]
        values.remove(value)
        if values:
            return False
        del self._values[prefix]
        self._lengths[len(prefix)] -= 1
        if not self._lengths[len(prefix)]:
            del self._lengths[len(prefix)]
        return True

    def matching(self, topic: bytes) -> list[V]:
        """The values of all prefixes of ``topic``."""
        # A slice beyond the end would be the whole topic again.
        lengths = [length for length in self._lengths if length <= len(topic)]
        return [value for length in lengths for value in self._values.get(topic[:length], ())]

    def __len__(self) -> int:
        """How many prefixes there are."""
        return len(self._values)

    def __contains__(self, prefix: bytes) -> bool:
        return prefix in self._values

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._values)

    @property
    def values(self) -> list[V]:
        return [value for values in self._values.values() for value in values]
