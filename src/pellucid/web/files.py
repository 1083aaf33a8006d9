"""A page's own files, by exact name: what is not in its folder with a page's ending is not there."""

from __future__ import annotations

from importlib.resources.abc import Traversable

TYPES = {".js": "text/javascript", ".css": "text/css", ".html": "text/html"}


def files_of(folder: Traversable) -> dict[str, bytes]:
    """Name within the page → content, of the folder and of those in it."""
    pages: dict[str, bytes] = {}
    for entry in folder.iterdir():
        inner = (
            [(entry, entry.name)]
            if entry.is_file()
            else [(file, f"{entry.name}/{file.name}") for file in entry.iterdir()]
        )
        pages |= {name: file.read_bytes() for file, name in inner if name.endswith(tuple(TYPES))}
    return pages


def content_type(name: str) -> str:
    return f"{TYPES[name[name.rindex('.') :]]}; charset=utf-8"
