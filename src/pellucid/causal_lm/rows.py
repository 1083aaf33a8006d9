"""``Rows``: texts that grow by a token at a time, each in a slot of the executor, for whoever wants the logits."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from pellucid.executor import StepInput
from pellucid.model.cache import Cache
from pellucid.model.decoder import Decoder
from pellucid.model.executor import TorchExecutor


class Rows:
    """The texts ``ids``, and the logits of what follows each."""

    def __init__(self, decoder: Decoder, prompts: Sequence[Sequence[int]], capacity: int) -> None:
        self.executor, self.capacity = TorchExecutor(decoder), capacity
        self.ids = [list(prompt) for prompt in prompts]
        self._slots = [self.executor.allocate(capacity) for _ in prompts]

    def first(self) -> Float[Tensor, "B V"]:
        """Logits after the prompts."""
        return self._step(self.ids)

    def embedded(self, embeds: Float[Tensor, "B T D"]) -> Float[Tensor, "B V"]:
        """Logits after prompts that are rows of embeddings."""
        pairs = zip(self._slots, embeds, strict=True)
        return torch.cat([self.executor.embedded(slot, row) for slot, row in pairs]).float()

    def after(self, cache: Cache) -> Float[Tensor, "1 V"]:
        """Logits after the one prompt, of which the cache has seen a part: all but its last token at most."""
        self.executor.adopt(self._slots[0], cache.fork(self.capacity))
        return self._step([self.ids[0][cache.length :]])

    def append(self, tokens: Sequence[int | None]) -> Float[Tensor, "B V"]:
        """One more token each; a row that has none stands still, and its logits are 0."""
        for ids, token in zip(self.ids, tokens, strict=True):
            if token is not None:
                ids.append(token)
        return self._step([[] if token is None else [token] for token in tokens])

    def become(self, parents: Sequence[int]) -> None:
        """Row i goes on as a copy of row ``parents[i]`` (beams)."""
        texts, slots, taken = self.ids, self._slots, set()
        self.ids, self._slots = [], []
        for parent in parents:
            self.ids.append(list(texts[parent]))
            if parent in taken:
                self._slots.append(self.executor.fork(slots[parent], self.capacity))
            else:
                self._slots.append(slots[parent])
            taken.add(parent)
        for parent, slot in enumerate(slots):
            if parent not in taken:
                self.executor.free(slot)

    def cache(self, row: int) -> Cache:
        """What the row's slot keeps."""
        return self.executor.cache_of(self._slots[row])

    def _step(self, new: Sequence[Sequence[int]]) -> Tensor:
        going = [i for i, ids in enumerate(new) if ids]
        inputs = [StepInput(self._slots[i], new[i], (len(new[i]) - 1,)) for i in going]
        made = self.executor.step(inputs).tensor.float()
        logits = made.new_zeros(len(new), made.shape[1])
        logits[going] = made
        return logits
