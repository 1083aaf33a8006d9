"""Executor 1: the torch decoder behind the executor protocol.

A step is one forward of batch size 1 over the new tokens of all slots, laid end to end: every linear map sees one
matrix, nothing is padded to the longest request, and only mixers know which tokens belong together (``Context.parts``).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pellucid.base.errors import ContextLengthError, NotFiniteError, RequestError
from pellucid.base.memory import available_memory
from pellucid.config import ModelConfig
from pellucid.executor import OneAtATime, StepInput, check_step
from pellucid.model.cache import Cache, bytes_of
from pellucid.model.context import Context, Part
from pellucid.model.decoder import Decoder
from pellucid.model.finite import first_not_finite
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


class TorchExecutor:
    """Runs a decoder for an engine; see ``pellucid.executor.Executor``."""

    def __init__(self, decoder: Decoder) -> None:
        self.decoder = decoder
        self._caches: dict[int, Cache] = {}
        self._next_slot = 0
        self._busy = OneAtATime()
        self._hidden: dict[int, Tensor] = {}  # slot → 0 or NaN, found in a step that wanted no logits: see _revealed
        self._rollback = Cache(decoder.config, 1, 1, decoder.dtype, "meta").rollback

    @property
    def config(self) -> ModelConfig:
        return self.decoder.config

    @property
    def generation_config(self) -> Mapping[str, Any]:
        return self.decoder.generation_config

    @property
    def slots(self) -> Collection[int]:
        return self._caches.keys()

    def allocate(self, capacity: int) -> int:
        with self._busy:
            return self._keep(Cache(self.config, 1, capacity, self.decoder.dtype, self.decoder.device))

    def fork(self, slot: int, capacity: int, length: int | None = None) -> int:
        with self._busy:
            return self._keep(self._caches[slot].fork(capacity, length))

    def _keep(self, cache: Cache) -> int:
        slot, self._next_slot = self._next_slot, self._next_slot + 1
        self._caches[slot] = cache
        return slot

    def adopt(self, slot: int, cache: Cache) -> None:
        """The slot holds this cache from now on."""
        self._caches[slot] = cache

    def cache_of(self, slot: int) -> Cache:
        return self._caches[slot]

    @torch.inference_mode()
    def embedded(self, slot: int, embeds: Tensor) -> Tensor:
        """The last position's logits, (1, V), of a slot's first tokens, that are rows of embeddings (T, D)."""
        positions = torch.arange(len(embeds), device=self.decoder.device)[None]
        ctx = Context(positions, self._caches[slot], rows_invariant=self.rows_invariant)
        hidden = self.decoder.hidden(embeds[None].to(self.decoder.dtype), ctx)
        return self.decoder.logits(hidden[0, -1:], ctx)

    def bytes_of(self, capacity: int) -> int:
        return bytes_of(self.config, capacity, self.decoder.dtype)

    @property
    def free_bytes(self) -> int:
        """Of the device; the weights are there already."""
        device = self.decoder.device
        if device.type == "cuda":
            torch.cuda.empty_cache()
            return torch.cuda.mem_get_info(device)[0]
        if device.type == "mps":
            return max(torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory(), 0)
        return available_memory()

    def length(self, slot: int) -> int:
        return self._caches[slot].length

    def truncate(self, slot: int, length: int) -> None:
        with self._busy:
            self._caches[slot].truncate(length)

    @property
    def rollback(self) -> int | None:
        return self._rollback

    def reaches(self, slot: int, length: int) -> bool:
        return self._caches[slot].reaches(length)

    def free(self, slot: int) -> None:
        with self._busy:
            del self._caches[slot]
            self._hidden.pop(slot, None)

    def close(self) -> None:
        """Wait for a step that runs, and forget all slots; the executor cannot be used any more, the decoder can."""
        with self._busy.closing():
            self._caches.clear()
            self._hidden.clear()

    @torch.inference_mode()
    def step(self, inputs: Sequence[StepInput]) -> TorchLogits:
        """One forward over all new tokens.

        Tokens that are to be computed ``one_by_one`` attend one by one; all else treats rows alike where
        ``rows_invariant``. Raises: RequestError as ``check_step`` does, ContextLengthError where a slot is full; both
        before any slot has changed.
        """
        with self._busy:
            hidden, ctx = self._forward(inputs)
            return TorchLogits(self._revealed(self.decoder.logits(hidden, ctx), inputs, ctx))

    @torch.inference_mode()
    def hidden(self, inputs: Sequence[StepInput]) -> np.ndarray:
        with self._busy:
            hidden, ctx = self._forward(inputs)
            return self._revealed(hidden, inputs, ctx).float().cpu().numpy()

    def _forward(self, inputs: Sequence[StepInput]) -> tuple[Tensor, Context]:
        """The hidden states of the wanted places, (N, D), and the pass that they are of."""
        check_step(inputs, self.config.vocab_size)
        for entry in inputs:
            self._caches[entry.slot].reserve(len(entry.token_ids))
        ids: list[int] = []
        positions: list[int] = []
        lengths: list[int] = []
        wanted: list[int] = []
        for entry in inputs:
            length, count = self._caches[entry.slot].length, len(entry.token_ids)
            wanted += [len(ids) + i for i in entry.wanted]
            ids += entry.token_ids
            positions += range(length, length + count)
            lengths += range(length + 1, length + count + 1) if entry.one_by_one else [length + count] * count
        invariant = self.rows_invariant
        padding = padded_rows(len(ids)) - len(ids) if invariant else 0  # here, once, rather than in every linear map
        device = self.decoder.device
        ctx = Context(
            positions=torch.tensor([positions + [0] * padding], device=device),
            lengths=torch.tensor([lengths + [1] * padding], device=device),
            rows_invariant=invariant,
            sums=[] if self._may_hide(inputs) else None,
        )
        ctx.parts = self._parts(inputs, ctx)
        try:
            hidden = self.decoder.hidden(torch.tensor([ids + [0] * padding], device=device), ctx)[0]  # (rows, D)
        except (RequestError, ContextLengthError):  # found before the first layer
            raise
        except BaseException:
            for entry in inputs:
                self._caches[entry.slot].undo()
            raise
        for entry in inputs:
            self._caches[entry.slot].advance(len(entry.token_ids))
        return hidden[wanted], ctx

    def _parts(self, inputs: Sequence[StepInput], ctx: Context) -> list[Part]:
        """Each slot's tokens with its cache; token by token where they are to be computed ``one_by_one``."""
        parts, start = [], 0
        for entry in inputs:
            stop = start + len(entry.token_ids)
            alone = Context(ctx.positions[:, start:stop], self._caches[entry.slot], rows_invariant=ctx.rows_invariant)
            if entry.one_by_one:
                parts += [Part(place, place + 1, replace(alone, lent={})) for place in range(start, stop)]
            else:
                parts.append(Part(start, stop, alone))
            start = stop
        return parts

    def _may_hide(self, inputs: Sequence[StepInput]) -> bool:
        """Whether a fused kernel may hide a NaN in this step: one of the weights' shows as a slot begins; one that
        overflow makes, at any time, but in float16 alone.
        """
        return self.decoder.dtype == torch.float16 or any(not self._caches[entry.slot].length for entry in inputs)

    def _revealed(self, logits: Tensor, inputs: Sequence[StepInput], ctx: Context) -> Tensor:
        """Logits or hidden states, NaN where a slot's queries or keys were not finite: a kernel may have hidden it."""
        hidden = torch.stack(ctx.sums).sum(0) * 0 if ctx.sums else None  # (T,), 0 or NaN: the device is not waited for
        start = row = 0
        for entry in inputs:
            stop, end = start + len(entry.token_ids), row + len(entry.wanted)
            earlier = self._hidden.pop(entry.slot, None)
            sums = [
                value for value in (earlier, None if hidden is None else hidden[start:stop].sum()) if value is not None
            ]
            if sums and entry.wanted:
                logits[row:end] += sum(sums)
            elif sums:
                self._hidden[entry.slot] = sum(sums, torch.zeros_like(sums[0]))
            start, row = stop, end
        return logits

    def why_not_finite(self, token_ids: Sequence[int]) -> NotFiniteError:
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
