"""``Graphs``: a call of the decoder, recorded once on a GPU for each of its sizes and played again after that."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pellucid.base.notice import notice
from pellucid.model.batched.pool import Pool
from pellucid.model.decoder import Decoder

Call = Callable[[Pool, int, Tensor], Tensor]


@dataclass
class _Recorded:
    graph: Any  # torch.cuda.CUDAGraph
    inputs: Tensor
    logits: Tensor


class Graphs:
    """Recorded calls. What they recorded is where weights and states lie: where one of these has moved, or a part of
    the decoder is watched, calls run as they are written.
    """

    def __init__(self, decoder: Decoder) -> None:
        self._decoder = weakref.ref(decoder)
        self._recorded: dict[tuple[int, int, int], _Recorded] = {}
        self._versions: dict[int, int] = {}  # of each pool, by its capacity
        self._weights: tuple[int, ...] = ()
        self._memory: Any = None  # all graphs' own, one after the other
        self._refused = False

    def forget(self, pool: Pool) -> None:
        """The pool is gone."""
        self._recorded = {key: one for key, one in self._recorded.items() if key[0] != pool.capacity}
        self._versions.pop(pool.capacity, None)

    def run(self, pool: Pool, num_rows: int, num_keys: int, inputs: Tensor, call: Call) -> Tensor:
        """The call's logits, which the next one overwrites. ``inputs`` (3, B) are on the host."""
        decoder = self._decoder()
        assert decoder is not None
        if self._refused or watched(decoder):
            return call(pool, num_keys, inputs.to(decoder.device))
        if (weights := where_weights_are(decoder)) != self._weights:
            self._recorded.clear()
            self._weights = weights
        if self._versions.get(pool.capacity) != pool.version:
            self.forget(pool)
            self._versions[pool.capacity] = pool.version
        key = (pool.capacity, num_rows, num_keys)
        recorded = self._recorded.get(key)
        if recorded is None:
            on_device = inputs.to(decoder.device)
            logits = call(pool, num_keys, on_device)  # this step's; what it allocates for good is there when recording
            try:
                self._recorded[key] = self._record(pool, num_keys, torch.zeros_like(on_device), call)
            except RuntimeError as error:  # a part waits for the device, as routing to experts does
                self._refused = True
                torch.cuda.synchronize(decoder.device)
                notice(f"decoding without CUDA graphs: {str(error).splitlines()[0]}")
            return logits
        recorded.inputs.copy_(inputs.pin_memory(), non_blocking=True)
        recorded.graph.replay()
        return recorded.logits

    def _record(self, pool: Pool, num_keys: int, inputs: Tensor, call: Call) -> _Recorded:
        inputs[2] = pool.capacity  # while it is recorded nothing runs; and if it did, no row would take part
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._memory):
            logits = call(pool, num_keys, inputs)
        self._memory = self._memory or graph.pool()
        return _Recorded(graph, inputs, logits)


def where_weights_are(decoder: Decoder) -> tuple[int, ...]:
    """Other numbers where a weight was replaced, and not where one was changed in its place."""
    return tuple(tensor.data_ptr() for tensor in (*decoder.parameters(), *decoder.buffers()))


def watched(decoder: Decoder) -> bool:
    """Whether somebody hung a hook on a part: a recorded call would not call it."""
    return any(
        module._forward_hooks or module._forward_pre_hooks or module._backward_hooks for module in decoder.modules()
    )
