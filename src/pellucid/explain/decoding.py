"""Decoding one token at a time for the page, with what each step takes and what the cache holds."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pellucid.base.errors import ContextLengthError, RequestError
from pellucid.model.cache import Cache, WindowCache
from pellucid.model.context import Context
from pellucid.model.decoder import Decoder

GROWTH = 256  # tokens of room beyond the prompt


class Prefill(NamedTuple):
    tokens: int
    milliseconds: float


@dataclass(frozen=True)
class Decoded:
    """A token, the probability it was chosen with, and the logits after it."""

    token: int
    probability: float
    logits: Tensor  # (V,)
    milliseconds: float


class Decoding:
    """A prompt and the tokens made after it, with their KV cache."""

    def __init__(self, decoder: Decoder, prompt: Sequence[int]) -> None:
        self.decoder, self.prompt = decoder, list(prompt)
        self._made: list[int] = []
        self._cache: Cache | None = None
        self._logits = torch.empty(0)

    def catch_up(self, made: Sequence[int]) -> Prefill | None:
        """Makes sure that exactly ``made`` has been read after the prompt; a prefill where it has not."""
        if self._cache is not None and self._made == list(made):
            return None
        ids = self.prompt + list(made)
        room = min(len(ids) + GROWTH, self.decoder.config.context_len) if self.decoder.config.position != "none" else len(ids) + GROWTH
        self._cache = Cache(self.decoder.config, 1, max(room, len(ids)), self.decoder.dtype, self.decoder.device)
        took = self._read(ids)
        self._made = list(made)
        return Prefill(len(ids), took)

    def step(self, temperature: float = 0.0, token: int | None = None) -> Decoded:
        """The next token: ``token`` itself, the likeliest (temperature 0), or a draw. Raises: ContextLengthError where there is no more room."""
        assert self._cache is not None
        if self._cache.length >= self._cache.capacity:
            raise ContextLengthError("the sentence has no more room here", expected=f"at most {self._cache.capacity} tokens")
        if not 0.0 <= temperature <= 10.0:
            raise RequestError("temperature is out of range", expected="0 to 10", received=temperature)
        p = self._logits.float().div(temperature or 1.0).softmax(-1)
        if token is None:
            token = int(p.argmax()) if temperature == 0 else int(torch.multinomial(p, 1))
        if not 0 <= token < len(p):
            raise RequestError("there is no such token", expected=f"0 to {len(p) - 1}", received=token)
        chosen = float(p[token])
        took = self._read([token])
        self._made.append(token)
        return Decoded(token, chosen, self._logits, took)

    def held(self) -> dict[str, Any]:
        """What the cache keeps: tokens, bytes, and for each layer the first position that it still has."""
        cache = self._cache
        assert cache is not None
        size = torch.empty((), dtype=cache.dtype).element_size()
        layers, total = [], 0
        for config, layer in zip(cache.config.layers, cache.layers, strict=True):
            first = max(0, cache.length - layer.kept) if isinstance(layer, WindowCache) else 0
            layers.append({"first": first})
            total += 2 * config.attention.kv_dim * size * (cache.length - first)
        each = sum(2 * layer.attention.kv_dim for layer in cache.config.layers) * size
        return {"length": cache.length, "bytes": total, "bytes_per_token": each, "layers": layers}

    @torch.no_grad()
    def _read(self, ids: Sequence[int]) -> float:
        """Reads tokens; returns the milliseconds it took."""
        assert self._cache is not None
        start, device = self._cache.length, self.decoder.device
        clock = time.perf_counter()
        positions = torch.arange(start, start + len(ids), device=device)[None]
        ctx = Context(positions, cache=self._cache)
        self._logits = self.decoder.logits(self.decoder.hidden(torch.tensor([list(ids)], device=device), ctx)[0, -1], ctx)
        return (time.perf_counter() - clock) * 1000
