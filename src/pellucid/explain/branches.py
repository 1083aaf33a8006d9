"""Many edited runs for little more than one: each shares the plain run up to the layer of its edit.

The batch begins with the plain run alone. Before each layer a copy of its row is added for every edit of that layer,
edited on the way through it, and carried on beside all others; each layer's weights are read once. So a run that
differs from layer 26 on costs four layers of thirty.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pellucid.base.errors import RequestError
from pellucid.explain.edits import Edit
from pellucid.explain.record import Record, UnknownStepError
from pellucid.model.attend import explicit
from pellucid.model.context import Context

TOKENS = 8192  # in the batch at a time, where nothing else is said


@dataclass(frozen=True)
class Branches:
    """``plain``: (V,) logits of the run as it is; ``edited``: (N, V), of one run for each edit, in their order."""

    plain: Tensor
    edited: Tensor


@torch.no_grad()
def branches(record: Record, edits: Sequence[Edit], *, position: int = -1) -> Branches:
    """The logits at one position of a run's first text, as it was run and once more for each edit alone.

    Edits that the run itself was made with are in all of them. Tokens after the position are left out: nothing before
    them sees them. Every edit must be of a step in a layer.

    Raises: RequestError for an edit elsewhere; UnknownStepError.
    """
    model = record.model
    growing = _Growing(record, edits, position)
    was_training = model.training
    model.eval()
    try:
        hidden = model.hidden(growing.token_ids, growing.ctx)[:, -1]  # (1 + N, D)
        logits = model.logits(hidden, Context(growing.ctx.positions)).float()
    finally:
        model.train(was_training)
    order = torch.tensor(growing.order, device=logits.device, dtype=torch.long)
    edited = torch.empty_like(logits[1:])
    edited[order] = logits[1:]
    return Branches(logits[0], edited)


def groups(sizes: Sequence[int], length: int, most: int = TOKENS, least: int = 1) -> Iterator[range]:
    """Layers whose edits (``sizes``: how many in each) are run as one batch of at most ``most`` tokens, the last layers
    first: they have the shortest way, so the first answers come soonest. At least ``least`` groups, if there are so
    many layers.
    """
    longest, stop = max(1, -(-len(sizes) // least)), len(sizes)
    while stop > 0:
        start = stop - 1
        while start > 0 and stop - start < longest and sum(sizes[start - 1 : stop]) * length <= most:
            start -= 1
        yield range(start, stop)
        stop = start


class _Growing:
    """The recorder of such a pass: it makes the batch grow where a layer begins, and edits rows of their own."""

    def __init__(self, record: Record, edits: Sequence[Edit], position: int) -> None:
        model, prompt, taps = record.model, record.prompt, record.taps
        for edit in edits:
            if edit.path not in taps:
                raise UnknownStepError(edit.path, model.config)
            if taps[edit.path].layer is None:
                raise RequestError("only steps of layers can be edited side by side", where=edit.path)
        length = int(prompt.mask[0].sum())
        if not -length <= position < length:
            raise RequestError("there is no such position", expected=f"{-length} to {length - 1}", received=position)
        seen = prompt.mask[0].nonzero()[: position % length + 1, 0]
        self.token_ids = prompt.token_ids[:1, seen]  # (1, T)
        self.ctx = Context(prompt.position_ids[:1, seen], recorder=self)
        self.order = sorted(range(len(edits)), key=lambda i: taps[edits[i].path].layer or 0)
        self._layers: dict[nn.Module, int] = {layer: i for i, layer in enumerate(model.layers)}
        self._prefixes = {module: f"layers.{i}." for i, layer in enumerate(model.layers) for module in layer.modules()}
        self._common: dict[str, list[Edit]] = {}
        for edit in record.edits:
            if isinstance(edit, Edit):
                if taps[edit.path].inside_the_kernel:
                    self.ctx.attend = explicit
                self._common.setdefault(edit.path, []).append(edit)
        if any(taps[edit.path].inside_the_kernel for edit in edits):
            self.ctx.attend = explicit
        self._new: dict[int, int] = {}
        self._rows: dict[str, list[tuple[int, Edit]]] = {}
        for row, i in enumerate(self.order, 1):
            path = edits[i].path
            self._rows.setdefault(path, []).append((row, edits[i]))
            layer = taps[path].layer or 0
            self._new[layer] = self._new.get(layer, 0) + 1

    def record(self, module: nn.Module, name: str, value: Tensor) -> Tensor:
        if module not in self._prefixes:
            for edit in self._common.get(name, ()):
                value = edit.apply(value, name)
            return value
        if name == "resid_pre" and module in self._layers:
            value = self._grown(value, self._new.get(self._layers[module], 0))
        path = self._prefixes[module] + name
        for edit in self._common.get(path, ()):
            value = edit.apply(value, path)
        if path in self._rows:
            value = value.clone()
            for row, edit in self._rows[path]:
                value[row : row + 1] = edit.apply(value[row : row + 1], path)
        return value

    def _grown(self, value: Tensor, count: int) -> Tensor:
        """With so many more copies of the plain run's row, and of the keys and values that later layers borrow."""
        if not count:
            return value

        def with_copies(rows: Tensor) -> Tensor:
            return torch.cat((rows, rows[:1].expand(count, *rows.shape[1:])))

        for lender, (k, v, first) in self.ctx.lent.items():
            self.ctx.lent[lender] = with_copies(k), with_copies(v), first
        return with_copies(value)
