"""Executor 1: the torch decoder behind the executor protocol.

A step is one forward of batch size 1 over the new tokens of all slots, laid end to end: every linear map sees one
matrix, nothing is padded to the longest request, and only attention knows which tokens belong together (``Ragged``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pellucid.base.errors import ContextLengthError, NotFiniteError, RequestError
from pellucid.config import ModelConfig
from pellucid.executor import StepInput
from pellucid.model.attend import sdpa
from pellucid.model.attention import Attention
from pellucid.model.cache import Cache
from pellucid.model.context import Context
from pellucid.model.decoder import Decoder
from pellucid.model.invariant import padded_rows

MAX_SEARCHED = 2048  # tokens whose every value is looked at for one that is not finite: scores grow with the square


@dataclass
class TorchLogits:
    """Rows of logits on the device."""

    tensor: Tensor  # (N, V)

    def numpy(self) -> np.ndarray:
        return self.tensor.float().cpu().numpy()

    def argmax(self) -> np.ndarray:
        return self.tensor.argmax(-1).cpu().numpy()

    def peaks(self) -> np.ndarray:
        return self.tensor.amax(-1).float().cpu().numpy()


@dataclass
class Ragged:
    """Attends each request to its own cache: ``parts`` are (start, stop, context) over the tokens of the step."""

    parts: Sequence[tuple[int, int, Context]]

    def __call__(self, attention: Attention, q: Tensor, k: Tensor, v: Tensor, ctx: Context) -> Tensor:
        if len(self.parts) == 1 and self.parts[0][1] == q.shape[2]:
            return sdpa(attention, q, k, v, self.parts[0][2])
        z = torch.zeros_like(q)  # rows of padding stay zero
        for start, stop, its in self.parts:
            z[:, :, start:stop] = sdpa(attention, q[:, :, start:stop], k[:, :, start:stop], v[:, :, start:stop], its)
        return z


class TorchExecutor:
    """Runs a decoder for an engine; see ``pellucid.executor.Executor``."""

    def __init__(self, decoder: Decoder) -> None:
        self.decoder = decoder
        self._caches: dict[int, Cache] = {}
        self._next_slot = 0

    @property
    def config(self) -> ModelConfig:
        return self.decoder.config

    @property
    def generation_config(self) -> Mapping[str, Any]:
        return self.decoder.generation_config

    def allocate(self, capacity: int) -> int:
        return self._keep(Cache(self.config, 1, capacity, self.decoder.dtype, self.decoder.device))

    def fork(self, slot: int, capacity: int, length: int | None = None) -> int:
        return self._keep(self._caches[slot].fork(capacity, length))

    def _keep(self, cache: Cache) -> int:
        slot, self._next_slot = self._next_slot, self._next_slot + 1
        self._caches[slot] = cache
        return slot

    def length(self, slot: int) -> int:
        return self._caches[slot].length

    def truncate(self, slot: int, length: int) -> None:
        self._caches[slot].truncate(length)

    def free(self, slot: int) -> None:
        del self._caches[slot]

    @torch.inference_mode()
    def step(self, inputs: Sequence[StepInput]) -> TorchLogits:
        """One forward over all new tokens.

        Tokens that are to be computed ``one_by_one`` attend one by one; all else treats rows alike where
        ``rows_invariant``. Raises: RequestError for an empty step or an id out of range, ContextLengthError where a
        slot is full; both before any slot has changed.
        """
        if not inputs or any(not given.token_ids for given in inputs):
            raise RequestError("a step needs at least one token for each of its slots")
        for given in inputs:
            self._caches[given.slot].reserve(len(given.token_ids))
        device = self.decoder.device
        ids, positions, lengths, wanted, parts = [], [], [], [], []
        for given in inputs:
            cache, start, count = self._caches[given.slot], len(ids), len(given.token_ids)
            wanted += [start + i for i in given.wanted]
            ids += given.token_ids
            positions += range(cache.length, cache.length + count)
            its = Context(positions=torch.empty(0, device=device), cache=cache)
            if given.one_by_one:
                lengths += range(cache.length + 1, cache.length + count + 1)
                parts += [(row, row + 1, its) for row in range(start, start + count)]
            else:
                lengths += [cache.length + count] * count
                parts.append((start, start + count, its))
        invariant = self.rows_invariant
        padding = padded_rows(len(ids)) - len(ids) if invariant else 0  # here, once, rather than in every linear map
        ctx = Context(
            positions=torch.tensor([positions + [0] * padding], device=device),
            lengths=torch.tensor([lengths + [1] * padding], device=device),
            attend=Ragged(parts),
            rows_invariant=invariant,
        )
        try:
            hidden = self.decoder.hidden(torch.tensor([ids + [0] * padding], device=device), ctx)[0]  # (rows, D)
        except (RequestError, ContextLengthError):  # found before the first layer
            raise
        except BaseException:
            for given in inputs:
                self._caches[given.slot].undo()
            raise
        for given in inputs:
            self._caches[given.slot].advance(len(given.token_ids))
        return TorchLogits(self.decoder.logits(hidden[wanted], ctx))

    def why_not_finite(self, token_ids: Sequence[int]) -> NotFiniteError:
        from pellucid.model.finite import first_not_finite

        place = first_not_finite(self.decoder, token_ids[:MAX_SEARCHED])
        return NotFiniteError("the model's logits are not finite") if place is None else place.error()

    @property
    def splits_matter(self) -> bool:
        """In float32 on a CPU attention's rounding depends on how many queries it gets at a time; elsewhere on the
        batch, too.
        """
        return self.rows_invariant

    @property
    def rows_invariant(self) -> bool:
        """Whether a request's numbers are bit-equal alone and in any batch: in float32 on a CPU they are.

        Elsewhere (bfloat16, GPUs) the kernels are the libraries' fastest, and rows may differ in the last bits with the
        batch.
        """
        return self.decoder.dtype == torch.float32 and self.decoder.device.type == "cpu"
