"""A recurrent mixer's state: a few arrays that stand for all tokens seen, however many there are."""

from __future__ import annotations

import torch
from torch import Tensor

from pellucid.config.recurrent import Recurrent


class RecurrentState:
    """Named arrays, zero before the first token; each step puts new ones in their place.

    No token can be taken out of them. What was there before the last step is kept beside, so that a step that was
    interrupted, or one that is not wanted after all, leaves all as it was.
    """

    rollback = 0
    reason = "a recurrent state is a sum over all tokens and holds none of them"

    def __init__(self, config: Recurrent, batch: int, capacity: int, dtype: torch.dtype, device: torch.device) -> None:
        self.config, self.batch, self.dtype, self.device = config, batch, dtype, device
        self.clear()

    def __getitem__(self, name: str) -> Tensor:
        if name not in self._arrays:
            wide = name in self.config.wide_state
            dtype = torch.promote_types(self.dtype, torch.float32) if wide else self.dtype
            shape = (self.batch, *self.config.state_shapes[name])
            self._arrays[name] = torch.zeros(shape, dtype=dtype, device=self.device)
        return self._arrays[name]

    def step(self, added: int, **arrays: Tensor) -> None:
        """The state after ``added`` more tokens. The arrays are its own from now on: nobody else changes them."""
        self._before = (self.length, self._arrays)
        self._arrays = self._arrays | arrays
        self.length += added

    def reaches(self, length: int) -> bool:
        return length in (self.length, self._before[0])

    def truncate(self, length: int) -> None:
        if length != self.length:
            self.length, self._arrays = self._before

    def clear(self) -> None:
        self.length, self._arrays = 0, {}
        self._before: tuple[int, dict[str, Tensor]] = (0, {})

    def copy_from(self, other: RecurrentState, length: int) -> None:
        self.length, self._arrays = (other.length, other._arrays) if length == other.length else other._before
        self._arrays = dict(self._arrays)
        self._before = (self.length, self._arrays)
