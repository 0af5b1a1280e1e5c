"""How much every table holds that hangs together with a peer."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator, Mapping

_TABLES = (dict, list, set, deque)


def entries(root: object) -> Counter[str]:
    """The entries of each dictionary, list, set and deque, by class and attribute; all objects of a class together.

    Followed are the attributes and the entries that are objects of zdisco.
    """
    sizes: Counter[str] = Counter()
    seen, waiting = {id(root)}, [root]
    while waiting:
        one = waiting.pop()
        for name, value in _attributes(one):
            held: list[object] = [value]
            if isinstance(value, _TABLES):
                sizes[f"{type(one).__name__}.{name}"] += len(value)
                held = list(value.values() if isinstance(value, Mapping) else value)
            for other in held:
                if id(other) not in seen and type(other).__module__.startswith("zdisco."):
                    seen.add(id(other))
                    waiting.append(other)
    return sizes


def _attributes(one: object) -> Iterator[tuple[str, object]]:
    yield from getattr(one, "__dict__", {}).items()
    for kind in type(one).__mro__:
        slots = kind.__dict__.get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            if name not in ("__dict__", "__weakref__") and hasattr(one, name):
                yield name, getattr(one, name)
