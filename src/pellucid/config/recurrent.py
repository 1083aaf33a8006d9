"""What mixers have in common whose state is a few arrays, however many tokens there were."""

from __future__ import annotations

import math
from typing import ClassVar, Self


class Recurrent:
    """A mixer that keeps ``state_shapes`` of each sequence; those named in ``wide_state`` in float32 at least, the
    others in the model's dtype.
    """

    wide_state: ClassVar[tuple[str, ...]] = ()

    @property
    def state_shapes(self) -> dict[str, tuple[int, ...]]:
        """Name → shape of what is kept of one sequence."""
        raise NotImplementedError

    def resized(self, d_model: int, num_heads: int, head_dim: int) -> Self:
        """The same mixer for a model of this width, whose attention has such heads."""
        raise NotImplementedError

    def state_bytes(self, num_tokens: int, size: int) -> int:
        """What a sequence leaves for its next token, in numbers of ``size`` bytes."""
        return sum(
            math.prod(shape) * (max(size, 4) if name in self.wide_state else size)
            for name, shape in self.state_shapes.items()
        )


def conv_shapes(name: str, channels: int, width: int, bias: bool) -> dict[str, tuple[int, ...]]:
    """A convolution of each channel by itself: a weight for each of its last ``width`` places, the oldest first."""
    return {f"{name}.weight": (channels, width)} | ({f"{name}.bias": (channels,)} if bias else {})
