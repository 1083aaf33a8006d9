"""The KV cache: what attention has seen, allocated once, one kind a layer."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor

from pellucid.base.errors import ContextLengthError, UnsupportedError
from pellucid.config import AttentionConfig, ModelConfig


class LayerCache(Protocol):
    def append(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, int]:
        """Add (B, K, T, E); returns the keys and values to attend to, and the place in the sequence of the first of them."""
        ...

    def truncate(self, length: int) -> None: ...

    def copy_from(self, other: Any) -> None:
        """Take over what an empty cache's twin of the same kind and window holds."""
        ...


class FullCache:
    """Every key and value, in one buffer of (B, K, capacity, E); appending writes in place and returns views."""

    def __init__(self, config: AttentionConfig, batch: int, capacity: int, dtype: torch.dtype, device: torch.device) -> None:
        shape = (batch, config.num_kv_heads, capacity, config.head_dim)
        self.k, self.v = torch.empty(shape, dtype=dtype, device=device), torch.empty(shape, dtype=dtype, device=device)
        self.length = 0

    def append(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, int]:
        start, self.length = self.length, self.length + k.shape[2]
        self.k[:, :, start : self.length], self.v[:, :, start : self.length] = k, v
        return self.k[:, :, : self.length], self.v[:, :, : self.length], 0

    def truncate(self, length: int) -> None:
        self.length = length

    def copy_from(self, other: FullCache) -> None:
        self.append(other.k[:, :, : other.length], other.v[:, :, : other.length])


class WindowCache:
    """The last ``window`` keys and values. The buffer holds twice that, so that moving them to its front is rare.

    A query needs ``window − 1`` positions before it; anything older is dropped when room is needed.
    """

    def __init__(self, config: AttentionConfig, batch: int, dtype: torch.dtype, device: torch.device) -> None:
        assert config.window is not None
        self.kept = config.window - 1
        shape = (batch, config.num_kv_heads, 2 * config.window, config.head_dim)
        self.k, self.v = torch.empty(shape, dtype=dtype, device=device), torch.empty(shape, dtype=dtype, device=device)
        self.first = self.stop = 0  # place in the sequence of the buffer's first entry; entries in use

    def append(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, int]:
        added = k.shape[2]
        if self.stop + added > self.k.shape[2]:
            drop = max(self.stop - self.kept, 0)
            self.first, self.stop = self.first + drop, self.stop - drop
            for buffer in (self.k, self.v):
                buffer[:, :, : self.stop] = buffer[:, :, drop : drop + self.stop].clone()
        first = self.first
        if self.stop + added > self.k.shape[2]:  # a prefill chunk longer than the buffer: attend to it whole, keep its end
            k, v = torch.cat((self.k[:, :, : self.stop], k), 2), torch.cat((self.v[:, :, : self.stop], v), 2)
            drop = k.shape[2] - self.kept
            self.first, self.stop = self.first + drop, self.kept
            self.k[:, :, : self.stop], self.v[:, :, : self.stop] = k[:, :, drop:], v[:, :, drop:]
            return k, v, first
        start, self.stop = self.stop, self.stop + added
        self.k[:, :, start : self.stop], self.v[:, :, start : self.stop] = k, v
        oldest = max(start - self.kept, 0)  # nothing before it is visible to any of these queries
        return self.k[:, :, oldest : self.stop], self.v[:, :, oldest : self.stop], first + oldest

    def truncate(self, length: int) -> None:
        if self.first and length < self.first + self.kept:
            raise UnsupportedError(
                "a sliding-window cache has dropped what this truncation needs", expected=f"at least {self.first + self.kept} tokens"
            )
        self.stop = length - self.first

    def copy_from(self, other: WindowCache) -> None:
        self.first, self.stop = other.first, other.stop
        self.k[:, :, : self.stop], self.v[:, :, : self.stop] = other.k[:, :, : other.stop], other.v[:, :, : other.stop]


class Cache:
    """One sequence's (or one batch's) keys and values in every layer."""

    def __init__(self, config: ModelConfig, batch: int, capacity: int, dtype: torch.dtype, device: torch.device | str = "cpu") -> None:
        self.config, self.batch, self.capacity, self.dtype, self.device = config, batch, capacity, dtype, torch.device(device)
        self.length = 0
        self.layers: list[LayerCache] = []
        for layer in config.layers:
            window = layer.attention.window
            if window is not None and 2 * window < capacity:
                self.layers.append(WindowCache(layer.attention, batch, dtype, self.device))
            else:
                self.layers.append(FullCache(layer.attention, batch, capacity, dtype, self.device))

    def reserve(self, added: int) -> None:
        """Raises: ContextLengthError where ``added`` more tokens have no room."""
        if self.length + added > self.capacity:
            raise ContextLengthError("the KV cache is full", expected=f"at most {self.capacity} tokens", received=self.length + added)

    def advance(self, added: int) -> None:
        """Every layer has appended ``added`` tokens."""
        self.length += added

    def truncate(self, length: int) -> None:
        """Forget all but the first ``length`` tokens."""
        if not 0 <= length <= self.length:
            raise ContextLengthError("cannot truncate a cache to more than it holds", expected=f"0 to {self.length}", received=length)
        for layer in self.layers:
            layer.truncate(length)
        self.length = length

    def fork(self, capacity: int) -> Cache:
        """A copy with room for ``capacity`` tokens."""
        copy = Cache(self.config, self.batch, capacity, self.dtype, self.device)
        copy.reserve(self.length)
        for mine, theirs in zip(copy.layers, self.layers, strict=True):
            mine.copy_from(theirs)
        copy.length = self.length
        return copy
