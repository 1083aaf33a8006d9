"""``Cache``: what the mixers of all layers keep of a sequence, a state a layer, each of its mixer's kind."""

from __future__ import annotations

from collections.abc import Callable
from types import NoneType
from typing import Any

import torch

from pellucid.base.errors import ContextLengthError, UnsupportedError
from pellucid.config import (
    AttentionConfig,
    DeltaNetConfig,
    LatentAttentionConfig,
    Mamba2Config,
    MambaConfig,
    ModelConfig,
    ShortConvConfig,
)
from pellucid.model.keys_values import ROLLBACK, FullCache, KeepsKeys, WindowCache, window_size
from pellucid.model.recurrent_state import RecurrentState
from pellucid.model.state import State, Stateless

__all__ = ["ROLLBACK", "STATES", "Cache", "FullCache", "WindowCache"]


def keys_and_values(config: KeepsKeys, batch: int, capacity: int, dtype: torch.dtype, device: torch.device) -> State:
    if getattr(config, "kv_from", None) is not None:
        return Stateless()
    if config.window is None:
        return FullCache(config, batch, capacity, dtype, device)
    return WindowCache(config, batch, dtype, device, capacity)


# The mixer's description → a new state for (description, batch, capacity, dtype, device). Its module: see ``mixers``.
STATES: dict[type, Callable[[Any, int, int, torch.dtype, torch.device], State]] = {
    AttentionConfig: keys_and_values,
    LatentAttentionConfig: keys_and_values,
    ShortConvConfig: RecurrentState,
    DeltaNetConfig: RecurrentState,
    MambaConfig: RecurrentState,
    Mamba2Config: RecurrentState,
    NoneType: lambda *_: Stateless(),
}


def bytes_of(config: ModelConfig, capacity: int, dtype: torch.dtype) -> int:
    """What the states of one sequence with room for ``capacity`` tokens take."""
    total = 0
    for mixer in config.mixers:
        if isinstance(mixer, AttentionConfig | LatentAttentionConfig) and mixer.window is not None:
            if getattr(mixer, "kv_from", None) is None:
                heads, key, value = mixer.kept
                total += heads * (key + value) * min(window_size(mixer.window), capacity) * dtype.itemsize
        elif mixer is not None:
            total += mixer.state_bytes(capacity, dtype.itemsize)
    return total


class Cache:
    """One sequence's (or one batch's) states of every layer. All change together or none does."""

    def __init__(
        self, config: ModelConfig, batch: int, capacity: int, dtype: torch.dtype, device: torch.device | str = "cpu"
    ) -> None:
        self.config, self.batch, self.capacity, self.dtype = config, batch, capacity, dtype
        self.device = torch.device(device)
        self.length = 0
        self.layers: list[State] = [
            STATES[type(mixer)](mixer, batch, capacity, dtype, self.device) for mixer in config.mixers
        ]

    @property
    def rollback(self) -> int | None:
        """Tokens that can be taken back at any time; None: as many as there are."""
        return min((most for state in self.layers if (most := state.rollback) is not None), default=None)

    def reserve(self, added: int) -> None:
        """Raises: ContextLengthError where ``added`` more tokens have no room."""
        if self.length + added > self.capacity:
            raise ContextLengthError(
                "the KV cache is full", expected=f"at most {self.capacity} tokens", received=self.length + added
            )

    def advance(self, added: int) -> None:
        """Every layer has appended ``added`` tokens."""
        self.length += added

    def reaches(self, length: int) -> bool:
        """Whether it can be cut back to its first ``length`` tokens, or be copied so. To none it always can."""
        return length == 0 or (length <= self.length and all(state.reaches(length) for state in self.layers))

    def truncate(self, length: int) -> None:
        """Forget all but the first ``length`` tokens.

        Raises: ContextLengthError for more than it holds, UnsupportedError where a layer's state cannot go back so far;
        nothing has changed then.
        """
        self._check(length)
        for state in self.layers:
            state.truncate(length) if length else state.clear()
        self.length = length

    def fork(self, capacity: int, length: int | None = None) -> Cache:
        """A copy with room for ``capacity`` tokens: of all that is here, or of the first ``length`` tokens. Raises: as
        ``truncate``.
        """
        copy = Cache(self.config, self.batch, capacity, self.dtype, self.device)
        copy.copy_from(self, length)
        return copy

    def copy_from(self, other: Cache, length: int | None = None) -> None:
        """Take over the first ``length`` tokens of another cache, or all; this one is new. Raises: as ``truncate``."""
        length = other.length if length is None else length
        self.reserve(length)
        other._check(length)
        if length:
            for mine, theirs in zip(self.layers, other.layers, strict=True):
                mine.copy_from(theirs, length)
        self.length = length

    def undo(self) -> None:
        """After a forward that was interrupted anywhere: what was there before it, or, where a state cannot go back to
        that, nothing.
        """
        self.truncate(self.length if self.reaches(self.length) else 0)

    def _check(self, length: int) -> None:
        if not 0 <= length <= self.length:
            raise ContextLengthError(
                "cannot go back to more than the cache holds", expected=f"0 to {self.length}", received=length
            )
        if self.reaches(length):
            return
        i, state = next((i, state) for i, state in enumerate(self.layers) if not state.reaches(length))
        layers = [*range(self.config.num_layers), *(n for n, one in enumerate(self.config.layers) if one.beside)]
        raise UnsupportedError(
            state.reason or "the state was interrupted in mid-change",
            where=f"layers.{layers[i]}",
            expected=f"a length that {self.config.mixers[i].name} still reaches",
            received=length,
            remedy="begin anew with an empty slot",
        )
