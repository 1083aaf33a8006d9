"""Executor 2 behind the executor protocol: slots and steps over the compiled program."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pellucid.base.array import Array
from pellucid.base.errors import (
    ConfigError,
    ContextLengthError,
    NotFiniteError,
    UnsupportedError,
)
from pellucid.base.memory import available_memory
from pellucid.config import ModelConfig
from pellucid.executor import OneAtATime, StepInput, check_step
from pellucid.native import build, finite, store, taps
from pellucid.native.cache import NativeError
from pellucid.native.claims import NATIVE
from pellucid.native.kinds import states_of
from pellucid.native.layout import plan
from pellucid.native.program import CHUNK, KV_CACHES, MAX_ROWS, TAKE_BACK, kept_as, ring_of, source

_ERRORS = {1: "the parameters file cannot be opened", 2: "the parameters file is not the one this program was made for"}


@dataclass
class NativeLogits:
    """Rows of logits, (N, V) float32."""

    values: np.ndarray

    def numpy(self) -> np.ndarray:
        return self.values

    def argmax(self) -> np.ndarray:
        return self.values.argmax(-1)

    def peaks(self) -> np.ndarray:
        return self.values.max(-1)


@dataclass
class _Slot:
    handle: ctypes.c_void_p  # Slot *; NULL once it has been dropped
    capacity: int
    length: int = 0
    least: int = 0  # tokens that it can be cut back to, but for none: what windows that end earlier held is gone

    def reaches(self, length: int) -> bool:
        return length == 0 or self.least <= length <= self.length

    def check(self, length: int) -> None:
        """Raises: UnsupportedError where it cannot be cut back to ``length`` tokens."""
        if not self.reaches(length):
            raise UnsupportedError(
                "a sliding-window cache has dropped what this truncation needs, or a state is of all tokens",
                expected=f"at least {self.least} tokens",
            )


class NativeExecutor:
    """Runs a model for an engine; see ``pellucid.executor.Executor``.

    ``weights`` are our names; matrices run in their own format, or with ``quantize`` ("q8", "q4") in fewer bits.
    ``source_id`` names the checkpoint's state (path, size, time): the packed parameters are then kept in the user's
    cache, and a later start maps and runs. ``kv_cache``: how keys and values are kept. "f16" is 16 bits (bf16 where the
    processor multiplies that), "int8" half of it, "f32" twice; where nobody says, f16, or f32 for a model that has
    float32 matrices. Raises: UnsupportedError for a mechanism it lacks, NativeError where the program cannot be made.
    """

    def __init__(
        self,
        config: ModelConfig,
        weights: Mapping[str, Array],
        *,
        threads: int | None = None,
        quantize: str | None = None,
        source_id: str | None = None,
        kv_cache: str | None = None,
        flags: tuple[str, ...] = (),
        generation_config: Mapping[str, Any] | None = None,
    ) -> None:
        NATIVE.require(config, remedy="run with the torch executor")
        if kv_cache is not None and kv_cache not in KV_CACHES:
            raise ConfigError(f"keys and values cannot be kept as {kv_cache!r}", expected=", ".join(KV_CACHES))
        self.config, self.generation_config = config, generation_config or {}
        self._windows = {
            window
            for layer in config.layers
            for name in ("window", "chunk")
            if (window := getattr(layer.mixer, name, None))
        }
        self._recurrent = any(states_of(layer.mixer) for layer in config.layers)
        self.threads = threads or physical_cores()
        self._slots: dict[int, _Slot] = {}
        self._next_slot = 0
        self._model = ctypes.c_void_p()
        self._busy = OneAtATime()
        self._weights = weights
        self._settings: dict[str, Any] = {
            "threads": self.threads,
            "quantize": quantize,
            "kv_cache": kv_cache,
            "flags": flags,
            "source_id": source_id,
        }
        formats, parameters = store.parameters(config, weights, quantize, source_id)
        layout = plan(config, formats)
        self._parameters_size = layout.size
        self.kv_cache = kv_cache or kept_as(formats)
        self._library = _load(build.library(source(config, layout, kv_cache=self.kv_cache), flags=flags))
        with parameters as path:
            code = self._library.pellucid_open(os.fsencode(path), self.threads, ctypes.byref(self._model))
        if code in _ERRORS:  # swept by another process since it was looked at
            with store.parameters(config, weights, quantize, source_id)[1] as path:
                code = self._library.pellucid_open(os.fsencode(path), self.threads, ctypes.byref(self._model))
        if code:
            raise MemoryError("no memory for the model") if code == 3 else NativeError(_ERRORS[code], where=path)

    @property
    def slots(self) -> Collection[int]:
        return self._slots.keys()

    @property
    def twin(self) -> tuple[Mapping[str, Array], dict[str, Any]]:
        """The weights and settings of another executor with the same numbers, traced perhaps."""
        return self._weights, dict(self._settings)

    def allocate(self, capacity: int) -> int:
        """Raises: MemoryError where the cache has no room."""
        with self._busy:
            return self._allocate(capacity)

    def _allocate(self, capacity: int) -> int:
        number, self._next_slot = self._next_slot, self._next_slot + 1
        slot = self._slots[number] = _Slot(ctypes.c_void_p(), capacity)  # noted before there is memory to lose
        try:
            if capacity < 2**31 - 16:
                self._library.pellucid_make_slot(capacity, ctypes.byref(slot.handle))
            if not slot.handle:
                raise MemoryError(f"no memory for a KV cache of {capacity} tokens")
        except BaseException:
            self._drop(number)
            raise
        return number

    def _drop(self, number: int) -> None:
        """In this order, so that Ctrl-C in between costs nothing: what has been dropped can be dropped again."""
        self._library.pellucid_drop_slot(ctypes.byref(self._slots[number].handle))
        del self._slots[number]

    def bytes_of(self, capacity: int) -> int:
        return self._library.pellucid_bytes(min(capacity, 2**31 - 16))

    @property
    def free_bytes(self) -> int:
        """Beside the parameters, which are mapped: what has been read of them counts as memory that could be had."""
        return available_memory() - self._parameters_size

    @property
    def splits_matter(self) -> bool:
        """A row is computed alike, alone or among others; only some rotary scalings go by how long the request is after
        the step.
        """
        return self.config.rotates_by_length

    @property
    def rollback(self) -> int | None:
        """A window's ring holds so many positions more than the window and a step (see ``program.ring_of``)."""
        if self._recurrent:
            return 0
        return TAKE_BACK if self._windows else None

    def reaches(self, slot: int, length: int) -> bool:
        return self._slots[slot].reaches(length)

    def fork(self, slot: int, capacity: int, length: int | None = None) -> int:
        with self._busy:
            return self._fork(self._slots[slot], capacity, length)

    def _fork(self, origin: _Slot, capacity: int, length: int | None) -> int:
        length = origin.length if length is None else length
        if not 0 <= length <= min(origin.length, capacity):
            raise ContextLengthError(
                "the KV cache is full", expected=f"at most {min(origin.length, capacity)} tokens", received=length
            )
        origin.check(length)
        number = self._allocate(capacity)
        copy = self._slots[number]
        try:
            self._library.pellucid_copy_slot(copy.handle, origin.handle, length)
        except BaseException:  # Ctrl-C, before anybody knows its number
            self._drop(number)
            raise
        copy.length = length
        copy.least = max(origin.least, self._least(length)) if length else 0
        return number

    def length(self, slot: int) -> int:
        return self._slots[slot].length

    def truncate(self, slot: int, length: int) -> None:
        with self._busy:
            cut = self._slots[slot]
            if not 0 <= length <= cut.length:
                raise ContextLengthError(
                    "cannot truncate a cache to more than it holds", expected=f"0 to {cut.length}", received=length
                )
            cut.check(length)
            cut.length = length
            cut.least = cut.least if length else 0

    def _least(self, written: int) -> int:
        """Tokens that a slot can be cut back to, when so many have been written to it: the windows that end there are
        still in the rings.
        """
        if self._recurrent:
            return written  # a state is of all tokens
        gone = {window: ((written - 1) // CHUNK + 1 - ring_of(window)) * CHUNK for window in self._windows}  # positions
        return max((first + window - 1 for window, first in gone.items() if first > 0), default=0)

    def free(self, slot: int) -> None:
        with self._busy:
            self._drop(slot)

    def step(self, inputs: Sequence[StepInput]) -> NativeLogits:
        """Run the new tokens, ``MAX_ROWS`` at a time; between these Ctrl-C takes effect, and each slot is as it was
        then (or empty: see ``_wrote``).

        Raises: RequestError as ``check_step`` does, ContextLengthError where a slot is full; nothing has changed then.
        """
        with self._busy:
            return NativeLogits(self._step(inputs))

    def hidden(self, inputs: Sequence[StepInput]) -> np.ndarray:
        with self._busy:
            return self._step(inputs, hidden=True)

    def _step(self, inputs: Sequence[StepInput], *, hidden: bool = False) -> np.ndarray:
        """The wanted rows' logits, (N, V), or their hidden states, (N, D)."""
        check_step(inputs, self.config.vocab_size)
        ids, positions, lengths, handles, wanted = self._rows(inputs)
        told = np.empty((len(wanted), self.config.d_model if hidden else self.config.vocab_size), np.float32)
        done = stop = 0
        try:
            for start in range(0, len(ids), MAX_ROWS):
                stop = min(start + MAX_ROWS, len(ids))
                here = wanted[done : done + int(np.searchsorted(wanted[done:], stop))] - start
                rows = (ids[start:stop], positions[start:stop], lengths[start:stop], handles[start:stop])
                self._run(*rows, here.astype(np.int32), told[done : done + len(here)], hidden)
                done += len(here)
        except BaseException:
            self._wrote(inputs, stop, whole=False)
            raise
        self._wrote(inputs, stop, whole=True)
        return told

    def _wrote(self, inputs: Sequence[StepInput], rows: int, *, whole: bool) -> None:
        """So many rows of a step have been computed: the whole, or it was cut off, and a slot whose window has moved on
        is empty now.
        """
        for entry in inputs:
            slot, count = self._slots[entry.slot], len(entry.token_ids)
            slot.least = max(slot.least, self._least(slot.length + min(count, max(rows, 0))))
            rows -= count
            if whole:
                slot.length += count
            elif slot.length < slot.least:
                slot.length = slot.least = 0

    def _rows(self, inputs: Sequence[StepInput]) -> tuple[np.ndarray, ...]:
        """The step as rows: token ids, positions, lengths of their requests, slots; and the rows whose logits are
        wanted.
        """
        ids: list[int] = []
        positions: list[int] = []
        lengths: list[int] = []
        handles: list[int] = []
        wanted: list[int] = []
        for entry in inputs:
            slot, count = self._slots[entry.slot], len(entry.token_ids)
            if slot.length + count > slot.capacity:
                raise ContextLengthError(
                    "the KV cache is full", expected=f"at most {slot.capacity} tokens", received=slot.length + count
                )
            if self.config.position != "none" and slot.length + count > self.config.context_len:
                raise ContextLengthError(
                    "the model has no row for this position",
                    expected=f"at most {self.config.context_len} tokens",
                    received=slot.length + count,
                )
            wanted += [len(ids) + i for i in entry.wanted]
            ids += entry.token_ids
            positions += range(slot.length, slot.length + count)
            lengths += (
                range(slot.length + 1, slot.length + count + 1) if entry.one_by_one else [slot.length + count] * count
            )
            handles += [slot.handle.value or 0] * count
        numbers = (np.array(values, np.int32) for values in (ids, positions, lengths))
        return *numbers, np.array(handles, np.uintp), np.array(wanted, np.int64)

    def _run(
        self,
        ids: np.ndarray,
        positions: np.ndarray,
        lengths: np.ndarray,
        handles: np.ndarray,
        wanted: np.ndarray,
        told: np.ndarray,
        hidden: bool,
    ) -> None:
        rows = (array.ctypes.data for array in (ids, positions, lengths, handles))
        logits = None if hidden else told.ctypes.data
        code = self._library.pellucid_step(self._model, len(ids), *rows, len(wanted), wanted.ctypes.data, logits)
        assert code == 0, f"a step that was checked failed with code {code}"
        if hidden:
            self._library.pellucid_final(self._model, told.ctypes.data)

    def why_not_finite(self, token_ids: Sequence[int]) -> NotFiniteError:
        """The first weight that is not finite, else the first tap of a program that is compiled to tell them."""
        if error := finite.in_weights(self.config, self._weights):
            return error
        settings: dict[str, Any] = {**self._settings, "flags": (*self._settings["flags"], "-DTRACE")}
        told = NativeExecutor(self.config, self._weights, **settings)
        try:
            return finite.in_taps(taps.of_step(told, self.config, token_ids)) or NotFiniteError(
                "the model's logits are not finite", where="native", remedy="--executor torch looks at every step"
            )
        finally:
            told.close()

    def trace_to(self, path: bytes | None) -> int:
        """Where a program that was compiled with -DTRACE writes its taps from now on; 0 where it can."""
        return self._library.pellucid_trace(path)

    def close(self) -> None:
        """Wait for a step that runs, and give everything back; the executor cannot be used any more."""
        with self._busy.closing():
            for slot in list(self._slots):
                self._drop(slot)
            if self._model:
                self._library.pellucid_close(self._model)
                self._model.value = None

    def __del__(self) -> None:
        if getattr(self, "_library", None) is not None:
            self.close()


def physical_cores() -> int:
    """Cores this process may use; two hyperthreads of one core count once."""
    allowed = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(os.cpu_count() or 1))
    cores = set()
    for cpu in allowed:
        try:
            cores.add(Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list").read_text())
        except OSError:
            cores.add(str(cpu))
    return max(len(cores), 1)


def _load(path: Path) -> ctypes.CDLL:
    library = ctypes.CDLL(str(path))
    pointer, number = ctypes.c_void_p, ctypes.c_int
    for name, result, arguments in (
        ("open", number, (ctypes.c_char_p, number, pointer)),
        ("close", None, (pointer,)),
        ("make_slot", None, (number, pointer)),
        ("drop_slot", None, (pointer,)),
        ("slot_bytes", ctypes.c_size_t, (pointer,)),
        ("bytes", ctypes.c_size_t, (number,)),
        ("copy_slot", None, (pointer, pointer, number)),
        ("step", number, (pointer, number, pointer, pointer, pointer, pointer, number, pointer, pointer)),
        ("final", None, (pointer, pointer)),
    ):
        function = getattr(library, f"pellucid_{name}")
        function.restype, function.argtypes = result, arguments
    return library
