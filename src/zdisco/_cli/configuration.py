"""``zdisco zpl``: configuration files checked, and rewritten in one form."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import click

from .. import zpl
from .lines import print_text, shown, writing

STANDARD = "-"
"""Stands for standard input, and for standard output where it is rewritten."""


def check(names: Sequence[str]) -> bool:
    """Print where and why a file is not ZPL; whether there was none of those."""
    found = [error for name in names if isinstance(error := _read(name)[1], zpl.ZPLError)]
    for error in found:
        print_text(str(error))
    return not found


def rewrite(names: Sequence[str], is_dry: bool) -> bool:
    """Rewrite each file whose form is another; when dry, print the names of those instead.

    Says what is not ZPL on standard error, and leaves it as it is.

    Returns:
        Whether every file is ZPL and, when dry, has that form already.
    """
    done = [_rewrite(name, is_dry) for name in names]
    return all(done)


def _rewrite(name: str, is_dry: bool) -> bool:
    data, section = _read(name)
    if isinstance(section, zpl.ZPLError):
        click.echo(str(section), err=True)
        return False
    formatted = zpl.dumps(section).encode("utf-8", "surrogateescape")
    if is_dry:
        if formatted != data:
            print_text(_name(name))
        return formatted == data
    if name == STANDARD:
        with writing():
            click.echo(formatted, nl=False)
    elif formatted != data:
        with _reported(name, "write"):
            zpl.dump(section, name)
    return True


def _read(name: str) -> tuple[bytes, zpl.Section | zpl.ZPLError]:
    """The bytes of a file, and what they say."""
    with _reported(name, "read"), click.open_file(name, "rb") as file:
        data = file.read()
    try:
        return data, zpl.loads(data)
    except zpl.ZPLError as error:
        return data, zpl.ZPLError(_name(name), error.line, error.column, error.reason)


def _name(name: str) -> str:
    return "<stdin>" if name == STANDARD else shown(name)


@contextmanager
def _reported(name: str, what: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise click.ClickException(f"cannot {what} {_name(name)}: {reason}") from error
