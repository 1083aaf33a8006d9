"""A card for a head: what it looks at, what that makes likelier, and how it behaves on any text.

What a head adds to the logits is its values, mixed by the pattern, times its slice of the output projection, carried to
the end with every norm's deviation held, times the output layer: so every token of the vocabulary has a share, and so
has every token that was looked at. Source: Elhage et al. 2021, "A Mathematical Framework for Transformer Circuits"
(the OV circuit); Olsson et al. 2022 (induction heads).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pellucid.base.errors import RequestError
from pellucid.explain.recompute import ModelWeights, wide
from pellucid.explain.record import Record
from pellucid.explain.run import record as run_text
from pellucid.model.decoder import Decoder
from pellucid.operations import Tap
from pellucid.operations.linear import Linear
from pellucid.operations.mix import Mix
from pellucid.operations.numbers import Numbers
from pellucid.operations.product import Product

SOURCES = 3  # tokens that are looked at most, each with what it gave

# Read twice in a row, so that a head that finds what came after the same words has something to find.
HABIT_TEXT = (
    "The old clock in the kitchen had stopped again, so Anna wound it slowly and listened. Outside, three boats came "
    "back to the harbour; the men laughed, tied the ropes and carried their baskets up the hill. 2 + 2 = 4, she wrote, "
    "and the river is never the same. Who had seen the letter? Nobody. In 1912 her mother sold the house to a doctor "
    "from Lyon, who kept bees, two dogs and a violin that he could not play."
)
HABITS: tuple[str, ...] = ("previous", "self", "first", "induction", "same")


@dataclass(frozen=True)
class Source:
    """A token that was looked at: its share of the pattern, and the tokens whose logits it raised most."""

    position: int
    share: float
    promotes: list[int]


@dataclass(frozen=True)
class HeadCard:
    """``added``: (V,) what the head adds to every logit at ``position``, with norms held as they are."""

    record: Record
    layer: int
    head: int
    position: int
    added: Tensor
    sources: list[Source]
    habits: dict[str, float]

    def promotes(self, k: int = 6) -> list[tuple[int, float]]:
        """Token and what its logit gains, the most first."""
        best = self.added.topk(min(k, len(self.added)))
        return list(zip(best.indices.tolist(), best.values.tolist(), strict=True))

    def suppresses(self, k: int = 6) -> list[tuple[int, float]]:
        best = (-self.added).topk(min(k, len(self.added)))
        return list(zip(best.indices.tolist(), (-best.values).tolist(), strict=True))

    @property
    def habit(self) -> str | None:
        """Of ``HABITS``, what most of its attention does on the bundled text; None where nothing stands out."""
        name = max(self.habits, key=lambda name: self.habits[name], default=None)
        return name if name is not None and self.habits[name] >= 0.4 else None

    def __str__(self) -> str:
        piece = self.record.piece
        at = ", ".join(
            f"{piece(self.record.tokens[0][source.position])!r} {source.share:.0%}" for source in self.sources
        )
        up, down = (", ".join(repr(piece(i)) for i, _ in some) for some in (self.promotes(), self.suppresses()))
        lines = [f"layer {self.layer} head {self.head}: looks at {at}", f"  promotes {up}", f"  suppresses {down}"]
        return "\n".join([*lines, *([f"  habit: {self.habit} token"] if self.habit else [])])

    def to_json(self) -> dict[str, Any]:
        piece = self.record.piece

        def named(some: list[tuple[int, float]]) -> list[dict[str, Any]]:
            return [{"id": i, "text": piece(i), "value": value} for i, value in some]

        return {
            "layer": self.layer,
            "head": self.head,
            "promotes": named(self.promotes()),
            "suppresses": named(self.suppresses()),
            "sources": [
                {"position": source.position, "share": source.share, "promotes": [piece(i) for i in source.promotes]}
                for source in self.sources
            ],
            "habits": self.habits,
            "habit": self.habit,
        }


@torch.no_grad()
def head_card(record: Record, layer: int, head: int, *, position: int = -1, habits: Tensor | None = None) -> HeadCard:
    """The card of one attention head, at one position of a run.

    ``habits``: what ``habits_of`` said of this model, so that it is asked once. Raises: RequestError for a layer that
    does not attend, or a head that it has not; NotRecordedError.
    """
    mix = _mix(record, layer)
    shape = record[mix.path].shape
    if not 0 <= head < shape[1]:
        raise RequestError(f"there is no head {head}", where=mix.path, expected=f"0 to {shape[1] - 1}")
    column = record.column(mix.path, position)
    place = record.positions[column]
    pattern, values = record[mix.inputs[0]][0, head, column], _values(record, mix, head)
    looked = pattern.topk(min(SOURCES, place + 1)).indices.tolist()
    parts = [wide(record[mix.path][0, head, column]), *(float(pattern[j]) * wide(values[j]) for j in looked)]
    added, *gave = _logits(record, mix, head, parts, column)
    sources = [
        Source(j, float(pattern[j]), one.topk(min(4, len(one))).indices.tolist())
        for j, one in zip(looked, gave, strict=True)
    ]
    told = habits_of(record.model, record.prompt.tokenizer) if habits is None else habits
    named: dict[str, float] = {} if told is None else dict(zip(HABITS, told[layer, head].tolist(), strict=True))
    return HeadCard(record, layer, head, place, added, sources, named)


def _mix(record: Record, layer: int) -> Tap:
    layer %= record.config.num_layers
    mix = next((tap for tap in record.taps.values() if tap.layer == layer and isinstance(tap.operation, Mix)), None)
    if mix is None:
        raise RequestError("this layer does not attend: it has no heads that look about", where=f"layers.{layer}")
    return mix


def _values(record: Record, mix: Tap, head: int) -> Tensor:
    """(S, E) the values that this head mixes."""
    values = record[mix.inputs[1]][0]
    return values[head * len(values) // record[mix.path].shape[1]]


def _logits(record: Record, mix: Tap, head: int, parts: Sequence[Numbers], column: int) -> Tensor:
    """(parts, V) what each part of a head's output adds to every logit; the table is read once."""
    last, finals = record.tap("logits").inputs[0], []
    for part in parts:
        whole = np.zeros((record[mix.path].shape[1], len(part)))
        whole[head] = part
        finals.append(carried(record, mix.path, whole, column)[last])
    operation = record.tap("logits").operation
    assert isinstance(operation, Linear)
    table = record.weight(operation.weights[0].name)
    vectors = torch.from_numpy(np.stack(finals)).to(table.device, torch.float32)
    return operation.scale * (vectors @ table.float().T).cpu()


def carried(record: Record, path: str, part: Numbers, column: int) -> dict[str, Numbers]:
    """A part of a step's value at one position, carried through everything that a contribution passes, to the end."""
    weights, on_the_way = ModelWeights(record.model), _ways(record)

    def at(source: str) -> Numbers:
        return wide(record[source][0].select(record.tap(source).axes.index("position") - 1, column))

    values, begun = {path: part}, False
    for name, tap in record.taps.items():
        begun = begun or name == path
        if not begun or name not in on_the_way or name in (path, "logits"):
            continue
        for i, source in enumerate(tap.inputs):
            if source in values and i in on_the_way[name]:
                made = tap.operation.forth(values[source], i, [at(one) for one in tap.inputs], weights)
                values[name] = values[name] + made if name in values else made
    return values


def _ways(record: Record) -> dict[str, tuple[int, ...]]:
    """The steps that contributions pass on their way to the logits, with the inputs that they come in by."""
    ways: dict[str, tuple[int, ...]] = {}
    reached = {"logits"}
    for path, tap in reversed(record.taps.items()):
        if path in reached and tap.operation.part is None:
            ways[path] = (1,) if isinstance(tap.operation, Product) else tuple(range(len(tap.inputs)))
            reached |= {tap.inputs[i] for i in ways[path]}
    return ways


@torch.no_grad()
def habits_of(model: Decoder, tokenizer: Any) -> Tensor | None:
    """(L, H, 5) how much of each head's attention, on a bundled text read twice, goes to the previous token, to the
    token itself, to the first one, to what came after the same token before, and to the same token before. Zeros in
    layers that do not attend; None without a tokenizer.
    """
    if tokenizer is None:
        return None
    ids = tokenizer(HABIT_TEXT, add_special_tokens=False)["input_ids"]
    start = tokenizer("")["input_ids"][:1]
    ids = [*start, *ids[:160], *ids[:160]][: min(256, model.config.context_len)]
    told = run_text(model, None, ids, steps=["pattern"])
    patterns = {tap.layer: told[path][0].float().cpu() for path, tap in told.taps.items() if path in told}
    tokens = torch.tensor(ids)
    masks = _masks(tokens)
    wide_heads = max((len(pattern) for pattern in patterns.values()), default=1)
    table = torch.zeros(model.config.num_layers, wide_heads, len(HABITS))
    for layer, pattern in patterns.items():
        for i, (mask, queries) in enumerate(masks):
            if queries.any() and layer is not None:
                table[layer, : len(pattern), i] = (pattern * mask)[:, queries].sum(-1).mean(-1)
    return table


def _masks(tokens: Tensor) -> list[tuple[Tensor, Tensor]]:
    """For each habit: which keys count for which query, (T, T), and which queries could have it, (T,)."""
    count = len(tokens)
    i, j = torch.arange(count)[:, None], torch.arange(count)[None, :]
    same = (tokens[:, None] == tokens[None, :]) & (j < i)
    after_same = torch.zeros_like(same)
    after_same[:, 1:] = same[:, :-1]  # the key after one that is this token
    after_same &= (j < i) & (j > 0)
    some = torch.arange(count) > 1
    return [
        ((j == i - 1).float(), some),
        ((j == i).float(), some),
        ((j == 0).float().expand(count, count), some),
        (after_same.float(), after_same.any(1) & some),
        (same.float(), same.any(1) & some),
    ]
