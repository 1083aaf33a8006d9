"""``Pool``: what the mixers keep of all slots of an executor, a row a slot, in one array a layer and kind.

A slot's ``RowCache`` is a view of its row, so a prompt is computed as in a cache of its own; ``BatchCache`` is a view
of the first rows of all, so one call decodes for every slot. Rows of a pool have room for equally many tokens.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from pellucid.config import AttentionConfig, LatentAttentionConfig, ModelConfig
from pellucid.config.recurrent import Recurrent
from pellucid.model.cache import Cache
from pellucid.model.keys_values import FullCache
from pellucid.model.position import table
from pellucid.model.recurrent_state import RecurrentState
from pellucid.model.state import State, Stateless

SPARE = 8  # places behind a row's last: rows that do not take part in a step write there


def keeps_keys(mixer: object) -> bool:
    return isinstance(mixer, AttentionConfig | LatentAttentionConfig) and getattr(mixer, "kv_from", None) is None


def row_bytes(config: ModelConfig, capacity: int, dtype: torch.dtype) -> int:
    """What a row takes; a window's keeps all positions."""
    total = 0
    for mixer in config.mixers:
        if keeps_keys(mixer):
            heads, key, value = mixer.kept
            total += heads * (key + value) * (capacity + SPARE) * dtype.itemsize
        elif isinstance(mixer, Recurrent):
            total += mixer.state_bytes(capacity, dtype.itemsize)
    return total


class Pool:
    """Arrays of so many rows for every mixer: keys and values (rows, K, capacity + SPARE, E), states (rows, …)."""

    def __init__(self, config: ModelConfig, capacity: int, dtype: torch.dtype, device: torch.device) -> None:
        self.config, self.capacity, self.dtype, self.device = config, capacity, dtype, device
        self.num_rows = 0
        self.owners: list[RowCache | None] = []  # of each row
        self.arrays: list[dict[str, Tensor]] = [{} for _ in config.mixers]
        self.version = 0  # another one: arrays lie elsewhere
        self.tables = {
            rope: table(rope, capacity, dtype, device)
            for rope in config.ropes
            if rope.scaling is None or not rope.scaling.by_length
        }

    def take(self, capacity: int) -> RowCache:
        """A free row's cache, the lowest; where there is none, there will be twice as many rows."""
        if None not in self.owners:
            self._grow(max(2 * self.num_rows, 1))
        row = self.owners.index(None)
        cache = RowCache(self, row, capacity)
        self.owners[row] = cache
        return cache

    def give_back(self, cache: RowCache) -> None:
        self.owners[cache.row] = None

    def move(self, row: int, to: int) -> None:
        """Exchange two rows, of which the second may be free."""
        mine, other = self.owners[row], self.owners[to]
        for arrays in self.arrays:
            for array in arrays.values():
                if other is None:
                    array[to] = array[row]
                else:
                    array[[row, to]] = array[[to, row]]
        self.owners[row], self.owners[to] = other, mine
        for cache, place in ((mine, to), (other, row)):
            if cache is not None:
                cache.row = place
                cache.bind()

    def _grow(self, rows: int) -> None:
        """Room for so many rows. Nothing has changed where there is no memory for them."""
        grown = [
            {
                name: torch.zeros((rows, *shape), dtype=dtype, device=self.device)
                for name, shape, dtype in self._of(mixer)
            }
            for mixer in self.config.mixers
        ]
        for new, old in zip(grown, self.arrays, strict=True):
            for name, array in old.items():
                new[name][: self.num_rows] = array
        self.arrays, self.version = grown, self.version + 1
        self.owners += [None] * (rows - self.num_rows)
        self.num_rows = rows
        for cache in self.owners:
            if cache is not None:
                cache.bind()

    def _of(self, mixer: object) -> Iterator[tuple[str, tuple[int, ...], torch.dtype]]:
        """What a mixer keeps of a slot: name, shape, dtype."""
        if keeps_keys(mixer):
            assert isinstance(mixer, AttentionConfig | LatentAttentionConfig)
            heads, *widths = mixer.kept
            for name, width in zip("kv", widths, strict=True):
                yield name, (heads, self.capacity + SPARE, width), self.dtype
        elif isinstance(mixer, Recurrent):
            wide = torch.promote_types(self.dtype, torch.float32)
            for name, shape in mixer.state_shapes.items():
                yield name, tuple(shape), wide if name in mixer.wide_state else self.dtype


class RowCache(Cache):
    """One slot's states, that are a row of the pool's arrays."""

    def __init__(self, pool: Pool, row: int, capacity: int) -> None:
        self.config, self.batch, self.capacity, self.dtype = pool.config, 1, capacity, pool.dtype
        self.device, self.length, self.pool, self.row = pool.device, 0, pool, row
        self.layers: list[State] = [
            RowKeys(getattr(mixer, "window", None))
            if keeps_keys(mixer)
            else RowState(mixer, pool.dtype, pool.device)
            if isinstance(mixer, Recurrent)
            else Stateless()
            for mixer in pool.config.mixers
        ]
        self.bind()

    def bind(self) -> None:
        """Look at the row where it is now."""
        for state, arrays in zip(self.layers, self.pool.arrays, strict=True):
            if isinstance(state, RowKeys | RowState):
                state.bind({name: array[self.row : self.row + 1] for name, array in arrays.items()})

    def decoded(self, whole: bool) -> None:
        """A call for all rows has added a token to this one; not ``whole``: it may have, to some layers."""
        for state in self.layers:
            if isinstance(state, RowKeys):
                state.length += whole
            elif isinstance(state, RowState):
                state.decoded(whole)
        self.length += whole


class RowKeys(FullCache):
    """Keys and values of one row. A window's layer keeps all of them, too, and shows those that the window sees."""

    def __init__(self, window: int | None) -> None:
        self.window, self.length = window, 0

    def bind(self, arrays: dict[str, Tensor]) -> None:
        self.k, self.v = arrays["k"], arrays["v"]

    def append(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, int]:
        oldest = 0 if self.window is None else max(self.length - self.window + 1, 0)
        k, v, _ = super().append(k, v)
        return k[:, :, oldest:], v[:, :, oldest:], oldest


class RowState(RecurrentState):
    """A recurrent state in one row. ``clear`` makes it zero again where somebody has written."""

    def __init__(self, config: Recurrent, dtype: torch.dtype, device: torch.device) -> None:
        self._row: dict[str, Tensor] = {}
        self._whole = True
        super().__init__(config, 1, 0, dtype, device)

    def bind(self, arrays: dict[str, Tensor]) -> None:
        self._row = arrays
        if not self.length:
            self.clear()

    def __getitem__(self, name: str) -> Tensor:
        return self._row[name]

    def step(self, added: int, **arrays: Tensor) -> None:
        before = {name: self._row[name].clone() for name in arrays}
        self._before = (self.length, before)
        self._whole = False
        for name, array in arrays.items():
            self._row[name].copy_(array)
        self._whole = True
        self.length += added

    def decoded(self, whole: bool) -> None:
        self.length += whole
        self._before, self._whole = (self.length, {}), whole

    def reaches(self, length: int) -> bool:
        return self._whole and super().reaches(length)

    def truncate(self, length: int) -> None:
        if length != self.length:
            self.length, before = self._before
            for name, array in before.items():
                self._row[name].copy_(array)
            self._before = (self.length, {})

    def clear(self) -> None:
        self.length, self._before, self._whole = 0, (0, {}), True
        for array in self._row.values():
            array.zero_()

    def copy_from(self, other: RecurrentState, length: int) -> None:
        assert isinstance(other, RowState)
        for name, array in self._row.items():
            earlier = other._before[1] if length != other.length else {}
            array.copy_(earlier.get(name, other._row[name]))
        self.length = length
        self._before = (length, {})


class BatchCache:
    """The states of a pool's first rows, for one token of each: what a pass has for a cache."""

    length = 0

    def __init__(self, pool: Pool, num_rows: int, num_keys: int, places: Tensor) -> None:
        """``places`` (B,): where each row's token goes; at the pool's capacity it goes nowhere."""
        active = places < pool.capacity
        self.layers: list[State] = [
            BatchKeys({name: array[:num_rows] for name, array in arrays.items()}, num_keys, places)
            if keeps_keys(mixer)
            else BatchState({name: array[:num_rows] for name, array in arrays.items()}, active)
            if isinstance(mixer, Recurrent)
            else Stateless()
            for mixer, arrays in zip(pool.config.mixers, pool.arrays, strict=True)
        ]

    def reserve(self, added: int) -> None:
        """Whoever calls has looked."""

    def advance(self, added: int) -> None:
        """Each row's length is its own cache's."""


class BatchKeys(FullCache):
    """Keys and values of many rows, each of its own length; what is behind it is for the mask to hide."""

    def __init__(self, arrays: dict[str, Tensor], num_keys: int, places: Tensor) -> None:
        self.k, self.v, self.length, self.places = arrays["k"], arrays["v"], num_keys, places
        self.rows = torch.arange(len(self.k), device=self.k.device)

    def append(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, int]:
        self.k[self.rows, :, self.places] = k[:, :, 0]
        self.v[self.rows, :, self.places] = v[:, :, 0]
        return self.k[:, :, : self.length], self.v[:, :, : self.length], 0


class BatchState(RecurrentState):
    """Recurrent states of many rows; those that do not take part stay as they are."""

    def __init__(self, arrays: dict[str, Tensor], active: Tensor) -> None:
        self._rows, self.active = arrays, active

    def __getitem__(self, name: str) -> Tensor:
        return self._rows[name]

    def step(self, added: int, **arrays: Tensor) -> None:
        for name, array in arrays.items():
            mine = self._rows[name]
            mine.copy_(torch.where(self.active.view(-1, *(1,) * (mine.ndim - 1)), array.to(mine.dtype), mine))
