"""Lookup: a row of a table, by a token's id or by its place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from pellucid.operations.operation import Numbers, Operation, Places, Weight, Weights, wide


@dataclass(frozen=True, kw_only=True)
class Lookup(Operation):
    """scale · E[id]: the row of each token's id, or of its position."""

    kind = "lookup"
    reads = ("ModelConfig.vocab_size", "ModelConfig.embedding_scale", "ModelConfig.context_len")

    name: str
    rows: int
    width: int
    by: Literal["token_ids", "position_ids"] = "token_ids"
    scale: float = 1.0

    @property
    def weights(self) -> tuple[Weight, ...]:
        return (Weight(f"{self.name}.weight", (self.rows, self.width)),)

    @property
    def table(self) -> str:
        return "E" if self.by == "token_ids" else "P"

    def equation(self, result: str, *inputs: str) -> str:
        row = "w_t" if self.by == "token_ids" else "t"
        row = f"{{{row}}}" if len(row) > 1 else row
        factor = "" if self.scale == 1.0 else rf"{self.scale:.4g} \cdot "
        return f"{result}_t = {factor}{self.table}_{row}"

    def reference(self, inputs: Sequence[Numbers], weights: Weights, places: Places) -> Numbers:
        ids = places.token_ids if self.by == "token_ids" else places.positions
        return self.scale * wide(weights[self.weights[0].name][ids[..., places.columns]])
