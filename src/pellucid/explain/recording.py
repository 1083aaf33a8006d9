"""``Recording``: the recorder that keeps a forward pass's values under their paths, and lets edits replace them on the
way.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from torch import Tensor, nn

from pellucid.explain.edits import Edit
from pellucid.model.decoder import Decoder


class Recording:
    """A ``Recorder``: ``values`` maps paths (``layers.3.pattern``) to what was computed, in order of computation.

    ``select`` chooses the paths to keep (None: all). ``narrow`` maps a path and its value to the part that is kept.
    Edits run whether or not their tap is kept, and what is kept is the edited value, the one that the rest of the pass
    sees.
    """

    def __init__(
        self,
        decoder: Decoder,
        select: Callable[[str], bool] | None = None,
        *,
        narrow: Callable[[str, Tensor], Tensor] | None = None,
        edits: Sequence[Edit] = (),
    ) -> None:
        self.values: dict[str, Tensor] = {}
        self.edited: list[str] = []
        self._select, self._narrow = select, narrow
        self._prefixes = {module: _prefix(name) for name, module in decoder.named_modules()}
        self._edits: Mapping[str, list[Edit]] = {edit.path: [e for e in edits if e.path == edit.path] for edit in edits}

    def record(self, module: nn.Module, name: str, value: Tensor) -> Tensor:
        path = self._prefixes[module] + name
        for edit in self._edits.get(path, ()):
            value = edit.apply(value, path)
            self.edited.append(path)
        if self._select is None or self._select(path):
            self.values[path] = value.detach() if self._narrow is None else self._narrow(path, value.detach())
        return value


def _prefix(module: str) -> str:
    """``layers.3.attention`` → ``layers.3.``; the decoder itself → nothing."""
    parts = module.split(".")
    return ".".join(parts[:2]) + "." if parts[0] == "layers" and len(parts) > 1 else ""
