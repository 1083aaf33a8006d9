"""The protocol that runs a description: a ragged step over slots, each slot one sequence with its own cache."""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from pellucid.base.errors import NotFiniteError, RequestError
from pellucid.config import ModelConfig


@dataclass(frozen=True)
class StepInput:
    """The next tokens of one slot. They continue at the slot's length; several are a prefill, one is a decode."""

    slot: int
    token_ids: Sequence[int]
    wanted: Sequence[int]  # indices into token_ids whose logits are asked for; often () or (len(token_ids) - 1,)
    one_by_one: bool = False  # each token's numbers shall be those of a step of its own: it checks a guess


def check_step(inputs: Sequence[StepInput], vocab_size: int) -> None:
    """What every executor asks of a step, before anything changes.

    Raises: RequestError for an empty step, a slot that is in it twice, a token id that is out of range, and wanted
    places that are none of the step's, or not in ascending order.
    """
    if not inputs or any(not len(entry.token_ids) for entry in inputs):
        raise RequestError("a step needs at least one token for each of its slots")
    if len({entry.slot for entry in inputs}) < len(inputs):
        raise RequestError(
            "a slot is in a step twice", received=[entry.slot for entry in inputs], remedy="put its tokens together"
        )
    for entry in inputs:
        low, high = min(entry.token_ids), max(entry.token_ids)
        if not 0 <= low <= high < vocab_size:
            raise RequestError(
                "a token id is out of range", expected=f"0 to {vocab_size - 1}", received=f"{low} to {high}"
            )
        last = -1
        for place in entry.wanted:
            if not last < place < len(entry.token_ids):
                raise RequestError(
                    "logits are wanted of a place that the step does not have, or out of order",
                    expected=f"ascending, 0 to {len(entry.token_ids) - 1}",
                    received=list(entry.wanted),
                )
            last = place


class OneAtATime:
    """Held while an executor works: it has one owner, and two threads in it would give wrong numbers in silence.

    Raises: RequestError where another thread holds it, and after ``closing``.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self.closed = False

    def __enter__(self) -> None:
        if not self._lock.acquire(blocking=False):
            raise RequestError(
                "another thread is using this executor", remedy="let one thread step it, as Engine does, or make two"
            )
        if self.closed:
            self._lock.release()
            raise RequestError("this executor is closed", remedy="open another")

    def __exit__(self, *_: object) -> None:
        self._lock.release()

    @contextmanager
    def closing(self) -> Iterator[None]:
        """Waits for whoever works; from then on nobody does."""
        with self._lock:
            self.closed = True
            yield


class Logits(Protocol):
    """Rows of logits, one a wanted position, in the order of the step's inputs; still on the device."""

    def numpy(self) -> np.ndarray:
        """All of them, float32, shape (N, V)."""
        ...

    def argmax(self) -> np.ndarray:
        """The index of each row's largest logit, the lowest index on a tie; shape (N,)."""
        ...

    def peaks(self) -> np.ndarray:
        """Each row's largest logit, NaN where the row holds one; shape (N,)."""
        ...


class Executor(Protocol):
    """Runs one model. Not thread-safe: one owner (an engine) steps it."""

    @property
    def config(self) -> ModelConfig: ...

    @property
    def generation_config(self) -> Mapping[str, Any]:
        """The checkpoint's generation_config.json, or nothing: what it asks for when it answers."""
        ...

    @property
    def splits_matter(self) -> bool:
        """Whether a token's numbers depend on how the tokens are cut into steps, and on nothing else that changes from
        run to run.

        An engine then reuses only what was cut as it would cut it itself.
        """
        ...

    @property
    def rollback(self) -> int | None:
        """Tokens that every slot can take back at any time, as for wrong guesses; None: as many as there are.

        0 where a layer's state is a sum over all tokens.
        """
        ...

    def reaches(self, slot: int, length: int) -> bool:
        """Whether the slot can be cut back to its first ``length`` tokens, or be copied so; to none and all it always
        can.
        """
        ...

    def bytes_of(self, capacity: int) -> int:
        """What a slot with room for ``capacity`` tokens takes when it is full."""
        ...

    @property
    def free_bytes(self) -> int:
        """What slots might take together, as far as the device can tell now."""
        ...

    @property
    def slots(self) -> Collection[int]:
        """The numbers of all slots that have not been freed."""
        ...

    def allocate(self, capacity: int) -> int:
        """A new slot with room for ``capacity`` tokens, allocated once. Returns its number."""
        ...

    def step(self, inputs: Sequence[StepInput]) -> Logits:
        """Run the new tokens of several slots, each once, in one call. A slot's numbers never depend on the others.

        What interrupts it leaves each of its slots as it was before, or empty.
        """
        ...

    def hidden(self, inputs: Sequence[StepInput]) -> np.ndarray:
        """A step whose wanted places are told as hidden states after the last norm, not as logits: (N, D) float32."""
        ...

    def length(self, slot: int) -> int:
        """Tokens that the slot holds."""
        ...

    def fork(self, slot: int, capacity: int, length: int | None = None) -> int:
        """A new slot that begins with the same tokens, or the first ``length`` of them. Raises UnsupportedError as
        ``truncate`` does.
        """
        ...

    def truncate(self, slot: int, length: int) -> None:
        """Forget all but the first ``length`` tokens. Raises UnsupportedError where a layer's state cannot go back."""
        ...

    def free(self, slot: int) -> None:
        """Give the slot's memory back."""
        ...

    def why_not_finite(self, token_ids: Sequence[int]) -> NotFiniteError:
        """What to say where a step over these tokens gave logits that are NaN or infinite: layer and tensor, where they
        can be had.
        """
        ...
