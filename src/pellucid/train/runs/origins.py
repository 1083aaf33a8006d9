"""What a run was begun with: its data and the model beneath it, by their content. It goes on with the same alone.

RUN/origins.json    {"data": [{"name": …, "num_bytes": …, "sha256": …}], "base": {"weights": sha256, …}}
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pellucid.base.errors import CheckpointError, ConfigError
from pellucid.base.files import content_hash, read_json, write_json

if TYPE_CHECKING:
    from pellucid.checkpoint.open import Checkpoint

FILE = "origins.json"
MOST_NAMED = 5


@dataclass(frozen=True)
class Source:
    """A file of the data."""

    name: str
    num_bytes: int
    sha256: str

    def __str__(self) -> str:
        return f"{self.num_bytes:,} bytes, sha256 {self.sha256[:12]}…"


@dataclass(frozen=True)
class Origins:
    """``base``: what else the run rests on (weights, config, tokenizer …) → a hash of its content."""

    data: tuple[Source, ...]
    base: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, sources: Sequence[Path], base: Mapping[str, str]) -> Origins:
        return cls(tuple(Source(str(path), path.stat().st_size, content_hash(path)) for path in sources), dict(base))

    def check(self, folder: Path) -> None:
        """Compare with what the folder's run was begun with, if there is one that says so.

        Raises: ConfigError naming each thing that is another one now.
        """
        before = _read(folder / FILE)
        if before is None:
            return
        if changes := before.changes(self):
            more = f"; and {len(changes) - MOST_NAMED} more" if len(changes) > MOST_NAMED else ""
            raise ConfigError(
                "the run here was begun with something else: " + "; ".join(changes[:MOST_NAMED]) + more,
                where=folder,
                remedy="bring back what it was begun with to go on, --overwrite to begin anew, or another --out",
            )

    def keep(self, folder: Path) -> None:
        write_json(folder / FILE, asdict(self))

    def changes(self, now: Origins) -> list[str]:
        """What is another one ``now``, in words."""
        ours, theirs = ({source.name: source for source in one.data} for one in (self, now))
        changes = [f"{name} is gone from the data" for name in ours if name not in theirs]
        changes += [f"{name} is new in the data" for name in theirs if name not in ours]
        changes += [
            f"{name} was {ours[name]}, and is {theirs[name]}"
            for name in ours
            if name in theirs and ours[name] != theirs[name]
        ]
        if not changes and list(ours) != list(theirs):
            changes.append("the data come in another order")
        for name in {**self.base, **now.base}:
            before, after = self.base.get(name), now.base.get(name)
            if before != after:
                words = (f"sha256 {one[:12]}…" if one else "none" for one in (before, after))
                changes.append("{} was {}, and is {}".format(name, *words))
        return changes


def base_of(checkpoint: Checkpoint) -> dict[str, str]:
    """The identity of a model that is trained further: every byte of its weights, and its description."""
    files = {path.name: content_hash(path) for path in sorted(checkpoint.files)}
    return {
        **{f"the base model's {name}": sha256 for name, sha256 in files.items()},
        "the base model's config": text_hash(repr(checkpoint.config)),
    }


def text_hash(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _read(path: Path) -> Origins | None:
    if not path.is_file():
        return None
    origins: dict[str, Any] = read_json(path)
    try:
        return Origins(tuple(Source(**source) for source in origins["data"]), dict(origins["base"]))
    except (KeyError, TypeError, ValueError):
        raise CheckpointError(
            "the file does not say what the run was begun with", where=path, remedy="remove it, or begin anew"
        ) from None
