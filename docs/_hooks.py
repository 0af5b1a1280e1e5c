"""What mkdocs does to a page when it has been rendered: see ``hooks`` in ``mkdocs.yml``."""

from __future__ import annotations

from typing import Any

REPLACED = {
    # Before a block of code, in docstrings that ``help`` shows too.
    "<p>::</p>\n": "",
    # Written so that the in-memory network need not import the class that uses it.
    "_HasEndpoint": "Peer",
}


def on_page_content(html: str, **_: Any) -> str:
    """The page, without what only the source needs."""
    for inner, outer in REPLACED.items():
        html = html.replace(inner, outer)
    return html
