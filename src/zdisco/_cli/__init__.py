"""The command line, ``zdisco``; needs the extra ``cli``."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line, or say what it needs."""
    try:
        import click  # noqa: F401
        import rich  # noqa: F401
    except ModuleNotFoundError as error:
        print(f"zdisco: the command line needs {error.name}: pip install 'zdisco[cli]'", file=sys.stderr)
        raise SystemExit(2) from None
    from .commands import zdisco

    zdisco(prog_name="zdisco")
