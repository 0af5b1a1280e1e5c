"""CZMQ's own reading of ZPL, as a process: each line of hex digits is answered by one of JSON.

The answer is what was read, ``[name, value, children]``, and what CZMQ writes of it, all texts in hex; null for a text
that is refused. A library that logs to standard output, and handles signals, stays out of the tests' process.
"""

from __future__ import annotations

import ctypes
import json
import os
import sys
from typing import Any

LIBRARY = "libczmq.so.4"


class Zconfig:
    """The few functions of the library."""

    def __init__(self) -> None:
        os.environ["ZSYS_SIGHANDLER"] = "false"
        library = ctypes.CDLL(LIBRARY)
        pointer, text = ctypes.c_void_p, ctypes.c_char_p
        self._load = self._function(library.zconfig_str_load, pointer, text)
        self._save = self._function(library.zconfig_str_save, pointer, pointer)
        self._child = self._function(library.zconfig_child, pointer, pointer)
        self._next = self._function(library.zconfig_next, pointer, pointer)
        self._name = self._function(library.zconfig_name, text, pointer)
        self._value = self._function(library.zconfig_value, text, pointer)
        self._destroy = self._function(library.zconfig_destroy, None, ctypes.POINTER(pointer))
        self._free = self._function(library.zstr_free, None, ctypes.POINTER(pointer))

    @staticmethod
    def _function(function: Any, result: Any, argument: Any) -> Any:
        function.restype, function.argtypes = result, [argument]
        return function

    def answer(self, text: bytes) -> list[Any] | None:
        """The tree and the text that is written of it."""
        root = ctypes.c_void_p(self._load(text))
        if root.value is None:
            return None
        saved = ctypes.c_void_p(self._save(root))
        try:
            return [self._tree(root.value), ctypes.string_at(saved.value or 0).hex()]
        finally:
            self._free(ctypes.byref(saved))
            self._destroy(ctypes.byref(root))

    def _tree(self, section: int | None) -> list[Any]:
        children = []
        child = self._child(section)
        while child:
            children.append(self._tree(child))
            child = self._next(child)
        return [self._name(section).hex(), (self._value(section) or b"").hex(), children]


def main() -> None:
    try:
        zconfig = Zconfig()
    except OSError as error:
        raise SystemExit(f"{LIBRARY} cannot be loaded: {error}") from None
    answers = os.fdopen(os.dup(1), "w", encoding="ascii")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    answers.write("ready\n")
    answers.flush()
    for line in sys.stdin:
        answers.write(json.dumps(zconfig.answer(bytes.fromhex(line))) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
