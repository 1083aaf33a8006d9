"""``Lazy``: name → Array, each made when it is asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from pellucid.base.array import Array


class Lazy(Mapping[str, Array]):
    """Names, and for each a call that makes its Array: most often a view of a mapped file, which costs nothing.

    ``aliases`` are other names of what is here, → the name it is here under. ``metadata`` are texts that the files hold
    beside tensors.
    """

    def __init__(
        self,
        make: Mapping[str, Callable[[], Array]],
        aliases: Mapping[str, str] | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        self._make, self.aliases, self.metadata = make, aliases or {}, metadata or {}

    def __getitem__(self, name: str) -> Array:
        return self._make[name]()

    def __contains__(self, name: object) -> bool:
        return name in self._make  # Mapping's own would make the Array

    def __iter__(self) -> Iterator[str]:
        return iter(self._make)

    def __len__(self) -> int:
        return len(self._make)
