"""The KV cache: what attention has seen, allocated once, one kind a layer."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor

from pellucid.base.errors import ContextLengthError, UnsupportedError
from pellucid.config import AttentionConfig, ModelConfig

ROLLBACK = 32  # tokens that every cache can take back: as many guesses may have been wrong


class LayerCache(Protocol):
    def append(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, int]:
        """Add (B, K, T, E); returns the keys and values to attend to, and the place in the sequence of the first of
        them.
        """
        ...

    def truncate(self, length: int) -> None: ...

    def copy_from(self, other: Any, length: int) -> None:
        """Take over the first ``length`` tokens of a cache of the same kind and window; this one is empty."""
        ...


class FullCache:
    """Every key and value, in one buffer of (B, K, capacity, E); appending writes in place and returns views."""

    def __init__(
        self, config: AttentionConfig, batch: int, capacity: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        shape = (batch, config.num_kv_heads, capacity, config.head_dim)
        self.k, self.v = torch.empty(shape, dtype=dtype, device=device), torch.empty(shape, dtype=dtype, device=device)
        self.length = 0

    def append(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, int]:
        start, self.length = self.length, self.length + k.shape[2]
        self.k[:, :, start : self.length], self.v[:, :, start : self.length] = k, v
        return self.k[:, :, : self.length], self.v[:, :, : self.length], 0

    def truncate(self, length: int) -> None:
        self.length = length

    def copy_from(self, other: FullCache, length: int) -> None:
        self.append(other.k[:, :, :length], other.v[:, :, :length])


class WindowCache:
    """The last ``window`` keys and values, and some more. The buffer holds twice the window, so that moving them to its
    front is rare.

    A query needs ``window − 1`` positions before it; what is older by ``ROLLBACK`` is dropped when room is needed. What
    attention gets follows from the window alone, not from the buffer's size or what it still holds.
    """

    def __init__(
        self, config: AttentionConfig, batch: int, dtype: torch.dtype, device: torch.device, capacity: int | None = None
    ) -> None:
        assert config.window is not None
        self.kept = config.window - 1
        size = 2 * config.window + ROLLBACK
        shape = (batch, config.num_kv_heads, size if capacity is None else min(size, capacity), config.head_dim)
        self.k, self.v = torch.empty(shape, dtype=dtype, device=device), torch.empty(shape, dtype=dtype, device=device)
        self.first = self.stop = 0  # place in the sequence of the buffer's first entry; entries in use

    def append(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, int]:
        added, most = k.shape[2], self.kept + ROLLBACK
        if self.stop + added > self.k.shape[2]:
            drop = max(self.stop - most, 0)
            self.first, self.stop = self.first + drop, self.stop - drop
            for buffer in (self.k, self.v):
                buffer[:, :, : self.stop] = buffer[:, :, drop : drop + self.stop].clone()
        start, first = self.stop, self.first
        oldest = max(start - self.kept, 0)  # nothing before it is visible to any of these queries
        if start + added > self.k.shape[2]:  # a prefill chunk longer than the buffer: attend to it whole, keep its end
            k, v = torch.cat((self.k[:, :, :start], k), 2), torch.cat((self.v[:, :, :start], v), 2)
            drop = k.shape[2] - most
            self.first, self.stop = self.first + drop, most
            self.k[:, :, :most], self.v[:, :, :most] = k[:, :, drop:], v[:, :, drop:]
            return k[:, :, oldest:], v[:, :, oldest:], first + oldest
        self.stop = start + added
        self.k[:, :, start : self.stop], self.v[:, :, start : self.stop] = k, v
        return self.k[:, :, oldest : self.stop], self.v[:, :, oldest : self.stop], first + oldest

    def truncate(self, length: int) -> None:
        self.stop = self._entries(length)

    def copy_from(self, other: WindowCache, length: int) -> None:
        self.first, self.stop = other.first, other._entries(length)
        self.k[:, :, : self.stop], self.v[:, :, : self.stop] = other.k[:, :, : self.stop], other.v[:, :, : self.stop]

    def _entries(self, length: int) -> int:
        """Entries of the buffer that belong to the first ``length`` tokens. Raises: UnsupportedError where too many of
        these are gone.
        """
        if self.first and length < self.first + self.kept:
            raise UnsupportedError(
                "a sliding-window cache has dropped what this truncation needs",
                expected=f"at least {self.first + self.kept} tokens",
            )
        return length - self.first


class Cache:
    """One sequence's (or one batch's) keys and values in every layer."""

    def __init__(
        self, config: ModelConfig, batch: int, capacity: int, dtype: torch.dtype, device: torch.device | str = "cpu"
    ) -> None:
        self.config, self.batch, self.capacity, self.dtype, self.device = (
            config,
            batch,
            capacity,
            dtype,
            torch.device(device),
        )
        self.length = 0
        self.layers: list[LayerCache] = []
        for layer in config.layers:
            if layer.mixer.window is None:
                self.layers.append(FullCache(layer.mixer, batch, capacity, dtype, self.device))
            else:
                self.layers.append(WindowCache(layer.mixer, batch, dtype, self.device, capacity))

    def reserve(self, added: int) -> None:
        """Raises: ContextLengthError where ``added`` more tokens have no room."""
        if self.length + added > self.capacity:
            raise ContextLengthError(
                "the KV cache is full", expected=f"at most {self.capacity} tokens", received=self.length + added
            )

    def advance(self, added: int) -> None:
        """Every layer has appended ``added`` tokens."""
        self.length += added

    def truncate(self, length: int) -> None:
        """Forget all but the first ``length`` tokens."""
        if not 0 <= length <= self.length:
            raise ContextLengthError(
                "cannot truncate a cache to more than it holds", expected=f"0 to {self.length}", received=length
            )
        for layer in self.layers:
            layer.truncate(length)
        self.length = length

    def fork(self, capacity: int, length: int | None = None) -> Cache:
        """A copy with room for ``capacity`` tokens: of all that is here, or of the first ``length`` tokens."""
        length = self.length if length is None else length
        copy = Cache(self.config, self.batch, capacity, self.dtype, self.device)
        copy.reserve(length)
        for mine, theirs in zip(copy.layers, self.layers, strict=True):
            mine.copy_from(theirs, length)
        copy.length = length
        return copy

    def undo(self) -> None:
        """After a forward that was interrupted between layers: what was there before it, or nothing where a window may
        have moved.
        """
        if any(isinstance(layer, WindowCache) for layer in self.layers):
            self.layers, self.length = Cache(self.config, self.batch, self.capacity, self.dtype, self.device).layers, 0
        else:
            self.truncate(self.length)
