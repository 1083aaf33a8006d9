"""``Context``: everything a forward pass needs beside the tokens, passed as an argument and never kept."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from pellucid.config import RopeConfig
from pellucid.model.cache import Cache


class Recorder(Protocol):
    """Sees each tapped value, and may answer with another to be used in its place."""

    def record(self, module: nn.Module, name: str, value: Tensor) -> Tensor: ...


# (attention's module, q (B,H,T,E), k (B,K,T,E), v (B,K,T,E), context) -> z (B,H,T,E)
Attend = Callable[[Any, Tensor, Tensor, Tensor, "Context"], Tensor]


@dataclass
class Part:
    """Tokens ``start`` to ``stop`` of a pass are one request's, and their context holds that request's cache."""

    start: int
    stop: int
    ctx: Context


@dataclass
class Context:
    """One forward pass: where its tokens stand, what they may see, who watches."""

    positions: Int[Tensor, "B T"]
    cache: Cache | None = None
    attend: Attend | None = None  # None: the fused kernel (``attend.sdpa``)
    recorder: Recorder | None = None
    key_mask: Bool[Tensor, "B S"] | None = None  # False for padding; over all keys, cached ones included
    segments: Int[Tensor, "B T"] | None = None  # of rows of several texts, which each token is in; None: a row is one
    lengths: Int[Tensor, "B T"] | None = None  # of each token's own request so far; None: the row's last position + 1
    checked: bool = False  # ids and positions were looked at on the host: nobody need wait for the device to look
    rows_invariant: bool = False  # no number depends on other rows (float32 on a CPU; see ``invariant``)
    parts: Sequence[Part] = ()  # of a batch of 1 whose tokens are several requests', end to end, and perhaps padding
    sums: list[Tensor] | None = None  # at each of T places, of what may hold a NaN that a fused kernel hides
    lent: dict[int, tuple[Tensor, Tensor, int]] = field(default_factory=dict)  # keys and values for later layers
    side: Any = None  # ``side.SideInputs`` of this pass, where the model has such
    # cos and sin of every position, (S, R), made beforehand; they are looked up
    tables: Mapping[RopeConfig, tuple[Float[Tensor, "S R"], Float[Tensor, "S R"]]] = field(default_factory=dict)
    rotations: dict[RopeConfig, tuple[Float[Tensor, "B 1 T R"], Float[Tensor, "B 1 T R"]]] = field(default_factory=dict)

    def tap(self, module: nn.Module, name: str, value: Tensor) -> Tensor:
        """Show a value to the recorder, by its tap name; without one, this is the identity."""
        return value if self.recorder is None else self.recorder.record(module, name, value)

    def by_request(self, mix: Callable[..., Tensor], *values: Tensor) -> Tensor:
        """What ``mix(ctx, *values)`` makes of each request's tokens by themselves, end to end again; padding gives
        zeros.

        The tokens are along the last axis but one, of the values and of the result.
        """
        if not self.parts:
            return mix(self, *values)
        count = values[0].shape[-2]
        if len(self.parts) == 1 and (self.parts[0].start, self.parts[0].stop) == (0, count):
            return mix(self.parts[0].ctx, *values)
        mixed: Tensor | None = None
        for part in self.parts:
            y = mix(part.ctx, *(value[..., part.start : part.stop, :] for value in values))
            if mixed is None:
                mixed = y.new_zeros(*y.shape[:-2], count, y.shape[-1])
            mixed[..., part.start : part.stop, :] = y
        assert mixed is not None
        return mixed
