"""Lookup: a row of a table, by a token's id or by its place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from pellucid.operations.cell import Look, Operands, Sum, Term, factor
from pellucid.operations.numbers import Numbers, Weights, wide
from pellucid.operations.operation import Line, Operation, Sentence, Weight
from pellucid.operations.places import Places


@dataclass(frozen=True, kw_only=True)
class Lookup(Operation):
    """scale · E[id]: the row of each token's id, or of its position."""

    kind = "lookup"
    holds = Sentence("the row is the table's", "取出的就是表中那一行")
    reads = ("ModelConfig.vocab_size", "ModelConfig.embedding_scale", "ModelConfig.context_len")

    name: str
    rows: int
    width: int
    by: Literal["token_ids", "position_ids"] = "token_ids"
    scale: float = 1.0

    @property
    def part(self) -> str:  # type: ignore[override]
        return "embed" if self.by == "token_ids" else "position"

    @property
    def stage(self) -> tuple[str, str]:  # type: ignore[override]
        return "forward.c.in", "read_row(" if self.by == "token_ids" else "numbers(m, POS_EMBED)"

    @property
    def weights(self) -> tuple[Weight, ...]:
        return (Weight(f"{self.name}.weight", (self.rows, self.width)),)

    @property
    def table(self) -> str:
        return "E" if self.by == "token_ids" else "P"

    @property
    def times(self) -> str:
        """The scale, as a factor in LaTeX."""
        return "" if self.scale == 1.0 else rf"{self.scale:.4g} \cdot "

    def equation(self, result: str, *inputs: str) -> str:
        row = "{w_t}" if self.by == "token_ids" else "t"
        return f"{result}_t = {self.times}{self.table}_{row}"

    def line(self, name: str) -> Line:
        if name == "side_embed":
            return Line("model.decoder", "Decoder._side", "self.side_embed(")
        return Line("model.decoder", "Decoder.hidden", "self.embed(" if self.by == "token_ids" else f'"{name}"')

    def reference(self, inputs: Sequence[Numbers], weights: Weights, places: Places) -> Numbers:
        ids = places.token_ids if self.by == "token_ids" else places.positions
        return self.scale * wide(weights[self.weights[0].name][ids[..., places.columns]])

    def cell(self, look: Look) -> Operands:
        token, dimension = look.token(self.by), look.at[-1]
        row = int(token.value)
        cell = look.weight(self.weights[0].name, (row, dimension))
        return look.operands(
            recomputed=cell.value * self.scale,
            of=Sum((Term(cell.value * self.scale, (cell,)),)),
            leads=(token,),
            parts={} if self.scale == 1.0 else {"scale": self.scale},
            latex=rf"{self.times}{self.table}_{{{row},{dimension}}} = {self.times}{factor(cell.value)}",
        )
