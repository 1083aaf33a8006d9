"""An executor without a model: its logits are a hash of all that a slot was ever given, and how it was cut.

So every mistake of an engine (a wrong slot, order, position, a stale cache, a chunk cut for a neighbour's sake) changes
the tokens. A chunk that is cut short by ``truncate`` still is what it was computed in. Where splits do not matter, only
the tokens count.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from pellucid.base.errors import NotFiniteError
from pellucid.config import AttentionConfig, LayerConfig, MLPConfig, ModelConfig, NormConfig, PartNorms
from pellucid.executor import StepInput

VOCAB = 29
EOS = 0


def model_config(context_len: int = 64, bos_token_id: int | None = None) -> ModelConfig:
    attention = AttentionConfig(num_heads=1, num_kv_heads=1, head_dim=2)
    layer = LayerConfig(
        mixer=attention,
        mlp=MLPConfig(d_ff=2),
        mixer_norms=PartNorms(before=NormConfig()),
        mlp_norms=PartNorms(before=NormConfig()),
    )
    return ModelConfig(
        model_type="hash",
        vocab_size=VOCAB,
        d_model=2,
        context_len=context_len,
        layers=(layer,),
        final_norm=None,
        bos_token_id=bos_token_id,
        eos_token_ids=(EOS,),
    )


@dataclass(frozen=True)
class Chunk:
    """Tokens that are left of those that were computed together."""

    token_ids: tuple[int, ...]
    size: int


class HashLogits:
    def __init__(self, rows: np.ndarray) -> None:
        self.rows = rows

    def numpy(self) -> np.ndarray:
        return self.rows

    def argmax(self) -> np.ndarray:
        return self.rows.argmax(-1)

    def peaks(self) -> np.ndarray:
        return self.rows.max(-1)


class HashExecutor:
    """``before_step`` may raise in the executor's stead, or look at what it is given."""

    rollback: int | None = None

    def __init__(
        self, context_len: int = 64, bos_token_id: int | None = None, max_slots: int = 1000, splits_matter: bool = True
    ) -> None:
        self.config, self.splits_matter = model_config(context_len, bos_token_id), splits_matter
        self.generation_config: dict[str, object] = {}
        self.slots: dict[int, list[Chunk]] = {}  # in order
        self.capacity: dict[int, int] = {}
        self.max_slots, self.steps, self.computed = max_slots, 0, 0
        self.before_step: Callable[[Sequence[StepInput]], None] = lambda inputs: None

    def why_not_finite(self, token_ids: Sequence[int]) -> NotFiniteError:
        return NotFiniteError("hashes are finite")

    free_bytes = 2**20  # a byte a token

    def bytes_of(self, capacity: int) -> int:
        return capacity

    def allocate(self, capacity: int) -> int:
        if len(self.slots) >= self.max_slots:
            raise MemoryError("no memory for another slot")
        slot = 1000 + self.steps * 10 + len(self.slots)
        while slot in self.slots:
            slot += 1
        self.slots[slot], self.capacity[slot] = [], capacity
        return slot

    def hidden(self, inputs: Sequence[StepInput]) -> np.ndarray:
        """Two numbers of the logits."""
        return self.step(inputs).rows[:, :2]

    def step(self, inputs: Sequence[StepInput]) -> HashLogits:
        self.before_step(inputs)
        assert inputs
        assert len({given.slot for given in inputs}) == len(inputs), "a slot twice in a step"
        self.steps += 1
        rows = []
        for given in inputs:
            chunks = self.slots[given.slot]
            assert given.token_ids
            self.computed += len(given.token_ids)
            assert self.length(given.slot) + len(given.token_ids) <= self.capacity[given.slot], (
                "more than was allocated"
            )
            ids = tuple(int(token) for token in given.token_ids)
            added = [Chunk((token,), 1) for token in ids] if given.one_by_one else [Chunk(ids, len(ids))]
            chunks += added
            for place in given.wanted:
                rows.append(self._logits(self._cut(chunks, self.length(given.slot) - len(ids) + place + 1)))
        return HashLogits(np.array(rows).reshape(-1, VOCAB))

    def _logits(self, chunks: list[Chunk]) -> np.ndarray:
        seen = chunks if self.splits_matter else [token for chunk in chunks for token in chunk.token_ids]
        return np.random.default_rng(zlib.crc32(repr(seen).encode())).standard_normal(VOCAB).astype(np.float32)

    def _cut(self, chunks: list[Chunk], length: int) -> list[Chunk]:
        left = []
        for chunk in chunks:
            if length > 0:
                left.append(Chunk(chunk.token_ids[:length], chunk.size))
            length -= len(chunk.token_ids)
        assert length <= 0, "cannot truncate to more than there is"
        return left

    def length(self, slot: int) -> int:
        return sum(len(chunk.token_ids) for chunk in self.slots[slot])

    def fork(self, slot: int, capacity: int, length: int | None = None) -> int:
        copy = self.allocate(capacity)
        self.slots[copy] = self._cut(self.slots[slot], self.length(slot) if length is None else length)
        assert self.length(copy) <= capacity
        return copy

    def reaches(self, slot: int, length: int) -> bool:
        return length <= self.length(slot)

    def truncate(self, slot: int, length: int) -> None:
        self.slots[slot] = self._cut(self.slots[slot], length)

    def free(self, slot: int) -> None:
        del self.slots[slot], self.capacity[slot]


class LetterTokenizer:
    """Token i is the i-th letter; ids beyond the alphabet have no text. What the engine asks of a tokenizer, and no
    more.
    """

    eos_token_id, stop_token_ids, chat_template = None, (), None

    def text_stream(self, skip_special_tokens: bool) -> LetterStream:
        return LetterStream()

    def wants_clean_up(self) -> bool:
        return False

    def skipped_text(self, token_id: int) -> str | None:
        return None


class LetterStream:
    def push(self, token_id: int) -> str:
        return letters((token_id,))

    def flush(self) -> str:
        return ""


def letters(token_ids: Sequence[int]) -> str:
    return "".join(chr(96 + token) for token in token_ids if 1 <= token <= 26)
