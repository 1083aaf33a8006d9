"""``BatchedExecutor``: prompts as in ``TorchExecutor``, a token of each slot by one call for all of them.

Slots lie in pools, by how many tokens they have room for; a step decodes for all slots of a pool at once, over its
first rows. On a GPU that call is one CUDA graph for each number of rows and of keys, both rounded up to a power of two:
the host then says one thing a step in place of a thousand.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from pellucid.base.errors import ContextLengthError
from pellucid.executor import StepInput, check_step
from pellucid.model.batched.attend import by_row
from pellucid.model.batched.graphs import Graphs
from pellucid.model.batched.pool import BatchCache, Pool, RowCache, row_bytes
from pellucid.model.cache import Cache
from pellucid.model.context import Context
from pellucid.model.decoder import Decoder
from pellucid.model.executor import TorchExecutor, TorchLogits

LEAST = 256  # tokens for which the rows of the smallest pool have room, and keys that the smallest call looks at


def power_of_two(least: int) -> int:
    return 1 << max(least - 1, 0).bit_length()


def executor_for(decoder: Decoder) -> TorchExecutor:
    """On a GPU the batched one; on a CPU the one whose rows are the same in any company."""
    return BatchedExecutor(decoder) if decoder.device.type == "cuda" else TorchExecutor(decoder)


def capturable(decoder: Decoder) -> bool:
    """Whether the host need not look at anything in mid-step: it does to route tokens to experts, and where a rotation
    follows from a text's length.
    """
    config = decoder.config
    return all(layer.experts is None for layer in config.layers) and not config.rotates_by_length


class BatchedExecutor(TorchExecutor):
    """Runs a decoder for an engine; see ``pellucid.executor.Executor``.

    ``graphs``: decode by CUDA graphs; None: on a GPU, where a step can be recorded (``capturable``). Numbers of a
    request may differ in their last bits with the requests beside it.
    """

    def __init__(self, decoder: Decoder, graphs: bool | None = None) -> None:
        super().__init__(decoder)
        self._pools: dict[int, Pool] = {}
        if graphs is None:
            graphs = decoder.device.type == "cuda" and capturable(decoder)
        self._graphs = Graphs(decoder) if graphs else None

    @property
    def rows_invariant(self) -> bool:
        return False

    def bytes_of(self, capacity: int) -> int:
        """A row of a pool, and one that nobody has: a pool grows to twice as many."""
        return 2 * row_bytes(self.config, max(power_of_two(capacity), LEAST), self.decoder.dtype)

    @property
    def free_bytes(self) -> int:
        """While a pool grows, the old one is there beside it."""
        return super().free_bytes * 2 // 3

    def allocate(self, capacity: int) -> int:
        with self._busy:
            return self._keep(self._take(capacity))

    def fork(self, slot: int, capacity: int, length: int | None = None) -> int:
        with self._busy:
            cache, copy = self._caches[slot], self._take(capacity)
            try:
                copy.copy_from(cache, length)
            except BaseException:
                self._give_back(copy)
                raise
            return self._keep(copy)

    def adopt(self, slot: int, cache: Cache) -> None:
        """Raises: whoever brings a cache of their own has it in an executor without pools."""
        raise NotImplementedError("a slot of a pool holds no other cache")

    def free(self, slot: int) -> None:
        with self._busy:
            cache = self._caches.pop(slot)
            assert isinstance(cache, RowCache)
            self._hidden.pop(slot, None)
            self._give_back(cache)

    def close(self) -> None:
        super().close()
        self._pools.clear()
        self._graphs = None

    def _take(self, capacity: int) -> RowCache:
        size = max(power_of_two(capacity), LEAST)
        pool = self._pools.get(size)
        if pool is None:
            pool = self._pools[size] = Pool(self.config, size, self.decoder.dtype, self.decoder.device)
        try:
            return pool.take(capacity)
        except BaseException:
            if not any(pool.owners):
                del self._pools[size]
            raise

    def _give_back(self, cache: RowCache) -> None:
        """Free a row; the last one takes its pool along."""
        pool = cache.pool
        pool.give_back(cache)
        if not any(pool.owners):
            del self._pools[pool.capacity]
            if self._graphs is not None:
                self._graphs.forget(pool)

    @torch.inference_mode()
    def step(self, inputs: Sequence[StepInput]) -> TorchLogits:
        with self._busy:
            check_step(inputs, self.config.vocab_size)
            for entry in inputs:
                self._caches[entry.slot].reserve(len(entry.token_ids))
            decoding = [entry for entry in inputs if len(entry.token_ids) == 1 and self._caches[entry.slot].length]
            slots = {entry.slot for entry in decoding}
            others = [entry for entry in inputs if entry.slot not in slots]
            rows = self._decode(decoding)
            if others:
                try:
                    hidden, ctx = self._forward(others)
                except BaseException:
                    for entry in decoding:
                        cache = self._caches[entry.slot]
                        cache.truncate(cache.length - 1 if cache.reaches(cache.length - 1) else 0)
                    raise
                logits, row = self._revealed(self.decoder.logits(hidden, ctx), others, ctx), 0
                for entry in others:
                    rows[entry.slot] = logits[row : row + len(entry.wanted)]
                    row += len(entry.wanted)
            wanted = [rows[entry.slot] for entry in inputs if entry.wanted]
            empty = torch.empty(0, self.config.vocab_size, device=self.decoder.device)
            return TorchLogits(torch.cat(wanted) if wanted else empty)

    def _decode(self, inputs: Sequence[StepInput]) -> dict[int, Tensor]:
        """Each slot's logits, (1, V), after its one token."""
        by_pool: dict[int, list[StepInput]] = {}
        for entry in inputs:
            cache = self._caches[entry.slot]
            assert isinstance(cache, RowCache)
            if self.config.position != "none" and cache.length >= self.config.context_len:
                raise ContextLengthError(
                    "the model has no row for this position",
                    expected=f"at most {self.config.context_len} tokens",
                    received=cache.length + 1,
                )
            by_pool.setdefault(cache.pool.capacity, []).append(entry)
        rows: dict[int, Tensor] = {}
        done: list[RowCache] = []
        try:
            for size, entries in by_pool.items():
                caches = [cache for entry in entries if isinstance(cache := self._caches[entry.slot], RowCache)]
                self._side_by_side(self._pools[size], caches)
                done += caches
                logits = self._one_call(self._pools[size], caches, [entry.token_ids[0] for entry in entries])
                for entry, cache in zip(entries, caches, strict=True):
                    hidden = self._hidden.pop(entry.slot, None)  # a NaN that an earlier step found, or 0
                    row = logits[cache.row : cache.row + 1]
                    rows[entry.slot] = row if hidden is None else row + hidden
        except BaseException:
            for cache in done:
                cache.decoded(whole=False)
                cache.undo()
            raise
        for cache in done:
            cache.decoded(whole=True)
        return rows

    def _side_by_side(self, pool: Pool, caches: Sequence[RowCache]) -> None:
        """Where rows lie so far apart that a call would be larger than it must be, they change places with others."""
        if max(cache.row for cache in caches) < power_of_two(len(caches)):
            return
        free = (row for row in range(pool.num_rows) if pool.owners[row] not in caches)
        for cache in sorted(caches, key=lambda cache: cache.row, reverse=True):
            if cache.row >= len(caches):
                pool.move(cache.row, next(free))

    def _one_call(self, pool: Pool, caches: Sequence[RowCache], token_ids: Sequence[int]) -> Tensor:
        """The logits of the pool's first rows, (B, V)."""
        num_rows = power_of_two(1 + max(cache.row for cache in caches))
        num_keys = min(max(power_of_two(1 + max(cache.length for cache in caches)), LEAST), pool.capacity)
        rows = [[0, 0, pool.capacity] for _ in range(num_rows)]  # token, position, place: of rows that take no part
        for cache, token in zip(caches, token_ids, strict=True):
            rows[cache.row] = [token, cache.length, cache.length]
        inputs = torch.tensor(rows).T.contiguous()  # (3, B)
        if self._graphs is not None:
            return self._graphs.run(pool, num_rows, num_keys, inputs, self._call)
        return self._call(pool, num_keys, inputs.to(self.decoder.device))

    def _call(self, pool: Pool, num_keys: int, inputs: Tensor) -> Tensor:
        """What runs on the device and nowhere else: inputs (3, B) → logits (B, V)."""
        token_ids, positions, places = (row[:, None] for row in inputs)  # (B, 1)
        ctx = Context(positions, lengths=positions + 1, attend=by_row, checked=True, tables=pool.tables)
        ctx.cache = BatchCache(pool, inputs.shape[1], num_keys, places[:, 0])  # pyright: ignore[reportAttributeAccessIssue]
        return self.decoder.logits(self.decoder.hidden(token_ids, ctx)[:, 0], ctx)
