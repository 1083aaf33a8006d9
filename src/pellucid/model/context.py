"""``Context``: everything a forward pass needs beside the tokens, passed as an argument and never kept."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from pellucid.config import RopeConfig
from pellucid.model.attend import sdpa

if TYPE_CHECKING:
    from pellucid.model.attention import Attention
    from pellucid.model.cache import Cache


class Recorder(Protocol):
    """Sees each tapped value, and may answer with another to be used in its place."""

    def record(self, module: nn.Module, name: str, value: Tensor) -> Tensor: ...


# (attention, q (B,H,T,E), k (B,K,T,E), v (B,K,T,E), context) -> z (B,H,T,E)
Attend = Callable[["Attention", Tensor, Tensor, Tensor, "Context"], Tensor]


@dataclass
class Context:
    """One forward pass: where its tokens stand, what they may see, who watches."""

    positions: Int[Tensor, "B T"]
    cache: Cache | None = None
    attend: Attend = sdpa
    recorder: Recorder | None = None
    key_mask: Bool[Tensor, "B S"] | None = None  # False for padding; over all keys, cached ones included
    lengths: Int[Tensor, "B T"] | None = (
        None  # tokens of each token's own request so far; None: the row's last position + 1
    )
    rows_invariant: bool = (
        False  # a row's numbers must not depend on the rows beside it (float32 on a CPU; see model/invariant.py)
    )
    rotations: dict[RopeConfig, tuple[Float[Tensor, "B 1 T R"], Float[Tensor, "B 1 T R"]]] = field(default_factory=dict)

    def tap(self, module: nn.Module, name: str, value: Tensor) -> Tensor:
        """Show a value to the recorder, by its tap name; without one, this is the identity."""
        return value if self.recorder is None else self.recorder.record(module, name, value)
