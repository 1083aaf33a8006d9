"""Where each weight lies in the parameters file, and in which format: the plan that packing writes and the generated
program reads.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping
from dataclasses import astuple, dataclass, fields, is_dataclass, replace
from typing import Any

from pellucid.config import LatentAttentionConfig, ModelConfig, NormConfig, weight_shapes
from pellucid.native.formats import FORMATS, VECTOR

VERSION = 3  # raise when tiles of a format change
HEADER_BYTES = 4096  # the key of the program that the file belongs to, then nothing
ALIGNMENT = 64  # bytes: a vector of AVX-512
ROW_MULTIPLE = 64  # rows of activations are padded to this many floats


@dataclass(frozen=True)
class Stored:
    """One weight in the file. A matrix has ``rows`` × ``columns`` as padded; a vector or table has rows of padded
    floats.

    The tiles of gate and up, which are read together, lie in turn, so that the processor reads one straight stream:
    then ``stride`` is two tiles.
    """

    name: str
    format: str
    rows: int
    columns: int
    offset: int
    size: int  # bytes from its first tile's begin to its last one's end
    stride: int = 0  # bytes from one tile to the next


@dataclass(frozen=True)
class Layout:
    entries: Mapping[str, Stored]
    size: int  # of the whole file, bytes

    @property
    def key(self) -> bytes:
        """32 bytes that stand for this layout: with them the file begins, and the program expects them."""
        return hashlib.sha256(
            repr((VERSION, self.size, [astuple(entry) for entry in self.entries.values()])).encode()
        ).digest()


def padded(count: int, multiple: int = ROW_MULTIPLE) -> int:
    return -(-count // multiple) * multiple


def is_matrix(name: str, shape: tuple[int, ...]) -> bool:
    """Matrices are tiled; biases, norms and position tables are rows of float32."""
    return len(shape) == 2 and name not in ("pos_embed.weight", "rotary.frequencies") and not is_turned_table(name)


def is_turned_table(name: str) -> bool:
    """Whether a weight is no matrix but a few numbers of each channel, which lie side by side: (numbers, channels)."""
    return name.endswith(("conv.weight", ".A_log"))


def is_router(name: str) -> bool:
    """Whether a matrix decides where rows go, and is never rounded."""
    return name.endswith((".router.weight", ".shared_gate.weight"))


def shapes_of(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """The model's weights, and what is derived from the description alone: γ of norms that have none (1), rotary
    frequencies, the sinusoidal table. Maps of a latent to heads lie head by head, each in whole tiles, and the one that
    keys are made by turned: queries are multiplied by it.
    """
    shapes = dict(weight_shapes(_with_gammas(config)))
    for i, layer in enumerate(config.layers):
        if isinstance(mixer := layer.mixer, LatentAttentionConfig):
            own, rank = mixer.num_heads * padded(mixer.kv_lora_rank, 16), mixer.kv_lora_rank
            shapes[f"layers.{i}.attention.k_b_proj.weight"] = (own, mixer.qk_nope_head_dim)
            shapes[f"layers.{i}.attention.v_b_proj.weight"] = (mixer.num_heads * padded(mixer.v_head_dim, 16), rank)
    shapes |= {name: shape[::-1] for name, shape in shapes.items() if is_turned_table(name)}
    if config.position == "sinusoidal":
        shapes["pos_embed.weight"] = (config.context_len, config.d_model)
    if ropes := config.ropes:
        scaling = ropes[0].scaling
        pairs = max(rope.dim for rope in ropes) // 2
        shapes["rotary.frequencies"] = (2 if scaling and scaling.kind == "longrope" else len(ropes), pairs)
    return shapes


def _with_gammas(part: Any) -> Any:
    """The description with a weight for every norm."""
    if isinstance(part, tuple):
        return tuple(_with_gammas(one) for one in part)
    if not is_dataclass(part) or isinstance(part, type):
        return part
    changed = {each.name: _with_gammas(getattr(part, each.name)) for each in fields(part)}
    return replace(part, **changed | ({"weight": True} if isinstance(part, NormConfig) else {}))


def plan(config: ModelConfig, formats: Mapping[str, str]) -> Layout:
    """Lay the weights out in the order of computation; ``formats`` names each matrix's format."""
    entries, offset, shapes = {}, HEADER_BYTES, shapes_of(config)
    for name in in_order(shapes):
        shape = shapes[name]
        if is_matrix(name, shape):
            form = FORMATS[formats[name]]
            rows, columns = padded(shape[0], 16), padded(shape[1], form.columns)
            stored = Stored(
                name,
                formats[name],
                rows,
                columns,
                offset,
                rows // 16 * form.tile_bytes(columns),
                form.tile_bytes(columns),
            )
            gate = entries.get(gate_of(name))
            if gate and (gate.format, gate.rows, gate.columns) == (stored.format, rows, columns):
                entries[gate.name], stored = _in_turn(gate, stored)
        else:
            rows, columns = (1, *shape)[-2], padded(shape[-1])
            stored = Stored(name, VECTOR, rows, columns, offset, rows * columns * 4)
        entries[name] = stored
        offset = padded(stored.offset + stored.size, ALIGNMENT)
    return Layout(entries, offset)


def in_order(names: Collection[str]) -> list[str]:
    """Names in the order of the file: an up projection's matrix follows its gate's, with which its tiles may lie in
    turn; biases come after both.
    """
    ups = {gate_of(name): name for name in names}
    order: list[str] = []
    for name in names:
        if gate_of(name) not in names:
            order += [name, ups[name]] if name in ups else [name]
    return order


def gate_of(name: str) -> str:
    """The gate's matrix that an up projection's is read with; of anything else a name that no weight has."""
    stem, up, rest = name.partition(".up_proj.")
    return f"{stem}.gate_proj.weight" if up and rest == "weight" else ""


def _in_turn(first: Stored, second: Stored) -> tuple[Stored, Stored]:
    """Two matrices of one shape, tile by tile in turn, from where the first one was."""
    tile, size = first.stride, 2 * first.size - first.stride
    return replace(first, size=size, stride=2 * tile), replace(
        second, offset=first.offset + tile, size=size, stride=2 * tile
    )
