"""The native executor, explained: its own numbers step by step, and how far each is from torch's float32 on the same
weights.

Where rounding comes in (activations in 8 bits, keys and values in 16), this shows which steps bring it and what becomes
of it.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pellucid.base.array import Array
from pellucid.base.errors import RequestError
from pellucid.config import ModelConfig
from pellucid.executor import StepInput
from pellucid.explain.code import line_in_c
from pellucid.explain.prompt import Prompt, read_prompt
from pellucid.explain.recompute import ModelWeights, places_of, recompute, values, wide
from pellucid.explain.record import TOLERANCES, Record
from pellucid.explain.run import record
from pellucid.model.decoder import Decoder
from pellucid.model.load import load_decoder
from pellucid.native.executor import NativeExecutor
from pellucid.native.pack import formats_of, packed
from pellucid.native.trace import Tracer
from pellucid.operations.numbers import Numbers

# Of a product's largest value, by the format of its weights: activations are rounded to the precision that goes with
# it.
LINEAR = {"float32": 1e-5, "float16": 1e-5, "bfloat16": 2e-2}
LINEAR_BLOCKS = 5e-2  # 8 bits for each 32 activations
HALF = 3e-2  # keys and values in 16 bits


@dataclass(frozen=True)
class Deviation:
    """How far one step of the native run is from the exact one: ‖native − exact‖ / ‖exact‖ of each position, the mean
    over positions.
    """

    name: str
    own: float  # against float64 from native's own inputs: what this step alone brings
    so_far: float  # against torch's float32 run: with all that came before

    def to_json(self) -> dict[str, Any]:
        return vars(self)


class Native:
    """A model's compiled program, traced and as it answers; and its torch twin in float32, whose weights are the
    program's own.

    ``settings`` are NativeExecutor's (threads, source_id, flags). Raises: UnsupportedError, NativeError.
    """

    def __init__(
        self, config: ModelConfig, weights: Mapping[str, Array], *, quantize: str | None = None, **settings: Any
    ) -> None:
        self.formats = formats_of(config, weights, quantize)
        self._tracer = Tracer(config, weights, quantize=quantize, **settings)
        self._plain = lambda: NativeExecutor(config, weights, quantize=quantize, **settings)
        self.decoder: Decoder = load_decoder(config, packed(config, weights, quantize), "float32", "cpu")

    @cached_property
    def executor(self) -> NativeExecutor:
        """The program without taps: the one that generates."""
        return self._plain()

    def told(self) -> str:
        """How it keeps numbers, in a few words."""
        counted = ", ".join(f"{count} × {name}" for name, count in Counter(self.formats.values()).most_common())
        return f"{counted}; KV cache {self._tracer.executor.kv_cache}"

    def record(self, tokenizer: Any, text: Any) -> NativeTrace:
        """Raises: RequestError for several texts, TooLargeError."""
        prompt = read_prompt(self.decoder, tokenizer, text)
        if len(prompt.token_ids) > 1:
            raise RequestError(
                "the native executor is explained on one text at a time", received=f"{len(prompt.token_ids)} texts"
            )
        exact = record(self.decoder, tokenizer, text)
        return NativeTrace(self, prompt, self._tracer.run(prompt.token_ids[0].tolist()), exact)

    def logits(self, token_ids: Sequence[int], first: int = 0) -> tuple[Tensor, float]:
        """(T − first, V) logits of the program without taps, and the milliseconds they took."""
        slot = self.executor.allocate(len(token_ids))
        try:
            start = time.perf_counter()
            logits = self.executor.step([StepInput(slot, token_ids, range(first, len(token_ids)))]).numpy()
            return torch.from_numpy(logits), (time.perf_counter() - start) * 1000
        finally:
            self.executor.free(slot)


class NativeTrace(Record):
    """A run of the native executor: a ``Record`` whose numbers are the program's.

    ``model`` and ``exact`` are torch's, in float32, on the same weights. Embeddings are looked up and attention's
    scores and pattern are computed here from the program's own queries and keys (``recomputed``): it never has them in
    memory as a whole.
    """

    executor = "native"

    def __init__(self, native: Native, prompt: Prompt, taps: Mapping[str, Any], exact: Record) -> None:
        self.native, self.exact = native, exact
        held = {path: torch.from_numpy(value.copy())[None] for path, value in taps.items()}
        super().__init__(native.decoder, prompt, held, range(prompt.token_ids.shape[1]), ())
        self._values = self._whole(held)
        self.recomputed = frozenset(path for path in self._values if path not in held)

    def _whole(self, held: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Every tap of the model, in order; those that the program never holds by their operation."""
        places, weights = places_of(self, np.arange(self.token_ids.shape[1])), ModelWeights(self.model)
        whole: dict[str, Tensor] = {}
        for path, tap in self.taps.items():
            if path not in held:
                inputs = [wide(whole[source]) for source in tap.inputs]
                whole[path] = torch.from_numpy(tap.operation.reference(inputs, weights, places)).float()
            else:
                whole[path] = held[path]
        return whole

    @property
    def model_summary(self) -> dict[str, Any]:
        return {**super().model_summary, "dtype": self.native.told(), "executor": self.executor}

    def line(self, path: str) -> str:
        return line_in_c(self.tap(path), self.native.decoder.config)

    def precision(self) -> dict[str, Any]:
        return {
            "steps": [deviation.to_json() for deviation in self.deviations.values()],
            "recomputed": sorted(self.recomputed),
            "kl": self.kl.tolist(),
            "same": self.same_choice,
        }

    def tolerance(self, path: str) -> float:
        tap, formats = self.tap(path), self.native.formats
        if path in self.recomputed:
            return TOLERANCES[torch.float32]
        if tap.weights and tap.weights[0].name in formats:  # a product with a matrix
            return LINEAR.get(formats[tap.weights[0].name], LINEAR_BLOCKS)
        exact = "float32" in formats.values()  # then keys and values are kept in 32 bits, too
        cached = any("position" not in self.tap(source).axes for source in tap.inputs) and "position" in tap.axes
        return HALF if cached and not exact else TOLERANCES[torch.float32]

    def fast_logits(self) -> Tensor:
        """(1, T, V) logits of the program without taps: the same, bit for bit."""
        return self.native.logits(self.tokens[0])[0][None]

    @cached_property
    def deviations(self) -> dict[str, Deviation]:
        """Path → how far that step is off, in order of computation."""
        columns = np.arange(self.token_ids.shape[1])
        return {path: self._deviation(path, columns) for path in self}

    @torch.no_grad()
    def _deviation(self, path: str, columns: np.ndarray) -> Deviation:
        axes = self.tap(path).axes
        own = _distance(values(self, path, columns), recompute(self, path, columns), axes)
        return Deviation(path, own, _distance(wide(self[path]), wide(self.exact[path]), axes))

    @property
    def kl(self) -> Tensor:
        """(T,) nats, KL(torch ‖ native) of the next token."""
        p, q = (run["logits"][0].double().log_softmax(-1) for run in (self.exact, self))
        return (p.exp() * (p - q)).sum(-1).clamp(min=0)

    @property
    def same_choice(self) -> int:
        """At how many positions both find the same token the likeliest."""
        return int((self.exact["logits"][0].argmax(-1) == self["logits"][0].argmax(-1)).sum())


def _distance(native: Numbers, exact: Numbers, axes: Sequence[str]) -> float:
    """The mean over positions of ‖native − exact‖ / ‖exact‖; masked scores are left out."""
    axis, seen = axes.index("position" if "position" in axes else "key"), np.isfinite(exact)
    native, exact = np.where(seen, native, 0.0), np.where(seen, exact, 0.0)
    across = tuple(other for other in range(exact.ndim) if other != axis)
    gap, size = (np.sqrt(np.square(x).sum(across)) for x in (native - exact, exact))
    return float((gap / np.maximum(size, 1e-30)).mean())
