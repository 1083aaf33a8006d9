"""Attention's state: the keys and values of the tokens seen, all of them or a window's, in buffers allocated once."""

from __future__ import annotations

import torch
from torch import Tensor

from pellucid.config import AttentionConfig, LatentAttentionConfig

KeepsKeys = AttentionConfig | LatentAttentionConfig
ROLLBACK = 32  # tokens that a window can take back at any time: as many guesses may have been wrong


class FullCache:
    """Every key and value, in one buffer of (B, K, capacity, E); appending writes in place and returns views."""

    rollback = None
    reason = ""

    def __init__(self, config: KeepsKeys, batch: int, capacity: int, dtype: torch.dtype, device: torch.device) -> None:
        heads, *widths = config.kept
        self.k, self.v = (torch.empty(batch, heads, capacity, n, dtype=dtype, device=device) for n in widths)
        self.length = 0

    def append(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, int]:
        """Add (B, K, T, E); returns the keys and values to attend to, and the first one's place in the sequence."""
        start, self.length = self.length, self.length + k.shape[2]
        self.k[:, :, start : self.length], self.v[:, :, start : self.length] = k, v
        return self.k[:, :, : self.length], self.v[:, :, : self.length], 0

    def reaches(self, length: int) -> bool:
        return 0 <= length <= self.length

    def truncate(self, length: int) -> None:
        self.length = length

    def clear(self) -> None:
        self.length = 0

    def copy_from(self, other: FullCache, length: int) -> None:
        self.append(other.k[:, :, :length], other.v[:, :, :length])


def window_size(window: int) -> int:
    """Positions that the buffer of such a window holds."""
    return 2 * window + ROLLBACK


class WindowCache:
    """The last ``window`` keys and values, and some more. The buffer holds twice the window, so that moving them to its
    front is rare.

    A query needs ``window − 1`` positions before it; what is older by ``ROLLBACK`` is dropped when room is needed. What
    attention gets follows from the window alone, not from the buffer's size or what it still holds.
    """

    rollback = ROLLBACK
    reason = "a sliding-window cache has dropped what this needs"

    def __init__(
        self, config: KeepsKeys, batch: int, dtype: torch.dtype, device: torch.device, capacity: int | None = None
    ) -> None:
        assert config.window is not None
        self.kept = config.window - 1
        size = window_size(config.window)
        (heads, *widths), held = config.kept, size if capacity is None else min(size, capacity)
        self.k, self.v = (torch.empty(batch, heads, held, n, dtype=dtype, device=device) for n in widths)
        self.first = self.stop = 0  # place in the sequence of the buffer's first entry; entries in use
        self._moving = False  # an interruption may have left some entries moved and others not

    @property
    def length(self) -> int:
        return self.first + self.stop

    def append(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, int]:
        """Add (B, K, T, E); returns the keys and values to attend to, and the first one's place in the sequence."""
        added, most = k.shape[2], self.kept + ROLLBACK
        if self.stop + added > self.k.shape[2]:
            drop = max(self.stop - most, 0)
            self._moving = True
            for buffer in (self.k, self.v):
                buffer[:, :, : self.stop - drop] = buffer[:, :, drop : self.stop].clone()
            self.first, self.stop = self.first + drop, self.stop - drop
            self._moving = False
        start, first = self.stop, self.first
        oldest = max(start - self.kept, 0)  # nothing before it is visible to any of these queries
        if start + added > self.k.shape[2]:  # a prefill chunk longer than the buffer: attend to it whole, keep its end
            k, v = torch.cat((self.k[:, :, :start], k), 2), torch.cat((self.v[:, :, :start], v), 2)
            drop = k.shape[2] - most
            self._moving = True
            self.k[:, :, :most], self.v[:, :, :most] = k[:, :, drop:], v[:, :, drop:]
            self.first, self.stop = self.first + drop, most
            self._moving = False
            return k[:, :, oldest:], v[:, :, oldest:], first + oldest
        self.stop = start + added
        self.k[:, :, start : self.stop], self.v[:, :, start : self.stop] = k, v
        return self.k[:, :, oldest : self.stop], self.v[:, :, oldest : self.stop], first + oldest

    def reaches(self, length: int) -> bool:
        oldest = (
            self.first + self.kept if self.first else 0
        )  # a query at ``length`` needs what the window holds before it
        return not self._moving and oldest <= length <= self.length

    def truncate(self, length: int) -> None:
        self.stop = length - self.first

    def clear(self) -> None:
        self.first, self.stop, self._moving = 0, 0, False

    def copy_from(self, other: WindowCache, length: int) -> None:
        self.first, self.stop = other.first, length - other.first
        self.k[:, :, : self.stop], self.v[:, :, : self.stop] = other.k[:, :, : self.stop], other.v[:, :, : self.stop]
