"""ZPL, the ZeroMQ Property Language (RFC 4): configuration files that CZMQ's programs read, too.

Rule 1: one file, one meaning. Where the RFC and CZMQ's ``zconfig`` differ, a text means here what it means to CZMQ.
Only a NUL, at which CZMQ loses the rest without a word, is an error.

Rule 2: what is written is read back as it was. A name or a value that ZPL has no spelling for is refused where it is
given, so that every tree can be written.

Rule 3: nothing here calls itself, so that no file is nested too deeply.
"""

from __future__ import annotations

import os
import re
import secrets
import stat
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import TypeVar, overload

from attrs import Factory, define, field, frozen

from ._core.errors import ZPLError

__all__ = ["Section", "ZPLError", "dump", "dumps", "load", "loads"]

T = TypeVar("T")

_ROOT = "root"
_INDENT = 4
_BLANKS = " \t\v\f\r"
"""What C's ``isspace`` knows, but for the end of the line."""
_SPACE = re.compile(f"[{_BLANKS}]*")
_NAME = re.compile(r"[A-Za-z0-9$_@.&+/-]*")


# The tree


def _check_name(name: object) -> None:
    if not isinstance(name, str):
        raise TypeError(f"a name must be a text, not {name!r}")
    if not name or not _NAME.fullmatch(name) or name.startswith("/") or name.endswith("/"):
        raise ValueError(f"{name!r} cannot be a name: those have letters, digits, $-_@.&+ and, inside, /")


def _check_value(value: object) -> None:
    if not isinstance(value, str):
        raise TypeError(f"a value must be a text, not {value!r}")
    _spelled(value)


def _check_comment(comment: object) -> None:
    if not isinstance(comment, str):
        raise TypeError(f"a comment must be a text, not {comment!r}")
    if comment and not (comment.startswith("#") and _is_one_line(comment)):
        raise ValueError(f"{comment!r} cannot be a comment: it must begin with # and be one line")


def _is_one_line(text: str) -> bool:
    """Whether it is the text of bytes without NUL and newline."""
    if "\0" in text or "\n" in text:
        return False
    try:
        return text.isascii() or _from_bytes(_to_bytes(text)) == text
    except UnicodeEncodeError:
        return False


def _to_bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def _from_bytes(data: bytes) -> str:
    """The text; bytes that are not UTF-8 become lone surrogates."""
    return data.decode("utf-8", "surrogateescape")


def _validator(check: Callable[[object], None]) -> Callable[[object, object, object], None]:
    return lambda _, __, value: check(value)


@define(eq=False)
class Section:
    """A name, a value, and the sections inside it, which is all that ZPL knows.

    A whole file is a section, too, the root. ``Section()`` is a new one.

    Two are equal if name, value and what is inside are; comments do not count.
    """

    name: str = field(default=_ROOT, validator=_validator(_check_name))
    """As in the file: it may have slashes inside, but no path leads to it then."""
    value: str = field(default="", validator=_validator(_check_value))
    """Empty where there is none: ZPL does not tell the two apart. Bytes that are not UTF-8 are lone surrogates."""
    children: list[Section] = field(factory=list, repr=lambda children: f"<{len(children)}>")
    """In the order of the file; several may have one name."""
    above: list[str] = field(factory=list, kw_only=True, repr=False)
    """The comments before it, each with its ``#``, and ``""`` for a blank line; the root has those that head a file."""
    beside: str = field(default="", kw_only=True, repr=False, validator=_validator(_check_comment))
    """The comment in its own line, with its ``#``."""
    below: list[str] = field(factory=list, kw_only=True, repr=False)
    """The comments behind the last of its children."""

    def locate(self, path: str) -> Section | None:
        """The section at a path such as ``server/timeout``, which may begin with a slash; `None` if there is none.

        Of several with one name the first counts.

        Raises:
            TypeError: If the path is no text; `get` and `put` do the same.
        """
        found: Section | None = self
        for name in _names(path):
            found = next((child for child in found.children if child.name == name), None) if found else None
        return found

    @overload
    def get(self, path: str) -> str | None: ...
    @overload
    def get(self, path: str, default: T) -> str | T: ...
    def get(self, path: str, default: object = None) -> object:
        """The value at a path, which is empty if the section there has none; the default if there is no section."""
        found = self.locate(path)
        return default if found is None else found.value

    def put(self, path: str, value: str) -> None:
        """Set the value at a path; sections that are missing are added at the end.

        Raises:
            ValueError: If the path is not of names, or ZPL cannot hold the value. Nothing has changed then.
        """
        names = _names(path)
        for name in names:
            _check_name(name)
        _check_value(value)
        at = self
        for name in names:
            found = at.locate(name)
            if found is None:
                found = Section(name)
                at.children.append(found)
            at = found
        at.value = value

    def walk(self) -> Iterator[tuple[int, Section]]:
        """Every section inside, in the order of the file, with its depth: 0 for the children."""
        waiting = [(0, child) for child in reversed(self.children)]
        while waiting:
            depth, section = waiting.pop()
            yield depth, section
            waiting.extend((depth + 1, child) for child in reversed(section.children))

    def __iter__(self) -> Iterator[Section]:
        return iter(self.children)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Section):
            return NotImplemented
        pairs = [(self, other)]
        while pairs:
            one, two = pairs.pop()
            if (one.name, one.value, len(one.children)) != (two.name, two.value, len(two.children)):
                return False
            pairs.extend(zip(one.children, two.children, strict=True))
        return True

    # As a list has none: what it is equal to may change.
    __hash__ = None  # type: ignore[assignment]


def _names(path: object) -> list[str]:
    if not isinstance(path, str):
        raise TypeError(f"a path is text, not {path!r}")
    return path.removeprefix("/").split("/")


# Reading


def loads(text: str | bytes) -> Section:
    """Read ZPL.

    Raises:
        ZPLError: If it is none; it tells the first fault.
        TypeError: If it is neither text nor bytes.
    """
    if not isinstance(text, str | bytes):
        raise TypeError(f"ZPL is text or bytes, not {text!r}")
    return _read(text, None)


def load(path: str | os.PathLike[str]) -> Section:
    """Read a file.

    Raises:
        ZPLError: If it is not ZPL.
        OSError: If it cannot be read, as `open` does; `FileNotFoundError` if it is not there.
    """
    with open(path, "rb") as file:
        return _read(file.read(), os.fspath(path))


def _read(text: str | bytes, path: str | None) -> Section:
    growth = _Growth()
    for number, line in enumerate(_as_read(text, path).split("\n"), 1):
        place = _Place(path, number)
        growth.add(_parsed(line, place), place)
    return growth.ended()


def _as_read(text: str | bytes, path: str | None) -> str:
    """The text as it would come from a file."""
    if isinstance(text, bytes):
        return _from_bytes(text)
    try:
        return text if text.isascii() else _from_bytes(_to_bytes(text))
    except UnicodeEncodeError as error:
        before = text[: error.start]
        place = _Place(path, before.count("\n") + 1)
        raise place.error(error.start - before.rfind("\n") - 1, f"{text[error.start]!r} is no character") from None


@frozen
class _Place:
    """A line of a file."""

    path: str | None
    line: int

    def error(self, index: int, reason: str) -> ZPLError:
        return ZPLError(self.path, self.line, index + 1, reason)


@frozen
class _Line:
    """What a line says; without a name it is a comment, or blank."""

    level: int
    name: str = ""
    value: str = ""
    comment: str = ""


def _parsed(line: str, place: _Place) -> _Line:
    if "\0" in line:
        raise place.error(line.index("\0"), "a NUL cannot stand in a text")
    line = line.rstrip(_BLANKS)
    start = len(line) - len(line.lstrip(" "))
    level, odd = divmod(start, _INDENT)
    if odd:
        raise place.error(start, f"indented by {start} spaces, which is no multiple of {_INDENT}")
    end = _end(_NAME, line, start)
    name = line[start:end]
    if not name:
        return _Line(level, comment=_without_name(line, start, place))
    for index in (start, end - 1):
        if line[index] == "/":
            raise place.error(index, f"the name {name!r} begins or ends with a slash")
    value, comment = _value(line, end, place)
    return _Line(level, name, value, comment)


def _without_name(line: str, start: int, place: _Place) -> str:
    """The comment of a line that has nothing else."""
    index = _end(_SPACE, line, start)
    if line[index : index + 1] in ("", "#"):
        return line[index:]
    if index > start:
        raise place.error(start, f"indented by {line[start]!r}, only spaces can do that")
    if line[index] == "\ufeff":
        raise place.error(index, "a byte order mark; the text must be stored without")
    raise place.error(index, f"expected a name, not {_shown(line[index])}")


def _value(line: str, end: int, place: _Place) -> tuple[str, str]:
    """The value and the comment that follow a name."""
    index = _end(_SPACE, line, end)
    if not line.startswith("=", index):
        return "", _comment(line, index, "'=' or a comment after the name", place)
    start = _end(_SPACE, line, index + 1)
    quote = line[start : start + 1]
    if quote and quote in "\"'":
        closing = line.find(quote, start + 1)
        if closing < 0:
            raise place.error(start, "the quote is not closed")
        return line[start + 1 : closing], _comment(line, closing + 1, "a comment after the closing quote", place)
    if quote == "#" and start > index + 1:
        # The RFC has a comment here, as after any other value; CZMQ takes it for the value: rule 1.
        return line[start:], ""
    value, sign, comment = line[start:].partition("#")
    return value.rstrip(_BLANKS), sign + comment


def _comment(line: str, index: int, expected: str, place: _Place) -> str:
    """The rest of a line that can be nothing but a comment."""
    index = _end(_SPACE, line, index)
    if line[index : index + 1] not in ("", "#"):
        raise place.error(index, f"expected {expected}, not {_shown(line[index])}")
    return line[index:]


def _shown(char: str) -> str:
    return f"the byte {ord(char) - 0xDC00:#x}" if "\udc80" <= char <= "\udcff" else repr(char)


def _end(pattern: re.Pattern[str], line: str, start: int) -> int:
    """Where the end is of what the pattern, which also matches nothing, finds from ``start`` on."""
    match = pattern.match(line, start)
    assert match is not None
    return match.end()


@define
class _Growth:
    """The tree, as far as it has been read."""

    _open: list[Section] = Factory(lambda: [Section()])
    """The root, the last of its children, the last of that one's children, and so on."""
    _waiting: list[tuple[int, str]] = Factory(list)
    """Comments and blank lines with their levels, for which it is not known yet what they belong to."""
    _is_apart: bool = False
    """The latest lines were blank."""

    def add(self, line: _Line, place: _Place) -> None:
        if not line.name and not line.comment:
            self._is_apart = True
            return
        if self._is_apart:
            self._waiting.append((line.level, ""))
            self._is_apart = False
        if line.name:
            self._open_section(line, place)
        else:
            self._waiting.append((line.level, line.comment))

    def _open_section(self, line: _Line, place: _Place) -> None:
        if line.level >= len(self._open):
            indent, most = line.level * _INDENT, (len(self._open) - 1) * _INDENT
            raise place.error(indent, f"indented by {indent} spaces where {most} are the most")
        above = self._settled(line.level)
        root = self._open[0]
        if not root.children and "" in above:
            # What heads the file is about the file, not about its first line.
            head = len(above) - above[::-1].index("") - 1
            root.above, above = above[:head], above[head + 1 :]
        section = Section(line.name, line.value, above=above, beside=line.comment)
        del self._open[line.level + 1 :]
        self._open[-1].children.append(section)
        self._open.append(section)

    def _settled(self, level: int) -> list[str]:
        """Put comments that are indented deeper than what comes next at the end of the section where they stand.

        Returns the others, which belong to what comes next.
        """
        above: list[str] = []
        depth = len(self._open) - 1
        for indent, text in self._waiting:
            depth = min(depth, indent)
            (self._open[depth].below if depth > level else above).append(text)
        self._waiting.clear()
        return above

    def ended(self) -> Section:
        root = self._open[0]
        if root.children:
            self._settled(-1)
        else:
            root.above = self._settled(0)
        return root


# Writing


def dumps(section: Section) -> str:
    """Write ZPL; `loads` makes an equal tree of it, with the same comments.

    Bytes that were not UTF-8 are lone surrogates, for the error handler ``surrogateescape``.

    Raises:
        ValueError: If it is not a root, so that its own line would be lost, a comment does not begin with ``#``, or a
            section stands within itself.
    """
    if section.name != _ROOT or section.value or section.beside:
        raise ValueError(f"only a root can be written, whose line would have nothing to say, not {section!r}")
    lines: list[str] = []
    for line in _lines(section):
        # One blank line says as much as two, and at the beginning none is needed.
        if line or (lines and lines[-1]):
            lines.append(line)
    while lines and not lines[-1]:
        lines.pop()
    return "".join(f"{line}\n" for line in lines)


def _lines(root: Section) -> Iterator[str]:
    for comment in root.above:
        yield _checked(comment)
    yield ""
    waiting = [("", item) for item in reversed(_items(root))]
    around = [root]
    """The sections in which we are, from the root on."""
    while waiting:
        indent, item = waiting.pop()
        if isinstance(item, str):
            yield (indent + _checked(item)).rstrip(_BLANKS)
            continue
        del around[1 + len(indent) // _INDENT :]
        if any(one is item for one in around):
            raise ValueError(f"the section {item.name!r} stands within itself")
        around.append(item)
        for comment in item.above:
            yield (indent + _checked(comment)).rstrip(_BLANKS)
        yield from (indent + line for line in _entry(item))
        deeper = indent + " " * _INDENT
        waiting.extend((deeper, inner) for inner in reversed(_items(item)))


def _items(section: Section) -> list[Section | str]:
    """What stands inside: children, then comments."""
    return [*section.children, *section.below]


def _checked(comment: str) -> str:
    _check_comment(comment)
    return comment.rstrip(_BLANKS)


def _entry(section: Section) -> Iterator[str]:
    """The line of a section, or two."""
    value, comment = _spelled(section.value), section.beside.rstrip(_BLANKS)
    is_bare = not section.value and (section.children or any(section.below))
    entry = section.name if is_bare else f"{section.name} = {value}"
    if comment and value.startswith("#"):  # and goes on to the end of the line
        yield from (comment, entry)
    else:
        yield f"{entry} {comment}".rstrip(_BLANKS)


def _spelled(value: str) -> str:
    """The value as it stands in a file.

    Raises:
        ValueError: If there is no way to write it.
    """
    if not _is_one_line(value):
        raise ValueError(f"ZPL cannot hold the value {value!r}: it must be one line of text without NUL")
    for quote in "\"'":
        if quote not in value:
            return f"{quote}{value}{quote}"
    is_cut = "#" in value and not value.startswith("#")
    if value[0] in "\"'" or value.strip(_BLANKS) != value or is_cut:
        raise ValueError(f"ZPL cannot hold the value {value!r}: it has no way to escape a quote")
    return value


def dump(section: Section, path: str | os.PathLike[str]) -> None:
    """Write a file, at once or not at all.

    Whoever reads it meanwhile finds all of the old text or all of the new, also after a crash. A file that exists keeps
    its mode and, where that is allowed, its owner; a symbolic link stays, and what it points to is written.

    Raises:
        ValueError: As `dumps` does.
        OSError: If it cannot be written. The old text is still there then, and nothing else.
    """
    data = _to_bytes(dumps(section))
    try:
        old = os.open(path, os.O_WRONLY)
    except FileNotFoundError:
        _replace(path, data, None)
        return
    with open(old, "wb") as file:
        status = os.fstat(old)
        if not stat.S_ISREG(status.st_mode):
            file.write(data)  # a terminal or a pipe, say: there is no old text, and nothing to put in its place
            return
    _replace(path, data, status)


def _replace(path: str | os.PathLike[str], data: bytes, old: os.stat_result | None) -> None:
    target = os.path.realpath(path)
    # Not made of the old name: that may be as long as a name can be.
    new = os.path.join(os.path.dirname(target), f".zpl-{secrets.token_hex(8)}")
    mode = 0o666 if old is None else stat.S_IMODE(old.st_mode)
    try:
        descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    except OSError as error:
        error.filename = os.fspath(path)
        raise
    try:
        with open(descriptor, "wb") as file:
            if old is not None:
                _adopt(descriptor, old)
            file.write(data)
            file.flush()
            os.fsync(descriptor)
        os.replace(new, target)
    except BaseException:
        with suppress(FileNotFoundError):
            os.unlink(new)
        raise


def _adopt(descriptor: int, old: os.stat_result) -> None:
    """Give a new file the owner and the mode of the one in whose place it comes."""
    for owner, group in ((-1, old.st_gid), (old.st_uid, -1)):
        with suppress(OSError):  # what we may not give away stays ours
            os.fchown(descriptor, owner, group)
    os.fchmod(descriptor, stat.S_IMODE(old.st_mode))
