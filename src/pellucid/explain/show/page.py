"""The files that the page is made of."""

from __future__ import annotations

from importlib.resources import files

from pellucid.web.files import files_of

PAGE = files("pellucid.explain") / "page"


def page_files() -> dict[str, bytes]:
    """The page's own files by their path in it."""
    return files_of(PAGE)
