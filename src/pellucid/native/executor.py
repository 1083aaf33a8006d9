"""Executor 2 behind the executor protocol: slots and steps over the compiled program."""

from __future__ import annotations

import ctypes
import hashlib
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pellucid.base.array import Array
from pellucid.base.errors import (
    ConfigError,
    ContextLengthError,
    NotFiniteError,
    PellucidError,
    RequestError,
    UnsupportedError,
)
from pellucid.base.files import atomic_write, read_json, write_json
from pellucid.base.version import __version__
from pellucid.config import ModelConfig
from pellucid.executor import StepInput
from pellucid.native import build, pack
from pellucid.native.cache import NativeError, folder
from pellucid.native.claims import NATIVE
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
    handle: int  # Slot *
    capacity: int
    length: int = 0
    least: int = 0  # tokens that it can be cut back to, but for none: what windows that end earlier held is gone

    def reaches(self, length: int) -> bool:
        return length == 0 or self.least <= length <= self.length

    def check(self, length: int) -> None:
        """Raises: UnsupportedError where it cannot be cut back to ``length`` tokens."""
        if not self.reaches(length):
            raise UnsupportedError(
                "a sliding-window cache has dropped what this truncation needs",
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
        self._windows = {window for layer in config.layers if (window := layer.mixer.window)}
        self.threads = threads or physical_cores()
        self._slots: dict[int, _Slot] = {}
        self._next_slot = 0
        self._model = ctypes.c_void_p()
        formats, parameters = _parameters(config, weights, quantize, source_id)
        layout = plan(config, formats)
        self.kv_cache = kv_cache or kept_as(formats)
        self._library = _load(build.library(source(config, layout, kv_cache=self.kv_cache), flags=flags))
        with parameters as path:
            code = self._library.pellucid_open(os.fsencode(path), self.threads, ctypes.byref(self._model))
        if code:
            raise MemoryError("no memory for the model") if code == 3 else NativeError(_ERRORS[code], where=path)

    def allocate(self, capacity: int) -> int:
        """Raises: MemoryError where the cache has no room."""
        handle = self._library.pellucid_slot(capacity) if capacity < 2**31 - 16 else None
        if not handle:
            raise MemoryError(f"no memory for a KV cache of {capacity} tokens")
        slot, self._next_slot = self._next_slot, self._next_slot + 1
        self._slots[slot] = _Slot(handle, capacity)
        return slot

    @property
    def splits_matter(self) -> bool:
        """A row is computed alike, alone or among others; only some rotary scalings go by how long the request is after
        the step.
        """
        return any(
            layer.mixer.rope and layer.mixer.rope.scaling and layer.mixer.rope.scaling.by_length
            for layer in self.config.layers
        )

    @property
    def rollback(self) -> int | None:
        """A window's ring holds so many positions more than the window and a step (see ``program.ring_of``)."""
        return TAKE_BACK if self._windows else None

    def reaches(self, slot: int, length: int) -> bool:
        return self._slots[slot].reaches(length)

    def fork(self, slot: int, capacity: int, length: int | None = None) -> int:
        its = self._slots[slot]
        length = its.length if length is None else length
        if not 0 <= length <= min(its.length, capacity):
            raise ContextLengthError(
                "the KV cache is full", expected=f"at most {min(its.length, capacity)} tokens", received=length
            )
        its.check(length)
        number = self.allocate(capacity)
        copy = self._slots[number]
        self._library.pellucid_copy_slot(copy.handle, its.handle, length)
        copy.length = length
        copy.least = max(its.least, self._least(length)) if length else 0
        return number

    def length(self, slot: int) -> int:
        return self._slots[slot].length

    def truncate(self, slot: int, length: int) -> None:
        its = self._slots[slot]
        if not 0 <= length <= its.length:
            raise ContextLengthError(
                "cannot truncate a cache to more than it holds", expected=f"0 to {its.length}", received=length
            )
        its.check(length)
        its.length = length
        its.least = its.least if length else 0

    def _least(self, written: int) -> int:
        """Tokens that a slot can be cut back to, when so many have been written to it: the windows that end there are
        still in the rings.
        """
        gone = {window: ((written - 1) // CHUNK + 1 - ring_of(window)) * CHUNK for window in self._windows}  # positions
        return max((first + window - 1 for window, first in gone.items() if first > 0), default=0)

    def free(self, slot: int) -> None:
        self._library.pellucid_free_slot(self._slots.pop(slot).handle)

    def step(self, inputs: Sequence[StepInput]) -> NativeLogits:
        """Run the new tokens, ``MAX_ROWS`` at a time; between these Ctrl-C takes effect, and each slot is as it was
        then (or empty: see ``_wrote``).

        Raises: RequestError for an empty step or an id out of range, ContextLengthError where a slot is full; nothing
        has changed then.
        """
        ids, positions, lengths, handles, wanted = self._rows(inputs)
        logits = np.empty((len(wanted), self.config.vocab_size), np.float32)
        done = stop = 0
        try:
            for start in range(0, len(ids), MAX_ROWS):
                stop = min(start + MAX_ROWS, len(ids))
                here = wanted[done : done + int(np.searchsorted(wanted[done:], stop))] - start
                rows = (ids[start:stop], positions[start:stop], lengths[start:stop], handles[start:stop])
                self._run(*rows, here.astype(np.int32), logits[done : done + len(here)])
                done += len(here)
        except BaseException:
            self._wrote(inputs, stop, whole=False)
            raise
        self._wrote(inputs, stop, whole=True)
        return NativeLogits(logits)

    def _wrote(self, inputs: Sequence[StepInput], rows: int, *, whole: bool) -> None:
        """So many rows of a step have been computed: the whole, or it was cut off, and a slot whose window has moved on
        is empty now.
        """
        for given in inputs:
            its, count = self._slots[given.slot], len(given.token_ids)
            its.least = max(its.least, self._least(its.length + min(count, max(rows, 0))))
            rows -= count
            if whole:
                its.length += count
            elif its.length < its.least:
                its.length = its.least = 0

    def _rows(self, inputs: Sequence[StepInput]) -> tuple[np.ndarray, ...]:
        """The step as rows: token ids, positions, lengths of their requests, slots; and the rows whose logits are
        wanted.
        """
        if not inputs or any(not len(given.token_ids) for given in inputs):
            raise RequestError("a step needs at least one token for each of its slots")
        ids: list[int] = []
        positions: list[int] = []
        lengths: list[int] = []
        handles: list[int] = []
        wanted: list[int] = []
        for given in inputs:
            slot, count = self._slots[given.slot], len(given.token_ids)
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
            wanted += [len(ids) + i for i in given.wanted]
            ids += given.token_ids
            positions += range(slot.length, slot.length + count)
            lengths += (
                range(slot.length + 1, slot.length + count + 1) if given.one_by_one else [slot.length + count] * count
            )
            handles += [slot.handle] * count
        if not 0 <= min(ids) <= max(ids) < self.config.vocab_size:
            raise RequestError(
                "a token id is out of range",
                expected=f"0 to {self.config.vocab_size - 1}",
                received=f"{min(ids)} to {max(ids)}",
            )
        numbers = (np.array(values, np.int32) for values in (ids, positions, lengths))
        return *numbers, np.array(handles, np.uintp), np.array(wanted, np.int64)

    def _run(
        self,
        ids: np.ndarray,
        positions: np.ndarray,
        lengths: np.ndarray,
        handles: np.ndarray,
        wanted: np.ndarray,
        logits: np.ndarray,
    ) -> None:
        rows = (array.ctypes.data for array in (ids, positions, lengths, handles))
        code = self._library.pellucid_step(
            self._model, len(ids), *rows, len(wanted), wanted.ctypes.data, logits.ctypes.data
        )
        assert code == 0, f"a step that was checked failed with code {code}"

    def why_not_finite(self, token_ids: Sequence[int]) -> NotFiniteError:
        return NotFiniteError(
            "the model's logits are not finite", where="native", remedy="--executor torch names the layer and tensor"
        )

    def trace_to(self, path: bytes | None) -> int:
        """Where a program that was compiled with -DTRACE writes its taps from now on; 0 where it can."""
        return self._library.pellucid_trace(path)

    def close(self) -> None:
        """Give everything back; the executor cannot be used any more."""
        for slot in list(self._slots):
            self.free(slot)
        if self._model:
            self._library.pellucid_close(self._model)
            self._model = ctypes.c_void_p()

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
        ("slot", pointer, (number,)),
        ("free_slot", None, (pointer,)),
        ("slot_bytes", ctypes.c_size_t, (pointer,)),
        ("copy_slot", None, (pointer, pointer, number)),
        ("step", number, (pointer, number, pointer, pointer, pointer, pointer, number, pointer, pointer)),
    ):
        function = getattr(library, f"pellucid_{name}")
        function.restype, function.argtypes = result, arguments
    return library


class _Kept:
    """A parameters file that stays."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> Path:
        return self.path

    def __exit__(self, *_: object) -> None: ...


class _Fleeting(_Kept):
    """A parameters file that nobody will ask for again: once it is mapped its name goes, and with the process its
    bytes.
    """

    def __exit__(self, *_: object) -> None:
        self.path.unlink(missing_ok=True)


def _parameters(
    config: ModelConfig, weights: Mapping[str, Array], quantize: str | None, source_id: str | None
) -> tuple[dict[str, str], _Kept]:
    """Each matrix's format, and the packed file: from the cache, or made now."""
    if source_id is None:
        formats = pack.formats_of(config, weights, quantize)
        handle, name = tempfile.mkstemp(prefix=".parameters.", dir=folder("parameters"))
        with os.fdopen(handle, "wb") as file:
            pack.write_parameters(file, config, plan(config, formats), weights)
        return formats, _Fleeting(Path(name))
    key = hashlib.sha256(f"{__version__}\0{source_id}\0{quantize}".encode()).hexdigest()[:32]
    path, index = folder("parameters") / key, folder("parameters") / f"{key}.json"
    formats = _packed_before(config, path, index)
    if formats is None:
        formats = pack.formats_of(config, weights, quantize)
        with atomic_write(path) as file:
            pack.write_parameters(file, config, plan(config, formats), weights)
        write_json(index, formats)
        path.chmod(0o600)
        index.chmod(0o600)
    return formats, _Kept(path)


def _packed_before(config: ModelConfig, path: Path, index: Path) -> dict[str, str] | None:
    """The formats of a packed file that is there, whole, and laid out as this version does; else None."""
    try:
        formats = read_json(index)
        layout = plan(config, formats)
        with open(path, "rb") as file:
            whole = file.read(len(layout.key)) == layout.key and path.stat().st_size == layout.size
    except (OSError, KeyError, PellucidError):
        return None
    return formats if whole else None
