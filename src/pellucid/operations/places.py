"""Where in a text values are computed, and by which angles queries and keys are turned there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from pellucid.config import RopeConfig
from pellucid.operations.numbers import Numbers, wide
from pellucid.rotary import frequencies, magnitude


@dataclass(frozen=True)
class Places:
    """Texts, and the places in them at which values are computed. Shapes: T tokens, t places, … texts or nothing."""

    token_ids: np.ndarray  # (…, T)
    positions: np.ndarray  # (…, T) the place of each token in its own text
    columns: np.ndarray  # (t,) among the T
    mask: np.ndarray | None = None  # (…, T) True for tokens, False for padding
    turned: Mapping[RopeConfig, tuple[Numbers, Numbers]] = field(default_factory=dict)  # an executor's own cos and sin

    @classmethod
    def whole(cls, token_ids: Any, positions: Any = None, mask: Any = None) -> Places:
        """Every place of a text, (T,), or of several, (B, T)."""
        ids = np.asarray(token_ids)
        places = np.arange(ids.shape[-1]) if positions is None else np.asarray(positions)
        seen = None if mask is None else np.asarray(mask, bool)
        return cls(ids, np.broadcast_to(places, ids.shape), np.arange(ids.shape[-1]), seen)

    def turns(self, rope: RopeConfig) -> tuple[Numbers, Numbers]:
        """cos and sin of each rotated pair's angle at the places, (…, t, pairs).

        Frequencies and angles are rounded to float32, as in every implementation: at far positions that rounding is
        part of the model. Where the scaling depends on a text's length, that is the length of the whole text.
        """
        if rope in self.turned:
            return self.turned[rope]
        radians = frequencies(rope, self._lengths if rope.scaling and rope.scaling.by_length else None)
        angles = self.positions[..., self.columns, None].astype(np.float32) * radians
        return np.cos(wide(angles)) * magnitude(rope), np.sin(wide(angles)) * magnitude(rope)

    @cached_property
    def _lengths(self) -> np.ndarray:
        """(…, 1) of each text."""
        return self.positions.max(-1, keepdims=True) + 1
