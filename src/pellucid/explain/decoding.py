"""Decoding one token at a time for the page, by either executor, with what each step takes and what the cache holds."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from pellucid.base.errors import ContextLengthError, RequestError
from pellucid.config import ModelConfig
from pellucid.executor import StepInput
from pellucid.model.cache import Cache, WindowCache
from pellucid.model.context import Context
from pellucid.model.decoder import Decoder
from pellucid.model.recurrent_state import RecurrentState

if TYPE_CHECKING:
    from pellucid.explain.native import Native

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


class Generation:
    """A prompt and the tokens made after it; what runs them is told by a subclass."""

    def __init__(self, config: ModelConfig, prompt: Sequence[int]) -> None:
        self.config, self.prompt = config, list(prompt)
        self._made: list[int] | None = None
        self._room = 0  # tokens that the cache can hold
        self._logits = torch.empty(0)

    def _begin(self) -> None:
        """An empty cache of ``_room`` tokens."""
        raise NotImplementedError

    def _run(self, ids: Sequence[int]) -> Tensor:
        """Reads tokens; (V,) logits after the last."""
        raise NotImplementedError

    def held(self) -> dict[str, Any]:
        """What the cache keeps: tokens, bytes, and for each layer the first position that it still has."""
        raise NotImplementedError

    def catch_up(self, made: Sequence[int]) -> Prefill | None:
        """Makes sure that exactly ``made`` has been read after the prompt; a prefill where it has not."""
        if self._made == list(made):
            return None
        ids = self.prompt + list(made)
        room = min(len(ids) + GROWTH, self.config.context_len) if self.config.position != "none" else len(ids) + GROWTH
        self._room = max(room, len(ids))
        self._begin()
        took = self._read(ids)
        self._made = list(made)
        return Prefill(len(ids), took)

    def step(self, temperature: float = 0.0, token: int | None = None) -> Decoded:
        """The next token: ``token`` itself, the likeliest (temperature 0), or a draw. Raises: ContextLengthError where
        there is no more room.
        """
        assert self._made is not None
        if len(self.prompt) + len(self._made) >= self._room:
            raise ContextLengthError("the sentence has no more room here", expected=f"at most {self._room} tokens")
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

    @torch.no_grad()
    def _read(self, ids: Sequence[int]) -> float:
        """Reads tokens; returns the milliseconds it took."""
        clock = time.perf_counter()
        self._logits = self._run(ids)
        return (time.perf_counter() - clock) * 1000


class Decoding(Generation):
    """By torch, with a KV cache."""

    def __init__(self, decoder: Decoder, prompt: Sequence[int]) -> None:
        super().__init__(decoder.config, prompt)
        self.decoder = decoder
        self._cache: Cache | None = None

    def _begin(self) -> None:
        self._cache = Cache(self.config, 1, self._room, self.decoder.dtype, self.decoder.device)

    def _run(self, ids: Sequence[int]) -> Tensor:
        assert self._cache is not None
        start, device = self._cache.length, self.decoder.device
        ctx = Context(torch.arange(start, start + len(ids), device=device)[None], cache=self._cache)
        return self.decoder.logits(self.decoder.hidden(torch.tensor([list(ids)], device=device), ctx)[0, -1], ctx)

    def held(self) -> dict[str, Any]:
        cache = self._cache
        assert cache is not None
        size = torch.empty((), dtype=cache.dtype).element_size()
        layers, total, each = [], 0, 0
        for config, layer in zip(cache.config.mixers, cache.layers, strict=True):
            if config is None:
                layers.append({"first": cache.length})
                continue
            first = max(0, cache.length - layer.kept) if isinstance(layer, WindowCache) else 0
            if isinstance(layer, RecurrentState):  # it holds no token by itself
                first = cache.length
                total += config.state_bytes(cache.length, size)
            else:
                each += config.state_bytes(1, size)
                total += config.state_bytes(1, size) * (cache.length - first)
            layers.append({"first": first})
        return {"length": cache.length, "bytes": total, "bytes_per_token": each, "layers": layers}


class NativeDecoding(Generation):
    """By the native executor, which keeps the keys and values in a slot."""

    def __init__(self, native: Native, prompt: Sequence[int]) -> None:
        super().__init__(native.decoder.config, prompt)
        self.native = native
        self._slot: int | None = None

    def _begin(self) -> None:
        if self._slot is not None:
            self.native.executor.free(self._slot)
        self._slot = self.native.executor.allocate(self._room)

    def _run(self, ids: Sequence[int]) -> Tensor:
        assert self._slot is not None
        return torch.from_numpy(self.native.executor.step([StepInput(self._slot, ids, (len(ids) - 1,))]).numpy()[0])

    def held(self) -> dict[str, Any]:
        assert self._slot is not None
        length, window = (
            self.native.executor.length(self._slot),
            [layer.mixer.window for layer in self.config.layers],
        )
        layers = [{"first": max(0, length - width) if width else 0} for width in window]
        width = {"f32": 4, "f16": 2, "int8": 1}[self.native.executor.kv_cache]
        each = [layer.mixer.state_bytes(1, width) for layer in self.config.layers]
        total = sum(size * (length - layer["first"]) for size, layer in zip(each, layers, strict=True))
        return {"length": length, "bytes": total, "bytes_per_token": sum(each), "layers": layers}
